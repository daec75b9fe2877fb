//! The work queue: takers, adders, those who give up waiting, and shutdown.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use interleavings::{Shutdown, Taken, WorkQueue};
use loom::sync::Mutex;

use crate::{block_on, every_schedule, spawn};

fn take(queue: &WorkQueue<u32>) -> Option<u32> {
    let item = block_on(queue.take())?;
    let key = *item.key();
    item.done();
    Some(key)
}

/// Two take while a third one adds the keys 1 and 2.
fn two_take(add: fn(&WorkQueue<u32>)) {
    every_schedule(4, move || {
        let queue = WorkQueue::builder("loom").build();
        let other = queue.clone();
        let taker = spawn(move || take(&other));
        let adding = queue.clone();
        let adder = spawn(move || add(&adding));

        let mut keys = [take(&queue), taker.join().unwrap()];

        adder.join().unwrap();
        keys.sort();
        assert_eq!(keys, [Some(1), Some(2)]);
    });
}

#[test]
fn two_who_wait_get_one_key_each() {
    two_take(|queue| {
        queue.add(1);
        queue.add(2);
    });
}

/// One of those who wait keeps the time for all; it may leave with a key just then.
#[test]
fn a_delayed_key_finds_a_taker_whoever_kept_the_time() {
    two_take(|queue| {
        queue.add(1);
        queue.add_after(2, Duration::ZERO);
    });
}

#[test]
fn what_is_added_while_a_key_runs_is_seen_by_a_later_run_and_never_by_two_at_once() {
    every_schedule(4, || {
        let queue = WorkQueue::builder("loom").build();
        let wanted = Arc::new(Mutex::new(1));
        queue.add(1);
        let (working, wanted_there) = (queue.clone(), wanted.clone());
        let worker = spawn(move || {
            let mut seen = 0;
            while let Some(item) = block_on(working.take()) {
                assert!(working.try_take().is_none(), "the one key is running");
                seen = *wanted_there.lock().unwrap();
                item.done();
            }
            seen
        });

        *wanted.lock().unwrap() = 2;
        queue.add(1);
        let left = block_on(queue.shutdown(Shutdown::Drain(Duration::from_secs(1))));

        assert!(left.is_empty());
        assert_eq!(worker.join().unwrap(), 2);
    });
}

#[test]
fn who_gives_up_waiting_leaves_its_wake_up_to_another() {
    every_schedule(4, || {
        let queue = WorkQueue::builder("loom").build();
        let leaving = queue.clone();
        let leaver = spawn(move || leaving.take().now_or_never().flatten().map(Taken::done));
        let adding = queue.clone();
        let adder = spawn(move || {
            adding.add(1);
            adding.add(2);
        });

        let first = take(&queue);
        let left_with_one = leaver.join().unwrap().is_some();
        adder.join().unwrap();

        assert!(first.is_some());
        assert_eq!(queue.try_take().map(Taken::done).is_some(), !left_with_one);
    });
}

#[test]
fn at_shutdown_every_key_was_run_or_is_returned_and_nobody_sleeps_on() {
    every_schedule(5, || {
        let queue = WorkQueue::builder("loom").build();
        queue.add(1);
        queue.add(2);
        let working = queue.clone();
        let worker = spawn(move || {
            let mut done = Vec::new();
            while let Some(key) = take(&working) {
                done.push(key);
            }
            done
        });

        let mut all = block_on(queue.shutdown(Shutdown::FinishRunning));
        all.extend(worker.join().unwrap());

        all.sort_unstable();
        assert_eq!(all, [1, 2]);
    });
}

#[test]
fn a_drain_ends_when_the_last_one_fails() {
    every_schedule(4, || {
        let queue = WorkQueue::builder("loom").build();
        queue.add(1);
        let working = queue.clone();
        let worker = spawn(move || {
            let item = block_on(working.take());
            item.map(Taken::retry).is_some() && block_on(working.take()).is_none()
        });

        let left = block_on(queue.shutdown(Shutdown::Drain(Duration::from_secs(1))));

        assert_eq!(left, [1], "it wanted to come again");
        assert!(worker.join().unwrap());
    });
}
