//! The image server of the laboratory, with the files and the faults that it had.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use ring::digest::{Context, SHA256, SHA512};

/// Name, bytes, and the size of the disk inside.
pub(crate) const IMAGES: [(&str, u64, u64); 6] = [
    ("big.qcow2", 377_946_112, 2 << 30),
    ("x.qcow2", 42_270_720, 256 << 20),
    ("mid.qcow2", 21_299_200, 512 << 20),
    ("tiny.qcow2", 4_521_984, 64 << 20),
    ("junk.img", 1_048_576, 0),
    ("small.iso", 358_400, 0),
];

/// The first bytes of an image; zeros follow.
pub(crate) fn head(size: u64) -> Vec<u8> {
    let mut head = vec![0; 512];
    if size > 0 {
        head[..4].copy_from_slice(b"QFI\xfb");
        head[24..32].copy_from_slice(&size.to_be_bytes());
    }
    head
}

/// The sum of an image in an algorithm, counted once.
pub(crate) fn sum(name: &str, algorithm: &str) -> Option<String> {
    static KNOWN: Mutex<BTreeMap<(String, bool), String>> = Mutex::new(BTreeMap::new());
    let (_, bytes, size) = *IMAGES.iter().find(|(known, ..)| *known == name)?;
    let short = algorithm == "sha256";
    let mut known = KNOWN.lock().expect("nobody panics with it");
    let sum = known.entry((name.to_owned(), short)).or_insert_with(|| {
        let mut digest = Context::new(if short { &SHA256 } else { &SHA512 });
        let head = head(size);
        digest.update(&head);
        let zeros = vec![0; 1 << 20];
        let mut left = bytes - head.len() as u64;
        while left > 0 {
            let piece = left.min(1 << 20);
            digest.update(&zeros[..usize::try_from(piece).expect("a MiB")]);
            left -= piece;
        }
        let sum = digest.finish();
        sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
    });
    Some(sum.clone())
}

/// Serves until the process ends.
pub(crate) fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let dropped = Arc::new(Mutex::new(Vec::new()));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let dropped = Arc::clone(&dropped);
            // A client that goes away is no error here.
            thread::spawn(move || answer(stream, &dropped).is_ok());
        }
    });
    address
}

fn answer(mut stream: TcpStream, dropped: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut from) = (String::new(), 0);
    reader.read_line(&mut line)?;
    let (head_only, target) =
        (line.starts_with("HEAD"), line.split(' ').nth(1).unwrap_or("/").to_owned());
    loop {
        line.clear();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        let lower = line.to_lowercase();
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            from = range.trim().trim_end_matches('-').parse().unwrap_or(0);
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let has = |key: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
            .map(str::to_owned)
    };
    if let Some(code) = has("code") {
        let reason = match code.as_str() {
            "403" => "Forbidden",
            "404" => "Not Found",
            "429" => "Too Many Requests",
            "500" => "Internal Server Error",
            _ => "Service Unavailable",
        };
        return write!(stream, "HTTP/1.1 {code} {reason}\r\nContent-Length: 0\r\n\r\n");
    }
    if let Some(to) = path.strip_prefix("/redir") {
        return write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    }
    if path == "/err500" {
        return write!(stream, "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
    }
    let name = path.trim_start_matches("/slow").trim_start_matches('/');
    let Some((_, bytes, size)) = IMAGES.iter().find(|(known, ..)| *known == name) else {
        return write!(stream, "HTTP/1.1 404 File not found\r\nContent-Length: 0\r\n\r\n");
    };
    if has("norange").is_some() {
        from = 0;
    }
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let iso = std::path::Path::new(name).extension().is_some_and(|end| end == "iso");
    let kind = if iso { "x-iso9660-image" } else { "octet-stream" };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/{kind}\r\nConnection: close\r\n"
    )?;
    if has("nolen").is_none() {
        write!(stream, "Content-Length: {}\r\n", bytes - from)?;
    }
    write!(stream, "\r\n")?;
    if head_only {
        return Ok(());
    }
    let mut left = bytes - from;
    if let (Some(after), Some(id)) = (has("drop").and_then(|n| n.parse().ok()), has("id")) {
        let mut dropped = dropped.lock().expect("nobody panics with it");
        if !dropped.contains(&id) {
            dropped.push(id);
            left = after;
        }
    }
    let mut whole = std::io::Cursor::new(head(*size)).chain(std::io::repeat(0));
    std::io::copy(&mut (&mut whole).take(from), &mut std::io::sink())?;
    let mut piece = vec![0; 1 << 18];
    while left > 0 {
        let now = usize::try_from(left.min(1 << 18)).expect("a quarter of a MiB");
        whole.read_exact(&mut piece[..now])?;
        stream.write_all(&piece[..now])?;
        left -= now as u64;
    }
    Ok(())
}
