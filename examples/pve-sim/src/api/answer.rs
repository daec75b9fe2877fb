//! Answers as PVE gives them: status, reason phrase, `Connection`, body.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// What a handler refuses with; becomes a status line and a JSON body.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: u16,
    message: String,
    errors: BTreeMap<String, String>,
    delay: Duration,
}

impl Refusal {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), errors: BTreeMap::new(), delay: Duration::ZERO }
    }

    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// 500 with PVE's words.
    pub(crate) fn error(message: impl Into<String>) -> Self {
        Self::new(500, message)
    }

    pub(crate) fn forbidden(path: &str, privileges: &str) -> Self {
        Self::new(403, format!("Permission check failed ({path}, {privileges})"))
    }

    /// The same, after PVE has waited for something.
    pub(crate) fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// 400 with a sentence for each wrong parameter.
    pub(crate) fn parameters(errors: BTreeMap<String, String>) -> Self {
        Self { errors, ..Self::new(400, "Parameter verification failed.") }
    }

    pub(crate) fn parameter(name: &str, text: impl Into<String>) -> Self {
        Self::parameters(BTreeMap::from([(name.to_owned(), text.into())]))
    }
}

/// The `data` of a good answer, already JSON.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) data: Vec<u8>,
    /// Task lists and logs also say how many there are.
    pub(crate) total: Option<usize>,
}

impl Body {
    pub(crate) fn of(data: &impl Serialize) -> Self {
        let data = serde_json::to_vec(data).expect("maps with string keys serialise");
        Self { data, total: None }
    }

    pub(crate) fn raw(data: Vec<u8>) -> Self {
        Self { data, total: None }
    }
}

/// The `Connection` headers: pveproxy passes on what pvedaemon and other nodes sent and adds
/// its own, so there may be two and they may contradict each other (seen on PVE 9.2.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    Close,
    /// This node's pveproxy answered by itself.
    KeepAlive,
    /// Another node's pveproxy did.
    KeepAliveTwice,
    /// This node's pvedaemon did.
    CloseAndKeepAlive,
    /// Another node's pvedaemon did.
    CloseViaNode,
}

impl Connection {
    pub(crate) fn headers(self) -> &'static [&'static str] {
        match self {
            Self::Close => &["close"],
            Self::KeepAlive => &["Keep-Alive"],
            Self::KeepAliveTwice => &["Keep-Alive", "Keep-Alive"],
            Self::CloseAndKeepAlive => &["close", "Keep-Alive"],
            Self::CloseViaNode => &["close,Keep-Alive", "Keep-Alive"],
        }
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) reason: Cow<'static, str>,
    pub(crate) connection: Connection,
    /// JSON text; `None` is an answer without body and content type.
    pub(crate) body: Option<Vec<u8>>,
    /// The body is plain text, which has no content type.
    pub(crate) plain: bool,
    /// How long PVE takes for it.
    pub(crate) delay: Duration,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    data: (),
    message: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    errors: &'a BTreeMap<String, String>,
}

impl Answer {
    pub(crate) fn ok(body: &Body, connection: Connection) -> Self {
        let mut text = Vec::with_capacity(body.data.len() + 32);
        text.extend_from_slice(b"{\"data\":");
        text.extend_from_slice(&body.data);
        if let Some(total) = body.total {
            text.extend_from_slice(format!(",\"total\":{total}").as_bytes());
        }
        text.push(b'}');
        let reason = Cow::Borrowed("OK");
        let body = Some(text);
        Self { status: 200, reason, connection, body, plain: false, delay: Duration::ZERO }
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        let Refusal { status, message, errors, delay } = refusal;
        // 501 is the only text without a line end.
        let end = if status == 501 { "" } else { "\n" };
        let body = ErrorBody { data: (), message: &format!("{message}{end}"), errors: &errors };
        let text = serde_json::to_vec(&body).expect("strings serialise");
        // The reason phrase is the first line, the message all of them (seen on PVE 9.2.11).
        let reason = match message.split_once('\n') {
            Some((first, _)) => first.to_owned(),
            None => message,
        };
        Self { body: Some(text), delay, ..Self::bare(status, reason) }
    }

    /// An answer without body, as 401, 595, 596 and unknown HTTP methods have.
    pub(crate) fn bare(status: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            reason: reason.into(),
            connection: Connection::Close,
            body: None,
            plain: false,
            delay: Duration::ZERO,
        }
    }

    /// What pveproxy says when it does not understand a body: text, no JSON.
    pub(crate) fn plain(status: u16, words: &str, end: &str) -> Self {
        let body = Some(format!("{words}{end}").into_bytes());
        Self { body, plain: true, ..Self::bare(status, words.to_owned()) }
    }

    pub(crate) fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    pub(crate) fn no_route(delay: Duration) -> Self {
        Self::bare(595, "No route to host").after(delay)
    }

    pub(crate) fn connection_refused() -> Self {
        Self::bare(595, "Connection refused")
    }

    pub(crate) fn timed_out(delay: Duration) -> Self {
        Self::bare(596, "Connection timed out").after(delay)
    }
}
