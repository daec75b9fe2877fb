//! A watch as a WebSocket: messages go out, pings tell whether anybody is there.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::board::Told;
use super::message::End;
use super::watcher::{HEARTBEAT, Next, Watcher, quiet_interval};

/// Who has neither said nor taken anything for so long is gone.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long the peer may take to hear that the watch ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Peers have nothing to say but pongs and a close, which have at most 125 bytes.
const LONGEST_MESSAGE: usize = 4096;

/// The default is 128 KiB each way, for each of a thousand watchers.
const BUFFER: usize = 4096;

pub(super) fn answer(upgrade: WebSocketUpgrade, watcher: Watcher, tasks: &TaskTracker) -> Response {
    // From now on, so that a stop waits for it.
    let tracked = tasks.token();
    upgrade
        .max_message_size(LONGEST_MESSAGE)
        .max_frame_size(LONGEST_MESSAGE)
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .on_upgrade(async move |socket| {
            serve(socket, watcher).await;
            drop(tracked);
        })
}

/// How a watch ended.
enum Ended {
    /// By us.
    Told(End),
    /// The peer hung up.
    HungUp,
    /// The peer is not there, or takes too little.
    Dead,
}

async fn serve(socket: WebSocket, mut watcher: Watcher) {
    let (mut sink, mut heard) = socket.split();
    match tell(&mut sink, &mut heard, &mut watcher).await {
        Ended::Told(end) => {
            let reason = end.message().into();
            let close = Message::Close(Some(CloseFrame { code: end.close_code(), reason }));
            watcher.end(end.reason());
            let farewell = async {
                if sink.send(close).await.is_ok() {
                    // Whoever closes while something comes in takes back what it said last.
                    while let Some(Ok(_)) = heard.next().await {}
                }
            };
            if timeout(FAREWELL, farewell).await.is_err() {
                tracing::debug!("A watcher did not answer the end of its watch");
            }
        }
        Ended::HungUp => watcher.end("hung_up"),
        Ended::Dead => watcher.end("dead"),
    }
}

async fn tell(
    sink: &mut SplitSink<WebSocket, Message>,
    heard: &mut SplitStream<WebSocket>,
    watcher: &mut Watcher,
) -> Ended {
    let mut ping = quiet_interval(HEARTBEAT);
    let mut last_heard = Instant::now();
    loop {
        let out = tokio::select! {
            // After a send that took long, what the peer said meanwhile counts before its silence.
            biased;
            message = heard.next() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ended::HungUp,
                // Whatever it says, it is there.
                Some(Ok(_)) => {
                    last_heard = Instant::now();
                    continue;
                }
            },
            _ = ping.tick() => {
                if last_heard.elapsed() > PATIENCE {
                    return Ended::Dead;
                }
                vec![Message::Ping(axum::body::Bytes::new())]
            }
            next = watcher.next() => match next {
                Next::End(end) => return Ended::Told(end),
                Next::Messages(messages) => {
                    watcher.sent(messages.len());
                    messages.into_iter().map(|Told { text, .. }| Message::Text(text)).collect()
                }
            },
        };
        let sent = tokio::select! {
            sent = timeout(PATIENCE, send(sink, out)) => sent,
            // Its buffers are full: it would not hear that either.
            () = watcher.stopping() => return Ended::Told(End::Stopping),
        };
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ended::HungUp,
            Err(_) => return Ended::Dead,
        }
    }
}

async fn send(
    sink: &mut SplitSink<WebSocket, Message>,
    messages: Vec<Message>,
) -> Result<(), axum::Error> {
    for message in messages {
        sink.feed(message).await?;
    }
    sink.flush().await
}
