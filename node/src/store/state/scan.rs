//! Reads of ended tasks, and the records of machines that bring their own keys (the meta group's).

use super::{ARCH, HOT, StateBatch, StateStore};
use crate::error::{Error, Result};
use crate::store::keys::{self, EndedKind};
use crate::store::rocks::rows;
use bytes::Bytes;
use rocksdb::ReadOptions;
use std::ops::RangeInclusive;

/// An ended task of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedTask {
    /// Day on which it ended.
    pub day: u16,
    /// Task.
    pub seq: u64,
    /// The record.
    pub bytes: Bytes,
}

impl StateStore {
    /// As [`StateStore::scan_ended_jobs`], for tasks.
    ///
    /// # Errors
    /// `Damaged`, `Read`.
    pub fn scan_ended_tasks(&self, after: Option<(u16, u64)>, limit: usize) -> Result<Vec<EndedTask>> {
        let mut iter = self.iter(ARCH, &[], &[u8::MAX; keys::ENDED_KEY_BYTES + 1], ReadOptions::default());
        match after {
            Some((day, seq)) => iter.seek(keys::ended_key(day, EndedKind::Task, seq.saturating_add(1))),
            None => iter.seek_to_first(),
        }
        let mut found = Vec::new();
        while let Some((key, value)) = iter.item() {
            if found.len() >= rows(limit) {
                break;
            }
            let parts = keys::ended_parts(key);
            match parts.ok_or_else(|| Error::damaged(self.shard, "archive key", 0, "wrong key"))? {
                (day, EndedKind::Task, seq) => {
                    found.push(EndedTask { day, seq, bytes: Bytes::copy_from_slice(value) });
                    iter.next();
                }
                (day, EndedKind::Job, _) => iter.seek(keys::ended_key(day, EndedKind::Task, 0)),
            }
        }
        iter.status().map_err(|error| self.read_error("archive", 0, error))?;
        Ok(found)
    }

    /// The ended task with the greatest number below `seq`: if any, the one that a job `seq` belonged to.
    ///
    /// # Errors
    /// `Damaged`, `Read`.
    pub fn ended_task_before(&self, seq: u64, days: RangeInclusive<u16>) -> Result<Option<(u64, Bytes)>> {
        let mut best: Option<(u64, Bytes)> = None;
        for day in self.stored_days(ARCH, days)? {
            let first = keys::ended_key(day, EndedKind::Task, 0);
            let end = keys::ended_key(day, EndedKind::Task, seq);
            let mut iter = self.iter(ARCH, &first, &end, ReadOptions::default());
            iter.seek_to_last();
            if let Some((key, value)) = iter.item() {
                let (_, _, found) =
                    keys::ended_parts(key).ok_or_else(|| Error::damaged(self.shard, "archive key", 0, "wrong key"))?;
                if best.as_ref().is_none_or(|(seq, _)| *seq < found) {
                    best = Some((found, Bytes::copy_from_slice(value)));
                }
            }
            iter.status().map_err(|error| self.read_error("archive", 0, error))?;
        }
        Ok(best)
    }

    /// All records with keys of their own.
    ///
    /// # Errors
    /// `Read`.
    pub fn records(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut iter = self.iter(HOT, &[keys::PREFIX_RECORD], &[keys::PREFIX_RECORD + 1], ReadOptions::default());
        iter.seek_to_first();
        let mut found = Vec::new();
        while let Some((key, value)) = iter.item() {
            found.push((key[1..].to_vec(), value.to_vec()));
            iter.next();
        }
        iter.status().map_err(|error| self.read_error("record", 0, error))?;
        Ok(found)
    }
}

impl StateBatch<'_> {
    /// Puts a record with a key of its machine's own.
    pub fn put_record(&mut self, key: &[u8], value: &[u8]) {
        self.writes.put_cf(self.hot, keys::record_key(key), value);
    }

    /// Deletes such a record.
    pub fn delete_record(&mut self, key: &[u8]) {
        self.writes.delete_cf(self.hot, keys::record_key(key));
    }
}
