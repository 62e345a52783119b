//! The state of one replica: a RocksDB without WAL, whose image after a crash is a prefix of what was applied.

use super::keys::{self, EndedKind};
use super::rocks::{SharedRocks, open_error, read_error, rows};
use super::value;
use crate::error::{Error, Result};
use crate::limits::BODIES_READ_MAX;
use bytes::Bytes;
use raft::eraftpb::ConfState;
use rocksdb::{
    AsColumnFamilyRef, ColumnFamily, DB, DBRawIterator, FlushOptions, ReadOptions, ReadTier,
    WriteBatch, WriteOptions, properties,
};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

mod scan;

pub use scan::EndedTask;

const HOT: &str = "hot";
const BODY: &str = "body";
const HIST: &str = "hist";
const ARCH: &str = "arch";

/// The format written. Newer ones are refused.
pub const STATE_FORMAT: u32 = 1;

/// Up to where the log is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Index of the last applied entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// A row of the status log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// Day it is filed under.
    pub day: u16,
    /// Index of the entry that made it.
    pub index: u64,
    /// Its place among the rows of that entry.
    pub n: u32,
    /// The record.
    pub bytes: Bytes,
}

/// An ended job of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedJob {
    /// Day on which it ended.
    pub day: u16,
    /// Job.
    pub seq: u64,
    /// The record.
    pub bytes: Bytes,
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
struct Known {
    applied: Option<(Applied, ConfState)>,
    /// Submissions below it are deleted already. Each deletion begins where the last ended: nested range tombstones
    /// cost RocksDB the square of their number.
    dedup_below: [u8; 16],
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
        let families = vec![
            shared.scanned(HOT),
            shared.looked_up(BODY),
            shared.looked_up(HIST),
            shared.looked_up(ARCH),
        ];
        let db = DB::open_cf_descriptors(shared.database(), dir, families)
            .map_err(|error| open_error(dir, error))?;
        let known = Mutex::new(Known {
            applied: None,
            dedup_below: [0; 16],
        });
        let store = StateStore {
            db,
            dir: dir.to_owned(),
            shard,
            known,
        };
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
            Some(Ok(format)) if u32::from_be_bytes(format) > STATE_FORMAT => {
                Err(Error::NewerFormat {
                    what: format!("the state in {}", self.dir.display()),
                    found: u32::from_be_bytes(format),
                    known: STATE_FORMAT,
                })
            }
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
        value::decode_conf_state(&keys::CONF_STATE, &bytes.ok_or_else(|| damaged("missing"))?)
            .map_err(damaged)
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
    /// `Contract` if `applied` goes back or the first configuration is missing, and nothing was written; `Fatal`.
    pub fn commit(
        &self,
        batch: StateBatch<'_>,
        applied: Applied,
        conf_state: Option<&ConfState>,
    ) -> Result<()> {
        let StateBatch {
            mut writes,
            dedup_below,
            hot,
            ..
        } = batch;
        let mut known = self.known();
        match (&known.applied, conf_state) {
            (None, None) => {
                return Err(Error::contract(
                    self.shard,
                    "the first commit has no configuration",
                ));
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
        if let Some(below) = dedup_below.filter(|below| *below > known.dedup_below) {
            writes.delete_range_cf(
                hot,
                keys::dedup_key(&known.dedup_below),
                keys::dedup_key(&below),
            );
            known.dedup_below = below;
        }
        writes.put_cf(
            hot,
            keys::APPLIED,
            value::encode_position(&keys::APPLIED, applied.index, applied.term),
        );
        self.write(writes)?;
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
    /// `Fatal`.
    pub fn flush(&self) -> Result<()> {
        let families = [HOT, BODY, HIST, ARCH].map(|name| self.family(name));
        self.db
            .flush_cfs_opt(&families, &FlushOptions::default())
            .map_err(|error| Error::fatal("flushing a shard's state", error))
    }

    /// About how many bytes a flush would write; a little above zero when there is nothing to flush.
    ///
    /// # Errors
    /// `Read`.
    pub fn unflushed_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for name in [HOT, BODY, HIST, ARCH] {
            let value = self
                .db
                .property_int_value_cf(self.family(name), properties::CUR_SIZE_ALL_MEM_TABLES);
            bytes += value
                .map_err(|error| self.read_error("memtable size", 0, error))?
                .unwrap_or(0);
        }
        Ok(bytes)
    }

    /// Passes each live job to `f`, by number. `f`'s error ends the walk.
    ///
    /// # Errors
    /// `Damaged`, `Read`, and those of `f`.
    pub fn for_each_job(&self, f: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        self.for_each(
            keys::PREFIX_JOB,
            "job key",
            |key| Some(u64::from_be_bytes(key.try_into().ok()?)),
            f,
        )
    }

    /// As [`StateStore::for_each_job`], for live tasks.
    pub fn for_each_task(&self, f: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        self.for_each(
            keys::PREFIX_TASK,
            "task key",
            |key| Some(u64::from_be_bytes(key.try_into().ok()?)),
            f,
        )
    }

    /// As [`StateStore::for_each_job`], for classes.
    pub fn for_each_class(&self, f: impl FnMut(u32, &[u8]) -> Result<()>) -> Result<()> {
        self.for_each(
            keys::PREFIX_CLASS,
            "class key",
            |key| Some(u32::from_be_bytes(key.try_into().ok()?)),
            f,
        )
    }

    /// As [`StateStore::for_each_job`], for submissions.
    pub fn for_each_dedup(&self, f: impl FnMut([u8; 16], &[u8]) -> Result<()>) -> Result<()> {
        self.for_each(
            keys::PREFIX_DEDUP,
            "submission key",
            |key| key.try_into().ok(),
            f,
        )
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
            let key = key_of(&key[1..])
                .ok_or_else(|| Error::damaged(self.shard, what, 0, "wrong length"))?;
            f(key, value)?;
            iter.next();
        }
        iter.status()
            .map_err(|error| self.read_error(what, 0, error))
    }

    /// A small record of the machine.
    ///
    /// # Errors
    /// `Damaged`, `Read`.
    pub fn meta(&self, kind: u8) -> Result<Option<Bytes>> {
        self.get(
            HOT,
            keys::meta_key(kind),
            "meta record",
            u64::from(kind),
            &ReadOptions::default(),
        )
    }

    /// The body stored under `seq`.
    ///
    /// # Errors
    /// `Damaged`, `Read`.
    pub fn body(&self, seq: u64) -> Result<Option<Bytes>> {
        self.get(
            BODY,
            keys::body_key(seq),
            "body",
            seq,
            &ReadOptions::default(),
        )
    }

    /// The bodies stored under `seqs`, in their order. At most [`BODIES_READ_MAX`].
    ///
    /// # Errors
    /// `Contract` for too many; `Damaged`, `Read`.
    pub fn bodies(&self, seqs: &[u64]) -> Result<Vec<Option<Bytes>>> {
        if seqs.len() > BODIES_READ_MAX {
            return Err(Error::contract(
                self.shard,
                format!("more than {BODIES_READ_MAX} bodies asked for"),
            ));
        }
        let keys: Vec<_> = seqs.iter().map(|seq| keys::body_key(*seq)).collect();
        let found = self
            .db
            .batched_multi_get_cf(self.family(BODY), &keys, false);
        let mut bodies = Vec::with_capacity(seqs.len());
        for (found, seq) in found.into_iter().zip(seqs) {
            let found = found.map_err(|error| self.read_error("body", *seq, error))?;
            bodies.push(found.map(|slice| Bytes::copy_from_slice(&slice)));
        }
        Ok(bodies)
    }

    /// Rows of the status log of a job or task within `days`, oldest first; at most `rows_max` and
    /// [`crate::limits::ROWS_READ_MAX`].
    ///
    /// # Errors
    /// `Damaged`, `Read`.
    pub fn history(
        &self,
        seq: u64,
        days: RangeInclusive<u16>,
        rows_max: usize,
    ) -> Result<Vec<HistoryRow>> {
        let mut found = Vec::new();
        for day in self.stored_days(HIST, days)? {
            let first = keys::history_key(day, seq, 0, 0);
            let end = keys::history_key(day, seq, u64::MAX, u32::MAX);
            let mut iter = self.iter(HIST, &first, &end, ReadOptions::default());
            iter.seek_to_first();
            while let Some((key, value)) = iter.item() {
                if found.len() >= rows(rows_max) {
                    return Ok(found);
                }
                let row = keys::history_row(key);
                let (index, n) =
                    row.ok_or_else(|| Error::damaged(self.shard, "status row", seq, "wrong key"))?;
                found.push(HistoryRow {
                    day,
                    index,
                    n,
                    bytes: Bytes::copy_from_slice(value),
                });
                iter.next();
            }
            iter.status()
                .map_err(|error| self.read_error("status row", seq, error))?;
        }
        Ok(found)
    }

    /// The record of a job that ended within `days`, and its day. The newest days are looked at first.
    ///
    /// # Errors
    /// `Damaged`, `Read`.
    pub fn ended_job(&self, seq: u64, days: RangeInclusive<u16>) -> Result<Option<(u16, Bytes)>> {
        self.ended(EndedKind::Job, seq, days)
    }

    /// As [`StateStore::ended_job`], for a task.
    pub fn ended_task(&self, seq: u64, days: RangeInclusive<u16>) -> Result<Option<(u16, Bytes)>> {
        self.ended(EndedKind::Task, seq, days)
    }

    fn ended(
        &self,
        kind: EndedKind,
        seq: u64,
        days: RangeInclusive<u16>,
    ) -> Result<Option<(u16, Bytes)>> {
        for day in self.stored_days(ARCH, days)?.rev() {
            let key = keys::ended_key(day, kind, seq);
            if let Some(bytes) =
                self.get(ARCH, key, "archived record", seq, &ReadOptions::default())?
            {
                return Ok(Some((day, bytes)));
            }
        }
        Ok(None)
    }

    /// Ended jobs behind `after` (day and number), or from the first, by day and number; at most `limit` and
    /// [`crate::limits::ROWS_READ_MAX`].
    ///
    /// # Errors
    /// `Damaged`, `Read`.
    pub fn scan_ended_jobs(
        &self,
        after: Option<(u16, u64)>,
        limit: usize,
    ) -> Result<Vec<EndedJob>> {
        let mut iter = self.iter(
            ARCH,
            &[],
            &[u8::MAX; keys::ENDED_KEY_BYTES + 1],
            ReadOptions::default(),
        );
        match after {
            Some((day, seq)) => {
                iter.seek(keys::ended_key(day, EndedKind::Job, seq.saturating_add(1)))
            }
            None => iter.seek_to_first(),
        }
        let mut found = Vec::new();
        while let Some((key, value)) = iter.item() {
            if found.len() >= rows(limit) {
                break;
            }
            let parts = keys::ended_parts(key);
            match parts.ok_or_else(|| Error::damaged(self.shard, "archive key", 0, "wrong key"))? {
                (day, EndedKind::Job, seq) => {
                    found.push(EndedJob {
                        day,
                        seq,
                        bytes: Bytes::copy_from_slice(value),
                    });
                    iter.next();
                }
                // A day's tasks come after its jobs.
                (u16::MAX, EndedKind::Task, _) => break,
                (day, EndedKind::Task, _) => iter.seek(keys::ended_key(day + 1, EndedKind::Job, 0)),
            }
        }
        iter.status()
            .map_err(|error| self.read_error("archive", 0, error))?;
        Ok(found)
    }

    /// Drops ended jobs, ended tasks and rows of the status log filed before `day`. Not replicated: each node does so by
    /// itself, and again if a crash brought some back.
    ///
    /// # Errors
    /// `Fatal`.
    pub fn drop_ended_before(&self, day: u16) -> Result<()> {
        let (first, end) = ([0; 2], day.to_be_bytes());
        let mut writes = WriteBatch::default();
        for name in [HIST, ARCH] {
            let family = self.family(name);
            self.db
                .delete_file_in_range_cf(family, first, end)
                .map_err(|error| Error::fatal("dropping archived days", error))?;
            writes.delete_range_cf(family, first, end);
        }
        self.write(writes)
    }

    /// The part of `days` between the first and the last day that `family` holds.
    fn stored_days(&self, family: &str, days: RangeInclusive<u16>) -> Result<RangeInclusive<u16>> {
        let mut iter = self.db.raw_iterator_cf(self.family(family));
        let day =
            |key: Option<&[u8]>| key.and_then(|key| Some(u16::from_be_bytes(*key.first_chunk()?)));
        iter.seek_to_first();
        let first = day(iter.key());
        iter.seek_to_last();
        let last = day(iter.key());
        iter.status()
            .map_err(|error| self.read_error("archive", 0, error))?;
        Ok(match first.zip(last) {
            Some((first, last)) => first.max(*days.start())..=last.min(*days.end()),
            None => RangeInclusive::new(1, 0),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known
            .lock()
            .expect("no thread panics while it holds this lock")
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db
            .cf_handle(name)
            .expect("the store was opened with this column family")
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

    fn iter(
        &self,
        family: &str,
        first: &[u8],
        end: &[u8],
        mut options: ReadOptions,
    ) -> DBRawIterator<'_> {
        options.set_iterate_lower_bound(first);
        options.set_iterate_upper_bound(end);
        self.db.raw_iterator_cf_opt(self.family(family), options)
    }

    fn write(&self, writes: WriteBatch) -> Result<()> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db
            .write_opt(writes, &options)
            .map_err(|error| Error::fatal("writing a shard's state", error))
    }

    fn read_error(&self, what: &'static str, at: u64, error: rocksdb::Error) -> Error {
        read_error(self.shard, what, at, error)
    }
}

/// Writes that become visible and, later, durable together.
pub struct StateBatch<'a> {
    writes: WriteBatch,
    dedup_below: Option<[u8; 16]>,
    hot: &'a ColumnFamily,
    body: &'a ColumnFamily,
    hist: &'a ColumnFamily,
    arch: &'a ColumnFamily,
}

impl StateBatch<'_> {
    /// Writes of this batch.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Nothing was put or deleted.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.dedup_below.is_none()
    }

    /// Bytes of this batch.
    pub fn bytes(&self) -> usize {
        self.writes.size_in_bytes()
    }

    /// Stores a live job.
    pub fn put_job(&mut self, seq: u64, bytes: &[u8]) {
        self.put(self.hot, &keys::seq_key(keys::PREFIX_JOB, seq), bytes);
    }

    /// Deletes a live job.
    pub fn delete_job(&mut self, seq: u64) {
        self.writes
            .delete_cf(self.hot, keys::seq_key(keys::PREFIX_JOB, seq));
    }

    /// Stores a live task.
    pub fn put_task(&mut self, seq: u64, bytes: &[u8]) {
        self.put(self.hot, &keys::seq_key(keys::PREFIX_TASK, seq), bytes);
    }

    /// Deletes a live task.
    pub fn delete_task(&mut self, seq: u64) {
        self.writes
            .delete_cf(self.hot, keys::seq_key(keys::PREFIX_TASK, seq));
    }

    /// Stores a class.
    pub fn put_class(&mut self, id: u32, bytes: &[u8]) {
        self.put(self.hot, &keys::class_key(id), bytes);
    }

    /// Deletes a class.
    pub fn delete_class(&mut self, id: u32) {
        self.writes.delete_cf(self.hot, keys::class_key(id));
    }

    /// Stores a submission.
    pub fn put_dedup(&mut self, submission: &[u8; 16], bytes: &[u8]) {
        self.put(self.hot, &keys::dedup_key(submission), bytes);
    }

    /// Deletes all submissions below this one, those of this batch too. A submission below an earlier bound is not
    /// deleted again until the store is opened anew.
    pub fn delete_dedup_below(&mut self, submission: &[u8; 16]) {
        self.dedup_below = self.dedup_below.max(Some(*submission));
    }

    /// Stores a body.
    pub fn put_body(&mut self, seq: u64, bytes: &[u8]) {
        self.put(self.body, &keys::body_key(seq), bytes);
    }

    /// Deletes a body.
    pub fn delete_body(&mut self, seq: u64) {
        self.writes.delete_cf(self.body, keys::body_key(seq));
    }

    /// Files the `n`-th row of the status log that the entry at `index` made, under `day` (since 1970-01-01, UTC).
    pub fn put_history(&mut self, day: u16, seq: u64, index: u64, n: u32, bytes: &[u8]) {
        self.put(self.hist, &keys::history_key(day, seq, index, n), bytes);
    }

    /// Files an ended job under `day`.
    pub fn put_ended_job(&mut self, day: u16, seq: u64, bytes: &[u8]) {
        self.put(self.arch, &keys::ended_key(day, EndedKind::Job, seq), bytes);
    }

    /// Files an ended task under `day`.
    pub fn put_ended_task(&mut self, day: u16, seq: u64, bytes: &[u8]) {
        self.put(
            self.arch,
            &keys::ended_key(day, EndedKind::Task, seq),
            bytes,
        );
    }

    /// Stores a small record of the machine.
    pub fn put_meta(&mut self, kind: u8, bytes: &[u8]) {
        self.put(self.hot, &keys::meta_key(kind), bytes);
    }

    fn put(&mut self, family: &impl AsColumnFamilyRef, key: &[u8], bytes: &[u8]) {
        self.writes.put_cf(family, key, bytes);
    }
}
