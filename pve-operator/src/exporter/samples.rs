//! Lines of Prometheus' text format, appended to one text.

use std::fmt::{Display, Write};

/// What the samples of one row and one metric are written with.
#[derive(Debug)]
pub(super) struct Samples<'t> {
    text: &'t mut String,
    name: &'static str,
    /// `id="qemu/100"`, escaped.
    labels: &'t str,
}

impl<'t> Samples<'t> {
    pub(super) fn new(text: &'t mut String, name: &'static str, labels: &'t str) -> Self {
        Self { text, name, labels }
    }

    /// What PVE does not tell at the moment has no sample.
    pub(super) fn value(&mut self, value: Option<impl Display>) {
        let Some(value) = value else { return };
        self.begin();
        self.text.push_str("} ");
        writeln!(self.text, "{value}").expect("a String takes whatever comes");
    }

    pub(super) fn flag(&mut self, value: bool) {
        self.begin();
        self.end(value);
    }

    /// One sample for each state that there may be: 1 for the one that is.
    pub(super) fn states(&mut self, states: &[&str], now: Option<&str>) {
        for state in states {
            self.begin();
            self.label("state", state);
            self.end(now == Some(state));
        }
    }

    /// A 1 with further labels.
    pub(super) fn info(&mut self, labels: &[(&str, &str)]) {
        self.begin();
        for (name, value) in labels {
            self.label(name, value);
        }
        self.end(true);
    }

    fn begin(&mut self) {
        self.text.push_str(self.name);
        self.text.push('{');
        self.text.push_str(self.labels);
    }

    fn label(&mut self, name: &str, value: &str) {
        if !self.text.ends_with('{') {
            self.text.push(',');
        }
        push_label(self.text, name, value);
    }

    fn end(&mut self, value: bool) {
        self.text.push_str(if value { "} 1\n" } else { "} 0\n" });
    }
}

/// `name="value"`, with what PVE and people write made harmless.
pub(super) fn push_label(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str("=\"");
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        text.push_str(&rest[..at]);
        text.push_str(match rest.as_bytes()[at] {
            b'\n' => "\\n",
            b'"' => "\\\"",
            _ => "\\\\",
        });
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Samples<'_>)) -> String {
        let mut text = String::new();
        write(&mut Samples::new(&mut text, "pve_x", r#"id="qemu/100""#));
        text
    }

    #[test]
    fn whatever_people_write_stays_within_its_label() {
        let name = "a\"b\\c\nd} 7 \u{e9}";

        assert_eq!(
            written(|it| it.info(&[("name", name)])),
            "pve_x{id=\"qemu/100\",name=\"a\\\"b\\\\c\\nd} 7 \u{e9}\"} 1\n"
        );
    }

    #[test]
    fn what_is_not_known_has_no_sample() {
        assert_eq!(written(|it| it.value(None::<u64>)), "");
        assert_eq!(written(|it| it.value(Some(0.5))), "pve_x{id=\"qemu/100\"} 0.5\n");
        assert_eq!(
            written(|it| it.value(Some(u64::MAX))),
            "pve_x{id=\"qemu/100\"} 18446744073709551615\n"
        );
    }

    #[test]
    fn each_state_has_a_sample_and_one_of_them_is_1() {
        assert_eq!(
            written(|it| it.states(&["backup", "clone"], Some("clone"))),
            "pve_x{id=\"qemu/100\",state=\"backup\"} 0\npve_x{id=\"qemu/100\",state=\"clone\"} 1\n"
        );
    }

    #[test]
    fn without_labels_of_the_row_the_first_one_has_no_comma() {
        let mut text = String::new();

        Samples::new(&mut text, "pve_x", "").info(&[("a", "1"), ("b", "2")]);

        assert_eq!(text, "pve_x{a=\"1\",b=\"2\"} 1\n");
    }
}
