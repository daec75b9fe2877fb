//! The command line, and what it means once it is parsed.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
pub use pve_api::args::{LogArgs, LogFormat, duration};

/// Mirrors Proxmox VE clusters into an SQL database and keeps the rows right.
#[derive(Debug, Parser)]
#[command(name = "pve-operator", version, propagate_version = true)]
pub struct Args {
    #[command(flatten)]
    pub log: LogArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create or upgrade the tables, then exit.
    Migrate(DatabaseArgs),
    /// Follow every enabled cluster of the table `pve_cluster` until told to stop.
    Run(RunArgs),
}

#[derive(Clone, ClapArgs)]
pub struct DatabaseArgs {
    /// Where the tables are: `sqlite://file.db`, `mysql://user:password@host/name`
    /// or `postgres://user:password@host/name`.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
}

/// Without the URL, which may hold a password.
impl std::fmt::Debug for DatabaseArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseArgs").field("database_url", &"[secret]").finish()
    }
}

#[derive(Clone, Debug, ClapArgs)]
pub struct RunArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Create or upgrade the tables before starting.
    #[arg(long, env = "MIGRATE")]
    pub migrate: bool,
    /// Address of `/livez`, `/readyz` and `/metrics`.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:9090")]
    pub listen: SocketAddr,
    /// Serve the read-only HTTP API in this process too, on this address. Loopback only.
    #[arg(long, env = "API", value_name = "ADDRESS")]
    pub api: Option<SocketAddr>,
    /// How often each cluster is asked for its resources.
    #[arg(long, env = "POLL_INTERVAL", default_value = "5s", value_parser = duration)]
    pub poll_interval: Duration,
    /// How often the tables are compared with PVE and repaired.
    #[arg(long, env = "FULL_SYNC_INTERVAL", default_value = "5m", value_parser = duration)]
    pub full_sync_interval: Duration,
    /// The longest time until a change in `pve_cluster` takes effect. A small table is read every second.
    #[arg(long, env = "CLUSTER_CHECK_INTERVAL", default_value = "30s", value_parser = duration)]
    pub cluster_check_interval: Duration,
    /// How often a guest's disks and addresses are read again although nothing seems to have changed.
    #[arg(long, env = "DETAILS_INTERVAL", default_value = "5m", value_parser = duration)]
    pub details_interval: Duration,
    /// How often numbers that always move (storage use, last seen) are written.
    #[arg(long, env = "USAGE_INTERVAL", default_value = "1m", value_parser = duration)]
    pub usage_interval: Duration,
    /// File with the 32-byte key (hex, base64 or raw) that seals tokens in the database.
    #[arg(long, env = "SECRET_KEY_FILE", value_name = "FILE")]
    pub secret_key_file: Option<PathBuf>,
    /// What to do with a certificate that nothing vouches for, at the first contact with a cluster.
    #[arg(long, env = "TLS_FIRST_USE", value_enum, default_value_t = FirstUse::Refuse)]
    pub tls_first_use: FirstUse,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum FirstUse {
    /// Report its fingerprint in the cluster's status and wait for a person.
    Refuse,
    /// Accept the first one and remember it, as ssh does.
    Pin,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn debug_output_does_not_show_the_database_password() {
        let args = DatabaseArgs { database_url: "mysql://u:hunter2@h/d".to_owned() };
        assert!(!format!("{args:?}").contains("hunter2"));
    }
}
