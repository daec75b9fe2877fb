//! The API through its router, on every database, and the command that serves it.

mod bad_input;
mod command;
mod faults;
mod fixture;
mod lists;
mod operations;
mod rows;
