//! What a change looks like on the wire, and that it is asked for once.

use std::time::Duration;

use pve_operator::pve::{
    Changer, ClientConfig, Download, Effect, ErrorClass, GuestClone, ImportDisk, NewGuest,
    NodeName, PveError, Reader, SecretUrl, StorageName, Upid, Vmid, Volid,
};

use crate::server::{Identity, Reply, SECRET, Server, token};

const UPID: &str = "UPID:pve1:00001C55:000768CE:6B0200D6:qmdestroy:300:tmpl@pve!tk:";

fn node() -> NodeName {
    NodeName::new("pve1").unwrap()
}

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

fn storage(name: &str) -> StorageName {
    StorageName::new(name).unwrap()
}

fn task() -> Reply {
    Reply::json(&format!("{{\"data\":\"{UPID}\"}}"))
}

async fn pve(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> (Server, Changer) {
    let identity = Identity::self_signed(&["pve1"]);
    let server = Server::start(&identity, answer).await;
    let changer = Changer::new(&server.reader(identity.trust()));
    (server, changer)
}

/// The request line, and the body of the only request there was.
fn only_request(server: &Server) -> (String, String) {
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
    let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").replace("/api2/json", "");
    (line, body.to_owned())
}

fn download() -> Download {
    Download {
        url: SecretUrl::new("https://images.example.com/big.qcow2?rate=65536&t=secrettoken")
            .unwrap(),
        filename: "pvet-golden-local.qcow2".to_owned(),
        sha512: "c4".repeat(64),
        verify_certificates: true,
    }
}

/// The lines and bodies are those of the recordings 787, 796, 851, 859, 866, 922, 949, 1411, 2065.
#[tokio::test]
async fn each_change_is_written_as_the_recordings_show_it() {
    let (n, v) = (&node(), vmid(300));
    let mut guest = NewGuest::new(v, "tmpl-local");
    guest.description = "pve-operator: {\"version\":7}".to_owned();
    guest.serial0 = Some("socket".to_owned());
    guest.pool = Some("tmpl".to_owned());
    guest.bridge("vmbr0").unwrap();
    let source = Volid::import(&storage("local2"), "golden.qcow2").unwrap();
    let mut disk = ImportDisk::new(storage("local"), source.clone());
    disk.tags = vec!["pvet".to_owned(), "pvet-v7".to_owned()];
    let mut ova =
        ImportDisk::new(storage("local"), "local2:import/x.ova/disk.vmdk".parse().unwrap());
    ova.working_storage = Some(storage("local"));
    ova.format = Some("qcow2".to_owned());
    (ova.boot, ova.discard) = (false, false);
    let mut linked = GuestClone::linked(vmid(301));
    linked.name = Some("lc-local".to_owned());
    linked.description = Some("a & b".to_owned());
    let mut full = GuestClone::full(vmid(302));
    full.storage = Some(storage("shared"));
    full.target = Some(NodeName::new("pve2").unwrap());
    let mut unverified = download();
    unverified.verify_certificates = false;
    let upid: Upid = UPID.parse().unwrap();

    let (server, changer) = pve(|path| {
        let tasks = path.starts_with("/nodes/pve1/tasks") || path == "/nodes/pve1/qemu/300/conf";
        if tasks { Reply::json(r#"{"data":null}"#) } else { task() }
    })
    .await;
    changer.create_guest(n, &guest).await.unwrap();
    changer.import_disk(n, v, &disk).await.unwrap();
    changer.import_disk(n, v, &ova).await.unwrap();
    changer.set_config(n, v, &[("name", "x y")], &["tags", "description"]).await.unwrap();
    changer.make_template(n, v, None).await.unwrap();
    changer.make_template(n, v, Some("scsi0")).await.unwrap();
    changer.clone_guest(n, v, &linked).await.unwrap();
    changer.clone_guest(n, v, &full).await.unwrap();
    changer.start_guest(n, v).await.unwrap();
    changer.download_url(n, &storage("local2"), &unverified).await.unwrap();
    assert_eq!(changer.destroy_guest(n, v).await.unwrap(), upid);
    assert_eq!(changer.delete_volume(n, &source).await.unwrap(), Some(upid.clone()));
    changer.stop_task(&upid).await.unwrap();

    let checksum = "c4".repeat(64);
    let url = "https%3A%2F%2Fimages.example.com%2Fbig.qcow2%3Frate%3D65536%26t%3Dsecrettoken";
    let expected = [
        ("POST /nodes/pve1/qemu", "vmid=300&name=tmpl-local&cores=1&memory=512&description=pve-operator%3A+%7B%22version%22%3A7%7D&agent=1&pool=tmpl&ostype=l26&scsihw=virtio-scsi-single&net0=virtio%2Cbridge%3Dvmbr0&serial0=socket".to_owned()),
        ("POST /nodes/pve1/qemu/300/config", "scsi0=local%3A0%2Cimport-from%3Dlocal2%3Aimport%2Fgolden.qcow2%2Cdiscard%3Don&boot=order%3Dscsi0&tags=pvet%3Bpvet-v7".to_owned()),
        ("POST /nodes/pve1/qemu/300/config", "scsi0=local%3A0%2Cimport-from%3Dlocal2%3Aimport%2Fx.ova%2Fdisk.vmdk%2Cformat%3Dqcow2&import-working-storage=local".to_owned()),
        ("PUT /nodes/pve1/qemu/300/config", "name=x+y&delete=tags%2Cdescription".to_owned()),
        ("POST /nodes/pve1/qemu/300/template", String::new()),
        ("POST /nodes/pve1/qemu/300/template", "disk=scsi0".to_owned()),
        ("POST /nodes/pve1/qemu/300/clone", "newid=301&full=0&name=lc-local&description=a+%26+b".to_owned()),
        ("POST /nodes/pve1/qemu/300/clone", "newid=302&full=1&target=pve2&storage=shared".to_owned()),
        ("POST /nodes/pve1/qemu/300/status/start", String::new()),
        ("POST /nodes/pve1/storage/local2/download-url", format!("url={url}&content=import&filename=pvet-golden-local.qcow2&checksum={checksum}&checksum-algorithm=sha512&verify-certificates=0")),
        ("DELETE /nodes/pve1/qemu/300?purge=1&destroy-unreferenced-disks=1", String::new()),
        ("DELETE /nodes/pve1/storage/local2/content/local2%3Aimport%2Fgolden.qcow2", String::new()),
        ("DELETE /nodes/pve1/tasks/UPID%3Apve1%3A00001C55%3A000768CE%3A6B0200D6%3Aqmdestroy%3A300%3Atmpl%40pve%21tk%3A", String::new()),
    ];
    let requests = server.requests();
    assert_eq!(requests.len(), expected.len());
    for (request, (line, form)) in requests.iter().zip(expected) {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let found = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1");
        assert_eq!((found.replace("/api2/json", ""), body), (line.to_owned(), form.as_str()));
        let has = |header: &str| head.to_ascii_lowercase().contains(header);
        let posts = !line.starts_with("DELETE");
        assert_eq!(has("\r\ncontent-type: application/x-www-form-urlencoded"), posts, "{head}");
        assert_eq!(has(&format!("\r\ncontent-length: {}", form.len())), posts, "{head}");
        assert!(has("\r\nauthorization: pveapitoken="));
    }
}

/// B19: whatever happens after the first byte, there is no second request.
#[tokio::test]
async fn a_change_that_was_sent_is_never_sent_again() {
    type Answer = fn() -> Reply;
    let cases: [(Answer, ErrorClass, Effect); 7] = [
        (|| Reply::Close, ErrorClass::NoAnswer, Effect::Unknown),
        (
            || Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec()),
            ErrorClass::NoAnswer,
            Effect::Unknown,
        ),
        (|| Reply::Stall, ErrorClass::Timeout, Effect::Unknown),
        (
            || Reply::answer("596 Connection timed out", "Connection: close\r\n", ""),
            ErrorClass::NodeUnreachable,
            Effect::Unknown,
        ),
        (
            || Reply::answer("595 No route to host", "Connection: close\r\n", ""),
            ErrorClass::NodeUnreachable,
            Effect::None,
        ),
        (
            || Reply::answer("502 Bad Gateway", "Connection: close\r\n", ""),
            ErrorClass::Server,
            Effect::Unknown,
        ),
        (|| Reply::json(r#"{"data":"no task id"}"#), ErrorClass::Decode, Effect::Unknown),
    ];
    for (answer, class, effect) in cases {
        let identity = Identity::self_signed(&["pve1"]);
        let server = Server::start(&identity, move |path| match path {
            "/cluster/status" => Reply::json(
                r#"{"data":[{"type":"node","name":"pve1","ip":"127.0.0.1","online":1,"local":1},
                    {"type":"node","name":"pve2","ip":"127.0.0.2","online":1,"local":0}]}"#,
            ),
            _ => answer(),
        })
        .await;
        let other = format!("127.0.0.2:{}", server.address.port());
        let other = Server::start_at(&other, &identity, |_| task()).await;
        let mut config = server.config(identity.trust());
        config.request_timeout = Duration::from_millis(300);
        let reader = Reader::new(config).unwrap();
        reader.cluster_status().await.unwrap();

        let error = Changer::new(&reader).start_guest(&node(), vmid(1)).await.unwrap_err();

        assert_eq!((error.class(), error.effect()), (class, effect), "{}", error.report());
        assert_eq!((server.requests().len(), other.requests().len()), (2, 0), "{class:?}");
    }
}

/// A17: nothing was sent, so another node may be asked.
#[tokio::test]
async fn a_change_goes_through_another_node_while_its_own_takes_no_connection() {
    let identity = Identity::self_signed(&["pve1"]);
    let server = Server::start(&identity, |path| match path {
        "/cluster/status" => Reply::json(
            r#"{"data":[{"type":"node","name":"pve1","ip":"127.0.0.1","online":1,"local":1},
                {"type":"node","name":"pve2","ip":"127.0.0.2","online":1,"local":0}]}"#,
        ),
        _ => task(),
    })
    .await;
    let reader = server.reader(identity.trust());
    reader.cluster_status().await.unwrap();

    let changer = Changer::new(&reader);
    changer.start_guest(&NodeName::new("pve2").unwrap(), vmid(1)).await.unwrap();

    assert!(server.requests()[1].starts_with("POST /api2/json/nodes/pve2/qemu/1/status/start"));
}

/// A connection that PVE closes while it is used again would leave open what happened.
#[tokio::test]
async fn a_change_has_a_connection_of_its_own() {
    let identity = Identity::self_signed(&["pve1"]);
    let server = Server::start(&identity, |path| match path {
        "/cluster/resources" => Reply::json(r#"{"data":[]}"#),
        _ => task(),
    })
    .await;
    let reader = server.reader(identity.trust());
    let changer = Changer::new(&reader);

    reader.resources().await.unwrap();
    reader.resources().await.unwrap();
    assert_eq!(server.connections(), 1, "questions share one");
    for _ in 0..3 {
        changer.start_guest(&node(), vmid(1)).await.unwrap();
    }

    assert_eq!(server.connections(), 4);
}

#[tokio::test]
async fn what_is_refused_is_told_in_pves_words_and_nothing_happened() {
    for (status, body, words) in [
        (
            "500 unable to create VM 510 - VM 510 already exists on node 'pve1'",
            r#"{"data":null,"message":"unable to create VM 510 - VM 510 already exists on node 'pve1'\n"}"#,
            "already exists on node 'pve1'",
        ),
        (
            "400 Parameter verification failed.",
            r#"{"data":null,"errors":{"name":"invalid format"},"message":"Parameter verification failed.\n"}"#,
            "(name: invalid format)",
        ),
        (
            "403 Permission check failed (/vms/505, VM.Allocate)",
            r#"{"data":null,"message":"Permission check failed (/vms/505, VM.Allocate)\n"}"#,
            "VM.Allocate",
        ),
    ] {
        let (server, changer) =
            pve(move |_| Reply::answer(status, "Connection: close\r\n", body)).await;

        let error =
            changer.create_guest(&node(), &NewGuest::new(vmid(510), "x")).await.unwrap_err();

        assert_eq!(error.effect(), Effect::None, "{status}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_deletion_that_was_done_at_once_has_no_task() {
    let (server, changer) = pve(|_| Reply::json(r#"{"data":null}"#)).await;
    let volume = "local:import/x.qcow2".parse().unwrap();

    assert_eq!(changer.delete_volume(&node(), &volume).await.unwrap(), None);
    assert_eq!(only_request(&server).1, "");
}

#[tokio::test]
async fn a_secret_url_shows_nowhere_but_in_its_request() {
    let (server, changer) = pve(|path| match path {
        "/nodes/pve1/storage/gone/download-url" => Reply::Close,
        _ => Reply::answer("500 storage 'x' does not exist", "Connection: close\r\n", ""),
    })
    .await;
    let order = download();
    let mut shown = vec![format!("{order:?} {} {changer:?}", order.url)];

    for name in ["gone", "x"] {
        let error = changer.download_url(&node(), &storage(name), &order).await.unwrap_err();
        shown.push(format!("{error} {error:?} {}", error.report()));
    }
    let bad = SecretUrl::new("ftp://user:secrettoken@x/secrettoken").unwrap_err();
    let none = SecretUrl::new("secrettoken").unwrap_err();
    shown.push(format!("{bad} {none:?}"));
    let shown = shown.join("\n");

    assert!(!shown.contains("secrettoken") && !shown.contains(SECRET), "{shown}");
    assert!(shown.contains("https://images.example.com/…"));
    assert!(server.requests().iter().all(|it| it.contains("secrettoken")), "but it was sent");
}

#[tokio::test]
async fn what_cannot_be_right_is_refused_before_a_request_exists() {
    let (server, changer) = pve(|_| task()).await;
    let mut wrong_name = download();
    wrong_name.filename = "d bad name!.qcow2".to_owned();
    let mut wrong_suffix = download();
    wrong_suffix.filename = "disk.img".to_owned();
    let mut wrong_sum = download();
    wrong_sum.sha512 = "c4".to_owned();
    let mut linked = GuestClone::linked(vmid(301));
    linked.storage = Some(storage("local"));
    let source = Volid::import(&storage("local2"), "x.qcow2").unwrap();
    let mut format = ImportDisk::new(storage("local"), source.clone());
    format.format = Some("raw,size=1".to_owned());
    let mut tags = ImportDisk::new(storage("local"), source);
    tags.tags = vec!["a;b".to_owned()];

    let mut errors = Vec::new();
    for order in [wrong_name, wrong_suffix, wrong_sum] {
        errors.push(changer.download_url(&node(), &storage("local"), &order).await.unwrap_err());
    }
    errors.push(changer.clone_guest(&node(), vmid(300), &linked).await.unwrap_err());
    for order in [format, tags] {
        errors.push(changer.import_disk(&node(), vmid(300), &order).await.unwrap_err());
    }
    errors.push(NewGuest::new(vmid(1), "x").bridge("vmbr0,firewall=1").unwrap_err());

    assert!(errors.iter().all(|it| matches!(it, PveError::Input { .. })), "{errors:?}");
    assert!(server.requests().is_empty());
}

#[test]
fn a_changer_shows_its_address_and_no_token() {
    let identity = Identity::self_signed(&["x"]);
    let config = ClientConfig::new("https://pve1:8006", token(), identity.trust()).unwrap();

    let shown = format!("{:?}", Changer::new(&Reader::new(config).unwrap()));

    assert_eq!(shown, "Changer { address: \"pve1:8006\", .. }");
}
