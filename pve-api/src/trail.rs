//! The record of who changed what. A change and its event are one transaction; what was refused is
//! recorded too, beside it.

use schema::audit::{self, Event};
use schema::{Conn, DbError, idempotency};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::read::write;

/// One attempt to change something.
#[derive(Clone, Debug)]
pub(crate) struct Trail {
    caller: Caller,
    /// As in `template.upload`.
    action: &'static str,
    object_kind: &'static str,
    pub object_name: Option<String>,
    pub cluster_name: Option<String>,
}

impl Trail {
    pub(crate) fn new(
        caller: Caller,
        action: &'static str,
        object_kind: &'static str,
        object_name: Option<String>,
    ) -> Self {
        Self { caller, action, object_kind, object_name, cluster_name: None }
    }

    pub(crate) fn actor(&self) -> &str {
        &self.caller.name
    }

    /// The same, of an object whose name is known by now: ids mean nothing once a row is gone.
    pub(crate) fn named(&self, name: impl Into<String>, cluster: Option<&str>) -> Self {
        let cluster_name = cluster.map(str::to_owned).or_else(|| self.cluster_name.clone());
        Self { object_name: Some(name.into()), cluster_name, ..self.clone() }
    }

    /// Records that it was done, for a repeat of the request too. Call it in the transaction that
    /// does it.
    pub(crate) async fn done(&self, conn: &mut Conn) -> Result<(), DbError> {
        audit::insert(conn, &self.event("done", None)).await?;
        match &self.caller.claim {
            Some(claim) => idempotency::took_effect(conn, claim).await,
            None => Ok(()),
        }
    }

    /// Records that it was not done, and passes the outcome on.
    pub(crate) async fn told<T>(
        &self,
        api: &Api,
        outcome: Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        if let Err(error) = &outcome
            && error.is_callers()
        {
            let (reason, message) = (error.reason(), error.to_string());
            let record = async |conn: &mut Conn| {
                audit::insert(conn, &self.event(reason, Some(&message))).await
            };
            if let Err(error) = write(&api.db, record).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, action = self.action, "A refusal was not recorded");
            }
        }
        outcome
    }

    fn event<'a>(&'a self, result: &'a str, detail: Option<&'a str>) -> Event<'a> {
        Event {
            actor: &self.caller.name,
            action: self.action,
            object_kind: self.object_kind,
            object_name: self.object_name.as_deref(),
            cluster_name: self.cluster_name.as_deref(),
            remote_address: self.caller.remote_address.as_deref(),
            request_id: self.caller.request_id.as_deref(),
            result,
            detail,
        }
    }
}
