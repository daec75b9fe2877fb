//! One request to a cluster: which address, which slots, what the answer means.

use std::{collections::VecDeque, error::Error, fmt, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use schema::{cluster_access, lease::Fence};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use url::{Url, form_urlencoded};

use super::{
    ApiToken, ErrorClass, Limits, NodeName, PveError, Trust,
    breaker::{BreakerPauses, Severity},
    error::TimedOut,
    failover::{Endpoint, Failover},
    limits::{Gates, Scope},
    path::ApiPath,
    tls::Verifier,
    upload::{Parcel, Watch},
    verdict::{Blame, failed, judge},
};
use crate::lease::Lease;

/// How one cluster is asked.
#[derive(Clone)]
#[non_exhaustive]
pub struct ClientConfig {
    api_url: Url,
    token: ApiToken,
    trust: Trust,
    pub limits: Limits,
    pub breaker_pauses: BreakerPauses,
    /// DNS, TCP and TLS together.
    pub connect_timeout: Duration,
    /// From the first byte sent to the last one received. PVE gives up on another node after
    /// 30 s, and its 596 says more than our timeout would.
    pub request_timeout: Duration,
    /// An upload that makes no progress for this long is given up; its answer may take four times
    /// as long after the last byte, which the network has yet to carry then.
    pub upload_idle: Duration,
    /// Of one answer, uncompressed. `/cluster/resources` has about 500 bytes per guest.
    pub max_body_bytes: usize,
    /// Told of every request.
    pub observer: Option<Arc<dyn RequestObserver>>,
    /// Once it is over nothing is asked any more, and what is under way is dropped.
    pub lease: Option<Lease>,
    /// The same, for another reason: nobody needs the answers any more.
    pub cut: CancellationToken,
}

impl ClientConfig {
    /// # Errors
    ///
    /// [`PveError::NotHttps`] or [`PveError::Input`] if `api_url` is not `https://HOST[:PORT]`.
    pub fn new(api_url: &str, token: ApiToken, trust: Trust) -> Result<Self, PveError> {
        Ok(Self {
            api_url: cluster_access::api_url(api_url)?,
            token,
            trust,
            limits: Limits::default(),
            breaker_pauses: BreakerPauses::default(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(35),
            upload_idle: Duration::from_secs(30),
            max_body_bytes: 64 << 20,
            observer: None,
            lease: None,
            cut: CancellationToken::new(),
        })
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("api_url", &self.api_url.as_str())
            .field("token", &self.token)
            .field("trust", &self.trust)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Hears of every request once it is over. Must not block.
pub trait RequestObserver: Send + Sync {
    fn on_request(&self, seen: &RequestSeen<'_>);
}

/// One request that is over.
#[derive(Clone, Copy, Debug)]
pub struct RequestSeen<'a> {
    /// `host:port` it was sent to.
    pub host: &'a str,
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: &'static str,
    /// The node it was for, if it was for one.
    pub node: Option<&'a NodeName>,
    /// The path with its variables unfilled, such as `/nodes/{node}/qemu/{vmid}/config`.
    pub endpoint: &'static str,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    pub error: Option<ErrorClass>,
    pub elapsed: Duration,
}

/// What all handles to one cluster share.
pub(crate) struct Client {
    http: reqwest::Client,
    /// For changes: a connection for each, because one that PVE closes while it is used again
    /// leaves open whether the change was asked for.
    fresh: reqwest::Client,
    token: ApiToken,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) failover: Failover,
    gates: Gates,
    request_timeout: Duration,
    pub(crate) upload_idle: Duration,
    max_body_bytes: usize,
    observer: Option<Arc<dyn RequestObserver>>,
    lease: Option<Lease>,
    cut: CancellationToken,
}

/// What to ask, or to change.
pub(crate) struct Call<'a> {
    pub(crate) verb: Verb,
    pub(crate) path: ApiPath,
    /// In the query string of a GET and of a DELETE, whose body PVE refuses; in the form of a POST
    /// and a PUT.
    pub(crate) params: &'a [(&'a str, &'a str)],
    pub(crate) scope: Scope<'a>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verb {
    Get,
    Post,
    Put,
    Delete,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

impl Call<'_> {
    /// How errors name it; without its parameters, which may hold secrets.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.verb.as_str(), self.path.as_str())
    }
}

/// An answer, and who gave it.
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    pub(crate) endpoint: Arc<Endpoint>,
}

/// `pve-operator/0.1.0 (holder; lease 7)`; what a header can not carry is left out.
fn user_agent(fence: Option<&Fence>) -> String {
    const PROGRAM: &str = concat!("pve-operator/", env!("CARGO_PKG_VERSION"));
    let Some(fence) = fence else { return PROGRAM.to_owned() };
    let plain = |c: &char| c.is_ascii_graphic() && !matches!(c, '(' | ')' | ';' | '\\');
    let holder: String = fence.holder.chars().filter(plain).collect();
    format!("{PROGRAM} ({holder}; lease {})", fence.epoch)
}

/// PVE closes a connection that was idle for 5 s; ours must go first.
const IDLE: Duration = Duration::from_secs(4);

/// Addresses that one request is tried at: each may cost a connect timeout.
const ADDRESSES: usize = 3;

impl Client {
    pub(crate) fn new(config: ClientConfig) -> Result<Self, PveError> {
        let verifier = Verifier::new(config.trust);
        let broken =
            |error: &dyn Error| PveError::Input { what: format!("no TLS client: {error}") };
        let tls = verifier.client_config().map_err(|error| broken(&error))?;
        // PVE's access log names the operator that asked.
        let user_agent = user_agent(config.lease.as_ref().map(Lease::fence));
        let client = |idle_connections| {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .http1_only()
                .https_only(true)
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                // Tokens go to the cluster itself, whatever the environment says of proxies.
                .no_proxy()
                .connect_timeout(config.connect_timeout)
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(idle_connections)
                .user_agent(&user_agent)
                .build()
                .map_err(|error| broken(&error))
        };
        Ok(Self {
            http: client(config.limits.per_cluster)?,
            fresh: client(0)?,
            token: config.token,
            verifier,
            failover: Failover::new(&config.api_url, config.breaker_pauses)?,
            gates: Gates::new(config.limits, config.breaker_pauses),
            request_timeout: config.request_timeout,
            upload_idle: config.upload_idle,
            max_body_bytes: config.max_body_bytes,
            observer: config.observer,
            lease: config.lease,
            cut: config.cut,
        })
    }

    /// Runs an exchange for as long as the cluster is ours.
    async fn while_ours(
        &self,
        call: &Call<'_>,
        exchange: impl Future<Output = Result<Bytes, PveError>>,
    ) -> Result<Bytes, PveError> {
        let not_ours = |sent| PveError::NotOurs { request: call.name(), sent };
        let over = async {
            match &self.lease {
                Some(lease) => lease.over().await,
                None => std::future::pending().await,
            }
        };
        if self.cut.is_cancelled() || self.lease.as_ref().is_some_and(Lease::is_over) {
            return Err(not_ours(false));
        }
        tokio::select! {
            // The lease first, at each step of the exchange.
            biased;
            () = over => Err(not_ours(true)),
            () = self.cut.cancelled() => Err(not_ours(true)),
            outcome = exchange => outcome,
        }
    }

    /// Asks, at another address if the first ones do not answer. A change goes to another address
    /// only while nothing of it was sent: it is asked for once, or its error says so.
    ///
    /// # Errors
    ///
    /// That of the first address that was asked; [`PveError::BreakerOpen`] with the shortest pause
    /// if none was.
    ///
    /// # Cancellation
    ///
    /// Slots are given back and the connection is closed; whether a change that was under way
    /// happens is open.
    pub(crate) async fn send(&self, call: Call<'_>) -> Result<Answer, PveError> {
        let (mut first_error, mut shortest_pause) = (None, None);
        let (mut asked, mut second_chance) = (0, true);
        let mut queue: VecDeque<_> = match call.scope.node() {
            Some(node) => self.failover.order_for(node).into(),
            None => self.failover.order().into(),
        };
        while let Some(endpoint) = queue.pop_front() {
            if asked == ADDRESSES {
                break;
            }
            let lists_too = Arc::ptr_eq(&endpoint, &self.failover.current());
            let slots = self.gates.enter(call.scope, &endpoint.gate(), lists_too).await;
            let target = match call.scope.node() {
                Some(node) => Some(self.gates.node(node.as_str()).breaker.pass()?),
                None => None,
            };
            let entry = match endpoint.breaker.pass() {
                Ok(pass) => pass,
                Err(open) => {
                    shortest_pause = Some(shorter(shortest_pause, open));
                    continue;
                }
            };
            asked += 1;
            let started = Instant::now();
            let result = self.while_ours(&call, self.attempt(&endpoint, &call)).await;
            drop(slots);
            let elapsed = started.elapsed();
            self.observe(&endpoint, &call, result.as_ref(), elapsed);
            let error = match result {
                Ok(body) => {
                    entry.succeeded();
                    if let Some(target) = target {
                        target.succeeded();
                    }
                    if call.scope.node().is_none() {
                        self.failover.prefer(&endpoint);
                    }
                    return Ok(Answer { body, endpoint });
                }
                Err(error) => error,
            };
            let verdict = judge(&error, call.scope, elapsed);
            match (verdict.blame, target) {
                (Blame::Entry(severity), target) => {
                    entry.failed(severity, &error);
                    drop(target);
                    self.failover.leave(&endpoint);
                }
                (Blame::Target(severity), Some(target)) => {
                    entry.succeeded();
                    target.failed(severity, &error);
                }
                (Blame::Nobody, target) => {
                    entry.succeeded();
                    if let Some(target) = target {
                        target.succeeded();
                    }
                }
                (Blame::Trust, _) => {
                    // At the configured address nobody should have to wait once the certificate is
                    // right; the next request sends no token either. A learned one has stand-ins.
                    if endpoint.is_learned() {
                        entry.failed(Severity::Gone, &error);
                    }
                    self.failover.leave(&endpoint);
                }
                (Blame::Target(_), None) => {}
            }
            let again = match call.verb {
                Verb::Get => verdict.try_another,
                Verb::Post | Verb::Put | Verb::Delete => {
                    matches!(error, PveError::Connect { .. } | PveError::Tls { .. })
                }
            };
            if again && second_chance && matches!(error, PveError::NoAnswer { .. }) {
                second_chance = false;
                queue.push_back(endpoint);
            }
            first_error.get_or_insert(error);
            if !again {
                break;
            }
        }
        Err(first_error
            .or(shortest_pause)
            .unwrap_or_else(|| PveError::Input { what: "this cluster has no address".to_owned() }))
    }

    /// Sends a body of any length to the node that the call is for: to its own address if that is
    /// known, and to no second one. Other than for [`send`](Self::send) there is no limit of time
    /// for the whole, and the slot is one for uploads, because no worker waits for the body.
    ///
    /// # Errors
    ///
    /// [`PveError::Unread`] if the body broke off or stood still; else as `send`.
    ///
    /// # Cancellation
    ///
    /// The connection is closed; PVE throws away what it has of a body that did not end.
    pub(crate) async fn send_parcel(
        &self,
        call: Call<'_>,
        parcel: Parcel,
        watch: &Watch,
    ) -> Result<Answer, PveError> {
        let Some(node) = call.scope.node() else {
            return Err(PveError::Input { what: "an upload needs a node".to_owned() });
        };
        let endpoint = self.failover.own(node).unwrap_or_else(|| self.failover.current());
        let slots = self.gates.enter(call.scope, &endpoint.gate(), false).await;
        let target = self.gates.node(node.as_str()).breaker.pass()?;
        let entry = endpoint.breaker.pass()?;
        let started = Instant::now();
        let exchange = self.attempt_parcel(&endpoint, &call, parcel, watch);
        let result = self.while_ours(&call, exchange).await;
        drop(slots);
        self.observe(&endpoint, &call, result.as_ref(), started.elapsed());
        match &result {
            Ok(_) => {
                entry.succeeded();
                target.succeeded();
            }
            Err(error @ PveError::Connect { .. }) => entry.failed(Severity::Gone, error),
            // PVE closes an upload that it does not want without a word, so this says nothing of
            // the node: both passes go back without a verdict.
            Err(_) => {}
        }
        result.map(|body| Answer { body, endpoint })
    }

    async fn attempt_parcel(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        parcel: Parcel,
        watch: &Watch,
    ) -> Result<Bytes, PveError> {
        let started = Instant::now();
        let _until_the_answer = watch.guard();
        watch.touch();
        let exchange = async {
            let request = self
                .fresh
                .post(endpoint.url(call.path.as_str()))
                .header(AUTHORIZATION, self.token.header())
                .header(CONTENT_TYPE, parcel.content_type)
                .header(CONTENT_LENGTH, parcel.length)
                .body(parcel.body);
            let response =
                request.send().await.map_err(|error| failed(endpoint, call, started, error))?;
            self.read(endpoint, call, started, response).await
        };
        tokio::select! {
            result = exchange => result,
            fault = watch.stalled(self.upload_idle) => Err(match fault {
                Some(fault) => fault.into_error(call.name()),
                None => PveError::NoAnswer {
                    request: call.name(),
                    host: endpoint.authority().to_owned(),
                    waited: started.elapsed(),
                    source: Arc::new(TimedOut),
                },
            }),
        }
    }

    async fn attempt(&self, endpoint: &Endpoint, call: &Call<'_>) -> Result<Bytes, PveError> {
        let started = Instant::now();
        let exchange = async {
            let url = endpoint.url(call.path.as_str());
            let form = || {
                let mut form = form_urlencoded::Serializer::new(String::new());
                form.extend_pairs(call.params).finish()
            };
            let request = match call.verb {
                Verb::Get => self.http.get(url).query(call.params),
                Verb::Delete => self.fresh.delete(url).query(call.params),
                Verb::Post => with_form(self.fresh.post(url), form()),
                Verb::Put => with_form(self.fresh.put(url), form()),
            };
            let request = request.header(AUTHORIZATION, self.token.header());
            let response =
                request.send().await.map_err(|error| failed(endpoint, call, started, error))?;
            self.read(endpoint, call, started, response).await
        };
        match timeout(self.request_timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(PveError::NoAnswer {
                request: call.name(),
                host: endpoint.authority().to_owned(),
                waited: started.elapsed(),
                source: Arc::new(TimedOut),
            }),
        }
    }

    async fn read(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        started: Instant,
        mut response: reqwest::Response,
    ) -> Result<Bytes, PveError> {
        let status = response.status().as_u16();
        if (300..400).contains(&status) {
            let found = format!("it answered with a redirect (status {status})");
            return Err(PveError::NotHttps { url: endpoint.url(""), found });
        }
        let reason = response.extensions().get::<hyper::ext::ReasonPhrase>();
        let reason = match reason {
            Some(reason) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
            None => response.status().canonical_reason().unwrap_or_default().to_owned(),
        };
        let limit = if status < 400 { self.max_body_bytes } else { ERROR_BODY };
        let mut first = Bytes::new();
        let mut whole = BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    if first.len() + whole.len() + chunk.len() > limit {
                        if status >= 400 {
                            break;
                        }
                        return Err(PveError::TooLarge {
                            request: call.name(),
                            limit_bytes: limit,
                        });
                    }
                    if first.is_empty() && whole.is_empty() {
                        first = chunk;
                    } else {
                        if whole.is_empty() {
                            whole.reserve(4 * first.len());
                            whole.extend_from_slice(&std::mem::take(&mut first));
                        }
                        whole.extend_from_slice(&chunk);
                    }
                }
                Ok(None) => break,
                // The status line of an error says most of it.
                Err(_) if status >= 400 => break,
                Err(error) => return Err(failed(endpoint, call, started, error)),
            }
        }
        let body = if whole.is_empty() { first } else { whole.freeze() };
        if status < 300 {
            return Ok(body);
        }
        let (host, token) = (endpoint.authority(), self.token.id());
        Err(PveError::answered(call.name(), host, token, status, &reason, &body))
    }

    fn observe(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        result: Result<&Bytes, &PveError>,
        elapsed: Duration,
    ) {
        let Some(observer) = &self.observer else { return };
        observer.on_request(&RequestSeen {
            host: endpoint.authority(),
            method: call.verb.as_str(),
            node: call.scope.node(),
            endpoint: call.path.pattern(),
            status: result.map_or_else(PveError::status, |_| Some(200)),
            error: result.err().map(PveError::class),
            elapsed,
        });
    }
}

/// An empty form has its length too, which hyper would leave out.
fn with_form(request: reqwest::RequestBuilder, form: String) -> reqwest::RequestBuilder {
    request
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(CONTENT_LENGTH, form.len())
        .body(form)
}

/// Bytes that are read of an answer that is an error.
const ERROR_BODY: usize = 64 << 10;

fn shorter(one: Option<PveError>, other: PveError) -> PveError {
    let pause = |error: &PveError| match error {
        PveError::BreakerOpen { retry_after, .. } => *retry_after,
        _ => Duration::MAX,
    };
    match one {
        Some(one) if pause(&one) <= pause(&other) => one,
        _ => other,
    }
}
