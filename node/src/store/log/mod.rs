//! The Raft log of all shards of a node: one write and one sync per turn, whatever the number of shards.
//!
//! ```text
//! segments.rs  writing, reading, using files again      format.rs   the bytes of a file
//! index.rs     where each entry is, in memory           recover.rs  what the files hold after a start
//! space.rs     writing where the disk may be full       tail.rs     is the last batch damaged, or incomplete?
//! survey.rs    every file of a stopped node's log
//! ```

#[doc(hidden)]
pub mod format;
mod index;
mod recover;
mod segments;
mod space;
mod survey;
mod tail;

pub use segments::SegmentLog;
pub use space::{Relief, is_full};
pub use survey::{Surveyed, Use, survey};

use crate::error::Result;
use raft::eraftpb::{Entry, HardState};

/// Greatest index stored, so that there always is a next one.
const INDEX_MAX: u64 = u64::MAX >> 1;

/// How the log uses the disk.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Bytes of a file. A larger batch makes a larger one.
    pub segment_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { segment_bytes: 16 << 20 }
    }
}

/// What one shard adds to the log in a turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardAppend<'a> {
    /// The shard.
    pub shard: u16,
    /// Entries without gap. They replace what stands at their indexes; what stands after the last of them is dropped.
    pub entries: &'a [Entry],
    /// Term, vote and commit index, if changed.
    pub hard_state: Option<&'a HardState>,
    /// First drop the entries from this index on.
    pub truncate_suffix_from: Option<u64>,
    /// Or first drop all: the log begins anew behind this index, whose term follows it, where a snapshot took its place.
    pub restart: Option<(u64, u64)>,
}

/// What the log holds of a shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogState {
    /// As last appended; the default if never.
    pub hard_state: HardState,
    /// Index of the first entry; `last_index + 1` if there is none.
    pub first_index: u64,
    /// Index of the last entry; `first_index - 1` if there is none.
    pub last_index: u64,
    /// Index and term of the last entry that was cut off; (0, 0) if none was.
    pub truncated: (u64, u64),
}

impl LogState {
    /// Of a shard of which nothing was ever written.
    pub fn none() -> Self {
        LogState { first_index: 1, ..LogState::default() }
    }
}

/// The Raft log of all shards of a node.
///
/// Of one shard, appends and cuts each come one at a time, and nothing is cut or read that is still being appended or cut.
/// Appending and cutting wait for the sync that is under way: call them where waiting does no harm. An
/// [`Error::Fatal`](crate::error::Error::Fatal)
/// must end the process.
pub trait RaftLog: Send + Sync {
    /// Writes what several shards add, all or nothing. It is on disk on return, as is all that was written before.
    ///
    /// # Errors
    /// `Contract` for entries with a gap, at cut-off indexes or with a context that does not belong; nothing was written.
    /// `Fatal` if the write or the sync failed.
    fn append(&self, batch: &[ShardAppend<'_>]) -> Result<()>;

    /// What the log holds of `shard`; all zero if nothing was ever written.
    ///
    /// # Errors
    /// `Damaged`, `Read`.
    fn load(&self, shard: u16) -> Result<LogState>;

    /// The entries from `low` to below `high`, which the log must hold: at least one, then as many as fit in `bytes_max`
    /// of payload.
    ///
    /// # Errors
    /// `Contract` if the log does not hold them. `Damaged`, `Read`.
    fn entries(&self, shard: u16, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>>;

    /// The term of the entry at `index`, which the log holds or which is the last that was cut off.
    ///
    /// # Errors
    /// `Contract` if the log does not hold it. `Damaged`, `Read`.
    fn term(&self, shard: u16, index: u64) -> Result<u64>;

    /// Cuts off the entries up to and with `to_index`, whose term is `term`. It is written with the next append: after
    /// a crash they may be back. Below what is cut off already, nothing happens; beyond the last entry the log begins anew at `to_index + 1`,
    /// as it does behind a snapshot.
    ///
    /// # Errors
    /// `Fatal`; `Damaged`, `Read`.
    fn truncate_prefix(&self, shard: u16, to_index: u64, term: u64) -> Result<()>;

    /// Forgets the shard, synced: its replica was removed and will come back under a new identity, if at all.
    ///
    /// # Errors
    /// `Fatal`.
    fn remove(&self, shard: u16) -> Result<()>;
}
