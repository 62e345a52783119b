//! The Raft log of all shards of a node, in one RocksDB: one write and one sync per turn, whatever the number of shards.

use super::keys::{self, LogKind};
use super::rocks::{base_options, open_error, read_error};
use super::value;
use crate::error::{Error, Result};
use crate::limits::LOG_WRITE_BYTES_MAX;
use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};
use rocksdb::{DB, DBCompressionType, Env, ReadOptions, WriteBatch, WriteOptions};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

/// Greatest index stored, so that there always is a next one.
const INDEX_MAX: u64 = u64::MAX >> 1;

/// Memory of the log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// One memtable, and so the length of a WAL file, bytes. Three may wait to be flushed. Entries cut off before
    /// their memtable is flushed are never written a second time, so larger is cheaper.
    pub write_buffer_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { write_buffer_bytes: 64 << 20 }
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

/// The Raft log of all shards of a node.
///
/// Of one shard, appends and cuts each come one at a time, and nothing is cut or read that is still being appended or cut.
/// Appending and cutting wait for the sync that is under way: call them where waiting does no harm. An [`Error::Fatal`]
/// must end the process.
pub trait RaftLog: Send + Sync {
    /// Writes what several shards add, all or nothing. With `sync` it is on disk on return, as is all that was
    /// written before.
    ///
    /// # Errors
    /// `Contract` for entries with a gap, at cut-off indexes or with a context that does not belong; nothing was written.
    /// `Fatal` if the write or the sync failed.
    fn append(&self, batch: &[ShardAppend<'_>], sync: bool) -> Result<()>;

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

    /// Cuts off the entries up to and with `to_index`, whose term is `term`, without a sync: after a crash they may be
    /// back. Below what is cut off already, nothing happens; beyond the last entry the log begins anew at `to_index + 1`,
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

/// The log in a RocksDB instance of its own.
///
/// RocksDB finds where the last write ended by its checksum, so it takes damage within the newest WAL file for the end. A
/// log that lost acknowledged entries that way is recognised only if the state is ahead of it or a peer says so.
pub struct RocksLog {
    db: DB,
    /// What is known of each shard; filled when it is first asked for.
    bounds: Mutex<BTreeMap<u16, Bounds>>,
}

/// Where a shard's entries begin and end: after `cut` up to and with `last`.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    cut: u64,
    cut_term: u64,
    last: u64,
}

impl RocksLog {
    /// Opens the log in `dir`, or makes it.
    ///
    /// # Errors
    /// `Folder` if RocksDB refuses; `Fatal` if it cannot make its environment.
    pub fn open(dir: &Path, options: &LogOptions) -> Result<RocksLog> {
        let env = Env::new().map_err(|error| Error::fatal("making RocksDB's environment", error))?;
        let mut rocks = base_options(&env);
        rocks.set_write_buffer_size(options.write_buffer_bytes);
        rocks.set_max_write_buffer_number(3);
        rocks.set_compression_type(DBCompressionType::Lz4);
        // Most of what is flushed is cut off soon after: let it die before it is merged.
        rocks.set_level_zero_file_num_compaction_trigger(8);
        // A file that is written over needs no new block and no journal commit at each sync: half the time of one.
        rocks.set_recycle_log_file_num(4);
        rocks.set_track_and_verify_wals_in_manifest(true);
        let db = DB::open(&rocks, dir).map_err(|error| open_error(dir, error))?;
        Ok(RocksLog { db, bounds: Mutex::default() })
    }

    #[cfg(test)]
    pub(super) fn with_database(db: DB) -> RocksLog {
        RocksLog { db, bounds: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<u16, Bounds>> {
        self.bounds.lock().expect("no thread panics while it holds this lock")
    }

    fn bounds(&self, shard: u16) -> Result<Bounds> {
        if let Some(bounds) = self.known().get(&shard) {
            return Ok(*bounds);
        }
        let bounds = self.find_bounds(shard)?;
        Ok(*self.known().entry(shard).or_insert(bounds))
    }

    fn find_bounds(&self, shard: u16) -> Result<Bounds> {
        let key = keys::log_key(shard, LogKind::Truncated, 0);
        let (cut, cut_term) = match self.get(shard, "truncated position", 0, &key)? {
            Some(bytes) => value::decode_position(&key, &bytes)
                .map_err(|reason| Error::damaged(shard, "truncated position", 0, reason))?,
            None => (0, 0),
        };
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(keys::log_key(shard, LogKind::Entry, 0));
        options.set_iterate_upper_bound(keys::log_shard_range(shard).1);
        let mut iter = self.db.raw_iterator_opt(options);
        iter.seek_to_first();
        let first = iter.key().and_then(|key| keys::log_entry_index(shard, key));
        iter.seek_to_last();
        let last = iter.key().and_then(|key| keys::log_entry_index(shard, key));
        iter.status().map_err(|error| read_error(shard, "log", 0, error))?;
        match first {
            _ if cut.max(last.unwrap_or(0)) > INDEX_MAX => {
                Err(Error::damaged(shard, "log entry", cut, "beyond the greatest index"))
            }
            Some(first) if first != cut + 1 => {
                let reason = format!("the log is cut at {cut}, but begins at {first}");
                Err(Error::damaged(shard, "log entry", cut + 1, reason))
            }
            _ => Ok(Bounds { cut, cut_term, last: last.unwrap_or(cut) }),
        }
    }

    fn get(&self, shard: u16, what: &'static str, at: u64, key: &[u8]) -> Result<Option<rocksdb::DBPinnableSlice<'_>>> {
        self.db.get_pinned(key).map_err(|error| read_error(shard, what, at, error))
    }

    fn write(&self, writes: WriteBatch, sync: bool) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(writes, &options).map_err(|error| Error::fatal("writing the Raft log", error))
    }
}

impl RaftLog for RocksLog {
    fn append(&self, batch: &[ShardAppend<'_>], sync: bool) -> Result<()> {
        let mut writes = WriteBatch::default();
        let mut value = Vec::new();
        let mut after: BTreeMap<u16, Bounds> = BTreeMap::new();
        for append in batch {
            let bounds = match after.get(&append.shard) {
                Some(bounds) => *bounds,
                None => self.bounds(append.shard)?,
            };
            let last = stage(append, bounds, &mut writes, &mut value)?;
            after.insert(append.shard, Bounds { last, ..bounds });
        }
        if writes.size_in_bytes() > LOG_WRITE_BYTES_MAX {
            let shard = batch.first().map_or(0, |append| append.shard);
            return Err(Error::contract(shard, "more entries than one write may have"));
        }
        self.write(writes, sync)?;
        let mut known = self.known();
        for (shard, bounds) in after {
            known.entry(shard).or_insert(bounds).last = bounds.last;
        }
        Ok(())
    }

    fn load(&self, shard: u16) -> Result<LogState> {
        let bounds = self.bounds(shard)?;
        let key = keys::log_key(shard, LogKind::HardState, 0);
        let hard_state = match self.get(shard, "hard state", 0, &key)? {
            Some(bytes) => value::decode_hard_state(&key, &bytes)
                .map_err(|reason| Error::damaged(shard, "hard state", 0, reason))?,
            None => HardState::default(),
        };
        Ok(LogState {
            hard_state,
            first_index: bounds.cut + 1,
            last_index: bounds.last,
            truncated: (bounds.cut, bounds.cut_term),
        })
    }

    fn entries(&self, shard: u16, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>> {
        let Bounds { cut, last, .. } = self.bounds(shard)?;
        if low <= cut || low >= high || high > last + 1 {
            let reason = format!("entries {low}..{high} of a log that holds {}..{}", cut + 1, last + 1);
            return Err(Error::contract(shard, reason));
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(keys::log_key(shard, LogKind::Entry, high));
        let mut iter = self.db.raw_iterator_opt(options);
        iter.seek(keys::log_key(shard, LogKind::Entry, low));
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in low..high {
            let Some((key, value)) = iter.item().filter(|(key, _)| keys::log_entry_index(shard, key) == Some(index))
            else {
                iter.status().map_err(|error| read_error(shard, "log entry", index, error))?;
                return Err(Error::damaged(shard, "log entry", index, "missing"));
            };
            let entry = value::decode_entry(key, index, Bytes::copy_from_slice(value))
                .map_err(|reason| Error::damaged(shard, "log entry", index, reason))?;
            bytes += entry.data.len() as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
            iter.next();
        }
        Ok(entries)
    }

    fn term(&self, shard: u16, index: u64) -> Result<u64> {
        let bounds = self.bounds(shard)?;
        if index == bounds.cut {
            return Ok(bounds.cut_term);
        }
        if index < bounds.cut || index > bounds.last {
            return Err(Error::contract(shard, format!("the log does not hold entry {index}")));
        }
        let key = keys::log_key(shard, LogKind::Entry, index);
        let damaged = |reason| Error::damaged(shard, "log entry", index, reason);
        let bytes = self.get(shard, "log entry", index, &key)?.ok_or_else(|| damaged("missing"))?;
        let entry = value::decode_entry(&key, index, Bytes::copy_from_slice(&bytes)).map_err(damaged)?;
        Ok(entry.term)
    }

    fn truncate_prefix(&self, shard: u16, to_index: u64, term: u64) -> Result<()> {
        let bounds = self.bounds(shard)?;
        if to_index <= bounds.cut {
            return Ok(());
        }
        if to_index > INDEX_MAX {
            return Err(Error::contract(shard, format!("{to_index} is beyond the greatest index")));
        }
        let mut writes = WriteBatch::default();
        let key = keys::log_key(shard, LogKind::Truncated, 0);
        writes.put(key, value::encode_position(&key, to_index, term));
        delete_entries(&mut writes, shard, bounds.cut + 1, to_index.min(bounds.last));
        self.write(writes, false)?;
        let mut known = self.known();
        let bounds = known.entry(shard).or_insert(bounds);
        (bounds.cut, bounds.cut_term) = (to_index, term);
        bounds.last = bounds.last.max(to_index);
        Ok(())
    }

    fn remove(&self, shard: u16) -> Result<()> {
        let (first, end) = keys::log_shard_range(shard);
        let mut writes = WriteBatch::default();
        writes.delete_range(first, end);
        self.write(writes, true)?;
        self.known().remove(&shard);
        Ok(())
    }
}

/// Adds to `writes` what `append` asks for. Returns the index of the shard's last entry after it.
fn stage(append: &ShardAppend<'_>, bounds: Bounds, writes: &mut WriteBatch, value: &mut Vec<u8>) -> Result<u64> {
    let shard = append.shard;
    let mut last = bounds.last;
    if let Some(from) = append.truncate_suffix_from {
        if from <= bounds.cut {
            return Err(Error::contract(shard, format!("entry {from} is cut off already")));
        }
        delete_entries(writes, shard, from, last);
        last = last.min(from - 1);
    }
    if let Some(first) = append.entries.first().map(|entry| entry.index) {
        if first <= bounds.cut || first > last + 1 || last > INDEX_MAX - append.entries.len() as u64 {
            let reason = format!("entry {first} appended to a log that holds {}..{}", bounds.cut + 1, last + 1);
            return Err(Error::contract(shard, reason));
        }
        for (offset, entry) in append.entries.iter().enumerate() {
            if entry.index != first + offset as u64 {
                return Err(Error::contract(shard, format!("a gap before entry {}", entry.index)));
            }
            let key = keys::log_key(shard, LogKind::Entry, entry.index);
            value::encode_entry(&key, entry, value)
                .map_err(|reason| Error::contract(shard, format!("entry {}: {reason}", entry.index)))?;
            writes.put(key, &*value);
        }
        let new_last = first + append.entries.len() as u64 - 1;
        // A conflict: what another leader appended after these entries does not belong to them.
        delete_entries(writes, shard, new_last + 1, last);
        last = new_last;
    }
    if let Some(hard_state) = append.hard_state {
        let key = keys::log_key(shard, LogKind::HardState, 0);
        writes.put(key, value::encode_hard_state(&key, hard_state));
    }
    Ok(last)
}

/// Deletes the entries `from..=to`, if there are any.
fn delete_entries(writes: &mut WriteBatch, shard: u16, from: u64, to: u64) {
    if from <= to {
        let end = keys::log_key(shard, LogKind::Entry, to + 1);
        writes.delete_range(keys::log_key(shard, LogKind::Entry, from), end);
    }
}
