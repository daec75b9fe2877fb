//! Mistakes that people make, and the sentence that helps them.

use pve_sim::{Config, Sim, Token};
use schema::testing::TestDatabase;

use crate::support::{Followed, Mirror, on_every_database, simulate};

/// A cluster whose row is right but for the columns that `mistake` sets.
async fn with_mistake(
    database: TestDatabase,
    mistake: impl FnOnce(&Sim) -> String,
) -> (Mirror, Followed) {
    let mut mirror = Mirror::stopped(database);
    let it = mirror.follow("sim", simulate(Config::quick().guests(5))).await;
    let set = mistake(&it.sim);
    mirror.sql(&format!("UPDATE pve_cluster SET {set} WHERE id = {}", it.id.0)).await;
    mirror.start().await;
    (mirror, it)
}

/// The status's message, once its reason is this.
async fn message(mirror: &Mirror, it: &Followed, reason: &str) -> String {
    mirror.until_reason(it, reason).await.message.expect("it has a message")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_where_nobody_listens_is_named() {
    on_every_database("wrong_url", async |database| {
        let (mirror, it) =
            with_mistake(database, |_| "api_url = 'https://127.0.0.1:1'".to_owned()).await;

        let message = message(&mirror, &it, "Unreachable").await;

        assert!(message.contains("127.0.0.1:1") && message.contains("Check api_url"), "{message}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_that_is_none_is_shown_with_an_example() {
    on_every_database("no_url", async |database| {
        let (mirror, it) =
            with_mistake(database, |_| "api_url = 'pve1.example.com:8006'".to_owned()).await;

        let message = message(&mirror, &it, "InvalidConfiguration").await;

        assert!(message.contains("https://pve1.example.com:8006"), "{message}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_is_refused_before_the_token_is_sent() {
    on_every_database("http", async |database| {
        let http = |sim: &Sim| format!("api_url = '{}'", sim.url().replace("https", "http"));
        let (mirror, it) = with_mistake(database, http).await;

        let message = message(&mirror, &it, "InvalidConfiguration").await;

        assert!(message.contains("https://"), "{message}");
        assert_eq!(it.sim.counters().with_token, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_fingerprint_shows_the_right_one_and_keeps_the_token() {
    on_every_database("fingerprint", async |database| {
        let wrong = |_: &Sim| format!("tls_fingerprint = '{}'", ["AB"; 32].join(":"));
        let (mirror, it) = with_mistake(database, wrong).await;

        let message = message(&mirror, &it, "CertificateNotTrusted").await;

        let right = it.sim.fingerprint("pve1");
        assert!(
            message.contains(&format!("tls_fingerprint = '{right}' WHERE id = {}", it.id.0)),
            "{message}"
        );
        assert_eq!(it.sim.counters().with_token, 0);
        let status = mirror.status(it.id).await.unwrap();
        assert_eq!(status.presented_fingerprint, Some(right));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_token_id_is_told_both_ways_to_write_one() {
    on_every_database("no_token_id", async |database| {
        let (mirror, it) = with_mistake(database, |_| "user_id = 'user@pve'".to_owned()).await;

        let message = message(&mirror, &it, "InvalidConfiguration").await;

        assert!(
            message.contains("user@realm!tokenid") && message.contains("tokenid=secret"),
            "{message}"
        );
        assert!(!message.contains(&it.sim.token()), "the secret is in the status");
        assert_eq!(it.sim.counters().with_token, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_is_called_so_and_not_tried_at_each_poll() {
    on_every_database("revoked", async |database| {
        let (mirror, it) = with_mistake(database, |sim| {
            sim.revoke_token();
            "env = 'prod'".to_owned()
        })
        .await;

        let message = message(&mirror, &it, "Unauthorized").await;
        let other = mirror.follow("other", simulate(Config::quick().guests(5))).await;
        mirror.until_equal(&other).await;
        mirror.polls(&other, 30).await;

        assert!(message.contains("revoked") && message.contains("user_token"), "{message}");
        assert!(it.sim.counters().answered(401) <= 10, "{:?}", it.sim.counters().by_status);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_without_rights_is_told_which_ones() {
    on_every_database("no_rights", async |database| {
        let (mirror, it) = with_mistake(database, |sim| {
            sim.put_token(Token::new("ro@pve!mirror", "weak"));
            "user_id = 'ro@pve!mirror', user_token = 'weak'".to_owned()
        })
        .await;

        let message = message(&mirror, &it, "MissingPrivileges").await;

        for privilege in ["VM.Audit", "Datastore.Audit", "Sys.Audit"] {
            assert!(message.contains(privilege), "{privilege}: {message}");
        }
    })
    .await;
}

/// What starting an operator on this database says.
async fn refusal(mirror: &mut Mirror) -> String {
    let error = mirror.try_start().await.expect_err("it does not start");
    format!("{error:#}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_are_missing_or_too_new_are_told_with_what_to_do() {
    on_every_database("versions", async |database| {
        let mut mirror = Mirror::stopped(database);
        mirror.sql("UPDATE schema_migration SET minimum = 999").await;
        let too_new = refusal(&mut mirror).await;
        assert!(too_new.contains("install the newer release"), "{too_new}");

        mirror.sql("UPDATE schema_migration SET minimum = 1").await;
        mirror.db().migrate_to(0).await.unwrap();
        let missing = refusal(&mut mirror).await;
        assert!(missing.contains("pve-operator migrate"), "{missing}");
        assert!(missing.contains("--migrate"), "{missing}");

        mirror.option("--usage-interval", "1m");
        mirror.db().migrate().await.unwrap();
        mirror.start().await;
    })
    .await;
}

#[tokio::test]
async fn a_database_file_that_cannot_be_written_is_named_as_the_reason() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mirror.db");
    let url = format!("sqlite://{}", file.display());
    let db = schema::Db::open(&url).unwrap();
    db.migrate().await.unwrap();
    // Back to one file, which then is all that needs protecting.
    db.conn().await.unwrap().execute_sql("PRAGMA journal_mode = DELETE").await.unwrap();
    db.close();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o444)).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o555)).unwrap();

    let line = ["run", "--database-url", &url, "--listen", "127.0.0.1:0"];
    let said = crate::binary::failing_as_somebody(&line).await;

    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    assert!(said.contains("read-only") && said.contains("writable"), "{said}");
}

#[tokio::test]
async fn a_database_file_in_a_folder_that_is_missing_says_to_make_it() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("not/there");
    let url = format!("sqlite://{}", missing.join("mirror.db").display());

    let said = crate::binary::failing(&["migrate", "--database-url", &url]).await;

    let advice = format!("there is no folder {}: create it", missing.display());
    assert!(said.contains(&advice), "{said}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_the_flag_that_changes_it() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let database = TestDatabase::sqlite("port").await;
    let mut mirror = Mirror::stopped(database);
    mirror.option("--listen", &taken.local_addr().unwrap().to_string());

    let said = refusal(&mut mirror).await;

    assert!(said.contains("--listen") && said.contains("cannot listen on"), "{said}");
}
