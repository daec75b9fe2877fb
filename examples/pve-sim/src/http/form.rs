//! PVE's reader of multipart forms, which is no general one.
//!
//! It wants `content`, `checksum-algorithm`, `checksum` and then the file, in this order, and it
//! looks for the end of the file's own header only in the bytes that it has when it finds the
//! file's name: where that header arrives in two pieces, its second half becomes part of the file
//! (pve-http-server: AnyEvent.pm:1280; seen on PVE 9.2.11).

use std::collections::BTreeMap;

use crate::world::file::Digest;

const FIELDS: [&str; 3] = ["content", "checksum-algorithm", "checksum"];
/// A header of a form longer than this is nobody's.
const LONGEST_HEADER: usize = 64 << 10;

/// A form that is being read.
#[derive(Debug)]
pub(crate) struct Form {
    /// `--boundary`.
    delimiter: Vec<u8>,
    buffer: Vec<u8>,
    fields: BTreeMap<String, String>,
    /// How many of [`FIELDS`] can no longer come.
    passed: usize,
    file: Option<Digest>,
    whole: bool,
}

impl Form {
    pub(crate) fn new(boundary: &str) -> Self {
        Self {
            delimiter: format!("--{boundary}").into_bytes(),
            buffer: Vec::new(),
            fields: BTreeMap::new(),
            passed: 0,
            file: None,
            whole: false,
        }
    }

    /// Whether the closing boundary has come.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Takes what one read brought.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.buffer.extend_from_slice(bytes);
        while self.file.is_none() {
            if !self.next_part()? {
                if self.buffer.len() > LONGEST_HEADER {
                    return Err("upload failed".to_owned());
                }
                return Ok(());
            }
        }
        self.read_file();
        Ok(())
    }

    /// The fields, and what was read of the file.
    pub(crate) fn finish(mut self) -> (BTreeMap<String, String>, Option<Digest>) {
        if let Some(file) = &mut self.file
            && !self.whole
        {
            // A length that was too short cuts the closing boundary off: PVE sees it all the same.
            let end = [b"\r\n", self.delimiter.as_slice(), b"--"].concat();
            let longest = end.len().min(self.buffer.len());
            let cut = (0..=longest).rev().find(|n| self.buffer.ends_with(&end[..*n]));
            let keep = self.buffer.len() - cut.unwrap_or(0);
            file.take(&self.buffer[..keep]);
        }
        (self.fields, self.file)
    }

    /// Reads a field, or the header of the file; `false` if more must come first.
    fn next_part(&mut self) -> Result<bool, String> {
        let Some(start) = position(&self.buffer, &self.delimiter) else { return Ok(false) };
        self.buffer.drain(..start);
        let rest = &self.buffer[self.delimiter.len()..];
        if rest.starts_with(b"--") {
            self.whole = true;
            return Err("upload failed".to_owned());
        }
        let Some(line) = rest.strip_prefix(b"\r\n") else {
            return if rest.len() < 2 { Ok(false) } else { Err("upload failed".to_owned()) };
        };
        let disposition = b"Content-Disposition: ";
        if !line.starts_with(disposition) {
            let partial = disposition.starts_with(&line[..line.len().min(disposition.len())]);
            return if partial && line.len() < disposition.len() {
                Ok(false)
            } else {
                Err("upload failed".to_owned())
            };
        }
        if let Some((name, filename, end)) = file_names(line) {
            if name != "filename" {
                return Err(format!(
                    "wrong field name '{name}' for file upload, expected 'filename'"
                ));
            }
            self.fields.insert("filename".to_owned(), filename);
            let after = line[end..].to_vec();
            // Only what is here now is searched.
            let data = position(&after, b"\r\n\r\n").map_or(0, |at| at + 4);
            self.buffer = after[data..].to_vec();
            self.file = Some(Digest::new());
            return Ok(true);
        }
        let Some(end) = position(line, &[b"\r\n", self.delimiter.as_slice()].concat()) else {
            return Ok(false);
        };
        let part = String::from_utf8_lossy(&line[..end]).into_owned();
        let consumed = self.delimiter.len() + 2 + end + 2;
        let (head, value) = part.split_once("\r\n\r\n").ok_or("upload failed")?;
        let name = head
            .split("; ")
            .find_map(|word| word.strip_prefix("name=\"")?.strip_suffix('"'))
            .ok_or("wrong Content-Disposition in upload")?;
        let place = FIELDS.iter().position(|field| *field == name);
        match place {
            Some(place) if place >= self.passed => self.passed = place + 1,
            Some(_) => {
                return Err(format!("wrong Content-Disposition '{head}' in upload"));
            }
            None => return Err(format!("wrong field name '{name}' for file upload")),
        }
        self.fields.insert(name.to_owned(), value.trim().to_owned());
        self.buffer.drain(..consumed);
        Ok(true)
    }

    /// Hashes what cannot be the closing boundary any more.
    fn read_file(&mut self) {
        let Some(file) = &mut self.file else { return };
        let end = [b"\r\n", self.delimiter.as_slice(), b"--"].concat();
        if let Some(at) = position(&self.buffer, &end) {
            file.take(&self.buffer[..at]);
            self.buffer.clear();
            self.whole = true;
            return;
        }
        let sure = self.buffer.len().saturating_sub(end.len() - 1);
        file.take(&self.buffer[..sure]);
        self.buffer.drain(..sure);
    }
}

/// The two names in a file's `Content-Disposition`, and where that ends.
fn file_names(line: &[u8]) -> Option<(String, String, usize)> {
    let whole = position(line, b"\r\n").unwrap_or(line.len());
    let line = &line[..whole];
    let value = |key: &[u8]| -> Option<(String, usize)> {
        let start = position(line, key)? + key.len();
        let end = start + position(&line[start..], b"\"")?;
        Some((String::from_utf8_lossy(&line[start..end]).into_owned(), end + 1))
    };
    let (name, _) = value(b" name=\"")?;
    let (filename, end) = value(b"; filename=\"")?;
    Some((name, filename, end))
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == first) {
        let at = from + at;
        if bytes[at..].starts_with(wanted) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "--XB\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\nimport\r\n\
                        --XB\r\nContent-Disposition: form-data; name=\"filename\"; \
                        filename=\"a.raw\"";
    const TYPE: &str = "\r\nContent-Type: application/octet-stream\r\n\r\n";

    fn size_of(pieces: &[&str]) -> u64 {
        let mut form = Form::new("XB");
        for piece in pieces {
            form.take(piece.as_bytes()).unwrap();
        }
        let (fields, file) = form.finish();
        assert_eq!((fields["content"].as_str(), fields["filename"].as_str()), ("import", "a.raw"));
        file.unwrap().size
    }

    #[test]
    fn a_header_in_two_pieces_becomes_part_of_the_file() {
        let whole = format!("{HEAD}{TYPE}data\r\n--XB--\r\n");

        assert_eq!(size_of(&[&whole]), 4);
        assert_eq!(size_of(&[HEAD, &format!("{TYPE}data\r\n--XB--\r\n")]), 48);
        // Anywhere else it may be cut.
        assert_eq!(size_of(&[&whole[..20], &whole[20..]]), 4);
        let inside = whole.len() - 8;
        assert_eq!(size_of(&[&whole[..inside], &whole[inside..]]), 4);
    }

    #[test]
    fn fields_after_the_file_become_part_of_it_and_a_short_length_does_not_matter() {
        let field = "\r\n--XB\r\nContent-Disposition: form-data; name=\"checksum\"\r\n\r\nff";

        let length = 4 + field.len() as u64;
        assert_eq!(size_of(&[&format!("{HEAD}{TYPE}data{field}\r\n--XB--\r\n")]), length);
        assert_eq!(size_of(&[&format!("{HEAD}{TYPE}data\r\n--X")]), 4);
    }

    #[test]
    fn fields_come_in_one_order_only() {
        let field = |name: &str| {
            format!("--XB\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\nx\r\n")
        };
        let mut wrong = Form::new("XB");
        let text = format!("{}{}--XB", field("checksum"), field("content"));

        assert!(wrong.take(text.as_bytes()).unwrap_err().starts_with("wrong Content-Disposition"));
        let unknown = Form::new("XB").take(format!("{}--XB", field("extra")).as_bytes());
        assert!(unknown.unwrap_err().contains("wrong field name"));
    }
}
