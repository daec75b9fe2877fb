//! What a bench asks of the tables: clusters put in by SQL, and whether everything arrived.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, bail, ensure};
use schema::{
    ClusterId, Db, Revision,
    guest::{self, GuestRow},
    revision::{self, Table},
};
use tokio::time::{Instant, sleep};

/// A simulated cluster and how to get in.
#[derive(Clone, Debug)]
pub struct Access {
    pub url: String,
    pub user_id: String,
    pub user_token: String,
    pub fingerprint: String,
}

/// Inserts the clusters as a person would, and returns their ids in the same order.
///
/// # Errors
///
/// If the tables hold clusters already: their polls would be measured too.
pub async fn insert(db: &Db, clusters: &[Access]) -> anyhow::Result<Vec<ClusterId>> {
    let there = schema::cluster::list(&mut db.conn().await?).await?;
    ensure!(there.is_empty(), "the database has {} clusters; give an empty one", there.len());
    let text = |text: &str| text.replace('\'', "''");
    for (number, it) in clusters.iter().enumerate() {
        let sql = format!(
            "INSERT INTO pve_cluster (cluster_name, api_url, user_id, user_token, is_enabled, is_schedulable, env, tls_fingerprint) \
             VALUES ('{}', '{}', '{}', '{}', 1, 1, 'bench', '{}')",
            name(number),
            text(&it.url),
            text(&it.user_id),
            text(&it.user_token),
            text(&it.fingerprint),
        );
        db.write(async |conn| conn.execute_sql(&sql).await).await?;
    }
    let rows = schema::cluster::list(&mut db.conn().await?).await?;
    let ids: HashMap<_, _> = rows.into_iter().map(|row| (row.cluster_name, row.id)).collect();
    let id = |number| ids.get(&name(number)).copied().context("a cluster was not inserted");
    (0..clusters.len()).map(id).collect()
}

fn name(number: usize) -> String {
    format!("bench-{number:03}")
}

/// Waits until each cluster has so many guests that are as `whole` wants them; returns them.
pub async fn wait_for_guests(
    db: &Db,
    clusters: &[ClusterId],
    guests: usize,
    patience: Duration,
    whole: impl Fn(&GuestRow) -> bool,
) -> anyhow::Result<Vec<GuestRow>> {
    let deadline = Instant::now() + patience;
    let mut all = Vec::new();
    for &cluster in clusters {
        loop {
            let rows = guest::load(&mut db.conn().await?, cluster).await?;
            let ready = rows.iter().filter(|row| whole(row)).count();
            if ready == guests {
                all.extend(rows);
                break;
            }
            if Instant::now() >= deadline {
                bail!("cluster {} has {ready} of {guests} guests whole", cluster.0);
            }
            sleep(Duration::from_millis(250)).await;
        }
    }
    Ok(all)
}

/// The revisions of the tables that the mirror writes; equal ones mean that no row changed.
pub async fn revisions(db: &Db) -> anyhow::Result<[Revision; 3]> {
    let mut conn = db.conn().await?;
    Ok([
        revision::current(&mut conn, Table::Node).await?,
        revision::current(&mut conn, Table::Guest).await?,
        revision::current(&mut conn, Table::Storage).await?,
    ])
}
