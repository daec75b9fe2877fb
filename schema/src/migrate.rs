//! Versioned migrations, up and down, one run at a time.
//!
//! `migrations/{sqlite,mysql,postgres}/NNNN_name.{up,down}.sql` are compiled in. What was
//! applied is in `schema_migration`; each row also says which version a program must at least
//! know to work with the tables from then on. So a program refuses only a database that says
//! so, and a rolling upgrade works both ways.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::db::{Begin, on};
use crate::url::Backend;
use crate::{Conn, Db, DbError};

diesel::table! {
    schema_migration (version) {
        version -> Integer,
        name -> Text,
        minimum -> Integer,
    }
}

struct Migration {
    version: u32,
    name: &'static str,
    /// What a program must know once this is applied.
    minimum: u32,
    sqlite: Sql,
    mysql: Sql,
    postgres: Sql,
}

struct Sql {
    up: &'static str,
    down: &'static str,
}

macro_rules! sql {
    ($backend:literal, $file:literal) => {
        Sql {
            up: include_str!(concat!("../migrations/", $backend, "/", $file, ".up.sql")),
            down: include_str!(concat!("../migrations/", $backend, "/", $file, ".down.sql")),
        }
    };
}

macro_rules! migration {
    ($version:literal, $file:literal, minimum: $minimum:literal) => {
        Migration {
            version: $version,
            name: $file,
            minimum: $minimum,
            sqlite: sql!("sqlite", $file),
            mysql: sql!("mysql", $file),
            postgres: sql!("postgres", $file),
        }
    };
}

const MIGRATIONS: &[Migration] = &[
    migration!(1, "0001_tables", minimum: 1),
    migration!(2, "0002_template_pipeline", minimum: 1),
    migration!(3, "0003_list_indexes", minimum: 1),
    migration!(4, "0004_idempotency", minimum: 1),
    migration!(5, "0005_resumable_upload", minimum: 1),
    migration!(6, "0006_operator_replica", minimum: 1),
];

/// The version of the tables that this program is written for.
pub const LATEST: u32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// What a database says of its tables.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Version {
    /// The newest migration that was applied; 0 if none was.
    pub found: u32,
    /// The version that a program must know to work with it.
    pub minimum: u32,
}

impl Db {
    /// Applies what is missing and returns the names of what it applied.
    ///
    /// Runs of several programs at once wait for one another. On SQLite and PostgreSQL a
    /// failure leaves the tables as they were; MariaDB commits each statement, so there a
    /// failed migration may have to be undone by hand before the next try.
    ///
    /// # Errors
    ///
    /// [`DbError::TooNew`] if the tables need a newer program, [`DbError::Migration`] if a
    /// migration fails, [`DbError::Unavailable`] and [`DbError::ReadOnly`] as everywhere.
    pub async fn migrate(&self) -> Result<Vec<&'static str>, DbError> {
        self.migrate_to(LATEST).await
    }

    /// Goes up or down to `version`, 0 being no tables at all. Going down loses what is in
    /// the tables that it drops.
    pub async fn migrate_to(&self, version: u32) -> Result<Vec<&'static str>, DbError> {
        let mut conn = self.conn().await?;
        lock(&mut conn).await?;
        let outcome = move_to(&mut conn, version).await;
        unlock(&mut conn, outcome.is_ok()).await?;
        outcome
    }

    /// What the database says of its tables.
    pub async fn version(&self) -> Result<Version, DbError> {
        version(&mut self.conn().await?).await
    }

    /// Whether this program can work with the tables as they are.
    ///
    /// # Errors
    ///
    /// [`DbError::Unmigrated`] and [`DbError::TooNew`], whose texts say what to do.
    pub async fn check(&self) -> Result<(), DbError> {
        judge(self.version().await?)
    }

    /// [`Db::check`], and whether the database takes changes.
    ///
    /// # Errors
    ///
    /// [`DbError::ReadOnly`] besides those of [`Db::check`].
    pub async fn check_writable(&self) -> Result<(), DbError> {
        self.check().await?;
        // A change of no row is enough for each of them to refuse.
        self.write(async |conn| {
            conn.execute_sql("UPDATE table_revision SET revision = revision WHERE table_name = ''")
                .await
        })
        .await
    }
}

/// Pure: what a program that knows [`LATEST`] makes of a database.
fn judge(Version { found, minimum }: Version) -> Result<(), DbError> {
    if minimum > LATEST {
        return Err(DbError::TooNew { minimum, known: LATEST });
    }
    if found < LATEST {
        return Err(DbError::Unmigrated { found, needed: LATEST });
    }
    Ok(())
}

async fn version(conn: &mut Conn) -> Result<Version, DbError> {
    use schema_migration::dsl;
    if !has_table(conn).await? {
        return Ok(Version::default());
    }
    let rows: Vec<(i32, i32)> =
        on!(conn, c => dsl::schema_migration.select((dsl::version, dsl::minimum)).load(c).await?);
    let highest = |numbers: &mut dyn Iterator<Item = i32>| {
        numbers.max().and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
    };
    Ok(Version {
        found: highest(&mut rows.iter().map(|row| row.0)),
        minimum: highest(&mut rows.iter().map(|row| row.1)),
    })
}

/// Asked of the catalogue, because a failed SELECT would end a transaction of PostgreSQL.
async fn has_table(conn: &mut Conn) -> Result<bool, DbError> {
    #[derive(diesel::QueryableByName)]
    struct Count {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        n: i64,
    }
    let sql = match conn.backend() {
        Backend::Sqlite => {
            "SELECT count(*) AS n FROM sqlite_master WHERE type = 'table' AND name = 'schema_migration'"
        }
        Backend::Mysql => {
            "SELECT count(*) AS n FROM information_schema.tables \
             WHERE table_schema = database() AND table_name = 'schema_migration'"
        }
        Backend::Postgres => {
            "SELECT count(*) AS n FROM pg_catalog.pg_class \
             WHERE relname = 'schema_migration' AND pg_table_is_visible(oid)"
        }
    };
    let count: Count = on!(conn, c => diesel::sql_query(sql).get_result(c).await?);
    Ok(count.n > 0)
}

/// Any number will do, as long as it stays the same.
const LOCK: i64 = 0x7076_655f_6f70;
/// Longer than any migration of ours takes.
const PATIENCE: u32 = 120;

/// SQLite and PostgreSQL migrate in one transaction, so that is also the lock's lifetime;
/// MariaDB's lock belongs to the connection and goes with it at the latest.
async fn lock(conn: &mut Conn) -> Result<(), DbError> {
    match conn.backend() {
        Backend::Sqlite => {
            // busy_timeout waits five seconds each time.
            for _ in 0..PATIENCE / 5 {
                match conn.begin(Begin::Write).await {
                    Err(DbError::Busy { .. }) => {}
                    outcome => return outcome,
                }
            }
            conn.begin(Begin::Write).await
        }
        Backend::Postgres => {
            conn.begin(Begin::Write).await?;
            conn.execute_sql(&format!(
                "SET LOCAL lock_timeout = '{PATIENCE}s'; SELECT pg_advisory_xact_lock({LOCK})"
            ))
            .await
        }
        Backend::Mysql => {
            #[derive(diesel::QueryableByName)]
            struct Taken {
                #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::BigInt>)]
                taken: Option<i64>,
            }
            // Names of locks are the server's, not the database's, and 64 characters at most.
            let sql = format!(
                "SELECT CAST(GET_LOCK(CONCAT('pve-operator.', MD5(database())), {PATIENCE}) AS SIGNED) AS taken"
            );
            let taken: Taken = on!(conn, c => diesel::sql_query(sql).get_result(c).await?);
            match taken.taken {
                Some(1) => Ok(()),
                _ => Err(DbError::Busy { source: "another migration has not ended".into() }),
            }
        }
    }
}

async fn unlock(conn: &mut Conn, keep: bool) -> Result<(), DbError> {
    match conn.backend() {
        Backend::Sqlite | Backend::Postgres if keep => conn.commit().await,
        Backend::Sqlite | Backend::Postgres => conn.rollback().await,
        Backend::Mysql => {
            conn.execute_sql("DO RELEASE_LOCK(CONCAT('pve-operator.', MD5(database())))").await
        }
    }
}

async fn move_to(conn: &mut Conn, target: u32) -> Result<Vec<&'static str>, DbError> {
    let now = version(conn).await?;
    if now.minimum > LATEST {
        return Err(DbError::TooNew { minimum: now.minimum, known: LATEST });
    }
    if now.found == 0 {
        conn.execute_sql(
            "CREATE TABLE IF NOT EXISTS schema_migration (version INTEGER NOT NULL PRIMARY KEY, \
             name VARCHAR(255) NOT NULL, minimum INTEGER NOT NULL)",
        )
        .await?;
    }
    let mut done = Vec::new();
    for step in MIGRATIONS.iter().filter(|m| m.version > now.found && m.version <= target) {
        apply(conn, step, step.of(conn.backend()).up).await?;
        conn.execute_sql(&format!(
            "INSERT INTO schema_migration (version, name, minimum) VALUES ({}, '{}', {})",
            step.version, step.name, step.minimum
        ))
        .await?;
        done.push(step.name);
    }
    for step in MIGRATIONS.iter().rev().filter(|m| m.version <= now.found && m.version > target) {
        apply(conn, step, step.of(conn.backend()).down).await?;
        conn.execute_sql(&format!("DELETE FROM schema_migration WHERE version = {}", step.version))
            .await?;
        done.push(step.name);
    }
    Ok(done)
}

async fn apply(conn: &mut Conn, step: &Migration, sql: &str) -> Result<(), DbError> {
    tracing::info!(version = step.version, name = step.name, "Migrating");
    conn.execute_sql(sql).await.map_err(|error| match error {
        DbError::Query(source) => {
            DbError::Migration { version: step.version, source: Box::new(source) }
        }
        other => other,
    })
}

impl Migration {
    fn of(&self, backend: Backend) -> &Sql {
        match backend {
            Backend::Sqlite => &self.sqlite,
            Backend::Mysql => &self.mysql,
            Backend::Postgres => &self.postgres,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_refuses_only_what_is_too_old_or_says_that_it_is_too_new() {
        let version = |found, minimum| Version { found, minimum };

        assert!(matches!(judge(version(0, 0)), Err(DbError::Unmigrated { found: 0, .. })));
        assert!(judge(version(LATEST, 1)).is_ok());
        assert!(judge(version(LATEST + 3, LATEST)).is_ok());
        assert!(matches!(judge(version(LATEST + 3, LATEST + 1)), Err(DbError::TooNew { .. })));
    }

    #[test]
    fn versions_rise_and_every_down_undoes_its_up() {
        for (index, step) in MIGRATIONS.iter().enumerate() {
            assert_eq!(step.version as usize, index + 1);
            assert!(step.minimum <= step.version);
            for sql in [&step.sqlite, &step.mysql, &step.postgres] {
                let tables = sql.up.matches("CREATE TABLE ").count();
                assert_eq!(sql.down.matches("DROP TABLE ").count(), tables, "{}", step.name);
            }
        }
    }
}
