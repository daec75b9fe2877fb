//! What curl does, for a program that must not need it: one request to the API over plain HTTP.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Ends the parts of a form; nothing in a disk image looks like it by chance.
const BOUNDARY: &str = "demo-5d41402abc4b2a76b9719d911017c592";

/// `data` of the answer.
///
/// # Errors
///
/// The API's own words, if it said no.
pub(crate) async fn get(api: SocketAddr, path: &str) -> anyhow::Result<Value> {
    request(api, "GET", path, "", 0, tokio::io::empty()).await
}

/// [`get`], with DELETE.
pub(crate) async fn delete(api: SocketAddr, path: &str) -> anyhow::Result<Value> {
    request(api, "DELETE", path, "", 0, tokio::io::empty()).await
}

/// Uploads a file with the fields of a form before it.
pub(crate) async fn upload(
    api: SocketAddr,
    path: &str,
    fields: &[(&str, &str)],
    name: &str,
    file: File,
) -> anyhow::Result<Value> {
    let name = name.replace(['"', '\r', '\n'], "_");
    let fields = fields.iter().map(|(field, value)| {
        format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n{value}\r\n"
        )
    });
    let head = fields.collect::<String>()
        + &format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
    let tail = format!("\r\n--{BOUNDARY}--\r\n");
    let length = (head.len() + tail.len()) as u64 + file.metadata().await?.len();
    let kind = format!("Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n");
    let body = head.as_bytes().chain(file).chain(tail.as_bytes());
    request(api, "POST", path, &kind, length, body).await
}

async fn request(
    api: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    length: u64,
    mut body: impl AsyncRead + Unpin,
) -> anyhow::Result<Value> {
    let mut stream = TcpStream::connect(api).await.with_context(|| format!("connect to {api}"))?;
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {api}\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    // Refused half-way, the answer is there all the same.
    let sent = tokio::io::copy(&mut body, &mut stream).await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let Some((_, body)) = answer.split_once("\r\n\r\n") else {
        sent.with_context(|| format!("{method} {path}"))?;
        bail!("{method} {path}: no answer");
    };
    let body: Value = serde_json::from_str(body).with_context(|| format!("{method} {path}"))?;
    if body["code"] != 200 {
        bail!("{method} {path}: {} {}", body["code"], body["message"].as_str().unwrap_or_default());
    }
    Ok(body["data"].clone())
}
