//! Uploads that can be resumed: the protocol, request by request.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use pve_api::Auth;
use schema::token::{self, NewToken, Scope};
use serde_json::json;
use tokio::sync::mpsc;
use tower::ServiceExt as _;

use crate::fixture::{Answer, answer, call};
use crate::templates::{Lab, qcow2, refused};

const FILES: &str = "/api/v1/files";
const VERSION: (&str, &str) = ("tus-resumable", "1.0.0");
const BYTES: (&str, &str) = ("content-type", "application/offset+octet-stream");
const PATIENCE: Duration = Duration::from_mins(1);

fn metadata(fields: &[(&str, &str)]) -> String {
    let pair = |(key, value): &(&str, &str)| format!("{key} {}", STANDARD.encode(value));
    fields.iter().map(pair).collect::<Vec<_>>().join(",")
}

const LEAST: [(&str, &str); 4] = [
    ("template_name", "web"),
    ("cluster_id", "1"),
    ("storage_id", "5"),
    ("filename", "disk.qcow2"),
];

/// The least metadata, with or instead of which come these.
fn with(fields: &[(&str, &str)]) -> String {
    let mut all: Vec<_> = LEAST
        .iter()
        .filter(|(key, _)| fields.iter().all(|(other, _)| other != key))
        .copied()
        .collect();
    all.extend_from_slice(fields);
    metadata(&all)
}

async fn create(lab: &Lab, length: usize, metadata: &str) -> Answer {
    let length = length.to_string();
    let headers = [VERSION, ("upload-length", &length), ("upload-metadata", metadata)];
    call(&lab.router, "POST", FILES, &headers, "").await
}

/// A new session's path.
async fn begun(lab: &Lab, length: usize, fields: &[(&str, &str)]) -> String {
    let answer = create(lab, length, &with(fields)).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.headers["location"].to_str().unwrap().to_owned()
}

async fn patch(lab: &Lab, path: &str, offset: usize, bytes: impl Into<Body>) -> Answer {
    patch_with(lab, path, offset, &[], bytes).await
}

async fn patch_with(
    lab: &Lab,
    path: &str,
    offset: usize,
    more: &[(&str, &str)],
    bytes: impl Into<Body>,
) -> Answer {
    let offset = offset.to_string();
    let headers = [&[VERSION, BYTES, ("upload-offset", &offset)][..], more].concat();
    call(&lab.router, "PATCH", path, &headers, bytes).await
}

async fn head(lab: &Lab, path: &str) -> Answer {
    call(&lab.router, "HEAD", path, &[VERSION], "").await
}

fn offset(answer: &Answer) -> &str {
    answer.headers["upload-offset"].to_str().unwrap()
}

async fn shown(lab: &Lab, path: &str) -> serde_json::Value {
    lab.get(path.strip_prefix("/api/v1").unwrap()).await
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "not in time: {what}");
}

#[tokio::test]
async fn an_upload_in_pieces_is_an_upload() {
    for lab in Lab::all("tus").await {
        let (image, kind) = (qcow2(), lab.api.database.kind());
        let fields = [("sync_node_ids", "2,3"), ("cores", "2"), ("filetype", "x"), ("name", "")];
        let path = begun(&lab, image.len(), &fields).await;

        let empty = head(&lab, &path).await;
        assert_eq!((empty.status.as_u16(), offset(&empty)), (200, "0"), "{kind}");
        assert_eq!(empty.headers["cache-control"], "no-store");
        assert_eq!(empty.headers["upload-length"], image.len().to_string());
        assert_eq!(empty.headers["upload-metadata"], with(&fields));
        assert_eq!(empty.headers["tus-resumable"], "1.0.0");
        let first = patch(&lab, &path, 0, image[..1000].to_vec()).await;
        assert_eq!(
            (first.status.as_u16(), offset(&first)),
            (204, "1000"),
            "{kind}: {}",
            first.text
        );
        assert!(first.headers["upload-expires"].to_str().unwrap().ends_with(" GMT"));
        assert_eq!(offset(&head(&lab, &path).await), "1000");
        let going = shown(&lab, &path).await;
        assert_eq!((&going["state"], &going["upload"]), (&json!("receiving"), &json!(null)));
        let last = patch(&lab, &path, 1000, image[1000..].to_vec()).await;
        assert_eq!(last.status, 204, "{kind}: {}", last.text);

        let done = shown(&lab, &path).await;
        assert_eq!((&done["state"], &done["error"]), (&json!("done"), &json!(null)), "{kind}");
        let upload = &done["upload"];
        assert_eq!((&upload["template_id"], &upload["upload_id"]), (&json!(1), &json!(1)));
        assert_eq!(upload["sync_tasks"][1]["target_node_id"], json!(3));
        let detail = lab.get("/templates/1/detail").await;
        assert_eq!(detail["template_name"], json!("web"));
        assert_eq!(detail["upload_info"]["file_size"], json!(image.len()));
        // One image, and nothing else.
        assert_eq!(lab.files().len(), 1, "{kind}: {:?}", lab.files());
        // The answer to the last bytes may have been lost.
        assert_eq!(offset(&head(&lab, &path).await), image.len().to_string());
        let again = patch(&lab, &path, image.len(), "").await;
        assert_eq!(
            (again.status.as_u16(), offset(&again)),
            (204, image.len().to_string().as_str())
        );
        let events = lab
            .texts("SELECT CONCAT(action, ' ', object_name, ' ', result) AS t FROM audit_event ORDER BY id")
            .await;
        assert_eq!(events, ["upload.create web done", "template.upload web done"], "{kind}");
    }
}

#[tokio::test]
async fn what_the_server_can_do_is_said_to_anybody() {
    let lab = Lab::one("tus_options", |settings| {
        settings.auth = Auth::Tokens;
        settings.max_upload_bytes = 4096;
    })
    .await;
    for path in [FILES.to_owned(), format!("{FILES}/x")] {
        let answer = call(&lab.router, "OPTIONS", &path, &[], "").await;
        assert_eq!(answer.status, 204);
        for (name, value) in [
            ("tus-version", "1.0.0"),
            ("tus-extension", "creation,creation-with-upload,checksum,termination,expiration"),
            ("tus-max-size", "4096"),
            ("tus-checksum-algorithm", "sha1,sha256"),
        ] {
            assert_eq!(answer.headers[name], value);
        }
    }
    assert_eq!(call(&lab.router, "POST", FILES, &[VERSION], "").await.status, 401);
}

#[tokio::test]
async fn what_can_not_work_is_refused_before_the_bytes() {
    for lab in Lab::all("tus_refused").await {
        for (length, metadata, status, reason) in [
            (100, with(&[("storage_id", "41")]), 422, "unknown_storage"),
            (100, with(&[("sync_node_ids", "4")]), 422, "node_offline"),
            (100, with(&[("filename", "x.iso")]), 415, "wrong_image"),
            (100, with(&[("filename", "../x.raw")]), 400, "invalid_parameter"),
            (100, with(&[("version", "0")]), 400, "invalid_parameter"),
            (100, "filename eC5yYXc=".to_owned(), 400, "invalid_parameter"),
            (0, with(&[]), 415, "wrong_image"),
            (60 << 30, with(&[]), 413, "too_large"),
        ] {
            let answer = create(&lab, length, &metadata).await;
            let (code, said, _, message) = refused(&answer);
            assert_eq!((code, said.as_str()), (status, reason), "{message}");
            assert_eq!(answer.headers["tus-resumable"], "1.0.0");
        }
        let image = qcow2();
        let path = begun(&lab, image.len(), &[]).await;
        patch(&lab, &path, 0, image).await;
        let taken = create(&lab, 100, &with(&[])).await;
        assert_eq!(refused(&taken).1, "name_taken");
        let rows = lab.texts("SELECT status AS t FROM resumable_upload").await;
        assert_eq!(rows, ["done"], "{}", lab.api.database.kind());
    }
}

#[tokio::test]
async fn requests_that_are_not_of_the_protocol_are_refused_as_it_says() {
    let lab = Lab::one("tus_protocol", |_| {}).await;
    let path = begun(&lab, 5000, &[]).await;
    let zero = ("upload-offset", "0");
    for (method, headers, status) in [
        ("HEAD", &[][..], 412),
        ("HEAD", &[("tus-resumable", "0.2.2")], 412),
        ("PATCH", &[BYTES, zero], 412),
        ("DELETE", &[], 412),
        ("PATCH", &[VERSION, zero], 415),
        ("PATCH", &[VERSION, zero, ("content-type", "text/plain")], 415),
        ("PATCH", &[VERSION, BYTES], 400),
        ("PATCH", &[VERSION, BYTES, ("upload-offset", "-1")], 400),
        ("PATCH", &[VERSION, BYTES, ("upload-offset", "1")], 409),
        ("PATCH", &[VERSION, BYTES, zero, ("upload-checksum", "md5 abc")], 400),
        ("PATCH", &[VERSION, BYTES, zero, ("content-length", "5001")], 413),
        ("POST", &[VERSION], 400),
        ("POST", &[VERSION, ("x-http-method-override", "PUT")], 400),
    ] {
        let answer = call(&lab.router, method, &path, headers, "").await;
        assert_eq!(answer.status.as_u16(), status, "{method} {headers:?}: {}", answer.text);
        assert_eq!(answer.headers["tus-resumable"], "1.0.0", "{method} {headers:?}");
        assert_eq!(answer.headers.contains_key("tus-version"), status == 412);
        assert!(!answer.headers.contains_key("upload-offset"));
    }
    for (headers, says) in [
        (&[VERSION][..], "upload-length"),
        (&[VERSION, ("upload-defer-length", "1")], "Upload-Length"),
        (&[("upload-length", "1")], "Tus-Resumable"),
    ] {
        let answer = call(&lab.router, "POST", FILES, headers, "").await;
        assert!(refused(&answer).3.contains(says), "{}", answer.text);
    }
    for path in ["x", &"0".repeat(32), &"0".repeat(33), "..%2f..%2fx"] {
        let answer = call(&lab.router, "GET", &format!("{FILES}/{path}"), &[VERSION], "").await;
        assert_eq!(answer.status, 404, "{path}");
    }
    assert_eq!(offset(&head(&lab, &path).await), "0");
}

#[tokio::test]
async fn bytes_beside_their_checksum_are_kept_if_it_holds_and_else_not_one_of_them() {
    for lab in Lab::all("tus_checksum").await {
        let path = begun(&lab, 512, &[("filename", "x.raw")]).await;
        let right = [("upload-checksum", "sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=")];
        let wrong = [("upload-checksum", "sha256 ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=")];

        assert_eq!(patch_with(&lab, &path, 0, &right, "abc").await.status, 204);
        let answer = patch_with(&lab, &path, 3, &wrong, "def").await;
        assert_eq!(refused(&answer).1, "checksum_mismatch");
        assert_eq!(answer.status, 460);
        assert_eq!(offset(&head(&lab, &path).await), "3");
        // A part of what the digest is of can not be checked, so it does not stay either.
        let cut = futures::stream::iter([Ok("de"), Err(std::io::Error::other("reset"))]);
        let answer = patch_with(&lab, &path, 3, &wrong, Body::from_stream(cut)).await;
        assert_eq!(refused(&answer).1, "hung_up");
        assert_eq!(offset(&head(&lab, &path).await), "3");

        assert_eq!(patch(&lab, &path, 3, "x".repeat(509)).await.status, 204);
        let kept = lab.get("/templates/1/detail").await["upload_info"]["sha256"].clone();
        // (printf abc; head -c 509 /dev/zero | tr '\0' x) | sha256sum
        let sha256 = "4762c8ff8e46bf37efe306f548428a8fb8ac2f9db68ee69babd61074c2d79264";
        assert_eq!(kept, json!(sha256));
        assert_eq!(lab.files().len(), 1);
    }
}

#[tokio::test]
async fn what_came_before_a_connection_broke_stays() {
    for lab in Lab::all("tus_cut").await {
        let image = qcow2();
        let path = begun(&lab, image.len(), &[]).await;
        let part = Bytes::copy_from_slice(&image[..700]);
        let cut = futures::stream::iter([Ok(part), Err(std::io::Error::other("reset"))]);
        let answer = patch(&lab, &path, 0, Body::from_stream(cut)).await;
        assert_eq!(refused(&answer).1, "hung_up");
        assert_eq!(offset(&head(&lab, &path).await), "700", "{}", lab.api.database.kind());

        // The request is dropped where it is, as the server does when a connection breaks.
        let (send, receive) = mpsc::channel::<Result<Bytes, Infallible>>(4);
        let body = futures::stream::unfold(receive, async |mut receive| {
            receive.recv().await.map(|piece| (piece, receive))
        });
        let request = axum::http::Request::patch(&path)
            .header(VERSION.0, VERSION.1)
            .header(BYTES.0, BYTES.1)
            .header("upload-offset", "700")
            .body(Body::from_stream(body))
            .unwrap();
        let mut going = Box::pin(lab.router.clone().oneshot(request));
        send.send(Ok(Bytes::copy_from_slice(&image[700..1000]))).await.unwrap();
        eventually("it is held", async || {
            assert!(futures::poll!(going.as_mut()).is_pending());
            let held = "SELECT id AS t FROM resumable_upload WHERE held_until IS NOT NULL";
            !lab.texts(held).await.is_empty()
        })
        .await;
        // Another one meanwhile is told to wait.
        let other = patch(&lab, &path, 700, image[700..].to_vec()).await;
        assert_eq!((other.status.as_u16(), refused(&other).1.as_str()), (423, "upload_busy"));
        let ended = call(&lab.router, "DELETE", &path, &[VERSION], "").await;
        assert_eq!(ended.status, 423);
        drop((going, send));
        eventually("what came is there", async || offset(&head(&lab, &path).await) == "1000").await;

        let last = patch(&lab, &path, 1000, image[1000..].to_vec()).await;
        assert_eq!(last.status, 204, "{}", last.text);
        assert_eq!(shown(&lab, &path).await["state"], json!("done"));
    }
}

// C06
#[tokio::test]
async fn a_server_that_is_stopping_lets_go_of_what_is_not_over_soon() {
    let lab = Lab::one("tus_stopping", |_| {}).await;
    let image = qcow2();
    let path = begun(&lab, image.len(), &[]).await;
    let came = futures::stream::iter([Ok::<_, Infallible>(Bytes::copy_from_slice(&image[..700]))]);
    let body = Body::from_stream(came.chain(futures::stream::pending()));
    let mut going = Box::pin(patch(&lab, &path, 0, body));
    eventually("it is held", async || {
        assert!(futures::poll!(going.as_mut()).is_pending());
        let held = "SELECT id AS t FROM resumable_upload WHERE held_until IS NOT NULL";
        !lab.texts(held).await.is_empty()
    })
    .await;

    lab.settings.stopping.cancel();
    let answer = going.await;

    assert_eq!((answer.status.as_u16(), refused(&answer).1.as_str()), (503, "stopping"));
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(offset(&head(&lab, &path).await), "700");
    // As another replica would be asked: it waits for nobody.
    let rest = patch(&lab, &path, 700, image[700..].to_vec()).await;
    assert_eq!(rest.status, 204, "{}", rest.text);
    assert_eq!(shown(&lab, &path).await["state"], json!("done"));
}

#[tokio::test]
async fn of_two_that_send_the_same_bytes_at_once_one_does() {
    for lab in Lab::all("tus_race").await {
        let image = qcow2();
        let path = begun(&lab, image.len(), &[]).await;
        let send = || patch(&lab, &path, 0, image.clone());

        let (a, b, c) = tokio::join!(send(), send(), send());

        let mut codes = [a, b, c].map(|answer| answer.status.as_u16());
        codes.sort_unstable();
        assert_eq!(codes[0], 204, "{codes:?} on {}", lab.api.database.kind());
        assert!(codes[1..].iter().all(|code| [409, 423].contains(code)), "{codes:?}");
        assert_eq!(lab.get("/templates").await["total"], json!(1));
    }
}

#[tokio::test]
async fn an_image_that_is_none_is_the_end_of_its_session() {
    for lab in Lab::all("tus_wrong").await {
        for (fields, status, reason) in [
            (&[("filename", "x.qcow2")][..], 415, "wrong_image"),
            (&[("filename", "x.raw"), ("sha256", &"0".repeat(64))], 400, "sha256_mismatch"),
        ] {
            let path = begun(&lab, 2000, fields).await;
            let answer = patch(&lab, &path, 0, vec![7; 2000]).await;
            let (code, said, _, message) = refused(&answer);
            assert_eq!((code, said.as_str()), (status, reason));

            assert_eq!(head(&lab, &path).await.status, 410);
            let shown = shown(&lab, &path).await;
            assert_eq!(shown["state"], json!("failed"));
            let error = json!({"code": status, "reason": reason, "message": message});
            assert_eq!(shown["error"], error);
            assert_eq!(lab.files(), Vec::<std::path::PathBuf>::new());
        }
        assert_eq!(lab.get("/templates").await["total"], json!(0));
    }
}

#[tokio::test]
async fn what_is_ended_leaves_nothing_and_is_gone() {
    for lab in Lab::all("tus_end").await {
        let path = begun(&lab, 5000, &[]).await;
        patch(&lab, &path, 0, vec![7; 2000]).await;
        assert_eq!(lab.files().len(), 1);

        let ended = call(&lab.router, "DELETE", &path, &[VERSION], "").await;

        assert_eq!(ended.status, 204, "{}", ended.text);
        assert_eq!(lab.files(), Vec::<std::path::PathBuf>::new());
        for method in ["HEAD", "DELETE", "PATCH"] {
            let headers = [VERSION, BYTES, ("upload-offset", "2000")];
            assert_eq!(call(&lab.router, method, &path, &headers, "").await.status, 404);
        }
        let event = "SELECT CONCAT(object_name, ' ', result) AS t FROM audit_event \
                     WHERE action = 'upload.terminate' AND result = 'done'";
        assert_eq!(lab.texts(event).await, ["web done"]);
    }
}

#[tokio::test]
async fn what_has_expired_is_gone() {
    for lab in Lab::all("tus_expired").await {
        let path = begun(&lab, 5000, &[]).await;
        lab.sql("UPDATE resumable_upload SET expires_at = '2020-01-01 00:00:00'").await;

        let answer = head(&lab, &path).await;
        let late = patch(&lab, &path, 0, "x").await;

        assert_eq!(answer.status, 410, "{}", lab.api.database.kind());
        assert!(!answer.headers.contains_key("upload-offset"));
        assert_eq!((late.status.as_u16(), refused(&late).1.as_str()), (410, "upload_expired"));
    }
}

#[tokio::test]
async fn the_first_bytes_may_come_with_the_creation_and_methods_in_a_header() {
    for lab in Lab::all("tus_with").await {
        let (image, metadata) = (qcow2(), with(&[]));
        let length = image.len().to_string();
        let headers = [VERSION, BYTES, ("upload-length", &length), ("upload-metadata", &metadata)];
        let answer = call(&lab.router, "POST", FILES, &headers, image[..1000].to_vec()).await;
        assert_eq!((answer.status.as_u16(), offset(&answer)), (201, "1000"), "{}", answer.text);
        let path = answer.headers["location"].to_str().unwrap();

        let headers =
            [VERSION, BYTES, ("upload-offset", "1000"), ("x-http-method-override", "PATCH")];
        let last = call(&lab.router, "POST", path, &headers, image[1000..].to_vec()).await;
        assert_eq!(last.status, 204, "{}", last.text);
        let headers = [VERSION, ("x-http-method-override", "DELETE")];
        assert_eq!(call(&lab.router, "POST", path, &headers, "").await.status, 204);
        // The template is not the session's any more.
        assert_eq!(lab.get("/templates").await["total"], json!(1));
        assert_eq!(head(&lab, path).await.status, 404);
    }
}

#[tokio::test]
async fn only_the_token_that_began_it_goes_on_with_it_or_an_administrators() {
    let lab = Lab::one("tus_tokens", |settings| settings.auth = Auth::Tokens).await;
    let mut conn = lab.api.database.db.conn().await.unwrap();
    let mut bearers = Vec::new();
    for (name, scope) in [("a", Scope::Write), ("b", Scope::Write), ("c", Scope::Admin)] {
        let new = NewToken { name, scope, expires_at: None, creator: None };
        let token = token::create(&mut conn, &new).await.unwrap();
        bearers.push(format!("Bearer {}", token.expose()));
    }
    let ask = async |who: usize, method: &str, path: &str, more: &[(&str, &str)]| {
        let headers = [&[VERSION, BYTES, ("authorization", &bearers[who])][..], more].concat();
        call(&lab.router, method, path, &headers, "").await
    };
    let metadata = with(&[]);
    let new = [("upload-length", "100"), ("upload-metadata", metadata.as_str())];
    let begun = ask(0, "POST", FILES, &new).await;
    let path = begun.headers["location"].to_str().unwrap();

    for method in ["HEAD", "GET", "PATCH", "DELETE"] {
        let zero = [("upload-offset", "0")];
        assert_eq!(ask(1, method, path, &zero).await.status, 403, "{method}");
    }
    for who in [0, 2] {
        assert_eq!(ask(who, "HEAD", path, &[]).await.status, 200);
    }
    assert_eq!(ask(2, "DELETE", path, &[]).await.status, 204);
}

#[tokio::test]
async fn who_comes_when_all_slots_are_taken_is_asked_to_come_again() {
    let lab = Lab::one("tus_slots", |settings| settings.max_uploads = 1).await;
    let (first, second) =
        (begun(&lab, 5000, &[]).await, begun(&lab, 5000, &[("template_name", "b")]).await);
    let waiting = Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>());
    let mut going = Box::pin(patch(&lab, &first, 0, waiting));
    eventually("it is held", async || {
        assert!(futures::poll!(going.as_mut()).is_pending());
        let held = "SELECT id AS t FROM resumable_upload WHERE held_until IS NOT NULL";
        !lab.texts(held).await.is_empty()
    })
    .await;

    let answer = patch(&lab, &second, 0, "x").await;

    assert_eq!((answer.status.as_u16(), refused(&answer).1.as_str()), (429, "too_many_uploads"));
    assert_eq!(answer.headers["retry-after"], "5");
    let metrics = call(&lab.router, "GET", "/metrics", &[], "").await.text;
    assert!(metrics.contains("pve_api_uploads_in_progress 1\n"), "{metrics}");
}

/// An upload that somebody left when all its bytes were there.
async fn left(lab: &Lab) -> String {
    let image = qcow2();
    let path = begun(lab, image.len(), &[]).await;
    patch(lab, &path, 0, image[..1000].to_vec()).await;
    let id: schema::images::SessionId = path.rsplit('/').next().unwrap().parse().unwrap();
    let store = lab.settings.images.clone().unwrap();
    let from = schema::images::From { offset: 1000, epoch: 2 };
    let mut arrival = store.resume(&id, from).await.unwrap();
    arrival.write(Bytes::copy_from_slice(&image[1000..])).await.unwrap();
    arrival.secure().await.unwrap();
    drop(arrival);
    lab.sql(&format!(
        "UPDATE resumable_upload SET received_bytes = total_bytes, status = 'finishing', \
         epoch = 2, holder = 'who crashed', held_until = '2999-01-01 00:00:00' WHERE id = '{id}'"
    ))
    .await;
    path
}

#[tokio::test]
async fn what_a_process_left_half_finished_is_finished_by_the_next() {
    for lab in Lab::all("tus_left").await {
        let path = left(&lab).await;
        let expired = begun(&lab, 5000, &[("template_name", "late")]).await;
        patch(&lab, &expired, 0, vec![7; 2000]).await;
        let id = expired.rsplit('/').next().unwrap();
        lab.sql(&format!(
            "UPDATE resumable_upload SET expires_at = '2020-01-01 00:00:00' WHERE id = '{id}'"
        ))
        .await;
        let service = pve_api::service(lab.api.database.db.clone(), lab.settings.clone());
        let mut chores = tokio::task::JoinSet::new();
        chores.spawn(service.1.run());

        eventually("it is done", async || shown(&lab, &path).await["state"] == json!("done")).await;

        let detail = lab.get("/templates/1/detail").await;
        assert_eq!(detail["template_name"], json!("web"), "{}", lab.api.database.kind());
        let creator = "SELECT CONCAT(actor, ' ', result) AS t FROM audit_event \
                       WHERE action = 'template.upload'";
        assert_eq!(lab.texts(creator).await, ["anybody done"]);
        eventually("the other is over", async || {
            shown(&lab, &expired).await["error"]["reason"] == json!("upload_expired")
        })
        .await;
        eventually("its bytes are gone", async || lab.files().len() == 1).await;
    }
}

#[tokio::test]
async fn a_handler_that_is_gone_is_no_reason_not_to_finish() {
    let lab = Lab::one("tus_leaves", |_| {}).await;
    let image = qcow2();
    let path = begun(&lab, image.len(), &[]).await;
    let mut holder = lab.api.database.db.conn().await.unwrap();
    let mut going = Box::pin(patch(&lab, &path, 0, image));
    eventually("the bytes are written", async || {
        assert!(futures::poll!(going.as_mut()).is_pending());
        !lab.files().is_empty()
    })
    .await;
    holder.execute_sql("BEGIN IMMEDIATE").await.unwrap();
    drop(going);
    holder.execute_sql("COMMIT").await.unwrap();

    eventually("it is done", async || shown(&lab, &path).await["state"] == json!("done")).await;
}

#[tokio::test]
async fn answers_are_the_ones_of_every_route() {
    let lab = Lab::one("tus_envelope", |_| {}).await;
    let path = begun(&lab, 5000, &[]).await;
    let request = axum::http::Request::get(&path).body(Body::empty()).unwrap();
    let answer = answer(lab.router.clone().oneshot(request).await.unwrap()).await;
    let body = answer.json();

    assert_eq!((&body["code"], &body["message"]), (&json!(200), &json!("success")));
    let keys: Vec<_> = body["data"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = ["id", "state", "offset", "length", "expires", "upload", "error"];
    expected.sort_unstable();
    assert_eq!(keys, expected);
}
