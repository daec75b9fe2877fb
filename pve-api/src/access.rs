//! One line in the log for each request, and its numbers.
//!
//! ```text
//! request --begin--> handlers --answered--> body --read, or its caller hung up--> line
//!    +--------------------- its caller hung up --------------------------------> line
//! ```
//!
//! A line has the route and not the path, so it shows nothing that callers wrote into either.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use ipnet::IpNet;
use tokio::time::Instant;

use crate::connection::{Connection, Connections, Hold, Peer};
use crate::metrics::{InFlight, Metrics, method};
use crate::remote::{self, Remote};
use crate::request_id::RequestId;

/// What is needed to tell of requests.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub metrics: Metrics,
    pub connections: Connections,
    pub trusted_proxies: Arc<[IpNet]>,
}

/// The name of the token, among the extensions of the request; whoever checks it writes it here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Named(Arc<OnceLock<String>>);

impl Named {
    pub(crate) fn set(&self, name: &str) {
        self.0.get_or_init(|| name.to_owned());
    }
}

/// Tells of a request when it is over, however it ends.
pub(crate) async fn tell(
    State(access): State<Access>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|ConnectInfo(it)| it.clone());
    let address = peer
        .as_ref()
        .map(|peer| remote::caller(peer.address.ip(), request.headers(), &access.trusted_proxies));
    let connection = peer.and_then(|peer| peer.connection);
    let mut exchange = Exchange::begin(&access.metrics, &request, address);
    exchange.hold = connection.as_ref().map(Connection::hold);
    if let Some(address) = address {
        request.extensions_mut().insert(Remote(address));
    }
    request.extensions_mut().insert(exchange.name.clone());
    // A body that somebody still reads is not the head of the next request.
    let request = match &connection {
        Some(connection) if !request.body().is_end_stream() => {
            let hold = connection.hold();
            request.map(|body| Body::new(Held { body, _hold: hold }))
        }
        _ => request,
    };

    let mut response = next.run(request).await;

    exchange.answered(response.status());
    if access.connections.ending().is_cancelled()
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| Body::new(Told { body, exchange }))
}

/// A request and what becomes of it. Dropped, it is told.
#[derive(Debug)]
struct Exchange {
    metrics: Metrics,
    in_flight: Option<InFlight>,
    route: String,
    method: &'static str,
    request_id: Option<String>,
    address: Option<IpAddr>,
    name: Named,
    start: Instant,
    status: Option<StatusCode>,
    bytes: u64,
    /// Whether all of the answer was taken.
    whole: bool,
    hold: Option<Hold>,
}

impl Exchange {
    fn begin(metrics: &Metrics, request: &Request, address: Option<IpAddr>) -> Self {
        let extensions = request.extensions();
        let path = extensions.get::<MatchedPath>();
        Self {
            in_flight: Some(metrics.begin()),
            metrics: metrics.clone(),
            // Paths of callers' invention would make a series each.
            route: path.map_or("unmatched", MatchedPath::as_str).to_owned(),
            method: method(request.method()),
            request_id: extensions.get::<RequestId>().map(|RequestId(id)| id.clone()),
            address,
            name: Named::default(),
            start: Instant::now(),
            status: None,
            bytes: 0,
            // Nobody takes a body that there must not be.
            whole: request.method() == Method::HEAD,
            hold: None,
        }
    }

    fn answered(&mut self, status: StatusCode) {
        self.in_flight = None;
        self.status = Some(status);
        self.metrics.answered(&self.route, self.method, status.as_str(), self.start.elapsed());
        if status == StatusCode::SWITCHING_PROTOCOLS {
            self.whole = true;
            if let Some(hold) = self.hold.take() {
                hold.for_ever();
            }
        }
    }

    fn line(&self) {
        let status = self.status.map(|status| status.as_u16());
        let address = self.address.map(tracing::field::display);
        let duration_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (route, method, bytes) = (self.route.as_str(), self.method, self.bytes);
        let (request_id, token) =
            (self.request_id.as_deref(), self.name.0.get().map(String::as_str));
        let message = if self.whole { "Request answered" } else { "Request left by its caller" };
        // Probes and scrapes come every few seconds, for ever.
        if matches!(route, "/livez" | "/readyz" | "/metrics") {
            tracing::debug!(
                parent: None,
                route, method, status, duration_ms, bytes, token, address, request_id, "{message}"
            );
        } else {
            tracing::info!(
                parent: None,
                route, method, status, duration_ms, bytes, token, address, request_id, "{message}"
            );
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.whole = false;
            self.metrics.left(&self.route, self.method);
        }
        self.line();
    }
}

/// The body of a request, for as long as somebody reads it.
struct Held {
    body: Body,
    _hold: Hold,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, counted.
struct Told {
    body: Body,
    exchange: Exchange,
}

impl HttpBody for Told {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.exchange.bytes += bytes as u64;
            }
            Some(Err(_)) => {}
            None => self.exchange.whole = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.exchange.whole |= self.body.is_end_stream();
    }
}
