//! What an image is called inside the store.

use std::fmt;
use std::str::FromStr;

use super::ImageError;

/// The name of one image in the store, as `template_upload.file_path` keeps it.
///
/// `sha256/HEX64` in a folder, where the content decides the name, and `uploads/HEX32` in a
/// bucket, where it is random. There are no others, so a name read from a row can not lead out of
/// the store.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectName(String);

pub(super) const BY_CONTENT: &str = "sha256";
pub(super) const BY_UPLOAD: &str = "uploads";

impl ObjectName {
    pub(super) fn of_content(sha256: &str) -> Result<Self, ImageError> {
        format!("{BY_CONTENT}/{sha256}").parse()
    }

    pub(super) fn of_upload(id: &str) -> Result<Self, ImageError> {
        format!("{BY_UPLOAD}/{id}").parse()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digest, if the name is made of it.
    pub fn sha256(&self) -> Option<&str> {
        self.0.strip_prefix(BY_CONTENT)?.strip_prefix('/')
    }
}

impl FromStr for ObjectName {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let hex = |id: &str| id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match text.split_once('/') {
            Some((BY_CONTENT, id)) if id.len() == 64 && hex(id) => Ok(Self(text.to_owned())),
            Some((BY_UPLOAD, id)) if id.len() == 32 && hex(id) => Ok(Self(text.to_owned())),
            _ => Err(ImageError::Name { name: text.chars().take(100).collect() }),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 128 random bits in hex.
pub(super) fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_store_gives_are_names() {
        let content = format!("sha256/{}", "0af9".repeat(16));

        assert_eq!(content.parse::<ObjectName>().unwrap().sha256(), Some(&content[7..]));
        assert!(format!("uploads/{}", random_id()).parse::<ObjectName>().is_ok());
        for stranger in [
            "",
            "sha256",
            "sha256/",
            "sha256/../../etc/passwd",
            "/etc/passwd",
            "uploads/0af9",
            &content.to_uppercase(),
            &format!("{content}0"),
            &format!("unfinished/{}", "0af9".repeat(8)),
        ] {
            assert!(stranger.parse::<ObjectName>().is_err(), "{stranger:?}");
        }
    }
}
