//! Uploads over time: too large, cut off, too many, and larger than memory.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures::StreamExt;
use pve_api::Settings;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::fixture::{Answer, answer, call};
use crate::templates::{FORM, File, Lab, Text, form, head, qcow2, refused};

const PATH: &str = "/api/v1/templates/upload";
const PATIENCE: Duration = Duration::from_mins(1);

fn request(body: Body) -> axum::http::Request<Body> {
    axum::http::Request::post(PATH).header(FORM.0, FORM.1).body(body).unwrap()
}

/// A form up to where the bytes of the file begin.
fn until_file(name: &str) -> Vec<u8> {
    let fields = [Text("template_name", "web"), Text("cluster_id", "1"), Text("storage_id", "5")];
    let mut body = form(&fields);
    body.truncate(body.len() - "------a-boundary-of-ours--\r\n".len());
    body.extend_from_slice(head(File(name, b"")).as_bytes());
    body
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "not in time: {what}");
}

async fn nothing_stays(lab: &Lab) {
    eventually("nothing stays", async || lab.files().is_empty()).await;
    let rows = lab.texts("SELECT CONCAT(count(*), '') AS t FROM vm_template").await;
    assert_eq!(rows, ["0"]);
}

fn at_most_a_megabyte(settings: &mut Settings) {
    settings.max_upload_bytes = 1 << 20;
}

// B01
#[tokio::test]
async fn one_byte_too_many_is_a_413_before_the_rest_is_read() {
    let lab = Lab::one("too_large", at_most_a_megabyte).await;
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let piece = Bytes::from(vec![0; 64 * 1024]);
    let pieces = futures::stream::iter(0..16_384).map(move |index| {
        counted.fetch_add(1, Ordering::Relaxed);
        let first = Bytes::from(until_file("disk.raw"));
        Ok::<_, Infallible>(if index == 0 { first } else { piece.clone() })
    });

    let response = lab.router.clone().oneshot(request(Body::from_stream(pieces))).await.unwrap();
    let read = read.load(Ordering::Relaxed);

    let (status, reason, field, message) = refused(&answer(response).await);
    assert_eq!((status, reason.as_str(), field), (413, "too_large", json!("file")));
    assert!(message.contains("--max-upload-bytes"), "{message}");
    // A little of what a client goes on sending is read so that it hears the answer.
    assert!(read < 512, "{read} pieces of 16384 were read");
    nothing_stays(&lab).await;
}

// B01
#[tokio::test]
async fn a_length_that_is_too_much_is_a_413_before_anything_is_read() {
    let lab = Lab::one("declared", at_most_a_megabyte).await;
    let body = Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>());
    let headers = [FORM, ("content-length", "99999999999"), ("expect", "100-continue")];

    let answer = call(&lab.router, "POST", PATH, &headers, body).await;

    assert_eq!(refused(&answer).0, 413);
    // As many bytes as are allowed are taken.
    let image = vec![0; 1 << 20];
    let mut fits = until_file("disk.raw");
    fits.extend_from_slice(&image);
    fits.extend_from_slice(b"\r\n------a-boundary-of-ours--\r\n");
    let answer = call(&lab.router, "POST", PATH, &[FORM], fits).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
}

// B01
#[tokio::test]
async fn a_client_that_hangs_up_half_way_leaves_nothing() {
    for lab in Lab::all("hang_up").await {
        let broken = futures::stream::iter([
            Ok(Bytes::from(until_file("disk.raw"))),
            Ok(Bytes::from(vec![0; 256 * 1024])),
            Err(std::io::Error::other("reset")),
        ]);
        let answered =
            lab.router.clone().oneshot(request(Body::from_stream(broken))).await.unwrap();
        assert_eq!(refused(&answer(answered).await).1, "hung_up");
        nothing_stays(&lab).await;

        // The request is dropped where it is, as the server does when a connection breaks.
        let (send, receive) = mpsc::channel::<Result<Bytes, Infallible>>(4);
        let body = futures::stream::unfold(receive, async |mut receive| {
            receive.recv().await.map(|piece| (piece, receive))
        });
        let mut going = Box::pin(lab.router.clone().oneshot(request(Body::from_stream(body))));
        send.send(Ok(Bytes::from(until_file("disk.raw")))).await.unwrap();
        send.send(Ok(Bytes::from(vec![0; 256 * 1024]))).await.unwrap();
        eventually("it writes a file", async || {
            assert!(futures::poll!(going.as_mut()).is_pending());
            !lab.files().is_empty()
        })
        .await;
        drop((going, send));
        nothing_stays(&lab).await;
    }
}

/// Serves the lab's API on a port, until the test ends.
async fn serve(lab: &Lab, tasks: &mut tokio::task::JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = lab.router.clone();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// Sends a request's head and this much of its body.
async fn send(address: &str, length: usize, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\n{}: {}\r\ncontent-length: {length}\r\n\r\n",
        FORM.0, FORM.1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    stream
}

fn whole() -> Vec<u8> {
    let image = qcow2();
    form(&[
        Text("template_name", "web"),
        Text("cluster_id", "1"),
        Text("storage_id", "5"),
        Text("sync_node_ids", "2"),
        File("disk.qcow2", &image),
    ])
}

// B01, with connections that really break
#[tokio::test]
async fn a_connection_that_breaks_half_way_leaves_nothing() {
    let lab = Lab::one("breaks", |_| {}).await;
    let mut tasks = tokio::task::JoinSet::new();
    let address = serve(&lab, &mut tasks).await;
    let mut body = until_file("disk.raw");
    body.extend_from_slice(&vec![0; 256 * 1024]);
    let stream = send(&address, 10 << 20, &body).await;
    eventually("it writes a file", async || !lab.files().is_empty()).await;

    drop(stream);

    nothing_stays(&lab).await;
    let hung_up = "pve_api_uploads_total{result=\"hung_up\"} 1";
    eventually("it is counted", async || {
        let metrics = call(&lab.router, "GET", "/metrics", &[], "").await.text;
        metrics.lines().any(|line| line == hung_up)
    })
    .await;
}

// B03
#[tokio::test]
async fn a_client_that_leaves_once_the_bytes_are_in_gets_its_template() {
    for lab in Lab::all("b03").await {
        let mut tasks = tokio::task::JoinSet::new();
        let address = serve(&lab, &mut tasks).await;
        let body = whole();

        drop(send(&address, body.len(), &body).await);

        eventually("the rows are there", async || {
            lab.get("/templates/sync-tasks").await["total"] == json!(1)
        })
        .await;
        let detail = lab.get("/templates/1/detail").await;
        assert_eq!(detail["upload_info"]["status"], json!("uploaded"));
        assert_eq!(lab.files().len(), 1);
    }
}

// B03: the same, with the database locked while the client leaves
#[tokio::test]
async fn the_rows_are_written_without_the_client_even_if_the_database_is_slow() {
    let lab = Lab::one("b03_slow", |_| {}).await;
    let mut holder = lab.api.database.db.conn().await.unwrap();
    let body = Body::from(whole());
    let mut going = Box::pin(lab.router.clone().oneshot(request(body)));
    holder.execute_sql("BEGIN IMMEDIATE").await.unwrap();
    eventually("the image is in the store", async || {
        assert!(futures::poll!(going.as_mut()).is_pending());
        !lab.files().is_empty()
    })
    .await;

    drop(going);
    holder.execute_sql("COMMIT").await.unwrap();
    lab.settings.tasks.close();
    timeout(PATIENCE, lab.settings.tasks.wait()).await.unwrap();

    assert_eq!(lab.get("/templates").await["total"], json!(1));
}

#[tokio::test]
async fn who_comes_when_all_slots_are_taken_is_asked_to_come_again() {
    let lab = Lab::one("slots", |settings| settings.max_uploads = 1).await;
    let (sender, receive) = mpsc::channel::<Result<Bytes, Infallible>>(4);
    let body = futures::stream::unfold(receive, async |mut receive| {
        receive.recv().await.map(|piece| (piece, receive))
    });
    let mut first = Box::pin(lab.router.clone().oneshot(request(Body::from_stream(body))));
    assert!(futures::poll!(first.as_mut()).is_pending());
    let in_progress = async || {
        let metrics = call(&lab.router, "GET", "/metrics", &[], "").await.text;
        metrics.lines().any(|line| line == "pve_api_uploads_in_progress 1")
    };
    eventually("it is in progress", in_progress).await;

    let unread = Body::from_stream(futures::stream::poll_fn(
        |_| -> std::task::Poll<Option<Result<Bytes, Infallible>>> { panic!("it was read") },
    ));
    let second = call(&lab.router, "POST", PATH, &[FORM, ("expect", "100-continue")], unread).await;
    sender.send(Ok(Bytes::from(whole()))).await.unwrap();
    drop(sender);
    let first: Answer = answer(first.await.unwrap()).await;
    let third = call(
        &lab.router,
        "POST",
        PATH,
        &[FORM],
        String::from_utf8_lossy(&whole()).replace("web", "web2").into_bytes(),
    )
    .await;

    let (status, reason, _, message) = refused(&second);
    assert_eq!((status, reason.as_str()), (429, "too_many_uploads"), "{message}");
    assert_eq!(second.headers["retry-after"], "5");
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    assert_ne!(third.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_client_that_is_refused_while_it_sends_hears_why() {
    let lab = Lab::one("lingers", |_| {}).await;
    let mut tasks = tokio::task::JoinSet::new();
    let address = serve(&lab, &mut tasks).await;
    let mut body =
        form(&[Text("template_name", "web"), Text("cluster_id", "41"), Text("storage_id", "5")]);
    body.truncate(body.len() - "------a-boundary-of-ours--\r\n".len());
    body.extend_from_slice(head(File("disk.raw", b"")).as_bytes());
    body.extend_from_slice(&vec![0; 8 << 20]);

    let length = body.len() + 100;
    // Nothing is read before all of it is sent, as by clients that know no better.
    let mut stream = timeout(PATIENCE, send(&address, length, &body)).await.unwrap();
    let mut said = vec![0; 4096];
    let bytes = timeout(PATIENCE, stream.read(&mut said)).await.unwrap().unwrap();

    let said = String::from_utf8_lossy(&said[..bytes]);
    assert!(said.starts_with("HTTP/1.1 422"), "{said}");
}
