//! The command `pve-operator`: parse, start, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use pve_api::logging;
use pve_operator::{
    args::{Args, Command},
    runtime,
};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    logging::start(&args.log);
    let outcome = match args.command {
        Command::Migrate(database) => runtime::migrate(&database).await,
        Command::Run(run) => runtime::run(&run, logging::terminated()).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pve-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}
