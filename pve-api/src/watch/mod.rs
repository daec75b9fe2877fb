//! Sync tasks as they change, to whoever keeps a connection open for it.
//!
//! ```text
//! tables --look, 4 a second--> follower --> board --cursor--> watcher --> WebSocket
//!                            (one, while    (newest message   (its place;  or event stream
//!                          somebody watches)  of each task)    no queue)
//! ```
//!
//! - *board*: of each task the newest message, made once, in the order of revisions.
//! - *watcher*: one connection. It has no queue: it remembers up to which revision it was told, and
//!   takes from the board what is newer when its peer has room. So a slow one holds up nobody,
//!   costs no memory, and gets the newest state of what changed often.
//! - *revision*: stands in each message; everything up to it was told, so it is where to go on
//!   after a break.
//!
//! Nothing is lost between the current state and what changes after it, because both are the same
//! walk along the board.

mod board;
mod follower;
mod message;
mod request;
mod sse;
mod watcher;
mod ws;

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schema::Db;
use serde_json::json;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::auth::{Auth, Caller};
use crate::error::{ApiError, Refusal};
use crate::metrics::WatchMetrics;
use crate::openapi::{Operation, Output};
use crate::query::Params;
use crate::{Api, Settings};
use board::Board;
use message::Message;
use request::{Ask, Form, Start};
use watcher::Watcher;

/// `GET /templates/sync-tasks/watch`: the tasks that pass every filter as they are, then each
/// change.
///
/// 406 if the caller can take neither of the two forms; 429 while as many watch as may; 503 while
/// the database is away.
pub(crate) async fn watch(
    State(api): State<Api>,
    caller: Caller,
    Params(mut start): Params<Start>,
    ask: Ask,
) -> Result<Stream, ApiError> {
    start.since = ask.last_event_id.or(start.since);
    Ok(Stream(match ask.form {
        Form::WebSocket(upgrade) => {
            let watcher = api.watch.begin(start, caller, "websocket").await?;
            ws::answer(upgrade, watcher, &api.settings.tasks)
        }
        Form::EventStream => sse::answer(api.watch.begin(start, caller, "event_stream").await?),
    }))
}

/// Messages without an end.
#[derive(Debug)]
pub(crate) struct Stream(Response);

impl IntoResponse for Stream {
    fn into_response(self) -> Response {
        self.0
    }
}

impl Output for Stream {
    fn describe(operation: &mut Operation) {
        let message = operation.schema_of_output::<Message>();
        let events = json!({
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": message,
        });
        let content = json!({"text/event-stream": {"schema": events}});
        let events =
            "Server-sent events; the `data` of each is one message, its `id` the revision.";
        operation.answers_with(200, events, json!({"content": content}));
        let socket = "A WebSocket; each text frame is one message, a `WatchMessage`.";
        operation.answers_with(101, socket, json!({}));
        operation.explain(
            "A WebSocket, or server-sent events with `Accept: text/event-stream`: the tasks as they \
             are, then each change, without an end.",
        );
    }
}

/// All that watchers of one router share. Clones are the same.
#[derive(Clone)]
pub(crate) struct Watch(Arc<Shared>);

struct Shared {
    db: Db,
    auth: Auth,
    tasks: TaskTracker,
    stopping: CancellationToken,
    places: Arc<Semaphore>,
    most: usize,
    board: RwLock<Board>,
    /// Names of tokens that open nothing any more.
    unfit: RwLock<Arc<HashSet<String>>>,
    /// Told whenever one of the two above changed.
    news: watch::Sender<()>,
    /// How many looks at the tables have begun, and the last one that saw them.
    begun: AtomicU64,
    looks: watch::Sender<u64>,
    /// Told when somebody waits for a look.
    wanted: Notify,
    /// Whether there is a follower.
    followed: Mutex<bool>,
    metrics: WatchMetrics,
}

/// How long a new watcher waits for a look at the tables.
const FIRST_LOOK: Duration = Duration::from_secs(5);

impl Watch {
    pub(crate) fn new(db: Db, settings: &Settings, metrics: WatchMetrics) -> Self {
        Self(Arc::new(Shared {
            db,
            auth: settings.auth,
            tasks: settings.tasks.clone(),
            stopping: settings.stopping.clone(),
            places: Arc::new(Semaphore::new(settings.max_watchers)),
            most: settings.max_watchers,
            board: RwLock::new(Board::empty()),
            unfit: RwLock::default(),
            news: watch::Sender::new(()),
            begun: AtomicU64::new(0),
            looks: watch::Sender::new(0),
            wanted: Notify::new(),
            followed: Mutex::new(false),
            metrics,
        }))
    }

    /// A watcher that stands at the beginning of what it is to be told.
    async fn begin(
        &self,
        start: Start,
        caller: Caller,
        transport: &'static str,
    ) -> Result<Watcher, ApiError> {
        let shared = Arc::clone(&self.0);
        let place = Arc::clone(&shared.places).try_acquire_owned().map_err(|_| {
            let message = format!(
                "{} watchers are connected, which is as many as --max-watchers lets in; try again \
                 later, or ask GET /templates/sync-tasks instead",
                shared.most
            );
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_watchers", message)
        })?;
        let begun = shared.begun.load(Ordering::SeqCst);
        let mut looks = shared.looks.subscribe();
        // With its place taken first: a follower that is about to end looks for those.
        follower::ensure(&shared);
        shared.wanted.notify_one();
        // One that began after the request, so that what the caller did before is seen.
        let looked = async { looks.wait_for(|look| *look > begun).await.is_ok() };
        tokio::select! {
            looked = timeout(FIRST_LOOK, looked) => {
                if looked.is_err() {
                    return Err(ApiError::Slow);
                }
            }
            // Nobody looks any more. It is the first thing that the watcher tells.
            () = shared.stopping.cancelled() => {}
        }
        Ok(Watcher::new(shared, start, caller.name, place, transport))
    }
}

impl Shared {
    fn board(&self) -> RwLockReadGuard<'_, Board> {
        self.board.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn board_to_write(&self) -> RwLockWriteGuard<'_, Board> {
        self.board.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_unfit(&self, token: &str) -> bool {
        self.unfit.read().unwrap_or_else(PoisonError::into_inner).contains(token)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("most", &self.0.most).finish_non_exhaustive()
    }
}
