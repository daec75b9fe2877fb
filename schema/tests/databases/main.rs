//! Every query on every database: SQLite always, MariaDB and PostgreSQL as `schema::testing`
//! finds them.

mod addresses;
mod builders;
mod changes;
mod clusters;
mod connections;
mod details;
mod leases;
mod lists;
mod migrations;
mod mirror;
mod pages;
mod plans;
mod resumable;
mod task_changes;
mod templates;
mod tokens;
mod transactions;
mod user_columns;
