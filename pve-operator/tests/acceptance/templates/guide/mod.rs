//! The guide, word for word: its `curl` commands are taken out of `docs/template-management-guide.md`
//! and run, and what comes back is held against what it shows.
//!
//! Its sections were written apart: a name is uploaded twice, and template 2 of one is template 1 of
//! another. So there is a fresh installation for each group of sections that belong together.
//!
//! Storages have the ids that the guide speaks of because the rows are there before the mirror
//! starts, in the order of [`STORAGES`] and [`NODES`]; it finds them by name and keeps their ids.

mod shape;
mod text;

use std::{collections::BTreeSet, ffi::OsStr, path::Path, time::Duration};

use pve_sim::{Config, Outcome, Storage};
use schema::{
    testing::TestDatabase,
    token::{NewToken, Scope},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use text::Command;

use crate::support::{LATER, Workshop, eventually, on_every_database};

/// Ids 1 to 5.
const NODES: [&str; 5] = ["pve-node1", "pve-node2", "pve-node3", "pve-node4", "pve-node5"];

/// Five storages on five nodes, the first node last: on pve-node1 they are 5, 10, 15, 20 and 25.
const STORAGES: [(&str, &str, bool); 5] = [
    ("backup", "nfs", true),
    ("ceph-storage", "rbd", true),
    ("ceph-vm", "rbd", true),
    ("local", "dir", false),
    ("local-lvm", "lvmthin", false),
];

/// Files that the commands upload.
const FILES: [&str; 5] = [
    "centos7.qcow2",
    "ubuntu-22.04-cloud.qcow2",
    "debian-12.qcow2",
    "ubuntu2204.qcow2",
    "debian12.qcow2",
];

const FIRST: [&str; 3] = ["3. 上传第一个模板", "2. 查询模板详情", "7. 列出模板实例"];
const LOCAL: [&str; 5] = [
    "1. 上传并导入模板",
    "3. 手动同步模板",
    "4. 查询同步任务",
    "5. 列出同步任务",
    "6. 重试同步任务",
];
const SCENARIO_1: &str = "场景 1：使用共享存储部署模板";
const SCENARIO_2: &str = "场景 2：使用本地存储部署模板";
const SCENARIO_3: &str = "场景 3：批量部署模板";
const FAILURE: &str = "3. 同步失败处理";

/// Between two looks, beside what waiting itself pauses.
const PAUSE: Duration = Duration::from_millis(200);

/// Operator, API and a simulated cluster as the guide has them in mind.
struct Reader {
    workshop: Workshop,
    port: u16,
    token: String,
    folder: TempDir,
}

impl Reader {
    /// `auth` as `--api-auth` takes it: the scenarios carry no token.
    async fn start(database: TestDatabase, auth: &str) -> Self {
        let mut config = Config::quick().guests(0).node_names(&NODES);
        for (name, plugin, shared) in STORAGES {
            let storage = Storage::new(name, plugin, contents(plugin));
            config = config.storage(if shared { storage.shared() } else { storage });
        }
        let mut workshop = Workshop::closed(database, config).await;
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mirror = &mut workshop.mirror;
        // The workshop writes to its own folder, and a folder has one writer.
        mirror.option("--images", &format!("file://{}", folder.path().join("images").display()));
        mirror.option("--api", "127.0.0.1:0");
        mirror.option("--api-auth", auth);
        mirror.sql("UPDATE pve_cluster SET cluster_name = 'prod-cluster'").await;
        for node in NODES {
            mirror
                .sql(&format!(
                    "INSERT INTO pve_node (node_name, cluster_id, status, resource_hash) \
                     VALUES ('{node}', 1, 'unknown', '')"
                ))
                .await;
        }
        let type_ = if mirror.kind() == "mysql" { "`type`" } else { "\"type\"" };
        for (storage, plugin, shared) in STORAGES {
            for node in NODES[1..].iter().chain(&NODES[..1]) {
                mirror
                    .sql(&format!(
                        "INSERT INTO pve_storage (storage_name, node_name, cluster_id, {type_}, shared, resource_hash) \
                         VALUES ('{storage}', '{node}', 1, '{plugin}', {}, '')",
                        i32::from(shared)
                    ))
                    .await;
            }
        }
        let new = NewToken { name: "guide", scope: Scope::Write, expires_at: None, creator: None };
        let token = mirror.db().write(async |conn| schema::token::create(conn, &new).await);
        let token = token.await.expect("a token can be made").expose().to_owned();
        "prod-cluster".clone_into(&mut workshop.it.name);
        workshop.start().await;

        for (file, gib) in FILES.into_iter().zip(1..) {
            let mut qemu = std::process::Command::new("qemu-img");
            qemu.args(["create", "-q", "-f", "qcow2", file, &format!("{gib}G")]);
            let outcome = qemu.current_dir(folder.path()).status();
            assert!(outcome.expect("scripts/test installs qemu-img").success());
        }
        let port = workshop.mirror.operator().api.expect("the API is served").port();
        let reader = Self { workshop, port, token, folder };
        reader.the_ids_are_the_guides().await;
        reader
    }

    async fn the_ids_are_the_guides(&self) {
        let (mirror, cluster) = (&self.workshop.mirror, self.workshop.cluster());
        assert_eq!(cluster.0, 1);
        let nodes = mirror.nodes(cluster).await;
        let nodes: Vec<_> = nodes.iter().map(|it| (it.id.0, &*it.synced.node_name)).collect();
        assert_eq!(nodes, (1..).zip(NODES).collect::<Vec<_>>());
        let storages = mirror.storages(cluster).await;
        for (id, name, shared) in [
            (10, "ceph-storage", true),
            (15, "ceph-vm", true),
            (20, "local", false),
            (25, "local-lvm", false),
        ] {
            let row = storages.iter().find(|it| it.id.0 == id).expect("there are 25 storages");
            let key = &row.synced.key;
            assert_eq!((&*key.node_name, &*key.storage_name), (NODES[0], name));
            assert_eq!(row.synced.shared.0, shared);
        }
    }

    /// Runs a command of the guide as it stands there; answers with HTTP's status and the body.
    async fn run(&self, command: &Command, task: i64) -> (u16, Value) {
        let text = command
            .text
            .replace("localhost:8080", &format!("localhost:{}", self.port))
            .replace("YOUR_TOKEN", &self.token)
            .replace("{task_id}", &task.to_string())
            .replace("/path/to/", "");
        let script = format!("{text} --silent --show-error --write-out '\\n%{{http_code}}'");
        let mut bash = std::process::Command::new("bash");
        bash.arg("-c").arg(script).current_dir(self.folder.path());
        // The machine's proxy has no business between a test and itself.
        bash.env("NO_PROXY", "*");
        let output = tokio::task::spawn_blocking(move || bash.output());
        let output = output.await.expect("waiting does not panic").expect("there is a bash");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{}\n{text}{}",
            command.text,
            String::from_utf8_lossy(&output.stderr)
        );
        let (body, status) = text.rsplit_once('\n').expect("the status is on the last line");
        let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
        (status.parse().expect("curl says a number"), body)
    }

    /// Runs a command whose answer is final, and holds it against the one that is shown.
    async fn once(&self, command: &Command, task: i64) -> Value {
        let (status, body) = self.run(command, task).await;
        assert_eq!(status, 200, "{}\n{body}", command.text);
        assert_eq!((&body["code"], &body["message"]), (&json!(200), &json!("success")));
        if let Some(shown) = &command.answer {
            let wrong = shape::differences(shown, &body);
            assert!(wrong.is_empty(), "{}\n{wrong:#?}\n{body:#}", command.text);
        }
        body["data"].clone()
    }

    /// Asks until the answer is the one that is shown, and is what was waited for.
    async fn until(&self, command: &Command, task: i64, there: impl Fn(&Value) -> bool) -> Value {
        eventually(&command.text, LATER, || async {
            let (status, body) = self.run(command, task).await;
            assert_eq!(status, 200, "{}\n{body}", command.text);
            let shown = command.answer.as_ref();
            let wrong = shown.map(|shown| shape::differences(shown, &body)).unwrap_or_default();
            if wrong.is_empty() && there(&body["data"]) {
                Ok(body["data"].clone())
            } else {
                // Each look is two processes, beside all the other tests.
                tokio::time::sleep(PAUSE).await;
                Err((wrong, body))
            }
        })
        .await
    }

    /// Waits until every task of the installation has this status.
    async fn until_tasks(&self, status: &str) {
        let list = Command {
            heading: String::new(),
            text: format!(
                "curl 'http://localhost:8080/api/v1/templates/sync-tasks?page_size=100' -H 'Authorization: Bearer {}'",
                self.token
            ),
            answer: None,
        };
        self.until(&list, 0, |data| {
            let tasks = data["list"].as_array().expect("a list");
            !tasks.is_empty() && tasks.iter().all(|task| task["status"] == status)
        })
        .await;
    }

    /// What nobody can do by the guide's commands alone.
    async fn post(&self, path: &str) -> Value {
        let text = format!(
            "curl -X POST 'http://localhost:8080/api/v1{path}' -H 'Authorization: Bearer {}'",
            self.token
        );
        self.once(&Command { heading: String::new(), text, answer: None }, 0).await
    }
}

/// What each type of storage is used for: files and disks, or disks alone.
fn contents(plugin: &str) -> &'static [&'static str] {
    match plugin {
        "nfs" => &["backup"],
        "dir" => &["iso", "vztmpl", "import", "images", "rootdir"],
        _ => &["images", "rootdir"],
    }
}

/// The commands under a heading.
fn under(heading: &str) -> Vec<Command> {
    text::commands().into_iter().filter(|command| command.heading == heading).collect()
}

fn only(heading: &str) -> Command {
    let all = under(heading);
    assert_eq!(all.len(), 1, "commands under {heading}");
    all.into_iter().next().expect("there is one")
}

fn statuses(instances: &Value) -> Vec<&str> {
    let list = instances["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|it| it["status"].as_str()).collect()
}

fn all_available(count: usize) -> impl Fn(&Value) -> bool {
    move |instances| statuses(instances) == vec!["available"; count]
}

#[test]
fn no_command_of_the_guide_is_left_out() {
    let commands = text::commands();
    let there: BTreeSet<&str> = commands.iter().map(|command| command.heading.as_str()).collect();
    let run = [SCENARIO_1, SCENARIO_2, SCENARIO_3, FAILURE];
    let run: BTreeSet<&str> = FIRST.into_iter().chain(LOCAL).chain(run).collect();
    assert_eq!(there, run);
    assert_eq!(commands.len(), 20);
    assert_eq!(commands.iter().filter(|command| command.answer.is_some()).count(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_template_and_its_details_are_as_the_guide_shows_them() {
    on_every_database("guide_first", async |database| {
        let reader = Reader::start(database, "tokens").await;
        let [upload, detail, instances] = FIRST.map(only);

        let uploaded = reader.once(&upload, 0).await;
        assert_eq!(uploaded["sync_tasks"], json!([]), "shared storage needs none");
        let detail = reader.until(&detail, 0, |_| true).await;
        let instances = reader.until(&instances, 0, all_available(5)).await;

        let all = detail["instances"].as_array().expect("they were asked for");
        let vmids: BTreeSet<_> = all.iter().map(|it| it["vmid"].as_i64()).collect();
        assert_eq!((all.len(), vmids.len()), (5, 1), "one guest for all nodes");
        assert_eq!(&instances["instances"], &detail["instances"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_syncs_and_tasks_are_as_the_guide_shows_them() {
    on_every_database("guide_local", async |database| {
        let reader = Reader::start(database, "tokens").await;
        // The guide looks at a task that is under way.
        reader.workshop.sim().plan("imgcopy", None, Some("pve-node2"), Outcome::Hang);
        let [_, sync, task, list, retry] = LOCAL.map(|heading| under(heading).pop().expect("one"));

        let uploads = under(LOCAL[0]);
        assert_eq!(uploads.len(), 2, "one to shared storage, one to local storage");
        for upload in &uploads {
            reader.once(upload, 0).await;
        }
        reader.once(&sync, 0).await;
        reader.until(&task, 0, |_| true).await;
        let listed = reader.until(&list, 0, |data| data["total"] == 1).await;
        let shown = task.answer.as_ref().expect("the guide shows a task");
        let one = json!({ "code": 200, "message": "success", "data": listed["list"][0] });
        assert_eq!(shape::differences(shown, &one), Vec::<String>::new(), "{listed:#}");

        // Only what has ended can be tried again.
        let (status, refused) = reader.run(&retry, 0).await;
        assert_eq!(status, 409, "{refused}");
        reader.post("/templates/sync-tasks/1/cancel").await;
        reader.until(&task_as_it_is(&task), 0, |task| task["status"] == "cancelled").await;
        let again = reader.once(&retry, 0).await;
        assert_eq!(again, json!({ "task_id": 1, "status": "pending" }));
        reader.until_tasks("completed").await;
    })
    .await;
}

/// The same question without the answer that it had before.
fn task_as_it_is(task: &Command) -> Command {
    Command { answer: None, ..task.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_1_shared_storage() {
    on_every_database("guide_scenario_1", async |database| {
        let reader = Reader::start(database, "off").await;
        let [upload, instances] = under(SCENARIO_1).try_into().expect("two commands");

        let uploaded = reader.once(&upload, 0).await;
        assert_eq!(uploaded["is_shared"], true);
        let instances = reader.until(&instances, 0, all_available(5)).await;
        assert_eq!(instances["template_name"], "ubuntu-22.04");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_2_local_storage_and_what_to_do_when_a_sync_fails() {
    on_every_database("guide_scenario_2", async |database| {
        let reader = Reader::start(database, "off").await;
        let [upload, sync, tasks] = under(SCENARIO_2).try_into().expect("three commands");
        let [look, retry] = under(FAILURE).try_into().expect("two commands");

        let uploaded = reader.once(&upload, 0).await;
        assert_eq!(uploaded["import_node"]["node_name"], "pve-node1");
        reader.until(&only_instances(), 0, all_available(1)).await;
        // What somebody has to mend before it can be tried again.
        let full = "No space left on device";
        reader.workshop.sim().plan("qmconfig", None, Some("pve-node3"), Outcome::Fail(full.into()));
        let synced = reader.once(&sync, 0).await;
        let wanted = synced["sync_tasks"].as_array().expect("a list");
        let ids: Vec<i64> = wanted.iter().filter_map(|task| task["task_id"].as_i64()).collect();
        reader
            .until(&tasks, 0, |data| {
                let status = |id: i64| {
                    let list = data["list"].as_array().expect("a list");
                    let task = list.iter().find(|task| task["task_id"] == id);
                    task.map(|task| task["status"].clone()).unwrap_or_default()
                };
                status(ids[0]) == "completed" && status(ids[1]) == "failed"
            })
            .await;

        let failed = reader.once(&look, ids[1]).await;
        let words = failed["error_message"].as_str().unwrap_or_default();
        assert!(words.contains(full), "{failed}");
        reader.once(&retry, ids[1]).await;
        reader.until_tasks("completed").await;
        let done = reader.once(&look, ids[1]).await;
        assert_eq!(done["error_message"], Value::Null, "of the attempt before");
        let file = std::fs::metadata(reader.folder.path().join("debian-12.qcow2"));
        let bytes = json!(file.expect("it was uploaded").len());
        assert_eq!((&done["bytes_done"], &done["bytes_total"]), (&bytes, &bytes));
        reader.until(&only_instances(), 0, all_available(3)).await;
    })
    .await;
}

/// The question of scenario 1, which scenario 2 has no words for.
fn only_instances() -> Command {
    under(SCENARIO_1).pop().expect("its last command shows the instances")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_3_many_templates() {
    on_every_database("guide_scenario_3", async |database| {
        let reader = Reader::start(database, "off").await;
        let commands = under(SCENARIO_3);
        let (monitor, uploads) = commands.split_last().expect("four commands");
        assert_eq!(uploads.len(), 3);
        // Something must be under way when it is looked at.
        reader.workshop.sim().plan("imgcopy", None, Some("pve-node5"), Outcome::Hang);

        for upload in uploads {
            let uploaded = reader.once(upload, 0).await;
            assert_eq!(uploaded["sync_tasks"].as_array().map(Vec::len), Some(4));
        }
        let syncing = reader
            .until(monitor, 0, |data| {
                let list = data["list"].as_array().expect("a list");
                list.iter().any(|task| task["target_node"]["node_name"] == "pve-node5")
            })
            .await;
        assert!(syncing["total"].as_i64() > Some(0));
        let list = syncing["list"].as_array().expect("a list");
        let stuck = list.iter().find(|task| task["target_node"]["node_name"] == "pve-node5");
        let stuck = stuck.expect("it was seen")["task_id"].clone();
        reader.post(&format!("/templates/sync-tasks/{stuck}/cancel")).await;
        reader
            .until(&only_task(), stuck.as_i64().unwrap_or(0), |task| task["status"] == "cancelled")
            .await;
        reader.post(&format!("/templates/sync-tasks/{stuck}/retry")).await;
        reader.until_tasks("completed").await;
        // The first imports are no tasks, and may be behind.
        let workshop = &reader.workshop;
        eventually("three templates on five nodes", LATER, || async {
            let there = NODES.map(|node| workshop.templates_on(node).len());
            if there == [3; 5] { Ok(()) } else { Err(there) }
        })
        .await;
    })
    .await;
}

fn only_task() -> Command {
    under(FAILURE).into_iter().next().expect("its first command shows a task")
}

/// What people would generate from the API's description does what the guide's commands do.
/// `scripts/test` brings the generator and says where in `API_CLIENTS`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_python_client_does_the_three_scenarios() {
    let tools = std::env::var("API_CLIENTS").expect(
        "API_CLIENTS names a folder with openapi-python-client; `scripts/test -p pve-operator guide` brings it",
    );
    let reader = Reader::start(TestDatabase::sqlite("guide_client").await, "tokens").await;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = reader.folder.path();
    let config = folder.join("generator.yml");
    let plain = "package_name_override: pve_api_client\nproject_name_override: pve-api-client\npost_hooks: []\ncontent_type_overrides:\n  application/offset+octet-stream: application/octet-stream\n";
    std::fs::write(&config, plain).expect("the folder can be written to");
    let python = |arguments: &[&OsStr]| {
        let mut python = tokio::process::Command::new("python3");
        python.args(arguments).current_dir(folder).kill_on_drop(true);
        python.env("PYTHONPATH", format!("{tools}:{}", folder.join("client").display()));
        python.env("NO_PROXY", "*").env("PYTHONDONTWRITEBYTECODE", "1");
        python.output()
    };

    let document = here.join("../pve-api/openapi.json");
    let generated = python(&[
        "-m".as_ref(),
        "openapi_python_client".as_ref(),
        "generate".as_ref(),
        "--path".as_ref(),
        document.as_ref(),
        "--output-path".as_ref(),
        "client".as_ref(),
        "--config".as_ref(),
        config.as_ref(),
        "--fail-on-warning".as_ref(),
    ]);
    succeeded(&generated.await.expect("there is a python3"));
    let script = here.join("tests/acceptance/templates/guide/client.py");
    let url = format!("http://127.0.0.1:{}", reader.port);
    let scenarios =
        python(&[script.as_ref(), url.as_ref(), reader.token.as_ref(), folder.as_ref()]);
    succeeded(&scenarios.await.expect("there is a python3"));
}

fn succeeded(output: &std::process::Output) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}
