//! `cluster_lease` and `operator_replica`: who works on a cluster, one at a time.
//!
//! ```text
//! free --take--> held --renew*--> held --release--> free
//!                  +-- no renewal until expires_at --> free
//! ```
//!
//! All time here is the database's: an operator's clock says nothing. Whoever takes a lease raises
//! its *epoch*, and every change that is made under it ([`Db::fenced`](crate::Db::fenced)) holds the
//! row until it commits: so a change is made before the next holder begins, or it is refused.
//!
//! An expired lease is never renewed, only taken anew. So a holder that was away for longer has lost
//! it, whether somebody else took it or not.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types;

use crate::sql::{self, Sql};
use crate::{Backend, ClusterId, Conn, Db, DbError, Timestamp};

/// No lease lasts longer, whatever the database's clock did since.
pub const LONGEST: Duration = Duration::from_hours(1);

/// Under which lease changes are made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fence {
    pub cluster_id: ClusterId,
    /// Of one process: it is never used again.
    pub holder: Arc<str>,
    pub epoch: i64,
}

/// Who takes leases, and how long they last.
#[derive(Clone, Debug)]
pub struct Holder {
    /// Of one process: it is never used again.
    pub name: Arc<str>,
    pub ttl: Duration,
    /// No other operator can be alive ([`sole`]), so leases of others are void.
    pub alone: bool,
}

/// One lease, as of the moment of the look.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Empty after a release.
    pub holder: String,
    pub epoch: i64,
    /// Zero once it has expired.
    pub left: Duration,
}

/// All leases and operators of one moment.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub leases: BTreeMap<i64, Lease>,
    /// Operators that are alive, the oldest first.
    pub replicas: Vec<String>,
}

#[derive(QueryableByName)]
struct LeaseRow {
    #[diesel(sql_type = sql_types::BigInt)]
    cluster_id: ClusterId,
    #[diesel(sql_type = sql_types::Text)]
    holder: String,
    #[diesel(sql_type = sql_types::BigInt)]
    epoch: i64,
    #[diesel(sql_type = sql_types::Timestamp)]
    expires_at: Timestamp,
    #[diesel(sql_type = sql_types::Timestamp)]
    moment: Timestamp,
}

#[derive(QueryableByName)]
struct ReplicaRow {
    #[diesel(sql_type = sql_types::Text)]
    name: String,
}

/// Reads all of it.
pub async fn look(conn: &mut Conn) -> Result<Seen, DbError> {
    let (now, far) = (now(conn), after(conn, LONGEST));
    let leases = Sql::new(&format!(
        "SELECT cluster_id, holder, epoch, expires_at, {now} AS moment FROM cluster_lease"
    ));
    let leases = sql::fetch::<LeaseRow>(conn, &leases).await?;
    let replicas = Sql::new(&format!(
        "SELECT name FROM operator_replica WHERE expires_at > {now} AND expires_at <= {far} \
         ORDER BY gmt_create, name"
    ));
    let replicas = sql::fetch::<ReplicaRow>(conn, &replicas).await?;
    Ok(Seen {
        leases: leases
            .into_iter()
            .map(|row| {
                let left = (row.expires_at - row.moment).to_std().unwrap_or_default();
                // The database's clock was ahead when this was written: nobody waits for that long.
                let left = if left > LONGEST { Duration::ZERO } else { left };
                (row.cluster_id.0, Lease { holder: row.holder, epoch: row.epoch, left })
            })
            .collect(),
        replicas: replicas.into_iter().map(|row| row.name).collect(),
    })
}

/// Says that this operator lives, and renews its leases that have not expired.
///
/// Call it within [`crate::Db::write`].
pub async fn renew(conn: &mut Conn, holder: &Holder) -> Result<(), DbError> {
    let (now, end) = (now(conn), after(conn, holder.ttl));
    let alive = Sql::new(&format!("UPDATE operator_replica SET expires_at = {end} WHERE name = "))
        .bind(&*holder.name);
    if sql::execute(conn, &alive).await? == 0 {
        let dead = Sql::new(&format!("DELETE FROM operator_replica WHERE expires_at < {now}"));
        sql::execute(conn, &dead).await?;
        let come = Sql::new("INSERT INTO operator_replica (name, expires_at) VALUES (")
            .bind(&*holder.name)
            .push(&format!(", {end})"));
        match sql::execute(conn, &come).await {
            // An earlier attempt of ours was committed after all; on PostgreSQL this one is lost.
            Err(DbError::Conflict { what }) => return Err(DbError::Busy { source: what.into() }),
            outcome => outcome?,
        };
    }
    let renewed = Sql::new(&format!(
        "UPDATE cluster_lease SET expires_at = {end}, gmt_modified = {now} \
         WHERE expires_at > {now} AND holder = "
    ))
    .bind(&*holder.name);
    if conn.backend() == Backend::Mysql {
        // A change under way keeps its row; the others need not wait for it.
        let free = Sql::new(&format!(
            "SELECT cluster_id AS n FROM cluster_lease WHERE expires_at > {now} AND holder = "
        ))
        .bind(&*holder.name)
        .push(" FOR UPDATE SKIP LOCKED");
        let free = sql::numbers(conn, &free).await?;
        if !free.is_empty() {
            sql::execute(conn, &renewed.push(" AND cluster_id IN ").list(free)).await?;
        }
    } else {
        // PostgreSQL lets a row be renewed while a change holds its key.
        sql::execute(conn, &renewed).await?;
    }
    Ok(())
}

/// Takes leases that were seen to be free, each with the epoch that it was seen with; says how many
/// it got. Those that somebody else took meanwhile are left alone, and so are those under which a
/// change is still under way: nobody is waited for.
///
/// Call it within [`crate::Db::write`].
pub async fn take(
    conn: &mut Conn,
    holder: &Holder,
    free: &BTreeMap<i64, Option<i64>>,
) -> Result<u64, DbError> {
    let (now, end) = (now(conn), after(conn, holder.ttl));
    let far = after(conn, LONGEST);
    let expired = if holder.alone {
        String::new()
    } else {
        format!(" AND (expires_at <= {now} OR expires_at > {far})")
    };
    let mut taken = 0;
    // In the order of their ids, so that two who take the same ones do not wait for each other.
    for (id, seen) in free {
        let row = if let Some(epoch) = seen {
            if conn.backend() != Backend::Sqlite {
                let free =
                    Sql::new("SELECT cluster_id AS n FROM cluster_lease WHERE cluster_id = ")
                        .bind(*id)
                        .and("epoch", Some(*epoch))
                        .push(&expired)
                        .push(" FOR UPDATE SKIP LOCKED");
                if sql::numbers(conn, &free).await?.is_empty() {
                    continue;
                }
            }
            Sql::new(&format!(
                "UPDATE cluster_lease SET expires_at = {end}, gmt_modified = {now}, \
                 epoch = epoch + 1, holder = "
            ))
            .bind(&*holder.name)
            .push(" WHERE cluster_id = ")
            .bind(*id)
            .and("epoch", Some(*epoch))
            .push(&expired)
        } else {
            let (insert, unless_there) = match conn.backend() {
                Backend::Mysql => ("INSERT IGNORE INTO", ""),
                Backend::Sqlite | Backend::Postgres => {
                    ("INSERT INTO", " ON CONFLICT (cluster_id) DO NOTHING")
                }
            };
            // Of a cluster that is gone there is nothing to hold.
            Sql::new(&format!(
                "{insert} cluster_lease (cluster_id, holder, epoch, expires_at) SELECT id, "
            ))
            .bind(&*holder.name)
            .push(&format!(", 1, {end} FROM pve_cluster WHERE id = "))
            .bind(*id)
            .push(unless_there)
        };
        taken += sql::execute(conn, &row).await?;
    }
    Ok(taken)
}

/// Gives leases back, so that somebody else takes them at once.
///
/// Call it within [`crate::Db::write`].
pub async fn release(
    conn: &mut Conn,
    holder: &Holder,
    clusters: impl IntoIterator<Item = i64>,
) -> Result<(), DbError> {
    let now = now(conn);
    for id in clusters {
        let row = Sql::new(&format!(
            "UPDATE cluster_lease SET expires_at = {now}, gmt_modified = {now}, holder = '' \
             WHERE cluster_id = "
        ))
        .bind(id)
        .and("holder", Some(&*holder.name));
        sql::execute(conn, &row).await?;
    }
    Ok(())
}

/// Gives back whatever this operator holds, and says that it is gone; forgets who died long ago.
///
/// Call it within [`crate::Db::write`].
pub async fn leave(conn: &mut Conn, holder: &Holder) -> Result<(), DbError> {
    let now = now(conn);
    let leases = Sql::new(&format!(
        "UPDATE cluster_lease SET expires_at = {now}, gmt_modified = {now}, holder = '' \
         WHERE holder = "
    ))
    .bind(&*holder.name);
    sql::execute(conn, &leases).await?;
    let gone =
        Sql::new(&format!("DELETE FROM operator_replica WHERE expires_at < {now} OR name = "))
            .bind(&*holder.name);
    sql::execute(conn, &gone).await?;
    Ok(())
}

/// Refuses a transaction whose lease somebody else has, and keeps everybody from taking it until
/// the transaction ends.
pub(crate) async fn check(conn: &mut Conn, fence: &Fence) -> Result<(), DbError> {
    let row = Sql::new("SELECT epoch AS n FROM cluster_lease WHERE cluster_id = ")
        .bind(fence.cluster_id)
        .and("epoch", Some(fence.epoch))
        .and("holder", Some(&*fence.holder))
        .push(match conn.backend() {
            // It has one writer at a time.
            Backend::Sqlite => "",
            Backend::Mysql => " LOCK IN SHARE MODE",
            // Keeps takers out, who lock for update, and lets it be renewed.
            Backend::Postgres => " FOR KEY SHARE",
        })
        .prepared_once();
    match sql::number(conn, &row).await {
        Err(DbError::Query(diesel::result::Error::NotFound)) => {
            Err(DbError::Fenced { cluster: fence.cluster_id.0, epoch: fence.epoch })
        }
        outcome => outcome.map(drop),
    }
}

/// What keeps other operators from an SQLite file; it ends with the process, however that ends.
#[derive(Debug)]
pub struct Sole {
    _locked: File,
}

/// Makes sure that no other operator works with an SQLite file, until the answer is dropped. None
/// for other databases, which several operators share.
///
/// # Errors
///
/// [`DbError::InUse`] if there is another one.
pub fn sole(db: &Db) -> Result<Option<Sole>, DbError> {
    let Some(file) = db.url().file() else { return Ok(None) };
    // The file itself, by whatever name: a link leads to the same lock.
    let file = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let mut path = file.into_os_string();
    path.push(".operator-lock");
    let locked = || {
        let file =
            File::options().create(true).truncate(false).write(true).open(Path::new(&path))?;
        file.try_lock()?;
        Ok::<_, std::io::Error>(file)
    };
    match locked() {
        Ok(file) => Ok(Some(Sole { _locked: file })),
        Err(error) => Err(DbError::InUse {
            file: Path::new(&path).display().to_string(),
            source: error.into(),
        }),
    }
}

/// The database's clock, in UTC. Of PostgreSQL the real one: its `now()` is when the transaction began.
fn now(conn: &Conn) -> &'static str {
    match conn.backend() {
        Backend::Sqlite => "strftime('%Y-%m-%d %H:%M:%f', 'now')",
        Backend::Mysql => "UTC_TIMESTAMP(3)",
        Backend::Postgres => "(clock_timestamp() AT TIME ZONE 'utc')",
    }
}

fn after(conn: &Conn, time: Duration) -> String {
    let ms = time.as_millis();
    match conn.backend() {
        Backend::Sqlite => format!(
            "strftime('%Y-%m-%d %H:%M:%f', 'now', '+{}.{:03} seconds')",
            ms / 1000,
            ms % 1000
        ),
        Backend::Mysql => format!("(UTC_TIMESTAMP(3) + INTERVAL {} MICROSECOND)", ms * 1000),
        Backend::Postgres => {
            format!("(clock_timestamp() AT TIME ZONE 'utc' + INTERVAL '{ms} milliseconds')")
        }
    }
}
