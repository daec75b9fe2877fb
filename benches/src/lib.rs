//! What the benches share. Each bench is a program that prints `RATIO name value` and
//! `FIGURE name value` lines; README.md says what they mean.

use std::{env, str::FromStr};

use anyhow::Context;

pub mod bodies;
pub mod figures;
pub mod http;
pub mod peer;
pub mod process;
pub mod programs;
pub mod tables;
pub mod templates;

/// A size or a time from the environment.
///
/// # Errors
///
/// If it is set to something else.
pub fn number<T: FromStr>(name: &str, usual: T) -> anyhow::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(usual),
    }
}
