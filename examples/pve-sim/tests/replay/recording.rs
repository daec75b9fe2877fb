//! Recordings of a real PVE 9.2.11, as they lie in `tests/recorded`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

/// One request and its answer.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) file: String,
    /// The number in front of the file's name: the order of recording.
    pub(crate) number: u32,
    pub(crate) method: String,
    /// Path and query, without `/api2/json`.
    pub(crate) target: String,
    /// `PVEAPIToken=…`, `Bearer …`, or `ticket` for a login with a password.
    pub(crate) auth: Option<String>,
    pub(crate) status: u16,
    pub(crate) reason: String,
    /// Values of `Connection`, joined by commas.
    pub(crate) connection: String,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Value,
    /// The parameters of its body.
    pub(crate) form: Vec<(String, String)>,
}

impl Recording {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The value of a parameter in the query.
    pub(crate) fn param(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?')?.1;
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// Parts of the path, decoded.
    pub(crate) fn parts(&self) -> Vec<String> {
        let cut = self.path().split('/').filter(|part| !part.is_empty());
        cut.map(|part| {
            let plus_kept = format!("p={}", part.replace('+', "%2B"));
            let mut pairs = url::form_urlencoded::parse(plus_kept.as_bytes());
            pairs.next().map(|(_, value)| value.into_owned()).unwrap_or_default()
        })
        .collect()
    }

    /// The rows of a list.
    pub(crate) fn rows(&self) -> &[Value] {
        self.body["data"].as_array().map_or(&[], Vec::as_slice)
    }

    /// `user@realm!tokenid` of the caller; a login counts as root's token.
    pub(crate) fn caller(&self) -> &str {
        let auth = self.auth.as_deref().unwrap_or_default();
        match auth.strip_prefix("PVEAPIToken=") {
            Some(token) => token.rsplit_once('=').map_or(token, |(id, _)| id),
            None => "root@pam!full",
        }
    }
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// A recording of raw bytes.
pub(crate) fn raw(file: &str) -> Value {
    read("recorded", file)
}

fn read(name: &str, file: &str) -> Value {
    let text = fs::read_to_string(folder(name).join(file)).expect("the recording is there");
    serde_json::from_str(&text).expect("recordings are JSON")
}

/// All recordings that have a request and an answer, in order.
pub(crate) fn all() -> Vec<Recording> {
    in_folder("recorded")
}

/// The same of another folder.
pub(crate) fn in_folder(name: &str) -> Vec<Recording> {
    let mut found: BTreeMap<u32, Recording> = BTreeMap::new();
    for entry in fs::read_dir(folder(name)).expect("the folder is there") {
        let file = entry.expect("readable").file_name().into_string().expect("ASCII names");
        let whole = read(name, &file);
        if whole.get("request").is_none() {
            continue; // Raw bytes; tests of their own compare those.
        }
        let number = file.split('_').next().and_then(|n| n.parse().ok()).expect("a number");
        let (request, response) = (&whole["request"], &whole["response"]);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let headers = response["headers"].as_array().expect("headers");
        let header = |name: &str| -> Vec<String> {
            headers
                .iter()
                .filter(|pair| pair[0].as_str() == Some(name))
                .filter_map(|pair| text(&pair[1]))
                .collect()
        };
        let path = text(&request["path"]).expect("a path");
        let recording = Recording {
            number,
            method: text(&request["method"]).expect("a method"),
            target: path.trim_start_matches("/api2/json").to_owned(),
            auth: text(&request["auth"]),
            status: response["status"].as_u64().and_then(|n| n.try_into().ok()).expect("a status"),
            reason: text(&response["reason"]).expect("a reason"),
            connection: header("Connection").join(","),
            content_type: header("Content-Type").pop(),
            body: response["body"].clone(),
            form: form(&request["body"]),
            file,
        };
        found.insert(number, recording);
    }
    found.into_values().collect()
}

fn form(body: &Value) -> Vec<(String, String)> {
    let text = body.as_str().unwrap_or_default();
    url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}
