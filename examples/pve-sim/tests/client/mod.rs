//! A client that shows an answer as it was on the wire.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use pve_sim::Sim;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// One answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) version: String,
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// All values of a header, joined by commas without spaces.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let values: Vec<String> = self
            .headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.replace(", ", ","))
            .collect();
        (!values.is_empty()).then(|| values.join(","))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// A TLS connection to a node that trusts the cluster's authority only.
pub(crate) struct Connection {
    stream: StreamOwned<ClientConnection, TcpStream>,
    rest: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(sim: &Sim, node: &str) -> io::Result<Self> {
        let address: SocketAddr =
            sim.url_of(node).trim_start_matches("https://").parse().expect("a socket address");
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(sim.ca_pem().as_bytes()).expect("PEM");
        roots.add(ca).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::from(address.ip());
        let tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let tcp = TcpStream::connect(address)?;
        tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self { stream: StreamOwned::new(tls, tcp), rest: Vec::new() })
    }

    pub(crate) fn send(&mut self, raw: &str) -> io::Result<()> {
        self.send_bytes(raw.as_bytes())
    }

    pub(crate) fn send_bytes(&mut self, raw: &[u8]) -> io::Result<()> {
        self.stream.write_all(raw)?;
        self.stream.flush()
    }

    /// SHA-256 of the certificate that the node presented, as PVE writes it.
    pub(crate) fn presented(&self) -> String {
        let chain = self.stream.conn.peer_certificates().expect("TLS is agreed");
        let digest = ring::digest::digest(&ring::digest::SHA256, &chain[0]);
        digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
    }

    /// A connection on which one request was answered.
    pub(crate) fn open_and_greet(sim: &Sim, node: &str) -> Self {
        let mut connection = Self::open(sim, node).expect("the node listens");
        connection.send(&request(sim, "/version")).expect("the node reads");
        connection.reply().expect("the node answers");
        connection
    }

    /// Reads the next answer; an error if the connection ends before it is whole.
    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        let head = loop {
            if let Some(end) = self.rest.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.rest.drain(..end + 4).collect();
                break String::from_utf8_lossy(&head).into_owned();
            }
            self.read_more()?;
        };
        let mut lines = head.trim_end().split("\r\n");
        let mut status_line = lines.next().unwrap_or_default().splitn(3, ' ');
        let version = status_line.next().unwrap_or_default().to_owned();
        let status = status_line.next().unwrap_or_default().parse().unwrap_or(0);
        let reason = status_line.next().unwrap_or_default().to_owned();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let mut reply = Reply { version, status, reason, headers, body: Vec::new() };
        let length = reply.header("Content-Length").and_then(|text| text.parse().ok());
        let length: usize = length.unwrap_or(0);
        while self.rest.len() < length {
            self.read_more()?;
        }
        reply.body = self.rest.drain(..length).collect();
        Ok(reply)
    }

    /// Whether the other side ends the connection without another byte.
    pub(crate) fn ends(&mut self) -> bool {
        self.rest.is_empty() && self.read_more().is_err()
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.rest.extend_from_slice(&piece[..n]);
                Ok(())
            }
        }
    }
}

/// One GET on a connection of its own, with the first token.
pub(crate) fn get(sim: &Sim, node: &str, path: &str) -> io::Result<Reply> {
    let mut connection = Connection::open(sim, node)?;
    connection.send(&request(sim, path))?;
    connection.reply()
}

/// The text of a GET with the first token.
pub(crate) fn request(sim: &Sim, path: &str) -> String {
    let (id, secret) = (sim.user_id(), sim.token());
    format!(
        "GET /api2/json{path} HTTP/1.1\r\nHost: x\r\nAuthorization: PVEAPIToken={id}={secret}\r\n\r\n"
    )
}
