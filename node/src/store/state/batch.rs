//! What one commit writes.

use crate::store::keys::{self, EndedKind};
use rocksdb::{AsColumnFamilyRef, ColumnFamily, WriteBatch};

/// Writes that become visible and, later, durable together.
pub struct StateBatch<'a> {
    pub(super) writes: WriteBatch,
    pub(super) dedup_below: Option<[u8; 16]>,
    pub(super) hot: &'a ColumnFamily,
    pub(super) body: &'a ColumnFamily,
    pub(super) hist: &'a ColumnFamily,
    pub(super) arch: &'a ColumnFamily,
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
        self.writes.delete_cf(self.hot, keys::seq_key(keys::PREFIX_JOB, seq));
    }

    /// Stores a live task.
    pub fn put_task(&mut self, seq: u64, bytes: &[u8]) {
        self.put(self.hot, &keys::seq_key(keys::PREFIX_TASK, seq), bytes);
    }

    /// Deletes a live task.
    pub fn delete_task(&mut self, seq: u64) {
        self.writes.delete_cf(self.hot, keys::seq_key(keys::PREFIX_TASK, seq));
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
        self.put(self.arch, &keys::ended_key(day, EndedKind::Task, seq), bytes);
    }

    /// Stores a small record of the machine.
    pub fn put_meta(&mut self, kind: u8, bytes: &[u8]) {
        self.put(self.hot, &keys::meta_key(kind), bytes);
    }

    fn put(&mut self, family: &impl AsColumnFamilyRef, key: &[u8], bytes: &[u8]) {
        self.writes.put_cf(family, key, bytes);
    }
}
