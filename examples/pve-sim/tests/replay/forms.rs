//! Uploads as they were on the wire: the forms that PVE takes, and those that it does not.

use pve_sim::{Config, Sim, Storage, Token};

use crate::client::Connection;
use crate::recording::raw;

const SECRET: &str = "00000000-0000-0000-0000-000000000000";

#[test]
fn forms_are_taken_and_refused_as_recorded() {
    for file in [
        "498_mp_empty_file.json",
        "499_mp_no_content_type_in_file_part.json",
        "500_mp_field_with_content_type.json",
        "501_mp_field_named_file.json",
        "502_mp_no_closing_boundary.json",
        "503_mp_header_lowercase.json",
        "504_mp_ct_before_cd.json",
        "505_mp_part_content_length_header.json",
        "507_mp_quoted_boundary.json",
        "662_mp_checksum_before_algorithm_small.json",
        "663_mp_unknown_field_before_file.json",
        "664_mp_field_after_file.json",
        "665_mp_lf_only.json",
        "666_mp_filename_with_quote.json",
        "667_mp_tmpfilename.json",
    ] {
        let recording = raw(file);
        let text = |key: &str| recording[key].as_str().expect("raw recordings are text");
        let sim = Sim::start(Config::quick().guests(0).standalone()).unwrap();
        sim.put_token(Token::new("root@pam!full", SECRET).with_everything());
        sim.put_storage(Storage::new("local", "dir", &["iso", "import"]));
        let mut connection = Connection::open(&sim, "pve1").unwrap();

        connection.send(text("request_raw")).unwrap();

        let reply = connection.reply().unwrap_or_else(|error| panic!("{file}: {error}"));
        let (head, body) = text("response_raw").split_once("\r\n\r\n").expect("a head");
        let line = head.lines().next().unwrap();
        assert_eq!(format!("HTTP/1.1 {} {}", reply.status, reply.reason), line, "{file}");
        for name in ["Connection", "Content-Type"] {
            let start = format!("{name}: ");
            let want = head.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned);
            assert_eq!(reply.header(name), want, "{file}: {name}");
        }
        let got = String::from_utf8(reply.body.clone()).unwrap();
        match serde_json::from_str::<serde_json::Value>(body) {
            Ok(want) if want["data"].is_string() => {
                assert!(reply.json()["data"].as_str().unwrap().contains(":imgcopy::"), "{file}");
            }
            Ok(want) => assert_eq!(reply.json(), want, "{file}"),
            Err(_) => assert_eq!(got, body, "{file}"),
        }
    }
}
