//! `audit_event`: who changed what, from where, and what came of it. Names, not ids, so that an
//! event outlives what it tells of.

use diesel::prelude::*;

use crate::page::{Listing, Page, Search, alone};
use crate::sql::{self, Sql};
use crate::tables::audit_event;
use crate::text::{NAME, WORD, fit};
use crate::{Conn, DbError, Timestamp};

/// A change, or an attempt at one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Event<'a> {
    /// The name of the token, or of the command.
    pub actor: &'a str,
    /// As in `template.upload`.
    pub action: &'a str,
    /// As in `template`.
    pub object_kind: &'a str,
    pub object_name: Option<&'a str>,
    pub cluster_name: Option<&'a str>,
    pub remote_address: Option<&'a str>,
    pub request_id: Option<&'a str>,
    /// `done`, or the reason of a refusal in one word.
    pub result: &'a str,
    pub detail: Option<&'a str>,
}

/// One row.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = audit_event)]
pub struct EventRow {
    pub id: i64,
    pub gmt_create: Timestamp,
    pub actor: String,
    pub action: String,
    pub object_kind: String,
    pub object_name: Option<String>,
    pub cluster_name: Option<String>,
    pub remote_address: Option<String>,
    pub request_id: Option<String>,
    pub result: String,
    pub detail: Option<String>,
}

/// Keeps an event; in the transaction of the change that it tells of, so that there is none
/// without the other.
pub async fn insert(conn: &mut Conn, event: &Event<'_>) -> Result<(), DbError> {
    // Longer texts would be an error on two of the three databases.
    let some = |text: Option<&str>, longest| text.map(|text| fit(text, longest).into_owned());
    let object_name = some(event.object_name, NAME);
    let cluster_name = some(event.cluster_name, NAME);
    let remote_address = some(event.remote_address, WORD);
    let request_id = some(event.request_id, WORD);
    let detail = some(event.detail, usize::MAX);
    let row = Sql::insert(
        "audit_event",
        [
            ("actor", fit(event.actor, NAME).into_owned().into()),
            ("action", fit(event.action, WORD).into_owned().into()),
            ("object_kind", fit(event.object_kind, WORD).into_owned().into()),
            ("object_name", (&object_name).into()),
            ("cluster_name", (&cluster_name).into()),
            ("remote_address", (&remote_address).into()),
            ("request_id", (&request_id).into()),
            ("result", fit(event.result, 32).into_owned().into()),
            ("detail", (&detail).into()),
        ],
    );
    sql::execute(conn, &row).await.map(drop)
}

/// The last events, newest first.
pub async fn latest(conn: &mut Conn, limit: u32) -> Result<Vec<EventRow>, DbError> {
    let rows = Sql::new("SELECT * FROM audit_event ORDER BY id DESC").limit(limit, conn.backend());
    sql::fetch(conn, &rows).await
}

/// Which events to list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EventFilter {
    pub actor: Option<String>,
    pub action: Option<String>,
    pub object_kind: Option<String>,
    pub object_name: Option<String>,
    pub cluster_name: Option<String>,
    pub result: Option<String>,
    /// From this moment on.
    pub since: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
}

/// One page of the events that pass `filter`. One statement, so it needs no transaction.
pub async fn page(
    conn: &mut Conn,
    filter: &EventFilter,
    page: Page,
) -> Result<Listing<EventRow>, DbError> {
    let mut conditions = Sql::new("")
        .and("actor", filter.actor.as_ref())
        .and("action", filter.action.as_ref())
        .and("object_kind", filter.object_kind.as_ref())
        .and("object_name", filter.object_name.as_ref())
        .and("cluster_name", filter.cluster_name.as_ref())
        .and("result", filter.result.as_ref());
    if let Some(since) = filter.since {
        conditions = conditions.push(" AND gmt_create >= ").bind(since);
    }
    if let Some(until) = filter.until {
        conditions = conditions.push(" AND gmt_create < ").bind(until);
    }
    Search { conditions, ..alone!("audit_event") }.page(conn, page).await
}
