//! Errors of the lower crates as the node's, and the node's as answers.

use crate::error::Error;
use crate::request::Fault;
use moso_proto::Code;
use moso_queue::meta::MetaError;

impl Error {
    /// The answer to a caller: the operator finds the rest in the node's log.
    pub fn into_fault(self) -> Fault {
        tracing::error!(error = %self, "a request met an error of the node");
        Fault::new(Code::Internal, format!("{self}; see the node's log"))
    }
}

impl From<moso_shard::Error> for Error {
    fn from(error: moso_shard::Error) -> Self {
        match error {
            moso_shard::Error::Damaged { shard, reason, .. } => {
                Error::Damaged { shard, what: "replica", at: 0, reason }
            }
            other => Error::Read { what: "a replica's log", reason: other.to_string() },
        }
    }
}

impl From<MetaError> for Error {
    fn from(error: MetaError) -> Self {
        Error::Damaged { shard: 0, what: "object", at: 0, reason: error.to_string() }
    }
}

/// Held by the threads that own shards or their log: were one of them to panic, the node would go on without it, and
/// answer nobody.
pub struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// A stored record of this shard that does not decode.
pub fn damaged_record(shard: u16, at: u64, error: &moso_queue::Error) -> Error {
    Error::Damaged { shard, what: "record", at, reason: error.to_string() }
}
