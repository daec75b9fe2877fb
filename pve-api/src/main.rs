//! The command `pve-api`: parse, do, exit code.

use std::process::ExitCode;

use anyhow::Error;
use clap::Parser;
use pve_api::{
    args::{Args, Command},
    logging, token_command,
};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    logging::start(&args.log);
    let outcome = match args.command {
        Command::Serve(serve) => {
            let ended = CancellationToken::new();
            tokio::select! {
                outcome = pve_api::run(&serve, ended.cancelled()) => outcome.map_err(Error::from),
                never = logging::end_at_second_signal(ended.clone()) => match never {},
            }
        }
        Command::Token(command) => token_command::run(&command).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pve-api: {error:#}");
            ExitCode::FAILURE
        }
    }
}
