//! `/templates`: what there is, what is wanted of it, and how far it has come.
//!
//! ```text
//! look (one transaction) --> plan (pure) --> act: rows of what is wanted, and the record of it
//! ```
//!
//! Nothing here talks to PVE: rows say what is wanted, and the operator does it.

mod clone;
mod clone_plan;
mod delete;
mod form;
mod form_request;
mod intake;
mod keep;
mod placement;
mod primary;
pub(crate) mod resumable;
mod sync;
mod tasks;
mod upload;
mod uploads;
mod version;
mod views;
mod world;

use axum::extract::State;
use schema::page::SortKey;
use schema::template::TemplateStatus;
use schema::template_view::{self, TemplateFilter};
use schema::token::Scope;
use schema::{ClusterId, Conn, TemplateId};

pub(crate) use uploads::Uploads;
pub(crate) use views::TaskView;

use crate::Api;
use crate::envelope::{Answer, List};
use crate::error::ApiError;
use crate::path::Id;
use crate::query::{FromQuery, Paged, Params, Query, Sortable};
use crate::read::read;
use crate::routes::Routes;
use views::{DetailView, InstanceView, InstancesView, ListedView};

/// Every route of templates.
pub(crate) fn routes(routes: Routes) -> Routes {
    use Scope::{Read, Write};
    let routes = resumable::routes(routes);
    routes
        .get(Read, "/templates", "List templates", list)
        .post(Write, "/templates/upload", "Upload template", upload::upload)
        .get(Read, "/templates/sync-tasks", "List sync tasks", tasks::list)
        .get(Read, "/templates/sync-tasks/watch", "Watch sync tasks", crate::watch::watch)
        .get(Read, "/templates/sync-tasks/{id}", "Show sync task", tasks::show)
        .delete(Write, "/templates/sync-tasks/{id}", "Delete sync task", tasks::delete)
        .post(Write, "/templates/sync-tasks/{id}/retry", "Retry sync task", tasks::retry)
        .post(Write, "/templates/sync-tasks/{id}/cancel", "Cancel sync task", tasks::cancel)
        .get(Read, "/templates/clones/{id}", "Show clone", clone::show)
        .delete(Write, "/templates/{id}", "Delete template", delete::delete)
        .get(Read, "/templates/{id}/detail", "Show template", detail)
        .get(Read, "/templates/{id}/instances", "List template instances", instances)
        .post(Write, "/templates/{id}/sync", "Sync template", sync::sync)
        .post(Write, "/templates/{id}/retry", "Retry import", primary::retry)
        .post(Write, "/templates/{id}/cancel", "Cancel import", primary::cancel)
        .post(Write, "/templates/{id}/clone", "Clone template", clone::clone)
}

/// `GET /templates`: one page of the templates that pass every filter, newest id first; deleted
/// ones only with `status=deleted`.
async fn list(
    State(api): State<Api>,
    Params(Paged(page, filter)): Params<Paged<TemplateFilter>>,
) -> Result<Answer<List<ListedView>>, ApiError> {
    let list = async |conn: &mut Conn| template_view::list_templates(conn, &filter, page).await;
    Ok(Answer(List::of(read(&api.db, list).await?, ListedView::new)))
}

impl Sortable for TemplateFilter {
    const SORTS: &'static [SortKey] = template_view::SORTS;
}

impl FromQuery for TemplateFilter {
    fn from_query(query: &mut Query) -> Result<Self, ApiError> {
        Ok(Self {
            cluster_id: query.number("cluster_id")?.map(ClusterId),
            template_name: query.text("template_name")?,
            status: query.one_of("status", &words(TemplateStatus::ALL, TemplateStatus::as_str))?,
        })
    }
}

/// Whether a template is shown with its instances.
struct WithInstances(bool);

impl FromQuery for WithInstances {
    fn from_query(query: &mut Query) -> Result<Self, ApiError> {
        Ok(Self(query.flag("include_instances")?.unwrap_or_default()))
    }
}

/// `GET /templates/{id}/detail`
async fn detail(
    State(api): State<Api>,
    Id(id): Id,
    Params(WithInstances(with_instances)): Params<WithInstances>,
) -> Result<Answer<DetailView>, ApiError> {
    let id = TemplateId(id);
    let found = read(&api.db, async |conn: &mut Conn| {
        let Some(view) = template_view::template(conn, id).await? else { return Ok(None) };
        let instances =
            if with_instances { Some(template_view::instances(conn, id).await?) } else { None };
        Ok(Some((view, instances)))
    });
    let (view, instances) = found.await?.ok_or_else(|| no_such_template(id))?;
    Ok(Answer(DetailView::new(view, instances)))
}

/// `GET /templates/{id}/instances`
async fn instances(
    State(api): State<Api>,
    Id(id): Id,
    Params(()): Params<()>,
) -> Result<Answer<InstancesView>, ApiError> {
    let id = TemplateId(id);
    let found = read(&api.db, async |conn: &mut Conn| {
        let Some(view) = template_view::template(conn, id).await? else { return Ok(None) };
        Ok(Some((view.template, template_view::instances(conn, id).await?)))
    });
    let (template, all) = found.await?.ok_or_else(|| no_such_template(id))?;
    Ok(Answer(InstancesView {
        template_id: template.id.0,
        template_name: template.template_name,
        total: all.len(),
        instances: all.into_iter().map(InstanceView::new).collect(),
    }))
}

fn no_such_template(id: TemplateId) -> ApiError {
    ApiError::not_found(format!("template with id {id}"))
}

/// The words that a query may choose from.
fn words<T: Copy>(all: &[T], word: fn(T) -> &'static str) -> Vec<(&'static str, T)> {
    all.iter().map(|it| (word(*it), *it)).collect()
}
