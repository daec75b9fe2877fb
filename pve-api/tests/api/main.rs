//! The API through its router, on every database, and the command that serves it.

mod auth;
mod bad_input;
mod clones;
mod command;
mod faults;
mod fixture;
mod images;
mod lists;
mod operations;
mod resumable;
mod rows;
mod streams;
mod sync;
mod templates;
mod tus_clients;
mod uploads;
