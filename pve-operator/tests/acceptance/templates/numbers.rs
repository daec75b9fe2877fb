//! VMIDs, of which others take some.

use std::collections::BTreeSet;

use pve_sim::Guest;
use schema::instance::InstanceStatus;

use crate::support::{LATER, Workshop, eventually, on_every_database, small};

/// B08: twenty templates at once while somebody else takes numbers from the same range.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_loses_a_number_or_a_guest() {
    on_every_database("b08", async |database| {
        let mut workshop = Workshop::closed(database, small()).await;
        for slots in ["--transfers-per-node", "--transfers-per-cluster", "--transfers-per-operator"]
        {
            workshop.mirror.option(slots, "20");
        }
        workshop.start().await;
        let mut asked = Vec::new();
        for n in 0..20 {
            let node = ["pve1", "pve2", "pve3"][n % 3];
            asked.push(workshop.ask(&format!("image-{n}"), "local-lvm", &[node]).await);
            // Where the next ones would go, some before they are reserved and some after.
            for vmid in [9000 + 2 * n, 9001 + 3 * n] {
                let vmid = u32::try_from(vmid).expect("a small number");
                if workshop.sim().guest(vmid).is_none() {
                    let mut guest = Guest::qemu(vmid, node);
                    guest.name = format!("theirs-{vmid}");
                    workshop.sim().add_guest(guest);
                }
            }
        }
        let theirs: BTreeSet<(u32, String)> = workshop
            .sim()
            .guests()
            .into_iter()
            .filter(|it| it.name.starts_with("theirs-"))
            .map(|it| (it.vmid, it.name))
            .collect();

        let mut ours = BTreeSet::new();
        for asked in &asked {
            let rows = workshop.until_all(asked, InstanceStatus::Available).await;
            assert!(ours.insert(rows[0].told.vmid), "a number of its own");
        }

        eventually("others have what they had", LATER, || async {
            let guests = workshop.sim().guests();
            let left: BTreeSet<(u32, String)> = guests
                .into_iter()
                .filter(|it| it.name.starts_with("theirs-"))
                .map(|it| (it.vmid, it.name))
                .collect();
            if left == theirs { Ok(()) } else { Err(left) }
        })
        .await;
        assert!(theirs.iter().all(|(vmid, _)| !ours.contains(&i64::from(*vmid))));
        assert_eq!(workshop.sim().leftovers(), Vec::<String>::new());
    })
    .await;
}
