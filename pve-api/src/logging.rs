//! Log lines, and the signals that end a process.

use std::io::IsTerminal;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, fmt};

use crate::args::{LogArgs, LogFormat};

/// Starts logging to stderr, once per process. When nobody reads it any more, lines are lost and
/// work goes on. A filter that cannot be read is replaced by
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
        // Else it says on stderr that stderr takes nothing, and panics where a line was to be written.
        .log_internal_errors(false)
        .with_ansi(colours);
    // An error means that the process logs already.
    let started = match args.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if let (Ok(()), Some(error)) = (started, mistake) {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "--log is not a filter, logging at info");
    }
}

/// Resolves at SIGTERM or Ctrl-C.
pub async fn terminated() {
    Signals::listen().next().await;
}

/// Cancels `first` at SIGTERM or Ctrl-C, and ends the process where it is when that comes again:
/// somebody does not want to wait.
pub async fn end_at_second_signal(first: CancellationToken) -> std::convert::Infallible {
    let mut signals = Signals::listen();
    signals.next().await;
    first.cancel();
    signals.next().await;
    tracing::warn!("Told to stop a second time: what was under way is left");
    std::process::exit(1)
}

/// SIGTERM and Ctrl-C; none where the system does not tell of them.
struct Signals(Option<(Signal, Signal)>);

impl Signals {
    fn listen() -> Self {
        let both = signal(SignalKind::terminate())
            .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
        Self(match both {
            Ok(both) => Some(both),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "Only SIGKILL ends this process");
                None
            }
        })
    }

    async fn next(&mut self) {
        match &mut self.0 {
            Some((terminate, interrupt)) => tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            },
            None => std::future::pending().await,
        }
    }
}
