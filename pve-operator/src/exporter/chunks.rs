//! The text of a scrape, piece by piece: however many guests there are, one piece is in memory.
//!
//! All samples of a metric stand together, as the format wants it, so clusters are gone through
//! once for each metric.

use super::{families::FAMILIES, samples::Samples, shown::Shown};

/// A piece ends with the row that makes it this long.
const ENOUGH: usize = 64 << 10;

/// No row of a metric is longer, unless people gave something a very long name.
const LONGEST_ROW: usize = 2 << 10;

/// Goes through metrics, clusters and rows.
#[derive(Debug)]
pub(super) struct Chunks {
    shown: Vec<Shown>,
    family: usize,
    cluster: usize,
    row: usize,
}

impl Chunks {
    pub(super) fn new(shown: Vec<Shown>) -> Self {
        Self { shown, family: 0, cluster: 0, row: 0 }
    }
}

impl Iterator for Chunks {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        FAMILIES.get(self.family)?;
        let mut text = String::with_capacity(ENOUGH + LONGEST_ROW);
        while let Some(family) = FAMILIES.get(self.family)
            && text.len() < ENOUGH
        {
            if (self.cluster, self.row) == (0, 0) {
                family.push_head(&mut text);
            }
            let Some(shown) = self.shown.get(self.cluster) else {
                (self.family, self.cluster, self.row) = (self.family + 1, 0, 0);
                continue;
            };
            let rows = shown.len();
            while self.row < rows && text.len() < ENOUGH {
                if let Some(row) = shown.row(self.row) {
                    let labels = shown.labels(self.row);
                    (family.write)(shown, &row, &mut Samples::new(&mut text, family.name, labels));
                }
                self.row += 1;
            }
            if self.row == rows {
                (self.cluster, self.row) = (self.cluster + 1, 0);
            }
        }
        Some(text)
    }
}
