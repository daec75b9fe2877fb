//! The part of a Kubernetes API server that lists and watches pods, with its memory and its limits.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The server gives out no larger pages, whatever the client allows.
const PAGE: usize = 2;

/// Clones are the same server; it is gone with the last one.
#[derive(Clone)]
pub(crate) struct Fake {
    url: String,
    world: Arc<World>,
    _server: Arc<JoinSet<()>>,
}

struct World {
    history: Mutex<History>,
    /// Changes whenever watches have something to send.
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct History {
    revision: u64,
    pods: BTreeMap<String, Value>,
    /// Lines of watches with their revision. A bookmark has that of the change before it.
    log: Vec<(u64, Value)>,
    /// Cursors below this have expired.
    oldest: u64,
    /// Watches that began before the last of these end.
    hang_ups: u64,
    lists: u64,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let news = watch::Sender::new(0);
        let world = Arc::new(World { history: Mutex::default(), news });
        let pods = get(pods).with_state(world.clone());
        let app = Router::new().route("/api/v1/namespaces/default/pods", pods);
        let mut server = JoinSet::new();
        server.spawn(async { axum::serve(listener, app).await.expect("serving does not fail") });
        Self { url, world, _server: Arc::new(server) }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn set(&self, name: &str, phase: &str) {
        self.change(|history| {
            let pod = pod(name, phase, history.revision);
            let known = history.pods.insert(name.to_owned(), pod.clone()).is_some();
            let kind = if known { "MODIFIED" } else { "ADDED" };
            history.log.push((history.revision, json!({ "type": kind, "object": pod })));
        });
    }

    pub(crate) fn remove(&self, name: &str) {
        self.change(|history| {
            let mut pod = history.pods.remove(name).expect("it is there");
            pod["metadata"]["resourceVersion"] = history.revision.to_string().into();
            history.log.push((history.revision, json!({ "type": "DELETED", "object": pod })));
        });
    }

    /// Moves the revision, as changes elsewhere in the cluster do, tells watches, and answers it.
    pub(crate) fn bookmark(&self) -> u64 {
        self.change(|history| {
            let mark = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "resourceVersion": history.revision.to_string() },
            });
            history.log.push((history.revision, json!({ "type": "BOOKMARK", "object": mark })));
        })
    }

    /// Ends every watch.
    pub(crate) fn hang_up(&self) {
        self.world.history.lock().hang_ups += 1;
        self.world.news.send_modify(|news| *news += 1);
    }

    /// Forgets the history up to a revision.
    pub(crate) fn compact(&self, until: u64) {
        let mut history = self.world.history.lock();
        history.log.retain(|(revision, _)| *revision > until);
        history.oldest = until;
    }

    /// The number of the last change.
    pub(crate) fn revision(&self) -> u64 {
        self.world.history.lock().revision
    }

    /// Lists so far, however many pages.
    pub(crate) fn lists(&self) -> u64 {
        self.world.history.lock().lists
    }

    fn change(&self, change: impl FnOnce(&mut History)) -> u64 {
        let mut history = self.world.history.lock();
        history.revision += 1;
        change(&mut history);
        self.world.news.send_modify(|news| *news += 1);
        history.revision
    }
}

fn pod(name: &str, phase: &str, revision: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default", "uid": format!("uid-of-{name}"),
            "resourceVersion": revision.to_string(),
        },
        "spec": { "containers": [{ "name": "main" }] },
        "status": { "phase": phase },
    })
}

async fn pods(
    State(world): State<Arc<World>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let number = |name: &str| query.get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
    if query.get("watch").is_some_and(|on| on == "true") {
        let bookmarks = query.get("allowWatchBookmarks").is_some_and(|on| on == "true");
        return watch_from(world, number("resourceVersion"), bookmarks);
    }
    let mut history = world.history.lock();
    let start = usize::try_from(number("continue")).unwrap_or(0);
    history.lists += u64::from(start == 0);
    let items: Vec<&Value> = history.pods.values().skip(start).take(PAGE).collect();
    let end = start + items.len();
    let rest = if end < history.pods.len() { end.to_string() } else { String::new() };
    let metadata = json!({ "resourceVersion": history.revision.to_string(), "continue": rest });
    let list =
        json!({ "apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": items });
    Json(list).into_response()
}

/// Sends one JSON object a line; what has expired is said in such a line, too.
fn watch_from(world: Arc<World>, since: u64, bookmarks: bool) -> Response {
    let hang_ups = world.history.lock().hang_ups;
    let news = world.news.subscribe();
    let lines = stream::unfold(Some((world, since, news)), move |state| async move {
        let (world, since, mut news) = state?;
        loop {
            news.borrow_and_update();
            if let Some((lines, at)) = world.lines(since, hang_ups, bookmarks)? {
                let next = at.map(|at| (world, at, news));
                return Some((Ok::<_, Infallible>(Bytes::from(lines)), next));
            }
            news.changed().await.ok()?;
        }
    });
    Body::from_stream(lines).into_response()
}

impl World {
    /// What a watch sends next, and where it is then (`None`: it ends); nothing yet; or the end.
    #[expect(clippy::option_option, reason = "the end of a stream, and nothing yet")]
    fn lines(
        &self,
        since: u64,
        hang_ups: u64,
        bookmarks: bool,
    ) -> Option<Option<(String, Option<u64>)>> {
        let history = self.history.lock();
        if history.hang_ups > hang_ups {
            return None;
        }
        if since < history.oldest {
            let status = json!({
                "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Expired",
                "code": 410, "message": format!("too old resource version: {since}"),
            });
            return Some(Some((
                format!("{}\n", json!({ "type": "ERROR", "object": status })),
                None,
            )));
        }
        let mut lines = String::new();
        for (_, line) in history.log.iter().filter(|(revision, _)| *revision > since) {
            if bookmarks || line["type"] != "BOOKMARK" {
                writeln!(lines, "{line}").expect("a string takes everything");
            }
        }
        Some((!lines.is_empty()).then_some((lines, Some(history.revision))))
    }
}
