//! Log lines, and the signals that end a process.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

use crate::args::{LogArgs, LogFormat};

/// Starts logging to stderr, once per process. A filter that cannot be read is replaced by
/// `info`, and said so.
pub fn start(args: &LogArgs) {
    let (filter, mistake) = match EnvFilter::try_new(&args.log) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let colours = std::io::stderr().is_terminal();
    let lines = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(colours);
    // An error means that the process logs already, as a test or the demo may.
    let started = match args.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if let (Ok(()), Some(error)) = (started, mistake) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "--log is not a filter, logging at info"
        );
    }
}

/// Resolves at SIGTERM or Ctrl-C.
pub async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupted = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupted => {}
        },
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "Only Ctrl-C ends this process"
            );
            drop(interrupted.await);
        }
    }
}
