//! `pve_cluster`: the clusters that people want mirrored. Read whole, since people's SQL raises
//! no revision.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::db::on;
use crate::secret::Secret;
use crate::sql::{self, Sql};
use crate::tables::pve_cluster;
use crate::{ClusterId, Conn, DbError, Flag, Timestamp};

/// One row.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = pve_cluster)]
pub struct Cluster {
    pub id: ClusterId,
    pub cluster_name: String,
    pub cluster_name_alias: Option<String>,
    pub env: Option<String>,
    pub datacenter: Option<String>,
    pub api_url: String,
    /// `user@realm!tokenid`, or `user@realm` with `tokenid=secret` as the token.
    pub user_id: String,
    /// Plain or sealed: see [`crate::secret`].
    #[diesel(deserialize_as = String)]
    pub user_token: Secret,
    pub dns: Option<String>,
    pub describes: Option<String>,
    pub region: Option<String>,
    pub is_schedulable: Flag,
    /// Whether it is mirrored.
    pub is_enabled: Flag,
    /// SHA-256, colons and case free, several separated by commas.
    pub tls_fingerprint: Option<String>,
    /// PEM.
    pub tls_ca: Option<String>,
    pub tls_insecure: Flag,
    pub gmt_create: Timestamp,
    pub gmt_modified: Timestamp,
    pub creator: Option<String>,
    pub modifier: Option<String>,
}

/// Every cluster, enabled or not, by id.
pub async fn list(conn: &mut Conn) -> Result<Vec<Cluster>, DbError> {
    sql::fetch(conn, &Sql::new("SELECT * FROM pve_cluster ORDER BY id")).await
}

/// One cluster.
pub async fn get(conn: &mut Conn, id: ClusterId) -> Result<Option<Cluster>, DbError> {
    sql::first(conn, &Sql::new("SELECT * FROM pve_cluster WHERE id = ").bind(id)).await
}

/// What became of a compare-and-set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Swap {
    Done,
    /// The row no longer is what the caller read; read again, decide again.
    Stale,
}

/// Replaces the token that the caller read by its sealed form, unless somebody wrote another
/// one meanwhile.
pub async fn seal_token(
    conn: &mut Conn,
    id: ClusterId,
    read: &Secret,
    sealed: &str,
) -> Result<Swap, DbError> {
    let row = pve_cluster::table
        .filter(pve_cluster::id.eq(id))
        .filter(pve_cluster::user_token.eq(read.expose()));
    let changed = on!(conn, c => diesel::update(row)
        .set(pve_cluster::user_token.eq(sealed))
        .execute(c)
        .await?);
    Ok(if changed == 1 { Swap::Done } else { Swap::Stale })
}
