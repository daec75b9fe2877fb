//! Secrets: how they are held in memory and sealed in the tables.

use std::fmt;

/// Text that no log, error or `Debug` shows.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Why a secret could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The table has a sealed secret and this program got no key.
    #[error("the secret is sealed: start with the --secret-key-file that it was sealed with")]
    NoKey,
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}
