//! Tells before anything is uploaded what the token of a cluster lacks for templates.

use std::{sync::Arc, time::Duration};

use schema::cluster_status;
use tokio_util::sync::CancellationToken;

use super::{clusters::Cluster, reconciler::Shared};
use crate::pve::{Permissions, PveError};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(30);

/// Looks and writes until told to stop.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut written = std::collections::HashMap::new();
    loop {
        for id in shared.clusters.ids() {
            let Some(cluster) = shared.clusters.get(id) else { continue };
            match look(&cluster).await {
                Ok(missing)
                    if written.get(&cluster.id.0)
                        == Some(&(cluster.db.fence().cloned(), missing.clone())) => {}
                Ok(missing) => {
                    let text = missing.join("\n");
                    let write = cluster.db.write(async |conn| {
                        cluster_status::write_missing_template_privileges(conn, cluster.id, &text)
                            .await
                    });
                    match write.await {
                        // No row yet: the next look writes it.
                        Ok(false) => {}
                        Ok(true) => {
                            written.insert(cluster.id.0, (cluster.db.fence().cloned(), missing));
                        }
                        Err(error) => {
                            let error = &error as &dyn std::error::Error;
                            tracing::debug!(error, "Missing privileges are not written yet");
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "No permissions");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY.min(shared.settings.look * 15)) => {}
        }
    }
}

async fn look(cluster: &Cluster) -> Result<Vec<String>, PveError> {
    Ok(missing(&cluster.reader.permissions().await?))
}

/// What is needed somewhere, whatever the node, the storage and the pool. Pure.
///
/// What is needed on one of them is checked before each import, when it is known which.
fn missing(permissions: &Permissions) -> Vec<String> {
    [
        ("VM.Allocate", "/vms or the pool of templates"),
        ("VM.Audit", "/vms or the pool of templates"),
        ("VM.Config.Disk", "/vms or the pool of templates"),
        ("VM.Config.Options", "/vms or the pool of templates"),
        ("VM.Config.CPU", "/vms or the pool of templates"),
        ("VM.Config.Memory", "/vms or the pool of templates"),
        ("VM.Config.HWType", "/vms or the pool of templates"),
        ("Datastore.AllocateTemplate", "the storage that images are staged on"),
        ("Datastore.Allocate", "the storage that images are staged on"),
        ("Datastore.AllocateSpace", "the storage that disks are made on"),
    ]
    .into_iter()
    .filter(|(privilege, _)| !permissions.has_anywhere(privilege))
    .map(|(privilege, place)| format!("{privilege} on {place}"))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B18: each privilege that is missing everywhere is named.
    #[test]
    fn what_is_granted_nowhere_is_named() {
        let body = br#"{"data":{"/pool/tmpl":{"VM.Allocate":1,"VM.Audit":1}}}"#;
        let permissions = Permissions::parse("GET /access/permissions", body).unwrap();
        let missing = missing(&permissions);
        assert!(missing.iter().any(|it| it.starts_with("VM.Config.Disk on ")), "{missing:?}");
        assert!(!missing.iter().any(|it| it.starts_with("VM.Allocate ")), "{missing:?}");
    }
}
