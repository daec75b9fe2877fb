//! A watch as server-sent events: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::convert::Infallible;
use std::fmt::Write as _;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt as _, stream};

use super::board::Told;
use super::message::Message;
use super::watcher::{Next, Watcher};

/// After how many milliseconds a client that was cut off is to come again.
const COME_AGAIN: &str = "retry: 2000\n\n";

pub(super) fn answer(watcher: Watcher) -> Response {
    let first = stream::once(async { Bytes::from_static(COME_AGAIN.as_bytes()) });
    let rest = stream::unfold(Some(watcher), async |watcher| {
        let mut watcher = watcher?;
        match watcher.next().await {
            Next::Messages(messages) => {
                watcher.sent(messages.len());
                Some((events(&messages), Some(watcher)))
            }
            Next::End(end) => {
                let revision = watcher.revision();
                let (reason, message) = (end.reason(), end.message());
                let last = Message::<()>::End { revision: revision.0, reason, message }.text();
                watcher.end(reason);
                Some((events(&[Told { revision, text: last }]), None))
            }
        }
    });
    let body = Body::from_stream(first.chain(rest).map(Ok::<_, Infallible>));
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        // So that nginx passes on each event as it comes.
        (axum::http::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, body).into_response()
}

/// JSON has no raw line breaks, so each message is one line of data.
fn events(messages: &[Told]) -> Bytes {
    let size = messages.iter().map(|message| message.text.len() + 40).sum();
    let mut text = String::with_capacity(size);
    for Told { revision, text: json } in messages {
        write!(text, "id: {revision}\ndata: {}\n\n", json.as_str())
            .expect("writing to memory does not fail");
    }
    text.into()
}
