//! The part of wget that PVE uses: one request, redirects not followed.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::ext::ReasonPhrase;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use url::Url;

/// Why there was no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    Unresolved,
    /// No connection; what the system said.
    Refused(String),
    Untrusted,
    /// The connection ended before an answer came.
    Broken(String),
}

/// Whom to trust.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// These certificates (PEM).
    Only(Vec<String>),
    /// `verify-certificates=0`.
    Anybody,
}

/// An answer whose body is still to come.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) response: Response<Incoming>,
    /// Drives the connection; ends with this value.
    _connection: JoinSet<()>,
}

impl Fetched {
    /// `404 Not Found`, with the server's own words.
    pub(crate) fn status_text(&self) -> String {
        format!("{} {}", self.response.status().as_u16(), self.reason())
    }

    pub(crate) fn reason(&self) -> String {
        match self.response.extensions().get::<ReasonPhrase>() {
            Some(reason) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
            None => self.response.status().canonical_reason().unwrap_or_default().to_owned(),
        }
    }

    pub(crate) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    pub(crate) fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }

    pub(crate) fn kind(&self) -> &str {
        self.header(header::CONTENT_TYPE).unwrap_or("application/octet-stream")
    }
}

/// `127.0.0.1:8898`, or `host (host)|1.2.3.4|:443` without the address.
pub(crate) fn authority(url: &Url) -> String {
    format!(
        "{}:{}",
        url.host_str().unwrap_or_default(),
        url.port_or_known_default().unwrap_or_default()
    )
}

/// Sends one request; redirects are not followed.
pub(crate) async fn ask(
    method: Method,
    url: &Url,
    from: u64,
    trust: &Trust,
) -> Result<Fetched, NoAnswer> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(80);
    let found = tokio::net::lookup_host((host.clone(), port)).await;
    let found = found.ok().and_then(|mut addresses| addresses.next());
    let address = found.ok_or(NoAnswer::Unresolved)?;
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            return Err(NoAnswer::Refused("Connection refused".to_owned()));
        }
        Err(error) => return Err(NoAnswer::Refused(error.to_string())),
    };
    if url.scheme() == "https" {
        let name = match host.parse::<IpAddr>() {
            Ok(ip) => ServerName::from(ip),
            Err(_) => ServerName::try_from(host).map_err(|_| NoAnswer::Unresolved)?,
        };
        let connector = TlsConnector::from(Arc::new(tls(trust)));
        match connector.connect(name, stream).await {
            Ok(stream) => send(method, url, from, stream).await,
            Err(_) => Err(NoAnswer::Untrusted),
        }
    } else {
        send(method, url, from, stream).await
    }
}

async fn send(
    method: Method,
    url: &Url,
    from: u64,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Fetched, NoAnswer> {
    let broken = |error: hyper::Error| NoAnswer::Broken(error.to_string());
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(broken)?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "Download connection ended early");
        }
    });
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
        .header(header::USER_AGENT, "Wget/1.21.3")
        .header(header::ACCEPT, "*/*")
        .header(header::ACCEPT_ENCODING, "identity");
    if from > 0 {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    let request =
        request.body(Empty::<Bytes>::new()).map_err(|error| NoAnswer::Broken(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    Ok(Fetched { response, _connection: driver })
}

fn tls(trust: &Trust) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS");
    match trust {
        Trust::Anybody => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(provider)))
            .with_no_client_auth(),
        Trust::Only(trusted) => {
            let mut roots = RootCertStore::empty();
            let all = trusted.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()));
            roots.add_parsable_certificates(all.filter_map(Result::ok));
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    }
}

/// Accepts every certificate, as `--no-check-certificate` does.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
