//! Fresh, migrated databases for tests, of this crate and of those above it.
//!
//! SQLite always; MariaDB and PostgreSQL on the servers that `TEST_MYSQL_URL` and
//! `TEST_POSTGRES_URL` name, whose user must be allowed to create databases. A test fails when
//! one of them is unset, so that no database goes untested unnoticed; `TEST_DATABASES=sqlite`
//! says that this is meant.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Nullable, Text};

use crate::guest::{self, GuestFilter};
use crate::node::{self, NodeFilter};
use crate::page::Page;
use crate::storage::{self, StorageFilter};
use crate::template_view::{self, TaskFilter, TemplateFilter};
use crate::{Backend, Conn, Db, DbError, sql};

/// A database of its own, gone when dropped.
#[derive(Debug)]
pub struct TestDatabase {
    pub db: Db,
    /// For a program that opens it by itself.
    pub url: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Sqlite { folder: tempfile::TempDir },
    Server { admin: String, name: String },
}

impl TestDatabase {
    /// One migrated database of each kind.
    ///
    /// # Panics
    ///
    /// If a server is not named or does not answer.
    pub async fn all(name: &str) -> Vec<Self> {
        let all = Self::all_empty(name).await;
        for database in &all {
            database.db.migrate().await.expect("a fresh database can be migrated");
        }
        all
    }

    /// One database of each kind without tables.
    pub async fn all_empty(name: &str) -> Vec<Self> {
        let mut all = vec![Self::sqlite_empty(name)];
        if std::env::var("TEST_DATABASES").is_ok_and(|only| only == "sqlite") {
            return all;
        }
        for variable in ["TEST_MYSQL_URL", "TEST_POSTGRES_URL"] {
            let admin = std::env::var(variable).unwrap_or_else(|_| {
                panic!(
                    "{variable} is not set, so a database would go untested. Run scripts/test, or \
                     `scripts/databases cargo nextest run …`; TEST_DATABASES=sqlite tests SQLite only"
                )
            });
            all.push(Self::on_server(&admin, name).await);
        }
        all
    }

    /// A migrated SQLite database.
    pub async fn sqlite(name: &str) -> Self {
        let database = Self::sqlite_empty(name);
        database.db.migrate().await.expect("a fresh database can be migrated");
        database
    }

    /// The database's kind, for messages: `sqlite`, `mysql`, `postgres`.
    pub fn kind(&self) -> &'static str {
        match self.db.url().backend() {
            crate::Backend::Sqlite => "sqlite",
            crate::Backend::Mysql => "mysql",
            crate::Backend::Postgres => "postgres",
        }
    }

    fn sqlite_empty(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let url = format!("sqlite://{}", folder.path().join(format!("{name}.db")).display());
        let db = Db::open(&url).expect("the URL is right");
        Self { db, url, kind: Kind::Sqlite { folder } }
    }

    async fn on_server(admin: &str, test: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Servers cut names at 63 or 64 characters.
        let test: String = test.chars().take(30).collect();
        let name = format!("t{}_{count}_{test}", std::process::id());
        let db = admin_db(admin);
        let mut conn = db.conn().await.expect("the test server answers");
        // A process id comes again on a server that lives long.
        for sql in [format!("DROP DATABASE IF EXISTS {name}"), format!("CREATE DATABASE {name}")] {
            conn.execute_sql(&sql).await.expect("the test user may create databases");
        }
        let mut url = ::url::Url::parse(admin).expect("open has parsed it");
        url.set_path(&name);
        let db = Db::open(url.as_str()).expect("the URL is right");
        let kind = Kind::Server { admin: admin.to_owned(), name };
        Self { db, url: url.to_string(), kind }
    }
}

/// MariaDB needs no database to connect to, but our URLs do.
fn admin_db(admin: &str) -> Db {
    let mut url = ::url::Url::parse(admin).expect("the test URL is a URL");
    if url.path().trim_matches('/').is_empty() {
        url.set_path("mysql");
    }
    Db::open(url.as_str()).expect("the test URL can be used")
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (admin, name) = match &self.kind {
            Kind::Server { admin, name } => (admin.clone(), name.clone()),
            Kind::Sqlite { folder } => {
                tracing::trace!(folder = %folder.path().display(), "Test database is gone");
                return;
            }
        };
        self.db.close();
        // The runtime of the test cannot be waited for from here, so another one does it.
        let dropped = std::thread::spawn(move || -> Result<(), DbError> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(async {
                let db = admin_db(&admin);
                let mut conn = db.conn().await?;
                let force = if admin.starts_with("postgres") { " WITH (FORCE)" } else { "" };
                if force.is_empty() {
                    end_connections(&mut conn, &name).await?;
                }
                conn.execute_sql(&format!("DROP DATABASE {name}{force}")).await
            })
        })
        .join();
        if !matches!(dropped, Ok(Ok(()))) {
            tracing::debug!("A test database was left behind");
        }
    }
}

/// MariaDB waits with a DROP for whoever is within a transaction there, and a test that is being
/// dropped runs nothing any more that could end one.
async fn end_connections(conn: &mut crate::Conn, database: &str) -> Result<(), DbError> {
    let open = format!(
        "SELECT CAST(id AS CHAR(20)) AS t FROM information_schema.processlist WHERE db = '{database}'"
    );
    for id in texts(conn, &open).await? {
        if let Err(error) = conn.execute_sql(&format!("KILL {id}")).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "It has ended by itself");
        }
    }
    Ok(())
}

/// Notes that a test uses this secret: `scripts/test` looks afterwards whether any log tells it.
///
/// # Panics
///
/// If the file that `TEST_SECRETS` names can not be written to.
pub fn note_secret(secret: &str) {
    use std::io::Write as _;
    let Some(path) = std::env::var_os("TEST_SECRETS") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    // One write, so that the lines of tests that run at once do not mix.
    let noted = file.and_then(|mut file| file.write_all(format!("{secret}\n").as_bytes()));
    noted.expect("TEST_SECRETS names a file that can be written to");
}

/// A list of the API.
#[derive(Clone, Debug)]
pub enum List {
    Guests(GuestFilter),
    Nodes(NodeFilter),
    Storages(StorageFilter),
    Templates(TemplateFilter),
    Tasks(TaskFilter),
}

/// How the database goes about one page of a list, a line for each table or step: by which index it
/// reads which table, without costs and numbers of rows.
pub async fn plan(conn: &mut Conn, list: &List, page: Page) -> Result<Vec<String>, DbError> {
    let search = match list {
        List::Guests(filter) => guest::search(filter, page),
        List::Nodes(filter) => node::search(filter),
        List::Storages(filter) => storage::search(filter),
        List::Templates(filter) => template_view::search_templates(filter),
        List::Tasks(filter) => template_view::search_tasks(filter),
    };
    let statement = search.statement(page, conn.backend());
    let explained = |explain| sql::Sql::new(explain).append(&statement);
    Ok(match conn.backend() {
        Backend::Sqlite => {
            let steps: Vec<Step> = sql::fetch(conn, &explained("EXPLAIN QUERY PLAN ")).await?;
            let mut depth = HashMap::from([(0, 0)]);
            let line = |step: Step| {
                let above = depth.get(&step.parent).copied().unwrap_or_default();
                depth.insert(step.id, above + 1);
                format!("{}{}", "  ".repeat(above), step.detail)
            };
            steps.into_iter().map(line).collect()
        }
        Backend::Mysql => {
            let tables: Vec<Access> = sql::fetch(conn, &explained("EXPLAIN ")).await?;
            let line = |table: Access| {
                let of = |part: Option<String>| part.unwrap_or_else(|| "-".to_owned());
                format!(
                    "{} {} {} {} {}",
                    table.select_type,
                    of(table.table),
                    of(table.how),
                    of(table.key),
                    of(table.extra)
                )
            };
            tables.into_iter().map(line).collect()
        }
        Backend::Postgres => {
            let lines: Vec<Line> = sql::fetch(conn, &explained("EXPLAIN (COSTS OFF) ")).await?;
            let told = |line: &Line| {
                let text = line.text.trim_start();
                text.starts_with("->")
                    || text.starts_with("Sort Key")
                    || text.starts_with("InitPlan")
                    || !line.text.starts_with(' ')
            };
            lines.into_iter().filter(told).map(|line| line.text).collect()
        }
    })
}

#[derive(QueryableByName)]
struct Step {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = BigInt)]
    parent: i64,
    #[diesel(sql_type = Text)]
    detail: String,
}

#[derive(QueryableByName)]
struct Access {
    #[diesel(sql_type = Text)]
    select_type: String,
    #[diesel(sql_type = Nullable<Text>)]
    table: Option<String>,
    #[diesel(sql_type = Nullable<Text>, column_name = "type")]
    how: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    key: Option<String>,
    #[diesel(sql_type = Nullable<Text>, column_name = "Extra")]
    extra: Option<String>,
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text, column_name = "QUERY PLAN")]
    text: String,
}

/// Column `t` of the answer to any SQL, as text.
pub async fn texts(conn: &mut crate::Conn, sql: &str) -> Result<Vec<String>, DbError> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Text)]
        t: String,
    }
    let rows: Vec<Row> = crate::sql::fetch(conn, &crate::sql::Sql::new(sql)).await?;
    Ok(rows.into_iter().map(|row| row.t).collect())
}
