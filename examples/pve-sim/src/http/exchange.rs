//! One request and its answer on a connection.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, Version};

use crate::api;
use crate::api::answer::{Answer, Connection, Refusal};
use crate::api::call::{Call, Later};
use crate::api::download::ask_metadata;
use crate::api::routes;
use crate::fault::FaultKind;
use crate::shared::Shared;
use crate::work;
use crate::world::{Token, World};

use super::ask::{Ask, Head, Params, read_body};
use super::payload::Payload;
use super::upload::is_upload;

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
    pub(super) shared: Arc<Shared>,
    node: String,
    requests: AtomicU32,
}

/// Ends the count of a request in flight, also when the client went away.
struct InFlight<'a> {
    exchange: &'a Exchange,
    lease: Option<u64>,
    status: Option<u16>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut counters = self.exchange.shared.counters.lock();
        counters.end(&self.exchange.node, self.status);
        if let Some(lease) = self.lease {
            counters.end_under(lease);
        }
    }
}

/// The lease that a client names: `program/1.0 (holder; lease 7)`.
fn lease(user_agent: &HeaderValue) -> Option<u64> {
    let (_, rest) = user_agent.to_str().ok()?.rsplit_once("; lease ")?;
    rest.strip_suffix(')')?.parse().ok()
}

impl Exchange {
    pub(super) fn new(shared: Arc<Shared>, node: String) -> Self {
        Self { shared, node, requests: AtomicU32::new(0) }
    }

    pub(super) async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Payload>, Dropped> {
        let method = request.method().as_str().to_owned();
        let path = request.uri().path();
        let path = path.strip_prefix("/api2/json").unwrap_or(path).to_owned();
        let found = routes::find(&method, &path);

        let pattern = found.as_ref().map_or("?", |(route, _)| route.pattern);
        let list = found.as_ref().is_some_and(|(route, _)| route.is_list());
        let carries_token = request.headers().contains_key(header::AUTHORIZATION)
            || request.headers().contains_key(header::COOKIE);
        let lease = request.headers().get(header::USER_AGENT).and_then(lease);
        {
            let mut counters = self.shared.counters.lock();
            counters.begin(&self.node, format!("{method} {pattern}"), list, carries_token);
            if let Some(lease) = lease {
                counters.begin_under(lease);
            }
        }
        let mut in_flight = InFlight { exchange: &self, lease, status: None };

        let fault = self.shared.faults.lock().take(&method, &path, &self.node);
        let ask = Ask { method, path, found };
        let mut answer = match &fault {
            Some(FaultKind::StallForever) => std::future::pending().await,
            Some(FaultKind::Status { code, reason }) => Answer::bare(*code, reason.clone()),
            Some(FaultKind::Late { ms, after_ms }) => {
                let params = read_body(&mut request).await;
                let asked = Head::of(&request);
                let (exchange, delay) = (Arc::clone(&self), Duration::from_millis(ms + after_ms));
                // The daemon carries it out whether or not anybody still waits.
                self.shared.tasks.spawn_on(
                    async move {
                        tokio::time::sleep(delay).await;
                        exchange.decide(&asked, ask, params);
                    },
                    crate::shared::runtime(),
                );
                Answer::timed_out(Duration::from_millis(*ms))
            }
            _ if is_upload(&request, &ask) => self.upload(&mut request, ask).await?,
            _ => {
                let params = read_body(&mut request).await;
                let (mut answer, later) = self.decide(&Head::of(&request), ask, params);
                if let Some(later) = later {
                    answer = self.wait_for(later, answer.connection).await;
                }
                answer
            }
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

    /// Everything between the request and the answer; waits for nothing.
    fn decide(&self, head: &Head, ask: Ask, params: Params) -> (Answer, Option<Later>) {
        let Ask { method, path, found } = ask;
        let answer = |answer: Answer| (answer, None);
        if !matches!(method.as_str(), "GET" | "POST" | "PUT" | "DELETE") {
            return answer(Answer::bare(501, format!("method '{method}' not available")));
        }
        if !head.path.starts_with("/api2/json") {
            return answer(Answer::bare(501, format!("no such file '{path}'")));
        }
        let mut world = self.shared.world.lock();
        let token = match authenticated(&head.headers, &world.tokens) {
            Ok(token) => token,
            Err(reason) => {
                return answer(Answer::bare(401, reason).after(self.shared.config.auth_delay));
            }
        };
        let Some((route, path_values)) = found else {
            let text = format!("Method '{method} {path}' not implemented");
            return answer(Answer::refused(Refusal::new(501, text)));
        };
        let mut query: BTreeMap<String, String> =
            url::form_urlencoded::parse(head.query.as_bytes()).into_owned().collect();
        match params {
            Ok(params) => query.extend(params),
            Err(text) => return answer(Answer::refused(Refusal::new(400, text))),
        }
        let mut call = self.call(&mut world, token, path_values, query);
        let given = api::handle(&mut call, route);
        let (jobs, later) = (std::mem::take(&mut call.jobs), call.later.take());
        drop(world);
        for job in jobs {
            work::start(&self.shared, job);
        }
        (given, later)
    }

    /// Asks elsewhere for what an answer needs.
    async fn wait_for(&self, later: Later, connection: Connection) -> Answer {
        match later {
            Later::Metadata { url, verify } => {
                match ask_metadata(&url, verify, &self.shared.config.trusted).await {
                    Ok(body) => Answer::ok(&body, connection),
                    Err(refusal) => Answer::refused(refusal),
                }
            }
        }
    }

    pub(super) fn call<'a>(
        &'a self,
        world: &'a mut World,
        token: Arc<Token>,
        path: BTreeMap<&'static str, String>,
        query: BTreeMap<String, String>,
    ) -> Call<'a> {
        Call {
            world,
            config: &self.shared.config,
            now: self.shared.clock.now(),
            unix: self.shared.clock.unix(),
            entry: &self.node,
            token,
            path,
            query,
            jobs: Vec::new(),
            later: None,
        }
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
        if !answer.plain {
            let json = HeaderValue::from_static("application/json;charset=UTF-8");
            headers.insert(header::CONTENT_TYPE, json);
        }
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
pub(super) fn authenticated(
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
