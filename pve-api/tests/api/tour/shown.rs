//! How a command and its answer are shown: as an example of the description, and in README.md.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Seen;

/// What the description has of an operation.
pub(super) fn example(seen: &Seen) -> Value {
    let answer = serde_json::from_str(&seen.text).unwrap_or(Value::Null);
    json!({"status": seen.status, "body": body(seen.step.curl), "answer": answer})
}

/// The JSON that a command sends.
fn body(curl: &str) -> Value {
    let sent = curl.split_once("-d '").and_then(|(_, rest)| rest.split_once('\''));
    sent.map_or(Value::Null, |(json, _)| serde_json::from_str(json).expect("it sends JSON"))
}

const FITS: &str = "writing to memory does not fail";
const BEGIN: &str = "<!-- tour -->\n";
const END: &str = "<!-- end of tour -->\n";

/// README.md with the tour of today.
pub(super) fn readme(readme: &str, seen: &[Seen]) -> String {
    let (before, rest) = readme.split_once(BEGIN).expect("README.md has a place for the tour");
    let (_, after) = rest.split_once(END).expect("the tour ends somewhere");
    let mut tour = String::new();
    let mut chapter = "";
    for it in seen {
        if it.step.chapter != chapter {
            if !chapter.is_empty() {
                tour.push_str("```\n\n</details>\n");
            }
            chapter = it.step.chapter;
            write!(tour, "<details><summary>{chapter}</summary>\n\n```console\n").expect(FITS);
        }
        writeln!(tour, "$ {}\n{}", it.step.curl, cut(it.text.trim_end())).expect(FITS);
    }
    tour.push_str("```\n\n</details>\n");
    format!("{before}{BEGIN}{tour}{END}{after}")
}

/// As much of an answer as a reader needs.
fn cut(text: &str) -> String {
    const MOST: usize = 700;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    format!("{} …", text.chars().take(MOST).collect::<String>())
}
