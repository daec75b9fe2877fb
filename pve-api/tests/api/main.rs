//! The API through its router, on every database, and the command that serves it.

mod auth;
mod bad_input;
mod browsers;
mod clones;
mod clusters;
mod command;
mod faults;
mod fixture;
mod idempotency;
mod images;
mod lists;
mod operations;
mod overview;
mod rows;
mod serving;
mod streams;
mod sync;
mod templates;
mod tls;
mod tokens;
mod uploads;
mod user_columns;
