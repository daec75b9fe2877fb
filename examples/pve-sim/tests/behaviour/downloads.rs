//! `download-url` is wget: what it goes on after, and what it gives up at.

use std::time::{Duration, SystemTime};

use pve_sim::{Config, File, Sim};

use crate::client::get;
use crate::images::{Images, Manner, qcow2, sha512};
use crate::templates::{GIB, download, empty, ended, log, refused, upid};
use crate::{call, data, resources, wait_until};

const MIB: usize = 1 << 20;

/// Downloads once; returns how it ended and its log.
fn once(sim: &Sim, images: &Images, sum: &str) -> (String, Vec<String>) {
    let upid = download(sim, "pve1", images, "a.qcow2", sum);
    (ended(sim, &upid), log(sim, &upid))
}

fn has(log: &[String], part: &str) -> bool {
    log.iter().any(|line| line.contains(part))
}

#[test]
fn a_broken_connection_is_taken_up_where_it_ended() {
    let (sim, image) = (empty(), qcow2(40 * MIB, GIB));
    let images = Images::serve(image.clone(), Manner::Drop { after: 10_000_000, times: 2 });

    let (end, log) = once(&sim, &images, &sha512(&image));

    assert_eq!(end, "OK", "{log:#?}");
    assert_eq!(images.asked.lock().unwrap().from, [0, 10_000_000, 20_000_000]);
    assert!(has(&log, "Connection closed at byte 10000000. Retrying."));
    assert!(has(&log, "(try: 2)"));
    assert!(has(&log, "awaiting response... 206 Partial Content"));
    assert_eq!(sim.counters().downloaded_by("pve1"), 40 * MIB as u64);
}

#[test]
fn a_server_without_ranges_is_asked_from_the_start() {
    let (sim, image) = (empty(), qcow2(3 * MIB, GIB));
    let manner = Manner::DropWithoutRanges { after: 100_000, times: 1 };
    for node in ["pve1", "pve2"] {
        sim.set_free_space(node, "local", GIB);
    }
    let images = Images::serve(image.clone(), manner);

    let (end, log) = once(&sim, &images, &sha512(&image));

    assert_eq!(end, "OK", "{log:#?}");
    assert_eq!(sim.files("pve1")[0].size, 3 * MIB as u64);
    // What lies there is in use, on the node that has it.
    let used = |node: &str| resources(&sim)[&format!("storage/{node}/local")]["disk"].clone();
    assert_eq!(used("pve1").as_u64(), used("pve2").as_u64().map(|used| used + 3 * MIB as u64));
    assert_eq!(used("pve1"), data(&sim, "/nodes/pve1/storage/local/status")["used"]);
}

#[test]
fn a_connection_that_always_breaks_is_given_up_after_twenty_tries() {
    let (sim, image) = (empty(), qcow2(3 * MIB, GIB));
    let images = Images::serve(image.clone(), Manner::Drop { after: 0, times: usize::MAX });

    let (end, log) = once(&sim, &images, &sha512(&image));

    assert_eq!(end, "download failed: exit code 4");
    assert_eq!(images.asked.lock().unwrap().from.len(), 20);
    assert!(has(&log, "Giving up."));
    assert_eq!(sim.leftovers(), Vec::<String>::new());
}

#[test]
fn an_error_of_the_server_ends_it_at_once_and_its_number_is_in_the_log_only() {
    for (code, reason) in [(403, "Forbidden"), (404, "Not Found"), (429, "Slow"), (503, "Busy")] {
        let sim = empty();
        let images = Images::serve(Vec::new(), Manner::Status(code, reason));

        let (end, log) = once(&sim, &images, &sha512(b""));

        assert_eq!(end, "download failed: exit code 8");
        assert!(has(&log, &format!("ERROR {code}: {reason}.")), "{log:#?}");
        assert_eq!(images.asked.lock().unwrap().from.len(), 1);
        let url = format!("/nodes/pve1/query-url-metadata?url={}", images.url());
        let reply = get(&sim, "pve1", &url).unwrap();
        assert_eq!(reply.reason, format!("invalid server response: '{code} {reason}'"));
        assert_eq!(sim.all_files(), []);
    }
}

#[test]
fn what_does_not_match_its_sum_or_is_no_image_does_not_stay() {
    let sim = empty();
    let junk = Images::serve(b"junk".to_vec(), Manner::Good);

    let (end, _) = once(&sim, &junk, &sha512(b"other"));
    assert!(end.starts_with("checksum mismatch: got '"), "{end}");
    let (end, _) = once(&sim, &junk, &sha512(b"junk"));
    assert!(end.starts_with("failed to verify file: qemu-img: Could not open '"), "{end}");
    assert!(end.ends_with("Image is not in qcow2 format"), "{end}");

    assert_eq!(sim.all_files(), []);
}

#[test]
fn a_file_that_is_there_is_compared_and_never_replaced() {
    let sim = empty();
    sim.put_file(File::new("local", Some("pve1"), "a.qcow2", b"something"));
    let images = Images::serve(Vec::new(), Manner::Status(404, "Gone"));

    let (end, log) = once(&sim, &images, &sha512(b"something"));
    assert_eq!(end, "OK");
    assert!(has(&log, "OK, got correct file already, no need to download"));
    let (end, _) = once(&sim, &images, &sha512(b"other"));
    assert!(end.starts_with("checksum mismatch") && end.ends_with(", aborting"), "{end}");
    let path = "/nodes/pve1/storage/local/download-url";
    let url = images.url();
    let form = [("url", url.as_str()), ("content", "import"), ("filename", "a.qcow2")];
    let without = upid(&call(&sim, "pve1", "POST", path, &form).unwrap());
    assert_eq!(
        ended(&sim, &without),
        "refusing to override existing file '/var/lib/vz/import/a.qcow2'"
    );
    assert_eq!(images.asked.lock().unwrap().from.len(), 0);
}

#[test]
fn a_full_disk_ends_it_and_gives_the_space_back() {
    let (sim, image) = (empty(), qcow2(3 * MIB, GIB));
    sim.set_free_space("pve1", "local", MIB as u64);
    let images = Images::serve(image.clone(), Manner::Good);

    let (end, _) = once(&sim, &images, &sha512(&image));

    assert!(end.starts_with("download failed: Cannot write to '"), "{end}");
    assert!(end.ends_with("(No space left on device)."), "{end}");
    let status = data(&sim, "/nodes/pve1/storage/local/status");
    assert_eq!(status["avail"], MIB as u64);
    assert_eq!(sim.leftovers(), Vec::<String>::new());
}

#[test]
fn a_killed_download_leaves_what_no_call_can_see_or_delete_and_a_stopped_one_nothing() {
    let (sim, image) = (empty(), qcow2(3 * MIB, GIB));
    let images = Images::serve(image.clone(), Manner::Good);
    sim.kill_next_task("download", std::time::Duration::ZERO);

    let (end, _) = once(&sim, &images, &sha512(&image));
    assert_eq!(end, "unexpected status");
    sim.hang_next_task("download");
    let hanging = download(&sim, "pve1", &images, "b.qcow2", &sha512(&image));
    wait_until(|| images.asked.lock().unwrap().from.len() == 2);
    call(&sim, "pve1", "DELETE", &crate::templates::task_path(&hanging), &[]).unwrap();
    assert_eq!(ended(&sim, &hanging), "download failed: received interrupt");

    assert_eq!(data(&sim, "/nodes/pve1/storage/local/content"), serde_json::json!([]));
    let [left] = sim.files("pve1").try_into().expect("one file");
    assert!(left.name.starts_with("a.qcow2.tmp_dwnl."), "{}", left.name);
    assert_eq!(sim.leftovers().len(), 1);
    let path = format!("/nodes/pve1/storage/local/content/local:import/{}", left.name);
    let text = format!("unable to parse directory volume name 'import/{}'", left.name);
    assert_eq!(refused(&sim, "DELETE", &path, &[]), (500, text));
}

#[test]
fn two_downloads_of_one_name_both_run_and_both_succeed() {
    let (sim, image) = (empty(), qcow2(3 * MIB, GIB));
    let images = Images::serve(image.clone(), Manner::Good);

    let both: Vec<String> =
        (0..2).map(|_| download(&sim, "pve1", &images, "a.qcow2", &sha512(&image))).collect();

    // The second may begin so late that it finds what the first has brought.
    for upid in both {
        assert_eq!(ended(&sim, &upid), "OK");
    }
    let [file] = sim.files("pve1").try_into().expect("one file");
    assert_eq!((file.size, file.temporary), (3 * MIB as u64, false));
}

#[test]
fn a_node_downloads_no_faster_than_its_link() {
    let config = Config::quick().guests(0).node_link(4 * MIB as u64);
    let (sim, image) = (Sim::start(config).unwrap(), qcow2(MIB, GIB));
    let images = Images::serve(image.clone(), Manner::Good);
    let began = SystemTime::now();

    let (end, _) = once(&sim, &images, &sha512(&image));

    assert_eq!(end, "OK");
    assert!(began.elapsed().unwrap() >= Duration::from_millis(250));
    assert_eq!(sim.counters().most_downloads, 1);
}

#[test]
fn https_needs_a_trusted_certificate_or_none_at_all() {
    let server = empty();
    let trusting = Config { trusted: vec![server.ca_pem()], ..Config::quick().guests(0) };
    let (strict, trusting) = (empty(), Sim::start(trusting).unwrap());
    let url = format!("{}/api2/json/version", server.url());
    let path = "/nodes/pve1/storage/local/download-url";
    let end = |sim: &Sim, verify: &str| {
        let form = [
            ("url", url.as_str()),
            ("content", "import"),
            ("filename", "a.qcow2"),
            ("verify-certificates", verify),
        ];
        ended(sim, &upid(&call(sim, "pve1", "POST", path, &form).unwrap()))
    };

    assert_eq!(
        end(&strict, "1"),
        "download failed: ERROR: The certificate of '127.0.0.1' doesn't have a known issuer."
    );
    // Whoever gets through TLS is told 401, which only the log repeats.
    let server_says_no = "download failed: exit code 8";
    assert_eq!(end(&strict, "0"), server_says_no);
    assert_eq!(end(&trusting, "1"), server_says_no);
}

#[test]
fn names_and_contents_are_refused_as_the_version_refuses_them() {
    let path = "/nodes/pve1/storage/local/download-url";
    let form = |name| [("url", "http://127.0.0.1:9/x"), ("content", "import"), ("filename", name)];
    let sim = empty();
    let old = Config::quick().guests(0).pve_version("8.3.0");
    let old = Sim::start(old).unwrap();

    let bad = (400, "Parameter verification failed.".to_owned());
    assert_eq!(refused(&sim, "POST", path, &form("a.img")), bad);
    let reply = call(&old, "pve1", "POST", path, &form("a.qcow2")).unwrap();
    assert_eq!(reply.json()["errors"]["filename"], "invalid filename or wrong extension");
    let odd = upid(&call(&sim, "pve1", "POST", path, &form("a b!.qcow2")).unwrap());
    assert!(odd.contains(":download:a_b_.qcow2:"), "{odd}");
    assert_eq!(
        ended(&sim, &odd),
        "download failed: Connecting to 127.0.0.1:9... failed: Connection refused."
    );
    sim.set_content("local", &["iso"]);
    let text = "storage 'local' is not configured for content-type 'import'".to_owned();
    assert_eq!(refused(&sim, "POST", path, &form("a.qcow2")), (500, text));
}
