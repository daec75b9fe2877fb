//! `POST /templates/{id}/retry` and `/cancel`: the import on the first node, which has no task.

use axum::extract::State;
use schema::instance::{self, Desired};
use schema::template_view;
use schema::upload::UploadStatus;
use schema::{Conn, TemplateId, template_wish, upload};
use schemars::JsonSchema;
use serde::Serialize;

use super::no_such_template;
use crate::Api;
use crate::auth::Caller;
use crate::envelope::Answer;
use crate::error::{ApiError, Refusal};
use crate::path::Id;
use crate::query::Params;
use crate::read::write;
use crate::trail::Trail;
use crate::view::words;

/// `POST /templates/{id}/retry`
pub(super) async fn retry(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id,
    Params(()): Params<()>,
) -> Result<Answer<ChangedImport>, ApiError> {
    change(&api, caller, id, Change::Retry).await
}

/// `POST /templates/{id}/cancel`
pub(super) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id,
    Params(()): Params<()>,
) -> Result<Answer<ChangedImport>, ApiError> {
    change(&api, caller, id, Change::Cancel).await
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Change {
    Retry,
    Cancel,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Act {
    WantAgain,
    WantNoLonger,
    Nothing,
}

/// Pure: whether an import that reads as `shown` can be changed.
fn plan(change: Change, shown: UploadStatus, wanted: Desired) -> Result<Act, Refusal> {
    use UploadStatus::{Failed, Imported, Importing, Uploaded, Uploading};
    if wanted == Desired::Absent {
        let message = "the template is being deleted";
        return Err(Refusal::conflict("deleting", message));
    }
    let refused = |advice: &str| {
        Err(Refusal::conflict("wrong_state", format!("the import is {shown}: {advice}")))
    };
    match (change, shown) {
        (Change::Retry, Failed) => Ok(Act::WantAgain),
        (Change::Retry, Uploading | Uploaded | Importing) if wanted == Desired::Cancelled => {
            Ok(Act::WantAgain)
        }
        (Change::Retry, Imported) => refused("there is nothing to try again"),
        (Change::Retry, Uploading | Uploaded | Importing) => {
            refused("only one that failed or was cancelled can be tried again; cancel it first")
        }
        (Change::Cancel, Uploading | Uploaded | Importing) if wanted == Desired::Cancelled => {
            Ok(Act::Nothing)
        }
        (Change::Cancel, Uploading | Uploaded | Importing) => Ok(Act::WantNoLonger),
        (Change::Cancel, Imported | Failed) => {
            refused("it is over; DELETE /api/v1/templates/{id}?cascade=true removes what it made")
        }
    }
}

async fn change(
    api: &Api,
    caller: Caller,
    id: i64,
    change: Change,
) -> Result<Answer<ChangedImport>, ApiError> {
    let id = TemplateId(id);
    let action = match change {
        Change::Retry => "template.retry",
        Change::Cancel => "template.cancel",
    };
    let trail = Trail::new(caller, action, "template", Some(id.to_string()));
    let outcome = write(&api.db, async |conn: &mut Conn| {
        let Some(view) = template_view::template(conn, id).await? else { return Ok(None) };
        let trail = trail.named(&view.template.template_name, Some(&view.cluster_name));
        let Some(shown) = view.upload else { return Ok(None) };
        let instances = instance::of_upload(conn, shown.id).await?;
        let Some(primary) = instances.into_iter().find(|it| it.is_primary.0) else {
            return Ok(None);
        };
        match plan(change, shown.told.status, primary.desired) {
            Err(refusal) => return Ok(Some(Err(refusal))),
            Ok(Act::Nothing) => {}
            Ok(Act::WantAgain) => {
                template_wish::want_again(conn, &[&primary], trail.actor()).await?;
                trail.done(conn).await?;
            }
            Ok(Act::WantNoLonger) => {
                template_wish::cancel(conn, &primary, trail.actor()).await?;
                trail.done(conn).await?;
            }
        }
        let now = upload::get(conn, shown.id).await?.map(template_view::shown_upload);
        Ok(now.map(|now| {
            Ok(ChangedImport {
                template_id: id.0,
                upload_id: now.id.0,
                status: now.told.status.as_str(),
            })
        }))
    });
    let outcome = match outcome.await {
        Ok(Some(Ok(changed))) => Ok(changed),
        Ok(Some(Err(refusal))) => Err(refusal.into()),
        Ok(None) => Err(no_such_template(id)),
        Err(error) => Err(error),
    };
    trail.told(api, outcome).await.map(Answer)
}

/// An import, and how it reads now.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChangedImport {
    template_id: i64,
    upload_id: i64,
    #[schemars(extend("enum" = words(UploadStatus::ALL, UploadStatus::as_str)))]
    status: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_that_failed_or_is_being_cancelled_is_tried_again() {
        for &shown in UploadStatus::ALL {
            let retry = |wanted| plan(Change::Retry, shown, wanted).is_ok();
            assert_eq!(retry(Desired::Available), shown == UploadStatus::Failed, "{shown}");
            assert_eq!(retry(Desired::Cancelled), shown != UploadStatus::Imported, "{shown}");
            assert!(!retry(Desired::Absent), "{shown}");
        }
    }

    #[test]
    fn an_import_that_is_over_can_not_be_cancelled() {
        for &shown in UploadStatus::ALL {
            let over = matches!(shown, UploadStatus::Imported | UploadStatus::Failed);
            assert_eq!(plan(Change::Cancel, shown, Desired::Available).is_err(), over, "{shown}");
        }
        let again = plan(Change::Cancel, UploadStatus::Importing, Desired::Cancelled);
        assert_eq!(again, Ok(Act::Nothing));
    }
}
