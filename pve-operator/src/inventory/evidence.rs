//! What is asked of PVE before anything that a list lacks is believed to be gone.

use std::{collections::HashSet, sync::Arc};

use tokio::sync::Mutex;

use super::{
    guard::{Audit, Quorum},
    poll::Poll,
};
use crate::pve::{ErrorClass, Permissions, PveError, Reader};

/// The answers of one moment.
#[derive(Debug)]
pub struct Evidence {
    pub quorum: Quorum,
    permissions: Permissions,
    members: HashSet<String>,
}

impl Evidence {
    /// Whether the cluster still counts this node, online or not.
    pub fn is_member(&self, node: &str) -> bool {
        self.members.contains(node)
    }

    /// Whether the token could see this guest now, by itself or through its pool.
    pub fn may_see_guest(&self, vmid: u32, pool: Option<&str>) -> Audit {
        self.audit("VM.Audit", &format!("/vms/{vmid}"), pool)
    }

    pub fn may_see_storage(&self, storage: &str) -> Audit {
        self.audit("Datastore.Audit", &format!("/storage/{storage}"), None)
    }

    fn audit(&self, privilege: &str, path: &str, pool: Option<&str>) -> Audit {
        let through_pool =
            pool.is_some_and(|pool| self.permissions.has(&format!("/pool/{pool}"), privilege));
        if through_pool || self.permissions.has(path, privilege) {
            Audit::Granted
        } else {
            Audit::Missing
        }
    }
}

/// Asks once per poll, however many kinds want to know.
#[derive(Debug)]
pub struct Desk {
    reader: Reader,
    last: Mutex<Option<(Arc<Poll>, Arc<Evidence>)>>,
}

impl Desk {
    pub fn new(reader: Reader) -> Self {
        Self { reader, last: Mutex::default() }
    }

    /// The evidence that belongs to `poll`: asked for after its list was.
    ///
    /// # Errors
    ///
    /// Whatever PVE did not answer: there is no proof then.
    pub async fn evidence(&self, poll: &Arc<Poll>) -> Result<Arc<Evidence>, PveError> {
        let mut last = self.last.lock().await;
        if let Some((of, evidence)) = &*last
            && Arc::ptr_eq(of, poll)
        {
            return Ok(Arc::clone(evidence));
        }
        let evidence = Arc::new(self.look().await?);
        *last = Some((Arc::clone(poll), Arc::clone(&evidence)));
        Ok(evidence)
    }

    async fn look(&self) -> Result<Evidence, PveError> {
        let permissions = self.reader.permissions().await?;
        match self.reader.cluster_status().await {
            Ok(status) => Ok(Evidence {
                quorum: Quorum::from(&status),
                members: status.nodes.into_iter().map(|node| node.name).collect(),
                permissions,
            }),
            // Without Sys.Audit on /: every token may see the names of the members.
            Err(error) if error.class() == ErrorClass::Forbidden => {
                let nodes = self.reader.nodes().await?;
                Ok(Evidence {
                    quorum: Quorum::NotShown,
                    members: nodes.rows.into_iter().map(|row| row.node).collect(),
                    permissions,
                })
            }
            Err(error) => Err(error),
        }
    }
}
