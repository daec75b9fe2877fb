//! A TLS server that answers as a test says, and remembers what it was sent.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use pve_operator::pve::{ApiToken, ClientConfig, Fingerprint, FirstUse, Reader, Trust};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

pub(crate) const SECRET: &str = "5ec7e75ec7e7";

pub(crate) fn token() -> ApiToken {
    ApiToken::parse("root@pam!test", SECRET).unwrap()
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Identity {
    der: CertificateDer<'static>,
    key: Vec<u8>,
    pub(crate) pem: String,
}

impl Identity {
    pub(crate) fn self_signed(names: &[&str]) -> Self {
        let key = KeyPair::generate().unwrap();
        let cert = params(names).self_signed(&key).unwrap();
        Self { der: cert.der().clone(), key: key.serialize_der(), pem: cert.pem() }
    }

    /// Takes TLS connections with this certificate.
    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![self.der.clone()],
                PrivateKeyDer::try_from(self.key.clone()).unwrap(),
            )
            .unwrap();
        tokio_rustls::TlsAcceptor::from(Arc::new(config))
    }

    /// Believed for its fingerprint.
    pub(crate) fn trust(&self) -> Trust {
        let fingerprint = self.fingerprint().to_string();
        Trust::parse(Some(&fingerprint), None, false, FirstUse::default()).unwrap()
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_certificate(&self.der)
    }
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new(organisation: &str) -> Self {
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// As PVE makes one for each cluster.
    pub(crate) fn of_pve() -> Self {
        Self::new("PVE Cluster Manager CA")
    }

    pub(crate) fn issue(&self, names: &[&str]) -> Identity {
        self.sign(&params(names))
    }

    pub(crate) fn issue_expired(&self, names: &[&str]) -> Identity {
        let mut params = params(names);
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Identity { der: cert.der().clone(), key: key.serialize_der(), pem: cert.pem() }
    }
}

/// What to do with a request.
pub(crate) enum Reply {
    /// The answer as it goes over the wire.
    Raw(Vec<u8>),
    /// The same, and nothing after it.
    Last(Vec<u8>),
    Close,
    /// Nothing, ever.
    Stall,
}

impl Reply {
    pub(crate) fn json(body: &str) -> Self {
        Self::answer("200 OK", "", body)
    }

    pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::Raw(
            format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into(),
        )
    }
}

/// A server, until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

type Answering = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

impl Server {
    pub(crate) async fn start(
        identity: &Identity,
        answer: impl Fn(&str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_at("127.0.0.1:0", identity, answer).await
    }

    /// `answer` gets the path, without `/api2/json` and with its query.
    pub(crate) async fn start_at(
        address: &str,
        identity: &Identity,
        answer: impl Fn(&str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let acceptor = identity.acceptor();
        let (listener, address) = listen(address).await;
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (seen, answer): (_, Answering) = (requests.clone(), Arc::new(answer));
        let count = connections.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, seen, answer) = (acceptor.clone(), seen.clone(), answer.clone());
                connections.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, &seen, &answer).await;
                    }
                });
            }
        });
        Self { address, requests, connections, _tasks: tasks }
    }

    /// Without TLS.
    pub(crate) async fn start_plain(
        answer: impl Fn(&str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (listener, address) = listen("127.0.0.1:0").await;
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (seen, answer): (_, Answering) = (requests.clone(), Arc::new(answer));
        let count = connections.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let mut first = [0; 1];
                if stream.read(&mut first).await.is_ok() {
                    seen.lock().unwrap().push(String::new());
                    if let Reply::Raw(bytes) = answer("") {
                        stream.write_all(&bytes).await.ok();
                    }
                }
            }
        });
        Self { address, requests, connections, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The requests that were received, each with its body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn reader(&self, trust: Trust) -> Reader {
        Reader::new(self.config(trust)).unwrap()
    }

    pub(crate) fn config(&self, trust: Trust) -> ClientConfig {
        ClientConfig::new(&self.url(), token(), trust).unwrap()
    }
}

async fn listen(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    seen: &Mutex<Vec<String>>,
    answer: &Answering,
) {
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while let Ok(1) = stream.read(&mut byte).await {
        head.push(byte[0]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let mut text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        text.push_str(&String::from_utf8_lossy(&body));
        let path = text.split(' ').nth(1).unwrap().trim_start_matches("/api2/json").to_owned();
        seen.lock().unwrap().push(text);
        match answer(&path) {
            Reply::Raw(bytes) => {
                if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            Reply::Last(bytes) => {
                stream.write_all(&bytes).await.ok();
                stream.shutdown().await.ok();
                return;
            }
            Reply::Close => return,
            Reply::Stall => std::future::pending().await,
        }
    }
}
