//! The API over TLS: with which certificate, after what, and what is refused.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use schema::testing::TestDatabase;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::command::{PATIENCE, Serving, refusal};

fn a_pair() -> CertifiedKey<rcgen::KeyPair> {
    generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

/// As Kubernetes replaces what is in a secret: all files at once, by turning a link.
fn place(folder: &Path, version: &str, cert: &str, key: &str) {
    let real = folder.join(version);
    std::fs::create_dir(&real).unwrap();
    std::fs::write(real.join("tls.crt"), cert).unwrap();
    std::fs::write(real.join("tls.key"), key).unwrap();
    let next = folder.join("next");
    std::os::unix::fs::symlink(&real, &next).unwrap();
    std::fs::rename(next, folder.join("now")).unwrap();
}

/// Asks as a client that trusts this certificate only.
async fn get(address: &str, trusted: &CertificateDer<'static>, path: &str) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_new_certificate_is_taken_and_a_broken_one_is_not() {
    let database = TestDatabase::sqlite("tls").await;
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (a_pair(), a_pair());
    place(folder.path(), "1", &old.cert.pem(), &old.signing_key.serialize_pem());
    let path = |name: &str| folder.path().join("now").join(name).display().to_string();
    let arguments =
        ["--auth", "off", "--tls-cert", &path("tls.crt"), "--tls-key", &path("tls.key")];
    let mut server = Serving::start_with(&database.url, &arguments).await;
    let address = server.address.clone();
    // Somebody who says nothing does not keep others from their handshakes.
    let _silent = TcpStream::connect(&address).await.unwrap();

    let first = get(&address, old.cert.der(), "/livez").await.unwrap();
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    assert!(first.contains("strict-transport-security: max-age="), "{first}");
    assert!(get(&address, new.cert.der(), "/livez").await.is_err());

    place(folder.path(), "2", &new.cert.pem(), &new.signing_key.serialize_pem());
    server.says("Callers see a new certificate").await;
    assert!(get(&address, new.cert.der(), "/livez").await.is_ok());
    assert!(get(&address, old.cert.der(), "/livez").await.is_err());

    place(folder.path(), "3", &old.cert.pem(), &new.signing_key.serialize_pem());
    server.says("is not the key of the certificate").await;
    let metrics = get(&address, new.cert.der(), "/metrics").await.unwrap();
    assert!(metrics.contains("pve_api_tls_handshake_failures_total 2\n"), "{metrics}");
    let expiry = "pve_api_tls_certificate_expiry_timestamp_seconds ";
    let expiry = metrics.lines().find_map(|line| line.strip_prefix(expiry)).unwrap();
    assert!(expiry.parse::<i64>().unwrap() > 1_700_000_000, "{expiry}");
    server.terminate().await;
    assert_eq!(server.end().await.0, Some(0));
}

#[tokio::test]
async fn who_speaks_no_tls_is_sent_away() {
    let database = TestDatabase::sqlite("plain").await;
    let folder = tempfile::tempdir().unwrap();
    let pair = a_pair();
    place(folder.path(), "1", &pair.cert.pem(), &pair.signing_key.serialize_pem());
    let path = |name: &str| folder.path().join("now").join(name).display().to_string();
    let arguments = ["--tls-cert", &path("tls.crt"), "--tls-key", &path("tls.key")];
    let server = Serving::start_with(&database.url, &arguments).await;

    let mut plain = TcpStream::connect(&server.address).await.unwrap();
    plain.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    // It may be reset instead of closed.
    drop(timeout(PATIENCE, plain.read_to_end(&mut said)).await.expect("it is closed"));

    assert!(!String::from_utf8_lossy(&said).contains("HTTP"), "{said:?}");
}

#[tokio::test]
async fn files_that_can_not_be_used_are_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (pair, other) = (a_pair(), a_pair());
    let cert = write("cert", &pair.cert.pem());
    let key = write("key", &pair.signing_key.serialize_pem());
    let other = write("other", &other.signing_key.serialize_pem());
    let nothing = write("nothing", "nothing");
    let gone = folder.path().join("gone").display().to_string();
    for (arguments, sentence) in [
        (&["--tls-cert", &cert][..], "--tls-cert needs --tls-key".to_owned()),
        (&["--tls-key", &key], "--tls-cert needs --tls-key".to_owned()),
        (
            &["--tls-cert", &gone, "--tls-key", &key],
            format!("--tls-cert {gone}: it can not be read"),
        ),
        (
            &["--tls-cert", &cert, "--tls-key", &gone],
            format!("--tls-key {gone}: it can not be read"),
        ),
        (
            &["--tls-cert", &nothing, "--tls-key", &key],
            format!("--tls-cert {nothing}: it holds no certificate in PEM"),
        ),
        (
            &["--tls-cert", &cert, "--tls-key", &cert],
            format!("--tls-key {cert}: it holds no private key in PEM"),
        ),
        (
            &["--tls-cert", &cert, "--tls-key", &other],
            format!("--tls-key {other} is not the key of the certificate in --tls-cert {cert}"),
        ),
    ] {
        let database = ["serve", "--listen", "127.0.0.1:0", "--database-url", "sqlite://x.db"];
        let (code, said) = refusal(&[&database[..], arguments].concat()).await;

        assert_eq!(code, Some(1), "{said}");
        assert!(said.starts_with(&format!("pve-api: {sentence}")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
