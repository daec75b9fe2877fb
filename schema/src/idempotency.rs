//! `idempotency_key`: what was answered to a request that its caller named, so that a repeat of it
//! does nothing and gets the same answer.
//!
//! ```text
//! claim --> (holder works, renews its lease) --> took_effect, in the transaction of the effect
//!                                            --> answer       the repeat gets it
//!                                            --> release      nothing happened; the repeat does it
//! killed: the lease runs out --> nothing took effect: whoever repeats it takes over
//!                            --> something did: whoever repeats it is told that the answer is lost
//! ```
//!
//! Whoever lost the claim can not commit an effect any more: [`took_effect`] fails in the
//! transaction that makes it. So however slow a holder was, there is one effect.

use std::time::Duration;

use diesel::prelude::*;
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom, SystemRandom};

use crate::secret::SecretError;
use crate::sql::{self, Sql};
use crate::tables::idempotency_key;
use crate::text::hex;
use crate::{Conn, DbError, Timestamp};

/// How long a repeat gets the first answer.
pub const KEPT: Duration = Duration::from_hours(24);

/// How long a holder is believed to work that does not renew.
pub const LEASE: Duration = Duration::from_mins(1);

/// A request that its caller named.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who calls; a key is one caller's own.
    pub actor: &'a str,
    pub key: &'a str,
    /// Of all that makes it this request and no other, in hex.
    pub sha256: &'a str,
}

/// The digest of these parts in this order, in hex.
pub fn sha256(parts: &[&[u8]]) -> String {
    let mut digest = Context::new(&SHA256);
    for part in parts {
        digest.update(&part.len().to_le_bytes());
        digest.update(part);
    }
    hex(digest.finish().as_ref())
}

/// The right to carry a request out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    id: i64,
    holder: String,
}

/// An answer, as it is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// JSON: pairs of name and value.
    pub headers: String,
    /// `None` where the answer is not kept, because it held a secret or was too long.
    pub body: Option<String>,
}

/// What is to become of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Claimed {
    /// It is the first: carry it out.
    Ours(Claim),
    Answered(Answer),
    /// The first is under way.
    Running,
    /// The first took effect, and whoever did it ended before it answered.
    Lost,
    /// The key was used for another request.
    Other,
}

#[derive(Clone, Debug, QueryableByName)]
#[diesel(table_name = idempotency_key)]
struct Row {
    id: i64,
    request_sha256: String,
    holder: String,
    lease_until: Timestamp,
    effects: i64,
    status: Option<i32>,
    headers: Option<String>,
    body: Option<String>,
    gmt_create: Timestamp,
}

/// What a row means for a request that comes now.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Sense {
    /// Nobody works on it, and nothing came of it that counts.
    Free,
    Taken(Claimed),
}

/// Pure.
fn sense(row: &Row, sha256: &str, now: Timestamp) -> Sense {
    let answered = row.status.and_then(|status| u16::try_from(status).ok());
    let running = answered.is_none() && row.lease_until > now;
    let nothing_came_of_it = answered.is_none() && row.effects == 0;
    if !running && (nothing_came_of_it || row.gmt_create <= before(now, KEPT)) {
        return Sense::Free;
    }
    if row.request_sha256 != sha256 {
        return Sense::Taken(Claimed::Other);
    }
    match answered {
        Some(status) => Sense::Taken(Claimed::Answered(Answer {
            status,
            headers: row.headers.clone().unwrap_or_default(),
            body: row.body.clone(),
        })),
        None if running => Sense::Taken(Claimed::Running),
        None => Sense::Taken(Claimed::Lost),
    }
}

/// Takes a request, or says why not. Call it within [`crate::Db::write`].
///
/// # Errors
///
/// [`DbError::Conflict`] if another one came in between: call it again.
pub async fn claim(conn: &mut Conn, request: &Request<'_>) -> Result<Claimed, DbError> {
    let now = crate::now();
    let row = Sql::new("SELECT * FROM idempotency_key WHERE actor = ")
        .bind(request.actor)
        .push(" AND request_key = ")
        .bind(request.key);
    let holder = new_holder()?;
    let lease_until = now + LEASE;
    let Some(row) = sql::first::<Row>(conn, &row).await? else {
        let row = Sql::insert(
            "idempotency_key",
            [
                ("actor", request.actor.into()),
                ("request_key", request.key.into()),
                ("request_sha256", request.sha256.into()),
                ("holder", (&holder).into()),
                ("lease_until", lease_until.into()),
                ("gmt_create", now.into()),
            ],
        );
        let id = sql::insert(conn, row).await?;
        return Ok(Claimed::Ours(Claim { id, holder }));
    };
    match sense(&row, request.sha256, now) {
        Sense::Taken(claimed) => Ok(claimed),
        Sense::Free => {
            let anew = Sql::update(
                "idempotency_key",
                [
                    ("request_sha256", request.sha256.into()),
                    ("holder", (&holder).into()),
                    ("lease_until", lease_until.into()),
                    ("effects", 0_i64.into()),
                    ("status", None::<i32>.into()),
                    ("headers", None::<&str>.into()),
                    ("body", None::<&str>.into()),
                    ("gmt_create", now.into()),
                ],
            );
            // As it was read: its holder may have committed an effect since.
            let anew = anew
                .push(" WHERE id = ")
                .bind(row.id)
                .push(" AND holder = ")
                .bind(&row.holder)
                .push(" AND effects = ")
                .bind(row.effects);
            if sql::execute(conn, &anew).await? == 0 {
                return Err(DbError::Conflict { what: "the same key came twice".to_owned() });
            }
            Ok(Claimed::Ours(Claim { id: row.id, holder }))
        }
    }
}

/// Says that the holder still works; `false` if the claim is another's by now.
pub async fn renew(conn: &mut Conn, claim: &Claim) -> Result<bool, DbError> {
    let row = Sql::update("idempotency_key", [("lease_until", (crate::now() + LEASE).into())]);
    Ok(sql::execute(conn, &of(row, claim)).await? > 0)
}

/// Notes that the request has an effect. Call it in the transaction of the effect.
///
/// # Errors
///
/// [`DbError::Busy`] if another holder has taken over: the effect must not be committed.
pub async fn took_effect(conn: &mut Conn, claim: &Claim) -> Result<(), DbError> {
    let row = Sql::new("UPDATE idempotency_key SET effects = effects + 1");
    if sql::execute(conn, &of(row, claim)).await? == 0 {
        let source = "somebody else carries out the request of this Idempotency-Key by now".into();
        return Err(DbError::Busy { source });
    }
    Ok(())
}

/// Keeps the answer.
pub async fn answer(conn: &mut Conn, claim: &Claim, answer: &Answer) -> Result<(), DbError> {
    let row = Sql::update(
        "idempotency_key",
        [
            ("status", i32::from(answer.status).into()),
            ("headers", (&answer.headers).into()),
            ("body", (&answer.body).into()),
        ],
    );
    sql::execute(conn, &of(row, claim)).await.map(drop)
}

/// Gives a request back of which nothing came, so that it can be done again at once. One that took
/// effect stays, and reads as lost.
pub async fn release(conn: &mut Conn, claim: &Claim) -> Result<(), DbError> {
    let row = of(Sql::new("DELETE FROM idempotency_key"), claim).push(" AND effects = 0");
    if sql::execute(conn, &row).await? == 0 {
        let ended = Sql::update("idempotency_key", [("lease_until", crate::now().into())]);
        sql::execute(conn, &of(ended, claim)).await?;
    }
    Ok(())
}

/// Forgets what is older than `age`, but for what is under way, and says how many.
pub async fn prune(conn: &mut Conn, age: Duration) -> Result<u64, DbError> {
    let now = crate::now();
    let old = Sql::new("DELETE FROM idempotency_key WHERE gmt_create <= ")
        .bind(before(now, age))
        .push(" AND (status IS NOT NULL OR lease_until <= ")
        .bind(now)
        .push(")");
    sql::execute(conn, &old).await
}

fn of<'a>(row: Sql<'a>, claim: &'a Claim) -> Sql<'a> {
    row.push(" WHERE id = ").bind(claim.id).push(" AND holder = ").bind(&claim.holder)
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    let age = chrono::TimeDelta::from_std(age).unwrap_or_default();
    now.checked_sub_signed(age).unwrap_or(Timestamp::MIN)
}

fn new_holder() -> Result<String, DbError> {
    let mut random = [0; 16];
    SystemRandom::new().fill(&mut random).map_err(|_| SecretError::Random)?;
    Ok(hex(&random))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(now: Timestamp) -> Row {
        Row {
            id: 1,
            request_sha256: "same".to_owned(),
            holder: "a".to_owned(),
            lease_until: now + LEASE,
            effects: 0,
            status: None,
            headers: None,
            body: None,
            gmt_create: now,
        }
    }

    #[test]
    fn parts_do_not_run_into_one_another() {
        assert_ne!(sha256(&[b"ab", b"c"]), sha256(&[b"a", b"bc"]));
        assert_eq!(sha256(&[b"ab"]).len(), 64);
    }

    #[test]
    fn what_a_row_means_for_a_repeat() {
        let now = crate::now();
        let running = row(now);
        let died = Row { lease_until: now, ..running.clone() };
        let lost = Row { effects: 1, ..died.clone() };
        let answered = Row { status: Some(409), effects: 0, ..died.clone() };
        let day = chrono::TimeDelta::hours(24);
        let is = |row: &Row, sha256| sense(row, sha256, now);

        assert_eq!(is(&running, "same"), Sense::Taken(Claimed::Running));
        assert_eq!(is(&died, "same"), Sense::Free);
        assert_eq!(is(&lost, "same"), Sense::Taken(Claimed::Lost));
        assert!(matches!(is(&answered, "same"), Sense::Taken(Claimed::Answered(_))));
        assert_eq!(is(&died, "other"), Sense::Free);
        for row in [&running, &lost, &answered] {
            assert_eq!(is(row, "other"), Sense::Taken(Claimed::Other));
        }
        for row in [died, lost, answered] {
            let old = Row { gmt_create: now - day, ..row };
            assert_eq!(is(&old, "other"), Sense::Free);
        }
        let slow = Row { gmt_create: now - day, ..running };
        assert_eq!(is(&slow, "same"), Sense::Taken(Claimed::Running), "a long upload");
    }
}
