//! One certificate authority per cluster and one certificate per node, as PVE makes them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    SanType, SerialNumber,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::hex::sha256;

const DAY: Duration = Duration::from_hours(24);

/// What `/nodes/{node}/certificates/info` tells of one certificate.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) filename: &'static str,
    pub(crate) pem: String,
    /// SHA-256, upper case, with colons.
    pub(crate) fingerprint: String,
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) san: Vec<String>,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

/// The cluster's own authority (`pve-root-ca.pem`).
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) certificate: Certificate,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A node's certificate (`pve-ssl.pem`) and the TLS set-up that presents it.
#[derive(Clone, Debug)]
pub(crate) struct NodeCertificate {
    pub(crate) certificate: Certificate,
    pub(crate) tls: Arc<ServerConfig>,
}

impl Authority {
    pub(crate) fn new(unit: &str) -> Result<Self, rcgen::Error> {
        let (not_before, not_after) = validity(3650);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Proxmox Virtual Environment");
        params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
        params.distinguished_name.push(DnType::OrganizationName, "PVE Cluster Manager CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let subject = format!("/CN=Proxmox Virtual Environment/OU={unit}/O=PVE Cluster Manager CA");
        let certificate = Certificate {
            filename: "pve-root-ca.pem",
            pem: issuer.pem(),
            fingerprint: fingerprint(issuer.der()),
            issuer: subject.clone(),
            subject,
            san: Vec::new(),
            not_before: unix(not_before),
            not_after: unix(not_after),
        };
        Ok(Self { issuer, certificate })
    }

    /// Signs a certificate for a node; each call makes a new key and so a new fingerprint.
    pub(crate) fn issue(
        &self,
        node: &str,
        ip: IpAddr,
        serial: u64,
    ) -> Result<NodeCertificate, rcgen::Error> {
        let (not_before, not_after) = validity(730);
        let names = vec![node.to_owned(), format!("{node}.sim.invalid"), "localhost".to_owned()];
        let mut params = CertificateParams::new(names.clone())?;
        params.subject_alt_names.push(SanType::IpAddress(ip));
        if !ip.is_loopback() {
            params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        }
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationalUnitName, "PVE Cluster Node");
        params.distinguished_name.push(DnType::OrganizationName, "Proxmox Virtual Environment");
        params.distinguished_name.push(DnType::CommonName, format!("{node}.sim.invalid"));
        params.serial_number = Some(SerialNumber::from(serial));
        params.use_authority_key_identifier_extension = true;
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![signed.der().clone()], key)
            .expect("the key was made for this certificate");
        let mut san = vec!["127.0.0.1".to_owned(), "localhost".to_owned(), ip.to_string()];
        san.dedup();
        san.extend([node.to_owned(), format!("{node}.sim.invalid")]);
        let certificate = Certificate {
            filename: "pve-ssl.pem",
            pem: signed.pem(),
            fingerprint: fingerprint(signed.der()),
            subject: format!(
                "/OU=PVE Cluster Node/O=Proxmox Virtual Environment/CN={node}.sim.invalid"
            ),
            issuer: self.certificate.subject.clone(),
            san,
            not_before: unix(not_before),
            not_after: unix(not_after),
        };
        Ok(NodeCertificate { certificate, tls: Arc::new(tls) })
    }
}

fn validity(days: u32) -> (SystemTime, SystemTime) {
    let now = SystemTime::now();
    (now - DAY, now + DAY * days)
}

fn unix(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn fingerprint(der: &[u8]) -> String {
    let digits = sha256(der).to_uppercase();
    let mut text = String::with_capacity(95);
    for (at, digit) in digits.char_indices() {
        if at > 0 && at % 2 == 0 {
            text.push(':');
        }
        text.push(digit);
    }
    text
}
