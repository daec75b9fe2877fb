//! Bytes as hexadecimal text.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Lower case, without anything between.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// SHA-256 of a text, as 64 lower-case digits.
pub(crate) fn sha256(text: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, text).as_ref())
}
