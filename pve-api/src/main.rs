//! The command `pve-api`: parse, do, exit code.

use std::process::ExitCode;

use anyhow::Error;
use clap::Parser;
use pve_api::{
    args::{Args, Command},
    logging, token_command,
};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    logging::start(&args.log);
    let outcome = match args.command {
        Command::Serve(serve) => {
            pve_api::run(&serve, logging::terminated()).await.map_err(Error::from)
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
