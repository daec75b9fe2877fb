//! Lists that come in pages.

use informer::{
    ListCounts, ListDone, ListWatcher, Listing, SharedIndexInformer, SourceError, Step,
};
use parking_lot::Mutex;

use crate::Thing;

/// Answers each list with the pages that were given to it.
struct Pages(Mutex<Vec<Vec<Thing>>>);

impl ListWatcher for Pages {
    type Object = Thing;

    async fn list(&self, into: &mut Listing<'_, Thing>) -> Result<ListDone, SourceError> {
        for page in self.0.lock().drain(..) {
            into.put_all(page);
        }
        Ok(ListDone::complete())
    }
}

fn things(value: impl Fn(u8) -> u8) -> Vec<Thing> {
    (0..200).map(|id| Thing::new(id, value(id))).collect()
}

/// More than what is looked up at once, all in one page and in small ones.
#[tokio::test(start_paused = true)]
async fn a_page_is_taken_like_its_objects_one_by_one() {
    let source = Pages(Mutex::new(vec![things(|_| 1)]));
    let informer = SharedIndexInformer::builder(source).self_paced().build();
    let store = informer.store().clone();
    let handle = informer.handle();
    let mut reflector = informer.into_reflector();
    let counts = || -> ListCounts { handle.status().last_list };

    assert_eq!(reflector.step().await, Step::Listed);
    assert_eq!((counts().items, counts().unchanged, store.len()), (200, 0, 200));
    let kept = store.get(&4).unwrap();

    let next = things(|id| if id % 10 == 0 { 2 } else { 1 });
    let (first, rest) = next.split_at(5);
    let rest = rest[..150].to_vec();
    *reflector.source().0.lock() = vec![first.to_vec(), Vec::new(), rest];
    assert_eq!(reflector.step().await, Step::Listed);

    let counts = counts();
    assert_eq!((counts.items, counts.unchanged, counts.deleted), (155, 139, 45));
    assert_eq!(store.get(&150).unwrap().value, 2);
    assert!(std::sync::Arc::ptr_eq(&kept, &store.get(&4).unwrap()));
}
