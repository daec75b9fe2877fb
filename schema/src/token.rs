//! `api_token`: who may call the API, and for what. Only digests of tokens are kept.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use diesel::prelude::*;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

use crate::page::{Listing, Page, alone};
use crate::secret::{Secret, SecretError};
use crate::sql::{self, Sql};
use crate::tables::api_token;
use crate::text::hex;
use crate::words::words;
use crate::{Backend, Conn, DbError, Timestamp};

words! {
    /// What a token may do; each scope includes those before it.
    pub enum Scope {
        Read = "read",
        /// Whatever changes templates and guests.
        Write = "write",
        /// Clusters and their secrets.
        Admin = "admin",
    }
}

/// One row. Whom a token belongs to is told by its name; the token itself is nowhere.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = api_token)]
pub struct TokenRow {
    pub id: i64,
    pub name: String,
    /// In hex.
    pub token_sha256: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub scope: Scope,
    /// Never, if there is none.
    pub expires_at: Option<Timestamp>,
    /// To the minute.
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    pub gmt_create: Timestamp,
    pub creator: Option<String>,
}

/// Why a token that is known opens nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unfit {
    Revoked,
    Expired,
}

impl TokenRow {
    /// Whether it still opens anything.
    pub fn fitness(&self, now: Timestamp) -> Result<(), Unfit> {
        if self.revoked_at.is_some() {
            return Err(Unfit::Revoked);
        }
        match self.expires_at {
            Some(end) if end <= now => Err(Unfit::Expired),
            _ => Ok(()),
        }
    }
}

/// A token that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct NewToken<'a> {
    pub name: &'a str,
    pub scope: Scope,
    pub expires_at: Option<Timestamp>,
    pub creator: Option<&'a str>,
}

/// Makes a token and returns it; nobody can ask for it again.
///
/// # Errors
///
/// [`DbError::Conflict`] if the name was used before, by a revoked token too.
pub async fn create(conn: &mut Conn, new: &NewToken<'_>) -> Result<Secret, DbError> {
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).map_err(|_| SecretError::Random)?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let row = Sql::insert(
        "api_token",
        [
            ("name", new.name.into()),
            ("token_sha256", sha256(&token).into()),
            ("scope", new.scope.into()),
            ("expires_at", new.expires_at.into()),
            ("creator", new.creator.into()),
        ],
    );
    sql::execute(conn, &row).await?;
    Ok(Secret::new(token))
}

/// Makes a token for an administrator if there never was any token, and returns it.
///
/// The name is the same for everybody who tries, so of several replicas one wins.
///
/// # Errors
///
/// [`DbError::Conflict`] if another replica was first.
pub async fn create_first(conn: &mut Conn) -> Result<Option<Secret>, DbError> {
    if sql::number(conn, &Sql::new("SELECT count(*) AS n FROM api_token")).await? > 0 {
        return Ok(None);
    }
    let new =
        NewToken { name: FIRST, scope: Scope::Admin, expires_at: None, creator: Some("pve-api") };
    create(conn, &new).await.map(Some)
}

/// The name of the token of the first start.
pub const FIRST: &str = "first-admin";

/// So that scanners of source code and logs know one when they see it.
const PREFIX: &str = "pveo_";

/// Whether a token may be called so: 1 to 255 characters that can be seen.
pub fn is_name(name: &str) -> bool {
    !name.trim().is_empty() && !name.chars().any(char::is_control) && name.chars().count() <= 255
}

/// One token, revoked or not.
pub async fn get(conn: &mut Conn, id: i64) -> Result<Option<TokenRow>, DbError> {
    sql::first(conn, &Sql::new("SELECT * FROM api_token WHERE id = ").bind(id)).await
}

/// One page of all tokens, revoked ones too. One statement, so it needs no transaction.
pub async fn page(conn: &mut Conn, page: Page) -> Result<Listing<TokenRow>, DbError> {
    alone!("api_token").page(conn, page).await
}

/// The tokens of administrators that are not revoked, so that nobody else revokes one of them until
/// this transaction ends.
pub async fn lock_admins(conn: &mut Conn) -> Result<Vec<TokenRow>, DbError> {
    let rows = Sql::new("SELECT * FROM api_token WHERE revoked_at IS NULL AND scope = ")
        .bind(Scope::Admin)
        .push(" ORDER BY id");
    // SQLite has one writer at a time.
    let rows = if conn.backend() == Backend::Sqlite { rows } else { rows.push(" FOR UPDATE") };
    sql::fetch(conn, &rows).await
}

/// All tokens by name, revoked ones too.
pub async fn list(conn: &mut Conn) -> Result<Vec<TokenRow>, DbError> {
    sql::fetch(conn, &Sql::new("SELECT * FROM api_token ORDER BY name")).await
}

/// Ends a token at once; `false` if there is none of that name that is not revoked.
pub async fn revoke(conn: &mut Conn, name: &str) -> Result<bool, DbError> {
    let row = Sql::update("api_token", [("revoked_at", crate::now().into())])
        .push(" WHERE revoked_at IS NULL AND name = ")
        .bind(name);
    Ok(sql::execute(conn, &row).await? > 0)
}

/// The row of a token, revoked and expired ones too.
///
/// The database looks by digest; the digests are compared here once more, in constant time.
pub async fn find(conn: &mut Conn, token: &str) -> Result<Option<TokenRow>, DbError> {
    let wanted = sha256(token);
    let row = Sql::new("SELECT * FROM api_token WHERE token_sha256 = ").bind(&wanted);
    let found: Option<TokenRow> = sql::first(conn, &row).await?;
    Ok(found.filter(|row| same(row.token_sha256.as_bytes(), wanted.as_bytes())))
}

/// Notes that a token was used, unless that was noted less than `interval` ago.
pub async fn note_use(
    conn: &mut Conn,
    id: i64,
    at: Timestamp,
    interval: Duration,
) -> Result<(), DbError> {
    let interval = chrono::Duration::from_std(interval).unwrap_or_default();
    let row = Sql::update("api_token", [("last_used_at", at.into())])
        .push(" WHERE id = ")
        .bind(id)
        .push(" AND (last_used_at IS NULL OR last_used_at <= ")
        .bind(at.checked_sub_signed(interval))
        .push(")");
    sql::execute(conn, &row).await.map(drop)
}

fn sha256(token: &str) -> String {
    hex(digest(&SHA256, token.as_bytes()).as_ref())
}

/// Takes the same time wherever the two differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_include_those_before_them() {
        assert!(Scope::Read < Scope::Write && Scope::Write < Scope::Admin);
    }

    #[test]
    fn digests_are_the_same_or_not() {
        assert!(same(b"abc", b"abc") && !same(b"abc", b"abd") && !same(b"abc", b"ab"));
    }

    #[test]
    fn a_token_ends_when_it_expires_or_is_revoked() {
        let now = crate::now();
        let fresh = TokenRow {
            id: 1,
            name: "ci".to_owned(),
            token_sha256: String::new(),
            scope: Scope::Read,
            expires_at: None,
            last_used_at: None,
            revoked_at: None,
            gmt_create: now,
            creator: None,
        };

        assert_eq!(fresh.fitness(now), Ok(()));
        let expired = TokenRow { expires_at: Some(now), ..fresh.clone() };
        assert_eq!(expired.fitness(now), Err(Unfit::Expired));
        let revoked = TokenRow { revoked_at: Some(now), ..expired };
        assert_eq!(revoked.fitness(now), Err(Unfit::Revoked));
    }
}
