//! What a node keeps on disk.
//!
//! ```text
//! DATA/
//!   LOCK         held while the node runs
//!   IDENTITY     which cluster and node the folder belongs to      identity.rs
//!   SEEN         the other nodes' store ids                        identity.rs
//!   REPLICAS     the highest incarnation of a replica here         identity.rs
//!   DAMAGED      replicas that never run again                     damaged.rs
//!   RESERVE      space for the end of a full disk                  ../disk/reserve.rs
//!   log/         the Raft log of all shards: segments              log/
//!   shards/S-P/  the state of shard S's replica P: one RocksDB     state.rs
//!   shards/S-P.I/  the same, as it came from another node: a copy up to entry I
//!   shards/damaged-S-P/  one that was set aside                    damaged.rs
//!   sandboxes/   files of PanDA's clients                          ../panda/sandbox.rs
//!   outgoing/    copies that are being sent; emptied at each start
//! ```
//!
//! The log is synced before anything is acknowledged. The state is not: after a crash it is a prefix of what was applied,
//! says itself how long a prefix, and the log is applied from there.

pub mod damaged;
pub mod identity;
pub mod keys;
pub mod log;
pub mod rocks;
pub mod state;
#[doc(hidden)]
pub mod value;

#[cfg(test)]
mod tests;

pub use damaged::{DamagedReplica, DamagedReplicas};
pub use identity::{DataFolder, Identity, Incarnations, Seen, StoreId};
pub use log::{LogOptions, LogState, RaftLog, Relief, SegmentLog, ShardAppend};
pub use rocks::{SharedOptions, SharedRocks};
pub use state::{Applied, Checkpoint, StateBatch, StateStore};

use std::path::{Path, PathBuf};

/// The folder of the Raft log in a data folder.
pub fn log_dir(data: &Path) -> PathBuf {
    data.join("log")
}

/// The folder of a replica's state in a data folder.
pub fn replica_dir(data: &Path, shard: u16, peer: u64) -> PathBuf {
    data.join("shards").join(format!("{shard}-{peer}"))
}

/// The folder of a copy of a replica's state, up to the entry at `index`.
pub fn copy_dir(data: &Path, shard: u16, peer: u64, index: u64) -> PathBuf {
    data.join("shards").join(format!("{shard}-{peer}.{index}"))
}

/// The folder of the files of PanDA's clients.
pub fn sandboxes_dir(data: &Path) -> PathBuf {
    data.join("sandboxes")
}

/// The folder of the copies that are being sent.
pub fn outgoing_dir(data: &Path) -> PathBuf {
    data.join("outgoing")
}
