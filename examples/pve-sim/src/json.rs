//! Writes rows of JSON straight into a buffer.
//!
//! `/cluster/resources` is asked for every few seconds by everybody; building a tree of values
//! for a thousand guests would cost ten times the time of writing the text.

use serde::Serialize;

/// A `{"data":[…]}` in the making; rows are kept apart so that they can be shuffled.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Rows {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        Self { text: Vec::with_capacity(rows * 400), ends: Vec::with_capacity(rows) }
    }

    /// Starts a row; it ends when the returned object is dropped.
    pub(crate) fn row(&mut self) -> Object<'_> {
        Object::new(&mut self.text, Some(&mut self.ends))
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// `[row,row,…]` in the given order of row numbers.
    pub(crate) fn into_list(self, order: impl Iterator<Item = usize>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.text.len() + self.ends.len() + 2);
        out.push(b'[');
        for at in order {
            let start = if at == 0 { 0 } else { self.ends[at - 1] };
            if out.len() > 1 {
                out.push(b',');
            }
            out.extend_from_slice(&self.text[start..self.ends[at]]);
        }
        out.push(b']');
        out
    }
}

/// One JSON object on its own.
pub(crate) fn object(write: impl FnOnce(&mut Object<'_>)) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    write(&mut Object::new(&mut text, None));
    text
}

/// One JSON object being written.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    text: &'a mut Vec<u8>,
    ends: Option<&'a mut Vec<usize>>,
    first: bool,
}

impl<'a> Object<'a> {
    fn new(text: &'a mut Vec<u8>, ends: Option<&'a mut Vec<usize>>) -> Self {
        text.push(b'{');
        Self { text, ends, first: true }
    }

    fn key(&mut self, key: &str) {
        if !self.first {
            self.text.push(b',');
        }
        self.first = false;
        self.text.push(b'"');
        self.text.extend_from_slice(key.as_bytes());
        self.text.extend_from_slice(b"\":");
    }

    pub(crate) fn str(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        if value.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\' && b < 0x7f) {
            self.text.push(b'"');
            self.text.extend_from_slice(value.as_bytes());
            self.text.push(b'"');
        } else {
            write_json(self.text, value);
        }
        self
    }

    pub(crate) fn opt(&mut self, key: &str, value: Option<&str>) -> &mut Self {
        if let Some(value) = value {
            self.str(key, value);
        }
        self
    }

    pub(crate) fn num(&mut self, key: &str, value: u64) -> &mut Self {
        self.key(key);
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        let mut rest = value;
        loop {
            at -= 1;
            digits[at] = b'0' + u8::try_from(rest % 10).expect("a digit fits");
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.text.extend_from_slice(&digits[at..]);
        self
    }

    pub(crate) fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.num(key, u64::from(value))
    }

    /// A float as PVE writes it; a whole zero is `0`.
    pub(crate) fn float(&mut self, key: &str, value: f64) -> &mut Self {
        if value == 0.0 {
            return self.num(key, 0);
        }
        self.json(key, &value)
    }

    pub(crate) fn json(&mut self, key: &str, value: &impl Serialize) -> &mut Self {
        self.key(key);
        write_json(self.text, value);
        self
    }
}

impl Drop for Object<'_> {
    fn drop(&mut self) {
        self.text.push(b'}');
        if let Some(ends) = self.ends.as_deref_mut() {
            ends.push(self.text.len());
        }
    }
}

fn write_json<T: Serialize + ?Sized>(text: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(text, value).expect("strings, numbers and maps of them serialise");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_the_order_that_was_asked_for() {
        let mut rows = Rows::with_capacity(2);
        rows.row().str("a", "x\"y").num("n", 0);
        rows.row().num("n", 18_446_744_073_709_551_615).float("cpu", 0.5).flag("f", true);

        let text = rows.into_list([1, 0].into_iter());

        assert_eq!(
            String::from_utf8(text).unwrap(),
            r#"[{"n":18446744073709551615,"cpu":0.5,"f":1},{"a":"x\"y","n":0}]"#
        );
    }
}
