//! Templates from the outside: a lab with an image store, and what the guide shows of it.

use std::path::{Path, PathBuf};

use axum::Router;
use axum::http::StatusCode;
use pve_api::Settings;
use schema::cluster_status::{self, ClusterStatus};
use schema::images::ImageStore;
use schema::node::NodeStatus;
use schema::storage::SyncedStorage;
use schema::testing::texts;
use schema::{Conn, Flag};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::{ATTIC, Answer, LAB, TestApi, a_node, a_storage, call, for_anybody, router};

/// An API with images, over a cluster `lab`: nodes 1 to 4 of which the last is offline, each with
/// `local` (1 to 4, for files) and `data` (5 to 8, for disks); `ceph` (9 and 10) on the first two.
pub(crate) struct Lab {
    pub api: TestApi,
    pub router: Router,
    pub settings: Settings,
    folder: TempDir,
}

impl Lab {
    pub(crate) async fn all(name: &str) -> Vec<Self> {
        let mut labs = Vec::new();
        for api in TestApi::all(name).await {
            labs.push(Self::over(api, |_| {}).await);
        }
        labs
    }

    /// On SQLite alone, where no query is in question.
    pub(crate) async fn one(name: &str, change: fn(&mut Settings)) -> Self {
        let api = TestApi::all(name).await.swap_remove(0);
        Self::over(api, change).await
    }

    async fn over(api: TestApi, change: fn(&mut Settings)) -> Self {
        let nodes: Vec<_> = (1..=4)
            .map(|id| {
                let mut node = a_node(&format!("pve-node{id}"));
                if id == 4 {
                    node.status = NodeStatus::Offline;
                }
                node
            })
            .collect();
        api.nodes(LAB, &nodes).await;
        api.nodes(ATTIC, &[a_node("attic1")]).await;
        let of_all = |name: &str, content: &str| -> Vec<SyncedStorage> {
            let mut all = Vec::new();
            for node in &nodes {
                let mut storage = a_storage(&node.node_name, name);
                storage.content = Some(content.to_owned());
                all.push(storage);
            }
            all
        };
        api.storages(LAB, &of_all("local", "iso,import")).await;
        api.storages(LAB, &of_all("data", "images")).await;
        let mut ceph = of_all("ceph", "images");
        ceph.truncate(2);
        for storage in &mut ceph {
            "rbd".clone_into(&mut storage.kind);
            storage.shared = Flag(true);
        }
        api.storages(LAB, &ceph).await;
        api.storages(ATTIC, &[a_storage("attic1", "data")]).await;
        let lab = {
            let folder = tempfile::tempdir().unwrap();
            let mut settings = for_anybody();
            let url = format!("file://{}", folder.path().join("images").display());
            settings.images = Some(ImageStore::open(&url).unwrap());
            change(&mut settings);
            let db = api.database.db.clone();
            let router = pve_api::router_with(db, settings.clone());
            Self { api, router, settings, folder }
        };
        lab.status(|_| {}).await;
        lab
    }

    /// What the operator says of the cluster.
    pub(crate) async fn status(&self, change: fn(&mut ClusterStatus)) {
        let mut status = ClusterStatus::new(LAB, "Connected");
        status.pve_version = Some("9.2.11".to_owned());
        status.quorate = Some(Flag(true));
        change(&mut status);
        let write = async |conn: &mut Conn| cluster_status::write(conn, &status).await;
        self.api.database.db.write(write).await.unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = call(&self.router, "GET", &format!("/api/v1{path}"), &[], "").await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        answer.json()["data"].clone()
    }

    pub(crate) async fn post(&self, path: &str, body: Option<Value>) -> Answer {
        let path = format!("/api/v1{path}");
        match body {
            None => call(&self.router, "POST", &path, &[], "").await,
            Some(body) => {
                let headers = [("content-type", "application/json")];
                call(&self.router, "POST", &path, &headers, body.to_string()).await
            }
        }
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        call(&self.router, "DELETE", &format!("/api/v1{path}"), &[], "").await
    }

    pub(crate) async fn upload(&self, parts: &[Part<'_>]) -> Answer {
        upload(&self.router, parts).await
    }

    pub(crate) async fn upload_owned(&self, parts: Vec<Part<'_>>) -> Answer {
        self.upload(&parts).await
    }

    /// A template on node 1, wanted on these nodes too; its id.
    pub(crate) async fn template(&self, name: &str, storage: i64, sync: &str) -> i64 {
        let storage = storage.to_string();
        let answer = self
            .upload(&[
                Text("template_name", name),
                Text("cluster_id", "1"),
                Text("storage_id", &storage),
                Text("sync_node_ids", sync),
                File("disk.qcow2", &qcow2()),
            ])
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()["data"]["template_id"].as_i64().unwrap()
    }

    pub(crate) async fn sql(&self, sql: &str) {
        self.api.sql(sql).await;
    }

    /// Column `t` of the answer.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        texts(&mut self.api.database.db.conn().await.unwrap(), sql).await.unwrap()
    }

    /// Files in the store, finished or not, but for what the store keeps for itself.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        files_below(self.folder.path(), &mut files);
        files.retain(|file| {
            file.components().any(|part| part.as_os_str() == "sha256")
                || std::fs::metadata(file).is_ok_and(|it| it.len() > 1024)
        });
        files
    }
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, files) } else { files.push(path) }
    }
}

/// A part of a form.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    Text(&'a str, &'a str),
    File(&'a str, &'a [u8]),
}
pub(crate) use Part::{File, Text};

pub(crate) const BOUNDARY: &str = "----a-boundary-of-ours";
pub(crate) const FORM: (&str, &str) =
    ("content-type", "multipart/form-data; boundary=----a-boundary-of-ours");

/// The head of a part.
pub(crate) fn head(part: Part<'_>) -> String {
    match part {
        Text(name, _) => {
            format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n")
        }
        File(name, _) => format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             content-type: application/octet-stream\r\n\r\n"
        ),
    }
}

pub(crate) fn form(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for &part in parts {
        body.extend_from_slice(head(part).as_bytes());
        body.extend_from_slice(match part {
            Text(_, text) => text.as_bytes(),
            File(_, bytes) => bytes,
        });
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

pub(crate) async fn upload(router: &Router, parts: &[Part<'_>]) -> Answer {
    call(router, "POST", "/api/v1/templates/upload", &[FORM], form(parts)).await
}

/// A small image: version 3, clusters of 512 bytes, a disk of 64 KiB.
pub(crate) fn qcow2() -> Vec<u8> {
    const CLUSTER: usize = 512;
    let mut bytes = vec![0; 5 * CLUSTER];
    let mut put = |at: usize, number: &[u8]| bytes[at..at + number.len()].copy_from_slice(number);
    put(0, b"QFI\xfb");
    put(4, &3_u32.to_be_bytes());
    put(20, &9_u32.to_be_bytes());
    put(24, &65_536_u64.to_be_bytes());
    put(36, &2_u32.to_be_bytes());
    put(40, &1024_u64.to_be_bytes());
    put(48, &512_u64.to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(96, &4_u32.to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    put(1024, &((3 * 512_u64) | (1 << 63)).to_be_bytes());
    bytes
}

pub(crate) fn refused(answer: &Answer) -> (u16, String, Value, String) {
    let body = answer.json();
    let message = body["message"].as_str().unwrap().to_owned();
    let reason = body["data"]["reason"].as_str().unwrap().to_owned();
    (answer.status.as_u16(), reason, body["data"]["field"].clone(), message)
}

/// The keys of an object in the order in which they were sent.
fn keys(text: &str, object: &str) -> Vec<String> {
    let from = text.find(object).unwrap_or_else(|| panic!("{object} in {text}")) + object.len();
    let (mut depth, mut keys, mut rest) = (0, Vec::new(), &text[from..]);
    while let Some(at) = rest.find(['"', '{', '}', '[', ']']) {
        match rest.as_bytes()[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            _ => {
                let end = at + 1 + rest[at + 1..].find('"').unwrap();
                if depth == 1 && rest[end + 1..].starts_with(':') {
                    keys.push(rest[at + 1..end].to_owned());
                }
                rest = &rest[end + 1..];
                continue;
            }
        }
        rest = &rest[at + 1..];
    }
    keys
}

#[tokio::test]
async fn an_upload_to_local_storage_answers_as_the_guide_shows() {
    for lab in Lab::all("guide_local").await {
        let answer = lab
            .upload(&[
                Text("template_name", "centos7-local"),
                Text("cluster_id", "1"),
                Text("storage_id", "5"),
                Text("description", "CentOS 7 on local"),
                Text("sync_node_ids", "2,3"),
                File("centos7.qcow2", &qcow2()),
            ])
            .await;

        assert_eq!(
            answer.json(),
            json!({"code": 200, "message": "success", "data": {
                "template_id": 1, "upload_id": 1, "storage_type": "dir", "is_shared": false,
                "import_node": {"node_id": 1, "node_name": "pve-node1"},
                "sync_tasks": [
                    {"task_id": 1, "target_node_id": 2, "target_node_name": "pve-node2", "status": "pending"},
                    {"task_id": 2, "target_node_id": 3, "target_node_name": "pve-node3", "status": "pending"},
                ],
            }})
        );
        assert_eq!(keys(&answer.text, ""), ["code", "message", "data"]);
        assert_eq!(
            keys(&answer.text, "\"data\":"),
            ["template_id", "upload_id", "storage_type", "is_shared", "import_node", "sync_tasks"]
        );
        assert_eq!(
            keys(&answer.text, "\"sync_tasks\":["),
            ["task_id", "target_node_id", "target_node_name", "status"]
        );
        assert_eq!(lab.files().len(), 1);
        let audited = "SELECT CONCAT(actor, ' ', action, ' ', object_name, ' ', cluster_name, ' ', \
                       result) AS t FROM audit_event";
        assert_eq!(lab.texts(audited).await, ["anybody template.upload centos7-local lab done"]);
    }
}

#[tokio::test]
async fn an_upload_to_shared_storage_is_one_guest_that_every_node_sees() {
    for lab in Lab::all("guide_shared").await {
        let answer = lab
            .upload(&[
                Text("template_name", "centos7-ceph"),
                Text("cluster_id", "1"),
                Text("storage_id", "10"),
                Text("description", "CentOS 7 on Ceph"),
                File("centos7.qcow2", &qcow2()),
            ])
            .await;

        assert_eq!(
            answer.json()["data"],
            json!({
                "template_id": 1, "upload_id": 1, "storage_type": "rbd", "is_shared": true,
                "import_node": {"node_id": 1, "node_name": "pve-node1"}, "sync_tasks": [],
            })
        );
        // What the operator writes when the guest is there.
        lab.sql(
            "UPDATE template_instance SET status = 'available', vmid = 9000, observed_generation = 1",
        )
        .await;
        lab.sql("UPDATE template_upload SET status = 'imported', observed_generation = 1").await;
        let path = "/api/v1/templates/1/detail?include_instances=true";
        let detail = call(&lab.router, "GET", path, &[], "").await;
        let data = detail.json()["data"].clone();
        assert_eq!(
            keys(&detail.text, "\"data\":")[..7],
            [
                "id",
                "template_name",
                "cluster_id",
                "cluster_name",
                "description",
                "upload_info",
                "instances"
            ]
        );
        let upload_info =
            ["upload_id", "storage_name", "is_shared", "file_name", "file_size", "status"];
        assert_eq!(keys(&detail.text, "\"upload_info\":")[..6], upload_info);
        assert_eq!(
            keys(&detail.text, "\"instances\":[")[..7],
            ["instance_id", "node_id", "node_name", "vmid", "storage_name", "status", "is_primary"]
        );
        assert_eq!(data["upload_info"]["file_size"], json!(qcow2().len()));
        assert_eq!(data["upload_info"]["status"], json!("imported"));
        assert_eq!(data["upload_info"]["virtual_size"], json!(65_536));
        for (index, primary) in [(0, true), (1, false)] {
            let instance = &data["instances"][index];
            assert_eq!(instance["vmid"], json!(9000));
            assert_eq!(instance["status"], json!("available"));
            assert_eq!(instance["is_primary"], json!(primary));
            assert_eq!(instance["sync_progress"], Value::Null);
        }
        assert_eq!(data["instances"].as_array().unwrap().len(), 2);

        let all = lab.get("/templates/1/instances").await;
        assert_eq!((&all["template_name"], &all["total"]), (&json!("centos7-ceph"), &json!(2)));
        assert_eq!(lab.get("/templates/1/detail").await["instances"], Value::Null);
        let synced = lab.post("/templates/1/sync", Some(json!({"target_node_ids": [3]}))).await;
        assert_eq!(refused(&synced).1, "shared_storage");
    }
}

#[tokio::test]
async fn a_task_reads_as_the_guide_shows() {
    for lab in Lab::all("guide_task").await {
        lab.template("centos7-local", 5, "2,3").await;
        lab.sql(
            "UPDATE template_sync_task SET status = 'syncing', progress = 45, observed_generation = 1, \
             sync_start_time = '2025-12-24 10:00:00', step = 'fetch', attempt = 1 WHERE id = 1",
        )
        .await;

        let answer = call(&lab.router, "GET", "/api/v1/templates/sync-tasks/1", &[], "").await;

        let mut data = answer.json()["data"].clone();
        for ours in ["gmt_create", "gmt_modified"] {
            assert!(data.as_object_mut().unwrap().remove(ours).is_some());
        }
        assert_eq!(
            data,
            json!({
                "task_id": 1, "template_id": 1, "template_name": "centos7-local",
                "source_node": {"node_id": 1, "node_name": "pve-node1"},
                "target_node": {"node_id": 2, "node_name": "pve-node2"},
                "storage_name": "data", "status": "syncing", "progress": 45,
                "sync_start_time": "2025-12-24T10:00:00.000Z", "error_message": null,
                "sync_end_time": null, "attempt": 1, "bytes_done": 0,
                "bytes_total": qcow2().len(), "step": "fetch",
                "cluster_id": 1, "upload_id": 1, "creator": "anybody",
            })
        );
        assert_eq!(
            keys(&answer.text, "\"data\":")[..10],
            [
                "task_id",
                "template_id",
                "template_name",
                "source_node",
                "target_node",
                "storage_name",
                "status",
                "progress",
                "sync_start_time",
                "error_message"
            ]
        );
        let ids = async |query: &str| -> Vec<i64> {
            let list = lab.get(&format!("/templates/sync-tasks{query}")).await;
            let list = list["list"].as_array().unwrap();
            list.iter().map(|it| it["task_id"].as_i64().unwrap()).collect()
        };
        assert_eq!(ids("").await, [2, 1]);
        assert_eq!(ids("?template_id=1&status=syncing&page=1&page_size=10").await, [1]);
        assert_eq!(ids("?status=pending").await, [2]);
        assert_eq!(ids("?page_size=1&page=2").await, [1]);
        assert_eq!(ids("?cluster_id=2").await, Vec::<i64>::new());
    }
}

#[tokio::test]
async fn a_soft_delete_frees_the_name_unless_work_is_going_on() {
    for lab in Lab::all("soft_delete").await {
        let id = lab.template("web", 5, "2").await;
        lab.sql("UPDATE template_instance SET status = 'syncing' WHERE is_primary = 0").await;

        let busy = lab.delete(&format!("/templates/{id}")).await;
        lab.sql("UPDATE template_instance SET status = 'available'").await;
        let gone = lab.delete(&format!("/templates/{id}")).await;

        let (status, reason, _, message) = refused(&busy);
        assert_eq!((status, reason.as_str()), (409, "busy"));
        assert!(message.contains("pve-node2 is syncing") && message.contains("cascade=true"));
        assert_eq!(gone.json()["data"], json!({"template_id": id, "status": "deleted"}));
        assert_eq!(lab.delete(&format!("/templates/{id}")).await.status, StatusCode::NOT_FOUND);
        let list = lab.get("/templates").await;
        assert_eq!(list, json!({"total": 0, "list": []}));
        assert_eq!(lab.get("/templates?status=deleted").await["total"], json!(1));
        lab.template("web", 5, "").await;
    }
}

#[tokio::test]
async fn a_cascade_delete_reads_as_deleting_and_says_what_holds_it() {
    for lab in Lab::all("cascade").await {
        let id = lab.template("web", 5, "2").await;

        for _ in 0..2 {
            let answer = lab.delete(&format!("/templates/{id}?cascade=true")).await;
            assert_eq!(answer.json()["data"], json!({"template_id": id, "status": "deleting"}));
        }

        lab.sql("UPDATE vm_template SET blocked_reason = 'linked clones: 107'").await;
        let detail = lab.get(&format!("/templates/{id}/detail?include_instances=1")).await;
        assert_eq!(detail["status"], json!("deleting"));
        assert_eq!(detail["blocked_reason"], json!("linked clones: 107"));
        assert_eq!(detail["instances"][1]["status"], json!("deleting"));
        let events = "SELECT action AS t FROM audit_event WHERE result = 'done' ORDER BY id";
        assert_eq!(lab.texts(events).await, ["template.upload", "template.delete_cascade"]);
        for (answer, reason) in [
            (lab.delete(&format!("/templates/{id}")).await, "deleting"),
            (lab.post(&format!("/templates/{id}/retry"), None).await, "deleting"),
            (lab.post("/templates/sync-tasks/1/cancel", None).await, "deleting"),
            (
                lab.post(&format!("/templates/{id}/sync"), Some(json!({"target_node_ids": [3]})))
                    .await,
                "deleting",
            ),
        ] {
            let (status, said, ..) = refused(&answer);
            assert_eq!((status, said.as_str()), (409, reason));
        }
    }
}

// B14, the API's side
#[tokio::test]
async fn the_import_is_retried_and_cancelled_like_a_task() {
    for lab in Lab::all("primary").await {
        let id = lab.template("web", 5, "").await;
        let path = |end: &str| format!("/templates/{id}/{end}");
        let early = lab.post(&path("retry"), None).await;
        lab.sql(
            "UPDATE template_upload SET status = 'failed', error_message = 'no space', \
             import_progress = 40, observed_generation = 1",
        )
        .await;
        lab.sql(
            "UPDATE template_instance SET status = 'failed', error_message = 'no space', \
             observed_generation = 1",
        )
        .await;
        let over = lab.post(&path("cancel"), None).await;

        let again = lab.post(&path("retry"), None).await;

        assert_eq!((refused(&early).0, refused(&over).0), (409, 409));
        assert_eq!(
            again.json()["data"],
            json!({"template_id": id, "upload_id": 1, "status": "uploaded"})
        );
        let detail = lab.get(&path("detail?include_instances=true")).await;
        let upload = &detail["upload_info"];
        assert_eq!(
            (&upload["status"], &upload["error_message"], &upload["import_progress"]),
            (&json!("uploaded"), &Value::Null, &json!(0))
        );
        assert_eq!(detail["instances"][0]["status"], json!("pending"));
        assert_eq!(detail["instances"][0]["error_message"], Value::Null);
        let generations = "SELECT CONCAT(u.generation, '/', i.generation, '/', i.desired) AS t FROM \
                           template_upload u JOIN template_instance i ON i.upload_id = u.id";
        assert_eq!(lab.texts(generations).await, ["2/2/available"]);

        assert_eq!(lab.post(&path("cancel"), None).await.status, StatusCode::OK);
        assert_eq!(lab.texts(generations).await, ["2/2/cancelled"]);
        assert_eq!(lab.post(&path("retry"), None).await.status, StatusCode::OK);
        assert_eq!(lab.texts(generations).await, ["3/3/available"]);
    }
}

#[tokio::test]
async fn templates_are_listed_by_cluster_name_and_state() {
    for lab in Lab::all("list").await {
        for name in ["one", "two"] {
            lab.template(name, 5, "2").await;
        }
        let names = async |query: &str| -> Vec<String> {
            let list = lab.get(&format!("/templates{query}")).await["list"].clone();
            let name = |it: &Value| it["template_name"].as_str().unwrap().to_owned();
            list.as_array().unwrap().iter().map(name).collect()
        };

        assert_eq!(names("").await, ["two", "one"]);
        assert_eq!(names("?template_name=one").await, ["one"]);
        assert_eq!(names("?page=2&page_size=1").await, ["one"]);
        assert_eq!(names("?status=deleting").await, Vec::<String>::new());
        assert_eq!(names("?cluster_id=2").await, Vec::<String>::new());
        let first = lab.get("/templates?template_name=one").await["list"][0].clone();
        assert_eq!((&first["instance_count"], &first["available_count"]), (&json!(2), &json!(0)));
        assert_eq!(first["upload_info"]["version"], json!(1));
        for path in ["/templates?status=gone", "/templates?name=x", "/templates/x/detail"] {
            let answer = call(&lab.router, "GET", &format!("/api/v1{path}"), &[], "").await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        }
        let nowhere = call(&lab.router, "GET", "/api/v1/templates/41/detail", &[], "").await;
        assert_eq!(refused(&nowhere).3, "no template with id 41");
    }
}

#[tokio::test]
async fn without_an_image_store_uploads_are_a_503_that_says_so() {
    let api = TestApi::all("no_store").await.swap_remove(0);
    let router = router(api.database.db.clone());

    let answer = upload(&router, &[Text("template_name", "x")]).await;

    let (status, reason, _, message) = refused(&answer);
    assert_eq!((status, reason.as_str()), (503, "no_image_store"));
    assert!(message.contains("--images"), "{message}");
}
