//! `resumable_upload`: uploads whose bytes come in several goes, and who may add to them.
//!
//! ```text
//! receiving --advance*--> finishing --complete--> done
//!      +--------fail---------+------------------> failed
//! ```
//!
//! How many bytes are there is said here and nowhere else. Whoever adds to them [`hold`]s the row
//! first, which raises its epoch; from then on every change names that epoch, so that of two who
//! believe to hold it one finds its change refused. What a holder leaves behind when it dies ends
//! with its lease.

use std::time::Duration;

use diesel::prelude::*;

use crate::cluster::Swap;
use crate::sql::{self, Sql};
use crate::tables::resumable_upload;
use crate::text::{WORD, fit};
use crate::words::words;
use crate::{ClusterId, Conn, DbError, Timestamp};

words! {
    pub enum SessionStatus {
        Receiving = "receiving",
        /// Every byte is there; image and rows are not.
        Finishing = "finishing",
        Done = "done",
        Failed = "failed",
    }
}

impl SessionStatus {
    /// Whether nothing more becomes of it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// One row.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = resumable_upload)]
pub struct SessionRow {
    /// Nobody can guess it.
    pub id: String,
    pub cluster_id: ClusterId,
    /// As the client sent it: names and base64.
    pub metadata: String,
    pub total_bytes: i64,
    /// Safely in the image store.
    pub received_bytes: i64,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub status: SessionStatus,
    /// Raised by whoever begins to hold it.
    pub epoch: i64,
    /// The process that holds it.
    pub holder: Option<String>,
    pub held_until: Option<Timestamp>,
    /// From then on it can not be continued; once it is done or failed, from then on it is forgotten.
    pub expires_at: Timestamp,
    /// What the client is told once it is done, as JSON.
    pub result: Option<String>,
    pub error_code: Option<i32>,
    pub error_reason: Option<String>,
    pub error_message: Option<String>,
    pub gmt_create: Timestamp,
    pub gmt_modified: Timestamp,
    /// The token that may go on with it.
    pub creator: String,
}

/// Who holds rows, and for how long it may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// Of one process.
    pub name: &'a str,
    /// Whether no other process can be alive that holds any: then leases of others are void.
    pub alone: bool,
}

/// A holder that lives says so three times within it. Of one that died this is what the next go waits
/// for, and clients soon give up: tus-js-client, left as it is, after 9 s.
pub const LEASE: Duration = Duration::from_secs(6);

impl SessionRow {
    /// Whether somebody who may be alive adds to it.
    pub fn is_held(&self, now: Timestamp, by_others_than: Holder<'_>) -> bool {
        let leased = self.held_until.is_some_and(|until| until > now);
        let orphaned = by_others_than.alone && self.holder.as_deref() != Some(by_others_than.name);
        leased && !orphaned
    }
}

/// An upload that begins.
#[derive(Clone, Copy, Debug)]
pub struct NewSession<'a> {
    pub id: &'a str,
    pub cluster_id: ClusterId,
    pub metadata: &'a str,
    pub total_bytes: i64,
    pub expires_at: Timestamp,
    pub creator: &'a str,
}

/// Why an upload came to nothing, as the client is told.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    pub code: u16,
    pub reason: &'a str,
    pub message: &'a str,
}

/// Begins one.
pub async fn insert(conn: &mut Conn, new: &NewSession<'_>) -> Result<(), DbError> {
    let row = Sql::insert(
        "resumable_upload",
        [
            ("id", new.id.into()),
            ("cluster_id", new.cluster_id.into()),
            ("metadata", new.metadata.into()),
            ("total_bytes", new.total_bytes.into()),
            ("expires_at", new.expires_at.into()),
            ("creator", new.creator.into()),
        ],
    );
    sql::execute(conn, &row).await.map(drop)
}

/// One session, those that are over too.
pub async fn get(conn: &mut Conn, id: &str) -> Result<Option<SessionRow>, DbError> {
    sql::first(conn, &Sql::new("SELECT * FROM resumable_upload WHERE id = ").bind(id)).await
}

/// All of them, oldest first.
pub async fn list(conn: &mut Conn) -> Result<Vec<SessionRow>, DbError> {
    sql::fetch(conn, &Sql::new("SELECT * FROM resumable_upload ORDER BY gmt_create, id")).await
}

/// How many of this token's can still be gone on with.
pub async fn count_open(conn: &mut Conn, creator: &str) -> Result<i64, DbError> {
    let open = Sql::new("SELECT count(*) AS n FROM resumable_upload WHERE creator = ")
        .bind(creator)
        .push(" AND status IN ")
        .list([SessionStatus::Receiving, SessionStatus::Finishing]);
    sql::number(conn, &open).await
}

/// Begins to hold what was read, under the next epoch; that nobody else does is for the caller to
/// have looked at.
pub async fn hold(
    conn: &mut Conn,
    seen: &SessionRow,
    holder: Holder<'_>,
    now: Timestamp,
) -> Result<Swap, DbError> {
    let row = Sql::update(
        "resumable_upload",
        [
            ("epoch", (seen.epoch + 1).into()),
            ("holder", holder.name.into()),
            ("held_until", after(now, LEASE).into()),
            ("gmt_modified", now.into()),
        ],
    )
    .push(" WHERE id = ")
    .bind(&seen.id)
    .and("epoch", Some(seen.epoch))
    .and("status", Some(seen.status))
    .and("received_bytes", Some(seen.received_bytes));
    swapped(conn, &row).await
}

/// Says that the holder lives.
pub async fn renew(conn: &mut Conn, id: &str, epoch: i64, now: Timestamp) -> Result<Swap, DbError> {
    let row = Sql::update(
        "resumable_upload",
        [("held_until", after(now, LEASE).into()), ("gmt_modified", now.into())],
    );
    swapped(conn, &held(row, id, epoch)).await
}

/// What became of the bytes of one go.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// In all.
    pub received_bytes: i64,
    /// Whether these are all: then it is finishing.
    pub whole: bool,
    /// Whether the holder goes on.
    pub held: bool,
    pub expires_at: Timestamp,
}

/// Says how many bytes are safe by now.
pub async fn advance(
    conn: &mut Conn,
    id: &str,
    epoch: i64,
    to: Progress,
    now: Timestamp,
) -> Result<Swap, DbError> {
    let status = if to.whole { SessionStatus::Finishing } else { SessionStatus::Receiving };
    let row = Sql::update(
        "resumable_upload",
        [
            ("received_bytes", to.received_bytes.into()),
            ("status", status.into()),
            ("held_until", to.held.then(|| after(now, LEASE)).into()),
            ("expires_at", to.expires_at.into()),
            ("gmt_modified", now.into()),
        ],
    );
    let row = held(row, id, epoch).and("status", Some(SessionStatus::Receiving));
    swapped(conn, &row).await
}

/// It is done: call it in the transaction that writes the rows of the image.
pub async fn complete(
    conn: &mut Conn,
    id: &str,
    epoch: i64,
    result: &str,
    kept_until: Timestamp,
) -> Result<Swap, DbError> {
    let row = Sql::update(
        "resumable_upload",
        [
            ("status", SessionStatus::Done.into()),
            ("result", result.into()),
            ("error_code", None::<i32>.into()),
            ("error_reason", None::<&str>.into()),
            ("error_message", None::<&str>.into()),
            ("held_until", None::<Timestamp>.into()),
            ("expires_at", kept_until.into()),
            ("gmt_modified", crate::now().into()),
        ],
    );
    let row = held(row, id, epoch).and("status", Some(SessionStatus::Finishing));
    swapped(conn, &row).await
}

/// It came to nothing.
pub async fn fail(
    conn: &mut Conn,
    id: &str,
    epoch: i64,
    why: Failure<'_>,
    kept_until: Timestamp,
) -> Result<Swap, DbError> {
    let row =
        told(why, [("status", SessionStatus::Failed.into()), ("expires_at", kept_until.into())]);
    let open = held(row, id, epoch)
        .push(" AND status IN ")
        .list([SessionStatus::Receiving, SessionStatus::Finishing]);
    swapped(conn, &open).await
}

/// It is not done yet, and why; somebody will try again.
pub async fn put_off(
    conn: &mut Conn,
    id: &str,
    epoch: i64,
    why: Failure<'_>,
) -> Result<Swap, DbError> {
    let row = held(told(why, []), id, epoch).and("status", Some(SessionStatus::Finishing));
    swapped(conn, &row).await
}

/// Forgets one that is over.
pub async fn forget(conn: &mut Conn, id: &str) -> Result<(), DbError> {
    let row = Sql::new("DELETE FROM resumable_upload WHERE id = ")
        .bind(id)
        .push(" AND status IN ")
        .list([SessionStatus::Done, SessionStatus::Failed]);
    sql::execute(conn, &row).await.map(drop)
}

/// `UPDATE` with the words of a failure, which ends the lease.
fn told<'a, const N: usize>(
    why: Failure<'a>,
    more: [(&'static str, sql::Param<'a>); N],
) -> Sql<'a> {
    let mut row = Sql::update(
        "resumable_upload",
        [
            ("error_code", i64::from(why.code).into()),
            ("error_reason", fit(why.reason, WORD).into_owned().into()),
            ("error_message", fit(why.message, usize::MAX).into_owned().into()),
            ("held_until", None::<Timestamp>.into()),
            ("gmt_modified", crate::now().into()),
        ],
    );
    for (column, value) in more {
        row = row.push(", ").push(column).push(" = ").bind(value);
    }
    row
}

fn held<'a>(row: Sql<'a>, id: &'a str, epoch: i64) -> Sql<'a> {
    row.push(" WHERE id = ").bind(id).and("epoch", Some(epoch))
}

async fn swapped(conn: &mut Conn, row: &Sql<'_>) -> Result<Swap, DbError> {
    Ok(if sql::execute(conn, row).await? == 1 { Swap::Done } else { Swap::Stale })
}

/// A moment that is this much later.
pub fn after(now: Timestamp, span: Duration) -> Timestamp {
    let span = chrono::Duration::from_std(span).unwrap_or(chrono::Duration::MAX);
    now.checked_add_signed(span).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(holder: &str, held_until: Option<Timestamp>) -> SessionRow {
        let now = crate::now();
        SessionRow {
            id: String::new(),
            cluster_id: ClusterId(1),
            metadata: String::new(),
            total_bytes: 1,
            received_bytes: 0,
            status: SessionStatus::Receiving,
            epoch: 1,
            holder: Some(holder.to_owned()),
            held_until,
            expires_at: now,
            result: None,
            error_code: None,
            error_reason: None,
            error_message: None,
            gmt_create: now,
            gmt_modified: now,
            creator: String::new(),
        }
    }

    #[test]
    fn a_lease_ends_with_its_time_or_with_the_process_that_alone_could_have_it() {
        let now = crate::now();
        let later = Some(after(now, LEASE));
        let (many, alone) =
            (Holder { name: "me", alone: false }, Holder { name: "me", alone: true });

        assert!(row("other", later).is_held(now, many));
        assert!(!row("other", later).is_held(now, alone));
        assert!(row("me", later).is_held(now, alone), "another request of this process");
        assert!(!row("other", Some(now)).is_held(now, many));
        assert!(!row("other", None).is_held(now, many));
    }
}
