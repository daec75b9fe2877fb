//! Prometheus' text format, read back.

use std::collections::BTreeMap;

/// Everything that a scrape said.
#[derive(Debug, Default)]
pub(super) struct Scrape {
    /// What stands after `# HELP NAME` and `# TYPE NAME`.
    pub(super) heads: BTreeMap<String, Vec<String>>,
    pub(super) values: BTreeMap<Series, f64>,
}

/// A name and its labels, in the order of their names.
pub(super) type Series = (String, BTreeMap<String, String>);

impl Scrape {
    /// # Panics
    ///
    /// If a line is none of the format, or a series comes twice.
    pub(super) fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# ") {
                let (kind, rest) = head.split_once(' ').expect("HELP or TYPE");
                let (name, said) = rest.split_once(' ').expect("a name and what is said of it");
                scrape.heads.entry(name.to_owned()).or_default().push(format!("{kind} {said}"));
            } else {
                let (series, value) = sample(line).unwrap_or_else(|| panic!("what is {line}?"));
                let before = scrape.values.insert(series, value);
                assert_eq!(before, None, "twice: {line}");
            }
        }
        scrape
    }

    /// The value of the one series that has this name and, among others, this label.
    pub(super) fn get(&self, name: &str, label: (&str, &str)) -> Option<f64> {
        let has = |labels: &BTreeMap<String, String>| {
            labels.get(label.0).is_some_and(|value| value == label.1)
        };
        self.values.iter().find(|((it, labels), _)| it == name && has(labels)).map(|it| *it.1)
    }
}

fn sample(line: &str) -> Option<(Series, f64)> {
    let Some((name, mut rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ')?;
        return Some(((name.to_owned(), BTreeMap::new()), value.parse().ok()?));
    };
    let mut labels = BTreeMap::new();
    while !rest.starts_with('}') {
        let (label, after) = rest.strip_prefix(',').unwrap_or(rest).split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.insert(label.to_owned(), value);
        rest = after;
    }
    Some(((name.to_owned(), labels), rest.strip_prefix("} ")?.parse().ok()?))
}

/// What stands before the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}
