//! The command `pve-api`: parse, serve, exit code.

use std::process::ExitCode;

use anyhow::Error;
use clap::Parser;
use pve_api::{
    args::{Args, Command},
    logging,
};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    logging::start(&args.log);
    let Command::Serve(serve) = args.command;
    match pve_api::run(&serve, logging::terminated()).await.map_err(Error::from) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pve-api: {error:#}");
            ExitCode::FAILURE
        }
    }
}
