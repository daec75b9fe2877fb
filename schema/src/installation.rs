//! `installation`: what this installation knows of itself, made once by whoever asks first.
//!
//! The id marks guests and files as ours. It is random, so two installations on one PVE never take
//! the other's for their own.

use diesel::prelude::*;
use rand::Rng;

use crate::sql::{self, Sql};
use crate::tables::installation;
use crate::text::hex;
use crate::{Conn, DbError};

/// The id of this installation: 16 hexadecimal digits.
pub const ID: &str = "id";

/// What image URLs are signed with where no secret file is given: 64 hexadecimal digits.
pub const SIGNING_KEY: &str = "image_signing_key";

#[derive(QueryableByName)]
#[diesel(table_name = installation)]
struct Row {
    value: String,
}

/// The id of this installation.
///
/// Call it within [`crate::Db::write`].
pub async fn id(conn: &mut Conn) -> Result<String, DbError> {
    get_or_make(conn, ID, 8).await
}

/// The key that signs image URLs where no secret file is given.
///
/// Call it within [`crate::Db::write`].
pub async fn signing_key(conn: &mut Conn) -> Result<String, DbError> {
    get_or_make(conn, SIGNING_KEY, 32).await
}

async fn get_or_make(conn: &mut Conn, name: &str, bytes: usize) -> Result<String, DbError> {
    let read = Sql::new("SELECT value FROM installation WHERE name = ").bind(name);
    if let Some(row) = sql::first::<Row>(conn, &read).await? {
        return Ok(row.value);
    }
    let mut random = [0; 32];
    rand::rng().fill(&mut random[..]);
    let value = hex(&random[..bytes]);
    let row = Sql::insert("installation", [("name", name.into()), ("value", (&value).into())]);
    match sql::execute(conn, &row).await {
        // Somebody else was first; on PostgreSQL this transaction is lost, so it is run again.
        Err(DbError::Conflict { what }) => Err(DbError::Busy { source: what.into() }),
        outcome => outcome.map(|_| value),
    }
}
