//! An operator that makes templates, with an image store beside its database.

use std::time::Duration;

use bytes::Bytes;
use pve_sim::{Config, Sim};
use schema::{
    CloneId, ClusterId, InstanceId, SyncTaskId, TemplateId, UploadId,
    images::ImageStore,
    instance::{self, InstanceRow, InstanceStatus},
    sync_task::{self, SyncTaskRow, TaskStatus},
    template::{self, TemplateRow},
    template_clone::{self, CloneStatus, NewClone},
    template_wish::{self, Inserted, NewUpload, Place, Placement, Under},
    testing::TestDatabase,
    upload::{self, UploadRow},
};
use tempfile::TempDir;

use super::{Followed, Mirror, eventually};

/// Time enough for a template on a machine that has other things to do.
pub(crate) const LATER: Duration = Duration::from_mins(2);

/// What makes the template flow as quick as makes sense.
pub(crate) const OPTIONS: [(&str, &str); 5] = [
    // What is learned of certificates is written as often.
    ("--usage-interval", "300ms"),
    ("--task-interval", "100ms"),
    ("--answer-patience", "2s"),
    ("--retry-base", "200ms"),
    ("--retry-max", "1s"),
];

/// A mirror whose operator also makes templates, and the images that it makes them of.
pub(crate) struct Workshop {
    pub(crate) mirror: Mirror,
    pub(crate) it: Followed,
    pub(crate) images: ImageStore,
    _folder: TempDir,
}

/// A template as it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) template: TemplateId,
    pub(crate) upload: UploadId,
    pub(crate) tasks: Vec<SyncTaskId>,
}

/// A small cluster without guests of its own, to tell ours from others by.
pub(crate) fn small() -> Config {
    Config::quick().guests(3)
}

impl Workshop {
    /// An operator that sends images to the nodes of a simulated cluster.
    pub(crate) async fn open(database: TestDatabase, config: Config) -> Self {
        let mut workshop = Self::closed(database, config).await;
        workshop.start().await;
        workshop
    }

    /// One whose operator is not started yet.
    pub(crate) async fn closed(database: TestDatabase, config: Config) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let url = format!("file://{}", folder.path().join("images").display());
        let images = ImageStore::open(&url).expect("the folder can be used");
        let mut mirror = Mirror::stopped(database);
        for (name, value) in OPTIONS {
            mirror.option(name, value);
        }
        mirror.option("--images", &url);
        let it = mirror.follow("sim", super::simulate(config)).await;
        Self { mirror, it, images, _folder: folder }
    }

    pub(crate) async fn start(&mut self) {
        self.mirror.start().await;
        self.until_ready().await;
    }

    /// Waits until an operator, also one outside of this process, can make templates.
    pub(crate) async fn until_ready(&self) {
        self.until_known(&self.it).await;
    }

    /// For a token that does not see all that there is.
    pub(crate) async fn start_unequal(&mut self) {
        self.mirror.start().await;
        eventually("nodes and storages are mirrored", LATER, || async {
            let nodes = self.mirror.nodes(self.cluster()).await.len();
            let storages = self.mirror.storages(self.cluster()).await.len();
            if nodes > 0 && storages > 0 { Ok(()) } else { Err((nodes, storages)) }
        })
        .await;
        self.until_trusted(&self.it).await;
    }

    /// Waits until a cluster is mirrored and its nodes can be spoken to.
    pub(crate) async fn until_known(&self, cluster: &Followed) {
        self.mirror.until_equal(cluster).await;
        self.until_trusted(cluster).await;
    }

    async fn until_trusted(&self, cluster: &Followed) {
        // Images are sent to each node's own address, whose certificate must be known for that.
        eventually("the nodes' certificates are learned", LATER, || async {
            let status = self.mirror.status(cluster.id).await;
            let learned = status.and_then(|status| status.learned_fingerprints);
            learned.map(drop).ok_or("none are")
        })
        .await;
    }

    pub(crate) fn sim(&self) -> &Sim {
        &self.it.sim
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.it.id
    }

    /// Asks for a template on `storage` of the first of `nodes`, and for copies on the others.
    pub(crate) async fn ask(&self, name: &str, storage: &str, nodes: &[&str]) -> Asked {
        self.ask_of(name, storage, nodes, &qcow2(name, 200 << 10)).await
    }

    pub(crate) async fn ask_of(
        &self,
        name: &str,
        storage: &str,
        nodes: &[&str],
        image: &[u8],
    ) -> Asked {
        self.ask_in(self.cluster(), name, storage, nodes, image).await
    }

    /// The same of any cluster that the operator follows.
    pub(crate) async fn ask_in(
        &self,
        cluster: ClusterId,
        name: &str,
        storage: &str,
        nodes: &[&str],
        image: &[u8],
    ) -> Asked {
        let mut writer = self.images.create().await.expect("an image can be written");
        for chunk in image.chunks(64 << 10) {
            writer.write(Bytes::copy_from_slice(chunk)).await.expect("it takes bytes");
        }
        let stored = writer.finish(None).await.expect("it is whole");
        let (node_rows, storages) =
            (self.mirror.nodes(cluster).await, self.mirror.storages(cluster).await);
        let place = |node: &str| {
            let row = storages.iter().find(|row| {
                row.synced.key.node_name == node && row.synced.key.storage_name == storage
            });
            let row = row.unwrap_or_else(|| panic!("node {node} has no storage {storage}"));
            let id = node_rows.iter().find(|it| it.synced.node_name == node);
            (
                Place {
                    node_id: id.expect("the node has a row").id,
                    node_name: node.to_owned(),
                    storage_id: row.id,
                },
                row.synced.kind.clone(),
                row.synced.shared.0,
            )
        };
        let (primary, kind, is_shared) = place(nodes[0]);
        let placement = Placement {
            others: nodes[1..].iter().map(|node| place(node).0).collect(),
            primary: primary.clone(),
        };
        let size = i64::try_from(stored.bytes).expect("images of tests are small");
        let inserted: Inserted = self
            .mirror
            .db()
            .write(async |conn| {
                let new = NewUpload {
                    under: Under::New { name, description: None },
                    version: 1,
                    cluster_id: cluster,
                    storage_id: primary.storage_id,
                    storage_name: storage,
                    storage_type: &kind,
                    is_shared,
                    file_name: "image.qcow2",
                    file_path: stored.object.as_str(),
                    file_size: size,
                    file_format: "qcow2",
                    virtual_size: Some(1 << 30),
                    ova_disk: None,
                    sha256: &stored.sha256,
                    sha512: &stored.sha512,
                    os_type: None,
                    cores: None,
                    memory_mb: None,
                    bridge: None,
                    creator: "test",
                };
                template_wish::insert(conn, &new, &placement).await
            })
            .await
            .expect("the rows can be written");
        Asked { template: inserted.template_id, upload: inserted.upload_id, tasks: inserted.tasks }
    }

    // --- reading -------------------------------------------------------------------------

    pub(crate) async fn template(&self, asked: &Asked) -> TemplateRow {
        let mut conn = self.mirror.db().conn().await.unwrap();
        template::get(&mut conn, asked.template).await.unwrap().expect("the template has a row")
    }

    pub(crate) async fn upload(&self, asked: &Asked) -> UploadRow {
        let mut conn = self.mirror.db().conn().await.unwrap();
        upload::get(&mut conn, asked.upload).await.unwrap().expect("the upload has a row")
    }

    /// The live instances, the primary first.
    pub(crate) async fn instances(&self, asked: &Asked) -> Vec<InstanceRow> {
        let mut conn = self.mirror.db().conn().await.unwrap();
        instance::of_upload(&mut conn, asked.upload).await.unwrap()
    }

    pub(crate) async fn instance(&self, id: InstanceId) -> InstanceRow {
        let mut conn = self.mirror.db().conn().await.unwrap();
        instance::get(&mut conn, id).await.unwrap().expect("the instance has a row")
    }

    pub(crate) async fn task(&self, id: SyncTaskId) -> SyncTaskRow {
        let mut conn = self.mirror.db().conn().await.unwrap();
        sync_task::get(&mut conn, id).await.unwrap().expect("the task has a row")
    }

    // --- wanting -------------------------------------------------------------------------

    /// Wants the instance on `node` tried again.
    pub(crate) async fn retry(&self, asked: &Asked, node: &str) {
        let row = self.on(asked, node).await;
        let again = self.mirror.db().write(async |conn| {
            let row = instance::get(conn, row.id).await?.expect("it has a row");
            template_wish::want_again(conn, &[&row], "test").await
        });
        again.await.expect("it can be wanted again");
    }

    pub(crate) async fn cancel(&self, asked: &Asked, node: &str) {
        let row = self.on(asked, node).await;
        let cancel = self.mirror.db().write(async |conn| {
            let row = instance::get(conn, row.id).await?.expect("it has a row");
            template_wish::cancel(conn, &row, "test").await
        });
        cancel.await.expect("it can be cancelled");
    }

    /// Wants the template gone with all its guests.
    pub(crate) async fn retire(&self, asked: &Asked) {
        let retire = self
            .mirror
            .db()
            .write(async |conn| template_wish::retire(conn, asked.template, "test").await);
        retire.await.expect("it can be deleted");
    }

    /// Wants a guest made of a template.
    pub(crate) async fn clone_guest(
        &self,
        asked: &Asked,
        name: &str,
        node: &str,
        is_full: bool,
    ) -> CloneId {
        let nodes = self.mirror.nodes(self.cluster()).await;
        let node_id = nodes.iter().find(|it| it.synced.node_name == node).expect("it has a row").id;
        let new = NewClone {
            template_id: asked.template,
            upload_id: asked.upload,
            cluster_id: self.cluster(),
            node_id,
            node_name: node,
            guest_name: name,
            is_full,
            storage_name: None,
            cores: Some(4),
            memory_mb: None,
            is_started: false,
            creator: None,
        };
        let insert = self.mirror.db().write(async |conn| template_clone::insert(conn, &new).await);
        insert.await.expect("the row can be written")
    }

    /// Waits until the guest is made, and says its VMID.
    pub(crate) async fn until_cloned(&self, id: CloneId) -> u32 {
        eventually("the clone is there", LATER, || async {
            let mut conn = self.mirror.db().conn().await.unwrap();
            let row = template_clone::get(&mut conn, id).await.unwrap().expect("it has a row").told;
            match row.status {
                CloneStatus::Completed => Ok(u32::try_from(row.vmid).unwrap()),
                _ => Err(row),
            }
        })
        .await
    }

    /// Destroys a guest and its disks, as somebody does in PVE's own interface.
    pub(crate) fn destroy_by_hand(&self, vmid: u32) {
        self.sim().edit(|world| {
            world.volumes.retain(|volume| volume.vmid != vmid);
            world.guests.remove(&vmid);
        });
    }

    /// The paths that were changed by POST and contain `part`.
    pub(crate) fn posts(&self, part: &str) -> Vec<String> {
        let tasks = self.sim().tasks();
        let kind = match part {
            "/clone" => "qmclone",
            other => other,
        };
        tasks
            .iter()
            .filter(|task| task.kind == kind)
            .map(|task| format!("/nodes/{}/qemu/{}{part}", task.node, task.id))
            .collect()
    }

    pub(crate) async fn on(&self, asked: &Asked, node: &str) -> InstanceRow {
        let all = self.instances(asked).await;
        all.into_iter().find(|row| row.node_name == node).expect("the node has an instance")
    }

    // --- waiting -------------------------------------------------------------------------

    /// Waits until every instance has this status, and says them.
    pub(crate) async fn until_all(
        &self,
        asked: &Asked,
        status: InstanceStatus,
    ) -> Vec<InstanceRow> {
        let what = format!("all instances on {} are {status}", self.mirror.kind());
        eventually(&what, LATER, || async {
            let rows = self.instances(asked).await;
            let done = !rows.is_empty() && rows.iter().all(|row| row.told.status == status);
            if done { Ok(rows) } else { Err(told(&rows)) }
        })
        .await
    }

    pub(crate) async fn until(
        &self,
        asked: &Asked,
        node: &str,
        status: InstanceStatus,
    ) -> InstanceRow {
        let what = format!("the instance of {node} on {} is {status}", self.mirror.kind());
        eventually(&what, LATER, || async {
            let row = self.on(asked, node).await;
            if row.told.status == status && row.generation == row.told.observed_generation {
                Ok(row)
            } else {
                Err(told(&[row]))
            }
        })
        .await
    }

    /// Waits until nothing of a template is left anywhere.
    pub(crate) async fn until_gone(&self, asked: &Asked) {
        let what = format!("the template is gone on {}", self.mirror.kind());
        eventually(&what, LATER, || async {
            let row = self.template(asked).await;
            if row.deleted_id != 0 {
                Ok(())
            } else {
                Err((row.blocked_reason, told(&self.instances(asked).await)))
            }
        })
        .await;
    }

    pub(crate) async fn until_task(&self, id: SyncTaskId, status: TaskStatus) -> SyncTaskRow {
        eventually(&format!("task {id} is {status}"), LATER, || async {
            let row = self.task(id).await;
            if row.told.status == status { Ok(row) } else { Err(row.told) }
        })
        .await
    }

    // --- PVE -----------------------------------------------------------------------------

    /// VMIDs of templates on a node.
    pub(crate) fn templates_on(&self, node: &str) -> Vec<u32> {
        let guests = self.sim().guests();
        guests.iter().filter(|it| it.template && it.node == node).map(|it| it.vmid).collect()
    }

    /// Waits until PVE has these templates, and nothing that an attempt left.
    pub(crate) async fn until_clean(&self, templates: &[u32]) {
        let mut expected = templates.to_vec();
        expected.sort_unstable();
        eventually("PVE holds the templates and nothing else of ours", LATER, || async {
            let sim = self.sim();
            let mut ours: Vec<u32> = sim
                .guests()
                .iter()
                .filter(|guest| guest.vmid >= 9000)
                .map(|guest| guest.vmid)
                .collect();
            ours.sort_unstable();
            let files: Vec<_> = sim.all_files().iter().map(pve_sim::File::volid).collect();
            let left = sim.leftovers();
            if ours == expected && files.is_empty() && left.is_empty() {
                Ok(())
            } else {
                Err((ours, files, left))
            }
        })
        .await;
    }
}

/// What matters of instances when a test fails.
pub(crate) fn told(rows: &[InstanceRow]) -> Vec<String> {
    rows.iter()
        .map(|row| {
            let it = &row.told;
            format!(
                "{} {} vmid {} step {:?} asked {:?} upid {:?} progress {} failures {} error {:?} \
                 blocked {:?}",
                row.node_name,
                it.status,
                it.vmid,
                it.step,
                it.asked,
                it.upid,
                it.progress,
                it.failures,
                it.error_message,
                it.blocked_reason
            )
        })
        .collect()
}

/// An image as PVE takes it: a header that says a disk of 1 GiB, and other bytes for each `seed`.
pub(crate) fn qcow2(seed: &str, bytes: usize) -> Vec<u8> {
    let mut image = vec![0; bytes.max(1 << 16)];
    image[..4].copy_from_slice(b"QFI\xfb");
    image[4..8].copy_from_slice(&3_u32.to_be_bytes());
    image[20..24].copy_from_slice(&16_u32.to_be_bytes());
    image[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
    let seed = seed.as_bytes();
    image[200..200 + seed.len()].copy_from_slice(seed);
    image
}
