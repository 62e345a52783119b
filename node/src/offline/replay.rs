//! A replica's state in memory, and what the log makes of it.

use crate::error::{Error, Result};
use crate::fault::damaged_record;
use crate::open::load_machine;
use crate::store::{Applied, RaftLog, SegmentLog, StateStore};
use moso_queue::meta::MetaMachine;
use moso_queue::{Effects, Machine};
use raft::eraftpb::{Entry, EntryType};

/// Bytes of entries read at a time.
const READ_BYTES: u64 = 8 << 20;

/// The machine of a shard, or of the meta group.
pub enum AnyMachine {
    /// A shard's.
    Shard(Box<Machine>),
    /// The meta group's.
    Meta(Box<MetaMachine>),
}

impl AnyMachine {
    /// Loads it from its store.
    ///
    /// # Errors
    /// `Damaged`, `Read`.
    pub fn load(shard: u16, store: &StateStore) -> Result<AnyMachine> {
        Ok(match shard {
            0 => AnyMachine::Meta(Box::new(MetaMachine::load(store.records()?.into_iter())?)),
            _ => AnyMachine::Shard(Box::new(load_machine(shard, store)?)),
        })
    }

    /// A fingerprint of the replicated state: equal on replicas with equal applied index.
    pub fn digest(&self) -> u64 {
        match self {
            AnyMachine::Shard(machine) => machine.digest(),
            AnyMachine::Meta(machine) => machine.encode_records().into_iter().fold(0, |sum: u64, (key, value)| {
                let (key, value) = (crc32c::crc32c(&key), crc32c::crc32c(&value));
                sum.wrapping_add(moso_queue::task::mix(u64::from(key) << 32 | u64::from(value)))
            }),
        }
    }

    /// Applies an entry of the log.
    ///
    /// # Errors
    /// `Damaged` if it does not decode.
    pub fn apply(&mut self, shard: u16, entry: &Entry) -> Result<()> {
        if entry.get_entry_type() != EntryType::EntryNormal || entry.data.is_empty() {
            return Ok(());
        }
        match self {
            AnyMachine::Shard(machine) => machine
                .apply(entry.data.clone(), &mut Effects::default(), &mut Vec::new())
                .map_err(|error| damaged_record(shard, entry.index, &error)),
            AnyMachine::Meta(machine) => {
                let short = || Error::damaged(shard, "log entry", entry.index, "too short for the meta group");
                let (time, command) = entry.data.split_first_chunk::<8>().ok_or_else(short)?;
                machine.apply(u64::from_le_bytes(*time), command)?;
                Ok(())
            }
        }
    }

    /// Applies the log from behind `from` up to `to`. The log must hold `to` with its term: then all before it are
    /// committed, and those that the other replica applied.
    ///
    /// # Errors
    /// `Damaged`, `Read`, `Contract` if the log does not hold the entries.
    pub fn apply_log(&mut self, shard: u16, log: &SegmentLog, from: u64, to: u64) -> Result<()> {
        let mut next = from + 1;
        while next <= to {
            for entry in log.entries(shard, next, to + 1, READ_BYTES)? {
                self.apply(shard, &entry)?;
                next = entry.index + 1;
            }
        }
        Ok(())
    }
}

/// Whether the log holds all from behind `from` up to `to`, and at `to` that very entry.
pub fn reaches(log: &SegmentLog, shard: u16, from: Applied, to: Applied) -> bool {
    let Ok(held) = log.load(shard) else { return false };
    held.truncated.0 <= from.index
        && to.index <= held.last_index
        && log.term(shard, to.index).is_ok_and(|term| term == to.term)
}
