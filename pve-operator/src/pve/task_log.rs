//! The state of a task, and its log as it grows.

use serde::Deserialize;

use super::{PveError, reply, scalar::scalar};

/// `GET /nodes/{node}/tasks/{upid}/status`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TaskState {
    Running,
    Stopped(Outcome),
}

/// How a task ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    Ok,
    /// `WARNINGS: n`, which is success.
    Warnings(u32),
    /// PVE's words. `unexpected status` is a worker that was killed.
    Failed(String),
}

impl Outcome {
    pub(super) fn of(exitstatus: Option<&str>) -> Self {
        match exitstatus {
            Some("OK") => Self::Ok,
            Some(text) => match text.strip_prefix("WARNINGS: ").and_then(|n| n.trim().parse().ok())
            {
                Some(count) => Self::Warnings(count),
                None => Self::Failed(text.trim().to_owned()),
            },
            None => Self::Failed("stopped without an exit status".to_owned()),
        }
    }

    pub fn is_success(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}

impl TaskState {
    pub(crate) fn parse(request: &str, body: &[u8]) -> Result<Self, PveError> {
        #[derive(Deserialize)]
        struct Status {
            status: String,
            #[serde(default, deserialize_with = "scalar")]
            exitstatus: Option<String>,
        }
        let it: Status = reply::one(request, body)?;
        match it.status.as_str() {
            "running" => Ok(Self::Running),
            "stopped" => Ok(Self::Stopped(Outcome::of(it.exitstatus.as_deref()))),
            other => {
                let words = format!("task status {other:?} is neither running nor stopped");
                Err(reply::decode_error(request, words.into()))
            }
        }
    }
}

/// One answer to `GET …/log`: lines by their number, from 1 on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LogPage {
    pub lines: Vec<LogLine>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct LogLine {
    /// From 1 on.
    pub n: u64,
    pub t: String,
}

impl LogPage {
    /// Leaves out the line `no content`, which PVE makes up for an empty log (pve-common:
    /// `src/PVE/Tools.pm:790`): counting it would hide the real first line for ever.
    pub(crate) fn parse(request: &str, body: &[u8]) -> Result<Self, PveError> {
        #[derive(Deserialize)]
        struct Line {
            #[serde(deserialize_with = "scalar")]
            n: Option<u64>,
            #[serde(default, deserialize_with = "scalar")]
            t: Option<String>,
        }
        let (listed, _) = reply::list_or_null::<Line>(request, body)?;
        let rows = listed.unwrap_or_default().rows;
        let mut lines: Vec<_> = rows
            .into_iter()
            .filter_map(|line| Some(LogLine { n: line.n?, t: line.t.unwrap_or_default() }))
            .collect();
        lines.sort_by_key(|line| line.n);
        if matches!(&lines[..], [only] if only.n == 1 && only.t == "no content") {
            lines.clear();
        }
        Ok(Self { lines })
    }
}

/// What is known of a task's log so far.
///
/// Ask for [`next_start`](Self::next_start), give the answer to [`add`](Self::add), and once the
/// task has stopped read it once more from 0, because the last line may have grown unseen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TaskLog {
    lines: Vec<String>,
}

impl TaskLog {
    /// The `start` of the next request: the last line again, for it may grow.
    pub fn next_start(&self) -> usize {
        self.lines.len().saturating_sub(1)
    }

    /// Takes over a page; true if it brought anything new.
    pub fn add(&mut self, page: &LogPage) -> bool {
        let mut changed = false;
        for line in &page.lines {
            let Some(at) = usize::try_from(line.n).ok().and_then(|n| n.checked_sub(1)) else {
                continue;
            };
            let end = self.lines.len();
            match self.lines.get_mut(at) {
                Some(known) if *known == line.t => {}
                Some(known) => {
                    known.clone_from(&line.t);
                    changed = true;
                }
                None if at == end => {
                    self.lines.push(line.t.clone());
                    changed = true;
                }
                // A gap: what comes after it is read when the lines before it are here.
                None => break,
            }
        }
        changed
    }

    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Why the task failed, in PVE's words: the last `TASK ERROR:` line.
    pub fn error(&self) -> Option<&str> {
        self.lines.iter().rev().find_map(|line| line.strip_prefix("TASK ERROR: ")).map(str::trim)
    }

    /// The last line that says anything of its own, for a state without an error line.
    pub fn last_words(&self) -> Option<&str> {
        let own = |line: &&str| !line.is_empty() && !line.starts_with("TASK ");
        self.lines.iter().rev().map(|line| line.trim()).find(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lines: &[(u64, &str)]) -> LogPage {
        LogPage {
            lines: lines.iter().map(|(n, t)| LogLine { n: *n, t: (*t).to_owned() }).collect(),
        }
    }

    #[test]
    fn a_line_that_grows_is_read_again() {
        let mut log = TaskLog::default();

        assert!(log.add(&page(&[(1, "downloading"), (2, "calculating checksum...")])));
        assert_eq!(log.next_start(), 1);
        assert!(log.add(&page(&[(2, "calculating checksum...OK"), (3, "TASK OK")])));

        assert_eq!(log.lines(), ["downloading", "calculating checksum...OK", "TASK OK"]);
        assert!(!log.add(&page(&[(3, "TASK OK")])));
        assert_eq!(log.last_words(), Some("calculating checksum...OK"));
    }

    #[test]
    fn a_gap_is_never_papered_over() {
        let mut log = TaskLog::default();

        log.add(&page(&[(1, "a"), (3, "c")]));

        assert_eq!(log.lines(), ["a"]);
        assert_eq!(log.next_start(), 0);
    }

    #[test]
    fn warnings_are_success_and_a_killed_worker_is_not() {
        let of = |status: &str| Outcome::of(Some(status));

        assert_eq!(of("OK"), Outcome::Ok);
        assert_eq!(of("WARNINGS: 2"), Outcome::Warnings(2));
        assert!(of("WARNINGS: 2").is_success());
        assert_eq!(of("unexpected status"), Outcome::Failed("unexpected status".to_owned()));
        assert!(!Outcome::of(None).is_success());
    }
}
