//! The time-out table, compiled for looking jobs up: state x label x queue, first match holds, once for times counted
//! from a change of state and once for those counted from the submission.

use moso_proto::JobState;
use moso_proto::object::{Timeout, TimeoutAction, TimeoutSince, Timeouts};
use moso_proto::state::STATES;
use moso_queue::{Job, Machine};

/// One row for one state.
#[derive(Clone, Debug)]
struct Row {
    label: Box<str>,
    queue: Option<u32>,
    limit_ms: u64,
    since: TimeoutSince,
    fail: bool,
    code: u8,
}

/// Rows by state.
#[derive(Clone, Debug)]
pub struct TimeoutTable {
    rows: Vec<Vec<Row>>,
}

/// A job that was in its state for too long, and what happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut {
    /// Job.
    pub seq: u64,
    /// State that is meant.
    pub state: JobState,
    /// Change time that is meant.
    pub changed_ms: u64,
    /// Fail the attempt instead of closing the job.
    pub fail: bool,
    /// PanDA's kill or dispatcher code.
    pub code: u8,
}

impl TimeoutTable {
    /// Compiles the table. `queue` gives the number of a queue's name; rows of unknown queues match nothing.
    pub fn new(table: &Timeouts, queue: impl Fn(&str) -> Option<u32>) -> Self {
        let mut rows = vec![Vec::new(); STATES];
        for row in &table.rows {
            let Timeout { state, label, queue: name, limit_s, since, action, code } = row;
            let number = if name.is_empty() { None } else { Some(queue(name).unwrap_or(u32::MAX)) };
            rows[*state as usize].push(Row {
                label: label.as_str().into(),
                queue: number,
                limit_ms: limit_s.saturating_mul(1_000),
                since: *since,
                fail: *action == TimeoutAction::Fail,
                code: u8::try_from(*code).unwrap_or(u8::MAX),
            });
        }
        TimeoutTable { rows }
    }

    /// Whether the job was in its state for too long at `now_ms` (Unix ms).
    pub fn check(&self, machine: &Machine, job: &Job, now_ms: u64) -> Option<TimedOut> {
        let rows = &self.rows[job.state as usize];
        if rows.is_empty() {
            return None;
        }
        let class = &machine.classes().get(job.class).key;
        let matches = |row: &&Row| {
            (row.label.is_empty() || *row.label == *class.label) && row.queue.is_none_or(|q| q == class.queue)
        };
        for (since, from_ms) in
            [(TimeoutSince::Change, job.changed_ms), (TimeoutSince::Creation, machine.task(job.task)?.created_ms)]
        {
            if let Some(row) = rows.iter().filter(|r| r.since == since).find(matches)
                && row.limit_ms > 0
                && from_ms.saturating_add(row.limit_ms) <= now_ms
            {
                let (seq, state, changed_ms) = (job.seq, job.state, job.changed_ms);
                return Some(TimedOut { seq, state, changed_ms, fail: row.fail, code: row.code });
            }
        }
        None
    }
}
