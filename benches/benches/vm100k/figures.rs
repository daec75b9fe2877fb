//! What was measured, and the lines that are made of it.

use std::collections::BTreeMap;

use benches::figures::median;

/// Values by name, one or more from each repetition.
#[derive(Default)]
pub(crate) struct Figures(BTreeMap<String, Vec<f64>>);

impl Figures {
    /// The name is `workload/what_unit`.
    pub(crate) fn push(&mut self, name: impl Into<String>, value: f64) {
        self.0.entry(name.into()).or_default().push(value);
    }

    /// Prints every value, for [`push_sample`](Self::push_sample) of another process.
    pub(crate) fn print_samples(&self) {
        for (name, values) in &self.0 {
            for value in values {
                println!("SAMPLE {name} {value}");
            }
        }
    }

    /// `None` if the line is not a sample.
    pub(crate) fn push_sample(&mut self, line: &str) -> Option<()> {
        let (name, value) = line.strip_prefix("SAMPLE ")?.split_once(' ')?;
        self.push(name, value.parse().ok()?);
        Some(())
    }

    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        median(self.0.get(name)?)
    }

    /// Prints the median of everything, with how far it spread.
    pub(crate) fn print(&self) {
        for (name, values) in &self.0 {
            let median = self.median(name).unwrap_or_default();
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let count = values.len();
            println!("FIGURE {name} {median:.1} (of {count}: {least:.1} to {most:.1})");
        }
    }
}

/// One line of the table.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) ours: &'static str,
    /// What ours is divided by; nothing for what is wanted absolutely.
    pub(crate) peer: Option<&'static str>,
    pub(crate) wanted: Wanted,
}

/// What must be, and what would be better still.
#[derive(Clone, Copy)]
pub(crate) enum Wanted {
    AtMost {
        must: f64,
        goal: f64,
    },
    AtLeast {
        must: f64,
        goal: f64,
    },
    /// Nothing: it explains another row.
    Nothing,
}

impl Row {
    /// Prints the row if what it needs was measured.
    pub(crate) fn print(&self, figures: &Figures) {
        let Some(ours) = figures.median(self.ours) else { return };
        let value = match self.peer.map(|peer| figures.median(peer)) {
            None => ours,
            Some(None) => return,
            Some(Some(peer)) => ours / peer,
        };
        let word = if self.peer.is_some() { "RATIO " } else { "" };
        println!("{word}{} {value:.4}{}", self.name, self.wanted.judge(value));
    }
}

impl Wanted {
    fn judge(self, value: f64) -> String {
        let (sign, must, goal, is) = match self {
            Self::AtMost { must, goal } => ("<=", must, goal, [value <= must, value <= goal]),
            Self::AtLeast { must, goal } => (">=", must, goal, [value >= must, value >= goal]),
            Self::Nothing => return String::new(),
        };
        let verdict = match is {
            [_, true] => "goal reached",
            [true, false] => "as it must be",
            [false, false] => "NOT AS IT MUST BE",
        };
        format!(" (must {sign} {must}, goal {sign} {goal}: {verdict})")
    }
}
