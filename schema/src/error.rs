//! What can go wrong between us and the database, sorted by what the caller does about it.

use std::fmt;

use diesel::result::{DatabaseErrorKind, Error as Diesel};

/// The cause of a [`DbError`], already freed of passwords.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the database did not do what we asked.
///
/// `Display` says what failed and leaves the cause to [`source`](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DbError {
    /// The URL cannot be used; no retry will help.
    #[error("database URL: {0}")]
    Url(String),
    /// No connection, or it was lost: nothing of this transaction is in the tables. Retry.
    #[error("the database {target} is not available")]
    Unavailable {
        /// The URL without its password, or what we were waiting for.
        target: String,
        source: Cause,
    },
    /// The connection was lost during COMMIT: the change may have happened. Look before retrying.
    #[error("no answer to COMMIT; the change may have happened")]
    CommitUnknown { source: Cause },
    /// Deadlock, serialization failure or a busy file: nothing happened. Retry.
    #[error("the database is busy with colliding changes")]
    Busy { source: Cause },
    /// Something of that name or number exists already.
    #[error("already exists: {what}")]
    Conflict {
        /// The database's words, which name the key.
        what: String,
    },
    /// No such row.
    #[error("no {what}")]
    NotFound {
        /// What was looked for, as in `cluster 41`.
        what: String,
    },
    /// The tables are missing or older than this program.
    #[error(
        "the database has tables of version {found}, this program needs {needed}: \
         run `pve-operator migrate --database-url URL` first (or start with --migrate)"
    )]
    Unmigrated { found: u32, needed: u32 },
    /// The tables say that they need a newer program.
    #[error(
        "the database needs a program that knows version {minimum} of the tables, this one knows \
         {known}: install the newer release"
    )]
    TooNew { minimum: u32, known: u32 },
    /// The database or its file takes no changes.
    #[error(
        "the database is read-only: make the file and its folder writable for this user, or \
         point at a server that accepts changes"
    )]
    ReadOnly { source: Cause },
    /// What was asked for is older than what is remembered: list again.
    #[error("changes of {table} are remembered from revision {oldest} on, asked for {asked}")]
    Expired { table: &'static str, oldest: i64, asked: i64 },
    /// Another operator works on this cluster by now: nothing happened, and nothing more may.
    #[error("another operator works on cluster {cluster}; the lease of epoch {epoch} is over")]
    Fenced { cluster: i64, epoch: i64 },
    /// Another operator works with this SQLite file.
    #[error(
        "another operator works with this SQLite file, or {file} can not be locked: one file serves one operator. \
         Stop the other one, or keep the tables in MariaDB or PostgreSQL, which several operators share"
    )]
    InUse {
        /// What it holds.
        file: String,
        source: Cause,
    },
    /// A stored secret cannot be opened.
    #[error("{0}")]
    Secret(#[from] crate::secret::SecretError),
    /// A migration failed.
    #[error("migration {version} failed")]
    Migration { version: u32, source: Cause },
    /// Any other refusal: a bug of ours, or tables that were changed by hand.
    #[error("database query")]
    Query(#[source] Diesel),
}

impl DbError {
    /// Whether trying again later may succeed without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::CommitUnknown { .. } | Self::Busy { .. })
    }

    /// What was asked of `target` was given up, for it took too long.
    pub fn no_answer(target: impl fmt::Display) -> Self {
        Self::Unavailable { target: target.to_string(), source: "no answer in time".into() }
    }

    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }
}

impl From<Diesel> for DbError {
    fn from(error: Diesel) -> Self {
        use DatabaseErrorKind as Kind;
        let Diesel::DatabaseError(kind, details) = &error else {
            return match error {
                Diesel::NotFound => Self::not_found("such row"),
                Diesel::BrokenTransactionManager => Self::lost(error),
                other => Self::Query(other),
            };
        };
        let message = details.message();
        match kind {
            Kind::UniqueViolation => Self::Conflict { what: message.to_owned() },
            Kind::SerializationFailure => Self::Busy { source: error.into() },
            Kind::ReadOnlyTransaction => Self::ReadOnly { source: error.into() },
            Kind::UnableToSendCommand | Kind::ClosedConnection => Self::lost(error),
            _ if says(message, &BUSY) => Self::Busy { source: error.into() },
            _ if is_read_only(message) => Self::ReadOnly { source: error.into() },
            _ if says(message, &LOST) => Self::lost(error),
            _ => Self::Query(error),
        }
    }
}

impl DbError {
    fn lost(error: Diesel) -> Self {
        Self::Unavailable { target: "connection".to_owned(), source: error.into() }
    }
}

/// Whether a database's words mean that it takes no changes.
pub(crate) fn is_read_only(message: &str) -> bool {
    says(message, &READ_ONLY)
}

fn says(message: &str, words: &[&str]) -> bool {
    words.iter().any(|word| message.contains(word))
}

// The drivers keep the text of a server's error but not its code, so these go by the words:
// SQLite, MariaDB and PostgreSQL in this order.
const BUSY: [&str; 7] = [
    "database is locked",
    "database table is locked",
    "Deadlock found",
    "Lock wait timeout exceeded",
    "Record has changed since last read",
    "deadlock detected",
    "lock timeout",
];
const READ_ONLY: [&str; 3] =
    ["attempt to write a readonly database", "--read-only option", "in a read-only transaction"];
const LOST: [&str; 14] = [
    "disk I/O error",
    "unable to open database file",
    "Input/output error",
    "Driver error",
    "Connection was killed",
    "Server shutdown in progress",
    "Too many connections",
    "max_statement_time exceeded",
    "terminating connection",
    "the database system is",
    "too many clients",
    "remaining connection slots",
    "canceling statement due to statement timeout",
    "connection closed",
];
