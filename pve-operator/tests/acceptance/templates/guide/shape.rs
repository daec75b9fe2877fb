//! Compares an answer with the one that the guide shows.
//!
//! What must agree: keys, nesting, types, and every word, such as statuses, names and messages. Ids,
//! sizes and other numbers may be others (but `code`), and so may times and the type of a storage.

use serde_json::Value;

/// Words that differ from one installation or moment to another.
const ASIDE: [&str; 2] = ["storage_type", "sync_start_time"];

/// What our answers have beside the guide's keys; anything else is one too many.
const OURS: [&str; 26] = [
    // Of a template, and of its upload.
    "status",
    "blocked_reason",
    "gmt_create",
    "gmt_modified",
    "creator",
    "modifier",
    "version",
    "storage_type",
    "file_format",
    "virtual_size",
    "sha256",
    "import_node",
    "import_progress",
    "error_message",
    "attempt",
    // Of an instance.
    "sync_progress",
    "task_id",
    "volume_id",
    "step",
    // Of a task.
    "sync_end_time",
    "bytes_done",
    "bytes_total",
    "cluster_id",
    "upload_id",
    "template_id",
    "total",
];

/// What disagrees, each with where it is.
pub(super) fn differences(shown: &Value, answer: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    compare("", "", shown, answer, &mut wrong);
    wrong
}

fn compare(path: &str, key: &str, shown: &Value, answer: &Value, wrong: &mut Vec<String>) {
    match (shown, answer) {
        (Value::Object(shown), Value::Object(answer)) => {
            for (key, shown) in shown {
                let path = format!("{path}/{key}");
                match answer.get(key) {
                    Some(answer) => compare(&path, key, shown, answer, wrong),
                    None => wrong.push(format!("{path} is missing")),
                }
            }
            let more = answer.keys().filter(|key| !shown.contains_key(*key));
            let strange = more.filter(|key| !OURS.contains(&key.as_str()));
            wrong.extend(strange.map(|key| format!("{path}/{key} is in no list")));
        }
        (Value::Array(shown), Value::Array(answer)) => {
            if shown.is_empty() != answer.is_empty() {
                wrong.push(format!("{path} has {} elements", answer.len()));
            }
            // The guide shows the first ones of a longer list.
            let Some(last) = shown.last() else { return };
            let shown_here = shown.len();
            for (index, answer) in answer.iter().enumerate() {
                let shown = shown.get(index).unwrap_or(last);
                let differs_by_place = index >= shown_here;
                let mut found = Vec::new();
                compare(&format!("{path}/{index}"), key, shown, answer, &mut found);
                found.retain(|it| !(differs_by_place && it.contains("node_name")));
                wrong.append(&mut found);
            }
        }
        (Value::Number(shown), Value::Number(answer)) => {
            if key == "code" && shown != answer {
                wrong.push(format!("{path} is {answer}, not {shown}"));
            }
        }
        (Value::String(_), Value::String(_)) if ASIDE.contains(&key) => {}
        (shown, answer) if shown == answer => {}
        (shown, answer) => wrong.push(format!("{path} is {answer}, not {shown}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_numbers_times_and_types_may_differ() {
        let shown =
            json!({ "code": 200, "data": { "id": 1, "status": "pending", "list": [{ "n": 1 }] } });
        let agrees = |answer: Value| differences(&shown, &answer).is_empty();
        let with = |pointer: &str, value: Value| {
            let mut answer = shown.clone();
            *answer.pointer_mut(pointer).unwrap() = value;
            answer
        };

        assert!(agrees(with("/data/id", json!(7))));
        assert!(agrees(with("/data/list", json!([{ "n": 1 }, { "n": 2 }]))));
        for (pointer, value) in [
            ("/code", json!(201)),
            ("/data/id", json!("1")),
            ("/data/id", Value::Null),
            ("/data/status", json!("failed")),
            ("/data/list", json!([])),
            ("/data/list/0", json!({})),
            ("/data/list/0", json!({ "n": 1, "stranger": 1 })),
            ("/data", json!([])),
        ] {
            assert!(!agrees(with(pointer, value.clone())), "{pointer} {value}");
        }
    }
}
