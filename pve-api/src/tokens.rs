//! `/tokens`: who may call, over HTTP; `pve-api token` does the same from a shell.

use axum::extract::State;
use axum::http::StatusCode;
use schema::page::Page;
use schema::secret::Secret;
use schema::token::{self, NewToken, Scope, TokenRow, Unfit};
use schema::{Conn, DbError, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::Api;
use crate::args::long_duration;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::envelope::{Answer, List};
use crate::error::{ApiError, Refusal, printable};
use crate::path::Id;
use crate::query::{Force, Params, moment};
use crate::read::{ask, write};
use crate::trail::Trail;
use crate::view::{Time, time};

/// `GET /tokens`: one page of all tokens, newest first, revoked and expired ones too.
pub(crate) async fn list(
    State(api): State<Api>,
    Params(page): Params<Page>,
) -> Result<Answer<List<TokenView>>, ApiError> {
    let rows = ask(&api.db, async |conn| token::page(conn, page).await).await?;
    let now = schema::now();
    Ok(Answer(List::of(rows, |row| TokenView::new(row, now))))
}

/// A token that is wanted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenBody {
    /// Whom or what it is for; each name once.
    name: String,
    /// `read`, `write` or `admin`.
    #[schemars(extend("enum" = ["read", "write", "admin"]))]
    scope: String,
    /// How long it lasts, as in 90d or 12h; for ever, without this and `expires_at`.
    expires_in: Option<String>,
    /// When it ends, in RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    expires_at: Option<String>,
}

impl TokenBody {
    fn scope(&self) -> Result<Scope, ApiError> {
        Scope::parse(&self.scope).ok_or_else(|| {
            let message =
                format!("scope is `{}`; write one of read, write, admin", printable(&self.scope));
            ApiError::invalid("scope", message)
        })
    }

    fn end(&self, now: Timestamp) -> Result<Option<Timestamp>, ApiError> {
        let (field, end) = match (&self.expires_in, &self.expires_at) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                let message = "expires_in and expires_at say the same; give one of them";
                return Err(ApiError::invalid("expires_at", message));
            }
            (Some(lasts), None) => {
                let field = "expires_in";
                let lasts = long_duration(lasts).map_err(|_| {
                    let shown = printable(lasts);
                    let message = format!("{field} is `{shown}`; write for example 90d or 12h");
                    ApiError::invalid(field, message)
                })?;
                let lasts = chrono::TimeDelta::from_std(lasts).ok();
                (field, lasts.and_then(|lasts| now.checked_add_signed(lasts)))
            }
            (None, Some(at)) => ("expires_at", Some(moment("expires_at", at)?)),
        };
        // As far as all databases keep times.
        let farthest =
            chrono::NaiveDate::from_ymd_opt(9999, 1, 1).unwrap_or(chrono::NaiveDate::MAX);
        match end.filter(|end| end.date() < farthest) {
            None => Err(ApiError::invalid(field, format!("{field} is too far away"))),
            Some(end) if end <= now => {
                Err(ApiError::invalid(field, format!("{field} is in the past")))
            }
            Some(end) => Ok(Some(end)),
        }
    }
}

/// `POST /tokens`: makes a token and shows it, this once.
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Params(()): Params<()>,
    JsonBody(body): JsonBody<TokenBody>,
) -> Result<Answer<NewTokenView>, ApiError> {
    let has = caller.scope;
    let trail = Trail::new(caller, "token.create", "token", Some(printable(&body.name)));
    let outcome = make(&api, &trail, has, &body).await;
    trail.told(&api, outcome).await.map(Answer)
}

async fn make(
    api: &Api,
    trail: &Trail,
    has: Scope,
    body: &TokenBody,
) -> Result<NewTokenView, ApiError> {
    let (scope, expires_at) = (body.scope()?, body.end(schema::now())?);
    if !token::is_name(&body.name) {
        let message = "name must have 1 to 255 characters, and no control characters";
        return Err(ApiError::invalid("name", message));
    }
    if scope > has {
        let message = format!("a token of the scope {has} can not make one of the scope {scope}");
        return Err(Refusal::new(StatusCode::FORBIDDEN, "scope", message).of_field("scope").into());
    }
    let new = NewToken { name: &body.name, scope, expires_at, creator: Some(trail.actor()) };
    let made = write(&api.db, async |conn: &mut Conn| {
        let secret = token::create(conn, &new).await?;
        trail.done(conn).await?;
        Ok((token::find(conn, secret.expose()).await?, secret))
    });
    match made.await {
        Ok((Some(row), secret)) => Ok(NewTokenView {
            id: row.id,
            name: row.name,
            scope: row.scope.as_str(),
            expires_at: time(row.expires_at),
            token: ShownOnce(secret),
        }),
        Ok((None, _)) => Err(DbError::NotFound { what: "token just made".to_owned() }.into()),
        Err(ApiError::Db(DbError::Conflict { .. })) => {
            let name = printable(&body.name);
            let message =
                format!("there is, or was, a token called `{name}` already; take another name");
            Err(Refusal::conflict("name_taken", message).of_field("name").into())
        }
        Err(error) => Err(error),
    }
}

/// `DELETE /tokens/{id}`: ends a token at once; one that has ended already is shown as it is.
pub(crate) async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id,
    Params(Force(force)): Params<Force>,
) -> Result<Answer<TokenView>, ApiError> {
    let trail = Trail::new(caller, "token.revoke", "token", Some(id.to_string()));
    let revoked = write(&api.db, async |conn: &mut Conn| {
        let admins = token::lock_admins(conn).await?;
        let Some(row) = token::get(conn, id).await? else { return Ok(None) };
        if row.revoked_at.is_some() {
            return Ok(Some(Ok(row)));
        }
        if !force && is_last_admin(&admins, id, schema::now()) {
            return Ok(Some(Err(last_admin(&row.name))));
        }
        token::revoke(conn, &row.name).await?;
        trail.named(&row.name, None).done(conn).await?;
        Ok(token::get(conn, id).await?.map(Ok))
    });
    let outcome = match revoked.await {
        Ok(Some(Ok(row))) => Ok(TokenView::new(row, schema::now())),
        Ok(Some(Err(refusal))) => Err(refusal.into()),
        Ok(None) => Err(ApiError::not_found(format!("token with id {id}"))),
        Err(error) => Err(error),
    };
    trail.told(&api, outcome).await.map(Answer)
}

/// Pure: whether nobody could administer any more without this one.
fn is_last_admin(admins: &[TokenRow], id: i64, now: Timestamp) -> bool {
    let mut fit = admins.iter().filter(|row| row.fitness(now).is_ok());
    fit.clone().any(|row| row.id == id) && fit.all(|row| row.id == id)
}

fn last_admin(name: &str) -> Refusal {
    let message = format!(
        "`{name}` is the last token of an administrator that is valid: make another one first, or \
         revoke it by ?force=true; then only `pve-api token create` helps"
    );
    Refusal::conflict("last_admin", message)
}

/// What is shown of a token; the token itself is nowhere.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TokenView {
    id: i64,
    name: String,
    /// `read`, `write` or `admin`.
    #[schemars(extend("enum" = ["read", "write", "admin"]))]
    scope: &'static str,
    /// `valid`, `expired` or `revoked`.
    #[schemars(extend("enum" = ["valid", "expired", "revoked"]))]
    state: &'static str,
    expires_at: Option<Time>,
    /// To the minute.
    last_used_at: Option<Time>,
    revoked_at: Option<Time>,
    gmt_create: Time,
    creator: Option<String>,
}

impl TokenView {
    fn new(row: TokenRow, now: Timestamp) -> Self {
        let state = match row.fitness(now) {
            Ok(()) => "valid",
            Err(Unfit::Expired) => "expired",
            Err(Unfit::Revoked) => "revoked",
        };
        Self {
            id: row.id,
            name: row.name,
            scope: row.scope.as_str(),
            state,
            expires_at: time(row.expires_at),
            last_used_at: time(row.last_used_at),
            revoked_at: time(row.revoked_at),
            gmt_create: Time(row.gmt_create),
            creator: row.creator,
        }
    }
}

/// A token that was made.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NewTokenView {
    id: i64,
    name: String,
    scope: &'static str,
    expires_at: Option<Time>,
    /// Send it as `Authorization: Bearer TOKEN`; nobody can ask for it again.
    #[schemars(with = "String")]
    token: ShownOnce,
}

/// A secret that is in one answer, and in no log.
#[derive(Debug)]
struct ShownOnce(Secret);

impl Serialize for ShownOnce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn an_admin(id: i64, expires_at: Option<Timestamp>) -> TokenRow {
        TokenRow {
            id,
            name: id.to_string(),
            token_sha256: String::new(),
            scope: Scope::Admin,
            expires_at,
            last_used_at: None,
            revoked_at: None,
            gmt_create: schema::now(),
            creator: None,
        }
    }

    #[test]
    fn the_last_admin_is_the_one_besides_whom_nobody_is_valid() {
        let now = schema::now();
        let (one, other, expired) = (an_admin(1, None), an_admin(2, None), an_admin(3, Some(now)));

        assert!(is_last_admin(&[one.clone(), expired.clone()], 1, now));
        assert!(!is_last_admin(&[one.clone(), other], 1, now));
        assert!(!is_last_admin(&[one.clone(), expired], 3, now), "it opens nothing anyway");
        assert!(!is_last_admin(&[one], 7, now), "no administrator's");
    }

    #[test]
    fn an_end_is_said_once_and_is_to_come() {
        let now = schema::now();
        let end = |expires_in: Option<&str>, expires_at: Option<&str>| {
            let body = TokenBody {
                name: "ci".to_owned(),
                scope: "read".to_owned(),
                expires_in: expires_in.map(str::to_owned),
                expires_at: expires_at.map(str::to_owned),
            };
            body.end(now).map_err(|error| error.to_string())
        };

        assert_eq!(end(None, None), Ok(None));
        assert_eq!(end(Some("12h"), None), Ok(Some(now + chrono::TimeDelta::hours(12))));
        assert!(end(None, Some("2999-01-01T00:00:00Z")).unwrap().is_some());
        for (lasts, at, says) in [
            (Some("1h"), Some("2999-01-01T00:00:00Z"), "one of them"),
            (Some("0d"), None, "90d or 12h"),
            (Some("99999999d"), None, "too far away"),
            (None, Some("2001-01-01T00:00:00Z"), "in the past"),
            (None, Some("tomorrow"), "2025-01-02T03:04:05Z"),
        ] {
            let said = end(lasts, at).unwrap_err();
            assert!(said.contains(says), "{said}");
        }
    }
}
