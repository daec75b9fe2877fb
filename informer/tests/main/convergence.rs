//! Whatever goes wrong and in whatever order, every view ends equal to the source.

use std::collections::BTreeMap;
use std::time::Duration;

use informer::testing::{Fault, ScriptedSource, WatchFault};
use informer::{Replay, SharedIndexInformer, SourceError, Store, SubscribeOptions, Subscription};
use proptest::prelude::*;

use crate::Thing;
use crate::model::{View, thing};

#[derive(Clone, Debug)]
enum Act {
    Set(Thing),
    Remove(u8),
    Fault(u8),
    WatchFault(u8),
    Compact,
    /// Lets the informer run for so many milliseconds.
    Pass(u16),
    Subscribe {
        all: bool,
        old: bool,
    },
    /// The n-th subscription takes so many events.
    Take(usize, usize),
    Leave(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => thing().prop_map(Act::Set),
        3 => (0..6_u8).prop_map(Act::Remove),
        1 => (0..5_u8).prop_map(Act::Fault),
        1 => (0..5_u8).prop_map(Act::WatchFault),
        1 => Just(Act::Compact),
        4 => (0..5000_u16).prop_map(Act::Pass),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(all, old)| Act::Subscribe { all, old }),
        2 => (0..3_usize, 0..6_usize).prop_map(|(n, times)| Act::Take(n, times)),
        1 => (0..3_usize).prop_map(Act::Leave),
    ];
    prop::collection::vec(act, 0..50)
}

struct Member {
    subscription: Subscription<Thing>,
    view: View,
}

impl Member {
    fn take(&mut self) -> Option<Result<(), String>> {
        self.subscription.try_next().map(|event| self.view.apply(&event))
    }
}

async fn history(acts: Vec<Act>, watching: bool, seeds: Vec<Thing>) -> Result<(), TestCaseError> {
    let source = if watching { ScriptedSource::watching() } else { ScriptedSource::list_only() };
    let builder = SharedIndexInformer::builder(source.clone())
        .poll_every(Duration::from_secs(1))
        .relist_every(Duration::from_secs(20))
        .seed(seeds.clone());
    let informer = builder.build();
    let handle = informer.handle();
    let mut early = Member {
        subscription: handle.subscribe(SubscribeOptions::named("early")),
        view: View::default(),
    };
    // Who comes before the first list knows the seeds.
    for thing in handle.store().snapshot() {
        early.view.0.insert(thing.id, thing);
    }
    let mut members = vec![early];
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(informer.run(std::future::pending()));
    for act in acts {
        match act {
            Act::Set(thing) => source.set(thing),
            Act::Remove(id) => source.remove(&id),
            Act::Compact => source.compact(),
            Act::Fault(which) => source.faults([match which {
                0 => Fault::Error(SourceError::transient("no")),
                1 => Fault::Partial(2, SourceError::throttled(None, "slower")),
                2 => Fault::Suspicious(2, "two are missing".to_owned()),
                3 => Fault::Panic,
                _ => Fault::Slow(Duration::from_millis(700)),
            }]),
            Act::WatchFault(which) => source.watch_faults([match which {
                0 => WatchFault::Drop,
                1 => WatchFault::Duplicate,
                2 => WatchFault::Reorder,
                3 => WatchFault::Error(SourceError::transient("reset")),
                _ => WatchFault::End,
            }]),
            Act::Pass(ms) => tokio::time::sleep(Duration::from_millis(u64::from(ms))).await,
            Act::Subscribe { all, old } => {
                let replay = if all { Replay::All } else { Replay::UnlessSeeded };
                let mut options = SubscribeOptions::named("late").replay(replay);
                if old {
                    options = options.old_objects();
                }
                let mut view = View::default();
                if !all && handle.store().generation() == seeds_in(&seeds) {
                    view.0.extend(handle.store().snapshot().into_iter().map(|t| (t.id, t)));
                }
                members.push(Member { subscription: handle.subscribe(options), view });
            }
            Act::Take(n, times) => {
                if let Some(member) = members.get_mut(n) {
                    for result in (0..times).filter_map(|_| member.take()).collect::<Vec<_>>() {
                        prop_assert_eq!(result, Ok(()));
                    }
                }
            }
            Act::Leave(n) => {
                if n < members.len() {
                    members.remove(n);
                }
            }
        }
    }
    // Long enough for what was scripted to be used up, and for another list after that.
    tokio::time::sleep(Duration::from_mins(20)).await;
    prop_assert!(handle.has_synced());
    let there: BTreeMap<u8, Thing> =
        handle.store().snapshot().iter().map(|thing| (thing.id, (**thing).clone())).collect();
    prop_assert_eq!(&there, &source.objects());
    for member in &mut members {
        while let Some(result) = member.take() {
            prop_assert_eq!(result, Ok(()));
        }
        prop_assert_eq!(&member.view.plain(), &there);
        prop_assert!(member.subscription.has_synced());
        prop_assert_eq!(member.subscription.lag().keys, 0);
    }
    Ok(())
}

fn seeds_in(seeds: &[Thing]) -> u64 {
    let (store, mut writer) = Store::new();
    for thing in seeds {
        drop(writer.upsert(thing.clone()));
    }
    store.generation()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever goes wrong on the way, the store and every handler end equal to the source, and
    /// every handler hears of things in an order that is possible.
    #[test]
    fn every_view_ends_equal_to_the_source(
        acts in acts(),
        watching: bool,
        seeds in prop::collection::vec(thing(), 0..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing");
        runtime.block_on(history(acts, watching, seeds))?;
    }
}
