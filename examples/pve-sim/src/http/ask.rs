//! A request, taken apart: what is asked, by whom it says, and with which parameters.

use std::collections::BTreeMap;

use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use serde_json::Value;

use crate::api::routes::Route;

/// Bodies but uploads may be so long (pve-http-server: AnyEvent.pm:54).
const LONGEST_BODY: usize = 512 << 10;

/// What is asked, apart from who asks.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) method: String,
    /// Without `/api2/json`.
    pub(super) path: String,
    pub(super) found: Option<(&'static Route, BTreeMap<&'static str, String>)>,
}

/// What of a request is looked at after its body was read.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
}

impl Head {
    pub(super) fn of(request: &Request<Incoming>) -> Self {
        Self {
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            headers: request.headers().clone(),
        }
    }
}

/// Parameters of a body, or what is wrong with it.
pub(super) type Params = Result<BTreeMap<String, String>, String>;

/// Reads a form, or JSON, to its end.
pub(super) async fn read_body(request: &mut Request<Incoming>) -> Params {
    if matches!(request.method().as_str(), "GET" | "DELETE") {
        return Ok(BTreeMap::new());
    }
    let body = Limited::new(request.body_mut(), LONGEST_BODY).collect().await;
    let body = body.map_err(|error| format!("for data too large or broken: {error}"))?.to_bytes();
    if body.is_empty() {
        return Ok(BTreeMap::new());
    }
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !kind.is_some_and(|kind| kind.starts_with("application/json")) {
        return Ok(url::form_urlencoded::parse(&body).into_owned().collect());
    }
    let parsed: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let Value::Object(parsed) = parsed else { return Err("no JSON object".to_owned()) };
    let text = |value: Value| match value {
        Value::String(text) => text,
        Value::Bool(on) => u8::from(on).to_string(),
        other => other.to_string(),
    };
    Ok(parsed.into_iter().map(|(key, value)| (key, text(value))).collect())
}
