//! Who calls, and whether they may.
//!
//! A token comes as `Authorization: Bearer TOKEN`. It is looked up for every request, so one that
//! is revoked opens nothing from then on; the database being away is a 503 and no way in.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use schema::Conn;
use schema::idempotency::Claim;
use schema::token::{self, Scope, TokenRow, Unfit};

use crate::Api;
use crate::access::Named;
use crate::error::{ApiError, Refusal};
use crate::linger;
use crate::read::read;
use crate::remote::Remote;
use crate::request_id::RequestId;
use crate::routes::Scopes;

/// Whether callers must show a token.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Auth {
    /// Every request below `/api/v1` needs a token; `pve-api token create` makes one.
    #[default]
    Tokens,
    /// Whoever reaches the address may do everything; on loopback only.
    Off,
}

/// Who caused a request, for the record.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The name of the token.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// The right to carry this request out, if it came with a key.
    pub claim: Option<Claim>,
    pub remote_address: Option<String>,
    pub request_id: Option<String>,
}

impl Caller {
    /// Whoever has a token of that name, and is not calling right now.
    pub(crate) fn of_token(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            scope: Scope::Write,
            claim: None,
            remote_address: None,
            request_id: None,
        }
    }
}

/// Lets a request pass if its token may do what the route is for.
pub(crate) async fn guard(
    State((api, scopes)): State<(Api, Scopes)>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    // Without a scope there is no such method, and nothing to protect.
    let Some(needed) = path.and_then(|path| scopes.of(path, request.method())) else {
        return next.run(request).await;
    };
    let address = request.extensions().get::<Remote>().map(|Remote(address)| *address);
    let named = request.extensions().get::<Named>().cloned().unwrap_or_default();
    let (name, scope) = match admit(&api, request.headers(), needed, address, &named).await {
        Ok(admitted) => admitted,
        Err(denied) => {
            let (head, body) = request.into_parts();
            linger::leave(body, &head.headers, &api.settings.tasks);
            return denied.into_response();
        }
    };
    let caller = Caller {
        name,
        scope,
        claim: None,
        remote_address: address.map(|address| address.to_string()),
        request_id: request.extensions().get::<RequestId>().map(|RequestId(id)| id.clone()),
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// The name of whoever calls, and what they may do. A token costs one look at the table, be it right
/// or wrong.
async fn admit(
    api: &Api,
    headers: &HeaderMap,
    needed: Scope,
    address: Option<IpAddr>,
    named: &Named,
) -> Result<(String, Scope), Denied> {
    if api.settings.auth == Auth::Off {
        return Ok((ANYBODY.to_owned(), Scope::Admin));
    }
    let shown = bearer(headers).ok_or(Denied::NoToken)?;
    let row = read(&api.db, async |conn: &mut Conn| token::find(conn, shown).await).await?;
    if let Some(row) = &row {
        named.set(&row.name);
    }
    let now = schema::now();
    // One that may not do this is a right token all the same.
    let fit = row.as_ref().filter(|row| row.fitness(now).is_ok()).map(|row| row.id);
    let often = match fit {
        Some(id) => api.admission.right(id).map_err(Denied::Rate),
        None => api.admission.wrong(address).map_err(Denied::WrongTokens),
    };
    if let Err(denied) = often {
        api.metrics.refused(denied.reason());
        return Err(denied);
    }
    let row = judge(row, needed, now)?;
    note_use(api, &row);
    Ok((row.name, row.scope))
}

/// Pure: what a token that was found is worth.
fn judge(row: Option<TokenRow>, needed: Scope, now: schema::Timestamp) -> Result<TokenRow, Denied> {
    let row = row.ok_or(Denied::Unknown)?;
    row.fitness(now).map_err(|unfit| Denied::Unfit { name: row.name.clone(), unfit })?;
    if row.scope < needed {
        return Err(Denied::Scope { name: row.name, has: row.scope, needed });
    }
    Ok(row)
}

/// Writes the time of use beside the request, and not more often than it is shown.
fn note_use(api: &Api, row: &TokenRow) {
    let now = schema::now();
    let noted = row.last_used_at.is_some_and(|at| {
        now.signed_duration_since(at).to_std().is_ok_and(|age| age < NOTE_INTERVAL)
    });
    if noted {
        return;
    }
    let (db, id) = (api.db.clone(), row.id);
    api.settings.tasks.spawn(async move {
        let note =
            db.write(async |conn: &mut Conn| token::note_use(conn, id, now, NOTE_INTERVAL).await);
        if let Err(error) = note.await {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "The use of a token was not noted");
        }
    });
}

const NOTE_INTERVAL: Duration = Duration::from_mins(1);

/// The name of callers where nobody asks for one.
const ANYBODY: &str = "anybody";

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Why a request is not let in.
#[derive(Debug)]
enum Denied {
    NoToken,
    Unknown,
    Unfit {
        name: String,
        unfit: Unfit,
    },
    Scope {
        name: String,
        has: Scope,
        needed: Scope,
    },
    /// The address of the caller showed too many wrong tokens; for how long it is told just that.
    WrongTokens(Duration),
    /// The token is shown too often; when it may be shown again.
    Rate(Duration),
    Other(ApiError),
}

impl Denied {
    fn reason(&self) -> &'static str {
        match self {
            Self::Rate(_) => "rate",
            Self::WrongTokens(_) => "wrong_tokens",
            _ => "other",
        }
    }
}

/// 429, and when to come again.
fn too_often(message: &str, reason: &'static str, wait: Duration) -> Response {
    let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, reason, message);
    let mut response = ApiError::from(refusal).into_response();
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, seconds.max(1).into());
    response
}

impl From<ApiError> for Denied {
    fn from(error: ApiError) -> Self {
        Self::Other(error)
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        use StatusCode as Code;
        let (status, reason, message, challenge) = match self {
            Self::Other(error) => return error.into_response(),
            Self::Rate(wait) => {
                let message = "this token is used more often than --rate-limit allows; wait as \
                               long as the header Retry-After says";
                return too_often(message, "rate", wait);
            }
            Self::WrongTokens(wait) => {
                let message = "too many wrong tokens came from this address; wait as long as the \
                               header Retry-After says";
                return too_often(message, "wrong_tokens", wait);
            }
            Self::NoToken => (
                Code::UNAUTHORIZED,
                "no_token",
                "this needs a token: send `Authorization: Bearer TOKEN`; `pve-api token create` \
                 makes one"
                    .to_owned(),
                "Bearer realm=\"pve-api\"".to_owned(),
            ),
            Self::Unknown => (
                Code::UNAUTHORIZED,
                "unknown_token",
                "this token is not known here".to_owned(),
                invalid("unknown"),
            ),
            Self::Unfit { name, unfit } => {
                let (reason, word) = match unfit {
                    Unfit::Revoked => ("revoked_token", "was revoked"),
                    Unfit::Expired => ("expired_token", "has expired"),
                };
                (Code::UNAUTHORIZED, reason, format!("the token `{name}` {word}"), invalid(word))
            }
            Self::Scope { name, has, needed } => (
                Code::FORBIDDEN,
                "scope",
                format!("the token `{name}` has the scope {has}, this needs {needed}"),
                format!(
                    "Bearer realm=\"pve-api\", error=\"insufficient_scope\", scope=\"{needed}\""
                ),
            ),
        };
        let mut response = ApiError::from(Refusal::new(status, reason, message)).into_response();
        let challenge = HeaderValue::from_str(&challenge).expect("our own words are visible ASCII");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        response
    }
}

fn invalid(why: &str) -> String {
    format!("Bearer realm=\"pve-api\", error=\"invalid_token\", error_description=\"{why}\"")
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // Routes come with a scope, so `guard` was here.
        parts.extensions.get::<Self>().cloned().ok_or(ApiError::NoSuchPath)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn only_a_bearer_token_is_a_token() {
        assert_eq!(bearer(&headers("Bearer abc")), Some("abc"));
        assert_eq!(bearer(&headers("bearer  abc ")), Some("abc"));
        for other in ["Basic YTpi", "Bearer", "Bearer ", "abc", ""] {
            assert_eq!(bearer(&headers(other)), None, "{other}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
