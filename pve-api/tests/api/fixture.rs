//! An API over a fresh database, and rows with defaults: a test names only what matters to it.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;
use pve_api::{Auth, Settings};
use schema::guest::{self, GuestKind, SyncedGuest};
use schema::node::{self, NodeStatus, SyncedNode};
use schema::storage::{self, StorageKey, StorageUsage, SyncedStorage};
use schema::testing::TestDatabase;
use schema::{ClusterId, Db, Flag};
use serde_json::Value;
use tower::ServiceExt;

pub(crate) const LAB: ClusterId = ClusterId(1);
pub(crate) const ATTIC: ClusterId = ClusterId(2);

/// What must never be answered.
pub(crate) const TOKEN: &str = "hunter2-token";

#[derive(Debug)]
pub(crate) struct TestApi {
    pub database: TestDatabase,
    pub router: Router,
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }
}

impl TestApi {
    /// One for each database, with the clusters `lab` and `attic` and nothing in them.
    pub(crate) async fn all(name: &str) -> Vec<Self> {
        let mut all = Vec::new();
        for database in TestDatabase::all(name).await {
            let api = Self::over(database);
            for name in ["lab", "attic"] {
                api.sql(&format!(
                    "INSERT INTO pve_cluster (cluster_name, api_url, user_id, user_token) \
                     VALUES ('{name}', 'https://pve.example:8006', 'api@pve!mirror', '{TOKEN}')"
                ))
                .await;
            }
            all.push(api);
        }
        all
    }

    pub(crate) fn over(database: TestDatabase) -> Self {
        Self { router: router(database.db.clone()), database }
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        let answer = send(&self.router, "GET", path).await;
        (answer.status, answer.json())
    }

    /// The list at `path`, which must be one.
    pub(crate) async fn list(&self, path: &str) -> Vec<Value> {
        let (status, body) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path} on {}: {body}", self.database.kind());
        body["data"]["list"].as_array().expect("a list").clone()
    }

    /// One field of each element of the list at `path`.
    pub(crate) async fn column(&self, path: &str, field: &str) -> Vec<Value> {
        self.list(path).await.into_iter().map(|mut row| row[field].take()).collect()
    }

    pub(crate) async fn sql(&self, sql: &str) {
        self.database.db.conn().await.unwrap().execute_sql(sql).await.unwrap();
    }

    pub(crate) async fn nodes(&self, cluster: ClusterId, nodes: &[SyncedNode]) {
        let write = async |conn: &mut schema::Conn| node::write(conn, cluster, nodes).await;
        assert!(self.database.db.write(write).await.unwrap().rows() > 0);
    }

    pub(crate) async fn guests(&self, cluster: ClusterId, guests: &[SyncedGuest]) {
        let write = async |conn: &mut schema::Conn| guest::write(conn, cluster, guests, &[]).await;
        assert!(self.database.db.write(write).await.unwrap().rows() > 0);
    }

    pub(crate) async fn storages(&self, cluster: ClusterId, storages: &[SyncedStorage]) {
        let write =
            async |conn: &mut schema::Conn| storage::write(conn, cluster, storages, &[]).await;
        assert!(self.database.db.write(write).await.unwrap().rows() > 0);
    }

    /// Gives every row of `table` the same times, of which the last confirmation is yet to come.
    pub(crate) async fn fix_times(&self, table: &str) {
        self.sql(&format!(
            "UPDATE {table} SET gmt_create = '2025-01-02 03:04:05.678', \
             gmt_modified = '2025-01-02 03:04:06', last_sync_time = '2025-01-02 03:04:07.100', \
             last_seen = '2999-12-31 23:59:59.999'"
        ))
        .await;
    }
}

/// The API for whoever comes.
pub(crate) fn router(db: Db) -> Router {
    pve_api::router_with(db, for_anybody())
}

pub(crate) fn for_anybody() -> Settings {
    let mut settings = Settings::default();
    settings.auth = Auth::Off;
    settings
}

pub(crate) async fn send(router: &Router, method: &str, path: &str) -> Answer {
    call(router, method, path, &[], Body::empty()).await
}

/// A request with whatever it needs.
pub(crate) async fn call(
    router: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap()).await
}

pub(crate) async fn answer(response: Response) -> Answer {
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Answer { status: head.status, headers: head.headers, text }
}

pub(crate) fn a_node(name: &str) -> SyncedNode {
    SyncedNode {
        node_name: name.to_owned(),
        ip_address: Some("10.0.0.1".to_owned()),
        env: Some("prod".to_owned()),
        status: NodeStatus::Online,
        pve_version: Some("9.2.11".to_owned()),
        cpu_num: Some(16),
        memory_size: Some(65_536),
        resource_hash: "opaque".to_owned(),
    }
}

pub(crate) fn a_guest(vmid: i64) -> SyncedGuest {
    SyncedGuest {
        vmid,
        vm_name: Some(format!("guest-{vmid}")),
        node_name: "n1".to_owned(),
        kind: GuestKind::Qemu,
        status: "running".to_owned(),
        is_template: Flag(false),
        cpu_num: Some(4),
        memory_size: Some(8192),
        lock: None,
        tags: None,
        pool: None,
        ha_state: None,
        resource_hash: "opaque".to_owned(),
    }
}

pub(crate) fn a_storage(node: &str, name: &str) -> SyncedStorage {
    SyncedStorage {
        key: StorageKey { node_name: node.to_owned(), storage_name: name.to_owned() },
        kind: "dir".to_owned(),
        content: Some("images,import".to_owned()),
        active: Flag(true),
        enabled: Flag(true),
        shared: Flag(false),
        resource_hash: "opaque".to_owned(),
        usage: StorageUsage {
            avail: Some(60),
            used: Some(40),
            total: Some(100),
            used_fraction: Some(0.4),
        },
    }
}
