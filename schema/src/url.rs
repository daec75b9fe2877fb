//! `DATABASE_URL`: which database, where, and what may be printed of it.

use std::{fmt, path::Path};

use crate::DbError;

/// A parsed database URL. `Display` and `Debug` never show the password.
///
/// - `sqlite://path.db`, `sqlite:///absolute/path.db`; `?mode=ro` opens it read-only
/// - `mysql://user:password@host:3306/database`, or `mariadb://…`
/// - `postgres://user:password@host:5432/database`, or `postgresql://…`
///
/// Connections to servers are not encrypted: a URL that asks for TLS is refused rather than
/// connected without. Use a local server, a private network or a tunnel.
#[derive(Clone, Eq, PartialEq)]
pub struct DatabaseUrl {
    pub(crate) backend: Backend,
    /// What the driver gets.
    pub(crate) url: String,
    shown: String,
    passwords: Vec<String>,
}

/// The three databases that one binary speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Backend {
    Sqlite,
    Mysql,
    Postgres,
}

impl DatabaseUrl {
    /// Parses without connecting.
    ///
    /// # Errors
    ///
    /// [`DbError::Url`], whose text never repeats a password.
    pub fn parse(text: &str) -> Result<Self, DbError> {
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(DbError::Url(format!("expected {FORMS}")));
        };
        match scheme {
            "sqlite" => Self::sqlite(rest),
            "mysql" | "mariadb" => Self::server(Backend::Mysql, &format!("mysql:{rest}")),
            "postgres" | "postgresql" => {
                Self::server(Backend::Postgres, &format!("postgres:{rest}"))
            }
            other if other.chars().all(|c| c.is_ascii_alphanumeric()) => {
                Err(DbError::Url(format!("unknown scheme {other}, expected {FORMS}")))
            }
            _ => Err(DbError::Url(format!("expected {FORMS}"))),
        }
    }

    pub fn backend(&self) -> Backend {
        self.backend
    }

    fn sqlite(rest: &str) -> Result<Self, DbError> {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        if path.is_empty() || path == ":memory:" {
            return Err(DbError::Url(format!("sqlite needs a file: {FORMS}")));
        }
        let read_only = match query {
            "" | "mode=rwc" => false,
            "mode=ro" => true,
            other => return Err(DbError::Url(format!("unknown sqlite parameter {other}"))),
        };
        let url = if read_only {
            // SQLite's own URI form, where these three characters mean something.
            let path = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
            format!("file:{path}?mode=ro")
        } else {
            path.to_owned()
        };
        Ok(Self {
            backend: Backend::Sqlite,
            url,
            shown: format!("sqlite://{path}"),
            passwords: Vec::new(),
        })
    }

    fn server(backend: Backend, text: &str) -> Result<Self, DbError> {
        // The parser's own words are short and quote nothing of the URL.
        let mut url = ::url::Url::parse(text).map_err(|error| DbError::Url(error.to_string()))?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(DbError::Url(format!("no host: {FORMS}")));
        }
        if url.path().trim_matches('/').is_empty() {
            return Err(DbError::Url(format!("no database name: {FORMS}")));
        }
        let query: Vec<(String, String)> =
            url.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
        for (key, value) in &query {
            check_parameter(backend, key, value)?;
        }
        let written = url.password().map(str::to_owned);
        let in_query = query.iter().filter(|(key, _)| key == "password").map(|(_, value)| value);
        let mut passwords = Vec::new();
        for password in written.iter().chain(in_query) {
            passwords.push(password.clone());
            passwords.push(decoded(password));
        }
        passwords.retain(|password| !password.is_empty());
        passwords.dedup();
        let driver = url.to_string();
        if written.is_some() {
            // Fails only for URLs without a host, and this one has a host.
            url.set_password(Some("***")).map_err(|()| DbError::Url("no host".to_owned()))?;
        }
        url.set_query(None);
        Ok(Self { backend, url: driver, shown: url.to_string(), passwords })
    }

    /// The SQLite file.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self.backend {
            Backend::Sqlite => self.shown.strip_prefix("sqlite://").map(Path::new),
            Backend::Mysql | Backend::Postgres => None,
        }
    }

    /// What keeps an SQLite file from being opened, in words that say what to do.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let file = self.file()?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Some(format!("there is no folder {}: create it", folder.display()));
        }
        file.is_dir().then(|| format!("{} is a folder: name a file in it", file.display()))
    }

    /// `text` with every password of this URL replaced.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.passwords
            .iter()
            .fold(text.to_owned(), |text, password| text.replace(password, "[secret]"))
    }
}

/// Refuses what would otherwise fail at every connect, or be less safe than it looks.
fn check_parameter(backend: Backend, key: &str, value: &str) -> Result<(), DbError> {
    let plain = ["", "false", "disable", "disabled", "allow", "prefer", "preferred"];
    let about_tls = key.contains("ssl") || key.contains("tls") || key.starts_with("verify_");
    if about_tls && !plain.contains(&value.to_ascii_lowercase().as_str()) {
        return Err(DbError::Url(format!(
            "{key} asks for TLS, which this program does not speak to databases; use a local \
             server, a private network or a tunnel, and leave {key} out"
        )));
    }
    // The driver for MariaDB says so itself; this one would only fail to connect.
    if backend == Backend::Postgres && !POSTGRES_PARAMETERS.contains(&key) {
        return Err(DbError::Url(format!("unknown parameter {key}")));
    }
    Ok(())
}

const POSTGRES_PARAMETERS: [&str; 16] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslmode",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];

/// `text` without its percent escapes. A `+` stays one: this is no form.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = if byte == b'%' { bytes.get(at + 1..at + 3) } else { None };
        let value = escape
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(value.unwrap_or(byte));
        at += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

const FORMS: &str = "sqlite://path.db, mysql://user:password@host/database or \
                     postgres://user:password@host/database";

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({})", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_neither_shown_nor_left_in_errors() {
        let url = DatabaseUrl::parse("mysql://ops:p%40ss@db/pve?pool_min=1").unwrap();

        assert_eq!(url.to_string(), "mysql://ops:***@db/pve");
        assert!(!format!("{url:?}").contains("p%40ss"));
        assert_eq!(
            url.redact("access denied, p@ss or p%40ss"),
            "access denied, [secret] or [secret]"
        );
    }

    #[test]
    fn a_wrong_url_says_what_a_right_one_looks_like() {
        for wrong in
            ["", "oracle://x/y", "sqlite:", "sqlite::memory:", "postgres://host", "mysql:///db"]
        {
            let error = DatabaseUrl::parse(wrong).unwrap_err().to_string();
            assert!(error.contains("sqlite://path.db"), "{wrong}: {error}");
        }
        let error = DatabaseUrl::parse("ops:hunter2@db/pve").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn tls_is_refused_and_not_left_out_silently() {
        for url in [
            "postgres://db/pve?sslmode=require",
            "postgres://db/pve?sslmode=verify-full&sslrootcert=ca.pem",
            "mysql://db/pve?require_ssl=true",
            "mysql://db/pve?ssl-mode=REQUIRED",
        ] {
            let error = DatabaseUrl::parse(url).unwrap_err().to_string();
            assert!(error.contains("TLS"), "{url}: {error}");
        }
        for url in ["postgres://db/pve?sslmode=disable", "mysql://db/pve?require_ssl=false"] {
            assert!(DatabaseUrl::parse(url).is_ok(), "{url}");
        }
        let error = DatabaseUrl::parse("postgres://db/pve?fsync=off").unwrap_err().to_string();
        assert!(error.contains("unknown parameter fsync"), "{error}");
    }
}
