//! Answers that are not quite what the documentation says.

use pve_sim::{Config, FaultKind, FaultRule, Guest};

use crate::support::{Mirror, on_every_database, simulate};

const RESOURCES: &str = "/cluster/resources";

/// A14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a14_numbers_as_strings_are_numbers() {
    on_every_database("a14", async |database| {
        let sim = simulate(Config::quick().guests(20));
        sim.fault(FaultRule::new("/", FaultKind::LooseTypes));
        let mut mirror = Mirror::stopped(database);
        let it = mirror.follow("sim", sim).await;
        mirror.start().await;
        mirror.until_equal(&it).await;
        let written = || mirror.metric("pve_operator_rows_written_total", &[]);
        mirror.polls(&it, 2).await;
        let before = written();

        it.sim.clear_faults();
        mirror.polls(&it, 3).await;

        assert_eq!(written(), before, "the same said otherwise is no change");
        assert_eq!(mirror.metric("pve_operator_skipped_elements_total", &[]), 0);
        mirror.until_equal(&it).await;
    })
    .await;
}

/// A14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a14_one_element_that_makes_no_sense_costs_one() {
    on_every_database("a14_one", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(20)).await;

        it.sim.fault(FaultRule::new(RESOURCES, FaultKind::GarbageElement).times(1));
        it.sim.rename(104, "renamed");
        mirror.polls(&it, 3).await;

        assert_eq!(mirror.metric("pve_operator_skipped_elements_total", &[]), 1);
        mirror.until_equal(&it).await;
    })
    .await;
}

/// A14: while elements cannot be read, changes go on, and nothing is deleted: one may be the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a14_lists_with_garbage_are_mirrored_and_prove_no_delete() {
    on_every_database("a14_all", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(20)).await;

        it.sim.fault(FaultRule::new(RESOURCES, FaultKind::GarbageElement));
        it.sim.add_guest(Guest::lxc(900, "pve3").named("new").running());
        it.sim.rename(104, "renamed");
        mirror.until_equal(&it).await;
        it.sim.remove_guest(900);
        mirror.until_reason(&it, "SuspiciousShrink").await;
        mirror.polls(&it, 5).await;
        assert!(mirror.guest(it.id, 900).await.is_some());

        it.sim.clear_faults();
        mirror.until_equal(&it).await;
    })
    .await;
}

/// Names that PVE would not take today but older versions, or containers, have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_name_is_mirrored_as_it_is() {
    on_every_database("names", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(2)).await;

        let names = [
            "sync-gateway",
            "null",
            "O'Brien\"; DROP TABLE pve_vm; --",
            "虚拟机 💾",
            "%s%n\\",
            "0",
            "NaN",
        ];
        for (vmid, name) in (900..).zip(names) {
            it.sim.add_guest(Guest::qemu(vmid, "pve1").named(name).tagged(&["a-b", "ü", "x_y"]));
        }

        mirror.until_equal(&it).await;
    })
    .await;
}
