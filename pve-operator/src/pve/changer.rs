//! Changing a cluster: each method asks for one change, once.

use std::{error::Error, fmt, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::timeout;

use super::{
    Download, GuestClone, ImportDisk, NewGuest, NodeName, PveError, Reader, StorageName, Upid,
    UploadFile, Vmid, Volid,
    client::{Call, Client, Verb},
    limits::Scope,
    orders::check_file,
    path::ApiPath,
    reply,
    upload::{BodyFault, Parcel, Watch},
};

/// A handle to one cluster that changes things. Shares connections, limits, breakers and what was
/// learned with the [`Reader`] it was made of.
///
/// Nothing is asked for twice. After an error [`PveError::effect`] says whether the change may
/// have happened or may yet: look, before asking again. Dropping a future leaves that open too.
///
/// A [`Upid`] says that the change has begun; [`Reader::task_state`] says how it ends.
#[derive(Clone)]
pub struct Changer {
    client: Arc<Client>,
}

impl Changer {
    pub fn new(reader: &Reader) -> Self {
        Self { client: reader.client.clone() }
    }

    /// Makes a guest without disks. A `qmcreate` task.
    ///
    /// # Errors
    ///
    /// A VMID that is taken is a 500 with one of three texts, see
    /// [`Refusal::VmidTaken`](super::Refusal::VmidTaken).
    pub async fn create_guest(&self, node: &NodeName, guest: &NewGuest) -> Result<Upid, PveError> {
        let params = guest.params();
        let params: Vec<_> = params.iter().map(|(name, value)| (&**name, &**value)).collect();
        self.task(Verb::Post, "/nodes/{node}/qemu", &[node.as_str()], &params, node).await
    }

    /// Gives a guest its first disk. A `qmconfig` task that copies the whole image; the guest is not
    /// locked meanwhile, and whatever writes to its configuration waits 10 s and fails.
    pub async fn import_disk(
        &self,
        node: &NodeName,
        vmid: Vmid,
        disk: &ImportDisk,
    ) -> Result<Upid, PveError> {
        let params = disk.params()?;
        let pattern = "/nodes/{node}/qemu/{vmid}/config";
        self.guest_task(Verb::Post, pattern, node, vmid, &shown(&params)).await
    }

    /// Sets and deletes options of a guest, and returns when that is done. May be repeated.
    pub async fn set_config(
        &self,
        node: &NodeName,
        vmid: Vmid,
        pairs: &[(&str, &str)],
        delete: &[&str],
    ) -> Result<(), PveError> {
        let delete = delete.join(",");
        let mut params = pairs.to_vec();
        if !delete.is_empty() {
            params.push(("delete", &delete));
        }
        let segments = [node.as_str(), &vmid.to_string()];
        let pattern = "/nodes/{node}/qemu/{vmid}/config";
        self.ask(Verb::Put, pattern, &segments, &params, node).await.map(|_| ())
    }

    /// Turns a guest into a template, or with `disk` (`scsi0`) finishes a template whose disk is
    /// not a base volume yet. A `qmtemplate` task.
    ///
    /// PVE does this to a guest without disks too, and says nothing of a `disk` that is not there:
    /// look at the configuration before and after.
    pub async fn make_template(
        &self,
        node: &NodeName,
        vmid: Vmid,
        disk: Option<&str>,
    ) -> Result<Upid, PveError> {
        let params: Vec<_> = disk.map(|disk| ("disk", disk)).into_iter().collect();
        let pattern = "/nodes/{node}/qemu/{vmid}/template";
        self.guest_task(Verb::Post, pattern, node, vmid, &params).await
    }

    /// Clones the guest `vmid` of `node`. A `qmclone` task, named after the source.
    ///
    /// The clone is locked until it is done, and carries the source's tags.
    pub async fn clone_guest(
        &self,
        node: &NodeName,
        vmid: Vmid,
        clone: &GuestClone,
    ) -> Result<Upid, PveError> {
        let params = clone.params()?;
        let pattern = "/nodes/{node}/qemu/{vmid}/clone";
        self.guest_task(Verb::Post, pattern, node, vmid, &shown(&params)).await
    }

    /// Destroys a guest with all its disks, those that its configuration does not know included. A
    /// `qmdestroy` task.
    ///
    /// Without quorum PVE destroys the disks and keeps the guest (seen on PVE 9.2): make sure of
    /// quorum first.
    pub async fn destroy_guest(&self, node: &NodeName, vmid: Vmid) -> Result<Upid, PveError> {
        let params = [("purge", "1"), ("destroy-unreferenced-disks", "1")];
        let pattern = "/nodes/{node}/qemu/{vmid}";
        self.guest_task(Verb::Delete, pattern, node, vmid, &params).await
    }

    /// A `qmstart` task.
    pub async fn start_guest(&self, node: &NodeName, vmid: Vmid) -> Result<Upid, PveError> {
        let pattern = "/nodes/{node}/qemu/{vmid}/status/start";
        self.guest_task(Verb::Post, pattern, node, vmid, &[]).await
    }

    /// Lets a node fetch an image. A `download` task, named after the file.
    ///
    /// # Errors
    ///
    /// [`PveError::Input`] for a file name or checksum that cannot be right. What the URL's server
    /// says is in the task's log only.
    pub async fn download_url(
        &self,
        node: &NodeName,
        storage: &StorageName,
        download: &Download,
    ) -> Result<Upid, PveError> {
        let params = download.params()?;
        let pattern = "/nodes/{node}/storage/{storage}/download-url";
        let segments = [node.as_str(), storage.as_str()];
        self.task(Verb::Post, pattern, &segments, &shown(&params), node).await
    }

    /// Sends an image to a storage of a node, over a file of the same name if there is one. An
    /// `imgcopy` task without an id, which checks the file and copies it from `/var/tmp` to the
    /// storage; the [`Upid`]'s node is the one that was sent to.
    ///
    /// Goes to the node's own address if that is known: another node would pass the file on with
    /// `scp`. `progress` is told how many bytes of the file the connection took, ever more; it must
    /// not block. One upload per node; a second one waits.
    ///
    /// # Errors
    ///
    /// [`PveError::Input`] for a file name or checksum that cannot be right.
    /// [`PveError::Unread`] if `body` fails, gives nothing for
    /// [`upload_idle`](super::ClientConfig::upload_idle), or is not as long as announced.
    /// [`PveError::NoAnswer`] also where PVE refuses: it closes an upload that it does not want,
    /// for a missing Datastore.AllocateTemplate for instance, often without a word.
    ///
    /// # Cancellation
    ///
    /// PVE throws away what it has of the file, unless all of it was sent.
    pub async fn upload<S, E>(
        &self,
        node: &NodeName,
        storage: &StorageName,
        file: &UploadFile,
        body: S,
        progress: impl Fn(u64) + Send + 'static,
    ) -> Result<Upid, PveError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + Send + 'static,
    {
        check_file(&file.filename, &file.sha512)?;
        let call = Call {
            verb: Verb::Post,
            path: ApiPath::new(
                "/nodes/{node}/storage/{storage}/upload",
                &[node.as_str(), storage.as_str()],
            )?,
            params: &[],
            scope: Scope::Upload(node),
        };
        let name = call.name();
        let watch = Watch::new();
        let mut body = Box::pin(body);
        // A connection that waits for its first byte is closed after 5 s.
        let idle = self.client.upload_idle;
        let Ok(first) = timeout(idle, body.next()).await else {
            return Err(BodyFault::still(idle).into_error(name));
        };
        let body = stream::iter(first).chain(body);
        let parcel = Parcel::new(file, &boundary()?, body, &watch, progress);
        let answer = self.client.send_parcel(call, parcel, &watch).await?;
        upid(&name, &answer.body)
    }

    /// Deletes a volume. An `imgdel` task, or `None` if PVE was done at once. A file that is gone
    /// already is success.
    pub async fn delete_volume(
        &self,
        node: &NodeName,
        volume: &Volid,
    ) -> Result<Option<Upid>, PveError> {
        let pattern = "/nodes/{node}/storage/{storage}/content/{volid}";
        let segments = [node.as_str(), volume.storage().as_str(), volume.as_str()];
        let (name, body) = self.ask(Verb::Delete, pattern, &segments, &[], node).await?;
        let text: Option<String> = reply::one(&name, &body)?;
        text.map(|text| parsed(&name, &text)).transpose()
    }

    /// Stops a task, and with it what it began: PVE waits up to 5 s for that, then kills it. Success
    /// for one that has ended already.
    pub async fn stop_task(&self, upid: &Upid) -> Result<(), PveError> {
        let pattern = "/nodes/{node}/tasks/{upid}";
        let segments = [upid.node().as_str(), upid.as_str()];
        self.ask(Verb::Delete, pattern, &segments, &[], upid.node()).await.map(|_| ())
    }

    async fn guest_task(
        &self,
        verb: Verb,
        pattern: &'static str,
        node: &NodeName,
        vmid: Vmid,
        params: &[(&str, &str)],
    ) -> Result<Upid, PveError> {
        self.task(verb, pattern, &[node.as_str(), &vmid.to_string()], params, node).await
    }

    async fn task(
        &self,
        verb: Verb,
        pattern: &'static str,
        segments: &[&str],
        params: &[(&str, &str)],
        node: &NodeName,
    ) -> Result<Upid, PveError> {
        let (name, body) = self.ask(verb, pattern, segments, params, node).await?;
        upid(&name, &body)
    }

    async fn ask(
        &self,
        verb: Verb,
        pattern: &'static str,
        segments: &[&str],
        params: &[(&str, &str)],
        node: &NodeName,
    ) -> Result<(String, Bytes), PveError> {
        let path = ApiPath::new(pattern, segments)?;
        let call = Call { verb, path, params, scope: Scope::Node(node) };
        let name = call.name();
        Ok((name, self.client.send(call).await?.body))
    }
}

impl fmt::Debug for Changer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.client.failover.current();
        f.debug_struct("Changer").field("address", &address.authority()).finish_non_exhaustive()
    }
}

fn shown<'a>(params: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    params.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

fn upid(request: &str, body: &[u8]) -> Result<Upid, PveError> {
    let text: String = reply::one(request, body)?;
    parsed(request, &text)
}

/// The task id in an answer. One that cannot be read is no refusal: the task runs.
fn parsed(request: &str, text: &str) -> Result<Upid, PveError> {
    text.parse().map_err(|error: PveError| reply::decode_error(request, error.into()))
}

/// What no file holds by accident.
fn boundary() -> Result<String, PveError> {
    let mut bytes = [0; 24];
    SystemRandom::new().fill(&mut bytes).map_err(|_| PveError::Input {
        what: "this machine gives no random bytes, which an upload needs".to_owned(),
    })?;
    Ok(bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect())
}
