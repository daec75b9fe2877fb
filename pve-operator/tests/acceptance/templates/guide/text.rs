//! Takes the commands out of the guide, each with the answer that is shown for it.

use serde_json::Value;

const GUIDE: &str = include_str!("../../../../../docs/template-management-guide.md");

/// One `curl` as the guide has it.
#[derive(Clone, Debug)]
pub(super) struct Command {
    /// The heading that it stands under, without `#`.
    pub(super) heading: String,
    /// With its line ends.
    pub(super) text: String,
    /// The JSON that is shown after it, before the next command.
    pub(super) answer: Option<Value>,
}

/// Every `curl` of the guide, in its order.
pub(super) fn commands() -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let (mut heading, mut lines) = (String::new(), GUIDE.lines());
    while let Some(line) = lines.next() {
        if line.starts_with('#') {
            line.trim_start_matches('#').trim().clone_into(&mut heading);
        }
        let Some(language) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match language {
            "bash" => {
                let texts = curls(&block).into_iter();
                commands.extend(texts.map(|text| Command {
                    heading: heading.clone(),
                    text,
                    answer: None,
                }));
            }
            "json" => {
                let answer = serde_json::from_str(&block.join("\n")).expect("the guide shows JSON");
                let last = commands.last_mut().expect("an answer comes after a command");
                assert!(last.answer.replace(answer).is_none(), "two answers under {heading}");
            }
            other => panic!("a block of {other:?} under {heading}: is there a command in it?"),
        }
    }
    commands
}

/// The `curl` commands of a block: from a line that begins with it to one that neither ends with a
/// backslash nor leaves a quote open.
fn curls(block: &[&str]) -> Vec<String> {
    let (mut all, mut open) = (Vec::new(), String::new());
    for line in block {
        if open.is_empty() && !line.starts_with("curl ") {
            continue;
        }
        open.push_str(line);
        let quoted = ['"', '\''].iter().any(|quote| open.matches(*quote).count() % 2 == 1);
        if quoted || line.ends_with('\\') {
            open.push('\n');
        } else {
            all.push(std::mem::take(&mut open));
        }
    }
    assert!(open.is_empty(), "this command does not end: {open}");
    all
}
