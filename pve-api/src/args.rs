//! The command line, and what it means once it is parsed.

use std::{net::SocketAddr, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::Settings;

/// Shows over HTTP what pve-operator mirrors into an SQL database.
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
    Serve(ServeArgs),
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

#[derive(Clone, ClapArgs)]
pub struct ServeArgs {
    /// Where the tables are: `sqlite://file.db`, `mysql://user:password@host/name`
    /// or `postgres://user:password@host/name`.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Address of the API, and of `/livez`, `/readyz` and `/metrics`. Loopback only, because
    /// there is no authentication yet.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// A row that the operator has not confirmed for longer is shown as stale; several times
    /// the operator's --usage-interval.
    #[arg(long, env = "STALE_AFTER", default_value = "5m", value_parser = duration)]
    pub stale_after: Duration,
}

impl ServeArgs {
    pub fn settings(&self) -> Settings {
        Settings { stale_after: self.stale_after }
    }
}

/// Without the URL, which may hold a password.
impl std::fmt::Debug for ServeArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServeArgs")
            .field("database_url", &"[secret]")
            .field("listen", &self.listen)
            .field("stale_after", &self.stale_after)
            .finish()
    }
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
}
