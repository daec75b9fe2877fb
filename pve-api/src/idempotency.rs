//! `Idempotency-Key`: a `POST` that comes again is done once, and answered as the first was.
//!
//! ```text
//! guard --> once: claim --ours--> handler --> answer kept --> caller
//!                   |               `-- trail: the effect's own transaction notes that there is one
//!                   `--else--> the first answer, or why there is none
//! ```
//!
//! The key is the caller's own, and stands for one request: method, path, query and body. A form
//! with a file is told by what it declares (its length), because it is never held in memory. What
//! is carried out ends whether or not its caller waits, so that there is an answer to keep.

use std::future::Future;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use schema::idempotency::{self, Answer, Claim, Claimed, KEPT, LEASE};
use schema::{Conn, Db, DbError};
use tracing::Instrument as _;

use crate::Api;
use crate::auth::Caller;
use crate::body::whole;
use crate::error::{ApiError, Passing, Refusal, panicked};
use crate::linger;
use crate::read::write;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// As wide as the column.
const LONGEST_KEY: usize = 255;

/// A longer answer is given, and not kept.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// Routes whose answers hold a secret, which is kept nowhere.
const SECRET: [&str; 1] = ["/api/v1/tokens"];

/// Several times within a lease.
const RENEW: Duration = Duration::from_secs(LEASE.as_secs() / 4);

/// Carries a `POST` out once for each key.
pub(crate) async fn once(State(api): State<Api>, request: Request, next: Next) -> Response {
    // Without a caller there is no such method, and nothing to do twice.
    let caller = request.extensions().get::<Caller>().cloned();
    let Some(caller) = caller.filter(|_| request.method() == Method::POST) else {
        return next.run(request).await;
    };
    let key = match key(request.headers()) {
        Ok(Some(key)) => key,
        Ok(None) => return next.run(request).await,
        Err(error) => return refuse(&api, request, error),
    };
    let (request, sha256) = match told_apart(request).await {
        Ok(told) => told,
        Err(error) => return error.into_response(),
    };
    let asked = idempotency::Request { actor: &caller.name, key: &key, sha256: &sha256 };
    match claim(&api, &asked).await {
        Ok(Claimed::Ours(claim)) => carry_out(api, caller, claim, request, next).await,
        Ok(Claimed::Answered(answer)) => {
            leave(&api, request);
            replay(answer)
        }
        Ok(Claimed::Running) => {
            let error =
                Refusal::conflict("in_progress", "the first request of this key is under way");
            let mut response = refuse(&api, request, error);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
            response
        }
        Ok(Claimed::Lost) => refuse(&api, request, lost()),
        Ok(Claimed::Other) => refuse(&api, request, reused()),
        Err(error) => refuse(&api, request, error),
    }
}

/// The key that the caller gave.
fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let fits = !text.is_empty()
        && text.len() <= LONGEST_KEY
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !fits || values.next().is_some() {
        let message = format!(
            "Idempotency-Key is given once, with 1 to {LONGEST_KEY} visible ASCII characters and \
             no blanks, as in a UUID"
        );
        return Err(ApiError::invalid("Idempotency-Key", message));
    }
    Ok(Some(text.to_owned()))
}

/// The digest of what makes it this request and no other.
async fn told_apart(request: Request) -> Result<(Request, String), ApiError> {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map(|it| it.as_str().to_owned()).unwrap_or_default();
    if is_held(&head.headers, &body) {
        let bytes = whole(&head.headers, body).await?;
        let sha256 = idempotency::sha256(&[target.as_bytes(), &bytes]);
        return Ok((Request::from_parts(head, Body::from(bytes)), sha256));
    }
    let declared = head
        .headers
        .iter()
        .filter(|(name, _)| *name == CONTENT_LENGTH || name.as_str().starts_with("upload-"));
    let mut declared: Vec<_> =
        declared.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())).collect();
    declared.sort_unstable();
    let parts = declared.into_iter().flat_map(|(name, value)| [name, value]);
    let parts: Vec<_> = std::iter::once(target.as_bytes()).chain(parts).collect();
    let sha256 = idempotency::sha256(&parts);
    Ok((Request::from_parts(head, body), sha256))
}

/// Whether a body is small enough to be held: none, or JSON, of which only so much is read.
fn is_held(headers: &HeaderMap, body: &Body) -> bool {
    use axum::body::HttpBody as _;
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let json = kind.split(';').next().unwrap_or_default().trim();
    body.is_end_stream() || json.eq_ignore_ascii_case("application/json")
}

async fn claim(api: &Api, asked: &idempotency::Request<'_>) -> Result<Claimed, ApiError> {
    const TRIES: usize = 5;
    for _ in 0..TRIES {
        let claim = async |conn: &mut Conn| idempotency::claim(conn, asked).await;
        match write(&api.db, claim).await {
            Err(ApiError::Db(DbError::Conflict { .. })) => {}
            outcome => return outcome,
        }
    }
    Ok(Claimed::Running)
}

async fn carry_out(
    api: Api,
    caller: Caller,
    claim: Claim,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let secret = path.is_some_and(|path| SECRET.contains(&path.as_str()));
    request.extensions_mut().insert(Caller { claim: Some(claim.clone()), ..caller });
    let tasks = api.settings.tasks.clone();
    let work = async move {
        let response = renewing(&api, &claim, next.run(request)).await;
        keep(&api, &claim, secret, response).await
    };
    tasks
        .spawn(work.in_current_span())
        .await
        .unwrap_or_else(|error| panicked(error).into_response())
}

/// Runs `work`, and says now and then that it still runs.
async fn renewing(api: &Api, claim: &Claim, work: impl Future<Output = Response>) -> Response {
    tokio::pin!(work);
    loop {
        tokio::select! {
            response = &mut work => return response,
            () = tokio::time::sleep(RENEW) => {}
        }
        let renew = async |conn: &mut Conn| idempotency::renew(conn, claim).await;
        if let Err(error) = write(&api.db, renew).await {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "The lease of a request was not renewed");
        }
    }
}

/// Keeps an answer that a repeat should get, and gives the key back otherwise.
async fn keep(api: &Api, claim: &Claim, secret: bool, response: Response) -> Response {
    let (head, body) = response.into_parts();
    let passing = head.status.is_server_error() || head.extensions.get::<Passing>().is_some();
    // Answers are made whole, in memory.
    let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let told = if passing {
        write(&api.db, async |conn: &mut Conn| idempotency::release(conn, claim).await).await
    } else {
        let text = std::str::from_utf8(&bytes).ok().filter(|text| text.len() <= LONGEST_ANSWER);
        let answer = Answer {
            status: head.status.as_u16(),
            headers: written(&head.headers),
            // A refusal holds no secret.
            body: text.filter(|_| !secret || !head.status.is_success()).map(str::to_owned),
        };
        write(&api.db, async |conn: &mut Conn| idempotency::answer(conn, claim, &answer).await)
            .await
    };
    if let Err(error) = told {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "An answer was not kept for a repeat of its request");
    }
    Response::from_parts(head, Body::from(bytes))
}

fn written(headers: &HeaderMap) -> String {
    let pairs: Vec<(&str, &str)> = headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect();
    serde_json::to_string(&pairs).unwrap_or_default()
}

/// The first answer once more.
fn replay(answer: Answer) -> Response {
    let Some(body) = answer.body else { return ApiError::from(not_kept()).into_response() };
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.clear();
    let pairs: Vec<(String, String)> = serde_json::from_str(&answer.headers).unwrap_or_default();
    for (name, value) in pairs {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

fn reused() -> Refusal {
    let message = "this Idempotency-Key was used for another request within the last 24 hours; each \
                   request has a key of its own";
    Refusal::impossible("idempotency_key_reused", message)
}

fn lost() -> Refusal {
    let message = "the first request of this key took effect, and its answer was lost with the \
                   process that gave it: look at what there is now, and use another key";
    Refusal::conflict("answer_lost", message)
}

fn not_kept() -> Refusal {
    let message = "the first request of this key was answered, and the answer is not kept: look at \
                   what there is now, and use another key";
    Refusal::conflict("answer_not_kept", message)
}

fn refuse(api: &Api, request: Request, error: impl Into<ApiError>) -> Response {
    leave(api, request);
    error.into().into_response()
}

fn leave(api: &Api, request: Request) {
    let (head, body) = request.into_parts();
    linger::leave(body, &head.headers, &api.settings.tasks);
}

/// Forgets old keys for as long as it is polled. Dropping it is safe, and any of several processes
/// may do it.
pub(crate) async fn forget_old(db: Db) {
    const EVERY: Duration = Duration::from_mins(10);
    loop {
        let prune = async |conn: &mut Conn| idempotency::prune(conn, KEPT).await;
        if let Err(error) = db.write(prune).await {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "Old keys are forgotten later");
        }
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_given_once_and_can_be_read() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(KEY, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            key(&headers).map_err(|error| error.to_string())
        };

        assert_eq!(with(&[]), Ok(None));
        assert_eq!(with(&["a-1"]), Ok(Some("a-1".to_owned())));
        assert!(with(&["x".repeat(LONGEST_KEY).as_str()]).is_ok());
        let long = "x".repeat(LONGEST_KEY + 1);
        for wrong in [&[""][..], &["a b"], &["é"], &["a", "b"], &[&long]] {
            assert!(with(wrong).unwrap_err().contains("given once"), "{wrong:?}");
        }
    }

    async fn digest(path: &str, headers: &[(&str, &str)], body: &'static str) -> String {
        let mut request = Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // A body of which nobody knows whether it has ended.
        let body = Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>(body)]));
        told_apart(request.body(body).unwrap()).await.unwrap().1
    }

    #[tokio::test]
    async fn a_request_is_told_by_its_path_and_body_and_a_file_by_what_is_declared() {
        let json = [("content-type", "application/json; charset=utf-8")];
        let first = digest("/clusters", &json, "{}").await;
        assert_eq!(first, digest("/clusters", &json, "{}").await);
        assert_ne!(first, digest("/clusters", &json, "{ }").await);
        assert_ne!(first, digest("/clusters?a=1", &json, "{}").await);

        let form = |boundary, length| [("content-type", boundary), ("content-length", length)];
        let one = form("multipart/form-data; boundary=a", "7");
        let again = form("multipart/form-data; boundary=b", "7");
        let longer = form("multipart/form-data; boundary=a", "8");
        let first = digest("/templates/upload", &one, "x").await;
        assert_eq!(first, digest("/templates/upload", &again, "y").await);
        assert_ne!(first, digest("/templates/upload", &longer, "x").await);
    }
}
