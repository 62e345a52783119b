//! Why the replication of a shard refused something, and who must act.

use std::io;
use std::sync::Arc;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call was refused. Each variant says who must act.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The settings contradict each other, or the configuration does not name this replica. The operator must correct
    /// them.
    #[error("shard {shard}: {reason}")]
    Config {
        /// The shard.
        shard: u16,
        /// What is wrong.
        reason: String,
    },

    /// What this replica has on disk contradicts itself or what it acknowledged before. It must not run again under its
    /// identity: the operator must replace it by a new one.
    #[error("shard {shard}: replica {peer} is damaged and must be replaced: {reason}")]
    Damaged {
        /// The shard.
        shard: u16,
        /// The replica's id.
        peer: u64,
        /// What is missing or contradictory.
        reason: String,
    },

    /// The log could not be read. The node must end; the operator must look at its disk.
    #[error("shard {shard}: the log cannot be read: {source}")]
    LogRead {
        /// The shard.
        shard: u16,
        /// What the reader said.
        source: Arc<io::Error>,
    },

    /// This replica does not lead. The caller must go to the leader, if it is known.
    #[error("shard {shard} is not led here")]
    NotLeader {
        /// The shard.
        shard: u16,
        /// The leader's replica id, as far as this replica knows.
        leader: Option<u64>,
    },

    /// Not now. Nothing was done; the caller may retry.
    #[error("shard {shard}: retry later: {reason}")]
    Busy {
        /// The shard.
        shard: u16,
        /// What is full or under way.
        reason: &'static str,
    },

    /// The payload is empty or greater than an entry may be. The caller must change it.
    #[error("entry of {bytes} bytes: 1 to {max} are allowed")]
    EntrySize {
        /// Size of the payload.
        bytes: usize,
        /// Greatest size allowed.
        max: usize,
    },

    /// A peer sent what no replica sends. It was dropped and nothing else happened: count it. Raft repeats what matters.
    #[error("message refused: {0}")]
    Refused(&'static str),

    /// Bytes that this version cannot read. From a peer: drop the message and close the connection. From disk: the
    /// replica is damaged.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}
