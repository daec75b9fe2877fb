//! Faults: what goes wrong on the way, whatever the cluster's state.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What happens to a request that a [`FaultRule`] matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultKind {
    /// The answer comes this many milliseconds late.
    Delay {
        /// How late.
        ms: u64,
    },
    /// The request is carried out, then the connection ends without an answer.
    DropBeforeAnswer,
    /// Status line, headers and half of the body come, then the connection ends.
    DropHalfBody,
    /// 596 "Connection timed out" comes after `ms`; the request is carried out all the same,
    /// `after_ms` later, as by a daemon that was blocked.
    Late {
        /// When the 596 comes.
        ms: u64,
        /// How much later the work begins.
        after_ms: u64,
    },
    /// The request is not carried out; this status and reason phrase come without a body.
    Status {
        /// For example 595, 596, 500.
        code: u16,
        /// The reason phrase, for example `Connection refused`.
        reason: String,
    },
    /// One element that nobody can use is put into the list: no id, no vmid, numbers of wrong types.
    GarbageElement,
    /// Numbers come as strings, `template` 0 as an empty string, as older versions had it.
    LooseTypes,
    /// The list is empty.
    EmptyList,
    /// The list comes in reverse order of its ids.
    WrongOrder,
    /// 200 with a body that is not JSON, as a proxy's page is.
    NotJson,
    /// The request is read and never answered.
    StallForever,
}

/// Which requests go wrong, how often, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRule {
    /// HTTP method; `None` is any.
    #[serde(default)]
    pub method: Option<String>,
    /// Beginning of the path, without `/api2/json`: `/cluster/resources`, or `/` for all.
    pub path: String,
    /// Name of the node that is asked; `None` is any.
    #[serde(default)]
    pub node: Option<String>,
    /// After so many requests the rule is spent; `None` is never.
    #[serde(default)]
    pub times: Option<u32>,
    /// What happens.
    pub kind: FaultKind,
}

impl FaultRule {
    /// Every request whose path begins so goes wrong in this way, until
    /// [`clear_faults`](crate::Sim::clear_faults).
    pub fn new(path: &str, kind: FaultKind) -> Self {
        Self { method: None, path: path.to_owned(), node: None, times: None, kind }
    }

    /// Only the next `times` requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Only requests that this node gets.
    #[must_use]
    pub fn at_node(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// Only requests with this method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    fn matches(&self, method: &str, path: &str, node: &str) -> bool {
        self.method.as_deref().is_none_or(|want| want.eq_ignore_ascii_case(method))
            && self.node.as_deref().is_none_or(|want| want == node)
            && path.starts_with(&self.path)
            && self.times != Some(0)
    }
}

/// The rules in force, oldest first; the first that matches is used.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<FaultRule>);

impl Faults {
    pub(crate) fn add(&mut self, rule: FaultRule) {
        self.0.push(rule);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault for this request, spending one of the rule's times.
    pub(crate) fn take(&mut self, method: &str, path: &str, node: &str) -> Option<FaultKind> {
        let rule = self.0.iter_mut().find(|rule| rule.matches(method, path, node))?;
        if let Some(times) = &mut rule.times {
            *times -= 1;
        }
        let kind = rule.kind.clone();
        self.0.retain(|rule| rule.times != Some(0));
        Some(kind)
    }
}

impl FaultKind {
    pub(crate) fn delay(&self) -> Duration {
        match self {
            Self::Delay { ms } => Duration::from_millis(*ms),
            _ => Duration::ZERO,
        }
    }

    /// Changes a good answer's text; answers without a list stay as they are.
    pub(crate) fn spoil(&self, text: Vec<u8>) -> Vec<u8> {
        if *self == Self::NotJson {
            return b"<html><body>Bad gateway</body></html>".to_vec();
        }
        let Ok(mut whole) = serde_json::from_slice::<Value>(&text) else { return text };
        let Some(list) = whole.get_mut("data").and_then(Value::as_array_mut) else { return text };
        match self {
            Self::GarbageElement => {
                let garbage = json!({
                    "type": "qemu", "node": 7, "maxcpu": {"x": []}, "status": ["running"],
                    "name": null, "template": "perhaps",
                });
                list.insert(list.len() / 2, garbage);
            }
            Self::EmptyList => list.clear(),
            Self::WrongOrder => {
                list.sort_by_key(|row| row["id"].as_str().unwrap_or_default().to_owned());
                list.reverse();
            }
            Self::LooseTypes => list.iter_mut().for_each(loosen),
            _ => return text,
        }
        serde_json::to_vec(&whole).expect("JSON that was read can be written")
    }
}

fn loosen(row: &mut Value) {
    let Some(row) = row.as_object_mut() else { return };
    for (key, value) in row {
        if let Value::Number(number) = value {
            let empty = key == "template" && number.as_u64() == Some(0);
            *value = Value::String(if empty { String::new() } else { number.to_string() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_spent_after_its_times() {
        let mut faults = Faults::default();
        let rule = FaultRule::new("/cluster", FaultKind::DropBeforeAnswer).times(1).at_node("a");
        faults.add(rule);

        assert_eq!(faults.take("GET", "/cluster/status", "b"), None);
        assert_eq!(faults.take("GET", "/nodes", "a"), None);
        assert_eq!(faults.take("GET", "/cluster/status", "a"), Some(FaultKind::DropBeforeAnswer));
        assert_eq!(faults.take("GET", "/cluster/status", "a"), None);
    }

    #[test]
    fn loose_types_are_those_of_older_versions() {
        let text = br#"{"data":[{"vmid":100,"template":0,"cpu":0.5,"name":"a"}]}"#.to_vec();

        let spoilt = FaultKind::LooseTypes.spoil(text);

        let row: Value = serde_json::from_slice(&spoilt).unwrap();
        let expected = json!({"vmid": "100", "template": "", "cpu": "0.5", "name": "a"});
        assert_eq!(row["data"][0], expected);
    }
}
