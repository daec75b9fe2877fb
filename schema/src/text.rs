//! Text made fit for a column.

use std::borrow::Cow;

/// The longest text, in characters, that a named column takes.
pub(crate) const NAME: usize = 255;
pub(crate) const WORD: usize = 64;

/// `text` without what databases refuse: PostgreSQL takes no NUL, and all but SQLite refuse
/// what is too long, which would hold up every other row of the batch.
pub(crate) fn fit(text: &str, longest: usize) -> Cow<'_, str> {
    // Bytes are at least as many as characters, so most texts are not counted.
    let long = text.len() > longest && text.chars().count() > longest;
    if !long && !text.contains('\0') {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().filter(|&c| c != '\0').take(longest).collect())
}

/// [`fit`] in place.
pub(crate) fn fit_in_place(text: &mut String, longest: usize) {
    if let Cow::Owned(fitted) = fit(text, longest) {
        *text = fitted;
    }
}

/// [`fit_in_place`] where there is text.
pub(crate) fn fit_some(text: &mut Option<String>, longest: usize) {
    if let Some(text) = text {
        fit_in_place(text, longest);
    }
}

/// Two lower-case digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|nibble| char::from_digit(nibble.into(), 16).unwrap_or('0')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_fits_is_borrowed() {
        assert!(matches!(fit("pve1", 4), Cow::Borrowed("pve1")));
        assert!(matches!(fit("äöüß", 4), Cow::Borrowed("äöüß")));
    }

    #[test]
    fn long_text_is_cut_between_characters_and_loses_its_nuls() {
        assert_eq!(fit("äöüßé", 4), "äöüß");
        assert_eq!(fit("a\0b", 4), "ab");
    }

    #[test]
    fn hex_has_two_digits_a_byte() {
        assert_eq!(hex(&[0, 0x0f, 0xa0, 0xff]), "000fa0ff");
    }
}
