//! The command line, and what it means once it is parsed.

use std::{net::SocketAddr, num::NonZeroU64, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use pve_api::Auth;
use pve_api::args::bytes;
pub use pve_api::args::{DoorArgs, LogArgs, LogFormat, duration};
use url::Url;

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
    Run(Box<RunArgs>),
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
    /// Serve the HTTP API in this process too, on this address.
    #[arg(long, env = "API", value_name = "ADDRESS")]
    pub api: Option<SocketAddr>,
    /// Whether callers of that API must show a token. `off` goes with a loopback address only.
    #[arg(long, env = "API_AUTH", value_enum, default_value_t = Auth::Tokens)]
    pub api_auth: Auth,
    /// The largest image that this API takes, as in 50GiB.
    #[arg(long, env = "MAX_UPLOAD_BYTES", default_value = "50GiB", value_parser = bytes)]
    pub max_upload_bytes: NonZeroU64,
    /// How long other operators on the same MariaDB or PostgreSQL wait before they take the clusters of
    /// one that is silent. After a clean stop they wait for nothing. SQLite serves one operator.
    #[arg(long, env = "LEASE_TTL", default_value = "15s", value_parser = lease_ttl)]
    pub lease_ttl: Duration,
    /// What this operator is called in `cluster_lease` and towards PVE, as in the name of a pod; the
    /// host's name without this.
    #[arg(long, env = "IDENTITY", value_name = "NAME")]
    pub identity: Option<String>,
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
    #[command(flatten)]
    pub templates: TemplateArgs,
    /// What to do with a certificate that nothing vouches for, at the first contact with a cluster.
    #[arg(long, env = "TLS_FIRST_USE", value_enum, default_value_t = FirstUse::Refuse)]
    pub tls_first_use: FirstUse,
    /// How the API is served, if it is.
    #[command(flatten)]
    pub door: DoorArgs,
}

/// How templates are made of uploaded images.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Templates")]
pub struct TemplateArgs {
    /// Where pve-api keeps the images, `file:///folder` or `s3://bucket/prefix?endpoint=…`: to send
    /// them to nodes that cannot fetch them.
    #[arg(long, env = "IMAGES", value_name = "URL")]
    pub images: Option<String>,
    /// Where nodes reach pve-api to fetch images, for example `https://images.example.net`. Without
    /// it every image is sent by this operator.
    #[arg(long, env = "IMAGE_BASE_URL", value_name = "URL", value_parser = base_url)]
    pub image_base_url: Option<Url>,
    /// Let nodes fetch from an address whose certificate they do not know. The SHA-512 of the image
    /// is checked in any case.
    #[arg(long, env = "IMAGE_TLS_UNVERIFIED")]
    pub image_tls_unverified: bool,
    /// VMIDs for templates and for guests cloned from them.
    #[arg(long, env = "VMID_RANGE", default_value = "9000-99999", value_parser = vmid_range)]
    pub vmid_range: VmidRange,
    /// Images on their way to one node at once.
    #[arg(long, env = "TRANSFERS_PER_NODE", default_value_t = 1, value_parser = at_least_one)]
    pub transfers_per_node: usize,
    /// Images on their way to the nodes of one cluster at once.
    #[arg(long, env = "TRANSFERS_PER_CLUSTER", default_value_t = 8, value_parser = at_least_one)]
    pub transfers_per_cluster: usize,
    /// Images on their way at once.
    #[arg(long, env = "TRANSFERS_PER_OPERATOR", default_value_t = 16, value_parser = at_least_one)]
    pub transfers_per_operator: usize,
    /// How often a task of PVE that runs is looked at.
    #[arg(long, env = "TASK_INTERVAL", default_value = "2s", value_parser = duration)]
    pub task_interval: Duration,
    /// For how long work is looked for whose answer was lost, before it is asked for again.
    #[arg(long, env = "ANSWER_PATIENCE", default_value = "60s", value_parser = duration)]
    pub answer_patience: Duration,
    /// The first pause after a failure; each one is up to twice as long as the last.
    #[arg(long, env = "RETRY_BASE", default_value = "30s", value_parser = duration)]
    pub retry_base: Duration,
    /// The longest pause after a failure.
    #[arg(long, env = "RETRY_MAX", default_value = "30m", value_parser = duration)]
    pub retry_max: Duration,
    /// How often an import may fail before it is given up until somebody asks for a retry.
    #[arg(long, env = "RETRY_TRIES", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub retry_tries: u32,
}

/// VMIDs from the first to the last, both included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VmidRange {
    pub first: u32,
    pub last: u32,
}

/// Parses `9000-99999`.
///
/// # Errors
///
/// A sentence with an example.
fn vmid_range(text: &str) -> Result<VmidRange, String> {
    let wrong = || {
        format!(
            "`{text}` is not a range of VMIDs between 100 and 999999999; write for example 9000-99999"
        )
    };
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first = first.trim().parse().map_err(|_| wrong())?;
    let last = last.trim().parse().map_err(|_| wrong())?;
    if (100..=last).contains(&first) && last <= 999_999_999 {
        Ok(VmidRange { first, last })
    } else {
        Err(wrong())
    }
}

fn base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok();
    url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host()).ok_or_else(|| {
        format!("`{text}` is no address; write for example https://images.example.net")
    })
}

/// Parses how long a lease lasts: long enough to be renewed three times, and short enough that its
/// clusters are not left alone for long.
fn lease_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if (Duration::from_secs(2)..=Duration::from_mins(10)).contains(&ttl) {
        Ok(ttl)
    } else {
        Err("write something from 2s to 10m".to_owned())
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("`{text}` is not a number of at least 1")),
    }
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
    fn ranges_of_vmids_have_a_first_and_a_last() {
        assert_eq!(vmid_range("9000-9999"), Ok(VmidRange { first: 9000, last: 9999 }));
        for text in ["", "9000", "9999-9000", "1-200", "100-1000000000", "a-b"] {
            assert!(vmid_range(text).unwrap_err().contains("9000-99999"), "{text}");
        }
    }

    #[test]
    fn every_option_that_is_explained_exists() {
        use clap::CommandFactory;
        let mut all = vec![Args::command(), pve_api::args::Args::command()];
        // Of the script that makes the roles, and of PVE's `qm`.
        let mut known = vec!["templates".to_owned(), "skiplock".to_owned()];
        while let Some(command) = all.pop() {
            known.extend(command.get_arguments().filter_map(|it| it.get_long().map(str::to_owned)));
            all.extend(command.get_subcommands().cloned());
        }

        let document = include_str!("../../docs/templates.md");
        let words = document.split(|c: char| !(c.is_ascii_lowercase() || c == '-'));
        let options: Vec<&str> = words
            .filter_map(|word| word.strip_prefix("--"))
            .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
            .collect();
        assert!(options.len() > 10, "{options:?}");
        for option in options {
            assert!(known.iter().any(|it| it == option), "there is no --{option}");
        }
    }

    #[test]
    fn images_are_fetched_by_http() {
        assert!(base_url("http://192.0.2.5:8080").is_ok());
        for text in ["", "images.example.net", "localhost:8080", "ftp://images.example.net"] {
            assert!(base_url(text).unwrap_err().contains("for example https://"), "{text}");
        }
    }

    #[test]
    fn debug_output_does_not_show_the_database_password() {
        let args = DatabaseArgs { database_url: "mysql://u:hunter2@h/d".to_owned() };
        assert!(!format!("{args:?}").contains("hunter2"));
    }
}
