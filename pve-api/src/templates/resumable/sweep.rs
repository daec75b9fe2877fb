//! Finishes what nobody finishes, ends what has expired, and forgets what is over.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use axum::http::StatusCode;
use schema::cluster::Swap;
use schema::images::SessionId;
use schema::resumable_upload::{Holder, SessionRow, SessionStatus, after};
use schema::{Conn, Timestamp, resumable_upload};

use super::{finish, holder};
use crate::Api;
use crate::auth::Caller;
use crate::error::{ApiError, Refusal};
use crate::read::{read, write};
use crate::templates::uploads::Uploads;
use crate::trail::Trail;

/// Between two looks at the table.
const EVERY: Duration = Duration::from_secs(30);

/// Every so many looks the store is listed too, which a bucket charges for.
const STORE_EVERY: u32 = 20;

/// Bytes that no row ever told of may be of another installation that shares the bucket.
const ABANDONED: Duration = Duration::from_hours(48);

/// Between two tries to finish what was put off: each may read and write all of its bytes.
const RETRY_EVERY: Duration = Duration::from_mins(5);

/// Sweeps for as long as it is polled. Dropping it is safe.
pub(crate) async fn run(api: Api) {
    let Some(uploads) = api.uploads.clone() else { return };
    let mut rounds = 0_u32;
    loop {
        let done = async {
            Box::pin(round(&api, &uploads)).await?;
            if rounds.is_multiple_of(STORE_EVERY) {
                sweep_store(&api, &uploads, SystemTime::now()).await?;
            }
            Ok::<_, ApiError>(())
        };
        if let Err(error) = done.await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "Uploads are looked after later");
        }
        rounds = rounds.wrapping_add(1);
        tokio::time::sleep(EVERY).await;
    }
}

async fn round(api: &Api, uploads: &Uploads) -> Result<(), ApiError> {
    let rows = read(&api.db, async |conn: &mut Conn| resumable_upload::list(conn).await).await?;
    let open = rows.iter().filter(|row| !row.status.is_final()).count();
    api.metrics.resumable.open(open);
    for row in rows {
        // Finishing one may take minutes, and a lease begins when it is taken.
        let now = schema::now();
        match plan(&row, now, holder(uploads)) {
            Act::Leave => {}
            Act::Forget => {
                finish::discard(uploads, &row).await;
                let forget = async |conn: &mut Conn| resumable_upload::forget(conn, &row.id).await;
                write(&api.db, forget).await?;
            }
            act => {
                let Some(row) = hold(api, uploads, row, now).await? else { continue };
                if act == Act::Finish {
                    // Of its own errors the session is told.
                    drop(finish::finish(api, uploads, &row, trail(&row)).await);
                } else if finish::end(api, &row, &expired().into()).await {
                    tracing::info!(id = row.id, "An upload expired");
                    finish::discard(uploads, &row).await;
                }
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Act {
    Leave,
    Finish,
    Expire,
    Forget,
}

/// Pure: what a session needs that nobody gives it.
fn plan(row: &SessionRow, now: Timestamp, me: Holder<'_>) -> Act {
    let over = row.expires_at <= now;
    match row.status {
        SessionStatus::Done | SessionStatus::Failed if over => Act::Forget,
        SessionStatus::Done | SessionStatus::Failed => Act::Leave,
        _ if row.is_held(now, me) => Act::Leave,
        _ if over => Act::Expire,
        SessionStatus::Finishing
            if row.error_code.is_some() && after(row.gmt_modified, RETRY_EVERY) > now =>
        {
            Act::Leave
        }
        SessionStatus::Finishing => Act::Finish,
        SessionStatus::Receiving => Act::Leave,
    }
}

/// The row as it is held from now on, unless somebody else was faster.
async fn hold(
    api: &Api,
    uploads: &Uploads,
    row: SessionRow,
    now: Timestamp,
) -> Result<Option<SessionRow>, ApiError> {
    let hold =
        async |conn: &mut Conn| resumable_upload::hold(conn, &row, holder(uploads), now).await;
    Ok(match write(&api.db, hold).await? {
        Swap::Done => Some(SessionRow { epoch: row.epoch + 1, ..row }),
        Swap::Stale => None,
    })
}

/// Whoever began it is told of in the record, though they may be long gone.
fn trail(row: &SessionRow) -> Trail {
    Trail::new(Caller::of_token(&row.creator), "template.upload", "template", None)
}

fn expired() -> Refusal {
    let message = "the upload has expired; begin another";
    Refusal::new(StatusCode::GONE, "upload_expired", message)
}

/// Removes bytes that are of no session that can be gone on with.
async fn sweep_store(api: &Api, uploads: &Uploads, now: SystemTime) -> Result<(), ApiError> {
    // In this order: a session that begins meanwhile is not in the list.
    let stored = uploads.store.sessions().await?;
    if stored.is_empty() {
        return Ok(());
    }
    let rows = read(&api.db, async |conn: &mut Conn| resumable_upload::list(conn).await).await?;
    for id in needless(stored, &rows, now) {
        uploads.store.discard(&id).await?;
        tracing::info!(%id, "Bytes of an upload that is over are removed");
    }
    Ok(())
}

/// Pure: the sessions whose bytes nobody needs.
fn needless(
    stored: Vec<(SessionId, SystemTime)>,
    rows: &[SessionRow],
    now: SystemTime,
) -> Vec<SessionId> {
    let known: HashMap<&str, SessionStatus> =
        rows.iter().map(|row| (row.id.as_str(), row.status)).collect();
    stored
        .into_iter()
        .filter(|(id, last)| match known.get(id.as_str()) {
            Some(status) => status.is_final(),
            None => now.duration_since(*last).is_ok_and(|age| age >= ABANDONED),
        })
        .map(|(id, _)| id)
        .collect()
}

#[cfg(test)]
mod tests {
    use schema::ClusterId;
    use schema::resumable_upload::LEASE;

    use super::*;

    const ME: Holder<'static> = Holder { name: "me", alone: false };

    fn row(status: SessionStatus, held: bool, over: bool) -> SessionRow {
        let now = schema::now();
        let later = after(now, LEASE);
        SessionRow {
            id: format!("{:032x}", status as u8),
            cluster_id: ClusterId(1),
            metadata: String::new(),
            total_bytes: 1,
            received_bytes: 1,
            status,
            epoch: 1,
            holder: Some("other".to_owned()),
            held_until: held.then_some(later),
            expires_at: if over { now } else { later },
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
    fn what_somebody_holds_is_left_alone_and_the_rest_gets_what_it_lacks() {
        use SessionStatus::{Done, Failed, Finishing, Receiving};
        for (status, held, over, act) in [
            (Receiving, false, false, Act::Leave),
            (Receiving, false, true, Act::Expire),
            (Receiving, true, true, Act::Leave),
            (Finishing, true, false, Act::Leave),
            (Finishing, false, false, Act::Finish),
            (Finishing, false, true, Act::Expire),
            (Done, false, false, Act::Leave),
            (Done, false, true, Act::Forget),
            (Failed, false, true, Act::Forget),
        ] {
            let row = row(status, held, over);
            assert_eq!(plan(&row, schema::now(), ME), act, "{status} {held} {over}");
        }
    }

    #[test]
    fn bytes_go_with_their_session_and_those_of_strangers_after_two_days() {
        use SessionStatus::{Done, Receiving};
        let rows = [row(Receiving, false, true), row(Done, false, false)];
        let now = SystemTime::now();
        let id = |text: &str| -> SessionId { text.parse().unwrap() };
        let (young, old) = (id(&"a".repeat(32)), id(&"b".repeat(32)));

        let stored = vec![
            (id(&rows[0].id), now - ABANDONED),
            (id(&rows[1].id), now),
            (young, now),
            (old.clone(), now - ABANDONED),
        ];

        assert_eq!(needless(stored, &rows, now), [id(&rows[1].id), old]);
    }
}
