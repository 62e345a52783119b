//! What applying commands asks of the shell: records to write, jobs that became ready, signals to workers. Followers
//! write; only the leader wakes and tells. Effects of several commands are gathered and written as one batch.

use crate::class::ClassId;
use crate::job::Reason;
use bytes::Bytes;
use moso_proto::JobState;

/// One row of a job's status log that its record does not hold any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Job.
    pub seq: u64,
    /// When.
    pub time_ms: u64,
    /// State entered.
    pub state: JobState,
    /// Attempt.
    pub attempt: u32,
    /// Owner, worker, operator or "moso".
    pub who: Box<str>,
    /// Why.
    pub reason: Reason,
    /// More for people.
    pub text: Box<str>,
}

/// A word to the worker that holds a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Job.
    pub seq: u64,
    /// Attempt.
    pub attempt: u32,
    /// Session that holds the lease.
    pub session: u64,
    /// The lease is already gone: stop at once. Otherwise report the end.
    pub gone: bool,
}

/// What was asked for since the last [`Effects::clear`].
#[derive(Default)]
pub struct Effects {
    /// Jobs whose record changed or went; may repeat.
    pub jobs: Vec<u64>,
    /// Tasks whose record changed or went; may repeat.
    pub tasks: Vec<u64>,
    /// Classes made or dropped; may repeat.
    pub classes: Vec<ClassId>,
    /// Bodies to store: of jobs; under a task's number the body of all jobs of an array, or the dependencies.
    pub bodies: Vec<(u64, Bytes)>,
    /// Bodies to delete.
    pub bodies_dropped: Vec<u64>,
    /// Rows for the status log.
    pub changes: Vec<Change>,
    /// Ended jobs: number, end time, record.
    pub ended_jobs: Vec<(u64, u64, Vec<u8>)>,
    /// Ended tasks: number, end time, record.
    pub ended_tasks: Vec<(u64, u64, Vec<u8>)>,
    /// Submissions to remember: id, record.
    pub submissions: Vec<([u8; 16], [u8; 16])>,
    /// Submissions below this one are forgotten.
    pub submissions_below: Option<[u8; 16]>,
    /// Jobs that became ready; with their class and priority.
    pub ready: Vec<(u64, ClassId, i32)>,
    /// Tasks with array jobs that became ready.
    pub ready_arrays: Vec<u64>,
    /// Jobs that wait for a time: (due ms, number).
    pub timers: Vec<(u64, u64)>,
    /// Jobs that were leased.
    pub leased: Vec<u64>,
    /// Jobs of the ready index that are no longer ready, though nobody took them.
    pub unready: u64,
    /// Words to workers.
    pub signals: Vec<Signal>,
}

impl Effects {
    /// Forgets all, keeps the memory.
    pub fn clear(&mut self) {
        self.jobs.clear();
        self.tasks.clear();
        self.classes.clear();
        self.bodies.clear();
        self.bodies_dropped.clear();
        self.changes.clear();
        self.ended_jobs.clear();
        self.ended_tasks.clear();
        self.submissions.clear();
        self.submissions_below = None;
        self.ready.clear();
        self.ready_arrays.clear();
        self.timers.clear();
        self.leased.clear();
        self.unready = 0;
        self.signals.clear();
    }
}
