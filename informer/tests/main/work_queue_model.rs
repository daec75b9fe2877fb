//! Random histories of the work queue against what is wanted and what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use informer::{Backoff, Priority, Taken, WorkQueue};
use proptest::prelude::*;
use tokio::time::{advance, timeout};

use crate::{HOUR, SECOND};

#[derive(Clone, Debug)]
enum Act {
    Add(u32, u8),
    AddAfter(u32, u16),
    AddLimited(u32),
    Take,
    Finish(usize, u8),
    Pass(u16),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let key = 0..8_u32;
    let act = prop_oneof![
        4 => (key.clone(), 0..4_u8).prop_map(|(key, level)| Act::Add(key, level)),
        2 => (key.clone(), 0..5000_u16).prop_map(|(key, ms)| Act::AddAfter(key, ms)),
        1 => key.prop_map(Act::AddLimited),
        4 => Just(Act::Take),
        4 => (0..4_usize, 0..4_u8).prop_map(|(which, how)| Act::Finish(which, how)),
        2 => (0..3000_u16).prop_map(Act::Pass),
    ];
    prop::collection::vec(act, 0..120)
}

/// Runs a history, then works until nothing is left.
async fn history(acts: Vec<Act>, cap: usize) -> Result<(), TestCaseError> {
    let queue = WorkQueue::builder("model")
        .backoff(Backoff::new(SECOND, 60 * SECOND))
        .ageing(SECOND)
        .groups(|key: &u32| key % 2, cap)
        .build();
    let mut running: Vec<Taken<u32>> = Vec::new();
    // Keys of which somebody wants a run that has not begun.
    let mut wanted: BTreeSet<u32> = BTreeSet::new();
    for act in acts {
        match act {
            Act::Add(key, level) => {
                let levels = [Priority::Low, Priority::Normal, Priority::High, Priority::Urgent];
                queue.add_with(key, levels[usize::from(level)]);
                wanted.insert(key);
            }
            Act::AddAfter(key, ms) => {
                queue.add_after(key, Duration::from_millis(u64::from(ms)));
                wanted.insert(key);
            }
            Act::AddLimited(key) => {
                queue.add_rate_limited(key);
                wanted.insert(key);
            }
            Act::Take => {
                if let Some(item) = queue.try_take() {
                    let key = *item.key();
                    prop_assert!(wanted.remove(&key), "{key} was not wanted");
                    prop_assert!(running.iter().all(|other| *other.key() != key), "{key} twice");
                    running.push(item);
                    let mut groups = BTreeMap::new();
                    for item in &running {
                        *groups.entry(item.key() % 2).or_insert(0) += 1;
                    }
                    prop_assert!(groups.values().all(|count| *count <= cap), "{groups:?}");
                }
            }
            Act::Finish(which, how) if which < running.len() => {
                let item = running.swap_remove(which);
                let key = *item.key();
                match how {
                    0 | 1 => item.done(),
                    2 => {
                        item.done_after(SECOND);
                        wanted.insert(key);
                    }
                    _ => {
                        item.retry();
                        wanted.insert(key);
                    }
                }
            }
            Act::Finish(..) => {}
            Act::Pass(ms) => advance(Duration::from_millis(u64::from(ms))).await,
        }
        let known: BTreeSet<u32> =
            wanted.iter().copied().chain(running.iter().map(|item| *item.key())).collect();
        prop_assert_eq!(queue.len(), known.len());
        prop_assert_eq!(queue.running(), running.len());
    }
    running.into_iter().for_each(Taken::done);
    while !wanted.is_empty() {
        let Ok(Some(item)) = timeout(HOUR, queue.take()).await else {
            return Err(TestCaseError::fail(format!("{wanted:?} never come")));
        };
        prop_assert!(wanted.remove(item.key()), "{} was not wanted", item.key());
        item.done();
    }
    prop_assert!(queue.is_empty());
    Ok(())
}

proptest! {
    /// Every wanted key is run, none is run unasked or twice at once, no group exceeds its cap,
    /// and nothing is left behind.
    #[test]
    fn a_work_queue_runs_what_is_wanted(acts in acts(), cap in 1..4_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing");
        runtime.block_on(history(acts, cap))?;
    }
}
