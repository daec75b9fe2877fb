//! The check for sources tells good ones from bad ones.

use std::sync::atomic::{AtomicU32, Ordering};

use informer::testing::{Violation, conformance};
use informer::{ListDone, ListWatcher, Listing, SourceError};

use crate::{Source, Thing, source_with};

/// Pushes one thing twice.
struct Twice;

impl ListWatcher for Twice {
    type Object = Thing;

    async fn list(&self, into: &mut Listing<'_, Thing>) -> Result<ListDone, SourceError> {
        into.put(Thing::new(1, 1));
        into.put(Thing::new(1, 1));
        Ok(ListDone::complete())
    }
}

/// Shows another thing each time.
struct Restless(AtomicU32);

impl ListWatcher for Restless {
    type Object = Thing;

    async fn list(&self, into: &mut Listing<'_, Thing>) -> Result<ListDone, SourceError> {
        let value = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes()[0];
        into.put(Thing::new(1, value));
        Ok(ListDone::complete())
    }
}

#[tokio::test(start_paused = true)]
async fn conformance_tells_good_sources_from_bad_ones() {
    conformance(&source_with([Thing::new(1, 1)])).await.unwrap();
    let watching = Source::watching();
    watching.set(Thing::new(1, 1));
    conformance(&watching).await.unwrap();

    assert!(matches!(conformance(&Twice).await, Err(Violation::Twice(2, 1))));
    let restless = Restless(AtomicU32::new(0));
    assert!(matches!(conformance(&restless).await, Err(Violation::Restless(_))));
}
