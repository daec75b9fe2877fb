//! A tour of every operation of the API, with `curl` as a reader types it, against a server over a
//! small lab. What comes back is what README.md and the OpenAPI document show, so neither can show
//! what is not so.
//!
//! `UPDATE_TOUR=1 cargo nextest run -p pve-api tour` writes both anew; the OpenAPI document takes
//! its examples from there when it is next compiled.

mod shown;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use schema::Conn;
use schema::token::{self, NewToken, Scope};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::templates::{Lab, qcow2};
pub(crate) use steps::furnish;
use steps::{STEPS, Step};

/// What a command printed.
struct Seen {
    step: &'static Step,
    status: u16,
    text: String,
}

/// The commands, run one after the other as one reader would.
async fn walk() -> Vec<Seen> {
    let lab = Lab::one("tour", |settings| settings.auth = pve_api::Auth::Tokens).await;
    furnish(&lab).await;
    let new = NewToken { name: "you", scope: Scope::Admin, expires_at: None, creator: None };
    let make = async |conn: &mut Conn| token::create(conn, &new).await;
    let token = lab.api.database.db.write(make).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("debian-13.qcow2"), qcow2()).unwrap();

    let Server { address, .. } = &Server::start(&lab).await;

    let mut seen = Vec::new();
    let mut file = String::new();
    for step in STEPS {
        for sql in step.before {
            lab.api.sql(sql).await;
        }
        let script =
            format!("curl() {{ command curl -sS -w '\\n%{{http_code}}' \"$@\"; }}\n{}", step.curl);
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).current_dir(folder.path()).stdin(Stdio::null());
        bash.env("NO_PROXY", "*").env("TOKEN", token.expose());
        bash.env("API", format!("http://{address}/api/v1")).env("FILE", &file);
        let output = bash.output().await.expect("there is a bash");
        let text = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let (text, status) =
            text.rsplit_once('\n').unwrap_or_else(|| panic!("{}: {said}", step.curl));
        let status = status.parse().expect("curl says a number");
        if let Some(path) = header(text, "location") {
            file = format!("http://{address}{path}");
        }
        seen.push(Seen { step, status, text: steady(text, *address) });
    }
    seen
}

/// The API of a lab on a port. Dropped, it ends.
pub(crate) struct Server {
    pub address: SocketAddr,
    _serving: JoinSet<std::io::Result<()>>,
}

impl Server {
    pub(crate) async fn start(lab: &Lab) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let callers = lab.router.clone().into_make_service_with_connect_info::<SocketAddr>();
        let mut serving = JoinSet::new();
        serving.spawn(axum::serve(listener, callers).into_future());
        Self { address, _serving: serving }
    }
}

/// The value of a header that curl printed.
fn header<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    let mut values = lines.filter(|(there, _)| there.eq_ignore_ascii_case(name));
    values.next().map(|(_, value)| value.trim_end())
}

/// Headers as curl prints them, but for those that every answer has.
fn telling(text: &str) -> String {
    const TELLING: [&str; 5] = ["location", "tus-", "upload-", "allow", "retry-after"];
    let tells = |line: &&str| {
        let name = line.split(": ").next().unwrap_or_default().to_ascii_lowercase();
        line.starts_with("HTTP/") || TELLING.iter().any(|telling| name.starts_with(telling))
    };
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let head: Vec<_> = head.lines().filter(tells).collect();
    format!("{}\n{body}", head.join("\n"))
}

/// Without what is another at each run: times, tokens, the port.
fn steady(text: &str, address: SocketAddr) -> String {
    let text = text.replace(&address.to_string(), "localhost:8080");
    let text = if text.starts_with("HTTP/") { telling(&text) } else { text };
    let text = replaced(&text, |rest| {
        RANDOM.iter().find_map(|(before, digits, instead)| {
            let drawn = rest.strip_prefix(before)?;
            let hex = drawn.bytes().take_while(u8::is_ascii_hexdigit).count();
            (hex == *digits).then_some((before.len() + digits, *instead))
        })
    });
    let text = match header(&text, "upload-expires") {
        Some(date) => text.replace(date, "Sat, 03 Jan 2026 03:04:05 GMT"),
        None => text,
    };
    let text = replaced(&text, |rest| {
        // 2026-01-02T03:04:05.678Z
        let shape = b"0000-00-00T00:00:00.000Z";
        let fits = rest.len() >= shape.len()
            && rest.bytes().zip(shape).all(|(byte, like)| {
                if *like == b'0' { byte.is_ascii_digit() } else { byte == *like }
            });
        // Those that never change are what they are.
        let fixed = rest.starts_with("2025-") || rest.starts_with("2999-");
        (fits && !fixed).then_some((shape.len(), "2026-01-02T03:04:05.678Z"))
    });
    replaced(&text, |rest| {
        let token = rest.strip_prefix("pveo_")?;
        let length = token
            .bytes()
            .take_while(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
            .count();
        (length >= 20).then_some((5 + length, "pveo_…"))
    })
}

/// What stands before hexadecimal digits that are drawn, how many they are, and what is shown.
const RANDOM: [(&str, usize, &str); 3] = [
    ("/files/", 32, "/files/0f5c3a1e9b7d4c2880a1b2c3d4e5f607"),
    ("\"id\":\"", 32, "\"id\":\"0f5c3a1e9b7d4c2880a1b2c3d4e5f607"),
    ("\"request_id\":\"", 16, "\"request_id\":\"1f0e2d3c4b5a6978"),
];

/// `text` with whatever `find` recognises at a place put otherwise.
fn replaced(text: &str, find: impl Fn(&str) -> Option<(usize, &'static str)>) -> String {
    let mut made = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        if let Some((length, instead)) = find(rest) {
            made.push_str(instead);
            rest = &rest[length..];
        } else {
            made.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    made
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Holds a file against what it should be, or writes it.
fn hold(file: &Path, there: &str, wanted: &str, broken: &mut Vec<String>) {
    if there == wanted {
        return;
    }
    if std::env::var_os("UPDATE_TOUR").is_some() {
        std::fs::write(file, wanted).unwrap();
    } else {
        let differs = there.lines().zip(wanted.lines()).find(|(a, b)| a != b);
        broken.push(format!("{}: {differs:#?}", file.display()));
    }
}

// C01
#[tokio::test]
async fn every_operation_answers_what_readme_and_description_show() {
    let seen = walk().await;
    for it in &seen {
        assert_eq!(it.status, it.step.status, "{}\n{}", it.step.curl, it.text);
    }

    let mut broken = Vec::new();
    let examples: BTreeMap<_, _> =
        seen.iter().map(|it| (it.step.operation, shown::example(it))).collect();
    let file = home().join("src/openapi/examples.json");
    let wanted = format!("{:#}\n", json!(examples));
    hold(&file, &std::fs::read_to_string(&file).unwrap_or_default(), &wanted, &mut broken);
    let file = home().join("../README.md");
    let readme = std::fs::read_to_string(&file).unwrap();
    hold(&file, &readme, &shown::readme(&readme, &seen), &mut broken);
    assert!(broken.is_empty(), "{broken:#?}\nUPDATE_TOUR=1 writes them anew");
}

#[test]
fn the_tour_comes_by_every_operation_of_the_description() {
    let document = std::fs::read_to_string(home().join("openapi.json")).unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let there: BTreeSet<_> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap())
        .collect();
    let visited: BTreeSet<_> = STEPS.iter().map(|step| step.operation).collect();
    assert_eq!(visited, there);
}
