//! The cluster that the demo mirrors: simulated in this process, or somebody's own.

use anyhow::Context;
use pve_sim::{Config, Sim};
use schema::{ClusterId, Db};

use crate::Args;

/// Where it is and how to get in.
pub(crate) enum Cluster {
    Simulated(Sim),
    Real { url: String, user_id: String, user_token: String, fingerprint: Option<String> },
}

impl Cluster {
    pub(crate) fn find(args: &Args) -> anyhow::Result<Self> {
        let Some(url) = args.pve.clone() else {
            // Slow enough that one sees it work: a fetch of 2 s, an import of 4 s.
            let config = Config::default().nodes(3).guests(24).seed(7);
            let config = config.node_link(4 << 20).copy_rate(512 << 20);
            return Ok(Self::Simulated(Sim::start(config).context("the simulator did not start")?));
        };
        Ok(Self::Real {
            url,
            user_id: args.user_id.clone().context("--user-id is missing")?,
            user_token: args.user_token.clone().context("--user-token is missing")?,
            fingerprint: args.fingerprint.clone(),
        })
    }

    pub(crate) fn simulated(&self) -> Option<&Sim> {
        match self {
            Self::Simulated(sim) => Some(sim),
            Self::Real { .. } => None,
        }
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Simulated(sim) => sim.url(),
            Self::Real { url, .. } => url.clone(),
        }
    }

    pub(crate) fn what(&self, changed: bool) -> &'static str {
        match self {
            Self::Simulated(_) => "simulated, three nodes",
            Self::Real { .. } if changed => "yours",
            Self::Real { .. } => "yours, only read",
        }
    }

    /// The statement that the quick start tells people to run, with the certificate's fingerprint.
    pub(crate) async fn insert(&self, db: &Db) -> anyhow::Result<ClusterId> {
        let (user_id, user_token, fingerprint) = match self {
            Self::Simulated(sim) => {
                (sim.user_id(), sim.token(), Some(sim.fingerprint(sim.first_node())))
            }
            Self::Real { user_id, user_token, fingerprint, .. } => {
                (user_id.clone(), user_token.clone(), fingerprint.clone())
            }
        };
        let text = |text: &str| text.replace('\'', "''");
        let fingerprint = fingerprint.map_or("NULL".to_owned(), |it| format!("'{}'", text(&it)));
        let sql = format!(
            "INSERT INTO pve_cluster (cluster_name, api_url, user_id, user_token, is_enabled, is_schedulable, env, tls_fingerprint) \
             VALUES ('demo', '{}', '{}', '{}', 1, 1, 'demo', {fingerprint})",
            text(&self.url()),
            text(&user_id),
            text(&user_token),
        );
        db.write(async |conn| conn.execute_sql(&sql).await).await?;
        let clusters = schema::cluster::list(&mut db.conn().await?).await?;
        Ok(clusters.first().context("the cluster was just inserted")?.id)
    }
}
