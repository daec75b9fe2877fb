//! `/overview`: how much there is of everything, in each cluster and in all.

use axum::extract::State;
use schema::overview::{self, Totals};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Api;
use crate::envelope::Answer;
use crate::error::ApiError;
use crate::query::Params;
use crate::read::read;
use crate::view::{Time, time};

/// `GET /overview`: every cluster, by id, disabled ones too, and the sums.
pub(crate) async fn show(
    State(api): State<Api>,
    Params(()): Params<()>,
) -> Result<Answer<OverviewView>, ApiError> {
    let totals = read(&api.db, async |conn| overview::totals(conn).await).await?;
    let clusters: Vec<_> = totals.into_iter().map(ClusterTotalsView::from).collect();
    let mut total = CountsView::default();
    for cluster in &clusters {
        total.add(&cluster.counts);
    }
    Ok(Answer(OverviewView { total: clusters.len(), counts: total, clusters }))
}

/// All clusters.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct OverviewView {
    /// How many clusters there are.
    total: usize,
    /// The sums over all of them.
    counts: CountsView,
    clusters: Vec<ClusterTotalsView>,
}

/// One cluster.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ClusterTotalsView {
    cluster_id: i64,
    cluster_name: String,
    is_enabled: bool,
    /// Whether its mirror is up to date; false before the first contact.
    is_ready: bool,
    /// As in its status; null before the first contact.
    reason: Option<String>,
    message: Option<String>,
    last_success: Option<Time>,
    counts: CountsView,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
pub(crate) struct CountsView {
    /// Without those that left their cluster.
    nodes: i64,
    nodes_online: i64,
    /// Virtual machines that are no templates in PVE.
    qemu: GuestCountsView,
    /// Containers that are no templates in PVE.
    lxc: GuestCountsView,
    /// Guests that are templates in PVE.
    template_guests: i64,
    /// Templates of `/templates` that are not deleted.
    templates: i64,
    /// Bytes; a storage that several nodes share counts once.
    storage_total: i64,
    storage_used: i64,
}

/// Guests of one kind by status.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
pub(crate) struct GuestCountsView {
    total: i64,
    running: i64,
    stopped: i64,
    /// Whose node does not answer.
    unknown: i64,
    /// Paused, suspended and the like.
    other: i64,
}

impl CountsView {
    fn add(&mut self, more: &Self) {
        self.nodes += more.nodes;
        self.nodes_online += more.nodes_online;
        self.qemu.add(&more.qemu);
        self.lxc.add(&more.lxc);
        self.template_guests += more.template_guests;
        self.templates += more.templates;
        self.storage_total = self.storage_total.saturating_add(more.storage_total);
        self.storage_used = self.storage_used.saturating_add(more.storage_used);
    }
}

impl GuestCountsView {
    fn new(total: i64, running: i64, stopped: i64, unknown: i64) -> Self {
        Self { total, running, stopped, unknown, other: total - running - stopped - unknown }
    }

    fn add(&mut self, more: &Self) {
        self.total += more.total;
        self.running += more.running;
        self.stopped += more.stopped;
        self.unknown += more.unknown;
        self.other += more.other;
    }
}

impl From<Totals> for ClusterTotalsView {
    fn from(row: Totals) -> Self {
        let (qemu, lxc) = (row.qemu, row.lxc);
        Self {
            cluster_id: row.cluster_id.0,
            cluster_name: row.cluster_name,
            is_enabled: row.is_enabled.0,
            is_ready: row.is_ready.is_some_and(bool::from),
            reason: row.reason,
            message: row.message,
            last_success: time(row.last_success),
            counts: CountsView {
                nodes: row.nodes,
                nodes_online: row.nodes_online,
                qemu: GuestCountsView::new(qemu.all, qemu.running, qemu.stopped, qemu.unknown),
                lxc: GuestCountsView::new(lxc.all, lxc.running, lxc.stopped, lxc.unknown),
                template_guests: row.template_guests,
                templates: row.templates,
                storage_total: row.storage_total,
                storage_used: row.storage_used,
            },
        }
    }
}
