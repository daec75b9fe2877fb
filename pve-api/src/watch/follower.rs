//! Looks at the tables while somebody watches, and puts what it sees on the board.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use schema::revision::{self, Changes, Table};
use schema::{Conn, DbError, task_changes, template_view, token};
use tokio::time::{Instant, sleep};

use super::Shared;
use super::board::{Change, News};
use crate::auth::Auth;
use crate::error::ApiError;
use crate::read::read;
use crate::templates::TaskView;

/// Between two looks at the tables' counter, which is one row.
const LOOK: Duration = Duration::from_millis(250);

/// The longest pause while the database is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Between two looks at the tokens.
const TOKENS: Duration = Duration::from_secs(20);

/// At most so many changed tasks are read at once.
const BATCH: u32 = 500;

/// Starts a follower if there is none.
pub(super) fn ensure(shared: &Arc<Shared>) {
    let mut followed = shared.followed.lock().unwrap_or_else(PoisonError::into_inner);
    if !*followed && !shared.stopping.is_cancelled() {
        *followed = true;
        shared.tasks.spawn(follow(Arc::clone(shared)));
    }
}

async fn follow(shared: Arc<Shared>) {
    let mut loaded = false;
    let mut pause = LOOK;
    let mut last_seen = Instant::now();
    let mut last_tokens: Option<Instant> = None;
    loop {
        let number = shared.begun.fetch_add(1, Ordering::SeqCst) + 1;
        match look(&shared, &mut loaded).await {
            Ok(()) => {
                shared.looks.send_replace(number);
                if pause > LOOK {
                    tracing::info!("Sync tasks are followed again");
                }
                (pause, last_seen) = (LOOK, Instant::now());
            }
            Err(error) => {
                if pause == LOOK {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "Sync tasks are not followed until the database is back");
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        shared.metrics.behind(last_seen.elapsed());
        if shared.auth == Auth::Tokens && last_tokens.is_none_or(|at| at.elapsed() >= TOKENS) {
            // While the database is away, tokens that it knew go on.
            if look_at_tokens(&shared).await.is_ok() {
                last_tokens = Some(Instant::now());
            }
        }
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            () = shared.wanted.notified() => {}
            () = sleep(pause) => {}
        }
        if ended(&shared) {
            return;
        }
    }
}

/// Ends it if nobody watches. Whoever comes has taken a place first, so it is seen here or starts
/// another follower.
fn ended(shared: &Shared) -> bool {
    let mut followed = shared.followed.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.places.available_permits() < shared.most {
        return false;
    }
    shared.board_to_write().clear();
    shared.metrics.behind(Duration::ZERO);
    *followed = false;
    true
}

/// Puts on the board whatever it lacks.
async fn look(shared: &Shared, loaded: &mut bool) -> Result<(), ApiError> {
    if !*loaded {
        load(shared).await?;
        *loaded = true;
        return Ok(());
    }
    let mut known = shared.board().revision();
    let now =
        read(&shared.db, async |conn: &mut Conn| revision::current(conn, Table::SyncTask).await)
            .await?;
    if now < known {
        return load(shared).await;
    }
    // What is written meanwhile is for the next look: under steady writes this one had no end.
    while known < now {
        let since = known;
        let changes =
            read(&shared.db, async |conn: &mut Conn| task_changes::since(conn, since, BATCH).await);
        match changes.await {
            Ok(changes) => {
                known = changes.revision;
                shared.board_to_write().apply(known, shown(changes));
                shared.news.send_replace(());
                if known <= since {
                    // The tables were set back, which the next look sees.
                    return Ok(());
                }
            }
            Err(ApiError::Db(DbError::Expired { .. })) => return load(shared).await,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn load(shared: &Shared) -> Result<(), ApiError> {
    let (floor, all) =
        read(&shared.db, async |conn: &mut Conn| task_changes::load(conn).await).await?;
    let revision = all.revision;
    shared.board_to_write().load(floor, revision, shown(all));
    shared.news.send_replace(());
    Ok(())
}

/// As the board takes it: each task is put into words here, once for all who watch.
fn shown(changes: Changes<template_view::TaskView>) -> Vec<Change> {
    let gone = changes.gone.into_iter().map(|stone| Change {
        revision: stone.revision,
        id: stone.row_id,
        cluster: stone.cluster_id,
        news: News::Deleted,
    });
    let rows = changes.rows.into_iter().map(|view| {
        let (revision, id) = (view.task.revision, view.task.id.0);
        let (cluster, template) = (view.task.cluster_id, view.task.template_id);
        let shown = serde_json::value::to_raw_value(&TaskView::new(view))
            .expect("views are made of what JSON has");
        Change { revision, id, cluster, news: News::Task { template, shown } }
    });
    gone.chain(rows).collect()
}

async fn look_at_tokens(shared: &Shared) -> Result<(), ApiError> {
    let all = read(&shared.db, async |conn: &mut Conn| token::list(conn).await).await?;
    let now = schema::now();
    let unfit: HashSet<String> =
        all.into_iter().filter(|row| row.fitness(now).is_err()).map(|row| row.name).collect();
    *shared.unfit.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(unfit);
    shared.news.send_replace(());
    Ok(())
}
