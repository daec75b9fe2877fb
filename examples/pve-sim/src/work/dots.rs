//! What wget prints: dots, speeds, sizes and dates.

use std::time::Duration;

const MIB: u64 = 1 << 20;
const ROW: u64 = 32 * MIB;

/// What `--progress=dot:giga` prints: a dot for each MiB, a line for each 32 MiB.
#[derive(Debug)]
pub(crate) struct Dots {
    total: Option<u64>,
    /// Bytes that an earlier try brought.
    skipped: u64,
    done: u64,
    /// Start of the row that is being filled.
    row: u64,
}

impl Dots {
    /// Begins; returns the line about rows that an earlier try filled.
    pub(crate) fn new(skipped: u64, total: Option<u64>) -> (Self, Option<String>) {
        let row = skipped / ROW * ROW;
        let line = (row > 0).then(|| format!("        [ skipping {}K ]", row >> 10));
        (Self { total, skipped, done: skipped, row }, line)
    }

    /// Takes bytes; returns the lines that are full now.
    pub(crate) fn take(&mut self, bytes: u64, elapsed: Duration) -> Vec<String> {
        self.done += bytes;
        let mut lines = Vec::new();
        while self.done >= self.row + ROW && self.total.is_none_or(|total| self.row + ROW < total) {
            let end = self.row + ROW;
            let left = self.total.map_or(0, |total| total - end.min(total));
            let pace = self.rate(elapsed);
            let percent = self.percent(end);
            let eta = match self.total {
                Some(_) => format!(" {}", seconds_left(left, pace)),
                None => String::new(),
            };
            lines.push(format!("{}{percent} {:>5}{eta}", self.dots(32), rate_text(pace)));
            self.row = end;
        }
        lines
    }

    /// The line of a try that is over, whole or not.
    pub(crate) fn end(&self, elapsed: Duration) -> String {
        let dots = (self.done - self.row) / MIB;
        let pace = rate_text(self.rate(elapsed));
        let took = took_text(elapsed);
        format!("{}{} {pace:>5}={took}", self.dots(dots.min(32)), self.percent(self.done))
    }

    fn dots(&self, dots: u64) -> String {
        let commas = self.skipped.saturating_sub(self.row) / MIB;
        let mut text = format!("{:>6}K", self.row >> 10);
        for dot in 0..32 {
            if dot % 8 == 0 {
                text.push(' ');
            }
            text.push(match dot {
                dot if dot < commas => ',',
                dot if dot < dots => '.',
                _ => ' ',
            });
        }
        text
    }

    fn percent(&self, at: u64) -> String {
        let share = |total: u64| format!("{:>3}%", at * 100 / total.max(1));
        self.total.map_or(String::new(), share)
    }

    fn rate(&self, elapsed: Duration) -> f64 {
        float(self.done - self.skipped) / elapsed.as_secs_f64().max(0.001)
    }
}

/// `64.2M`: three digits and a unit.
fn rate_text(rate: f64) -> String {
    let (value, unit) = scaled(rate);
    format!("{}{unit}", three_digits(value))
}

/// `64.0 MB/s`.
pub(crate) fn speed_text(bytes: u64, elapsed: Duration) -> String {
    let (value, unit) = scaled(float(bytes) / elapsed.as_secs_f64().max(0.001));
    format!("{} {unit}B/s", three_digits(value))
}

fn scaled(rate: f64) -> (f64, &'static str) {
    match rate {
        rate if rate < 1024.0 => (rate, ""),
        rate if rate < 1024.0 * 1024.0 => (rate / 1024.0, "K"),
        rate if rate < 1024.0 * 1024.0 * 1024.0 => (rate / 1024.0 / 1024.0, "M"),
        rate => (rate / 1024.0 / 1024.0 / 1024.0, "G"),
    }
}

fn three_digits(value: f64) -> String {
    match value {
        value if value < 9.995 => format!("{value:.2}"),
        value if value < 99.95 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// `5s`, `1m5s`, `2h3m`.
fn seconds_left(left: u64, pace: f64) -> String {
    let seconds = Duration::try_from_secs_f64(float(left) / pace.max(1.0));
    match seconds.unwrap_or_default().as_secs() {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m{}s", s / 60, s % 60),
        s => format!("{}h{}m", s / 3600, s / 60 % 60),
    }
}

/// `0.02s`, `5.6s`, `95s`.
fn took_text(elapsed: Duration) -> String {
    match elapsed.as_secs_f64() {
        s if s < 0.0095 => format!("{s:.3}s"),
        s if s < 0.095 => format!("{s:.2}s"),
        s if s < 10.0 => format!("{s:.1}s"),
        s => format!("{s:.0}s"),
    }
}

/// `377946112 (360M)`, `512`.
pub(crate) fn length_text(bytes: u64) -> String {
    let (value, unit) = scaled(float(bytes));
    match unit {
        "" => bytes.to_string(),
        _ if value < 9.95 => format!("{bytes} ({value:.1}{unit})"),
        _ => format!("{bytes} ({value:.0}{unit})"),
    }
}

/// `2026-11-21 20:35:05`, in UTC.
pub(crate) fn date(unix: u64) -> String {
    let (days, rest) = (unix / 86_400, unix % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// The date of a day counted from 1970-01-01, by the usual arithmetic of eras of 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[expect(clippy::cast_precision_loss, reason = "numbers for people")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded on PVE 9.2.11 (task logs 777, 1316, 1347).
    #[test]
    fn dots_are_those_of_a_recorded_download() {
        let (mut dots, skipping) = Dots::new(0, Some(377_946_112));
        let second = Duration::from_secs(1);
        assert_eq!(skipping, None);
        assert_eq!(
            dots.take(64 << 20, second),
            [
                "     0K ........ ........ ........ ........  8% 64.0M 5s",
                " 32768K ........ ........ ........ ........ 17% 64.0M 4s",
            ]
        );
        dots.take(377_946_112 - (64 << 20), second);
        assert_eq!(
            dots.end(Duration::from_millis(5620)),
            "360448K ........                           100% 64.1M=5.6s"
        );

        let (mut resumed, _) = Dots::new(10_000_000, Some(42_270_720));
        let lines = resumed.take(32_000_000, second);
        assert!(lines[0].starts_with("     0K ,,,,,,,, ,....... ........ ........ 79% "));

        let (mut unknown, _) = Dots::new(0, None);
        let lines = unknown.take(33 << 20, second);
        assert_eq!(lines, ["     0K ........ ........ ........ ........ 33.0M"]);
        assert_eq!(length_text(377_946_112), "377946112 (360M)");
        assert_eq!(length_text(4_521_984), "4521984 (4.3M)");
    }

    #[test]
    fn dates_count_leap_years() {
        assert_eq!(date(1_795_293_305), "2026-11-21 20:35:05");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00");
    }
}
