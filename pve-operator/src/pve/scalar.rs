//! Single JSON values as Perl writes them.
//!
//! The same field comes as `2`, `2.0`, `"2"` or `1e3`, and a flag as `0`, `1`, `"1"`, `""`, `true`
//! or not at all, depending on what Perl did with the variable before. What cannot be read as the
//! wanted type reads as `None`, as if it were missing; it never ends the parse.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A type that any JSON scalar can be tried as.
pub(crate) trait Scalar<'de>: Default {
    fn from_u64(value: u64) -> Self;
    fn from_i64(value: i64) -> Self;
    fn from_f64(value: f64) -> Self;
    fn from_bool(value: bool) -> Self;
    fn from_text(value: &str) -> Self;

    fn from_borrowed(value: &'de str) -> Self {
        Self::from_text(value)
    }
}

/// Reads any JSON value as `T`; for `#[serde(default, deserialize_with = "scalar")]`.
pub(crate) fn scalar<'de, D: Deserializer<'de>, T: Scalar<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_any(Tolerant(PhantomData))
}

/// The same, for hand-written visitors.
pub(crate) struct Seed<T>(PhantomData<T>);

impl<T> Seed<T> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<'de, T: Scalar<'de>> de::DeserializeSeed<'de> for Seed<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<T, D::Error> {
        scalar(from)
    }
}

struct Tolerant<T>(PhantomData<T>);

impl<'de, T: Scalar<'de>> Visitor<'de> for Tolerant<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<T, E> {
        Ok(T::from_bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<T, E> {
        Ok(T::from_u64(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<T, E> {
        Ok(T::from_i64(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<T, E> {
        Ok(T::from_f64(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<T, E> {
        Ok(T::from_borrowed(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<T, E> {
        Ok(T::from_text(value))
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(T::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(T::default())
    }
}

/// Below this every whole number has an exact `f64`.
const EXACT: f64 = 9_007_199_254_740_992.0;

impl Scalar<'_> for Option<u64> {
    fn from_u64(value: u64) -> Self {
        Some(value)
    }

    fn from_i64(value: i64) -> Self {
        u64::try_from(value).ok()
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked just before"
    )]
    fn from_f64(value: f64) -> Self {
        (0.0..=EXACT).contains(&value).then(|| value.round() as u64)
    }

    fn from_bool(_: bool) -> Self {
        None
    }

    fn from_text(value: &str) -> Self {
        let value = value.trim();
        value.parse().ok().or_else(|| value.parse().ok().and_then(Self::from_f64))
    }
}

impl Scalar<'_> for Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a usage number; 2^53 is precise enough")]
    fn from_u64(value: u64) -> Self {
        Some(value as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "a usage number; 2^53 is precise enough")]
    fn from_i64(value: i64) -> Self {
        Some(value as f64)
    }

    fn from_f64(value: f64) -> Self {
        value.is_finite().then_some(value)
    }

    fn from_bool(_: bool) -> Self {
        None
    }

    fn from_text(value: &str) -> Self {
        value.trim().parse().ok().and_then(Self::from_f64)
    }
}

impl Scalar<'_> for Option<bool> {
    fn from_u64(value: u64) -> Self {
        Some(value != 0)
    }

    fn from_i64(value: i64) -> Self {
        Some(value != 0)
    }

    fn from_f64(value: f64) -> Self {
        Some(value != 0.0)
    }

    fn from_bool(value: bool) -> Self {
        Some(value)
    }

    fn from_text(value: &str) -> Self {
        match value {
            "" | "0" | "false" | "no" | "off" => Some(false),
            "1" | "true" | "yes" | "on" => Some(true),
            _ => None,
        }
    }
}

impl<'de> Scalar<'de> for Option<Cow<'de, str>> {
    fn from_u64(value: u64) -> Self {
        Some(value.to_string().into())
    }

    fn from_i64(value: i64) -> Self {
        Some(value.to_string().into())
    }

    fn from_f64(value: f64) -> Self {
        Some(value.to_string().into())
    }

    fn from_bool(value: bool) -> Self {
        Some(if value { "1" } else { "0" }.into())
    }

    fn from_text(value: &str) -> Self {
        Some(value.to_owned().into())
    }

    fn from_borrowed(value: &'de str) -> Self {
        Some(value.into())
    }
}

impl Scalar<'_> for Option<String> {
    fn from_u64(value: u64) -> Self {
        Some(value.to_string())
    }

    fn from_i64(value: i64) -> Self {
        Some(value.to_string())
    }

    fn from_f64(value: f64) -> Self {
        Some(value.to_string())
    }

    fn from_bool(value: bool) -> Self {
        Some(if value { "1" } else { "0" }.to_owned())
    }

    fn from_text(value: &str) -> Self {
        Some(value.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'de, T: Scalar<'de>>(json: &'de str) -> T {
        scalar(&mut serde_json::Deserializer::from_str(json)).unwrap()
    }

    #[test]
    fn a_number_may_be_a_string_a_float_or_in_exponent_form() {
        for json in ["2048", "\"2048\"", "2048.0", "\"2048.0\"", "2.048e3", "\" 2048 \""] {
            assert_eq!(read::<Option<u64>>(json), Some(2048), "{json}");
            assert_eq!(read::<Option<f64>>(json), Some(2048.0), "{json}");
        }
        for json in ["-1", "null", "\"\"", "\"x\"", "true", "[1]", "{\"a\":[1]}", "1e300"] {
            assert_eq!(read::<Option<u64>>(json), None, "{json}");
        }
        assert_eq!(read::<Option<f64>>("3.4e-05"), Some(3.4e-05));
        assert_eq!(read::<Option<u64>>("18446744073709551615"), Some(u64::MAX));
    }

    #[test]
    fn perls_ways_of_saying_false_are_false() {
        for json in ["0", "\"0\"", "\"\"", "false", "0.0"] {
            assert_eq!(read::<Option<bool>>(json), Some(false), "{json}");
        }
        for json in ["1", "\"1\"", "true", "2"] {
            assert_eq!(read::<Option<bool>>(json), Some(true), "{json}");
        }
        for json in ["null", "\"maybe\"", "[]", "{}"] {
            assert_eq!(read::<Option<bool>>(json), None, "{json}");
        }
    }

    #[test]
    fn a_text_is_borrowed_unless_it_has_escapes() {
        assert!(matches!(read::<Option<Cow<'_, str>>>("\"abc\""), Some(Cow::Borrowed("abc"))));
        assert!(
            matches!(read::<Option<Cow<'_, str>>>("\"a\\u0062c\""), Some(Cow::Owned(text)) if text == "abc")
        );
        // A guest called 123 comes as a number when Perl once used its name as one.
        assert_eq!(read::<Option<Cow<'_, str>>>("123").as_deref(), Some("123"));
    }
}
