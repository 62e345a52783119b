//! The status log and the archive: read by key and day, dropped by day.

use super::{ARCH, HIST, StateStore};
use crate::error::{Error, Result};
use crate::store::keys::{self, EndedKind};
use crate::store::rocks::{rows, write_error};
use bytes::Bytes;
use rocksdb::{ReadOptions, WriteBatch};
use std::ops::RangeInclusive;

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

impl StateStore {
    /// Rows of the status log of a job or task within `days`, oldest first; at most `rows_max` and
    /// [`crate::limits::ROWS_READ_MAX`].
    ///
    /// # Errors
    /// `Damaged`, `Read`.
    pub fn history(&self, seq: u64, days: RangeInclusive<u16>, rows_max: usize) -> Result<Vec<HistoryRow>> {
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
                let (index, n) = row.ok_or_else(|| Error::damaged(self.shard, "status row", seq, "wrong key"))?;
                found.push(HistoryRow { day, index, n, bytes: Bytes::copy_from_slice(value) });
                iter.next();
            }
            iter.status().map_err(|error| self.read_error("status row", seq, error))?;
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

    fn ended(&self, kind: EndedKind, seq: u64, days: RangeInclusive<u16>) -> Result<Option<(u16, Bytes)>> {
        for day in self.stored_days(ARCH, days)?.rev() {
            let key = keys::ended_key(day, kind, seq);
            if let Some(bytes) = self.get(ARCH, key, "archived record", seq, &ReadOptions::default())? {
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
    pub fn scan_ended_jobs(&self, after: Option<(u16, u64)>, limit: usize) -> Result<Vec<EndedJob>> {
        let mut iter = self.iter(ARCH, &[], &[u8::MAX; keys::ENDED_KEY_BYTES + 1], ReadOptions::default());
        match after {
            Some((day, seq)) => iter.seek(keys::ended_key(day, EndedKind::Job, seq.saturating_add(1))),
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
                    found.push(EndedJob { day, seq, bytes: Bytes::copy_from_slice(value) });
                    iter.next();
                }
                // A day's tasks come after its jobs.
                (u16::MAX, EndedKind::Task, _) => break,
                (day, EndedKind::Task, _) => iter.seek(keys::ended_key(day + 1, EndedKind::Job, 0)),
            }
        }
        iter.status().map_err(|error| self.read_error("archive", 0, error))?;
        Ok(found)
    }

    /// Drops ended jobs, ended tasks and rows of the status log filed before `day`. Not replicated: each node does so by
    /// itself, and again if a crash brought some back. Nothing is written where nothing is to be dropped: a deletion makes
    /// its table reach back to the first key, and be merged with all that lies between.
    ///
    /// # Errors
    /// `NoSpace`: to be tried again; `Fatal`.
    pub fn drop_ended_before(&self, day: u16) -> Result<()> {
        if day <= self.known().dropped_before {
            return Ok(());
        }
        let (first, end) = ([0; 2], day.to_be_bytes());
        let mut writes = WriteBatch::default();
        for name in [HIST, ARCH] {
            if self.end_days(name)?.is_none_or(|(first, _)| first >= day) {
                continue;
            }
            let family = self.family(name);
            self.db
                .delete_file_in_range_cf(family, first, end)
                .map_err(|error| write_error(self.shard, "dropping archived days", error))?;
            writes.delete_range_cf(family, first, end);
        }
        if !writes.is_empty() {
            self.write(writes)?;
        }
        self.known().dropped_before = day;
        Ok(())
    }

    /// The part of `days` between the first and the last day that `family` holds.
    pub(super) fn stored_days(&self, family: &str, days: RangeInclusive<u16>) -> Result<RangeInclusive<u16>> {
        Ok(match self.end_days(family)? {
            Some((first, last)) => first.max(*days.start())..=last.min(*days.end()),
            None => RangeInclusive::new(1, 0),
        })
    }

    /// The first and the last day that `family` holds; `None`: it is empty.
    fn end_days(&self, family: &str) -> Result<Option<(u16, u16)>> {
        let mut iter = self.db.raw_iterator_cf(self.family(family));
        let day = |key: Option<&[u8]>| key.and_then(|key| Some(u16::from_be_bytes(*key.first_chunk()?)));
        iter.seek_to_first();
        let first = day(iter.key());
        iter.seek_to_last();
        let last = day(iter.key());
        iter.status().map_err(|error| self.read_error("archive", 0, error))?;
        Ok(first.zip(last))
    }
}
