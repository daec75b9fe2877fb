//! How much there is of everything, cluster by cluster, in one query.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, SmallInt, Text, Timestamp as Time};

use crate::sql::{self, Sql};
use crate::{Backend, ClusterId, Conn, DbError, Flag, Timestamp};

/// The totals of one cluster. Nodes that left it are not counted.
#[derive(Clone, Debug, PartialEq, QueryableByName)]
pub struct Totals {
    #[diesel(sql_type = BigInt)]
    pub cluster_id: ClusterId,
    #[diesel(sql_type = Text)]
    pub cluster_name: String,
    #[diesel(sql_type = SmallInt)]
    pub is_enabled: Flag,
    /// `None`, as everything that is told of the connection, before the first contact.
    #[diesel(sql_type = Nullable<SmallInt>)]
    pub is_ready: Option<Flag>,
    #[diesel(sql_type = Nullable<Text>)]
    pub reason: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub message: Option<String>,
    #[diesel(sql_type = Nullable<Time>)]
    pub last_success: Option<Timestamp>,
    #[diesel(sql_type = BigInt)]
    pub nodes: i64,
    #[diesel(sql_type = BigInt)]
    pub nodes_online: i64,
    #[diesel(embed)]
    pub qemu: Qemu,
    #[diesel(embed)]
    pub lxc: Lxc,
    /// Guests that are templates in PVE, and are not among the others.
    #[diesel(sql_type = BigInt)]
    pub template_guests: i64,
    /// Templates of ours that are not deleted.
    #[diesel(sql_type = BigInt)]
    pub templates: i64,
    /// Of storages, in bytes; a shared one counts once, however many nodes see it.
    #[diesel(sql_type = BigInt)]
    pub storage_total: i64,
    #[diesel(sql_type = BigInt)]
    pub storage_used: i64,
}

macro_rules! guests {
    ($(#[$doc:meta])* $name:ident: $all:ident, $running:ident, $stopped:ident, $unknown:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq, QueryableByName)]
        pub struct $name {
            #[diesel(sql_type = BigInt, column_name = $all)]
            pub all: i64,
            #[diesel(sql_type = BigInt, column_name = $running)]
            pub running: i64,
            #[diesel(sql_type = BigInt, column_name = $stopped)]
            pub stopped: i64,
            /// Whose node does not answer.
            #[diesel(sql_type = BigInt, column_name = $unknown)]
            pub unknown: i64,
        }
    };
}
guests! {
    /// Virtual machines by status; there are more statuses than these.
    Qemu: qemu_all, qemu_running, qemu_stopped, qemu_unknown
}
guests! {
    /// Containers by status.
    Lxc: lxc_all, lxc_running, lxc_stopped, lxc_unknown
}

/// The totals of every cluster, by id.
pub async fn totals(conn: &mut Conn) -> Result<Vec<Totals>, DbError> {
    // A sum of BIGINT is a DECIMAL to MariaDB and PostgreSQL.
    let int = if conn.backend() == Backend::Mysql { "SIGNED" } else { "BIGINT" };
    let guests: Vec<String> = ["qemu", "lxc"]
        .iter()
        .flat_map(|kind| {
            let of = format!("kind = '{kind}' AND is_template = 0");
            let count = |and: &str, name: &str| {
                format!("count(CASE WHEN {of}{and} THEN 1 END) AS {kind}_{name}")
            };
            [
                count("", "all"),
                count(" AND status = 'running'", "running"),
                count(" AND status = 'stopped'", "stopped"),
                count(" AND status = 'unknown'", "unknown"),
            ]
        })
        .collect();
    let counted = ["qemu", "lxc"].iter().flat_map(|kind| {
        ["all", "running", "stopped", "unknown"]
            .map(|name| format!("COALESCE(g.{kind}_{name}, 0) AS {kind}_{name}"))
    });
    let counted: Vec<String> = counted.collect();
    let query = format!(
        "SELECT c.id AS cluster_id, c.cluster_name AS cluster_name, c.is_enabled AS is_enabled, \
         s.is_ready AS is_ready, s.reason AS reason, s.message AS message, \
         s.last_success AS last_success, \
         COALESCE(n.nodes, 0) AS nodes, COALESCE(n.nodes_online, 0) AS nodes_online, {counted}, \
         COALESCE(g.template_guests, 0) AS template_guests, \
         COALESCE(t.templates, 0) AS templates, \
         COALESCE(b.storage_total, 0) AS storage_total, COALESCE(b.storage_used, 0) AS storage_used \
         FROM pve_cluster c \
         LEFT JOIN pve_cluster_status s ON s.cluster_id = c.id \
         LEFT JOIN (SELECT cluster_id, count(*) AS nodes, \
         count(CASE WHEN status = 'online' THEN 1 END) AS nodes_online \
         FROM pve_node WHERE status <> 'removed' GROUP BY cluster_id) n ON n.cluster_id = c.id \
         LEFT JOIN (SELECT cluster_id, {guests}, \
         count(CASE WHEN is_template <> 0 THEN 1 END) AS template_guests \
         FROM pve_vm GROUP BY cluster_id) g ON g.cluster_id = c.id \
         LEFT JOIN (SELECT cluster_id, count(*) AS templates FROM vm_template \
         WHERE status <> 'deleted' GROUP BY cluster_id) t ON t.cluster_id = c.id \
         LEFT JOIN (SELECT cluster_id, CAST(sum(total) AS {int}) AS storage_total, \
         CAST(sum(used) AS {int}) AS storage_used FROM \
         (SELECT cluster_id, storage_name, max(total) AS total, max(used) AS used \
         FROM pve_storage GROUP BY cluster_id, storage_name, \
         CASE WHEN shared <> 0 THEN '' ELSE node_name END) each_place \
         GROUP BY cluster_id) b ON b.cluster_id = c.id \
         ORDER BY c.id",
        counted = counted.join(", "),
        guests = guests.join(", "),
    );
    sql::fetch(conn, &Sql::new(&query)).await
}
