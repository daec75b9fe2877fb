//! `Range: bytes=…`, one range of it (RFC 9110, 14.2).

use std::ops::Range;

/// Which bytes are asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Asked {
    Whole,
    Part(Range<u64>),
    /// Begins after the end.
    Beyond,
}

/// Reads the header. What is no range of bytes, or several, is passed over, as the RFC allows: the
/// answer then is the whole.
pub(crate) fn parse(header: Option<&str>, length: u64) -> Asked {
    let Some(ranges) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Asked::Whole;
    };
    let Some((first, last)) = ranges.split_once('-') else { return Asked::Whole };
    let (first, last) = (first.trim(), last.trim());
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => Asked::Whole,
        (Some(first), _) if first >= length && (last.is_empty() || number(last).is_some()) => {
            Asked::Beyond
        }
        (Some(first), Some(last)) => Asked::Part(first..last.saturating_add(1).min(length)),
        (Some(first), None) if last.is_empty() => Asked::Part(first..length),
        (None, Some(0)) if first.is_empty() => Asked::Beyond,
        (None, Some(_)) if first.is_empty() && length == 0 => Asked::Beyond,
        (None, Some(suffix)) if first.is_empty() => {
            Asked::Part(length.saturating_sub(suffix)..length)
        }
        _ => Asked::Whole,
    }
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    // B16
    #[test]
    fn ranges_as_the_rfc_has_them() {
        let part = |range: Range<u64>| Asked::Part(range);
        for (header, expected) in [
            ("bytes=0-0", part(0..1)),
            ("bytes=0-9", part(0..10)),
            ("bytes=3-", part(3..10)),
            ("bytes=3-99", part(3..10)),
            ("bytes=3-18446744073709551615", part(3..10)),
            ("bytes=-3", part(7..10)),
            ("bytes=-99", part(0..10)),
            ("bytes= 3 - 4 ", part(3..5)),
            ("bytes=10-", Asked::Beyond),
            ("bytes=10-20", Asked::Beyond),
            ("bytes=-0", Asked::Beyond),
            ("bytes=5-3", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=0-1,3-4", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("bytes=99999999999999999999-", Asked::Whole),
            ("items=0-1", Asked::Whole),
            ("", Asked::Whole),
        ] {
            assert_eq!(parse(Some(header), 10), expected, "{header}");
        }
        assert_eq!(parse(None, 10), Asked::Whole);
        assert_eq!(parse(Some("bytes=0-"), 0), Asked::Beyond);
        assert_eq!(parse(Some("bytes=-1"), 0), Asked::Beyond);
    }
}
