//! Cuts the list in a broken JSON body into its elements.
//!
//! Used only after a parse of the whole failed. It looks at nothing but strings and brackets, so
//! it passes over whatever is wrong inside an element, and it insists on the end of the list:
//! half a list is none.

/// The elements of the list called `data` in the object that `text` is.
///
/// `None` if brackets or quotes do not match, if the list is not there, or if anything but blanks
/// follows the object.
pub(crate) fn of_data(text: &str) -> Option<Vec<&str>> {
    let mut at = Cursor { text, pos: 0 };
    let mut found = None;
    at.take(b'{')?;
    if at.take(b'}').is_none() {
        loop {
            let key = at.string()?;
            at.take(b':')?;
            if key == "data" && found.is_none() {
                found = Some(at.list()?);
            } else {
                at.value()?;
            }
            if at.take(b',').is_none() {
                at.take(b'}')?;
                break;
            }
        }
    }
    at.blanks();
    if at.pos == text.len() { found } else { None }
}

struct Cursor<'a> {
    text: &'a str,
    pos: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.pos += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.blanks();
        (self.peek()? == byte).then(|| self.pos += 1)
    }

    /// The raw inside of a string.
    fn string(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let start = self.pos;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => self.pos += 2,
                _ => self.pos += 1,
            }
        }
        self.pos += 1;
        self.text.get(start..self.pos - 1)
    }

    fn list(&mut self) -> Option<Vec<&'a str>> {
        let mut elements = Vec::new();
        self.take(b'[')?;
        if self.take(b']').is_some() {
            return Some(elements);
        }
        loop {
            elements.push(self.value()?);
            if self.take(b',').is_none() {
                self.take(b']')?;
                return Some(elements);
            }
        }
    }

    /// Everything up to the `,`, `]` or `}` that ends this value.
    fn value(&mut self) -> Option<&'a str> {
        self.blanks();
        let start = self.pos;
        let mut open = Vec::new();
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' => open.push(b'}'),
                b'[' => open.push(b']'),
                b',' if open.is_empty() => break,
                close @ (b'}' | b']') => match open.pop() {
                    None => break,
                    Some(expected) if expected == close => {}
                    Some(_) => return None,
                },
                _ => {}
            }
            self.pos += 1;
        }
        self.text.get(start..self.pos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_apart_at_the_commas_between_them() {
        let text =
            r#" {"total":[1,{"data":2}], "data" : [ {"a":"],}\""}, oops!, [1,2] ,{}] , "x":"y"} "#;

        let elements: Vec<_> = of_data(text).unwrap().into_iter().map(str::trim).collect();

        assert_eq!(elements, [r#"{"a":"],}\""}"#, "oops!", "[1,2]", "{}"]);
    }

    #[test]
    fn half_a_list_is_none() {
        for text in [
            r#"{"data":[{"a":1},{"b":2}"#,
            r#"{"data":[{"a":1},{"b":2}]"#,
            r#"{"data":[{"a":1},{"b""#,
            r#"{"data":[{"a":1]}]}"#,
            r#"{"data":[]}{"data":[]}"#,
            r#"{"data":null}"#,
            r#"{"other":[]}"#,
            "{}",
            "",
            "[]",
            "\\",
            r#"{"data":["\"#,
        ] {
            assert_eq!(of_data(text), None, "{text}");
        }
    }
}
