//! The part of wget that PVE uses: one GET, and what it prints.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::ext::ReasonPhrase;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use url::Url;

/// Why there was no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    Unresolved,
    /// No connection; what the system said.
    Refused(String),
    Untrusted,
    /// The connection ended before an answer came.
    Broken(String),
}

/// Whom to trust.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// These certificates (PEM).
    Only(Vec<String>),
    /// `verify-certificates=0`.
    Anybody,
}

/// An answer whose body is still to come.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) response: Response<Incoming>,
    /// Drives the connection; ends with this value.
    _connection: JoinSet<()>,
}

impl Fetched {
    /// `404 Not Found`, with the server's own words.
    pub(crate) fn status_text(&self) -> String {
        format!("{} {}", self.response.status().as_u16(), self.reason())
    }

    pub(crate) fn reason(&self) -> String {
        match self.response.extensions().get::<ReasonPhrase>() {
            Some(reason) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
            None => self.response.status().canonical_reason().unwrap_or_default().to_owned(),
        }
    }

    pub(crate) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    pub(crate) fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }

    pub(crate) fn kind(&self) -> &str {
        self.header(header::CONTENT_TYPE).unwrap_or("application/octet-stream")
    }
}

/// `127.0.0.1:8898`, or `host (host)|1.2.3.4|:443` without the address.
pub(crate) fn authority(url: &Url) -> String {
    format!(
        "{}:{}",
        url.host_str().unwrap_or_default(),
        url.port_or_known_default().unwrap_or_default()
    )
}

/// Sends one request; redirects are not followed.
pub(crate) async fn ask(
    method: Method,
    url: &Url,
    from: u64,
    trust: &Trust,
) -> Result<Fetched, NoAnswer> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(80);
    let found = tokio::net::lookup_host((host.clone(), port)).await;
    let found = found.ok().and_then(|mut addresses| addresses.next());
    let address = found.ok_or(NoAnswer::Unresolved)?;
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            return Err(NoAnswer::Refused("Connection refused".to_owned()));
        }
        Err(error) => return Err(NoAnswer::Refused(error.to_string())),
    };
    if url.scheme() == "https" {
        let name = match host.parse::<IpAddr>() {
            Ok(ip) => ServerName::from(ip),
            Err(_) => ServerName::try_from(host).map_err(|_| NoAnswer::Unresolved)?,
        };
        let connector = TlsConnector::from(Arc::new(tls(trust)));
        match connector.connect(name, stream).await {
            Ok(stream) => send(method, url, from, stream).await,
            Err(_) => Err(NoAnswer::Untrusted),
        }
    } else {
        send(method, url, from, stream).await
    }
}

async fn send(
    method: Method,
    url: &Url,
    from: u64,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Fetched, NoAnswer> {
    let broken = |error: hyper::Error| NoAnswer::Broken(error.to_string());
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(broken)?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "Download connection ended early");
        }
    });
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
        .header(header::USER_AGENT, "Wget/1.21.3")
        .header(header::ACCEPT, "*/*")
        .header(header::ACCEPT_ENCODING, "identity");
    if from > 0 {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    let request =
        request.body(Empty::<Bytes>::new()).map_err(|error| NoAnswer::Broken(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    Ok(Fetched { response, _connection: driver })
}

fn tls(trust: &Trust) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS");
    match trust {
        Trust::Anybody => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(provider)))
            .with_no_client_auth(),
        Trust::Only(trusted) => {
            let mut roots = RootCertStore::empty();
            let all = trusted.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()));
            roots.add_parsable_certificates(all.filter_map(Result::ok));
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    }
}

/// Accepts every certificate, as `--no-check-certificate` does.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

const MIB: u64 = 1 << 20;
const ROW: u64 = 32 * MIB;

/// What `--progress=dot:giga` prints: a dot for each MiB, a line for each 32 MiB.
#[derive(Debug)]
pub(crate) struct Dots {
    total: Option<u64>,
    /// Bytes that an earlier try brought.
    skipped: u64,
    done: u64,
    /// Start of the row that is being filled.
    row: u64,
}

impl Dots {
    /// Begins; returns the line about rows that an earlier try filled.
    pub(crate) fn new(skipped: u64, total: Option<u64>) -> (Self, Option<String>) {
        let row = skipped / ROW * ROW;
        let line = (row > 0).then(|| format!("        [ skipping {}K ]", row >> 10));
        (Self { total, skipped, done: skipped, row }, line)
    }

    /// Takes bytes; returns the lines that are full now.
    pub(crate) fn take(&mut self, bytes: u64, elapsed: Duration) -> Vec<String> {
        self.done += bytes;
        let mut lines = Vec::new();
        while self.done >= self.row + ROW && self.total.is_none_or(|total| self.row + ROW < total) {
            let end = self.row + ROW;
            let left = self.total.map_or(0, |total| total - end.min(total));
            let pace = self.rate(elapsed);
            let percent = self.percent(end);
            let eta = match self.total {
                Some(_) => format!(" {}", seconds_left(left, pace)),
                None => String::new(),
            };
            lines.push(format!("{}{percent} {:>5}{eta}", self.dots(32), rate_text(pace)));
            self.row = end;
        }
        lines
    }

    /// The line of a try that is over, whole or not.
    pub(crate) fn end(&self, elapsed: Duration) -> String {
        let dots = (self.done - self.row) / MIB;
        let pace = rate_text(self.rate(elapsed));
        let took = took_text(elapsed);
        format!("{}{} {pace:>5}={took}", self.dots(dots.min(32)), self.percent(self.done))
    }

    fn dots(&self, dots: u64) -> String {
        let commas = self.skipped.saturating_sub(self.row) / MIB;
        let mut text = format!("{:>6}K", self.row >> 10);
        for dot in 0..32 {
            if dot % 8 == 0 {
                text.push(' ');
            }
            text.push(match dot {
                dot if dot < commas => ',',
                dot if dot < dots => '.',
                _ => ' ',
            });
        }
        text
    }

    fn percent(&self, at: u64) -> String {
        let share = |total: u64| format!("{:>3}%", at * 100 / total.max(1));
        self.total.map_or(String::new(), share)
    }

    fn rate(&self, elapsed: Duration) -> f64 {
        float(self.done - self.skipped) / elapsed.as_secs_f64().max(0.001)
    }
}

/// `64.2M`: three digits and a unit.
fn rate_text(rate: f64) -> String {
    let (value, unit) = scaled(rate);
    format!("{}{unit}", three_digits(value))
}

/// `64.0 MB/s`.
pub(crate) fn speed_text(bytes: u64, elapsed: Duration) -> String {
    let (value, unit) = scaled(float(bytes) / elapsed.as_secs_f64().max(0.001));
    format!("{} {unit}B/s", three_digits(value))
}

fn scaled(rate: f64) -> (f64, &'static str) {
    match rate {
        rate if rate < 1024.0 => (rate, ""),
        rate if rate < 1024.0 * 1024.0 => (rate / 1024.0, "K"),
        rate if rate < 1024.0 * 1024.0 * 1024.0 => (rate / 1024.0 / 1024.0, "M"),
        rate => (rate / 1024.0 / 1024.0 / 1024.0, "G"),
    }
}

fn three_digits(value: f64) -> String {
    match value {
        value if value < 9.995 => format!("{value:.2}"),
        value if value < 99.95 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// `5s`, `1m5s`, `2h3m`.
fn seconds_left(left: u64, pace: f64) -> String {
    let seconds = Duration::try_from_secs_f64(float(left) / pace.max(1.0));
    match seconds.unwrap_or_default().as_secs() {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m{}s", s / 60, s % 60),
        s => format!("{}h{}m", s / 3600, s / 60 % 60),
    }
}

/// `0.02s`, `5.6s`, `95s`.
fn took_text(elapsed: Duration) -> String {
    match elapsed.as_secs_f64() {
        s if s < 0.0095 => format!("{s:.3}s"),
        s if s < 0.095 => format!("{s:.2}s"),
        s if s < 10.0 => format!("{s:.1}s"),
        s => format!("{s:.0}s"),
    }
}

/// `377946112 (360M)`, `512`.
pub(crate) fn length_text(bytes: u64) -> String {
    let (value, unit) = scaled(float(bytes));
    match unit {
        "" => bytes.to_string(),
        _ if value < 9.95 => format!("{bytes} ({value:.1}{unit})"),
        _ => format!("{bytes} ({value:.0}{unit})"),
    }
}

/// `360M`, in brackets already: what remains.
pub(crate) fn date(unix: u64) -> String {
    let (days, rest) = (unix / 86_400, unix % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// The date of a day counted from 1970-01-01, by the usual arithmetic of eras of 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[expect(clippy::cast_precision_loss, reason = "numbers for people")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded on PVE 9.2.11 (task logs 777, 1316, 1347).
    #[test]
    fn dots_are_those_of_a_recorded_download() {
        let (mut dots, skipping) = Dots::new(0, Some(377_946_112));
        let second = Duration::from_secs(1);
        assert_eq!(skipping, None);
        assert_eq!(
            dots.take(64 << 20, second),
            [
                "     0K ........ ........ ........ ........  8% 64.0M 5s",
                " 32768K ........ ........ ........ ........ 17% 64.0M 4s",
            ]
        );
        dots.take(377_946_112 - (64 << 20), second);
        assert_eq!(
            dots.end(Duration::from_millis(5620)),
            "360448K ........                           100% 64.1M=5.6s"
        );

        let (mut resumed, _) = Dots::new(10_000_000, Some(42_270_720));
        let lines = resumed.take(32_000_000, second);
        assert!(lines[0].starts_with("     0K ,,,,,,,, ,....... ........ ........ 79% "));

        let (mut unknown, _) = Dots::new(0, None);
        let lines = unknown.take(33 << 20, second);
        assert_eq!(lines, ["     0K ........ ........ ........ ........ 33.0M"]);
        assert_eq!(length_text(377_946_112), "377946112 (360M)");
        assert_eq!(length_text(4_521_984), "4521984 (4.3M)");
    }

    #[test]
    fn dates_count_leap_years() {
        assert_eq!(date(1_795_293_305), "2026-11-21 20:35:05");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00");
    }
}
