//! Why an image is not given to any node.

use crate::images::ImageError;

/// What is wrong with an image and what to do about it, in one sentence for whoever sent it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    pub reason: String,
}

impl Refused {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// Why an image has no verdict, or a bad one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The image is at fault: whoever sent it can do something about it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The image could not be read.
    #[error(transparent)]
    Store(#[from] ImageError),
}

/// Refuses with a sentence, as `format!` takes it.
macro_rules! refuse {
    ($($sentence:tt)*) => {
        return Err($crate::image_format::Refused::new(format!($($sentence)*)).into())
    };
}
pub(super) use refuse;

/// What a stranger's image says, so that it can stand in a sentence of ours: short, and without
/// anything that a terminal or a page would act on.
pub(super) fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let mut shown: String = text.chars().take(100).map(plain).collect();
    if text.chars().nth(100).is_some() {
        shown.push('…');
    }
    shown
}
