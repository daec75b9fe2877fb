//! B18: the least that a token needs, and what is said when a part of it is missing.

use pve_sim::Token;
use schema::{cluster_status, instance::InstanceStatus};

use crate::support::{LATER, Workshop, eventually, on_every_database, small};

/// What the pipeline needs through a pool, with Datastore.Audit on the target so that the mirror
/// sees it, and without Sys.Audit (`docs/privileges.md`).
const NEEDED: [(&str, &[&str]); 4] = [
    (
        "/pool/staging",
        &[
            "VM.Allocate",
            "VM.Audit",
            "VM.Clone",
            "VM.Config.Disk",
            "VM.Config.Options",
            "VM.Config.CPU",
            "VM.Config.Memory",
            "VM.Config.HWType",
            "VM.Config.Network",
        ],
    ),
    ("/storage/local", &["Datastore.AllocateTemplate", "Datastore.Allocate", "Datastore.Audit"]),
    ("/storage/local-lvm", &["Datastore.AllocateSpace", "Datastore.Audit"]),
    ("/nodes", &["Sys.AccessNetwork"]),
];

async fn with_least_privileges(database: schema::testing::TestDatabase) -> Workshop {
    let mut workshop = Workshop::closed(database, small()).await;
    let sim = workshop.sim();
    let token = NEEDED
        .iter()
        .fold(Token::new(&sim.user_id(), &sim.token()), |token, (path, privileges)| {
            token.granted(path, privileges)
        });
    sim.put_token(token);
    workshop.start_unequal().await;
    workshop
}

/// Rights through one pool and on two storages are enough, from the upload to the delete.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_through_a_pool_are_enough() {
    on_every_database("b18_enough", async |database| {
        let workshop = with_least_privileges(database).await;
        let asked = workshop.ask("debian", "local-lvm", &["pve1", "pve2"]).await;

        let rows = workshop.until_all(&asked, InstanceStatus::Available).await;

        for row in &rows {
            let vmid = u32::try_from(row.told.vmid).unwrap();
            let guest = workshop.sim().guest(vmid).expect("it is there");
            assert_eq!(guest.pool.as_deref(), Some("staging"));
        }
        workshop.retire(&asked).await;
        workshop.until_gone(&asked).await;
        workshop.until_clean(&[]).await;
    })
    .await;
}

/// Each privilege that is missing is named before a byte is moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_missing_privilege_is_named_before_bytes_move() {
    on_every_database("b18_missing", async |database| {
        let workshop = with_least_privileges(database).await;
        for (path, privilege, named) in [
            ("/pool/staging", "VM.Allocate", "VM.Allocate on /vms/"),
            ("/pool/staging", "VM.Config.Disk", "VM.Config.Disk on /pool/staging"),
            ("/pool/staging", "VM.Config.Options", "VM.Config.Options on /pool/staging"),
            ("/pool/staging", "VM.Config.CPU", "VM.Config.CPU on /pool/staging"),
            ("/pool/staging", "VM.Config.Memory", "VM.Config.Memory on /pool/staging"),
            ("/pool/staging", "VM.Config.HWType", "VM.Config.HWType on /pool/staging"),
            (
                "/storage/local",
                "Datastore.AllocateTemplate",
                "Datastore.AllocateTemplate on /storage/local",
            ),
            ("/storage/local", "Datastore.Allocate", "Datastore.Allocate on /storage/local"),
            (
                "/storage/local-lvm",
                "Datastore.AllocateSpace",
                "Datastore.AllocateSpace on /storage/local-lvm",
            ),
        ] {
            workshop.sim().withdraw(path, &[privilege]);
            let asked = workshop.ask(&format!("no-{privilege}"), "local-lvm", &["pve1"]).await;

            let row = workshop.until(&asked, "pve1", InstanceStatus::Failed).await;

            let words = row.told.error_message.unwrap_or_default();
            assert!(words.contains(named), "without {privilege}: {words}");
            assert_eq!(workshop.sim().all_files(), [], "without {privilege}: nothing was moved");
            workshop.sim().grant(path, &[privilege]);
        }
    })
    .await;
}

/// What is granted nowhere is in the cluster's status, so that the API can refuse an upload.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_everywhere_is_in_the_status() {
    on_every_database("b18_status", async |database| {
        let workshop = with_least_privileges(database).await;
        let missing = || async {
            let mut conn = workshop.mirror.db().conn().await.unwrap();
            cluster_status::missing_template_privileges(&mut conn, workshop.cluster())
                .await
                .unwrap()
        };
        eventually("nothing is missing", LATER, || async {
            let told = missing().await;
            if told.as_deref() == Some("") { Ok(()) } else { Err(told) }
        })
        .await;

        workshop.sim().withdraw("/pool/staging", &["VM.Config.Disk"]);
        eventually("the status names the privilege", LATER, || async {
            let told = missing().await.unwrap_or_default();
            if told.contains("VM.Config.Disk") { Ok(()) } else { Err(told) }
        })
        .await;
    })
    .await;
}
