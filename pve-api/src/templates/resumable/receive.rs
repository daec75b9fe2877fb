//! `PATCH /files/{id}`: one go. What came and is safe stays, however the go ends.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures::StreamExt as _;
use schema::cluster::Swap;
use schema::images::{Arrival, From, SessionId};
use schema::resumable_upload::{LEASE, Progress, SessionRow, SessionStatus, after};
use schema::{Conn, DbError, Timestamp, resumable_upload};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tracing::Instrument as _;

use super::protocol::{self, Checksum, UPLOAD_EXPIRES, UPLOAD_OFFSET};
use super::{bytes, check_alive, finish, holder, look};
use crate::Api;
use crate::auth::Caller;
use crate::error::{ApiError, Refusal, panicked};
use crate::linger;
use crate::read::write;
use crate::templates::intake::{Intake, Taken};
use crate::templates::uploads::{self, Uploads, content_length};
use crate::trail::Trail;

/// What a go brought.
pub(super) struct Come {
    /// How many bytes are safe by now.
    pub offset: u64,
    pub expires: Timestamp,
}

/// Between two times that what is there is made safe and written down, and so the most that a crash
/// costs.
const RECORD_EVERY: Duration = Duration::from_secs(5);

/// How long a go may take to come to its end once this process is told to stop. Then it is cut, so
/// that what came is written down, and another replica goes on at once.
const PARTING: Duration = Duration::from_secs(5);

/// How long the answer to the last bytes waits for what becomes of them.
const FINISHED_WITHIN: Duration = Duration::from_secs(20);

pub(super) async fn patch(
    api: &Api,
    caller: &Caller,
    id: &SessionId,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    // From here on a client that is refused is listened to for a while.
    let waits = linger::waits(&head.headers);
    let intake = Intake::new(body, waits, api.settings.tasks.clone());
    protocol::check_version(&head.headers)?;
    protocol::check_brings_bytes(&head.headers)?;
    let offset = protocol::offset(&head.headers)?;
    let Come { offset, expires } = go(api, caller, id, offset, &head.headers, intake).await?;
    let offset = (UPLOAD_OFFSET, offset.to_string());
    let expires = (UPLOAD_EXPIRES, protocol::date(expires));
    Ok(protocol::answer(StatusCode::NO_CONTENT, [offset, expires]))
}

/// Takes the bytes of one request, and finishes the upload if they are its last.
pub(super) async fn go(
    api: &Api,
    caller: &Caller,
    id: &SessionId,
    offset: u64,
    headers: &HeaderMap,
    (mut intake, taken): (Intake, Taken),
) -> Result<Come, ApiError> {
    let uploads = uploads::of(api)?;
    let checksum = Checksum::of(headers)?;
    let slot = uploads.slot()?;
    let row = match take_hold(api, &uploads, caller, id, offset, content_length(headers)).await? {
        Taking::Held(row) => row,
        Taking::WasLast(row) => {
            return Ok(Come { offset: bytes(row.received_bytes), expires: row.expires_at });
        }
    };
    let in_progress = api.metrics.uploads.carry();
    let mut bearer =
        Bearer { api, id, epoch: row.epoch, total: bytes(row.total_bytes), safe: offset };
    let from = From { offset, epoch: row.epoch };
    let mut arrival = match uploads.store.resume(id, from).await {
        Ok(arrival) => arrival,
        Err(error) => {
            bearer.let_go().await;
            return Err(finish::missing(error));
        }
    };
    let came = match checksum {
        None => {
            let ended = bearer.take(&mut arrival, &mut intake, &taken, None).await;
            bearer.secure(&mut arrival).await.and(ended)
        }
        // All of it or nothing.
        Some(mut checksum) => {
            let ended = bearer.take(&mut arrival, &mut intake, &taken, Some(&mut checksum)).await;
            match ended.and_then(|()| checksum.check()) {
                Ok(()) => bearer.secure(&mut arrival).await,
                Err(error) => {
                    arrival.undo().await?;
                    bearer.let_go().await;
                    return Err(error);
                }
            }
        }
    };
    // Whoever makes an image of it must be the only one.
    drop(arrival);
    let expires = bearer.record(Holding::UntilWhole).await?;
    if bearer.safe == bearer.total {
        drop(in_progress);
        finish(api, uploads, caller, row, slot).await?;
    }
    came.map(|()| Come { offset: bearer.safe, expires })
}

/// What a request found.
enum Taking {
    Held(SessionRow),
    /// Every byte is there: the answer to the last ones was lost.
    WasLast(SessionRow),
}

/// Looks, decides, and holds the session.
async fn take_hold(
    api: &Api,
    uploads: &Uploads,
    caller: &Caller,
    id: &SessionId,
    offset: u64,
    length: Option<u64>,
) -> Result<Taking, ApiError> {
    let take = async |conn: &mut Conn| {
        let now = schema::now();
        let row = match look(conn, id, caller).await? {
            Ok(row) => row,
            Err(refusal) => return Ok(Err(refusal)),
        };
        match may_take(&row, now, row.is_held(now, holder(uploads)), offset, length) {
            Ok(true) => {}
            Ok(false) => return Ok(Ok(Taking::WasLast(row))),
            Err(refusal) => return Ok(Err(refusal)),
        }
        Ok(match resumable_upload::hold(conn, &row, holder(uploads), now).await? {
            Swap::Done => Ok(Taking::Held(SessionRow { epoch: row.epoch + 1, ..row })),
            Swap::Stale => Err(busy()),
        })
    };
    Ok(write(&api.db, take).await??)
}

/// Pure: whether bytes may be taken now, or none are needed.
fn may_take(
    row: &SessionRow,
    now: Timestamp,
    is_held: bool,
    offset: u64,
    length: Option<u64>,
) -> Result<bool, Refusal> {
    check_alive(row, now)?;
    let (there, total) = (bytes(row.received_bytes), bytes(row.total_bytes));
    if offset != there {
        let message =
            format!("the bytes begin at {offset}, but {there} are there; HEAD says where to go on");
        return Err(Refusal::conflict("wrong_offset", message).of_field("upload-offset"));
    }
    if row.status != SessionStatus::Receiving {
        return Ok(false);
    }
    if length.is_some_and(|length| offset.saturating_add(length) > total) {
        return Err(too_many(total));
    }
    if is_held {
        return Err(busy());
    }
    Ok(true)
}

fn busy() -> Refusal {
    let message = "another request of this upload is under way, or was cut off a moment ago; ask \
                   with HEAD where to go on, and try again";
    Refusal::new(StatusCode::LOCKED, "upload_busy", message)
}

fn too_many(total: u64) -> Refusal {
    let message = format!("the upload has {total} bytes (Upload-Length), and these are more");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
}

/// Carries bytes into a session that this request holds.
struct Bearer<'a> {
    api: &'a Api,
    id: &'a SessionId,
    epoch: i64,
    total: u64,
    safe: u64,
}

/// Whether the session is held after what is written down.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Holding {
    On,
    /// Let go, unless every byte is there: then it is finished next.
    UntilWhole,
}

impl Bearer<'_> {
    /// Takes bytes until there are no more. With a checksum nothing is written down meanwhile.
    async fn take(
        &mut self,
        arrival: &mut Arrival,
        intake: &mut Intake,
        taken: &Taken,
        mut checksum: Option<&mut Checksum>,
    ) -> Result<(), ApiError> {
        let mut come = self.safe;
        let mut recorded = Instant::now();
        let stopping = self.api.settings.stopping.clone();
        let parting = async {
            stopping.cancelled().await;
            tokio::time::sleep(PARTING).await;
        };
        tokio::pin!(parting);
        // Silence is allowed for longer than a lease lasts, and so is a go without a pause.
        let mut renewal = tokio::time::interval(LEASE / 3);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renewal.reset();
        loop {
            let chunk = tokio::select! {
                chunk = intake.next() => chunk,
                _ = renewal.tick() => {
                    self.renew().await?;
                    continue;
                }
                () = &mut parting => return Err(parted().into()),
            };
            let Some(chunk) = chunk.transpose()? else { break };
            taken.add(chunk.len());
            come += chunk.len() as u64;
            if come > self.total {
                return Err(too_many(self.total).into());
            }
            if let Some(checksum) = &mut checksum {
                checksum.take(&chunk);
            }
            self.api.metrics.resumable.received(chunk.len());
            arrival.write(chunk).await?;
            if checksum.is_some() {
                continue;
            }
            let late = recorded.elapsed() >= RECORD_EVERY;
            if late {
                arrival.secure().await?;
            }
            // That these are all is written down once, at the end.
            if (late || arrival.safe() > self.safe) && arrival.safe() < self.total {
                self.safe = arrival.safe();
                recorded = Instant::now();
                match self.record(Holding::On).await {
                    // It is written down later.
                    Err(ApiError::Db(error)) if error.is_transient() => {}
                    outcome => drop(outcome?),
                }
            }
        }
        Ok(())
    }

    /// Makes safe what came; what can not be made safe is not there.
    async fn secure(&mut self, arrival: &mut Arrival) -> Result<(), ApiError> {
        let secured = arrival.secure().await;
        self.safe = arrival.safe();
        Ok(secured.map(drop)?)
    }

    /// Writes down what is safe, and says until when it can be gone on with.
    async fn record(&self, holding: Holding) -> Result<Timestamp, ApiError> {
        let now = schema::now();
        let whole = self.safe == self.total;
        let to = Progress {
            received_bytes: i64::try_from(self.safe).unwrap_or(i64::MAX),
            whole,
            held: whole || holding == Holding::On,
            expires_at: after(now, self.api.settings.resumable_expires),
        };
        let record = async |conn: &mut Conn| {
            resumable_upload::advance(conn, self.id.as_str(), self.epoch, to, now).await
        };
        match write(&self.api.db, record).await? {
            Swap::Done => Ok(to.expires_at),
            Swap::Stale => Err(lost().into()),
        }
    }

    async fn renew(&self) -> Result<(), ApiError> {
        let renew = async |conn: &mut Conn| -> Result<Swap, DbError> {
            resumable_upload::renew(conn, self.id.as_str(), self.epoch, schema::now()).await
        };
        match write(&self.api.db, renew).await {
            Ok(Swap::Stale) => Err(lost().into()),
            Err(ApiError::Db(error)) if error.is_transient() => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Lets go without a change; if that can not be written down, the lease ends by itself.
    async fn let_go(&self) {
        if let Err(error) = self.record(Holding::UntilWhole).await {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "An upload is held for a while longer");
        }
    }
}

fn parted() -> Refusal {
    let message = "this server is being stopped; ask with HEAD where to go on, and another one takes \
                   the rest";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", message)
}

fn lost() -> Refusal {
    let message = "this request was too slow, and another one goes on with the upload, or it was \
                   ended";
    Refusal::conflict("taken_over", message)
}

/// Finishes an upload whose bytes are all there, beside the request, and waits for it for a while.
async fn finish(
    api: &Api,
    uploads: Uploads,
    caller: &Caller,
    row: SessionRow,
    slot: OwnedSemaphorePermit,
) -> Result<(), ApiError> {
    let trail = Trail::new(caller.clone(), "template.upload", "template", None);
    let (api, tasks) = (api.clone(), api.settings.tasks.clone());
    let work = async move {
        let in_progress = api.metrics.uploads.carry();
        let outcome = finish::finish(&api, &uploads, &row, trail).await;
        drop((slot, in_progress));
        outcome
    };
    match timeout(FINISHED_WITHIN, tasks.spawn(work.in_current_span())).await {
        Ok(done) => done.map_err(panicked)?.map(drop),
        // GET says what became of it.
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use schema::ClusterId;

    use super::*;

    fn row(received: i64) -> SessionRow {
        let now = schema::now();
        SessionRow {
            id: String::new(),
            cluster_id: ClusterId(1),
            metadata: String::new(),
            total_bytes: 10,
            received_bytes: received,
            status: SessionStatus::Receiving,
            epoch: 1,
            holder: None,
            held_until: None,
            expires_at: after(now, RECORD_EVERY),
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
    fn bytes_are_taken_where_they_belong_and_by_one_request() {
        let now = schema::now();
        let judged = |row: &SessionRow, is_held, offset, length| {
            may_take(row, now, is_held, offset, length).map_err(|refusal| refusal.status.as_u16())
        };

        assert_eq!(judged(&row(4), false, 4, Some(6)), Ok(true));
        assert_eq!(judged(&row(4), false, 4, None), Ok(true));
        assert_eq!(judged(&row(4), false, 4, Some(7)), Err(413));
        assert_eq!(judged(&row(4), false, 3, Some(1)), Err(409));
        assert_eq!(judged(&row(4), true, 4, Some(1)), Err(423));
        for status in [SessionStatus::Finishing, SessionStatus::Done] {
            let whole = SessionRow { status, ..row(10) };
            assert_eq!(judged(&whole, false, 10, Some(0)), Ok(false));
            assert_eq!(judged(&whole, false, 4, Some(6)), Err(409));
        }
        let failed = SessionRow { status: SessionStatus::Failed, ..row(10) };
        assert_eq!(judged(&failed, false, 10, None), Err(410));
        let expired = SessionRow { expires_at: now, ..row(4) };
        assert_eq!(judged(&expired, false, 4, None), Err(410));
    }
}
