//! Whom we believe to be the cluster.
//!
//! Each of these accepts a certificate by itself:
//!
//! 1. `insecure`: everything, and that is all there is to it;
//! 2. a pinned SHA-256 fingerprint, configured, learned or taken at first use: exactly that
//!    certificate, whatever its name or dates;
//! 3. a configured CA: the chain, the dates, and the name or address that was dialled. If the CA is
//!    PVE's own (`PVE Cluster Manager CA`) the name does not matter: it signs the nodes of one
//!    cluster and nothing else, and people reach nodes by names that their certificates lack. If
//!    the certificate that is shown *is* the configured one, it is a pin;
//! 4. a learned CA, which is always PVE's own: chain and dates;
//! 5. the machine's root certificates, only while neither a fingerprint nor a CA is configured:
//!    chain, dates and name.
//!
//! The machine's own roots (rustls-native-certs) and not a list that is compiled in: reqwest brings
//! that crate along anyway, and a company's CA that the machine trusts then works by itself.
//!
//! Learned trust comes through connections that were trusted for another reason. It belongs to the
//! configured trust it grew from: keep [`Trust::identity`] beside it, and drop it when that changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt,
    str::FromStr,
    sync::{Arc, OnceLock},
};

use parking_lot::{Mutex, RwLock};
use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use schema::cluster_access;

use super::{PveError, error::find_cause};

/// The SHA-256 of a certificate, which PVE calls its fingerprint.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub fn of_certificate(der: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Reads several, separated by commas; none at all from an empty text.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, PveError> {
        Ok(cluster_access::fingerprints(text)?.into_iter().map(Self).collect())
    }
}

impl FromStr for Fingerprint {
    type Err = PveError;

    /// Colons and case do not matter.
    fn from_str(text: &str) -> Result<Self, PveError> {
        Ok(Self(cluster_access::fingerprint(text)?))
    }
}

/// Pairs of upper-case digits with colons, as PVE and openssl write it.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(":")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What to do with the first certificate of a cluster of which nothing is known.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum FirstUse {
    /// Trust the machine's roots or nobody.
    #[default]
    Refuse,
    /// Accept it and only it from then on, as ssh does.
    Pin,
}

/// What a person configured for one cluster. The default is to trust the machine's roots.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Trust {
    fingerprints: Vec<Fingerprint>,
    ca: Vec<CertificateDer<'static>>,
    insecure: bool,
    first_use: FirstUse,
}

impl Trust {
    /// Reads the columns `tls_fingerprint`, `tls_ca` and `tls_insecure`; empty ones say nothing.
    ///
    /// # Errors
    ///
    /// [`PveError::Input`] if one of them cannot be read, so that a typing error never means less
    /// verification.
    pub fn parse(
        fingerprints: Option<&str>,
        ca_pem: Option<&str>,
        insecure: bool,
        first_use: FirstUse,
    ) -> Result<Self, PveError> {
        let fingerprints = Fingerprint::parse_list(fingerprints.unwrap_or_default())?;
        let ca = match ca_pem.map(str::trim).filter(|pem| !pem.is_empty()) {
            Some(pem) => cluster_access::certificates(pem)?,
            None => Vec::new(),
        };
        Ok(Self { fingerprints, ca, insecure, first_use })
    }

    pub fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// A mark of this trust; learned trust that was kept under another mark is not to be used.
    pub fn identity(&self) -> Fingerprint {
        let mut all = vec![u8::from(self.insecure), u8::from(self.first_use == FirstUse::Pin)];
        let mut fingerprints = self.fingerprints.clone();
        fingerprints.sort_unstable();
        fingerprints.dedup();
        let authorities = self.ca.iter().map(|it| Fingerprint::of_certificate(it));
        all.extend(fingerprints.into_iter().chain(authorities).flat_map(|it| it.0));
        Fingerprint::of_certificate(&all)
    }
}

/// What a trusted connection taught about the cluster; kept in its status between runs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Learned {
    /// The cluster's own CA (`pve-root-ca.pem`).
    pub ca_pem: Option<String>,
    /// The certificates of its nodes, and the one taken at first use.
    pub fingerprints: BTreeSet<Fingerprint>,
}

impl Learned {
    pub fn is_empty(&self) -> bool {
        self.ca_pem.is_none() && self.fingerprints.is_empty()
    }
}

/// The `rustls` half of [`Trust`]: judges certificates, and grows while it is used.
pub(crate) struct Verifier {
    trust: Trust,
    /// Configured CAs that also vouch for names, and those that do not need to.
    named: RootCertStore,
    pve: RootCertStore,
    grown: RwLock<Grown>,
    /// Accepted for a first use, before the server has shown that it holds the key.
    candidates: Mutex<BTreeSet<Fingerprint>>,
    /// Which certificate each host showed when it was last accepted.
    shown: Mutex<BTreeMap<String, Fingerprint>>,
    provider: Arc<CryptoProvider>,
}

#[derive(Default)]
struct Grown {
    learned: Learned,
    roots: Option<RootCertStore>,
}

/// Why a certificate was not accepted; found again in the error of the request by [`distrust_in`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Distrust {
    pub(crate) presented: Fingerprint,
    reason: String,
}

impl Verifier {
    pub(crate) fn new(trust: Trust) -> Arc<Self> {
        let (mut named, mut pve) = (RootCertStore::empty(), RootCertStore::empty());
        for der in &trust.ca {
            let store = if is_pve_ca(der) { &mut pve } else { &mut named };
            store.add_parsable_certificates([der.clone()]);
        }
        Arc::new(Self {
            trust,
            named,
            pve,
            grown: RwLock::default(),
            candidates: Mutex::default(),
            shown: Mutex::default(),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
        })
    }

    /// A client configuration that asks this verifier.
    pub(crate) fn client_config(self: &Arc<Self>) -> Result<rustls::ClientConfig, rustls::Error> {
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_no_client_auth();
        // A resumed session is not verified again, which is right as trust here only grows; the
        // default would keep room for 256 servers in every cluster's client.
        config.resumption = Resumption::in_memory_sessions(16);
        Ok(config)
    }

    pub(crate) fn learned(&self) -> Learned {
        self.grown.read().learned.clone()
    }

    /// Replaces what was learned.
    ///
    /// # Errors
    ///
    /// [`PveError::Input`] if the CA cannot be read; then nothing changes.
    pub(crate) fn learn(&self, learned: Learned) -> Result<(), PveError> {
        let roots = match &learned.ca_pem {
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(cluster_access::certificates(pem)?);
                Some(roots)
            }
            None => None,
        };
        *self.grown.write() = Grown { learned, roots };
        Ok(())
    }

    /// The certificate that `host` (without port) showed when it was last accepted.
    pub(crate) fn shown_by(&self, host: &str) -> Option<Fingerprint> {
        self.shown.lock().get(host.trim_matches(['[', ']'])).copied()
    }

    pub(crate) fn is_insecure(&self) -> bool {
        self.trust.insecure
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Distrust> {
        let presented = Fingerprint::of_certificate(leaf);
        let pinned = |pins: &[Fingerprint]| pins.contains(&presented);
        if self.trust.insecure
            || pinned(&self.trust.fingerprints)
            || self.trust.ca.iter().any(|ca| ca.as_ref() == leaf.as_ref())
        {
            return Ok(());
        }
        let grown = self.grown.read();
        if grown.learned.fingerprints.contains(&presented) {
            return Ok(());
        }
        let distrust = |reason: String| Distrust { presented, reason };
        let cert =
            ParsedCertificate::try_from(leaf).map_err(|error| distrust(error.to_string()))?;
        let signed_by = |roots: &RootCertStore| {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&cert, roots, rest, now, algorithms)
        };
        if let Some(roots) = &grown.roots
            && signed_by(roots).is_ok()
        {
            return Ok(());
        }
        let configured = !self.trust.fingerprints.is_empty() || !self.trust.ca.is_empty();
        if configured {
            if !self.pve.is_empty() && signed_by(&self.pve).is_ok() {
                return Ok(());
            }
            if self.trust.ca.is_empty() {
                return Err(distrust("the certificate is none of the pinned ones".to_owned()));
            }
            let roots = if self.named.is_empty() { &self.pve } else { &self.named };
            return signed_by(roots)
                .and_then(|()| verify_server_name(&cert, name))
                .map_err(|error| distrust(error.to_string()));
        }
        let by_roots = signed_by(system_roots()).and_then(|()| verify_server_name(&cert, name));
        let Err(error) = by_roots else { return Ok(()) };
        if self.trust.first_use == FirstUse::Pin && grown.learned.is_empty() {
            self.candidates.lock().insert(presented);
            return Ok(());
        }
        Err(distrust(error.to_string()))
    }

    /// Called once the server has proved to hold the key of `leaf`.
    fn settle_first_use(&self, leaf: &CertificateDer<'_>) -> Result<(), Distrust> {
        if self.trust.first_use == FirstUse::Refuse {
            return Ok(());
        }
        let presented = Fingerprint::of_certificate(leaf);
        if !self.candidates.lock().contains(&presented) {
            return Ok(());
        }
        let mut grown = self.grown.write();
        if grown.learned.is_empty() {
            grown.learned.fingerprints.insert(presented);
        }
        if grown.learned.fingerprints.contains(&presented) {
            return Ok(());
        }
        let reason = "another certificate was pinned at first use meanwhile".to_owned();
        Err(Distrust { presented, reason })
    }
}

impl From<Distrust> for rustls::Error {
    fn from(distrust: Distrust) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(distrust))))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("trust", &self.trust).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, server_name, now)?;
        let fingerprint = Fingerprint::of_certificate(end_entity);
        let mut shown = self.shown.lock();
        if shown.len() > 1024 {
            shown.clear();
        }
        shown.insert(server_name.to_str().into_owned(), fingerprint);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let valid = verify_tls12_signature(message, cert, dss, algorithms)?;
        self.settle_first_use(cert)?;
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let valid = verify_tls13_signature(message, cert, dss, algorithms)?;
        self.settle_first_use(cert)?;
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The organisation in the subject of every CA that PVE makes for a cluster
/// (pve-cluster: `src/PVE/Cluster/Setup.pm`, `gen_pveca_cert`).
fn is_pve_ca(der: &CertificateDer<'_>) -> bool {
    let words = b"PVE Cluster Manager CA";
    der.windows(words.len()).any(|window| window == words)
}

/// The machine's root certificates, read once.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "A root certificate of this machine cannot be read");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        roots
    })
}

/// The TLS error somewhere below `error`, and the distrust in it.
pub(crate) fn tls_error_in<'e>(
    error: &'e (dyn Error + 'static),
) -> Option<(&'e rustls::Error, Option<&'e Distrust>)> {
    let tls: &rustls::Error = find_cause(error)?;
    let distrust = match tls {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<Distrust>()
        }
        _ => None,
    };
    Some((tls, distrust))
}
