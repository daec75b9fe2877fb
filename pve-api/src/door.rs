//! Where callers come in: takes connections, so many at once, and makes them private.
//!
//! ```text
//! port --accept--> slot --handshake, each in a task of its own--> HTTP --> router
//! ```
//!
//! There are as many slots as `--max-connections` says. When all are taken, the connection that has
//! been idle longest makes room for the next; while all are busy, whoever comes waits in the
//! system's line.
//!
//! `axum::serve` drives HTTP over whatever a listener hands to it, so all limits are in the stream that
//! we hand over ([`Watched`]), and no crate that is an HTTP client as well is named here.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::Settings;
use crate::args::DoorArgs;
use crate::connection::{Connections, Peer, Watched};
use crate::descriptors;
use crate::server::ServeError;
use crate::tls::Tls;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// For how long callers are told to close before their connections are. Whoever asks something
/// within it loses no request.
const NOTICE: Duration = Duration::from_millis(500);

/// How long a connection that makes room may take to close. One that still has an answer on its way
/// takes longer, and another one goes instead.
const CLOSING: Duration = Duration::from_secs(1);

/// A port that was taken, and how callers are served there.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
    slots: usize,
    connections: Connections,
    args: DoorArgs,
}

impl Door {
    /// Takes the port. From now on callers wait in line for [`Door::serve`].
    ///
    /// # Errors
    ///
    /// [`ServeError`]: what was typed can not be used, and why.
    pub async fn bind(address: SocketAddr, args: &DoorArgs) -> Result<Self, ServeError> {
        let tls = Tls::open(args.tls_cert.as_deref(), args.tls_key.as_deref())?;
        let refused = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let slots = descriptors::enough_for(args.max_connections.get());
        let connections = Connections::default();
        Ok(Self { listener, address, tls, slots, connections, args: args.clone() })
    }

    /// The address with the port that was given, if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells the API what it must know of how it is served.
    pub fn furnish(&self, settings: &mut Settings) {
        settings.connections = self.connections.clone();
        settings.trusted_proxies.clone_from(&self.args.trusted_proxies);
        settings.cors_origins.clone_from(&self.args.cors_origins);
        settings.rate_limit = std::num::NonZeroU32::new(self.args.rate_limit);
        settings.tls = self.tls.is_some();
    }

    /// Serves until `stop` is cancelled, then answers what is in flight and returns.
    ///
    /// Dropped, it takes no more connections, and those that are open go on without it.
    pub async fn serve(self, router: Router, stop: CancellationToken) {
        let (ready, arrivals) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        if let Some(tls) = &self.tls {
            tasks.spawn(tls.clone().follow(self.connections.metrics().clone()));
        }
        let entrance = Entrance {
            listener: self.listener,
            tls: self.tls.as_ref().map(Tls::acceptor),
            slots: Arc::new(Semaphore::new(self.slots)),
            connections: self.connections.clone(),
            ready,
        };
        tasks.spawn(entrance.run());
        let queue = Queue { ready: arrivals, address: self.address, _tasks: tasks };
        serve(queue, self.connections, router, stop).await;
    }
}

async fn serve<S: Caller>(
    queue: Queue<S>,
    connections: Connections,
    router: Router,
    stop: CancellationToken,
) {
    let callers = router.into_make_service_with_connect_info::<Peer>();
    let ended = async move {
        stop.cancelled().await;
        connections.end();
        if connections.metrics().open() > 0 {
            tokio::time::sleep(NOTICE).await;
        }
    };
    // It never fails: an accept that does is repeated in here.
    if let Err(error) = axum::serve(queue, callers).with_graceful_shutdown(ended).await {
        tracing::error!(error = &error as &dyn std::error::Error, "The server stopped");
    }
}

/// What can be served: a stream, private or not.
trait Caller: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Caller for S {}

/// Takes connections in, in a task of its own.
struct Entrance {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    slots: Arc<Semaphore>,
    connections: Connections,
    ready: mpsc::Sender<Arrival>,
}

type Arrival<S = Stream> = (Watched<S>, SocketAddr);

impl Entrance {
    async fn run(self) {
        let mut handshakes = JoinSet::new();
        loop {
            while handshakes.try_join_next().is_some() {}
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.refused(&error).await;
                    continue;
                }
            };
            let slot = self.slot().await;
            // A small answer waits for no other.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(error = &error as &dyn std::error::Error, "A caller is gone");
                continue;
            }
            match &self.tls {
                None => self.let_in(Stream::Plain(stream), address, slot).await,
                Some(tls) => {
                    let handshake = tls.accept(stream);
                    let (ready, connections) = (self.ready.clone(), self.connections.clone());
                    handshakes.spawn(async move {
                        match tokio::time::timeout(HANDSHAKE, handshake).await {
                            Ok(Ok(stream)) => {
                                let stream = Stream::Tls(Box::new(stream));
                                let arrival = (Watched::new(stream, &connections, slot), address);
                                // The server has stopped otherwise.
                                drop(ready.send(arrival).await);
                            }
                            Ok(Err(error)) => {
                                connections.metrics().handshake_failed();
                                let error = &error as &dyn std::error::Error;
                                tracing::debug!(error, %address, "A handshake failed");
                            }
                            Err(_) => {
                                connections.metrics().handshake_failed();
                                tracing::debug!(%address, "A handshake took too long");
                            }
                        }
                    });
                }
            }
        }
    }

    async fn let_in(&self, stream: Stream, address: SocketAddr, slot: OwnedSemaphorePermit) {
        let arrival = (Watched::new(stream, &self.connections, slot), address);
        // The server has stopped otherwise.
        drop(self.ready.send(arrival).await);
    }

    /// A slot, at the cost of whoever has been idle longest.
    async fn slot(&self) -> OwnedSemaphorePermit {
        const OPEN: &str = "nobody closes the semaphore";
        loop {
            if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
                return slot;
            }
            let closing = self.connections.close_longest_idle();
            let slot = Arc::clone(&self.slots).acquire_owned();
            if closing {
                // Whatever becomes idle meanwhile stays: one caller costs one connection.
                if let Ok(slot) = tokio::time::timeout(CLOSING, slot).await {
                    return slot.expect(OPEN);
                }
                continue;
            }
            tokio::select! {
                slot = slot => return slot.expect(OPEN),
                () = self.connections.one_becomes_idle() => {}
            }
        }
    }

    /// After an accept that failed: for the caller's sake or for want of file descriptors.
    async fn refused(&self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            return;
        }
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "No connection can be taken; trying again in a second"
        );
        self.connections.close_longest_idle();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Connections that are ready to be served.
struct Queue<S> {
    ready: mpsc::Receiver<Arrival<S>>,
    address: SocketAddr,
    /// What fills the queue; ends with it.
    _tasks: JoinSet<()>,
}

impl<S: Caller> Listener for Queue<S> {
    type Io = Watched<S>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Arrival<S> {
        match self.ready.recv().await {
            Some(arrival) => arrival,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl<S: Caller> Connected<IncomingStream<'_, Queue<S>>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Queue<S>>) -> Self {
        let connection = stream.io().connection();
        Self { address: *stream.remote_addr(), connection: Some(connection) }
    }
}

/// A connection before its limits.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
#[path = "door_tests.rs"]
mod tests;
