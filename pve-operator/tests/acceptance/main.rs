//! The operator as seen from outside: a simulated PVE, a real database, HTTP.
//!
//! Each test covers a row of `design/acceptance.md`, named by its id, or a mistake that people make.
//! All run on SQLite, MariaDB and PostgreSQL at once, each with a simulator of its own.

mod addresses;
mod api;
mod binary;
mod clusters;
mod identity;
mod killing;
mod leases;
mod mistakes;
mod nodes;
mod outages;
mod quick_start;
mod quiet;
mod rolling;
mod shrinking;
mod support;
mod table_source;
mod templates;
mod tolerance;
mod watching;
