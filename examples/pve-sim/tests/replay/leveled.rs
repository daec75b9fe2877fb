//! Makes equal what moves between two runs: process numbers, dates, speeds, sums, ports.

use serde_json::Value;

/// Node, kind, id and user of a UPID.
pub(crate) fn task_name(upid: &str) -> String {
    let parts: Vec<&str> = upid.split(':').collect();
    match parts.as_slice() {
        [_, node, _, _, _, kind, id, user, ..] => format!("{node} {kind} {id} {user}"),
        _ => upid.to_owned(),
    }
}

/// A log without what moves.
pub(crate) fn leveled_log(lines: &[String]) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for line in lines {
        if line == "trying to acquire lock..." || line == " OK" {
            continue;
        }
        let copying = line.starts_with("transferred");
        if copying && !line.contains("(0.00%)") && !line.contains("(100.00%)") {
            continue;
        }
        let line = leveled(line);
        if copying && kept.last() == Some(&line) {
            continue;
        }
        kept.push(line);
    }
    kept
}

/// A text without process numbers, dates, speeds, sums and ports.
pub(crate) fn leveled(text: &str) -> String {
    let mut text = text.to_owned();
    for mark in [
        "tmp_dwnl.",
        "conf.tmp.",
        "pveupload-",
        "at byte ",
        "http://127.0.0.1:",
        "@127.0.0.1:",
        "existing connection to 127.0.0.1:",
        "Connecting to 127.0.0.1:",
    ] {
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find(mark) {
            let end = at + mark.len();
            out.push_str(&rest[..end]);
            let tail = rest[end..].trim_start_matches(|c: char| c.is_ascii_hexdigit());
            // Port 9 has nobody behind it, here as there.
            out.push_str(if rest[end..].starts_with("9.") || rest[end..].starts_with("9/") {
                "9"
            } else {
                "N"
            });
            rest = tail;
        }
        out.push_str(rest);
        text = out;
    }
    let words: Vec<String> = text.split(' ').map(leveled_word).collect();
    let text = words.join(" ").replace("-r N ", "").replace("(N NB/s)", "(SPEED)");
    match text.find("% ") {
        Some(at) if text.contains("K .") || text.contains("K ,") || text.contains("K   ") => {
            text[..=at].to_owned()
        }
        _ => match (text.find("K ."), text.find("  ")) {
            (Some(_), _)
                if !text.contains('%')
                    && text.trim_start().starts_with(|c: char| c.is_ascii_digit()) =>
            {
                let dots = text.rfind(". ").map_or(text.len(), |at| at + 1);
                text[..dots].to_owned()
            }
            _ => text,
        },
    }
}

fn leveled_word(word: &str) -> String {
    let bare = word.trim_matches(|c: char| matches!(c, '\'' | ',' | '-' | '(' | ')'));
    let hex = bare.len() >= 64 && bare.chars().all(|c| c.is_ascii_hexdigit()) && !is_made_up(bare);
    let date = bare.len() == 10 && bare.matches('-').count() == 2;
    let time = bare.len() == 8 && bare.matches(':').count() == 2;
    let rate =
        word.len() > 2 && word.ends_with('K') && word[..word.len() - 1].parse::<u64>().is_ok();
    let speed = word.strip_prefix('(').is_some_and(|n| n.parse::<f64>().is_ok());
    let unit = matches!(word, "KB/s)" | "MB/s)" | "GB/s)" | "B/s)");
    match () {
        () if hex => word.replace(bare, "SUM"),
        () if date || time => word.replace(bare, "T"),
        () if rate && word == "40960K" => "N".to_owned(),
        () if speed => "(N".to_owned(),
        () if unit => "NB/s)".to_owned(),
        () => word.to_owned(),
    }
}

/// An answer without what belongs to one run.
pub(crate) fn leveled_json(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let gone = ["ctime", "used", "meta", "smbios1", "vmgenid", "digest", "memhost"];
            let kept = map.iter().filter(|(key, _)| !gone.contains(&key.as_str()));
            kept.map(|(key, value)| {
                let value = match value.as_str() {
                    Some(text) if key.starts_with("net") => Value::from(without_mac(text)),
                    Some(text) => Value::from(leveled(text)),
                    None => leveled_json(value),
                };
                (key.clone(), value)
            })
            .collect()
        }
        Value::Array(list) => list.iter().map(leveled_json).collect(),
        other => other.clone(),
    }
}

fn without_mac(card: &str) -> String {
    let (model, rest) = card.split_once(',').unwrap_or((card, ""));
    format!("{},{rest}", model.split('=').next().unwrap_or_default())
}

pub(crate) fn is_made_up(sum: &str) -> bool {
    sum.chars().all(|c| c == '0') || sum.chars().all(|c| c == '1')
}
