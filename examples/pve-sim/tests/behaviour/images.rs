//! A web server with one image, that breaks connections as it is told.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What the server has been asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Ranges of GETs: where each began.
    pub(crate) from: Vec<u64>,
}

/// How it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manner {
    Good,
    /// The first so many GETs end after these many bytes.
    Drop {
        after: usize,
        times: usize,
    },
    /// The same, and it knows no ranges.
    DropWithoutRanges {
        after: usize,
        times: usize,
    },
    Status(u16, &'static str),
}

/// Serves until the process ends.
pub(crate) struct Images {
    pub(crate) address: SocketAddr,
    pub(crate) asked: Arc<Mutex<Asked>>,
}

impl Images {
    pub(crate) fn serve(image: Vec<u8>, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Asked::default()));
        let (image, seen) = (Arc::new(image), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (image, seen) = (Arc::clone(&image), Arc::clone(&seen));
                // A client that goes away is no error here.
                thread::spawn(move || answer(stream, &image, manner, &seen).is_ok());
            }
        });
        Self { address, asked }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/image.qcow2", self.address)
    }
}

fn answer(
    stream: TcpStream,
    image: &[u8],
    manner: Manner,
    seen: &Mutex<Asked>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let (mut line, mut head, mut from) = (String::new(), false, None);
    while reader.read_line(&mut line)? > 2 {
        head |= line.starts_with("HEAD ");
        let range = line.to_lowercase();
        if let Some(range) = range.strip_prefix("range: bytes=") {
            from = range.trim().trim_end_matches('-').parse::<usize>().ok();
        }
        line.clear();
    }
    let number = {
        let mut seen = seen.lock().unwrap();
        if !head {
            seen.from.push(from.unwrap_or(0) as u64);
        }
        seen.from.len()
    };
    if let Manner::Status(code, reason) = manner {
        return write!(stream, "HTTP/1.1 {code} {reason}\r\nContent-Length: 0\r\n\r\n");
    }
    let ranges = !matches!(manner, Manner::DropWithoutRanges { .. });
    let start = if ranges { from.unwrap_or(0) } else { 0 };
    let body = &image[start..];
    let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: application/octet-stream\r\n\
         Connection: close\r\n\r\n",
        body.len()
    )?;
    if head {
        return Ok(());
    }
    let cut = match manner {
        Manner::Drop { after, times } | Manner::DropWithoutRanges { after, times }
            if number <= times =>
        {
            after.min(body.len())
        }
        _ => body.len(),
    };
    stream.write_all(&body[..cut])
}

/// A qcow2 of so many bytes with a disk of `size` inside: a header, then noise.
pub(crate) fn qcow2(bytes: usize, size: u64) -> Vec<u8> {
    let mut image: Vec<u8> = (0..bytes).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    image[..4].copy_from_slice(b"QFI\xfb");
    image[4..8].copy_from_slice(&3_u32.to_be_bytes());
    image[24..32].copy_from_slice(&size.to_be_bytes());
    image
}

/// SHA-512 as PVE writes it.
pub(crate) fn sha512(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA512, bytes);
    let digits: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}
