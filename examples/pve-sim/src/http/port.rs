//! A node's port: opens, accepts, closes.
//!
//! Nodes of one cluster share a port number on addresses of their own, as real nodes share
//! 8006: a client that learns only addresses from `/cluster/status` can fail over. Where the
//! system has no `127.0.0.2` (macOS), nodes get ports of their own on one address instead.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;

use super::exchange::Exchange;

/// The open ports, by node.
#[derive(Debug, Default)]
pub(crate) struct Ports(BTreeMap<String, Port>);

#[derive(Debug)]
struct Port {
    stop: CancellationToken,
    /// Ends when the listener is gone.
    closed: mpsc::Receiver<()>,
}

impl Ports {
    /// Starts to answer on a listener.
    pub(crate) fn open(&mut self, shared: &Arc<Shared>, node: &str, listener: TcpListener) {
        let stop = shared.stop.child_token();
        let (open, closed) = mpsc::channel();
        self.0.insert(node.to_owned(), Port { stop: stop.clone(), closed });
        let (shared, node) = (Arc::clone(shared), node.to_owned());
        let tasks = shared.tasks.clone();
        tasks.spawn_on(
            async move {
                accept(shared, node, listener, stop).await;
                drop(open);
            },
            crate::shared::runtime(),
        );
    }

    /// Closes a node's port and all of its connections. When this returns, connections are
    /// refused.
    pub(crate) fn close(&mut self, node: &str) {
        let Some(port) = self.0.remove(node) else { return };
        port.stop.cancel();
        // The sender is only ever dropped; half a minute would mean a dead runtime.
        let gone = port.closed.recv_timeout(Duration::from_secs(30));
        debug_assert_eq!(gone, Err(mpsc::RecvTimeoutError::Disconnected));
    }

    pub(crate) fn is_open(&self, node: &str) -> bool {
        self.0.contains_key(node)
    }
}

/// Free ports are looked for below those that Linux gives to outgoing connections: one of these
/// could take a node's port while the node is off.
const PORTS: Range<u16> = 10_240..32_768;

/// Binds a listener for each of `nodes` nodes.
pub(crate) fn bind(first: SocketAddr, nodes: usize) -> io::Result<Vec<TcpListener>> {
    if first.port() != 0 {
        return bind_side_by_side(first, nodes);
    }
    for _ in 0..100 {
        let port = rand::rng().random_range(PORTS);
        match bind_side_by_side(SocketAddr::new(first.ip(), port), nodes) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => break,
            bound => return bound,
        }
    }
    (0..nodes).map(|_| TcpListener::bind(first)).collect()
}

fn bind_side_by_side(first: SocketAddr, nodes: usize) -> io::Result<Vec<TcpListener>> {
    (0..nodes)
        .map(|n| TcpListener::bind(SocketAddr::new(nth_address(first.ip(), n), first.port())))
        .collect()
}

/// The `n`th address after this one, leaving out `.0` and `.255`.
pub(crate) fn nth_address(first: IpAddr, n: usize) -> IpAddr {
    let IpAddr::V4(v4) = first else { return first };
    if n == 0 {
        return first;
    }
    let n = u32::try_from(n).expect("fewer nodes than addresses");
    let start = u32::from(v4);
    let (net, host) = (start & !0xff, (start & 0xff).saturating_sub(1) + n);
    IpAddr::V4((net + (host / 254) * 256 + host % 254 + 1).into())
}

async fn accept(shared: Arc<Shared>, node: String, listener: TcpListener, stop: CancellationToken) {
    let ready =
        listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener));
    let listener = match ready {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, node, "Cannot listen");
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (shared, node, stop) = (Arc::clone(&shared), node.clone(), stop.clone());
                shared.tasks.clone().spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = connection(shared, node, stream) => {}
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: others must close first.
                tracing::warn!(%error, node, "Cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, node: String, stream: TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "No TCP_NODELAY");
    }
    let patience = shared.config.keep_alive.max(Duration::from_secs(5));
    let mut first = [0];
    match tokio::time::timeout(patience, stream.peek(&mut first)).await {
        Ok(Ok(1)) => {}
        _ => return,
    }
    // A TLS handshake begins with 22; anything else is plain HTTP.
    if first[0] != 22 {
        return redirect(stream).await;
    }
    let Some(tls) = shared.tls_of(&node) else { return };
    let handshake = TlsAcceptor::from(tls).accept(stream);
    let stream = match tokio::time::timeout(patience, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, node, "TLS refused"),
        Err(_) => return,
    };
    shared.counters.lock().connections += 1;
    let exchange = Arc::new(Exchange::new(Arc::clone(&shared), node));
    let service = service_fn(move |request| Arc::clone(&exchange).answer(request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.keep_alive)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "Connection ended early");
    }
}

/// Plain HTTP on the TLS port: 301 to the same path with https (seen on PVE 9.2.11).
async fn redirect(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < 8192 {
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut piece)).await;
        match read {
            Ok(Ok(n)) if n > 0 => head.extend_from_slice(&piece[..n]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).filter(|path| path.starts_with('/')).unwrap_or("/");
    let host = head
        .lines()
        .find_map(|line| line.split_once(':').filter(|(k, _)| k.eq_ignore_ascii_case("host")))
        .map_or("localhost", |(_, host)| host.trim());
    let answer = format!(
        "HTTP/1.1 301 Moved Permanently\r\nCache-Control: max-age=0\r\nConnection: Keep-Alive\r\n\
         Pragma: no-cache\r\nLocation: https://{host}{path}\r\nServer: pve-api-daemon/3.0\r\n\
         Content-Length: 17\r\n\r\nMoved Permanently"
    );
    if let Err(error) = stream.write_all(answer.as_bytes()).await {
        tracing::debug!(%error, "Redirect not sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_leave_out_network_and_broadcast() {
        let first = IpAddr::from([127, 0, 0, 1]);

        assert_eq!(nth_address(first, 0), first);
        assert_eq!(nth_address(first, 1), IpAddr::from([127, 0, 0, 2]));
        assert_eq!(nth_address(first, 253), IpAddr::from([127, 0, 0, 254]));
        assert_eq!(nth_address(first, 254), IpAddr::from([127, 0, 1, 1]));
    }
}
