//! How each database goes about each list, held against `plans/DATABASE/LIST.txt`: a lost index or
//! a query that no longer fits one fails here.
//!
//! `UPDATE_PLANS=1` writes the files anew; look at the difference before you keep it. The files are
//! of MariaDB 10.11 and PostgreSQL 15, which `scripts/databases` gets on Debian 12.

use std::path::PathBuf;
use std::time::Duration;

use schema::guest::GuestFilter;
use schema::node::{NodeFilter, NodeStatus};
use schema::page::{Page, Sort, SortKey, Start};
use schema::storage::StorageFilter;
use schema::sync_task::TaskStatus;
use schema::template_view::{self, TaskFilter, TemplateFilter};
use schema::testing::{self, List, TestDatabase};
use schema::{Backend, ClusterId, Db, NodeId, TemplateId, guest, node, storage};

use tokio::time::timeout;

use crate::builders::{run, texts};

#[tokio::test]
async fn each_list_is_read_as_it_is_meant_to_be() {
    let update = std::env::var("UPDATE_PLANS").is_ok_and(|it| it == "1");
    let mut wrong = Vec::new();
    for database in TestDatabase::all("plans").await {
        let (db, kind) = (&database.db, database.kind());
        fill(db).await;
        let folder =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/databases/plans").join(kind);
        for (name, list, page) in lists() {
            let plan = testing::plan(&mut db.conn().await.unwrap(), &list, page).await.unwrap();
            let plan = plan.join("\n") + "\n";
            let file = folder.join(format!("{name}.txt"));
            if update {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&file, &plan).unwrap();
            }
            let kept = std::fs::read_to_string(&file).unwrap_or_default();
            if kept != plan {
                wrong.push(format!("{kind}/{name}, as kept:\n{kept}as it is:\n{plan}"));
            }
        }
    }
    assert!(wrong.is_empty(), "UPDATE_PLANS=1 keeps these:\n\n{}", wrong.join("\n"));
}

fn lists() -> Vec<(&'static str, List, Page)> {
    let guests = |change: fn(&mut GuestFilter)| {
        let mut filter = GuestFilter::default();
        change(&mut filter);
        List::Guests(filter)
    };
    let of_cluster = guests(|f| f.cluster_id = Some(ClusterId(3)));
    let first = Page::number(1, 10);
    let deep = Page::number(100, 10);
    let after = Page::after(5000, 10);
    vec![
        ("vms", guests(|_| ()), first),
        ("vms_after", guests(|_| ()), after),
        ("vms_by_name", guests(|_| ()), by(guest::SORTS, "name")),
        ("vms_of_cluster", of_cluster.clone(), first),
        ("vms_of_cluster_page_100", of_cluster.clone(), deep),
        ("vms_of_cluster_after", of_cluster.clone(), after),
        ("vms_of_cluster_by_name", of_cluster.clone(), by(guest::SORTS, "name")),
        ("vms_of_cluster_by_vmid", of_cluster, by(guest::SORTS, "vmid")),
        ("vms_of_cluster_name", guests(|f| f.cluster_name = Some("c3".into())), first),
        ("vms_of_node", guests(|f| f.node_id = Some(NodeId(7))), first),
        ("vms_of_node_name", guests(|f| f.node_name = Some("n7".into())), first),
        ("vms_with_name", guests(|f| f.name = Some("guest-77".into())), first),
        ("vms_with_vmid", guests(|f| f.vmid = Some(177)), first),
        ("vms_in_pool", guests(|f| f.pool = Some("pool-7".into())), first),
        ("vms_with_tag", guests(|f| f.tag = Some("tag-7".into())), first),
        ("vms_with_tag_after", guests(|f| f.tag = Some("tag-7".into())), after),
        (
            "vms_of_cluster_with_tag",
            guests(|f| {
                f.cluster_id = Some(ClusterId(3));
                f.tag = Some("tag-7".into());
            }),
            first,
        ),
        (
            "vms_of_cluster_with_status",
            guests(|f| {
                f.cluster_id = Some(ClusterId(3));
                f.status = Some("stopped".into());
            }),
            first,
        ),
        ("vms_templates", guests(|f| f.is_template = Some(true)), first),
        ("nodes", List::Nodes(NodeFilter::default()), first),
        (
            "nodes_of_cluster",
            List::Nodes(NodeFilter {
                cluster_id: Some(ClusterId(3)),
                status: Some(NodeStatus::Online),
                ..NodeFilter::default()
            }),
            first,
        ),
        ("nodes_by_name", List::Nodes(NodeFilter::default()), by(node::SORTS, "name")),
        ("storages", List::Storages(StorageFilter::default()), first),
        ("storages_by_name", List::Storages(StorageFilter::default()), by(storage::SORTS, "name")),
        (
            "storages_of_node",
            List::Storages(StorageFilter { node_id: Some(NodeId(7)), ..StorageFilter::default() }),
            first,
        ),
        ("templates", List::Templates(TemplateFilter::default()), first),
        (
            "templates_by_name",
            List::Templates(TemplateFilter::default()),
            by(template_view::SORTS, "name"),
        ),
        ("tasks", List::Tasks(TaskFilter::default()), first),
        ("tasks_after", List::Tasks(TaskFilter::default()), after),
        (
            "tasks_of_template",
            List::Tasks(TaskFilter { template_id: Some(TemplateId(7)), ..TaskFilter::default() }),
            first,
        ),
        (
            "tasks_with_status",
            List::Tasks(TaskFilter { status: Some(TaskStatus::Failed), ..TaskFilter::default() }),
            first,
        ),
    ]
}

fn by(keys: &[SortKey], word: &str) -> Page {
    let key = *keys.iter().find(|key| key.word == word).unwrap();
    Page { start: Start::Number(2, Sort { key, descending: false }), page_size: 10 }
}

/// Ten clusters of 20 nodes and 2,000 guests. So many that an index is worth it, and so few that
/// each database looks at all of them for its statistics and always comes to the same.
async fn fill(db: &Db) {
    let mysql = db.url().backend() == Backend::Mysql;
    let series = |to: u32| match db.url().backend() {
        Backend::Postgres => format!("generate_series(0, {}) AS s (n)", to - 1),
        Backend::Mysql => format!("(SELECT seq AS n FROM seq_0_to_{}) s", to - 1),
        Backend::Sqlite => format!(
            "(WITH RECURSIVE c (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < {to} - 1) \
             SELECT n FROM c) s"
        ),
    };
    let join = |word: &str, number: &str| {
        if mysql {
            format!("CONCAT('{word}', {number})")
        } else {
            format!("'{word}' || CAST({number} AS VARCHAR(9))")
        }
    };
    let divided = |number: &str, by: u32| {
        let operator = if mysql { "DIV" } else { "/" };
        format!("({number} {operator} {by})")
    };
    // Rows of a cluster lie together, as they do where clusters are mirrored one by one.
    let statements = [
        format!(
            "INSERT INTO pve_cluster (cluster_name, api_url, user_id, user_token) \
             SELECT {}, 'https://c:8006', 'u', 't' FROM {}",
            join("c", "n + 1"),
            series(10)
        ),
        format!(
            "INSERT INTO pve_node (node_name, cluster_id, status, resource_hash) \
             SELECT {}, 1 + {}, 'online', '' FROM {}",
            join("n", "n % 20"),
            divided("n", 20),
            series(200)
        ),
        format!(
            "INSERT INTO pve_vm (cluster_id, vmid, vm_name, node_name, node_id, kind, status, \
             is_template, pool, resource_hash, descriptions) \
             SELECT 1 + {0}, 100 + n, {1}, {2}, 1 + 20 * {0} + n % 20, 'qemu', \
             CASE WHEN n % 8 = 0 THEN 'stopped' ELSE 'running' END, \
             CASE WHEN n % 100 = 0 THEN 1 ELSE 0 END, {3}, '', {4} FROM {5}",
            divided("n", 2000),
            join("guest-", "n"),
            join("n", "n % 20"),
            join("pool-", "n % 50"),
            join("What people write of it, as long as they write: ", "n"),
            series(20_000)
        ),
        format!(
            "INSERT INTO pve_vm_tag (vm_id, cluster_id, tag) \
             SELECT id, cluster_id, {} FROM pve_vm",
            join("tag-", "id % 30")
        ),
        format!(
            "INSERT INTO pve_storage (node_name, cluster_id, type, storage_name, resource_hash) \
             SELECT node_name, cluster_id, 'dir', {}, '' FROM pve_node, {}",
            join("storage-", "n"),
            series(5)
        ),
        format!(
            "INSERT INTO vm_template (template_name, cluster_id) SELECT {}, 1 + n % 10 FROM {}",
            join("template-", "n"),
            series(300)
        ),
        format!(
            "INSERT INTO template_sync_task (template_id, upload_id, cluster_id, target_node_id, \
             target_node_name, storage_name, status) \
             SELECT 1 + n % 300, 1 + n % 300, 1 + n % 10, 1 + n % 200, 'n', 'local', \
             CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'completed' END FROM {}",
            series(6_000)
        ),
        "INSERT INTO template_instance (template_id, upload_id, cluster_id, node_id, node_name, \
         storage_name, sync_task_id, deleted_id) \
         SELECT template_id, upload_id, cluster_id, target_node_id, 'n', 'local', id, id \
         FROM template_sync_task"
            .to_owned(),
    ];
    for statement in statements {
        run(db, &statement).await;
    }
    match db.url().backend() {
        Backend::Sqlite => run(db, "ANALYZE").await,
        Backend::Postgres => vacuum(db).await,
        Backend::Mysql => {
            for table in TABLES {
                run(db, &format!("ALTER TABLE {table} STATS_SAMPLE_PAGES = 65535")).await;
                run(db, &format!("ANALYZE TABLE {table} PERSISTENT FOR ALL")).await;
            }
        }
    }
}

/// Until every page is known to be seen by all, which an old transaction of somebody else may put
/// off: only then is reading an index alone as cheap as it is in the long run.
async fn vacuum(db: &Db) {
    let seen = format!(
        "SELECT CAST(count(*) AS VARCHAR(9)) AS t FROM pg_class \
         WHERE relname IN ('{}') AND relallvisible >= relpages",
        TABLES.join("', '")
    );
    let vacuum = async {
        loop {
            run(db, "VACUUM (ANALYZE)").await;
            if texts(db, &seen).await == [TABLES.len().to_string()] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_mins(1), vacuum).await.expect("no transaction lasts that long");
}

const TABLES: [&str; 8] = [
    "pve_cluster",
    "pve_node",
    "pve_vm",
    "pve_vm_tag",
    "pve_storage",
    "vm_template",
    "template_instance",
    "template_sync_task",
];
