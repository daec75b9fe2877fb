//! A client that is refused while it sends goes on sending. If the connection is closed then, the
//! system throws the answer away before the client has read it; so what still comes is read for a
//! little while, and forgotten.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::HeaderMap;
use axum::http::header::EXPECT;
use futures::StreamExt as _;
use tokio_util::task::TaskTracker;

const LONGEST: Duration = Duration::from_secs(5);
const MOST: usize = 16 * 1024 * 1024;

/// Whether the client waits to be told to send: then nothing comes that must be read.
pub(crate) fn waits(headers: &HeaderMap) -> bool {
    headers.contains_key(EXPECT)
}

/// Reads what nobody wants, beside the answer.
pub(crate) fn linger(mut body: BodyDataStream, tasks: &TaskTracker) {
    let rest = async move { forget(&mut body).await };
    tasks.spawn(tokio::time::timeout(LONGEST, rest));
}

/// Reads what nobody wants, to its end if that is not too far.
pub(crate) async fn forget(body: &mut BodyDataStream) {
    let mut most = MOST;
    while let Some(Ok(bytes)) = body.next().await {
        most = most.saturating_sub(bytes.len());
        if most == 0 {
            break;
        }
    }
}

/// [`linger`], of a request that was refused for its headers.
pub(crate) fn leave(body: Body, headers: &HeaderMap, tasks: &TaskTracker) {
    use axum::body::HttpBody as _;
    if !body.is_end_stream() && !waits(headers) {
        linger(body.into_data_stream(), tasks);
    }
}
