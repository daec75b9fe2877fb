//! `pve-api token`: makes, lists and revokes the tokens of callers, in the tables.

use anyhow::{Context, bail};
use schema::audit::{self, Event};
use schema::token::{self, NewToken, TokenRow, Unfit};
use schema::{Conn, Db, DbError, Timestamp};

use crate::args::{CreateArgs, DatabaseArgs, RevokeArgs, TokenCommand};

/// Runs one of the commands. A token that was made goes to stdout, and nothing else does.
///
/// # Errors
///
/// What the person who typed it must change, or the database's reasons.
pub async fn run(command: &TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create(args) => create(args).await,
        TokenCommand::List(args) => list(args).await,
        TokenCommand::Revoke(args) => revoke(args).await,
    }
}

async fn create(args: &CreateArgs) -> anyhow::Result<()> {
    let name = args.name.as_str();
    if !token::is_name(name) {
        bail!("--name must have 1 to 255 characters, and no control characters");
    }
    let expires_at = match args.expires {
        None => None,
        Some(lasts) => {
            let lasts = chrono::TimeDelta::from_std(lasts).ok();
            let end = lasts.and_then(|lasts| schema::now().checked_add_signed(lasts));
            Some(end.context("--expires is too far away")?)
        }
    };
    let db = open(&args.database).await?;
    let new = NewToken { name, scope: args.scope, expires_at, creator: Some(ACTOR) };
    let made = db.write(async |conn: &mut Conn| {
        let made = token::create(conn, &new).await?;
        audit::insert(conn, &event("token.create", name)).await?;
        Ok(made)
    });
    let made = match made.await {
        Err(DbError::Conflict { .. }) => {
            bail!("there is, or was, a token called `{name}` already; take another --name")
        }
        made => made?,
    };
    println!("{}", made.expose());
    eprintln!("This is the token `{name}`, shown this once; send it as Authorization: Bearer …");
    Ok(())
}

async fn list(args: &DatabaseArgs) -> anyhow::Result<()> {
    let db = open(args).await?;
    let rows = db.read(async |conn: &mut Conn| token::list(conn).await).await?;
    print!("{}", table(&rows, schema::now()));
    Ok(())
}

async fn revoke(args: &RevokeArgs) -> anyhow::Result<()> {
    let name = args.name.as_str();
    let db = open(&args.database).await?;
    let revoked = db.write(async |conn: &mut Conn| {
        let revoked = token::revoke(conn, name).await?;
        if revoked {
            audit::insert(conn, &event("token.revoke", name)).await?;
        }
        Ok(revoked)
    });
    if !revoked.await? {
        bail!(
            "there is no token called `{name}` that is not revoked; `pve-api token list` lists all"
        );
    }
    eprintln!("The token `{name}` opens nothing any more.");
    Ok(())
}

/// Who whatever is done here is done by.
const ACTOR: &str = "pve-api token";

fn event<'a>(action: &'a str, name: &'a str) -> Event<'a> {
    Event {
        actor: ACTOR,
        action,
        object_kind: "token",
        object_name: Some(name),
        result: "done",
        ..Event::default()
    }
}

async fn open(args: &DatabaseArgs) -> anyhow::Result<Db> {
    let db = Db::open(&args.database_url)?;
    db.check().await?;
    Ok(db)
}

fn table(rows: &[TokenRow], now: Timestamp) -> String {
    let day = |at: Option<Timestamp>, none: &str| {
        at.map_or_else(|| none.to_owned(), |at| at.format("%Y-%m-%d %H:%M").to_string())
    };
    let mut lines =
        vec![["NAME", "SCOPE", "STATE", "EXPIRES", "LAST USED", "MADE"].map(str::to_owned)];
    for row in rows {
        let state = match row.fitness(now) {
            Ok(()) => "valid",
            Err(Unfit::Revoked) => "revoked",
            Err(Unfit::Expired) => "expired",
        };
        lines.push([
            row.name.clone(),
            row.scope.to_string(),
            state.to_owned(),
            day(row.expires_at, "never"),
            day(row.last_used_at, "never"),
            day(Some(row.gmt_create), ""),
        ]);
    }
    let widths: [usize; 6] = std::array::from_fn(|column| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
    });
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
