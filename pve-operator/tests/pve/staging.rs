//! Looking at storages, volumes, tasks and VMIDs.

use pve_operator::pve::{
    NodeName, Outcome, Reader, Refusal, SecretUrl, StorageName, TaskFilter, TaskState, Vmid,
};

use crate::{
    recorded::{Recording, recording},
    server::{Identity, Reply, Server},
};

fn node() -> NodeName {
    NodeName::new("pve1").unwrap()
}

fn storage() -> StorageName {
    StorageName::new("local").unwrap()
}

async fn replay(name: &str) -> (Reader, Server) {
    let Recording { status, reason, body } = recording(name);
    let identity = Identity::self_signed(&["pve1"]);
    let server = Server::start(&identity, move |_| {
        Reply::answer(&format!("{status} {reason}"), "Connection: close\r\n", &body)
    })
    .await;
    (server.reader(identity.trust()), server)
}

fn asked(server: &Server) -> String {
    let request = server.requests().remove(0);
    request.split(' ').nth(1).unwrap().trim_start_matches("/api2/json").to_owned()
}

#[tokio::test]
async fn what_a_url_gives_is_asked_from_the_node() {
    let url = SecretUrl::new("http://127.0.0.1:8898/big.qcow2?t=a b").unwrap();
    let (reader, server) = replay("765_glocal_query_url.json").await;
    let found = reader.query_url_metadata(&node(), &url, true).await.unwrap();
    assert_eq!((found.size, found.filename.as_deref()), (Some(377_946_112), Some("big.qcow2")));
    assert_eq!(
        asked(&server),
        "/nodes/pve1/query-url-metadata?url=http%3A%2F%2F127.0.0.1%3A8898%2Fbig.qcow2%3Ft%3Da%2520b"
    );

    let (reader, server) = replay("1344_d_query_nolen.json").await;
    assert_eq!(reader.query_url_metadata(&node(), &url, false).await.unwrap().size, None);
    assert!(asked(&server).ends_with("&verify-certificates=0"));

    let (reader, _server) = replay("1343_d_query_refused.json").await;
    let error = reader.query_url_metadata(&node(), &url, true).await.unwrap_err();
    assert!(error.message().unwrap().contains("Connection refused"));
    assert!(!format!("{error:?}").contains("t=a"));
}

#[tokio::test]
async fn the_volumes_of_a_storage_are_listed() {
    let (reader, server) = replay("326_content_images.json").await;
    let vmid = Vmid::new(100).unwrap();
    let images = reader.storage_content(&node(), &storage(), "images", Some(vmid)).await.unwrap();
    assert_eq!(asked(&server), "/nodes/pve1/storage/local/content?content=images&vmid=100");
    assert_eq!((images.rows.len(), images.skipped), (2, 0));
    let base = &images.rows[0];
    assert!(base.volid.is_base() && base.parent.is_none());
    assert_eq!(
        (base.vmid, base.size, base.used, base.format.as_deref()),
        (Some(100), Some(1 << 30), Some(42_283_008), Some("qcow2"))
    );

    let (reader, _server) = replay("178_get_content_import.json").await;
    let files = reader.storage_content(&node(), &storage(), "import", None).await.unwrap();
    let names: Vec<_> = files.rows.iter().map(|it| it.volid.basename()).collect();
    assert_eq!(names, ["disk.raw", "x.qcow2", "y.qcow2"]);
    assert!(files.rows.iter().all(|it| it.ctime.is_some() && it.vmid.is_none()));

    let (reader, _server) = replay("402_delete_import_while_idle.json").await;
    let error = reader.storage_content(&node(), &storage(), "images", None).await.unwrap_err();
    assert_eq!(Refusal::of(&error), Some(Refusal::WriteLock));
}

#[tokio::test]
async fn a_storage_tells_its_space_or_that_it_is_not_there() {
    let (reader, _server) = replay("2103_z_storage_status.json").await;
    let status = reader.storage_status(&node(), &storage()).await.unwrap();
    assert_eq!((status.storage.as_str(), status.avail), ("local", Some(70_932_258_816)));
    assert!(status.content.unwrap().split(',').any(|it| it == "import"));

    let (reader, _server) = replay("469_storage_status_inact.json").await;
    let error = reader.storage_status(&node(), &storage()).await.unwrap_err();
    assert_eq!(Refusal::of(&error), Some(Refusal::StorageMissing));
    assert!(error.to_string().contains("(storage: No such storage.)"), "{error}");
}

/// B19: running and ended tasks name their user differently; the UPID is the same.
#[tokio::test]
async fn running_and_ended_tasks_are_told_apart() {
    let (reader, server) = replay("1376_d_running_all.json").await;
    let filter = TaskFilter {
        vmid: Some(Vmid::new(100).unwrap()),
        kind: Some("download".to_owned()),
        since: Some(1_795_293_600),
        limit: Some(3),
    };

    let tasks = reader.tasks(&node(), &filter).await.unwrap();

    let query = "source=all&typefilter=download&vmid=100&since=1795293600&limit=3";
    assert_eq!(asked(&server), format!("/nodes/pve1/tasks?{query}"));
    assert_eq!((tasks.rows.len(), tasks.skipped), (3, 0));
    let running = &tasks.rows[0];
    assert_eq!((&running.state, running.endtime), (&TaskState::Running, None));
    assert_eq!((running.upid.kind(), running.upid.id()), ("download", "d-kill.qcow2"));
    assert_eq!(running.starttime, 1_795_293_649);
    assert_eq!(tasks.rows[1].state, TaskState::Stopped(Outcome::Ok));
    assert_eq!(tasks.rows[1].endtime, Some(1_795_293_649));

    let (reader, _server) = replay("1957_x_tasks_error_filter.json").await;
    let failed = reader.tasks(&node(), &TaskFilter::default()).await.unwrap();
    let words: Vec<_> = failed.rows.iter().map(|it| format!("{:?}", it.state)).collect();
    assert!(words.iter().all(|it| it.starts_with("Stopped(Failed(")), "{words:?}");
}

/// B08
#[tokio::test]
async fn whether_a_vmid_is_free_is_told() {
    let vmid = Vmid::new(510).unwrap();
    let (reader, server) = replay("1533_nextid_taken.json").await;
    assert!(!reader.vmid_is_free(vmid).await.unwrap());
    assert_eq!(asked(&server), "/cluster/nextid?vmid=510");

    let (reader, _server) = replay("1531_nextid_in_range.json").await;
    assert_eq!(reader.next_vmid().await.unwrap().get(), 9000);
    assert!(reader.vmid_is_free(vmid).await.unwrap());

    let (reader, _server) = replay("469_storage_status_inact.json").await;
    assert!(reader.vmid_is_free(vmid).await.is_err(), "another 400 says nothing of the VMID");
}

#[tokio::test]
async fn a_configuration_says_what_became_of_its_disk() {
    let vmid = Vmid::new(300).unwrap();
    let (reader, _server) = replay("850_glocal_config_after_import.json").await;
    let imported = reader.qemu_config(&node(), vmid).await.unwrap();
    let disk = imported.volume("scsi0").unwrap();
    assert_eq!((disk.as_str(), disk.is_base()), ("local:300/vm-300-disk-0.qcow2", false));
    assert!(imported.description().unwrap().starts_with("pve-operator: {"));
    assert_eq!(imported.tags().collect::<Vec<_>>(), ["pvet", "pvet-v7"]);
    assert_eq!((imported.name(), imported.lock()), (Some("tmpl-local"), None));
    assert!(!imported.has_unused_disks() && imported.volume("scsi1").is_none());

    let (reader, _server) = replay("1465_t_delete_disk_of_template_config.json").await;
    let emptied = reader.qemu_config(&node(), vmid).await.unwrap();
    assert!(emptied.is_template() && emptied.volume("scsi0").is_none());
    assert!(emptied.has_unused_disks());
    assert!(emptied.volume("unused0").unwrap().is_base());
}
