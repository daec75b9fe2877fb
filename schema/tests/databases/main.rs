//! Every query on every database: SQLite always, MariaDB and PostgreSQL as `schema::testing`
//! finds them.

mod builders;
mod mirror;
