//! Why the node refused something, and who must act.

use std::io;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the node refused something. Each variant says who must act.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A write or a sync failed: nobody knows what is on disk. The process must end at once without answering anybody;
    /// the operator must look at the disk.
    #[error("{what} failed, the node must end: {reason}")]
    Fatal {
        /// What was being written.
        what: &'static str,
        /// What the disk or RocksDB said.
        reason: String,
    },

    /// The disk is full, and nothing was written. What was to be is in the log, and can be written once there is space.
    #[error("{what}: the disk is full: {reason}")]
    NoSpace {
        /// What was being written.
        what: &'static str,
        /// What RocksDB said.
        reason: String,
    },

    /// Nothing was lost as far as is known, but the disk could not be read. The operator must look at it.
    #[error("{what} cannot be read: {reason}")]
    Read {
        /// What was being read.
        what: &'static str,
        /// What the disk or RocksDB said.
        reason: String,
    },

    /// Stored bytes are not what was written. The replica must not run again under its identity: the operator must
    /// replace it by a new one.
    #[error("shard {shard}: {what} {at} is damaged: {reason}")]
    Damaged {
        /// Shard.
        shard: u16,
        /// What kind of record.
        what: &'static str,
        /// Its index or number.
        at: u64,
        /// What is wrong with it.
        reason: String,
    },

    /// A newer version wrote this. The operator must start that version.
    #[error("{what} has format {found}, this version reads up to {known}")]
    NewerFormat {
        /// What was being opened.
        what: String,
        /// Format found.
        found: u32,
        /// Newest format known.
        known: u32,
    },

    /// The call contradicts what was written before: a defect of the caller. Nothing was written.
    #[error("shard {shard}: {reason}")]
    Contract {
        /// Shard.
        shard: u16,
        /// What was asked for and what holds.
        reason: String,
    },

    /// The data folder is not this node's, or not usable. The operator must act as the text says.
    #[error("data folder {path}: {reason}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },

    /// A backup is not what it was when it was made, or not one for this configuration. The operator must act as the text
    /// says; nothing that a node could start on was made.
    #[error("backup {path}: {reason}")]
    Backup {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },

    /// The configuration is wrong. The operator must correct every line.
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),

    /// The operating system refused something else. The operator must look at the cause.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// The process must end without answering anybody.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Error::Fatal { .. })
    }

    /// Stored bytes are not what was written.
    pub fn is_damage(&self) -> bool {
        matches!(self, Error::Damaged { .. })
    }

    /// The disk was full; nothing is lost.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Error::NoSpace { .. })
    }

    pub(crate) fn fatal(what: &'static str, reason: impl ToString) -> Self {
        Error::Fatal { what, reason: reason.to_string() }
    }

    pub(crate) fn contract(shard: u16, reason: impl Into<String>) -> Self {
        Error::Contract { shard, reason: reason.into() }
    }

    pub(crate) fn damaged(shard: u16, what: &'static str, at: u64, reason: impl Into<String>) -> Self {
        Error::Damaged { shard, what, at, reason: reason.into() }
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Error::Io { what: what.into(), source }
    }
}

/// For what reads the log on behalf of a replica: damage keeps its kind.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Damaged { .. } | Error::NewerFormat { .. } => io::ErrorKind::InvalidData,
            Error::Contract { .. } => io::ErrorKind::InvalidInput,
            Error::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
