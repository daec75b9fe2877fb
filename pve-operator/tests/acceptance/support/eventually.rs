//! Waiting for conditions, and running a test on every database.

use std::{collections::HashMap, fmt::Debug, future::Future, time::Duration};

use pve_api::logging;
use pve_operator::args::{LogArgs, LogFormat};
use schema::testing::TestDatabase;
use tokio::{task::JoinSet, time::Instant};

const LOOK: Duration = Duration::from_millis(25);

/// Looks until `look` brings `Ok`; its `Err` says what was seen instead.
///
/// # Panics
///
/// If that is not so within `within`; says what was seen last.
pub(crate) async fn eventually<T, E, F>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> F,
) -> T
where
    E: Debug,
    F: Future<Output = Result<T, E>>,
{
    let deadline = Instant::now() + within;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= deadline => {
                panic!("not within {within:?}: {what}\nlast seen: {seen:#?}")
            }
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Runs a test on a fresh database of each kind, all at the same time.
///
/// # Panics
///
/// Naming the databases on which the test failed; what failed is printed before.
pub(crate) async fn on_every_database<F, Fut>(name: &str, test: F)
where
    F: Fn(TestDatabase) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let log = std::env::var("RUST_LOG").unwrap_or_else(|_| "pve_operator=info".to_owned());
    logging::start(&LogArgs { log_format: LogFormat::Text, log });
    let (mut running, mut kinds) = (JoinSet::new(), HashMap::new());
    for database in TestDatabase::all(name).await {
        let kind = database.kind();
        kinds.insert(running.spawn(test(database)).id(), kind);
    }
    let mut failed = Vec::new();
    while let Some(outcome) = running.join_next_with_id().await {
        if let Err(error) = outcome {
            failed.push(kinds[&error.id()]);
        }
    }
    assert!(failed.is_empty(), "{name} failed on {failed:?}");
}
