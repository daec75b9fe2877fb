//! Why a request to a PVE cluster brought no usable answer, and what may be done about it.

use std::{collections::BTreeMap, error::Error, fmt, sync::Arc, time::Duration};

use schema::cluster_access::{Mistake, PLAIN_HTTP};

use super::Fingerprint;

/// The cause below a [`PveError`]; shared, so that an open breaker can keep telling it.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Why one request brought no usable answer.
///
/// `Display` says what failed and leaves the cause to [`source`](Error::source); print the chain
/// once, where the error is handled ([`PveError::report`] does it). No variant ever holds a
/// token: requests are named by method and path, without their query.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PveError {
    /// We refused to send this: a name, address or token that cannot be right.
    #[error("{what}")]
    Input { what: String },
    /// No connection (DNS or TCP): the request was never sent.
    #[error("cannot connect to {host}")]
    Connect { host: String, source: Cause },
    /// Nobody we trust answered, so the token was not sent.
    ///
    /// `presented` is the SHA-256 of the certificate that was shown, if there was one.
    #[error("TLS with {host} failed, no token was sent{}", presented_words(presented.as_ref()))]
    Tls { host: String, presented: Option<Fingerprint>, source: Cause },
    /// The address speaks plain HTTP, or redirects.
    #[error("{url} is not PVE's API itself: {found}; use https://HOST:8006")]
    NotHttps { url: String, found: String },
    /// Sent, but no whole answer came back.
    #[error("no answer to {request} from {host} after {:.1} s", waited.as_secs_f64())]
    NoAnswer { request: String, host: String, waited: Duration, source: Cause },
    /// 401: the token is wrong, expired or revoked. PVE makes each of these wait 3 s.
    #[error("{host} does not accept the token {token_id}: {message}")]
    Unauthorized { host: String, token_id: String, message: String },
    /// 403: the token is good but may not do this.
    #[error("{request} is forbidden: {message}")]
    Forbidden {
        request: String,
        /// PVE's words.
        message: String,
        /// The ACL path that was checked, when PVE says it.
        path: Option<String>,
        /// The privileges of which one would have been enough, when PVE says them.
        privileges: Vec<String>,
    },
    /// Any other status of 400 and above, in PVE's own words.
    #[error("{request} was refused with status {status}: {message}{}", errors_words(errors))]
    Refused {
        request: String,
        status: u16,
        /// The reason phrase, or the body's `message` where that says more.
        message: String,
        /// What PVE says of single parameters; only with status 400.
        errors: BTreeMap<String, String>,
    },
    /// The bytes that were to be sent broke off, stood still or were not as many as announced. The
    /// request did not end, and PVE throws away what it had of it.
    #[error("{request} was given up: {what}")]
    Unread { request: String, what: String, source: Cause },
    /// An answer came, and it is not what this request is answered with.
    #[error("cannot read the answer to {request}")]
    Decode { request: String, source: Cause },
    /// The answer's body is longer than we are ready to hold.
    #[error("the answer to {request} is longer than {limit_bytes} bytes")]
    TooLarge { request: String, limit_bytes: usize },
    /// We do not follow the cluster any more, and another operator may: not sent, or given up while it
    /// was under way.
    #[error("{request} was given up: this operator no longer follows the cluster")]
    NotOurs { request: String, sent: bool },
    /// Not sent: the target failed lately and is left alone until its pause is over.
    #[error("{target} failed lately; it is asked again in {} s", retry_after.as_secs_f64().ceil())]
    BreakerOpen {
        target: String,
        retry_after: Duration,
        /// What it failed with.
        source: Box<PveError>,
    },
}

impl From<Mistake> for PveError {
    fn from(mistake: Mistake) -> Self {
        match mistake {
            Mistake::NotHttps { url } => Self::NotHttps { url, found: PLAIN_HTTP.to_owned() },
            Mistake::Other { what, .. } => Self::Input { what },
        }
    }
}

/// Whether a failed request may have changed something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Certainly not: asking again is safe.
    None,
    /// Perhaps: look before asking again.
    Unknown,
}

/// What a caller does best after an error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retry {
    /// Time heals it: with back-off.
    Backoff,
    /// Not before this has passed.
    After(Duration),
    /// A person must change something (token, privilege, certificate, address); ask rarely.
    Fix,
}

/// The closed set of names that metrics and conditions know errors by.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ErrorClass {
    Input,
    Connect,
    Tls,
    NotHttps,
    Timeout,
    NoAnswer,
    Unauthorized,
    Forbidden,
    /// 4xx, and 501: PVE does not know such a request.
    Refused,
    /// 595 to 599: the node that was asked cannot reach the one the request is for.
    NodeUnreachable,
    /// Any other 5xx.
    Server,
    /// What we were to send could not be read.
    Unread,
    Decode,
    TooLarge,
    /// The lease of the cluster is over.
    NotOurs,
    BreakerOpen,
}

impl ErrorClass {
    pub const ALL: [Self; 16] = [
        Self::Input,
        Self::Connect,
        Self::Tls,
        Self::NotHttps,
        Self::Timeout,
        Self::NoAnswer,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Refused,
        Self::NodeUnreachable,
        Self::Server,
        Self::Unread,
        Self::Decode,
        Self::TooLarge,
        Self::NotOurs,
        Self::BreakerOpen,
    ];

    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::NotHttps => "not_https",
            Self::Timeout => "timeout",
            Self::NoAnswer => "no_answer",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Refused => "refused",
            Self::NodeUnreachable => "node_unreachable",
            Self::Server => "server",
            Self::Unread => "unread",
            Self::Decode => "decode",
            Self::TooLarge => "too_large",
            Self::NotOurs => "not_ours",
            Self::BreakerOpen => "breaker_open",
        }
    }
}

impl PveError {
    /// What may be assumed about the cluster if the failed request was one that changes something.
    ///
    /// 595 is the asked node failing to connect to the other one: nothing happened. After 596 the
    /// work may start even later (seen on PVE 9.2.11: four of four requests ran after their 596).
    /// A 500 in PVE's own words is a handler that died before its worker began; a 500 without
    /// them may come from anything on the way.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self {
            Self::Input { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::NotHttps { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::Unread { .. }
            | Self::NotOurs { sent: false, .. }
            | Self::BreakerOpen { .. } => Effect::None,
            Self::Refused { status, .. } if *status < 500 || matches!(status, 501 | 595) => {
                Effect::None
            }
            Self::Refused { status: 500, message, .. } if is_pves(message) => Effect::None,
            Self::Refused { .. }
            | Self::NoAnswer { .. }
            | Self::Decode { .. }
            | Self::NotOurs { .. }
            | Self::TooLarge { .. } => Effect::Unknown,
        }
    }

    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Input { .. } => ErrorClass::Input,
            Self::Connect { .. } => ErrorClass::Connect,
            Self::Tls { .. } => ErrorClass::Tls,
            Self::NotHttps { .. } => ErrorClass::NotHttps,
            Self::NoAnswer { source, .. } if source.is::<TimedOut>() => ErrorClass::Timeout,
            Self::NoAnswer { .. } => ErrorClass::NoAnswer,
            Self::Unauthorized { .. } => ErrorClass::Unauthorized,
            Self::Forbidden { .. } => ErrorClass::Forbidden,
            Self::Refused { status, .. } => match status {
                595..=599 => ErrorClass::NodeUnreachable,
                501 => ErrorClass::Refused,
                500.. => ErrorClass::Server,
                _ => ErrorClass::Refused,
            },
            Self::Unread { .. } => ErrorClass::Unread,
            Self::Decode { .. } => ErrorClass::Decode,
            Self::TooLarge { .. } => ErrorClass::TooLarge,
            Self::NotOurs { .. } => ErrorClass::NotOurs,
            Self::BreakerOpen { .. } => ErrorClass::BreakerOpen,
        }
    }

    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::BreakerOpen { retry_after, .. } => Retry::After(*retry_after),
            Self::Input { .. }
            | Self::Tls { .. }
            | Self::NotHttps { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. } => Retry::Fix,
            Self::Refused { status, .. } if *status < 500 || *status == 501 => Retry::Fix,
            Self::Connect { .. }
            | Self::NoAnswer { .. }
            | Self::Refused { .. }
            | Self::Unread { .. }
            | Self::Decode { .. }
            | Self::NotOurs { .. }
            | Self::TooLarge { .. } => Retry::Backoff,
        }
    }

    /// The certificate that was shown and not trusted, also from behind an open breaker.
    #[must_use]
    pub fn presented_fingerprint(&self) -> Option<Fingerprint> {
        match self {
            Self::Tls { presented, .. } => *presented,
            Self::BreakerOpen { source, .. } => source.presented_fingerprint(),
            _ => None,
        }
    }

    /// PVE's own words, where it spoke.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Unauthorized { message, .. }
            | Self::Forbidden { message, .. }
            | Self::Refused { message, .. } => Some(message),
            Self::BreakerOpen { source, .. } => source.message(),
            _ => None,
        }
    }

    /// The HTTP status, where there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Unauthorized { .. } => Some(401),
            Self::Forbidden { .. } => Some(403),
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The error and all its causes in one line, each thing said once.
    #[must_use]
    pub fn report(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let words = error.to_string();
            if !line.contains(&words) {
                line.push_str(": ");
                line.push_str(&words);
            }
            cause = error.source();
        }
        line
    }

    /// An answer of 400 and above.
    pub(crate) fn answered(
        request: String,
        host: &str,
        token_id: &str,
        status: u16,
        reason: &str,
        body: &[u8],
    ) -> Self {
        let body: ErrorBody = serde_json::from_slice(body).unwrap_or_default();
        let said = body.message.as_deref().map(str::trim).filter(|words| !words.is_empty());
        let message = match said {
            // The reason phrase stops at the first line end; the body has all of it.
            Some(words) if words.len() >= reason.trim().len() => words,
            _ if !reason.trim().is_empty() => reason.trim(),
            Some(words) => words,
            None => NO_REASON,
        };
        let message = message.to_owned();
        match status {
            401 => Self::Unauthorized { host: host.into(), token_id: token_id.into(), message },
            403 => {
                let (path, privileges) = checked_privileges(&message);
                Self::Forbidden { request, message, path, privileges }
            }
            _ => {
                let errors = body.errors.unwrap_or_default();
                let errors = errors.into_iter().map(|(field, words)| (field, words.0)).collect();
                Self::Refused { request, status, message, errors }
            }
        }
    }
}

/// The message of an answer that had none.
const NO_REASON: &str = "no reason given";

/// Whether the message of a 500 says what a handler of PVE's died of.
fn is_pves(message: &str) -> bool {
    message != NO_REASON && !message.eq_ignore_ascii_case("Internal Server Error")
}

/// The cause of a [`PveError::NoAnswer`] that was a timeout of ours.
#[derive(Debug, thiserror::Error)]
#[error("timed out")]
pub(crate) struct TimedOut;

/// The first `T` among `error` and its causes.
pub(crate) fn find_cause<'e, T: Error + 'static>(
    error: &'e (dyn Error + 'static),
) -> Option<&'e T> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An io::Error passes over what it holds in `source`.
        at = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[derive(Default, serde::Deserialize)]
struct ErrorBody {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    errors: Option<BTreeMap<String, Words>>,
}

/// A text, or any other JSON written out.
struct Words(String);

impl<'de> serde::Deserialize<'de> for Words {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(match serde_json::Value::deserialize(from)? {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        }))
    }
}

/// The path and privileges in `Permission check failed (/vms/100, VM.Clone|VM.Audit)`.
fn checked_privileges(message: &str) -> (Option<String>, Vec<String>) {
    let inner = message.rsplit_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    match inner.and_then(|inner| inner.split_once(", ")) {
        Some((path, privileges)) if path.starts_with('/') => {
            (Some(path.to_owned()), privileges.split('|').map(str::to_owned).collect())
        }
        _ => (None, Vec::new()),
    }
}

/// ` (name: invalid format; pool: …)`, which is what helps with a 400.
fn errors_words(errors: &BTreeMap<String, String>) -> String {
    let each: Vec<_> = errors.iter().map(|(name, words)| format!("{name}: {words}")).collect();
    if each.is_empty() { String::new() } else { format!(" ({})", each.join("; ")) }
}

fn presented_words(presented: Option<&Fingerprint>) -> impl fmt::Display {
    presented.map(|it| format!(" (it presented SHA-256 {it})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, reason: &str, body: &str) -> PveError {
        PveError::answered("GET /x".into(), "pve1:8006", "u@pve!t", status, reason, body.as_bytes())
    }

    #[test]
    fn a_403_names_the_privileges_of_which_one_would_do() {
        let error = answered(
            403,
            "Permission check failed (/storage/local, Datastore.Audit|Datastore.AllocateSpace)",
            "",
        );

        let PveError::Forbidden { path, privileges, .. } = error else { panic!("{error:?}") };
        assert_eq!(path.as_deref(), Some("/storage/local"));
        assert_eq!(privileges, ["Datastore.Audit", "Datastore.AllocateSpace"]);
    }

    #[test]
    fn a_403_without_detail_names_none() {
        let error = answered(403, "Permission check failed", r#"{"data":null}"#);

        let PveError::Forbidden { path, privileges, .. } = error else { panic!("{error:?}") };
        assert_eq!((path, privileges.len()), (None, 0));
    }

    #[test]
    fn a_400_carries_what_is_wrong_with_each_parameter() {
        let body = r#"{"errors":{"foo":"not defined","n":7},"data":null,"message":"Parameter verification failed.\n"}"#;

        let error = answered(400, "Parameter verification failed.", body);

        let all = "GET /x was refused with status 400: Parameter verification failed. (foo: not defined; n: 7)";
        assert_eq!(error.to_string(), all);
        let PveError::Refused { message, errors, .. } = error else { panic!("{error:?}") };
        assert_eq!(message, "Parameter verification failed.");
        assert_eq!(errors["foo"], "not defined");
        assert_eq!(errors["n"], "7");
    }

    #[test]
    fn only_what_may_have_happened_is_unknown() {
        for (status, reason, effect) in [
            (400, "Parameter verification failed.", Effect::None),
            (401, "No ticket", Effect::None),
            (403, "Permission check failed", Effect::None),
            (500, "", Effect::Unknown),
            (500, "Internal Server Error", Effect::Unknown),
            (500, "cluster not ready - no quorum?", Effect::None),
            (500, "unable to create VM 510 - VM 510 already exists on node 'pve1'", Effect::None),
            (501, "Not Implemented", Effect::None),
            (502, "Bad Gateway", Effect::Unknown),
            (504, "Gateway Timeout", Effect::Unknown),
            (595, "Connection refused", Effect::None),
            (596, "Connection timed out", Effect::Unknown),
            (599, "", Effect::Unknown),
        ] {
            assert_eq!(answered(status, reason, "").effect(), effect, "{status} {reason}");
        }
    }

    #[test]
    fn a_report_says_each_thing_once() {
        let inner = PveError::Connect { host: "pve1:8006".into(), source: Arc::new(TimedOut) };
        let error = PveError::BreakerOpen {
            target: "pve1:8006".into(),
            retry_after: Duration::from_millis(9_001),
            source: Box::new(inner),
        };

        assert_eq!(
            error.report(),
            "pve1:8006 failed lately; it is asked again in 10 s: cannot connect to pve1:8006: timed out"
        );
    }
}
