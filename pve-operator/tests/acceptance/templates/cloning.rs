//! Guests from templates.

use crate::support::{Workshop, on_every_database, small};
use schema::instance::InstanceStatus;

/// B12: a clone on another node than the shared template's goes to the owner, with `target`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_of_a_shared_template_goes_to_its_owner() {
    on_every_database("b12", async |database| {
        let workshop = Workshop::open(database, small()).await;
        let asked = workshop.ask("debian", "nfs-shared", &["pve1", "pve2", "pve3"]).await;
        workshop.until_all(&asked, InstanceStatus::Available).await;
        workshop.sim().reset_counters();

        let clone = workshop.clone_guest(&asked, "web-1", "pve2", false).await;
        let vmid = workshop.until_cloned(clone).await;

        let guest = workshop.sim().guest(vmid).expect("the guest is there");
        assert_eq!((guest.node.as_str(), guest.name.as_str()), ("pve2", "web-1"));
        assert!(!guest.template);
        let asked_for: Vec<String> = workshop.posts("/clone");
        assert_eq!(asked_for.len(), 1, "{asked_for:?}");
        assert!(asked_for[0].contains("/nodes/pve1/qemu/"), "{asked_for:?}");
        let description = guest.config.get("description").and_then(|it| it.as_str()).unwrap_or("");
        assert!(description.contains("\"clone\":"), "a marker of its own: {description}");
        assert!(!guest.tags.iter().any(|tag| tag == "pvet"), "no inherited tags");
        let row = workshop.mirror.guest(workshop.cluster(), vmid).await.expect("it is mirrored");
        assert_eq!(row.template_id, Some(asked.template.0), "its template is known");
    })
    .await;
}

/// On local storage the clone is made of the node's own template.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_is_made_of_the_template_on_its_node() {
    on_every_database("clone_local", async |database| {
        let workshop = Workshop::open(database, small()).await;
        let asked = workshop.ask("debian", "local-lvm", &["pve1", "pve3"]).await;
        workshop.until_all(&asked, InstanceStatus::Available).await;
        workshop.sim().reset_counters();

        let (one, two) = (
            workshop.clone_guest(&asked, "web-1", "pve3", false).await,
            workshop.clone_guest(&asked, "web-2", "pve3", true).await,
        );
        let (one, two) = (workshop.until_cloned(one).await, workshop.until_cloned(two).await);

        assert_ne!(one, two);
        for vmid in [one, two] {
            assert_eq!(workshop.sim().guest(vmid).map(|it| it.node), Some("pve3".to_owned()));
        }
        assert!(workshop.posts("/clone").iter().all(|path| path.contains("/nodes/pve3/")));
    })
    .await;
}
