//! Tokens of the API, and the record of who changed what.

use std::time::Duration;

use schema::audit::{self, Event};
use schema::testing::TestDatabase;
use schema::token::{self, NewToken, Scope};
use schema::{Conn, DbError};

const CI: NewToken<'_> =
    NewToken { name: "ci", scope: Scope::Write, expires_at: None, creator: Some("me") };

#[tokio::test]
async fn a_token_is_found_until_it_is_revoked_and_is_nowhere_in_the_table() {
    for database in TestDatabase::all("token").await {
        let mut conn = database.db.conn().await.unwrap();

        let made = token::create(&mut conn, &CI).await.unwrap();

        let row = token::find(&mut conn, made.expose()).await.unwrap().unwrap();
        assert_eq!((row.name.as_str(), row.scope), ("ci", Scope::Write));
        assert_eq!(row.fitness(schema::now()), Ok(()));
        assert!(!format!("{row:?}").contains(made.expose()));
        assert_eq!(token::find(&mut conn, "pveo_other").await.unwrap(), None);
        assert_eq!(token::find(&mut conn, &row.token_sha256).await.unwrap(), None);

        assert!(token::revoke(&mut conn, "ci").await.unwrap());
        assert!(!token::revoke(&mut conn, "ci").await.unwrap());
        let row = token::find(&mut conn, made.expose()).await.unwrap().unwrap();
        assert_eq!(row.fitness(schema::now()), Err(token::Unfit::Revoked));
        let again = token::create(&mut conn, &CI).await.unwrap_err();
        assert!(matches!(again, DbError::Conflict { .. }), "{again}");
    }
}

#[tokio::test]
async fn of_several_replicas_one_makes_the_first_token() {
    for database in TestDatabase::all("first_token").await {
        let first = || database.db.write(async |conn: &mut Conn| token::create_first(conn).await);

        let (a, b, c) = tokio::join!(first(), first(), first());

        let made = [a, b, c].into_iter().filter(|it| matches!(it, Ok(Some(_)))).count();
        assert_eq!(made, 1, "{}", database.kind());
        assert!(matches!(first().await, Ok(None)));
        let list = token::list(&mut database.db.conn().await.unwrap()).await.unwrap();
        assert_eq!((list.len(), list[0].scope), (1, Scope::Admin));
    }
}

#[tokio::test]
async fn its_last_use_is_noted_once_in_a_while() {
    for database in TestDatabase::all("last_used").await {
        let mut conn = database.db.conn().await.unwrap();
        token::create(&mut conn, &CI).await.unwrap();
        let id = token::list(&mut conn).await.unwrap()[0].id;
        let start = schema::now();
        let after = |seconds| start + chrono::TimeDelta::seconds(seconds);

        let mut noted = Vec::new();
        for seconds in [0, 59, 60] {
            let interval = Duration::from_mins(1);
            token::note_use(&mut conn, id, after(seconds), interval).await.unwrap();
            noted.push(token::list(&mut conn).await.unwrap()[0].last_used_at);
        }

        assert_eq!(noted, [Some(after(0)), Some(after(0)), Some(after(60))]);
    }
}

#[tokio::test]
async fn what_was_done_is_kept_however_long_its_words_are() {
    for database in TestDatabase::all("audit").await {
        let mut conn = database.db.conn().await.unwrap();
        let long = "x\0".repeat(1000);
        let event = Event {
            actor: "ci",
            action: "template.upload",
            object_kind: "template",
            object_name: Some(&long),
            result: "done",
            ..Event::default()
        };

        audit::insert(&mut conn, &event).await.unwrap();

        let kept = &audit::latest(&mut conn, 10).await.unwrap()[0];
        assert_eq!((kept.actor.as_str(), kept.result.as_str()), ("ci", "done"));
        assert_eq!(kept.object_name.as_deref(), Some("x".repeat(255).as_str()));
        assert_eq!(kept.remote_address, None);
    }
}
