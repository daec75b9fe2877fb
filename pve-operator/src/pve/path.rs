//! What may stand in the path of a request, checked before a request exists.
//!
//! Values from a database or a caller become types here, and only these types become path
//! segments. So no value can climb out of its place (`..`, `/`, `%2f`) or start a query (`?`, `#`).

use std::{fmt, str::FromStr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::PveError;

/// The name of a node as PVE knows it: a short host name, case-sensitive.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeName(Box<str>);

impl NodeName {
    /// # Errors
    ///
    /// [`PveError::Input`] if `name` is not a host name label (`[A-Za-z0-9]` and inner `-`, at
    /// most 63 long; pve-common: `src/PVE/JSONSchema.pm`, format `pve-node`).
    pub fn new(name: &str) -> Result<Self, PveError> {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let whole = !name.is_empty()
            && name.len() <= 63
            && name.bytes().all(inner)
            && !name.starts_with('-')
            && !name.ends_with('-');
        if whole { Ok(Self(name.into())) } else { Err(refused("node name", name)) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeName {
    type Err = PveError;

    fn from_str(name: &str) -> Result<Self, PveError> {
        Self::new(name)
    }
}

/// The number of a guest, unique in its PVE cluster over QEMU and LXC.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Vmid(u32);

impl Vmid {
    /// PVE allows 100 to 999999999 for new guests; smaller ones exist from old times.
    ///
    /// # Errors
    ///
    /// [`PveError::Input`] for 0 and for more than nine digits.
    pub fn new(number: u32) -> Result<Self, PveError> {
        if (1..=999_999_999).contains(&number) {
            Ok(Self(number))
        } else {
            Err(refused("VMID", &number.to_string()))
        }
    }

    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a storage.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StorageName(Box<str>);

impl StorageName {
    /// # Errors
    ///
    /// [`PveError::Input`] unless it is a letter followed by letters, digits, `-`, `_`, `.` and
    /// ends in a letter or digit (pve-storage: `src/PVE/JSONSchema.pm`, `parse_storage_id`).
    pub fn new(name: &str) -> Result<Self, PveError> {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let whole = name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name.ends_with(|last: char| last.is_ascii_alphanumeric())
            && name.len() <= 100
            && name.bytes().all(inner);
        if whole { Ok(Self(name.into())) } else { Err(refused("storage name", name)) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StorageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for StorageName {
    type Err = PveError;

    fn from_str(name: &str) -> Result<Self, PveError> {
        Self::new(name)
    }
}

/// The path of one request below `/api2/json`, and the pattern that metrics count it under.
#[derive(Clone, Debug)]
pub(crate) struct ApiPath {
    path: String,
    pattern: &'static str,
}

impl ApiPath {
    /// Fills the `{…}` of `pattern` with `segments`, percent-encoded, in order. A `{volid}` may hold
    /// `/`, which stays one segment as `%2F`: give it the text of a [`Volid`](super::Volid) only.
    ///
    /// # Errors
    ///
    /// [`PveError::Input`] if a segment is empty, is `.` or `..`, or holds `/ ? # %`, a
    /// backslash or a control character. Nothing PVE calls a segment has them, and what was
    /// encoded before would be encoded twice.
    pub(crate) fn new(pattern: &'static str, segments: &[&str]) -> Result<Self, PveError> {
        let mut segments = segments.iter();
        let mut path = String::with_capacity(pattern.len() + 32);
        for part in pattern.split('/').skip(1) {
            path.push('/');
            if part.starts_with('{') {
                let segment =
                    segments.next().expect("each caller gives as many as its pattern has");
                let forbidden = if part == "{volid}" { "\\?#%" } else { "/\\?#%" };
                let bad = |c: char| c.is_control() || forbidden.contains(c);
                if segment.is_empty() || matches!(*segment, "." | "..") || segment.contains(bad) {
                    return Err(refused("path segment", segment));
                }
                path.extend(utf8_percent_encode(segment, SEGMENT));
            } else {
                path.push_str(part);
            }
        }
        debug_assert!(segments.next().is_none(), "more segments than {pattern} has");
        Ok(Self { path, pattern })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.path
    }

    pub(crate) fn pattern(&self) -> &'static str {
        self.pattern
    }
}

/// All but RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(super) fn refused(what: &str, value: &str) -> PveError {
    let shown: String = value.chars().take(64).collect();
    PveError::Input { what: format!("{shown:?} is not a {what}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_segment_that_could_leave_its_place_never_becomes_a_path() {
        for segment in ["", ".", "..", "a/b", "../x", "a?b", "a#b", "%2f", "a%2fb", "a\0b", "a\\b"]
        {
            let path = ApiPath::new("/nodes/{node}/qemu", &[segment]);

            assert!(matches!(path, Err(PveError::Input { .. })), "{segment:?}");
            assert!(NodeName::new(segment).is_err(), "{segment:?}");
            assert!(StorageName::new(segment).is_err(), "{segment:?}");
        }
    }

    #[test]
    fn a_upid_is_encoded_as_the_recordings_show_it() {
        let upid = "UPID:pve1:00001C55:000768CE:6B0200D6:qmdestroy:300:tmpl@pve!tk:";

        let path = ApiPath::new("/nodes/{node}/tasks/{upid}/log", &["pve1", upid]).unwrap();

        assert_eq!(
            path.as_str(),
            "/nodes/pve1/tasks/UPID%3Apve1%3A00001C55%3A000768CE%3A6B0200D6%3Aqmdestroy%3A300%3Atmpl%40pve%21tk%3A/log"
        );
        assert_eq!(path.pattern(), "/nodes/{node}/tasks/{upid}/log");
    }

    proptest! {
        /// Whatever the segment is, the path has the segments of its pattern, and no query.
        #[test]
        fn the_shape_of_a_path_is_that_of_its_pattern(segment in any::<String>()) {
            if let Ok(path) = ApiPath::new("/nodes/{node}/qemu", &[&segment]) {
                let url = url::Url::parse(&format!("https://h{}", path.as_str())).unwrap();
                let segments: Vec<_> = url.path_segments().unwrap().collect();
                prop_assert_eq!(segments.len(), 3);
                prop_assert_eq!((segments[0], segments[2]), ("nodes", "qemu"));
                prop_assert!(url.query().is_none() && url.fragment().is_none());
            }
        }
    }
}
