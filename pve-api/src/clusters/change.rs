//! `POST`, `PUT` and `DELETE` of clusters. The operator sees a change at its next look at the table.

use axum::extract::State;
use schema::cluster::{self, Cluster, ClusterWish};
use schema::secret::{Secret, SecretKeys, USER_TOKEN, reveal};
use schema::{ClusterId, Conn, DbError, sweep, template};
use schemars::JsonSchema;
use serde::Serialize;

use super::form::{self, ClusterBody, TOKEN};
use super::{ClusterView, no_such_cluster};
use crate::Api;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::envelope::Answer;
use crate::error::{ApiError, Refusal, printable};
use crate::path::Id;
use crate::query::{Force, Params};
use crate::read::write;
use crate::trail::Trail;

/// `POST /clusters`: a cluster that is followed from now on.
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Params(()): Params<()>,
    JsonBody(body): JsonBody<ClusterBody>,
) -> Result<Answer<ClusterView>, ApiError> {
    let trail = trail(caller, "cluster.create", &body);
    let outcome = insert(&api, &trail, &body).await;
    trail.told(&api, outcome).await.map(Answer)
}

async fn insert(api: &Api, trail: &Trail, body: &ClusterBody) -> Result<ClusterView, ApiError> {
    let wish = body.wish()?;
    let token = body.token()?.ok_or_else(|| {
        ApiError::invalid(TOKEN, format!("{TOKEN} is missing; send the token as PVE printed it"))
    })?;
    form::fit(&wish.user_id, &token)?;
    let stored = seal(api.settings.secret_keys.as_ref(), token)?;
    let made = write(&api.db, async |conn: &mut Conn| {
        let id = cluster::insert(conn, &wish, &stored, trail.actor()).await?;
        trail.done(conn).await?;
        cluster::get(conn, id).await
    });
    let made = made.await.map_err(|error| taken(error, &wish))?;
    made.map(ClusterView::from).ok_or_else(|| no_such_cluster(0))
}

/// `PUT /clusters/{id}`: all that people own of a cluster anew; without `user_token` the token
/// stays.
pub(crate) async fn replace(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id,
    Params(()): Params<()>,
    JsonBody(body): JsonBody<ClusterBody>,
) -> Result<Answer<ClusterView>, ApiError> {
    let trail = trail(caller, "cluster.replace", &body);
    let outcome = update(&api, &trail, id, &body).await;
    trail.told(&api, outcome).await.map(Answer)
}

async fn update(
    api: &Api,
    trail: &Trail,
    id: i64,
    body: &ClusterBody,
) -> Result<ClusterView, ApiError> {
    let (wish, token) = (body.wish()?, body.token()?);
    let keys = api.settings.secret_keys.as_ref();
    if let Some(token) = &token {
        form::fit(&wish.user_id, token)?;
    }
    let stored = token.map(|token| seal(keys, token)).transpose()?;
    let id = ClusterId(id);
    let replaced = write(&api.db, async |conn: &mut Conn| {
        let Some(before) = cluster::get(conn, id).await? else { return Ok(None) };
        if let (None, Err(mistake)) = (&stored, fits_kept(keys, &wish, &before)) {
            return Ok(Some(Err(mistake)));
        }
        let there = ClusterWish::of(before.clone());
        if stored.is_none() && wish.leads_elsewhere(&there) {
            return Ok(Some(Err(goes_elsewhere())));
        }
        if stored.is_none() && there == wish {
            return Ok(Some(Ok(before)));
        }
        cluster::replace(conn, id, &wish, stored.as_ref(), trail.actor()).await?;
        trail.done(conn).await?;
        Ok(cluster::get(conn, id).await?.map(Ok))
    });
    let replaced = replaced.await.map_err(|error| taken(error, &wish))?;
    replaced.ok_or_else(|| no_such_cluster(id.0))?.map(ClusterView::from)
}

/// Else whoever may change clusters could have the token sent to an address of theirs, and it never
/// comes out.
fn goes_elsewhere() -> ApiError {
    let message = "the address, or what is trusted there, changes: send user_token again with it";
    ApiError::invalid(TOKEN, message)
}

/// Whether the token that stays goes with the user; one that can not be opened here is the
/// operator's to judge.
fn fits_kept(
    keys: Option<&SecretKeys>,
    wish: &ClusterWish,
    before: &Cluster,
) -> Result<(), ApiError> {
    match reveal(keys, USER_TOKEN, &before.user_token) {
        Ok(token) => form::fit(&wish.user_id, &token),
        Err(_) => Ok(()),
    }
}

/// `DELETE /clusters/{id}`: ends its mirror and deletes every row of it. PVE is not touched.
pub(crate) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id,
    Params(Force(force)): Params<Force>,
) -> Result<Answer<DeletedClusterView>, ApiError> {
    let trail = Trail::new(caller, "cluster.delete", "cluster", Some(id.to_string()));
    let id = ClusterId(id);
    let deleted = write(&api.db, async |conn: &mut Conn| {
        let Some(there) = cluster::get(conn, id).await? else { return Ok(None) };
        let templates = template::count_of_cluster(conn, id).await?;
        if templates > 0 && !force {
            return Ok(Some(Err(has_templates(templates))));
        }
        let name = there.cluster_name;
        if cluster::delete(conn, id).await? {
            trail.named(&name, Some(&name)).done(conn).await?;
        }
        Ok(Some(Ok(DeletedClusterView { cluster_id: id.0, cluster_name: name })))
    });
    let outcome = match deleted.await {
        Ok(Some(Ok(deleted))) => Ok(deleted),
        Ok(Some(Err(refusal))) => Err(refusal.into()),
        Ok(None) => Err(no_such_cluster(id.0)),
        Err(error) => Err(error),
    };
    let deleted = trail.told(&api, outcome).await?;
    sweep_now(&api, id).await;
    Ok(Answer(deleted))
}

/// Deletes what else there is of the cluster, in case no operator runs. One that runs may write a
/// row once more before it sees that the cluster is gone; then it stops that and sweeps as well.
async fn sweep_now(api: &Api, id: ClusterId) {
    let swept = write(&api.db, async |conn: &mut Conn| sweep::sweep_cluster(conn, id).await).await;
    if let Err(error) = swept {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, %id, "Rows of a deleted cluster are left to the operator");
    }
}

fn trail(caller: Caller, action: &'static str, body: &ClusterBody) -> Trail {
    let name = printable(&body.cluster_name);
    Trail::new(caller, action, "cluster", Some(name.clone())).named(&name, Some(&name))
}

/// As it is stored: sealed, where there is a key.
fn seal(keys: Option<&SecretKeys>, token: Secret) -> Result<Secret, ApiError> {
    match keys {
        None => Ok(token),
        Some(keys) => Ok(Secret::new(keys.seal(USER_TOKEN, &token).map_err(DbError::from)?)),
    }
}

fn taken(error: ApiError, wish: &ClusterWish) -> ApiError {
    match error {
        ApiError::Db(DbError::Conflict { .. }) => {
            let name = printable(&wish.cluster_name);
            let message = format!("there is a cluster called `{name}` already");
            Refusal::conflict("name_taken", message).of_field("cluster_name").into()
        }
        other => other,
    }
}

fn has_templates(count: i64) -> Refusal {
    let message = format!(
        "the cluster has {count} templates that are not deleted: delete them first, or forget them \
         with the cluster by ?force=true; their guests in PVE stay"
    );
    Refusal::conflict("has_templates", message)
}

/// What is no more.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DeletedClusterView {
    cluster_id: i64,
    cluster_name: String,
}
