//! Uploads: PVE's reader of forms has ways of its own.

use std::io::ErrorKind;
use std::time::Duration;

use pve_sim::{Config, Sim};

use crate::client::Connection;
use crate::images::{qcow2, sha512};
use crate::templates::{GIB, empty, ended, log};

const PATH: &str = "/nodes/pve1/storage/local/upload";

/// A form with these fields and this file, in the order that PVE wants.
fn form(fields: &[(&str, &str)], name: &str, file: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in fields {
        let field =
            format!("--XB\r\nContent-Disposition: form-data; name=\"{key}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(field.as_bytes());
    }
    let head = format!(
        "--XB\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"{name}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(file);
    body.extend_from_slice(b"\r\n--XB--\r\n");
    body
}

fn head(sim: &Sim, path: &str, more: &str) -> Vec<u8> {
    format!(
        "POST /api2/json{path} HTTP/1.1\r\nHost: x\r\nAuthorization: PVEAPIToken={}={}\r\n\
         Content-Type: multipart/form-data; boundary=XB\r\n{more}\r\n",
        sim.user_id(),
        sim.token()
    )
    .into_bytes()
}

/// Sends a whole upload; status, reason, and the UPID if there is one.
fn upload(sim: &Sim, node: &str, path: &str, body: &[u8]) -> (u16, String, String) {
    let mut connection = Connection::open(sim, node).unwrap();
    let mut request = head(sim, path, &format!("Content-Length: {}\r\n", body.len()));
    request.extend_from_slice(body);
    connection.send_bytes(&request).unwrap();
    let reply = connection.reply().unwrap();
    let upid = reply.json()["data"].as_str().unwrap_or_default().to_owned();
    (reply.status, reply.reason, upid)
}

#[test]
fn an_image_arrives_is_checked_and_lies_there() {
    let (sim, image) = (empty(), qcow2(2_000_000, GIB));
    let sum = sha512(&image);
    let fields = [("content", "import"), ("checksum-algorithm", "sha512"), ("checksum", &sum)];

    let (status, reason, upid) = upload(&sim, "pve1", PATH, &form(&fields, "u.qcow2", &image));

    assert_eq!(status, 200, "{reason}");
    assert!(upid.contains(":imgcopy::"), "its task has no id: {upid}");
    assert_eq!(ended(&sim, &upid), "OK", "{:#?}", log(&sim, &upid));
    assert!(log(&sim, &upid).contains(&"calculating checksum...OK, checksum verified".to_owned()));
    let [file] = sim.files("pve1").try_into().expect("one file");
    assert_eq!((file.size, file.sha512.as_str()), (2_000_000, sum.as_str()));
    assert_eq!(file.virtual_size(), GIB);
}

#[test]
fn a_wrong_sum_and_a_wrong_format_leave_nothing() {
    let (sim, image) = (empty(), qcow2(1000, GIB));
    let zeros = "0".repeat(128);
    let fields = [("content", "import"), ("checksum-algorithm", "sha512"), ("checksum", &zeros)];

    let (_, _, upid) = upload(&sim, "pve1", PATH, &form(&fields, "u.qcow2", &image));
    let end = ended(&sim, &upid);
    assert!(end.starts_with("checksum mismatch: got '") && end.ends_with(&format!("'{zeros}'")));
    let (_, _, upid) = upload(&sim, "pve1", PATH, &form(&fields[..1], "u.qcow2", b"junk"));
    let end = ended(&sim, &upid);
    assert!(end.ends_with("Image is not in qcow2 format"), "{end}");

    assert_eq!(sim.all_files(), []);
}

/// 44 bytes of header in front of the file, as recorded in 1636-1645.
#[test]
fn the_header_of_the_file_in_two_writes_becomes_part_of_it() {
    let sim = empty();
    let body = form(&[("content", "iso")], "u.iso", b"data");
    let cut = body.windows(6).position(|six| six == b"u.iso\"").unwrap() + 6;
    let mut connection = Connection::open(&sim, "pve1").unwrap();

    let mut first = head(&sim, PATH, &format!("Content-Length: {}\r\n", body.len()));
    first.extend_from_slice(&body[..cut]);
    connection.send_bytes(&first).unwrap();
    crate::pause(Duration::from_millis(300));
    connection.send_bytes(&body[cut..]).unwrap();

    let upid = connection.reply().unwrap().json()["data"].as_str().unwrap().to_owned();
    assert_eq!(ended(&sim, &upid), "OK");
    assert_eq!(sim.files("pve1")[0].size, 44 + 4);
}

#[test]
fn fields_have_one_order_and_the_file_one_name() {
    let sim = empty();
    let send = |body: &[u8]| {
        let (status, reason, _) = upload(&sim, "pve1", PATH, body);
        (status, reason)
    };
    let late = form(&[("checksum-algorithm", "sha512"), ("content", "iso")], "u.iso", b"x");
    let unknown = form(&[("content", "iso"), ("foo", "bar")], "u.iso", b"x");
    let named = form(&[("content", "iso")], "u.iso", b"x");
    let named = String::from_utf8(named).unwrap().replace("\"filename\"", "\"file\"");
    let bare = form(&[], "u.iso", b"x");
    let wrong_end = form(&[("content", "import")], "u.img", b"x");
    let images = form(&[("content", "images")], "u.qcow2", b"x");

    assert_eq!(send(&late), (400, "Bad Request".to_owned()));
    assert_eq!(send(&unknown), (400, "Bad Request".to_owned()));
    let (status, reason) = send(named.as_bytes());
    assert_eq!(status, 500);
    assert!(reason.starts_with("wrong field name 'file' for file upload"), "{reason}");
    for body in [bare, wrong_end, images] {
        assert_eq!(send(&body), (400, "Parameter verification failed.".to_owned()));
    }
    // Parameters may stand in the query instead.
    let (status, _, upid) =
        upload(&sim, "pve1", &format!("{PATH}?content=iso"), &form(&[], "q.iso", b"x"));
    assert_eq!((status, ended(&sim, &upid).as_str()), (200, "OK"));
}

#[test]
fn lengths_are_needed_and_pieces_are_not_taken() {
    let sim = empty();
    let mut chunked = Connection::open(&sim, "pve1").unwrap();
    let mut request = head(&sim, PATH, "Transfer-Encoding: chunked\r\n");
    request.extend_from_slice(b"5\r\nabcde\r\n0\r\n\r\n");
    chunked.send_bytes(&request).unwrap();
    let reply = chunked.reply().unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (501, reply.reason.as_bytes()));
    assert_eq!(reply.header("Content-Type"), None);

    let mut open = Connection::open(&sim, "pve1").unwrap();
    open.send_bytes(&head(&sim, PATH, "")).unwrap();
    assert!(open.ends(), "no answer without a length");
}

#[test]
fn a_silent_upload_is_cut_off_without_an_answer() {
    let config =
        Config { upload_patience: Duration::from_millis(100), ..Config::quick().guests(0) };
    let sim = Sim::start(config).unwrap();
    let mut connection = Connection::open(&sim, "pve1").unwrap();

    connection.send_bytes(&head(&sim, PATH, "Content-Length: 100000\r\n")).unwrap();

    let error = connection.reply().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset));
    assert_eq!(sim.all_files(), []);
}

#[test]
fn privileges_are_looked_at_before_the_body_comes() {
    let sim = empty();
    sim.withdraw("/storage/local", &["Datastore.AllocateTemplate"]);
    let mut connection = Connection::open(&sim, "pve1").unwrap();

    connection.send_bytes(&head(&sim, PATH, "Content-Length: 5000000\r\n")).unwrap();

    let reply = connection.reply().unwrap();
    let text = "Permission check failed (/storage/local, Datastore.AllocateTemplate)";
    assert_eq!((reply.status, reply.reason.as_str(), reply.body.len()), (403, text, 0));
}

#[test]
fn the_node_that_took_a_file_does_the_work_for_another() {
    let sim = empty();
    let body = form(&[("content", "iso")], "u.iso", b"data");

    let (_, _, upid) = upload(&sim, "pve1", "/nodes/pve2/storage/local/upload", &body);

    assert!(upid.starts_with("UPID:pve1:"), "{upid}");
    assert_eq!(ended(&sim, &upid), "OK");
    assert!(log(&sim, &upid).iter().any(|line| line.contains("HostKeyAlias=pve2")));
    assert_eq!(sim.files("pve2").len(), 1);
    assert_eq!(sim.files("pve1").len(), 0);
}
