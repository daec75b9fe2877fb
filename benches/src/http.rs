//! Just enough HTTP for the simulator's control port and for `/metrics`, both on loopback.

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The body of the answer to `GET path`.
///
/// # Errors
///
/// If there is no answer, or one with another status than 200.
pub async fn get(address: &str, path: &str) -> anyhow::Result<String> {
    exchange(address, &format!("GET {path} HTTP/1.1\r\n"), "").await
}

/// The same for `POST path`.
pub async fn post(address: &str, path: &str, body: &str) -> anyhow::Result<String> {
    let head = format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
    exchange(address, &head, body).await
}

async fn exchange(address: &str, head: &str, body: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await.with_context(|| address.to_owned())?;
    let request = format!("{head}Host: {address}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without end of head")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}: {body}");
    Ok(body.to_owned())
}

/// The sum of all series of one name in the text of `/metrics`.
pub fn sum_of(metrics: &str, name: &str) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let is_name = rest.starts_with(['{', ' ']);
        is_name.then(|| rest.rsplit_once(' ')?.1.parse::<f64>().ok())?
    };
    metrics.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_name_are_added_up_and_longer_names_are_others() {
        let text =
            "# TYPE rows counter\nrows{a=\"x y\"} 2\nrows{a=\"z\"} 3\nrows_total 10\nrows 1\n";

        assert!((sum_of(text, "rows") - 6.0).abs() < f64::EPSILON);
    }
}
