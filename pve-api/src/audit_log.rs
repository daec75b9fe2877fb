//! `/audit`: who changed what, from where, and what came of it.

use axum::extract::State;
use schema::audit::{self, EventFilter, EventRow};
use schema::page::Page;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Api;
use crate::envelope::{Answer, List};
use crate::error::ApiError;
use crate::query::{FromQuery, Params, Query};
use crate::read::ask;
use crate::view::Time;

/// `GET /audit`: one page of the events that pass every filter, newest first.
pub(crate) async fn list(
    State(api): State<Api>,
    Params((page, filter)): Params<(Page, EventFilter)>,
) -> Result<Answer<List<EventView>>, ApiError> {
    let rows = ask(&api.db, async |conn| audit::page(conn, &filter, page).await).await?;
    Ok(Answer(List::of(rows, EventView::from)))
}

impl FromQuery for EventFilter {
    fn from_query(query: &mut Query) -> Result<Self, ApiError> {
        Ok(Self {
            actor: query.text("actor")?,
            action: query.text("action")?,
            object_kind: query.text("object_kind")?,
            object_name: query.text("object_name")?,
            cluster_name: query.text("cluster_name")?,
            result: query.text("result")?,
            since: query.time("since")?,
            until: query.time("until")?,
        })
    }
}

/// What is shown of an event.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EventView {
    id: i64,
    gmt_create: Time,
    /// The name of the token, or of the command.
    actor: String,
    /// As in `template.upload`.
    action: String,
    object_kind: String,
    /// By name, because ids mean nothing once a row is gone; an id where no name was known.
    object_name: Option<String>,
    cluster_name: Option<String>,
    remote_address: Option<String>,
    request_id: Option<String>,
    /// `done`, or the reason of a refusal in one word.
    result: String,
    /// What the caller was told.
    detail: Option<String>,
}

impl From<EventRow> for EventView {
    fn from(row: EventRow) -> Self {
        Self {
            id: row.id,
            gmt_create: Time(row.gmt_create),
            actor: row.actor,
            action: row.action,
            object_kind: row.object_kind,
            object_name: row.object_name,
            cluster_name: row.cluster_name,
            remote_address: row.remote_address,
            request_id: row.request_id,
            result: row.result,
            detail: row.detail,
        }
    }
}
