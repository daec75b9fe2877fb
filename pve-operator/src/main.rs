//! The command `pve-operator`: parse, start, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use pve_api::logging;
use pve_operator::{
    args::{Args, Command},
    runtime,
};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let args = Args::parse();
    share_heaps();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|threads| threads.block_on(run(args)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pve-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    logging::start(&args.log);
    match args.command {
        Command::Migrate(database) => runtime::migrate(&database).await,
        Command::Run(run) => {
            let ended = CancellationToken::new();
            tokio::select! {
                outcome = runtime::run(&run, ended.cancelled()) => outcome,
                never = logging::end_at_second_signal(ended.clone()) => match never {},
            }
        }
    }
}

/// Lets all threads allocate from two heaps instead of eight for each core.
///
/// Answers of PVE are large, short-lived, and read by whichever thread is free, and glibc keeps in
/// each heap what that heap once held at its most: memory grew for as long as clusters changed, to
/// twice what two heaps need (`scripts/long/churn`). Call it before there are other threads.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc offers this as a C function or an environment variable only")]
fn share_heaps() {
    // SAFETY: mallopt takes two numbers and changes how malloc behaves from now on, nothing else.
    // Where it refuses (it answers 0), memory is used as generously as before.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn share_heaps() {}
