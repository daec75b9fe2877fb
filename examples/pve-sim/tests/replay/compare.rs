//! Compares an answer with a recorded one: keys and types always, values where the cluster's
//! state decides them.

use serde_json::Value;

/// Keys whose values move, or belong to the recorded machines (certificates, addresses).
const FREE: [&str; 29] = [
    "avail",
    "cgroup-mode",
    "cpu",
    "digest",
    "disk",
    "diskread",
    "diskwrite",
    "fingerprint",
    "ip",
    "issuer",
    "mem",
    "memhost",
    "netin",
    "netout",
    "notafter",
    "notbefore",
    "pem",
    "public-key-bits",
    "public-key-type",
    "pressurecpusome",
    "pressureiosome",
    "san",
    "ssl_fingerprint",
    "subject",
    "uptime",
    "used",
    "used_fraction",
    "content-length",
    "vmgenid",
];

/// Lists whose elements are named by one of these.
const NAMES: [&str; 7] = ["upid", "id", "volid", "vmid", "storage", "filename", "n"];

/// What differs, a line each. `free` compares keys and types only.
pub(crate) fn differences(expected: &Value, actual: &Value, free: bool) -> Vec<String> {
    let mut found = Vec::new();
    compare("", expected, actual, free, &mut found);
    found
}

fn compare(at: &str, expected: &Value, actual: &Value, free: bool, found: &mut Vec<String>) {
    match (expected, actual) {
        (Value::Object(want), Value::Object(got)) => {
            for (key, want) in want {
                let at = format!("{at}/{key}");
                match got.get(key) {
                    None => found.push(format!("{at} is missing")),
                    Some(got) if key == "content" => contents(&at, want, got, found),
                    Some(got) => {
                        // A guest's process number is the simulator's own; a task's is not.
                        let process = key == "pid" && !expected["vmid"].is_null();
                        let free = free || process || FREE.contains(&key.as_str());
                        compare(&at, want, got, free, found);
                    }
                }
            }
            for key in got.keys().filter(|key| !want.contains_key(*key)) {
                found.push(format!("{at}/{key} is too much"));
            }
        }
        (Value::Array(want), Value::Array(got)) => {
            if want.len() != got.len() && !free {
                found.push(format!("{at} has {} elements, not {}", got.len(), want.len()));
            }
            for (n, want) in want.iter().enumerate() {
                let name = NAMES.iter().find(|name| !want[**name].is_null());
                let same = match name {
                    Some(name) => got.iter().find(|got| got[*name] == want[*name]),
                    None => got.get(n).or(got.first()),
                };
                let label = name.map_or(n.to_string(), |name| want[*name].to_string());
                match same {
                    Some(got) => compare(&format!("{at}/{label}"), want, got, free, found),
                    None if free => {}
                    None => found.push(format!("{at}/{label} is missing")),
                }
            }
        }
        _ if kind(expected) != kind(actual) => {
            found.push(format!("{at} is {actual}, not {expected}"));
        }
        _ if !free && expected != actual => {
            found.push(format!("{at} is {actual}, not {expected}"));
        }
        _ => {}
    }
}

/// Content types come in random order.
fn contents(at: &str, want: &Value, got: &Value, found: &mut Vec<String>) {
    let sorted = |value: &Value| {
        let mut parts: Vec<&str> = value.as_str().unwrap_or_default().split(',').collect();
        parts.sort_unstable();
        parts.join(",")
    };
    if sorted(want) != sorted(got) {
        found.push(format!("{at} is {got}, not {want}"));
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn moving_numbers_may_differ_and_types_may_not() {
        let want = json!({"data": [{"id": "qemu/1", "cpu": 0.5, "name": "a"}]});

        let same = json!({"data": [{"id": "qemu/1", "cpu": 0, "name": "a"}]});
        let text = json!({"data": [{"id": "qemu/1", "cpu": "0", "name": "a"}]});
        let more = json!({"data": [{"id": "qemu/1", "cpu": 0, "name": "a", "x": 1}]});
        let name = json!({"data": [{"id": "qemu/1", "cpu": 0, "name": "b"}]});

        assert!(differences(&want, &same, false).is_empty());
        for wrong in [text, more, name] {
            assert_eq!(differences(&want, &wrong, false).len(), 1, "{wrong}");
        }
    }
}
