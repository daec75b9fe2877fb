//! The certificate that callers see, and the one that comes after it.
//!
//! Files are compared by what is in them, so it does not matter how they are replaced: written over,
//! renamed, or behind a symbolic link that is turned, as Kubernetes does with a secret. A pair
//! that can not be used is logged, once, and callers go on seeing the old one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::metrics::ConnectionMetrics;
use crate::validity;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Why a certificate and its key can not be used; each says which file is meant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    #[error("--tls-cert needs --tls-key, the file with its private key, and the other way round")]
    OneOfTwo,
    #[error("{flag} {}: it can not be read", path.display())]
    Read { flag: &'static str, path: PathBuf, source: io::Error },
    #[error("{flag} {}: it holds no {what} in PEM", path.display())]
    Pem { flag: &'static str, path: PathBuf, what: &'static str, source: pem::Error },
    #[error(
        "--tls-key {} is not the key of the certificate in --tls-cert {}", key.display(), cert.display()
    )]
    Mismatch { cert: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("--tls-cert {} and --tls-key {} can not be used", cert.display(), key.display())]
    Unfit { cert: PathBuf, key: PathBuf, source: rustls::Error },
}

/// A certificate with its key, as the files last had them. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    cert: PathBuf,
    key: PathBuf,
    current: Arc<Current>,
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What is in the two files.
#[derive(Clone, Eq, PartialEq)]
struct Pair {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    /// None without files.
    pub(crate) fn open(cert: Option<&Path>, key: Option<&Path>) -> Result<Option<Self>, TlsError> {
        let (cert, key) = match (cert, key) {
            (None, None) => return Ok(None),
            (Some(cert), Some(key)) => (cert.to_owned(), key.to_owned()),
            _ => return Err(TlsError::OneOfTwo),
        };
        let certified = certify(&read(&cert, &key)?, &cert, &key)?;
        let current = Arc::new(Current(RwLock::new(Arc::new(certified))));
        Ok(Some(Self { cert, key, current }))
    }

    /// Takes handshakes with whatever certificate is current then.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("ring has what both versions need")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    /// Follows the files, for ever.
    pub(crate) async fn follow(self, metrics: ConnectionMetrics) {
        let mut seen = None;
        let mut trouble = None;
        metrics.certificate_expires(self.expiry());
        loop {
            let outcome = self.look(seen.as_ref()).await;
            match outcome {
                Ok(None) => {}
                Ok(Some((pair, certified))) => {
                    let first = seen.replace(pair).is_none();
                    let changed = self.replace(certified);
                    trouble = None;
                    if changed || !first {
                        let expiry = self.expiry();
                        metrics.certificate_expires(expiry);
                        tracing::info!(expires = expiry, "Callers see a new certificate");
                    }
                }
                Err(error) => {
                    let said = format!("{error:?}");
                    if trouble.as_ref() != Some(&said) {
                        trouble = Some(said);
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "Callers go on seeing the old certificate");
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What is in the files now, if it is not what was seen.
    async fn look(&self, seen: Option<&Pair>) -> Result<Option<(Pair, CertifiedKey)>, TlsError> {
        let (cert, key) = (self.cert.clone(), self.key.clone());
        let read = tokio::task::spawn_blocking(move || read(&cert, &key));
        let pair = match read.await {
            Ok(outcome) => outcome?,
            // The process ends.
            Err(_) => return Ok(None),
        };
        if seen == Some(&pair) {
            return Ok(None);
        }
        let certified = certify(&pair, &self.cert, &self.key)?;
        Ok(Some((pair, certified)))
    }

    /// Whether it is another one.
    fn replace(&self, certified: CertifiedKey) -> bool {
        let mut current = self.current.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = current.cert != certified.cert;
        *current = Arc::new(certified);
        changed
    }

    /// When callers will stop trusting it, in seconds since 1970.
    fn expiry(&self) -> Option<i64> {
        let current = self.current.0.read().unwrap_or_else(PoisonError::into_inner);
        current.cert.first().and_then(|cert| validity::ends(cert))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn read(cert: &Path, key: &Path) -> Result<Pair, TlsError> {
    let read = |flag, path: &Path| {
        let wrong = |source| TlsError::Read { flag, path: path.to_owned(), source };
        std::fs::read(path).map_err(wrong)
    };
    Ok(Pair { cert: read("--tls-cert", cert)?, key: read("--tls-key", key)? })
}

fn certify(pair: &Pair, cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let wrong = |flag, path: &Path, what| {
        let path = path.to_owned();
        move |source| TlsError::Pem { flag, path, what, source }
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pair.cert)
        .collect::<Result<_, _>>()
        .map_err(wrong("--tls-cert", cert, "certificate"))?;
    if chain.is_empty() {
        return Err(wrong("--tls-cert", cert, "certificate")(pem::Error::NoItemsFound));
    }
    let private =
        PrivateKeyDer::from_pem_slice(&pair.key).map_err(wrong("--tls-key", key, "private key"))?;
    CertifiedKey::from_der(chain, private, &provider()).map_err(|source| {
        let (cert, key) = (cert.to_owned(), key.to_owned());
        match source {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { cert, key, source },
            source => TlsError::Unfit { cert, key, source },
        }
    })
}
