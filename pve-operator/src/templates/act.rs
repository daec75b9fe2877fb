//! Asks PVE for one thing. The row says so before PVE hears of it.

use std::sync::Arc;

use informer::Action;
use schema::instance::{Desired, InstanceStatus};

use super::{
    look::{Sight, vmid},
    names::{Marker, guest_name, staged_file, tags},
    pass::{Pass, PassError, later_or, refusal_of, report},
    plan::{Act, Node},
    preflight::{self, Facts, Way},
    progress::{Amount, percent},
    record::REFETCH,
    sending::Parcel,
    staging,
};
use crate::pve::{
    Download, Effect, ErrorClass, ImportDisk, NewGuest, NodeName, PveError, SecretUrl, StorageName,
    Upid, UploadFile, Vmid, Volid,
};
use schema::image_url::{Grant, image_url};

/// What a request brought.
enum Asked {
    /// A task that does it.
    Task(Upid),
    /// It is done.
    Done,
    /// We send the image ourselves.
    Sending,
}

/// Why nothing was asked.
enum Unasked {
    /// Nothing will change it but a person.
    Impossible(String),
    Pve(PveError),
}

impl From<PveError> for Unasked {
    fn from(error: PveError) -> Self {
        Self::Pve(error)
    }
}

impl Pass<'_> {
    pub(super) async fn ask(mut self, act: Act, sight: Sight) -> Result<Action, PassError> {
        let shared = self.shared;
        let id = self.row.id.0;
        match self.cluster.node_now(&self.row.node_name).await {
            Ok(Node::Ready) => {}
            // It went meanwhile; the next look says so.
            Ok(Node::Away | Node::NoQuorum) => return Ok(shared.soon()),
            Err(error) => return later_or(error),
        }
        if act == Act::Fetch && !shared.slots.take(id, self.cluster.id.0, &self.row.node_name) {
            self.told.blocked_reason = Some("waits for a free transfer slot".to_owned());
            self.write().await?;
            return Ok(shared.later());
        }
        let way = match act {
            Act::Fetch | Act::Shell | Act::Import => match self.preflight().await {
                Ok(Ok(way)) => Some(way),
                Ok(Err(sentence)) => {
                    self.fail(sentence);
                    shared.slots.give_back(id);
                    self.write().await?;
                    return Ok(shared.soon());
                }
                Err(error) => {
                    shared.slots.give_back(id);
                    return later_or(error);
                }
            },
            Act::Convert | Act::Destroy | Act::RemoveFile => None,
        };
        if act == Act::Fetch
            && let Some(way) = &way
        {
            self.place(way);
        }
        self.told.asked = Some(act.as_str().to_owned());
        self.told.asked_at = Some(schema::now());
        self.told.upid = None;
        // Why the file goes must outlast a removal that fails: it is of the right size.
        if act != Act::RemoveFile || self.told.step.as_deref() != Some(REFETCH) {
            self.told.step = Some(act.as_str().to_owned());
        }
        let making = self.row.desired == Desired::Available;
        if making && self.told.status == InstanceStatus::Pending {
            self.told.status = InstanceStatus::Syncing;
        }
        if making && self.told.status == InstanceStatus::Syncing {
            self.told.progress = percent(self.told.progress, act, Amount::default());
        }
        self.write().await?;

        let asked = match (act, &way) {
            (Act::Fetch, Some(way)) => self.fetch(way).await,
            (Act::Shell, Some(way)) => self.shell(way).await,
            (Act::Import, Some(way)) => self.import(way).await,
            (Act::Convert, _) => self.convert(&sight).await,
            (Act::Destroy, _) => self.destroy(&sight).await,
            (_, _) => self.remove_file().await,
        };
        match asked {
            Ok(Asked::Task(upid)) => {
                self.told.upid = Some(upid.as_str().to_owned());
                self.write().await?;
                Ok(shared.soon())
            }
            Ok(Asked::Done) => {
                self.nothing_asked();
                self.write().await?;
                Ok(shared.soon())
            }
            Ok(Asked::Sending) => {
                self.write().await?;
                Ok(shared.later())
            }
            Err(Unasked::Impossible(sentence)) => {
                self.nothing_asked();
                self.fail(sentence);
                shared.slots.give_back(id);
                self.write().await?;
                Ok(shared.soon())
            }
            Err(Unasked::Pve(error)) => self.refused(act, error).await,
        }
    }

    async fn refused(mut self, act: Act, error: PveError) -> Result<Action, PassError> {
        if error.effect() != Effect::None {
            return self.unanswered(act, &error).await;
        }
        // PVE spoke: it refused before it began anything.
        let heard =
            !matches!(error.class(), ErrorClass::Unauthorized | ErrorClass::NodeUnreachable);
        if heard && let Some(refusal) = refusal_of(&error) {
            let words = error.message().filter(|words| !words.is_empty()).map(str::to_owned);
            let words = words.unwrap_or_else(|| error.report());
            return self.failed(act, &refusal, words).await;
        }
        self.nothing_asked();
        self.told.blocked_reason = Some(error.report());
        self.write().await?;
        later_or(error)
    }

    fn node(&self) -> Result<NodeName, PveError> {
        NodeName::new(&self.row.node_name)
    }

    fn vmid(&self) -> Result<Vmid, PveError> {
        vmid(&self.row).ok_or_else(|| PveError::Input { what: "no VMID is reserved".to_owned() })
    }

    /// The outer error is PVE's silence, the inner one a sentence for a person.
    async fn preflight(&self) -> Result<Result<Way, String>, PveError> {
        let reader = &self.cluster.reader;
        let node = self.node()?;
        let version = reader.node_version(&node).await?;
        let permissions = reader.permissions().await?;
        let mut stored = Vec::new();
        self.cluster.storages.store().for_each(|it| {
            if *it.key.node == *self.row.node_name {
                stored.push(Arc::clone(it));
            }
        });
        let storages: Vec<_> = stored
            .iter()
            .map(|it| staging::Seen {
                name: &it.key.storage,
                plugin: &it.plugin,
                content: &it.content,
                shared: it.shared,
                active: &*it.status == "available",
            })
            .collect();
        let mut free = Vec::new();
        let staging = staging::choose(node.as_str(), &storages, &permissions).ok();
        for name in [staging, Some(self.upload.storage_name.as_str())].into_iter().flatten() {
            // A token may use a storage without seeing how full it is.
            if let Ok(status) = reader.storage_status(&node, &StorageName::new(name)?).await {
                free.push((name.to_owned(), status.avail));
            }
        }
        Ok(preflight::check(&Facts {
            node: node.as_str(),
            vmid: self.vmid()?,
            upload: self.upload,
            version,
            permissions: &permissions,
            storages: &storages,
            free: &free,
        }))
    }

    /// Where the image goes, and under which name.
    fn place(&mut self, way: &Way) {
        let upload = self.upload;
        let sha256 = upload.sha256.as_deref().unwrap_or_default();
        let format = upload.file_format.as_deref().unwrap_or("qcow2");
        self.told.staging_storage = Some(way.staging.clone());
        self.told.staged_file = Some(staged_file(&self.shared.owner, self.row.id, sha256, format));
    }

    fn staged(&self) -> Result<(StorageName, String), PveError> {
        let told = &self.told;
        let (Some(storage), Some(file)) = (&told.staging_storage, &told.staged_file) else {
            return Err(PveError::Input { what: "no file is staged".to_owned() });
        };
        Ok((StorageName::new(storage)?, file.clone()))
    }

    async fn fetch(&mut self, way: &Way) -> Result<Asked, Unasked> {
        let (node, (storage, file)) = (self.node()?, self.staged()?);
        let Some(sha512) = self.upload.sha512.clone() else {
            return Err(Unasked::Impossible("the upload has no sha512".to_owned()));
        };
        let hindrance = match self.address(&node, &file, &sha512) {
            None => None,
            Some(_) if !way.may_download => Some(format!(
                "Sys.AccessNetwork on /nodes/{node} is missing, so the image is sent and not fetched"
            )),
            Some((url, verify)) => {
                let url = SecretUrl::new(url.as_str())?;
                match self.cluster.reader.query_url_metadata(&node, &url, verify).await {
                    Ok(_) => {
                        let download =
                            Download { url, filename: file, sha512, verify_certificates: verify };
                        let upid =
                            self.cluster.changer.download_url(&node, &storage, &download).await?;
                        return Ok(Asked::Task(upid));
                    }
                    // The node tried, or PVE says why it may not.
                    Err(error)
                        if error.class() == ErrorClass::Server
                            || error.class() == ErrorClass::Forbidden =>
                    {
                        Some(format!(
                            "the node cannot fetch the image ({}), so it is sent",
                            error.message().unwrap_or_default()
                        ))
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        self.send(node, storage, file, sha512, hindrance)
    }

    /// The address at which the node fetches the image, and whether to verify certificates there.
    fn address(&self, node: &NodeName, file: &str, sha512: &str) -> Option<(url::Url, bool)> {
        let address = self.shared.settings.image_address.as_ref()?;
        let expires = chrono::Utc::now() + address.lifetime;
        let token = self.shared.key.sign(&Grant {
            upload_id: self.row.upload_id,
            instance_id: self.row.id,
            cluster_id: self.row.cluster_id,
            attempt: self.told.attempt,
            node: node.to_string(),
            file: file.to_owned(),
            expires: expires.timestamp(),
        });
        Some((image_url(&address.base, sha512, file, &token), address.verify_certificates))
    }

    fn send(
        &mut self,
        node: NodeName,
        storage: StorageName,
        file: String,
        sha512: String,
        hindrance: Option<String>,
    ) -> Result<Asked, Unasked> {
        let Some(images) = self.shared.settings.images.clone() else {
            return Err(Unasked::Impossible(format!(
                "{}; start the operator with --images so that it can send images itself",
                hindrance.unwrap_or_else(|| "nodes have no address to fetch images from \
                    (--image-base-url)"
                    .to_owned())
            )));
        };
        let path = self.upload.file_path.as_deref().unwrap_or_default();
        let image = path
            .parse()
            .map_err(|error: schema::images::ImageError| Unasked::Impossible(report(&error)))?;
        if let Some(hindrance) = hindrance {
            tracing::warn!(instance = self.row.id.0, "{hindrance}");
            self.told.blocked_reason = Some(hindrance);
        }
        let bytes = self.upload.file_size.unsigned_abs();
        let file = UploadFile { filename: file, bytes, sha512 };
        let parcel = Parcel { node, storage, file, image };
        self.shared.sending.begin(self.row.id.0, Arc::clone(&self.cluster), images, parcel);
        Ok(Asked::Sending)
    }

    async fn shell(&self, way: &Way) -> Result<Asked, Unasked> {
        let (upload, template) = (self.upload, self.template);
        let marker = Marker {
            owner: self.shared.owner.clone(),
            template: template.id.0,
            version: upload.version,
            instance: self.row.id.0,
            attempt: self.told.attempt,
            sha512: upload.sha512.clone().unwrap_or_default(),
            clone: None,
        };
        let mut guest = NewGuest::new(self.vmid()?, guest_name(&template.template_name));
        guest.description = marker.description(&template.template_name);
        guest.pool.clone_from(&way.pool);
        if let Some(os_type) = &upload.os_type {
            guest.ostype = Some(os_type.clone());
        }
        guest.cores = upload.cores.and_then(|it| u32::try_from(it).ok()).unwrap_or(2);
        guest.memory_mib = upload.memory_mb.and_then(|it| u64::try_from(it).ok()).unwrap_or(2048);
        guest.serial0 = Some("socket".to_owned());
        if let Some(bridge) = &upload.bridge {
            guest.bridge(bridge)?;
        }
        Ok(Asked::Task(self.cluster.changer.create_guest(&self.node()?, &guest).await?))
    }

    async fn import(&self, way: &Way) -> Result<Asked, Unasked> {
        let (upload, (storage, file)) = (self.upload, self.staged()?);
        let source = match &upload.ova_disk {
            Some(disk) => Volid::new(&storage, &format!("import/{file}/{disk}"))?,
            None => Volid::import(&storage, &file)?,
        };
        let mut disk = ImportDisk::new(StorageName::new(&upload.storage_name)?, source);
        disk.format = way.disk_format.map(str::to_owned);
        let working = way.working_storage.as_deref().filter(|_| upload.ova_disk.is_some());
        disk.working_storage = working.map(StorageName::new).transpose()?;
        disk.tags = tags(self.template.id.0, upload.version);
        let node = self.node()?;
        Ok(Asked::Task(self.cluster.changer.import_disk(&node, self.vmid()?, &disk).await?))
    }

    async fn convert(&self, sight: &Sight) -> Result<Asked, Unasked> {
        // A template whose disk is not a base image yet: the worker died between the two.
        let half = match sight.seen.guest {
            super::plan::Guest::Ours(guest) => guest.template,
            _ => false,
        };
        let disk = half.then_some("scsi0");
        let node = self.node()?;
        Ok(Asked::Task(self.cluster.changer.make_template(&node, self.vmid()?, disk).await?))
    }

    async fn destroy(&self, sight: &Sight) -> Result<Asked, Unasked> {
        let node = match &sight.guest_node {
            Some(node) => node.clone(),
            None => self.node()?,
        };
        Ok(Asked::Task(self.cluster.changer.destroy_guest(&node, self.vmid()?).await?))
    }

    async fn remove_file(&self) -> Result<Asked, Unasked> {
        let (storage, file) = self.staged()?;
        let volume = Volid::import(&storage, &file)?;
        let removed = self.cluster.changer.delete_volume(&self.node()?, &volume).await?;
        Ok(removed.map_or(Asked::Done, Asked::Task))
    }
}
