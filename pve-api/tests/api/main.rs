//! The API through its router, on every database, and the command that serves it.

mod auth;
mod bad_input;
mod browsers;
mod clones;
mod command;
mod faults;
mod feed;
mod fixture;
mod fuzz;
mod images;
mod lists;
mod operations;
mod resumable;
mod rows;
mod serving;
mod streams;
mod sync;
mod templates;
mod tls;
mod tour;
mod tus_clients;
mod uploads;
mod watch_ends;
mod watching;
