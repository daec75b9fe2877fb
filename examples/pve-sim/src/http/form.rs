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

/// Why a form is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadForm {
    /// A field that is unknown, or comes where it may not: 400 "Bad Request" without a body.
    Field,
    /// 500 with these words as plain text.
    Failed(String),
}

impl BadForm {
    fn at(words: &str, line: u32) -> Self {
        Self::Failed(format!("{words} at /usr/share/perl5/PVE/APIServer/AnyEvent.pm line {line}."))
    }

    /// The reader came to the end without a file and its closing boundary.
    pub(crate) fn unfinished() -> Self {
        Self::at("upload failed", 1370)
    }
}

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
    /// Nothing that could come now would be understood.
    stuck: bool,
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
            stuck: false,
            whole: false,
        }
    }

    /// Whether the closing boundary has come.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Takes what one read brought.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), BadForm> {
        if self.stuck {
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        while self.file.is_none() {
            if !self.next_part()? {
                self.stuck |= self.buffer.len() > LONGEST_HEADER;
                return Ok(());
            }
        }
        self.read_file();
        Ok(())
    }

    /// The fields and the file.
    pub(crate) fn finish(mut self) -> Result<(BTreeMap<String, String>, Digest), BadForm> {
        let Some(mut file) = self.file.take() else { return Err(BadForm::unfinished()) };
        if !self.whole {
            // A length that was too short cuts the closing boundary off: PVE, which reads on, sees
            // it all the same.
            let end = [b"\r\n", self.delimiter.as_slice(), b"--"].concat();
            let cut = (4..=end.len()).rev().find(|n| self.buffer.ends_with(&end[..*n]));
            let cut = cut.ok_or_else(BadForm::unfinished)?;
            file.take(&self.buffer[..self.buffer.len() - cut]);
        }
        Ok((self.fields, file))
    }

    /// Reads a field, or the header of the file; `false` if more must come first.
    fn next_part(&mut self) -> Result<bool, BadForm> {
        const DISPOSITION: &[u8] = b"Content-Disposition: ";
        let Some(start) = position(&self.buffer, &self.delimiter) else { return Ok(false) };
        self.buffer.drain(..start);
        let rest = &self.buffer[self.delimiter.len()..];
        let Some(newline) = newline(rest) else {
            self.stuck = rest.len() > 1;
            return Ok(false);
        };
        let part = &rest[newline..];
        if !part.starts_with(DISPOSITION) {
            self.stuck = part.len() >= DISPOSITION.len();
            return Ok(false);
        }
        if let Some((name, filename, end)) = file_names(part) {
            if name != "filename" {
                let words =
                    format!("wrong field name '{name}' for file upload, expected 'filename'");
                return Err(BadForm::at(&words, 1325));
            }
            self.fields.insert("filename".to_owned(), filename);
            // Only what is here now is searched for the end of the header.
            let after = part[end..].to_vec();
            let data = blank_line(&after).map_or(0, |(_, end)| end);
            self.buffer = after[data..].to_vec();
            self.file = Some(Digest::new());
            return Ok(true);
        }
        let Some(end) = position(part, &self.delimiter) else { return Ok(false) };
        let Some((head_end, value_start)) = blank_line(&part[..end]) else {
            self.stuck = true;
            return Ok(false);
        };
        let head = String::from_utf8_lossy(&part[..head_end]).into_owned();
        let value = String::from_utf8_lossy(&part[value_start..end]).trim().to_owned();
        let line = head.lines().next().unwrap_or_default();
        let name = line.split("; ").find_map(|w| w.strip_prefix("name=\"")?.strip_suffix('"'));
        let place = FIELDS.iter().position(|field| Some(*field) == name);
        let Some(place) = place.filter(|place| *place >= self.passed) else {
            return Err(BadForm::Field);
        };
        self.passed = place + 1;
        self.fields.insert(FIELDS[place].to_owned(), value);
        let consumed = self.delimiter.len() + newline + end;
        self.buffer.drain(..consumed);
        Ok(true)
    }

    /// Hashes what cannot be the closing boundary any more.
    fn read_file(&mut self) {
        let Some(file) = &mut self.file else { return };
        let end = [self.delimiter.as_slice(), b"--"].concat();
        if let Some(at) = position(&self.buffer, &end) {
            let mut data = &self.buffer[..at];
            data = data.strip_suffix(b"\n").unwrap_or(data);
            data = data.strip_suffix(b"\r").unwrap_or(data);
            file.take(data);
            self.buffer.clear();
            self.whole = true;
            return;
        }
        let sure = self.buffer.len().saturating_sub(end.len() + 1);
        file.take(&self.buffer[..sure]);
        self.buffer.drain(..sure);
    }
}

/// How long the end of line is with which this begins.
fn newline(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'\r', b'\n', ..] => Some(2),
        [b'\n', ..] => Some(1),
        _ => None,
    }
}

/// Where the first blank line begins and ends.
fn blank_line(bytes: &[u8]) -> Option<(usize, usize)> {
    (0..bytes.len()).find_map(|at| {
        let first = newline(&bytes[at..])?;
        let second = newline(&bytes[at + first..])?;
        Some((at, at + first + second))
    })
}

/// The two names in a file's `Content-Disposition`, and where that ends.
fn file_names(part: &[u8]) -> Option<(String, String, usize)> {
    let whole = part.iter().position(|byte| *byte == b'\n').unwrap_or(part.len());
    let line = &part[..whole];
    let value = |key: &[u8]| -> Option<(String, usize)> {
        let start = position(line, key)? + key.len();
        let end = start + line[start..].iter().position(|byte| *byte == b'"')?;
        Some((String::from_utf8_lossy(&line[start..end]).into_owned(), end + 1))
    };
    let (name, _) = value(b"; name=\"")?;
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
        let (fields, file) = form.finish().unwrap();
        assert_eq!((fields["content"].as_str(), fields["filename"].as_str()), ("import", "a.raw"));
        file.size
    }

    #[test]
    fn a_header_in_two_pieces_becomes_part_of_the_file() {
        let whole = format!("{HEAD}{TYPE}data\r\n--XB--\r\n");

        assert_eq!(size_of(&[&whole]), 4);
        assert_eq!(size_of(&[HEAD, &format!("{TYPE}data\r\n--XB--\r\n")]), 48);
        let (some, rest) = TYPE.split_at(10);
        let first = format!("{HEAD}{some}");
        assert_eq!(size_of(&[&first, &format!("{rest}data\r\n--XB--\r\n")]), 48);
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

    /// Recorded on PVE 9.2.11: 501-507, 662, 663.
    #[test]
    fn what_it_does_not_know_is_refused_at_once_or_at_the_end() {
        let field = |name: &str| {
            format!("--XB\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\nx\r\n")
        };
        let late = format!("{}{}--XB", field("checksum"), field("content"));
        let unknown = format!("{}--XB", field("extra"));
        let file = HEAD.replace("\"filename\"", "\"file\"");
        let lower = format!("{HEAD}{TYPE}x\r\n--XB--").to_lowercase().replace("xb", "XB");
        let open = format!("{HEAD}{TYPE}data\r\n");

        assert_eq!(Form::new("XB").take(late.as_bytes()), Err(BadForm::Field));
        assert_eq!(Form::new("XB").take(unknown.as_bytes()), Err(BadForm::Field));
        let wrong = Form::new("XB").take(file.as_bytes()).unwrap_err();
        assert!(format!("{wrong:?}").contains("wrong field name 'file' for file upload"));
        for text in [lower, open] {
            let mut form = Form::new("XB");
            form.take(text.as_bytes()).unwrap();
            assert_eq!(form.finish().unwrap_err(), BadForm::unfinished(), "{text}");
        }
    }

    #[test]
    fn lines_may_end_without_carriage_returns() {
        assert_eq!(size_of(&[&format!("{HEAD}{TYPE}data\r\n--XB--\r\n").replace('\r', "")]), 4);
    }
}
