//! What the informer's store holds on the heap, at rest, in a relist and behind a handler that is
//! stuck.

use std::time::Duration;

use informer::{
    ListDone, ListWatcher, Listing, SharedIndexInformer, SourceError, SubscribeOptions,
};

use crate::{
    compact::Compact,
    documents::{MACHINES, ROUNDS},
    figures::Figures,
    gauges::{Heap, as_f64},
    objects::{Machine, Plain, SameType},
    our_side::{Running, list_of, round},
    runtimes::{Until, one_thread},
};

pub(crate) fn plain(figures: &mut Figures) {
    one_thread(store::<Plain>("ours.heap", figures));
}

pub(crate) fn same_type(figures: &mut Figures) {
    one_thread(store::<SameType>("ours.heap_same_type", figures));
}

pub(crate) fn compact(figures: &mut Figures) {
    one_thread(store::<Compact>("ours.heap_compact", figures));
}

/// A list that does not come ends the bench.
const PATIENCE: Duration = Duration::from_mins(1);

/// A source of which every list is the same, decoded one by one while it is pushed.
struct Documents<T>(std::marker::PhantomData<fn() -> T>);

impl<T: Machine> ListWatcher for Documents<T> {
    type Object = T;

    async fn list(&self, into: &mut Listing<'_, T>) -> Result<ListDone, SourceError> {
        for i in 0..MACHINES {
            into.put(T::decode(i, 1));
        }
        Ok(ListDone::complete())
    }
}

/// A store with one index, and the most there is while the same list comes again.
async fn store<T: Machine>(name: &str, figures: &mut Figures) {
    let heap = Heap::count();
    let source = Documents::<T>(std::marker::PhantomData);
    let builder = SharedIndexInformer::builder(source);
    let by_node = builder.index(|machine: &T, nodes| nodes.push(number_of(machine.node())));
    let informer = builder.self_paced().build();
    let handle = informer.handle();
    let mut reflector = informer.into_reflector();
    reflector.step().await;
    assert_eq!(handle.store().len() as u64, MACHINES);
    assert_eq!(handle.store().by(&by_node, &7).len() as u64, MACHINES / 32);
    figures.push(format!("{name}/object_bytes"), heap.live() / as_f64(MACHINES));
    heap.peak();
    reflector.step().await;
    figures.push(format!("{name}/relist_peak_bytes"), heap.peak() / as_f64(MACHINES));
}

/// `pve-node-07` is 7.
fn number_of(node: &str) -> u8 {
    node.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(u8::MAX)
}

/// What a million changes of all objects add to the heap while a subscription is there that
/// nobody takes from any more.
pub(crate) fn blocked(figures: &mut Figures) {
    let grown = one_thread(async {
        let heap = Heap::count();
        let (mut running, _) = Running::start(0, None, list_of::<Plain>(&|_| 1)).await;
        running.informer.synced(PATIENCE).await.expect("the list is there");
        let mut stuck = running.informer.subscribe(SubscribeOptions::named("stuck"));
        // Channels and batches have had their largest size after this.
        changes(&mut running, 0).await;
        while stuck.try_next().is_some() {}
        let before = heap.live();
        for r in 1..=ROUNDS {
            changes(&mut running, r).await;
        }
        let grown = heap.live() - before;
        assert_eq!(stuck.lag().keys as u64, MACHINES);
        drop(stuck);
        running.stop().await;
        grown
    });
    figures.push("ours.blocked/heap_growth_mb", grown / 1e6);
}

/// One round, until it is in the store and handlers could take it.
async fn changes(running: &mut Running<Plain>, r: u64) {
    running.send(round(r), Until::All(0)).await;
    let generation = MACHINES * (r + 2);
    running.informer.store().wait_until(|store| store.generation() == generation).await;
}
