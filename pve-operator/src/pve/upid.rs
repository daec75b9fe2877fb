//! Names of PVE tasks.

use std::{fmt, str::FromStr};

use super::{NodeName, PveError};

/// The name of a task: `UPID:node:pid:pstart:starttime:type:id:user:`.
///
/// The node in it is the one to ask about the task, which for uploads is not the one the task
/// works for (pve-common: `src/PVE/UPID.pm:16`). Displays as what was parsed.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Upid {
    text: Box<str>,
    node: NodeName,
    pid: u32,
    pstart: u64,
    starttime: u32,
    kind: Box<str>,
    id: Box<str>,
    user: Box<str>,
}

impl Upid {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn node(&self) -> &NodeName {
        &self.node
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// When the process started, in clock ticks since boot; outgrows 32 bits on long uptimes.
    pub fn pstart(&self) -> u64 {
        self.pstart
    }

    /// Seconds since 1970.
    pub fn starttime(&self) -> u32 {
        self.starttime
    }

    /// `qmcreate`, `qmclone`, `imgcopy`, `download`, …
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What it works on: a VMID (a clone's source), a file name, or nothing.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `user@realm`, or `user@realm!tokenid`.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The token id in [`Self::user`].
    pub fn token_id(&self) -> Option<&str> {
        self.user.split_once('!').map(|(_, id)| id)
    }
}

impl FromStr for Upid {
    type Err = PveError;

    fn from_str(text: &str) -> Result<Self, PveError> {
        parse(text).ok_or_else(|| {
            let shown: String = text.chars().take(128).collect();
            PveError::Input { what: format!("{shown:?} is not a task id") }
        })
    }
}

fn parse(text: &str) -> Option<Upid> {
    let bad = |c: char| c.is_control() || c.is_whitespace() || "/\\?#%".contains(c);
    if text.contains(bad) {
        return None;
    }
    let mut parts = text.split(':');
    if parts.next()? != "UPID" {
        return None;
    }
    let node = NodeName::new(parts.next()?).ok()?;
    let pid = hex(parts.next()?, 8..=8)?;
    let pstart = hex(parts.next()?, 8..=9)?;
    let starttime = hex(parts.next()?, 8..=8)?;
    let kind = parts.next().filter(|kind| !kind.is_empty())?;
    let id = parts.next()?;
    let user = parts.next().filter(|user| !user.is_empty())?;
    if parts.next() != Some("") || parts.next().is_some() {
        return None;
    }
    Some(Upid {
        text: text.into(),
        node,
        pid: u32::try_from(pid).ok()?,
        pstart,
        starttime: u32::try_from(starttime).ok()?,
        kind: kind.into(),
        id: id.into(),
        user: user.into(),
    })
}

fn hex(digits: &str, lengths: std::ops::RangeInclusive<usize>) -> Option<u64> {
    let whole = lengths.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if whole { u64::from_str_radix(digits, 16).ok() } else { None }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_upid_has_all_its_fields() {
        let text = "UPID:pve1:00001C55:1000768CE:6B0200D6:qmdestroy:300:tmpl@pve!tk:";

        let upid: Upid = text.parse().unwrap();

        assert_eq!(upid.to_string(), text);
        assert_eq!((upid.node().as_str(), upid.pid()), ("pve1", 0x1C55));
        assert_eq!((upid.pstart(), upid.starttime()), (0x1_0007_68CE, 0x6B02_00D6));
        assert_eq!((upid.kind(), upid.id()), ("qmdestroy", "300"));
        assert_eq!((upid.user(), upid.token_id()), ("tmpl@pve!tk", Some("tk")));
    }

    #[test]
    fn an_uploads_upid_has_an_empty_id() {
        let upid: Upid = "UPID:pve1:000051B6:0003944C:6B01F708:imgcopy::root@pam:".parse().unwrap();

        assert_eq!((upid.kind(), upid.id(), upid.token_id()), ("imgcopy", "", None));
    }

    #[test]
    fn what_is_no_upid_is_refused() {
        for text in [
            "",
            "UPID:",
            "UPID:pve1:000051B6:0003944C:6B01F708:imgcopy::root@pam",
            "UPID:pve1:000051B6:0003944C:6B01F708:imgcopy::root@pam:x",
            "UPID:pve1:51B6:0003944C:6B01F708:imgcopy::root@pam:",
            "UPID:../x:000051B6:0003944C:6B01F708:imgcopy::root@pam:",
            "UPID:pve1:000051B6:0003944C:6B01F708:imgcopy:a/b:root@pam:",
            "UPID:pve1:000051B6:0003944C:6B01F708:imgcopy:%2f:root@pam:",
            "UPID:pve1:000051B6:+003944C:6B01F708:imgcopy::root@pam:",
        ] {
            assert!(text.parse::<Upid>().is_err(), "{text}");
        }
    }
}
