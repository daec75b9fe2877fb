//! Deleted clusters: what is left of them, and its removal. There are no foreign keys onto
//! `pve_cluster`, because people delete clusters by SQL.

use diesel::prelude::*;

use crate::revision::{self, Table};
use crate::sql::{self, Sql};
use crate::{ClusterId, Conn, DbError, cluster};

/// Tables with a `cluster_id` beside those that can be followed.
const OTHERS: [&str; 7] = [
    "pve_vm_tag",
    "vm_ipaddress",
    "vmid_reservation",
    "cluster_lease",
    "pve_cluster_status",
    "template_leftover",
    "resumable_upload",
];

/// Clusters of which some table still has rows though `pve_cluster` has none.
///
/// A cluster that was made a moment ago is never among them: its row came first, and the
/// database is read in one statement.
pub async fn orphan_cluster_ids(conn: &mut Conn) -> Result<Vec<ClusterId>, DbError> {
    #[derive(QueryableByName)]
    struct Orphan {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        cluster_id: ClusterId,
    }
    let followed = Table::ALL.iter().map(|table| table.name());
    let tables: Vec<String> = followed
        .chain(OTHERS)
        .chain(["tombstone"])
        .map(|table| format!("SELECT cluster_id FROM {table}"))
        .collect();
    let orphans = Sql::new(&format!(
        "SELECT cluster_id FROM ({}) AS mentioned \
         WHERE cluster_id NOT IN (SELECT id FROM pve_cluster) ORDER BY cluster_id",
        tables.join(" UNION ")
    ));
    let orphans: Vec<Orphan> = sql::fetch(conn, &orphans).await?;
    Ok(orphans.into_iter().map(|orphan| orphan.cluster_id).collect())
}

/// Deletes every row of a cluster that is no longer in `pve_cluster`, tombstones included, and
/// says how many. The audit keeps its name.
///
/// Whoever follows a table is told to list again ([`DbError::Expired`]), because no tombstone
/// may carry the cluster's id.
///
/// Call it within [`crate::Db::write`].
///
/// # Errors
///
/// [`DbError::Conflict`] if the cluster is still configured: nothing is deleted.
pub async fn sweep_cluster(conn: &mut Conn, cluster_id: ClusterId) -> Result<u64, DbError> {
    if cluster::get(conn, cluster_id).await?.is_some() {
        return Err(DbError::Conflict { what: format!("cluster {cluster_id} in pve_cluster") });
    }
    // First, so that whoever still works on it finishes its change, and can make no other.
    let mut deleted = delete(conn, "cluster_lease", cluster_id).await?;
    for table in Table::ALL {
        let gone = delete(conn, table.name(), cluster_id).await?
            + delete_stones(conn, table, cluster_id).await?;
        if gone > 0 {
            let revision = revision::raise(conn, table).await?;
            let forgotten = Sql::new("UPDATE table_revision SET pruned = ")
                .bind(revision)
                .push(" WHERE table_name = ")
                .bind(table.name());
            sql::execute(conn, &forgotten).await?;
        }
        deleted += gone;
    }
    for table in OTHERS {
        deleted += delete(conn, table, cluster_id).await?;
    }
    Ok(deleted)
}

async fn delete_stones(
    conn: &mut Conn,
    table: Table,
    cluster_id: ClusterId,
) -> Result<u64, DbError> {
    let stones = Sql::new("DELETE FROM tombstone WHERE cluster_id = ")
        .bind(cluster_id)
        .and("table_name", Some(table.name()));
    sql::execute(conn, &stones).await
}

async fn delete(
    conn: &mut Conn,
    table: &'static str,
    cluster_id: ClusterId,
) -> Result<u64, DbError> {
    let rows = Sql::new(&format!("DELETE FROM {table} WHERE cluster_id = ")).bind(cluster_id);
    sql::execute(conn, &rows).await
}
