//! What watchers are told: one JSON object per message, the same on both transports.

use axum::extract::ws::Utf8Bytes;
use schema::Revision;
use schemars::JsonSchema;
use serde::Serialize;

use crate::templates::TaskView;

/// One message of `GET /templates/sync-tasks/watch`. Everything up to its `revision` was told:
/// give the last one that came as `since`, to go on after a break.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WatchMessage")]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Message<T = Box<TaskView>> {
    /// A task as it is now: at first each that there is, then each that changed.
    Task { revision: i64, task: T },
    /// A task is gone.
    Deleted { revision: i64, task_id: i64 },
    /// What is known of tasks does not hold any more: forget them, all that there are follow.
    Reset { revision: i64, message: &'static str },
    /// What was there, or changed since `since`, was told; from here on it is changes as they
    /// happen.
    Synced { revision: i64 },
    /// Nothing happened for a while.
    Heartbeat { revision: i64 },
    /// The last message of an event stream; a WebSocket is closed with a code instead.
    End { revision: i64, reason: &'static str, message: &'static str },
}

impl<T: Serialize> Message<T> {
    /// As it is sent.
    pub(super) fn text(&self) -> Utf8Bytes {
        serde_json::to_string(self).expect("views are made of what JSON has").into()
    }
}

impl Message<()> {
    pub(super) fn reset(at: Revision) -> Utf8Bytes {
        let message = "changes since then are not remembered: forget what you know of tasks, all \
                       of them follow";
        Self::Reset { revision: at.0, message }.text()
    }
}

/// Why a watch ends that its peer did not end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// The process is told to stop.
    Stopping,
    /// The token was revoked, or has expired.
    Token,
}

impl End {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Stopping => "stopping",
            Self::Token => "token",
        }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Stopping => "the server stops; connect again",
            Self::Token => "the token was revoked or has expired",
        }
    }

    /// RFC 6455, section 7.4.
    pub(super) fn close_code(self) -> u16 {
        match self {
            Self::Stopping => 1001,
            Self::Token => 4401,
        }
    }
}
