//! The log as Raft reads it: recent entries from memory, older ones from the node's log reader.

use crate::cache::EntryCache;
use crate::config::ReplicaConfig;
use crate::error::{Error, Result};
use crate::output::Position;
use crate::snapshots::Snapshots;
use crate::terms::Terms;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};
use std::cell::RefCell;
use std::io;
use std::sync::Arc;

/// Reads a replica's entries that were reported persisted. Called on the replica's thread, rarely: for followers far
/// behind, and to apply again after a restart. An error is final for the replica.
pub trait LogReader: Send {
    /// The entries from `low` to below `high`, oldest first, without gap: at least one, then as many as fit in
    /// `bytes_max` of payload. The log holds them all.
    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> io::Result<Vec<Entry>>;

    /// The term of the entry at `index`, which the log holds. Called only while a replica is opened.
    fn term(&self, index: u64) -> io::Result<u64>;
}

/// Where the log of a shard begins: as if one entry had been applied and cut off. So a replica that joins later can never
/// be served from the log alone, which does not say with whom the shard was made: it gets a snapshot.
pub const FOUNDING: Position = Position { term: 1, index: 1 };

/// What a replica finds on disk when it is opened.
#[derive(Clone, Debug, Default)]
pub struct Durable {
    /// As last appended; the default if never.
    pub hard_state: HardState,
    /// The configuration at `applied`; at the first start the one the shard was made with. Empty for a replica that joins
    /// and has no snapshot yet.
    pub conf_state: ConfState,
    /// Index up to which the state has durably applied the log; 0 at the first start.
    pub applied: u64,
    /// Where the log was cut; (0, 0) if never.
    pub truncated: Position,
    /// Index of the last entry; `truncated.index` if there is none.
    pub last_index: u64,
}

impl Durable {
    /// What one of the replicas finds with which a shard is made, before its state was ever written: `log` says what its
    /// log holds, nothing or the first entries.
    pub fn founding(members: ConfState, log: Durable) -> Durable {
        let mut hard_state = log.hard_state;
        hard_state.term = hard_state.term.max(FOUNDING.term);
        hard_state.commit = hard_state.commit.max(FOUNDING.index);
        Durable {
            hard_state,
            conf_state: members,
            applied: FOUNDING.index,
            truncated: log.truncated.max(FOUNDING),
            last_index: log.last_index.max(FOUNDING.index),
        }
    }

    /// Says what contradicts itself. The log may have been cut only below what is durably applied, and must reach as far
    /// as what is known to be committed: a log that lost its tail has forgotten what it acknowledged.
    fn damage(&self, last_term: u64) -> Option<String> {
        let Durable { hard_state, applied, truncated, last_index, .. } = self;
        if truncated.index > *applied {
            Some(format!("the log was cut at {}, but only {applied} is applied", truncated.index))
        } else if applied > last_index {
            Some(format!("{applied} is applied, but the log ends at {last_index}"))
        } else if hard_state.commit > *last_index {
            Some(format!("{} is committed, but the log ends at {last_index}", hard_state.commit))
        } else if last_term > hard_state.term {
            Some(format!("the log ends in term {last_term}, but the term is {}", hard_state.term))
        } else {
            None
        }
    }
}

/// The log as Raft reads it.
///
/// Raft takes any error for fatal and panics on it; instead the first one is kept in `failed`, Raft is given something
/// harmless, and the replica refuses to hand out anything from then on.
pub(crate) struct Storage {
    shard: u16,
    initial: RaftState,
    terms: Terms,
    cache: EntryCache,
    reader: Box<dyn LogReader>,
    failed: RefCell<Option<Arc<io::Error>>>,
    /// Of the followers, while it leads.
    pub(crate) snapshots: Snapshots,
}

impl Storage {
    /// Checks what was found on disk.
    pub(crate) fn open(config: &ReplicaConfig, durable: Durable, reader: Box<dyn LogReader>) -> Result<Storage> {
        let damaged = |reason| Error::Damaged { shard: config.shard, peer: config.peer, reason };
        let terms = Terms::load(durable.truncated, durable.last_index, |index| reader.term(index)).map_err(
            |error| match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::NotFound => damaged(error.to_string()),
                _ => Error::LogRead { shard: config.shard, source: Arc::new(error) },
            },
        )?;
        if let Some(reason) = durable.damage(terms.last().term) {
            return Err(damaged(reason));
        }
        let mut hard_state = durable.hard_state;
        // The state may be ahead of the commit index that was last written, which need not be durable.
        hard_state.commit = hard_state.commit.max(durable.applied);
        Ok(Storage {
            shard: config.shard,
            initial: RaftState::new(hard_state, durable.conf_state),
            terms,
            cache: EntryCache::new(config.cache_bytes_max),
            reader,
            failed: RefCell::new(None),
            snapshots: Snapshots::default(),
        })
    }

    pub(crate) fn shard(&self) -> u16 {
        self.shard
    }

    /// The error that made this log unreadable.
    pub(crate) fn failed(&self) -> Option<Arc<io::Error>> {
        self.failed.borrow().clone()
    }

    pub(crate) fn truncated(&self) -> Position {
        self.terms.truncated()
    }

    pub(crate) fn last(&self) -> Position {
        self.terms.last()
    }

    pub(crate) fn cached_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Takes entries that are being written, before they are on disk.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.terms.append(Position { term: entry.term, index: entry.index });
            self.cache.append(entry.clone());
        }
    }

    /// The log begins anew behind a snapshot.
    pub(crate) fn restore(&mut self, at: Position) {
        self.terms = Terms::empty(at);
        self.cache.clear();
    }

    /// Lets go of cached entries at and below `index`, which the reader can read, if the cache is too large.
    pub(crate) fn shrink_cache_to(&mut self, index: u64) {
        self.cache.shrink_to(index);
    }

    /// Forgets the entries at and below `index`.
    pub(crate) fn truncate_to(&mut self, index: u64) {
        self.terms.truncate_to(index);
        self.cache.truncate_to(index);
    }

    fn read(&self, low: u64, high: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let cached = self.cache.first().unwrap_or(self.terms.last().index + 1);
        if low >= cached {
            return Ok(self.cache.read(low, high, bytes_max));
        }
        let mut entries = self.reader.entries(low, high.min(cached), bytes_max)?;
        self.check_read(low, high.min(cached), &entries)?;
        let bytes: u64 = entries.iter().map(|entry| entry.data.len() as u64).sum();
        if low + entries.len() as u64 == cached && cached < high && bytes < bytes_max {
            entries.extend(self.cache.read(cached, high, bytes_max - bytes));
        }
        Ok(entries)
    }

    fn check_read(&self, low: u64, high: u64, entries: &[Entry]) -> io::Result<()> {
        let held = entries
            .iter()
            .zip(low..high)
            .all(|(entry, index)| entry.index == index && self.terms.get(index) == Some(entry.term));
        if entries.is_empty() || entries.len() as u64 > high - low || !held {
            let reason = format!("entries {low}..{high} are not what was written");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(())
    }
}

impl raft::Storage for Storage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.terms.truncated().index {
            return Err(StorageError::Compacted.into());
        }
        match self.read(low, high, max_size.into().unwrap_or(u64::MAX)) {
            Ok(entries) => Ok(entries),
            Err(error) => {
                self.failed.borrow_mut().get_or_insert_with(|| Arc::new(error));
                if context.can_async() { Err(StorageError::LogTemporarilyUnavailable.into()) } else { Ok(Vec::new()) }
            }
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let outside =
            if index < self.terms.truncated().index { StorageError::Compacted } else { StorageError::Unavailable };
        self.terms.get(index).ok_or(outside.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.terms.truncated().index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.terms.last().index)
    }

    /// Asked for when a follower lacks what was cut off. It waits until the owner has brought it a copy of the state.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let first = request_index.max(self.terms.truncated().index);
        self.snapshots.give(to, first).ok_or(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

/// Reads a configuration change. Only the second form is ever proposed.
pub(crate) fn decode_change(entry: &Entry) -> Option<ConfChangeV2> {
    if entry.get_entry_type() != EntryType::EntryConfChangeV2 {
        return None;
    }
    let mut change = ConfChangeV2::default();
    change.merge_from_bytes(&entry.data).ok()?;
    Some(change)
}
