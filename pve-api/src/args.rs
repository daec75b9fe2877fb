//! The command line, and what it means once it is parsed.

use std::num::{NonZeroU64, NonZeroUsize};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

use axum::http::HeaderValue;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use schema::token::Scope;

use crate::Auth;

/// Shows over HTTP what pve-operator mirrors into an SQL database, and takes images that are to
/// become templates.
#[derive(Debug, Parser)]
#[command(name = "pve-api", version, propagate_version = true)]
pub struct Args {
    #[command(flatten)]
    pub log: LogArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API until told to stop.
    Serve(Box<ServeArgs>),
    /// Make, list and revoke the tokens that callers show.
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, this once.
    Create(CreateArgs),
    /// List all tokens, revoked ones too.
    List(DatabaseArgs),
    /// End a token at once.
    Revoke(RevokeArgs),
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
pub struct CreateArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Whom or what it is for; each name once.
    #[arg(long, env = "TOKEN_NAME")]
    pub name: String,
    /// What it may do: `read`, `write` (read, and whatever changes templates and guests) or
    /// `admin` (write, and clusters and their secrets).
    #[arg(long, env = "TOKEN_SCOPE", value_parser = scope)]
    pub scope: Scope,
    /// How long it lasts, as in 90d or 12h; for ever, if left out.
    #[arg(long, env = "TOKEN_EXPIRES", value_parser = long_duration)]
    pub expires: Option<Duration>,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct RevokeArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The name that it was made with.
    #[arg(long, env = "TOKEN_NAME")]
    pub name: String,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct LogArgs {
    /// How log lines look.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,
    /// What is logged, in the syntax of `tracing`, for example `info,schema=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info", global = true)]
    pub log: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct ServeArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Address of the API, and of `/images`, `/livez`, `/readyz` and `/metrics`, which need no
    /// token.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Whether callers must show a token. `off` lets whoever reaches the address do everything, and
    /// so goes with a loopback --listen only.
    #[arg(long, env = "AUTH", value_enum, default_value_t = Auth::Tokens)]
    pub auth: Auth,
    /// A row that the operator has not confirmed for longer is shown as stale; several times
    /// the operator's --usage-interval.
    #[arg(long, env = "STALE_AFTER", default_value = "5m", value_parser = duration)]
    pub stale_after: Duration,
    /// Where images are kept: `file:///var/lib/pve/images` (one API process) or
    /// `s3://bucket/prefix?endpoint=…&region=…`. Without it no image is taken and none is served.
    #[arg(long, env = "IMAGES", hide_env_values = true)]
    pub images: Option<String>,
    /// The largest image that is taken, as in 50GiB.
    #[arg(long, env = "MAX_UPLOAD_BYTES", default_value = "50GiB", value_parser = bytes)]
    pub max_upload_bytes: NonZeroU64,
    /// How many images may come in at once; who comes later is asked to try again.
    #[arg(long, env = "MAX_UPLOADS", default_value = "4")]
    pub max_uploads: std::num::NonZeroUsize,
    /// How long an upload that can be resumed waits for its next bytes, as in 24h or 7d, and how long
    /// it is known afterwards what became of it.
    #[arg(long, env = "RESUMABLE_EXPIRES", default_value = "24h", value_parser = long_duration)]
    pub resumable_expires: Duration,
    /// File with the 32-byte key of the operator. Tokens of clusters are sealed with it before they
    /// are stored. The addresses at which nodes fetch images are
    /// signed with a key that follows from it, or, without it, with one that the database keeps.
    #[arg(long, env = "SECRET_KEY_FILE", value_name = "FILE")]
    pub secret_key_file: Option<PathBuf>,
    /// How many bytes a second nodes may fetch in all, as in 1GiB; no limit, if left out.
    #[arg(long, env = "IMAGE_RATE", value_parser = bytes)]
    pub image_rate: Option<NonZeroU64>,
    /// The same for the nodes of each cluster.
    #[arg(long, env = "IMAGE_RATE_PER_CLUSTER", value_parser = bytes)]
    pub image_rate_per_cluster: Option<NonZeroU64>,
    /// How many may watch sync tasks at once; who comes later is asked to try again.
    #[arg(long, env = "MAX_WATCHERS", default_value = "2000")]
    pub max_watchers: std::num::NonZeroUsize,
    #[command(flatten)]
    pub door: DoorArgs,
}

/// How callers are let in, how often, and how long they are waited for.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Serving the API")]
pub struct DoorArgs {
    /// File with the certificate of the API and its chain, in PEM; it is read again when it changes.
    /// Without it the API speaks plain HTTP.
    #[arg(long, env = "TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// File with the private key of that certificate, in PEM.
    #[arg(long, env = "TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// How many connections may be open. When all are, the one that has been idle longest is closed
    /// for the next; while none is idle, whoever comes waits.
    #[arg(long, env = "MAX_CONNECTIONS", default_value = "16384")]
    pub max_connections: NonZeroUsize,
    /// How many requests a second each token may make, twice as many at once; 0 is no limit.
    #[arg(long, env = "RATE_LIMIT", default_value_t = 100)]
    pub rate_limit: u32,
    /// How long uploads and requests under way are waited for when the process is told to stop.
    #[arg(long, env = "DRAIN_TIMEOUT", default_value = "17s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// Network of proxies whose `X-Forwarded-For` or `Forwarded` is believed, as in 10.0.0.0/8; may
    /// be given more than once.
    #[arg(
        long = "trusted-proxy",
        env = "TRUSTED_PROXY",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = network
    )]
    pub trusted_proxies: Vec<IpNet>,
    /// Origin whose pages may use the API from within a browser, as in `https://portal.example.net`;
    /// may be given more than once.
    #[arg(
        long = "cors-origin",
        env = "CORS_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = origin
    )]
    pub cors_origins: Vec<HeaderValue>,
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse()
        .or_else(|_| address())
        .map_err(|_| format!("`{text}` is no network; write for example 10.0.0.0/8 or 2001:db8::1"))
}

/// What a browser sends as `Origin`: scheme, host and perhaps a port, and nothing after it.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let fits = host.is_some_and(|host| {
        !host.is_empty()
            && host.bytes().all(|it| it.is_ascii_alphanumeric() || b".-:[]".contains(&it))
            && !host.bytes().any(|it| it.is_ascii_uppercase())
    });
    HeaderValue::from_str(text).ok().filter(|_| fits).ok_or_else(|| {
        format!("`{text}` is no origin; write for example https://portal.example.net")
    })
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::parse(text).ok_or_else(|| format!("`{text}` is no scope; write read, write or admin"))
}

/// Parses a number of bytes: `50GiB`, `512MiB`, `64KiB`, `1TiB`, `1048576`; zero is refused.
///
/// # Errors
///
/// A sentence with examples, for the person who typed it.
pub fn bytes(text: &str) -> Result<NonZeroU64, String> {
    let wrong =
        || format!("`{text}` is no number of bytes; write for example 50GiB, 512MiB or 1048576");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).and_then(NonZeroU64::new).ok_or_else(wrong)
}

/// [`duration`], in days too.
pub(crate) fn long_duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.strip_suffix('d') {
        None => duration(text).ok(),
        Some(days) => {
            let days: Option<u64> = days.parse().ok().filter(|days| *days > 0);
            days.and_then(|days| days.checked_mul(24 * 3600)).map(Duration::from_secs)
        }
    };
    parsed.ok_or_else(|| format!("`{text}` is not a time; write for example 90d or 12h"))
}

/// Parses `500ms`, `5s`, `2m`, `1h`; zero is refused, because nothing takes place every no time.
///
/// # Errors
///
/// A sentence with examples, for the person who typed it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time; write for example 500ms, 5s, 2m or 1h");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    let duration = match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        _ => None,
    };
    duration.filter(|duration| !duration.is_zero()).ok_or_else(wrong)
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
    fn every_flag_is_an_environment_variable_too() {
        use clap::CommandFactory;
        let mut all = vec![Args::command()];
        while let Some(command) = all.pop() {
            for flag in command.get_arguments() {
                assert!(flag.get_env().is_some(), "{}", flag.get_id());
            }
            all.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn times_have_a_unit_and_are_not_zero() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(duration("1h"), Ok(Duration::from_hours(1)));
        let too_long = ["99999999999999999999s", "9999999999999999999h"];
        for text in ["5", "", "s", "0s", "-1s", "5 s"].into_iter().chain(too_long) {
            assert!(duration(text).unwrap_err().contains("for example"), "{text}");
        }
    }

    #[test]
    fn debug_output_does_not_show_the_database_password() {
        let args =
            Args::try_parse_from(["pve-api", "serve", "--database-url", "mysql://u:hunter2@h/d"]);
        assert!(!format!("{:?}", args.unwrap()).contains("hunter2"));
    }

    #[test]
    fn sizes_have_binary_units_and_are_not_zero() {
        assert_eq!(bytes("50GiB").unwrap().get(), 50 << 30);
        assert_eq!(bytes("1048576").unwrap().get(), 1 << 20);
        for text in ["", "0", "0GiB", "50GB", "GiB", "-1", "99999999999TiB", "1.5GiB"] {
            assert!(bytes(text).unwrap_err().contains("for example"), "{text}");
        }
    }

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for text in ["https://portal.example.net", "http://localhost:3000", "http://[::1]:8080"] {
            assert_eq!(origin(text).unwrap(), text);
        }
        for text in ["*", "null", "portal.example.net", "https://", "https://a/", "https://A"] {
            assert!(origin(text).unwrap_err().contains("https://portal"), "{text}");
        }
    }

    #[test]
    fn a_proxy_is_a_network_or_an_address() {
        assert!(
            network("10.0.0.0/8")
                .unwrap()
                .contains(&"10.9.9.9".parse::<std::net::IpAddr>().unwrap())
        );
        assert_eq!(network("2001:db8::1").unwrap().to_string(), "2001:db8::1/128");
        for text in ["", "proxy", "10.0.0.0/33", "10.0.0"] {
            assert!(network(text).unwrap_err().contains("10.0.0.0/8"), "{text}");
        }
    }

    #[test]
    fn tokens_last_for_days_too() {
        assert_eq!(long_duration("90d"), Ok(Duration::from_hours(90 * 24)));
        assert_eq!(long_duration("12h"), Ok(Duration::from_hours(12)));
        for text in ["0d", "d", "-1d", "999999999999999999d", "90"] {
            assert!(long_duration(text).unwrap_err().contains("90d or 12h"), "{text}");
        }
    }
}
