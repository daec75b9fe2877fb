//! `pve_cluster`: the clusters that people want mirrored. Read whole, since people's SQL raises
//! no revision.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::db::on;
use crate::page::{Listing, Page, Search, alone};
use crate::secret::Secret;
use crate::sql::{self, Param, Sql};
use crate::tables::pve_cluster;
use crate::{ClusterId, Conn, DbError, Flag, Timestamp, cluster_access};

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

/// What people own of a row, its token aside: [`crate::cluster_access`] says how it is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterWish {
    pub cluster_name: String,
    pub cluster_name_alias: Option<String>,
    pub env: Option<String>,
    pub datacenter: Option<String>,
    pub api_url: String,
    pub user_id: String,
    pub dns: Option<String>,
    pub describes: Option<String>,
    pub region: Option<String>,
    pub is_schedulable: Flag,
    pub is_enabled: Flag,
    pub tls_fingerprint: Option<String>,
    pub tls_ca: Option<String>,
    pub tls_insecure: Flag,
}

impl ClusterWish {
    /// Whether a token that was meant for `before` could come to somebody else: at another address,
    /// or at the same one because more is trusted there.
    pub fn leads_elsewhere(&self, before: &Self) -> bool {
        let place = |wish: &Self| {
            cluster_access::api_url(&wish.api_url)
                .map(|url| (url.origin(), url.path().to_owned()))
                .ok()
        };
        place(self) != place(before)
            || self.tls_ca != before.tls_ca
            || self.tls_fingerprint != before.tls_fingerprint
            || (self.tls_insecure.0 && !before.tls_insecure.0)
    }

    /// What a row says.
    pub fn of(row: Cluster) -> Self {
        Self {
            cluster_name: row.cluster_name,
            cluster_name_alias: row.cluster_name_alias,
            env: row.env,
            datacenter: row.datacenter,
            api_url: row.api_url,
            user_id: row.user_id,
            dns: row.dns,
            describes: row.describes,
            region: row.region,
            is_schedulable: row.is_schedulable,
            is_enabled: row.is_enabled,
            tls_fingerprint: row.tls_fingerprint,
            tls_ca: row.tls_ca,
            tls_insecure: row.tls_insecure,
        }
    }

    fn columns(&self) -> [(&'static str, Param<'_>); 14] {
        [
            ("cluster_name", (&self.cluster_name).into()),
            ("cluster_name_alias", (&self.cluster_name_alias).into()),
            ("env", (&self.env).into()),
            ("datacenter", (&self.datacenter).into()),
            ("api_url", (&self.api_url).into()),
            ("user_id", (&self.user_id).into()),
            ("dns", (&self.dns).into()),
            ("describes", (&self.describes).into()),
            ("region", (&self.region).into()),
            ("is_schedulable", self.is_schedulable.into()),
            ("is_enabled", self.is_enabled.into()),
            ("tls_fingerprint", (&self.tls_fingerprint).into()),
            ("tls_ca", (&self.tls_ca).into()),
            ("tls_insecure", self.tls_insecure.into()),
        ]
    }
}

/// Makes a cluster; `token` is stored as it is given, so seal it before.
///
/// # Errors
///
/// [`DbError::Conflict`] if the name is taken.
pub async fn insert(
    conn: &mut Conn,
    wish: &ClusterWish,
    token: &Secret,
    creator: &str,
) -> Result<ClusterId, DbError> {
    let now = crate::now();
    let columns: Vec<(&str, Param<'_>)> = wish
        .columns()
        .into_iter()
        .chain([
            ("user_token", token.expose().into()),
            ("gmt_create", now.into()),
            ("gmt_modified", now.into()),
            ("creator", creator.into()),
            ("modifier", creator.into()),
        ])
        .collect();
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    let row = Sql::new(&format!("INSERT INTO pve_cluster ({}) VALUES ", names.join(", ")))
        .list(columns.into_iter().map(|(_, value)| value));
    sql::insert(conn, row).await.map(ClusterId)
}

/// Makes a row say what is given, with another token if there is one; of a cluster that is gone
/// nothing comes back. The token's column is not touched without one, so whoever seals it
/// meanwhile is not undone.
///
/// # Errors
///
/// [`DbError::Conflict`] if another cluster has the name.
pub async fn replace(
    conn: &mut Conn,
    id: ClusterId,
    wish: &ClusterWish,
    token: Option<&Secret>,
    modifier: &str,
) -> Result<(), DbError> {
    let mut row = Sql::update("pve_cluster", wish.columns())
        .push(", gmt_modified = ")
        .bind(crate::now())
        .push(", modifier = ")
        .bind(modifier);
    if let Some(token) = token {
        row = row.push(", user_token = ").bind(token.expose());
    }
    sql::execute(conn, &row.push(" WHERE id = ").bind(id)).await.map(drop)
}

/// Deletes a row; what else there is of the cluster is for [`crate::sweep`]. `false` if there is
/// none.
pub async fn delete(conn: &mut Conn, id: ClusterId) -> Result<bool, DbError> {
    let row = Sql::new("DELETE FROM pve_cluster WHERE id = ").bind(id);
    Ok(sql::execute(conn, &row).await? > 0)
}

/// Which clusters to list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClusterFilter {
    pub cluster_name: Option<String>,
    pub env: Option<String>,
    pub datacenter: Option<String>,
    pub region: Option<String>,
    pub is_enabled: Option<bool>,
}

/// One page of the clusters that pass `filter`. One statement, so it needs no transaction.
pub async fn page(
    conn: &mut Conn,
    filter: &ClusterFilter,
    page: Page,
) -> Result<Listing<Cluster>, DbError> {
    let conditions = Sql::new("")
        .and("cluster_name", filter.cluster_name.as_ref())
        .and("env", filter.env.as_ref())
        .and("datacenter", filter.datacenter.as_ref())
        .and("region", filter.region.as_ref())
        .and("is_enabled", filter.is_enabled.map(Flag));
    Search { conditions, ..alone!("pve_cluster") }.page(conn, page).await
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
