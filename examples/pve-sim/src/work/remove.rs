//! `imgdel`: a file or a volume goes.

use super::{End, Worker};

/// What to delete.
#[derive(Debug)]
pub(crate) enum Remove {
    File { storage: String, content: String, name: String },
    Volume { volid: String },
}

impl Remove {
    pub(crate) async fn run(self, worker: &Worker) -> Result<(), End> {
        worker.half_way().await?;
        let volid = match self {
            Self::File { storage, content, name } => {
                let mut world = worker.world()?;
                let there = world.remove_file(&storage, &worker.node, &content, &name);
                let path = world.storage(&storage).map(|s| s.file_path(&content, &name));
                drop(world);
                if !there {
                    let path = path.unwrap_or_default();
                    worker.log(&format!("disk image '{path}' does not exist"));
                }
                format!("{storage}:{content}/{name}")
            }
            Self::Volume { volid } => {
                let mut world = worker.world()?;
                if world.is_in_use(&volid, &worker.node) {
                    let name = volid.split_once(':').map_or("", |(_, name)| name);
                    return Err(End::Failed(format!(
                        "base volume '{name}' is still in use by linked clones"
                    )));
                }
                world.free_volume(&volid, &worker.node);
                volid
            }
        };
        worker.log(&format!("Removed volume '{volid}'"));
        Ok(())
    }
}
