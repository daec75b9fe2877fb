//! What the client learned about a cluster's certificates, kept in its status between runs.

use std::collections::BTreeSet;

use schema::cluster_status::ClusterStatus;
use serde::{Deserialize, Serialize};

use super::status::Learned as Columns;
use crate::pve::{Fingerprint, Learned, Reader};

/// The column `learned_fingerprints`.
#[derive(Deserialize, Serialize)]
struct Kept {
    /// The configuration that it was learned under; under another one it vouches for nothing.
    identity: String,
    fingerprints: BTreeSet<String>,
}

/// Gives back to the client what an earlier run learned, if the row's trust is still the same.
pub fn restore(reader: &Reader, identity: Fingerprint, status: &ClusterStatus) {
    let Some(learned) = read(identity, status) else { return };
    let addresses = status.learned_addresses.as_deref();
    let addresses = addresses.and_then(|json| serde_json::from_str::<Vec<String>>(json).ok());
    reader.remember_addresses(&addresses.unwrap_or_default());
    if let Err(error) = reader.trust_learned(learned) {
        tracing::warn!(
            error = error.report(),
            "Learned certificates cannot be read, learning anew"
        );
    }
}

fn read(identity: Fingerprint, status: &ClusterStatus) -> Option<Learned> {
    let kept: Kept = serde_json::from_str(status.learned_fingerprints.as_deref()?).ok()?;
    if kept.identity != identity.to_string() {
        return None;
    }
    let fingerprints = kept.fingerprints.iter().filter_map(|text| text.parse().ok()).collect();
    Some(Learned { ca_pem: status.learned_ca.clone(), fingerprints })
}

/// The columns that keep what this client knows by now.
pub fn columns(reader: &Reader, identity: Fingerprint) -> Columns {
    let learned = reader.learned();
    let addresses = serde_json::to_string(&reader.addresses()).ok();
    if learned.is_empty() {
        return Columns { addresses, ..Columns::default() };
    }
    let kept = Kept {
        identity: identity.to_string(),
        fingerprints: learned.fingerprints.iter().map(ToString::to_string).collect(),
    };
    Columns { addresses, ca: learned.ca_pem, fingerprints: serde_json::to_string(&kept).ok() }
}

#[cfg(test)]
mod tests {
    use schema::ClusterId;

    use super::*;
    use crate::pve::{FirstUse, Trust};

    #[test]
    fn what_was_learned_under_another_trust_is_not_used() {
        let one = Trust::default().identity();
        let other = Trust::parse(None, None, true, FirstUse::Refuse).unwrap().identity();
        let fingerprint = Fingerprint::of_certificate(b"node").to_string();
        let kept = Kept { identity: one.to_string(), fingerprints: [fingerprint].into() };
        let status = ClusterStatus {
            learned_fingerprints: serde_json::to_string(&kept).ok(),
            ..ClusterStatus::new(ClusterId(1), "Synced")
        };

        assert_eq!(read(one, &status).map(|learned| learned.fingerprints.len()), Some(1));
        assert!(read(other, &status).is_none());
    }
}
