//! What the benches share. Each bench is a program that prints `RATIO name value` and
//! `FIGURE name value` lines; README.md says what they mean.

pub mod bodies;
pub mod figures;
pub mod http;
pub mod peer;
pub mod process;
pub mod tables;
