//! What views have in common: times, and whether a row still tells of the present.

use chrono::SecondsFormat;
use schema::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::Settings;

/// A time, shown as RFC 3339 in UTC with milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.0.and_utc().to_rfc3339_opts(SecondsFormat::Millis, true);
        serializer.serialize_str(&text)
    }
}

impl JsonSchema for Time {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }
}

pub(crate) fn time(at: Option<Timestamp>) -> Option<Time> {
    at.map(Time)
}

/// Every word of an enum, for the description of a field that holds one.
pub(crate) fn words<T: Copy>(all: &[T], word: fn(T) -> &'static str) -> Vec<&'static str> {
    all.iter().map(|it| word(*it)).collect()
}

/// The moment of an answer, against which rows are held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    oldest: Timestamp,
}

impl Moment {
    pub(crate) fn now(settings: &Settings) -> Self {
        let now = schema::now();
        let age = chrono::TimeDelta::from_std(settings.stale_after).ok();
        let oldest = age.and_then(|age| now.checked_sub_signed(age));
        Self { oldest: oldest.unwrap_or(Timestamp::MIN) }
    }

    pub(crate) fn is_stale(self, last_seen: Option<Timestamp>) -> bool {
        last_seen.is_none_or(|seen| seen < self.oldest)
    }
}

/// The parts of a column that holds a list in one string.
pub(crate) fn parts(text: Option<&str>, separator: char) -> Vec<String> {
    text.unwrap_or_default()
        .split(separator)
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}
