//! `vmid_reservation`: VMIDs that we are about to use, so that no two of ours want the same.
//!
//! A number stays reserved for as long as the row that holds it lives, also when its guest is gone:
//! the next attempt takes the same number.

use std::collections::BTreeSet;
use std::ops::Range;

use diesel::prelude::*;

use crate::sql::{self, Sql};
use crate::tables::vmid_reservation;
use crate::{ClusterId, Conn, DbError};

#[derive(QueryableByName)]
#[diesel(table_name = vmid_reservation)]
struct Row {
    vmid: i64,
}

/// Takes the lowest number of `range` that neither `taken` nor another reservation has, for
/// `holder`. None if there is none.
///
/// Call it within [`crate::Db::write`].
///
/// # Errors
///
/// [`DbError::Busy`] if somebody took the same number at this moment; [`crate::Db::write`] runs it
/// again.
pub async fn reserve(
    conn: &mut Conn,
    cluster: ClusterId,
    range: &Range<i64>,
    taken: &BTreeSet<i64>,
    holder: &str,
) -> Result<Option<i64>, DbError> {
    let rows = Sql::new("SELECT vmid FROM vmid_reservation WHERE cluster_id = ").bind(cluster);
    let reserved: BTreeSet<i64> =
        sql::fetch::<Row>(conn, &rows).await?.into_iter().map(|row| row.vmid).collect();
    let free = range.clone().find(|vmid| !taken.contains(vmid) && !reserved.contains(vmid));
    let Some(vmid) = free else { return Ok(None) };
    let row = Sql::insert(
        "vmid_reservation",
        [("cluster_id", cluster.into()), ("vmid", vmid.into()), ("holder", holder.into())],
    );
    match sql::execute(conn, &row).await {
        Err(DbError::Conflict { what }) => Err(DbError::Busy { source: what.into() }),
        outcome => outcome.map(|_| Some(vmid)),
    }
}

/// Gives back all numbers of `holder` but `kept`.
pub async fn release(
    conn: &mut Conn,
    cluster: ClusterId,
    holder: &str,
    kept: Option<i64>,
) -> Result<(), DbError> {
    let rows = Sql::new("DELETE FROM vmid_reservation WHERE cluster_id = ")
        .bind(cluster)
        .and("holder", Some(holder))
        .push(" AND vmid <> ")
        .bind(kept.unwrap_or(-1));
    sql::execute(conn, &rows).await.map(drop)
}
