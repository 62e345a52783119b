//! What can be done with a stopped node's data folder: verify it, and print what is in it. Nothing is ever changed.
//!
//! ```text
//! folder.rs   a stopped node's folder       verify.rs   is it whole? verify/ the log, a replica, all of them compared
//! finding.rs  what was found, in words      dump.rs     its content, line by line; dump/ entries and records
//! replay.rs   a replica's state in memory, and what the log makes of it
//! ```

mod dump;
mod finding;
mod folder;
mod replay;
mod verify;

#[cfg(test)]
pub(crate) mod tests;

pub use dump::DumpOptions;
pub use finding::{Finding, Remedy, Report};

use clap::Subcommand;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// What the program does instead of running a node.
#[derive(Debug, Subcommand)]
pub enum Offline {
    /// Check the data folders of stopped nodes; of several, compare the replicas. Exit code 0: all is well.
    Verify {
        /// Data folders.
        #[arg(required = true, value_name = "DIR")]
        folders: Vec<PathBuf>,
    },
    /// Print the content of a stopped node's data folder, one line for each record.
    Dump {
        /// Data folder.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// What of it.
        #[command(flatten)]
        options: DumpOptions,
    },
}

impl Offline {
    /// Does it, and prints to stdout.
    pub fn run(&self) -> ExitCode {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let well = match self {
            Offline::Verify { folders } => verify::verify(folders, &mut out),
            Offline::Dump { folder, options } => dump::dump(folder, options, &mut out),
        };
        match well.and_then(|well| out.flush().map(|()| well)) {
            Ok(true) => ExitCode::SUCCESS,
            // The reader has read enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("moso-node: printing: {error}");
                ExitCode::FAILURE
            }
        }
    }
}
