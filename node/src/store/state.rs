//! The state of one replica: a RocksDB without WAL, whose image after a crash is a prefix of what was applied.

use super::keys;
use super::rocks::{SharedRocks, open_error, read_error, write_error};
use super::value;
use crate::error::{Error, Result};
use crate::limits::BODIES_READ_MAX;
use bytes::Bytes;
use raft::eraftpb::ConfState;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBRawIterator, FlushOptions, ReadOptions, ReadTier, WriteBatch,
    WriteOptions, properties,
};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

mod archive;
mod batch;
mod checkpoint;
mod offline;
mod scan;

pub use archive::{EndedJob, HistoryRow};
pub use batch::StateBatch;
pub use checkpoint::Checkpoint;
pub use scan::EndedTask;

const HOT: &str = "hot";
const BODY: &str = "body";
const HIST: &str = "hist";
const ARCH: &str = "arch";

/// The format written. Newer ones are refused.
pub const STATE_FORMAT: u32 = 1;

/// All column families, also the one that RocksDB insists on.
fn families(shared: &SharedRocks) -> Vec<ColumnFamilyDescriptor> {
    let (hot, unused) = (shared.scanned(HOT), shared.scanned(rocksdb::DEFAULT_COLUMN_FAMILY_NAME));
    vec![hot, unused, shared.looked_up(BODY), shared.filed(HIST), shared.filed(ARCH)]
}

/// Up to where the log is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Index of the last applied entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// The state of one replica.
///
/// One thread commits; any may read and flush. Flushes and large reads wait for the disk: keep them off the threads that
/// own shards.
pub struct StateStore {
    db: DB,
    dir: PathBuf,
    shard: u16,
    known: Mutex<Known>,
}

/// What the committing thread remembers of its last commit.
#[derive(Default)]
struct Known {
    applied: Option<(Applied, ConfState)>,
    /// Submissions below it are deleted already. Each deletion begins where the last ended: nested range tombstones
    /// cost RocksDB the square of their number.
    dedup_below: [u8; 16],
    /// Nothing filed before this day was left when it was last looked for.
    dropped_before: u16,
}

impl StateStore {
    /// Opens the state of a replica of `shard` in `dir`, or makes it.
    ///
    /// # Errors
    /// `Folder` if RocksDB refuses; `NewerFormat`; `Damaged`; `Read`.
    pub fn open(dir: &Path, shard: u16, shared: &SharedRocks) -> Result<StateStore> {
        if let Some(parent) = dir.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|error| Error::io(format!("making {}", parent.display()), error))?;
        }
        let db = DB::open_cf_descriptors(shared.database(), dir, families(shared))
            .map_err(|error| open_error(dir, shard, error))?;
        let known = Mutex::new(Known::default());
        let store = StateStore { db, dir: dir.to_owned(), shard, known };
        let applied = store.read_applied(&ReadOptions::default())?;
        store.check_format(applied.is_some())?;
        if let Some(applied) = applied {
            let conf_state = store.read_conf_state()?;
            store.known().applied = Some((applied, conf_state));
        }
        Ok(store)
    }

    fn check_format(&self, has_data: bool) -> Result<()> {
        let what = "state format";
        let bytes = self.get(HOT, keys::FORMAT, what, 0, &ReadOptions::default())?;
        match bytes.as_deref().map(<[u8; 4]>::try_from) {
            Some(Ok(format)) if u32::from_be_bytes(format) > STATE_FORMAT => Err(Error::NewerFormat {
                what: format!("the state in {}", self.dir.display()),
                found: u32::from_be_bytes(format),
                known: STATE_FORMAT,
            }),
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) => Err(Error::damaged(self.shard, what, 0, "not four bytes")),
            None if has_data => Err(Error::damaged(self.shard, what, 0, "missing")),
            None => {
                let mut writes = WriteBatch::default();
                writes.put_cf(self.family(HOT), keys::FORMAT, STATE_FORMAT.to_be_bytes());
                self.write(writes)
            }
        }
    }

    /// Up to where the log was applied when the store was opened or by the last commit, and the configuration there.
    /// `None` if nothing was ever committed.
    pub fn applied(&self) -> Option<(Applied, ConfState)> {
        self.known().applied.clone()
    }

    /// Up to where the log would be applied if the node lost its power now. The log may be cut up to here.
    ///
    /// # Errors
    /// `Damaged`, `Read`.
    pub fn durable_applied(&self) -> Result<Option<Applied>> {
        let mut options = ReadOptions::default();
        // Without WAL, memtables are passed over: only what is flushed answers.
        options.set_read_tier(ReadTier::Persisted);
        self.read_applied(&options)
    }

    fn read_applied(&self, options: &ReadOptions) -> Result<Option<Applied>> {
        let what = "applied position";
        let Some(bytes) = self.get(HOT, keys::APPLIED, what, 0, options)? else {
            return Ok(None);
        };
        let (index, term) = value::decode_position(&keys::APPLIED, &bytes)
            .map_err(|reason| Error::damaged(self.shard, what, 0, reason))?;
        Ok(Some(Applied { index, term }))
    }

    fn read_conf_state(&self) -> Result<ConfState> {
        let what = "configuration";
        let damaged = |reason| Error::damaged(self.shard, what, 0, reason);
        let bytes = self.get(HOT, keys::CONF_STATE, what, 0, &ReadOptions::default())?;
        value::decode_conf_state(&keys::CONF_STATE, &bytes.ok_or_else(|| damaged("missing"))?).map_err(damaged)
    }

    /// An empty batch for this store.
    pub fn writer(&self) -> StateBatch<'_> {
        StateBatch {
            writes: WriteBatch::default(),
            dedup_below: None,
            hot: self.family(HOT),
            body: self.family(BODY),
            hist: self.family(HIST),
            arch: self.family(ARCH),
        }
    }

    /// Writes the effects of the entries up to `applied` as one, with the position and, if it changed, the configuration.
    /// Not on disk on return: see [`StateStore::flush`]. The first commit must bring a configuration.
    ///
    /// # Errors
    /// `Contract` if `applied` goes back or the first configuration is missing, `NoSpace`: nothing was written; `Fatal`.
    pub fn commit(&self, batch: StateBatch<'_>, applied: Applied, conf_state: Option<&ConfState>) -> Result<()> {
        let StateBatch { mut writes, dedup_below, hot, .. } = batch;
        let mut known = self.known();
        match (&known.applied, conf_state) {
            (None, None) => {
                return Err(Error::contract(self.shard, "the first commit has no configuration"));
            }
            (Some((last, _)), _) if applied.index < last.index => {
                let reason = format!("commit at {} after {}", applied.index, last.index);
                return Err(Error::contract(self.shard, reason));
            }
            _ => {}
        }
        if let Some(conf_state) = conf_state {
            let bytes = value::encode_conf_state(&keys::CONF_STATE, conf_state)
                .map_err(|reason| Error::contract(self.shard, reason))?;
            writes.put_cf(hot, keys::CONF_STATE, bytes);
        }
        let dedup_below = dedup_below.filter(|below| *below > known.dedup_below);
        if let Some(below) = dedup_below {
            writes.delete_range_cf(hot, keys::dedup_key(&known.dedup_below), keys::dedup_key(&below));
        }
        writes.put_cf(hot, keys::APPLIED, value::encode_position(&keys::APPLIED, applied.index, applied.term));
        self.write(writes)?;
        known.dedup_below = dedup_below.unwrap_or(known.dedup_below);
        match (&mut known.applied, conf_state) {
            (Some((last, conf)), changed) => {
                *last = applied;
                if let Some(changed) = changed {
                    conf.clone_from(changed);
                }
            }
            (first, changed) => *first = changed.map(|conf| (applied, conf.clone())),
        }
        Ok(())
    }

    /// Puts all that is committed on disk, and waits for it.
    ///
    /// # Errors
    /// `NoSpace`: to be tried again; `Fatal`.
    pub fn flush(&self) -> Result<()> {
        let families = [HOT, BODY, HIST, ARCH].map(|name| self.family(name));
        self.db
            .flush_cfs_opt(&families, &FlushOptions::default())
            .map_err(|error| write_error(self.shard, "flushing a shard's state", error))
    }

    /// About how many bytes a flush would write; a little above zero when there is nothing to flush.
    ///
    /// # Errors
    /// `Read`.
    pub fn unflushed_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for name in [HOT, BODY, HIST, ARCH] {
            let value = self.db.property_int_value_cf(self.family(name), properties::CUR_SIZE_ALL_MEM_TABLES);
            bytes += value.map_err(|error| self.read_error("memtable size", 0, error))?.unwrap_or(0);
        }
        Ok(bytes)
    }

    /// Passes each live job to `f`, by number. `f`'s error ends the walk.
    ///
    /// # Errors
    /// `Damaged`, `Read`, and those of `f`.
    pub fn for_each_job(&self, f: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        self.for_each(keys::PREFIX_JOB, "job key", |key| Some(u64::from_be_bytes(key.try_into().ok()?)), f)
    }

    /// As [`StateStore::for_each_job`], for live tasks.
    pub fn for_each_task(&self, f: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        self.for_each(keys::PREFIX_TASK, "task key", |key| Some(u64::from_be_bytes(key.try_into().ok()?)), f)
    }

    /// As [`StateStore::for_each_job`], for classes.
    pub fn for_each_class(&self, f: impl FnMut(u32, &[u8]) -> Result<()>) -> Result<()> {
        self.for_each(keys::PREFIX_CLASS, "class key", |key| Some(u32::from_be_bytes(key.try_into().ok()?)), f)
    }

    /// As [`StateStore::for_each_job`], for submissions.
    pub fn for_each_dedup(&self, f: impl FnMut([u8; 16], &[u8]) -> Result<()>) -> Result<()> {
        self.for_each(keys::PREFIX_DEDUP, "submission key", |key| key.try_into().ok(), f)
    }

    fn for_each<K>(
        &self,
        prefix: u8,
        what: &'static str,
        key_of: impl Fn(&[u8]) -> Option<K>,
        mut f: impl FnMut(K, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(1 << 20);
        let mut iter = self.iter(HOT, &[prefix], &[prefix + 1], options);
        iter.seek_to_first();
        while let Some((key, value)) = iter.item() {
            let key = key_of(&key[1..]).ok_or_else(|| Error::damaged(self.shard, what, 0, "wrong length"))?;
            f(key, value)?;
            iter.next();
        }
        iter.status().map_err(|error| self.read_error(what, 0, error))
    }

    /// A small record of the machine.
    ///
    /// # Errors
    /// `Damaged`, `Read`.
    pub fn meta(&self, kind: u8) -> Result<Option<Bytes>> {
        self.get(HOT, keys::meta_key(kind), "meta record", u64::from(kind), &ReadOptions::default())
    }

    /// The body stored under `seq`.
    ///
    /// # Errors
    /// `Damaged`, `Read`.
    pub fn body(&self, seq: u64) -> Result<Option<Bytes>> {
        self.get(BODY, keys::body_key(seq), "body", seq, &ReadOptions::default())
    }

    /// The bodies stored under `seqs`, in their order. At most [`BODIES_READ_MAX`].
    ///
    /// # Errors
    /// `Contract` for too many; `Damaged`, `Read`.
    pub fn bodies(&self, seqs: &[u64]) -> Result<Vec<Option<Bytes>>> {
        if seqs.len() > BODIES_READ_MAX {
            return Err(Error::contract(self.shard, format!("more than {BODIES_READ_MAX} bodies asked for")));
        }
        let keys: Vec<_> = seqs.iter().map(|seq| keys::body_key(*seq)).collect();
        let found = self.db.batched_multi_get_cf(self.family(BODY), &keys, false);
        let mut bodies = Vec::with_capacity(seqs.len());
        for (found, seq) in found.into_iter().zip(seqs) {
            let found = found.map_err(|error| self.read_error("body", *seq, error))?;
            bodies.push(found.map(|slice| Bytes::copy_from_slice(&slice)));
        }
        Ok(bodies)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no thread panics while it holds this lock")
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("the store was opened with this column family")
    }

    fn get(
        &self,
        family: &str,
        key: impl AsRef<[u8]>,
        what: &'static str,
        at: u64,
        options: &ReadOptions,
    ) -> Result<Option<Bytes>> {
        let found = self.db.get_pinned_cf_opt(self.family(family), key, options);
        let found = found.map_err(|error| self.read_error(what, at, error))?;
        Ok(found.map(|slice| Bytes::copy_from_slice(&slice)))
    }

    fn iter(&self, family: &str, first: &[u8], end: &[u8], mut options: ReadOptions) -> DBRawIterator<'_> {
        options.set_iterate_lower_bound(first);
        options.set_iterate_upper_bound(end);
        self.db.raw_iterator_cf_opt(self.family(family), options)
    }

    fn write(&self, writes: WriteBatch) -> Result<()> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(writes, &options).map_err(|error| write_error(self.shard, "writing a shard's state", error))
    }

    fn read_error(&self, what: &'static str, at: u64, error: rocksdb::Error) -> Error {
        read_error(self.shard, what, at, error)
    }
}
