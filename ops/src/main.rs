//! `moso`: the command of users and operators.

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = cli::Args::parse();
    let log = tracing_subscriber::EnvFilter::try_from_env("MOSO_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(log).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(cli::run(args)),
        Err(error) => Err(anyhow::Error::new(error).context("no threads to run on")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `head` and the like close the pipe when they have seen enough.
            if !cli::exit::is_broken_pipe(&error) {
                eprintln!("moso: {}", cli::exit::explain(&error));
            }
            ExitCode::from(cli::exit::code(&error))
        }
    }
}
