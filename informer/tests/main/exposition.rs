//! What Prometheus is told of an informer that has a hard time.

use std::sync::Arc;

use informer::testing::{Fault, ScriptedSource, WatchFault};
use informer::{Backoff, PrometheusMetrics, Retry, SharedIndexInformer, SubscribeOptions};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::{SECOND, Thing, drain, run};

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_can_be_seen_in_the_metrics() {
    let registry = prometheus::Registry::new();
    let metrics = PrometheusMetrics::register(&registry).unwrap();
    let source = ScriptedSource::watching();
    (0..4).for_each(|id| source.set(Thing::new(id, 1)));
    source.faults([Fault::Unreadable(1)]);
    let shared: Arc<PrometheusMetrics> = metrics.clone();
    let builder = SharedIndexInformer::builder(source.clone())
        .name("things")
        .metrics(shared)
        .verify_every(60 * SECOND);
    let _by_value = builder.unique_index(|thing: &Thing, out| out.push(thing.value));
    let mut tasks = JoinSet::new();
    let handle = run(builder, &mut tasks);
    metrics.watch_informer(&handle);
    handle.synced(SECOND).await.unwrap();
    let mut strict = handle.subscribe(SubscribeOptions::named("strict").disconnect_above(0));
    let picky = handle.subscribe(SubscribeOptions::named("picky"));
    let retry = Retry::new(Backoff::new(SECOND, SECOND), 1);
    tasks.spawn(async move {
        picky.for_each(retry, async |_| Err("no")).await;
    });
    sleep(SECOND).await;

    let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let before = text();
    for line in [
        r#"informer_rejected_total{name="things"} 1"#,
        r#"informer_quarantined{name="things"} 1"#,
        r#"informer_index_conflicts{name="things"} 1"#,
        r#"informer_parked_keys{name="things",subscription="picky"} 3"#,
    ] {
        assert!(before.contains(line), "{line} is not in\n{before}");
    }

    assert_eq!(drain(&mut strict).len(), 3);

    source.watch_faults([WatchFault::Drop]);
    source.set(Thing::new(1, 2));
    sleep(70 * SECOND).await;
    let after = text();
    for line in [
        r#"informer_verifications_total{name="things"} 1"#,
        // The one that was unreadable, and the one that was dropped.
        r#"informer_differences_total{name="things"} 2"#,
        r#"informer_quarantined{name="things"} 0"#,
        r#"informer_index_conflicts{name="things"} 1"#,
        r#"informer_disconnected_total{name="things",subscription="strict"} 1"#,
    ] {
        assert!(after.contains(line), "{line} is not in\n{after}");
    }
}
