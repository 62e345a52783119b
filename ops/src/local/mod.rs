//! [`LocalCluster`]: `moso-node` processes on loopback.

mod cluster;
mod config;
mod node;
mod probe;
mod secure;
mod surroundings;

pub use cluster::{LocalCluster, LocalOptions};
pub use secure::Credentials;
pub use surroundings::Surroundings;

use std::path::PathBuf;
use std::process::ExitStatus;

/// What went wrong with a local cluster. Each variant says who must act.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The caller: build the program, or name it with `MOSO_NODE`.
    #[error(
        "the program moso-node is not at {}; build it with `cargo build --release --bin moso-node` or name it with MOSO_NODE",
        .0.display()
    )]
    NoBinary(PathBuf),
    /// The caller: the options contradict each other or the cluster that the folder holds.
    #[error("{0}")]
    Options(String),
    /// The operator of the machine: a file, folder or process of the cluster cannot be used.
    #[error("{what}: {error}")]
    Io {
        /// What was attempted, with its path.
        what: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The operator: the log says why.
    #[error("node {node} ended ({status}); the end of {}:\n{tail}", .log.display())]
    Died {
        /// Its number.
        node: u32,
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// The operator: the machine is too slow, or a node hangs.
    #[error("node {node} is not ready after {seconds} s; the end of {}:\n{tail}", .log.display())]
    NotReady {
        /// Its number.
        node: u32,
        /// How long it was waited for.
        seconds: u64,
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// The caller: there is no node of this number.
    #[error("there is no node {0}")]
    NoNode(u32),
}

impl LocalError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> LocalError {
        let what = what.into();
        move |error| LocalError::Io { what, error }
    }
}
