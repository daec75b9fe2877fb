//! What watchers of sync tasks are told, on every database and over both transports.

use axum::http::StatusCode;
use futures::{StreamExt as _, stream};
use schema::sync_task::{self, TaskStatus};
use schema::{Conn, Db, SyncTaskId, sweep};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::feed::{BOTH, Feed, Listening, PATH, Transport};
use crate::fixture::{LAB, call};
use crate::templates::{Lab, refused};

/// What the operator does when a task has come so far.
pub(crate) async fn the_operator_says(db: &Db, id: i64, status: TaskStatus, progress: i32) {
    let told = async |conn: &mut Conn| {
        let row = sync_task::get(conn, SyncTaskId(id)).await?.expect("the task is there");
        let mut told = row.told;
        (told.status, told.progress) = (status, progress);
        told.observed_generation = row.generation;
        sync_task::record(conn, SyncTaskId(id), &told).await
    };
    db.write(told).await.unwrap();
}

#[tokio::test]
async fn a_watcher_that_comes_while_tasks_change_all_the_time_is_let_in() {
    for lab in Lab::all("watch_busy").await {
        lab.template("web", 5, "2,3").await;
        let server = Listening::start(&lab.router).await;
        let first = Feed::open(server.address, Transport::EventStream, "").await;
        let (db, mut writer) = (lab.api.database.db.clone(), JoinSet::new());
        let enough = CancellationToken::new();
        let ends = enough.clone();
        writer.spawn(async move {
            let mut steps = (0..100).cycle();
            while !ends.is_cancelled() {
                let step = steps.next().unwrap_or_default();
                the_operator_says(&db, 1, TaskStatus::Syncing, step).await;
                the_operator_says(&db, 2, TaskStatus::Syncing, step).await;
            }
        });

        for transport in BOTH {
            Feed::open(server.address, transport, "").await.state().await;
        }

        assert!(writer.try_join_next().is_none(), "it writes all the time");
        drop(first);
        // A database that is in use can not be dropped.
        enough.cancel();
        writer.join_all().await;
    }
}

fn brief(messages: &[Value]) -> Vec<String> {
    let of = |message: &Value| {
        let id = message["task"]["task_id"].as_i64().or(message["task_id"].as_i64());
        let word = message["type"].as_str().unwrap();
        id.map_or(word.to_owned(), |id| format!("{word} {id}"))
    };
    messages.iter().map(of).collect()
}

fn progress(at: i64) -> impl Fn(&Value) -> bool {
    move |task| task["progress"] == at
}

fn status(word: &'static str) -> impl Fn(&Value) -> bool {
    move |task| task["status"] == word
}

#[tokio::test]
async fn what_is_there_comes_first_and_then_each_change_in_order() {
    for lab in Lab::all("watch").await {
        let web = lab.template("web", 5, "2,3").await;
        lab.template("other", 5, "2").await;
        let db = &lab.api.database.db;
        let kind = lab.api.database.kind();
        let server = Listening::start(&lab.router).await;
        for transport in BOTH {
            the_operator_says(db, 1, TaskStatus::Pending, 0).await;
            let query = format!("?template_id={web}");
            let mut feed = Feed::open(server.address, transport, &query).await;

            let mut first = feed.state().await;

            let synced = first.pop().unwrap();
            first.sort_by_key(|message| message["task"]["task_id"].as_i64());
            assert_eq!(brief(&first), ["task 1", "task 2"], "{kind} {transport:?}");
            for message in &first {
                let id = &message["task"]["task_id"];
                let alone = lab.get(&format!("/templates/sync-tasks/{id}")).await;
                assert_eq!(message["task"], alone, "{kind} {transport:?}");
                assert_eq!(message.as_object().unwrap().len(), 3, "{message}");
            }
            assert_eq!(synced.as_object().unwrap().len(), 2, "{synced}");

            for step in [20, 40, 60] {
                the_operator_says(db, 3, TaskStatus::Syncing, step).await;
                the_operator_says(db, 1, TaskStatus::Syncing, step).await;
            }
            let told = feed.until(1, progress(60)).await;

            let steps: Vec<_> = told.iter().map(|it| it["task"]["progress"].as_i64()).collect();
            assert!(steps.is_sorted(), "{kind} {transport:?}: {steps:?}");
            let revisions: Vec<_> = told.iter().map(|it| it["revision"].as_i64()).collect();
            assert!(revisions.is_sorted_by(|a, b| a < b), "{kind} {transport:?}: {revisions:?}");
            assert!(revisions[0] > synced["revision"].as_i64());
            assert_eq!(told.last().unwrap()["task"], lab.get("/templates/sync-tasks/1").await);
        }
    }
}

// B14: what a task reads as follows from what is wanted, before the operator has said anything.
#[tokio::test]
async fn what_people_want_is_told_as_well_as_what_the_operator_does() {
    for lab in Lab::all("watch_wishes").await {
        let db = &lab.api.database.db;
        let server = Listening::start(&lab.router).await;
        let mut feeds = Vec::new();
        for transport in BOTH {
            let mut feed = Feed::open(server.address, transport, "").await;
            assert_eq!(brief(&feed.state().await), ["synced"]);
            feeds.push(feed);
        }
        let all_see = async |feeds: &mut Vec<Feed>, task: i64, word: &'static str| {
            for feed in feeds {
                let told = feed.until(task, status(word)).await;
                let alone = lab.get(&format!("/templates/sync-tasks/{task}")).await;
                assert_eq!(told.last().unwrap()["task"], alone, "{}", lab.api.database.kind());
            }
        };
        let post = async |path: &str| {
            assert_eq!(lab.post(path, None).await.status, StatusCode::OK, "{path}");
        };

        let web = lab.template("web", 5, "2,3").await;
        all_see(&mut feeds, 1, "pending").await;
        post("/templates/sync-tasks/1/cancel").await;
        all_see(&mut feeds, 1, "cancelled").await;
        post("/templates/sync-tasks/1/retry").await;
        all_see(&mut feeds, 1, "pending").await;
        the_operator_says(db, 1, TaskStatus::Failed, 30).await;
        all_see(&mut feeds, 1, "failed").await;
        post("/templates/sync-tasks/1/retry").await;
        all_see(&mut feeds, 1, "pending").await;
        let deleted = lab.delete(&format!("/templates/{web}?cascade=true")).await;
        assert_eq!(deleted.status, StatusCode::OK, "{}", deleted.text);
        all_see(&mut feeds, 1, "cancelled").await;
        lab.template("other", 5, "2").await;
        all_see(&mut feeds, 3, "pending").await;
        let other = lab.get("/templates/sync-tasks/3").await["template_id"].clone();
        assert_eq!(lab.delete(&format!("/templates/{other}")).await.status, StatusCode::OK);
        all_see(&mut feeds, 3, "cancelled").await;
    }
}

#[tokio::test]
async fn whoever_comes_back_is_told_only_what_changed_meanwhile() {
    for lab in Lab::all("watch_resume").await {
        lab.template("web", 5, "2,3").await;
        let db = &lab.api.database.db;
        let server = Listening::start(&lab.router).await;
        for (round, transport) in BOTH.into_iter().enumerate() {
            let mut feed = Feed::open(server.address, transport, "").await;
            let known = feed.state().await.pop().unwrap()["revision"].clone();
            drop(feed);
            let step = 10 + i32::try_from(round).unwrap();
            the_operator_says(db, 2, TaskStatus::Syncing, step).await;

            let since = format!("?since={known}");
            let mut by_address = Feed::open(server.address, transport, &since).await;
            let id = known.to_string();
            // The header knows more than the address that is repeated.
            let id = [("last-event-id", id.as_str())];
            let mut by_header = Feed::open_with(server.address, transport, "?since=0", &id).await;

            for feed in [&mut by_address, &mut by_header] {
                let told = feed.state().await;
                assert_eq!(brief(&told), ["task 2", "synced"], "{}", lab.api.database.kind());
                assert_eq!(told[0]["task"]["progress"], step);
            }
            let mut ahead = Feed::open(server.address, transport, "?since=999999").await;
            let mut told = brief(&ahead.state().await);
            told[1..3].sort();
            assert_eq!(told, ["reset", "task 1", "task 2", "synced"]);
        }
    }
}

#[tokio::test]
async fn tasks_that_go_with_their_cluster_are_told_as_deleted() {
    for lab in Lab::all("watch_deleted").await {
        let web = lab.template("web", 5, "2,3").await;
        let server = Listening::start(&lab.router).await;
        let mut feeds = Vec::new();
        for transport in BOTH {
            let query = format!("?template_id={web}&cluster_id=1");
            let mut feed = Feed::open(server.address, transport, &query).await;
            let known = feed.state().await.pop().unwrap()["revision"].clone();
            feeds.push((transport, feed, known));
        }

        lab.sql("DELETE FROM pve_cluster WHERE id = 1").await;
        let sweep = async |conn: &mut Conn| sweep::sweep_cluster(conn, LAB).await;
        lab.api.database.db.write(sweep).await.unwrap();

        for (transport, mut feed, known) in feeds {
            let told = [feed.news().await, feed.news().await];
            assert_eq!(brief(&told), ["deleted 1", "deleted 2"], "{}", lab.api.database.kind());
            let since = format!("?since={known}");
            let mut back = Feed::open(server.address, transport, &since).await;
            assert_eq!(brief(&back.state().await), ["deleted 1", "deleted 2", "synced"]);
            // Another process never saw them, and says so.
            let other = pve_api::router_with(lab.api.database.db.clone(), lab.settings.clone());
            let other = Listening::start(&other).await;
            let mut back = Feed::open(other.address, transport, &since).await;
            assert_eq!(brief(&back.state().await), ["reset", "synced"]);
        }
    }
}

#[tokio::test]
async fn a_thousand_watchers_are_all_told() {
    for lab in Lab::all("watch_thousand").await {
        lab.template("web", 5, "2").await;
        let server = Listening::start(&lab.router).await;
        let open = |index: usize| async move {
            let mut feed = Feed::open(server.address, BOTH[index % 2], "").await;
            feed.state().await;
            feed
        };
        // A few at once: whoever finds the line before the listener full is sent away by the kernel.
        let coming = stream::iter(0..1000).map(open).buffer_unordered(50);
        let feeds: Vec<_> = coming.collect().await;

        the_operator_says(&lab.api.database.db, 1, TaskStatus::Syncing, 50).await;

        let mut told = JoinSet::new();
        for mut feed in feeds {
            told.spawn(async move { feed.until(1, progress(50)).await.len() });
        }
        assert_eq!(told.join_all().await, vec![1; 1000], "{}", lab.api.database.kind());
    }
}

#[tokio::test]
async fn what_can_not_be_streamed_is_refused_with_what_to_send() {
    let lab = Lab::one("watch_refused", |settings| settings.max_watchers = 1).await;
    let stream = ("accept", "text/event-stream");
    for (query, headers, status, reason, says) in [
        ("", &[][..], 406, "stream_only", "Accept: text/event-stream"),
        ("", &[("accept", "application/json")], 406, "stream_only", "WebSocket"),
        ("", &[("upgrade", "websocket")], 400, "websocket_handshake", "connection"),
        ("?since=x", &[stream], 400, "invalid_parameter", "last message"),
        ("?since=-1", &[stream], 400, "invalid_parameter", "last message"),
        ("?template_id=0", &[stream], 400, "invalid_parameter", "from 1"),
        ("?status=failed", &[stream], 400, "unknown_parameter", "template_id, cluster_id, since"),
        ("", &[stream, ("last-event-id", "x")], 400, "invalid_parameter", "Last-Event-ID"),
    ] {
        let answer = call(&lab.router, "GET", &format!("{PATH}{query}"), headers, "").await;
        let (code, word, _, message) = refused(&answer);
        assert_eq!((code, word.as_str()), (status, reason), "{query} {headers:?}");
        assert!(message.to_lowercase().contains(&says.to_lowercase()), "{says}: {message}");
    }

    let server = Listening::start(&lab.router).await;
    let mut first = Feed::open(server.address, Transport::EventStream, "").await;
    first.state().await;
    let answer = call(&lab.router, "GET", PATH, &[stream], "").await;
    assert_eq!(refused(&answer).1, "too_many_watchers");
    assert_eq!(
        (answer.status, &answer.headers["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"5".parse().unwrap())
    );
    let metrics = call(&lab.router, "GET", "/metrics", &[], "").await.text;
    assert!(metrics.contains("pve_api_watchers{transport=\"event_stream\"} 1\n"), "{metrics}");
    assert!(metrics.contains("pve_api_watch_messages_total 1\n"), "{metrics}");
    assert_eq!(json!(null), answer.json()["data"]["field"]);
}
