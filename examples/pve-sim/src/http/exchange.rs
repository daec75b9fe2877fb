//! One request and its answer on a connection.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, Version};

use crate::api;
use crate::api::answer::{Answer, Connection, Refusal};
use crate::api::call::Call;
use crate::api::routes::{self, Route};
use crate::fault::FaultKind;
use crate::shared::Shared;
use crate::world::Token;

use super::payload::Payload;

/// Bodies from this size on are compressed when asked for (pve-http-server: AnyEvent.pm:347).
const WORTH_COMPRESSING: usize = 1024;

/// The connection ends without an answer.
#[derive(Debug)]
pub(super) struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("dropped on purpose")
    }
}

impl std::error::Error for Dropped {}

/// A connection to one node.
#[derive(Debug)]
pub(super) struct Exchange {
    shared: Arc<Shared>,
    node: String,
    requests: AtomicU32,
}

/// Ends the count of a request in flight, also when the client went away.
struct InFlight<'a> {
    exchange: &'a Exchange,
    status: Option<u16>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.exchange.shared.counters.lock().end(&self.exchange.node, self.status);
    }
}

impl Exchange {
    pub(super) fn new(shared: Arc<Shared>, node: String) -> Self {
        Self { shared, node, requests: AtomicU32::new(0) }
    }

    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Payload>, Dropped> {
        let method = request.method().as_str().to_owned();
        let path = request.uri().path();
        let path = path.strip_prefix("/api2/json").unwrap_or(path).to_owned();
        let found = routes::find(&method, &path);

        let pattern = found.as_ref().map_or("?", |(route, _)| route.pattern);
        let list = found.as_ref().is_some_and(|(route, _)| route.is_list());
        let carries_token = request.headers().contains_key(header::AUTHORIZATION)
            || request.headers().contains_key(header::COOKIE);
        self.shared.counters.lock().begin(
            &self.node,
            format!("{method} {pattern}"),
            list,
            carries_token,
        );
        let mut in_flight = InFlight { exchange: &self, status: None };

        let fault = self.shared.faults.lock().take(&method, &path, &self.node);
        let mut answer = match &fault {
            Some(FaultKind::StallForever) => std::future::pending().await,
            Some(FaultKind::Status { code, reason }) => Answer::bare(*code, reason.clone()),
            _ => self.decide(&request, &method, &path, found),
        };
        if let Some(fault) = &fault {
            if answer.status == 200 {
                answer.body = answer.body.map(|text| fault.spoil(text));
            }
            answer.delay += fault.delay();
        }
        if !answer.delay.is_zero() {
            tokio::time::sleep(answer.delay).await;
        }
        if fault == Some(FaultKind::DropBeforeAnswer) {
            return Err(Dropped);
        }
        in_flight.status = Some(answer.status);
        let half = fault == Some(FaultKind::DropHalfBody);
        Ok(self.response(answer, &request, half))
    }

    /// Everything between the request's head and the answer; waits for nothing.
    fn decide(
        &self,
        request: &Request<Incoming>,
        method: &str,
        path: &str,
        found: Option<(&'static Route, BTreeMap<&'static str, String>)>,
    ) -> Answer {
        if !matches!(method, "GET" | "POST" | "PUT" | "DELETE") {
            return Answer::bare(501, format!("method '{method}' not available"));
        }
        if !request.uri().path().starts_with("/api2/json") {
            return Answer::bare(501, format!("no such file '{path}'"));
        }
        let mut world = self.shared.world.lock();
        let token = match authenticated(request.headers(), &world.tokens) {
            Ok(token) => token,
            Err(reason) => {
                return Answer::bare(401, reason).after(self.shared.config.auth_delay);
            }
        };
        let Some((route, path_values)) = found else {
            let text = format!("Method '{method} {path}' not implemented");
            return Answer::refused(Refusal::new(501, text));
        };
        let query = request.uri().query().unwrap_or_default();
        let query = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let mut call = Call {
            world: &mut world,
            config: &self.shared.config,
            now: self.shared.clock.now(),
            entry: &self.node,
            token,
            path: path_values,
            query,
        };
        api::handle(&mut call, route)
    }

    fn response(
        &self,
        answer: Answer,
        request: &Request<Incoming>,
        half: bool,
    ) -> Response<Payload> {
        let served = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let last = served >= self.shared.config.requests_per_connection;
        let connection =
            if last || asks_to_close(request) { Connection::Close } else { answer.connection };
        let mut response = Response::new(Payload::Whole(None));
        *response.status_mut() =
            hyper::StatusCode::from_u16(answer.status).expect("a status has three digits");
        if let Ok(reason) = ReasonPhrase::try_from(answer.reason.as_bytes()) {
            response.extensions_mut().insert(reason);
        }
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
        for value in connection.headers() {
            headers.append(header::CONNECTION, HeaderValue::from_static(value));
        }
        headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
        headers.insert(header::SERVER, HeaderValue::from_static("pve-api-daemon/3.0"));
        let Some(mut text) = answer.body else { return response };
        let json = HeaderValue::from_static("application/json;charset=UTF-8");
        headers.insert(header::CONTENT_TYPE, json);
        if self.shared.config.gzip
            && text.len() > WORTH_COMPRESSING
            && wants_gzip(request.headers())
        {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            text = compressed(&text);
        }
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        *response.body_mut() = if half {
            text.truncate(text.len() / 2);
            Payload::Half(Some(text.into()))
        } else {
            Payload::whole(text)
        };
        response
    }
}

fn asks_to_close(request: &Request<Incoming>) -> bool {
    let said = request.headers().get(header::CONNECTION).and_then(|value| value.to_str().ok());
    request.version() == Version::HTTP_10
        || said.is_some_and(|said| said.to_ascii_lowercase().contains("close"))
}

fn wants_gzip(asked: &HeaderMap) -> bool {
    asked
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("gzip"))
}

fn compressed(text: &[u8]) -> Vec<u8> {
    let out = Vec::with_capacity(text.len() / 6);
    let mut encoder = GzEncoder::new(out, Compression::fast());
    encoder.write_all(text).expect("a Vec takes every byte");
    encoder.finish().expect("a Vec takes every byte")
}

/// Who asks. PVE's reasons for a 401 are these two, and never which part was wrong.
fn authenticated(
    headers: &HeaderMap,
    tokens: &BTreeMap<String, Arc<Token>>,
) -> Result<Arc<Token>, &'static str> {
    const FAILED: &str = "Authentication failed!";
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    // Anything but a token counts as no ticket, also `Bearer …` (seen on PVE 9.2.11).
    let token = given.and_then(|value| {
        let rest = value.strip_prefix("PVEAPIToken")?;
        rest.strip_prefix('=').or_else(|| rest.strip_prefix(' '))
    });
    let Some(token) = token else {
        let cookie = headers.get(header::COOKIE).and_then(|value| value.to_str().ok());
        let ticket = cookie.is_some_and(|cookie| cookie.contains("PVEAuthCookie="));
        return Err(if ticket { FAILED } else { "No ticket" });
    };
    let (id, secret) = token.rsplit_once('=').ok_or(FAILED)?;
    let token = tokens.get(id).ok_or(FAILED)?;
    if token.revoked || token.secret != secret { Err(FAILED) } else { Ok(Arc::clone(token)) }
}
