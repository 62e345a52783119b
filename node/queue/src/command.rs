//! Every replicated command, and the replies. A batch of commands is one Raft entry ([`crate::entry`]).

mod encoding;

use crate::class::ClassKey;
use crate::error::Refusal;
use crate::job::Report;
use crate::task::RetryPolicy;
use bytes::Bytes;
use moso_proto::{Code, JobState};
use serde::{Deserialize, Serialize};

pub use crate::entry::{EntryBuilder, read_entry};
pub use encoding::{encode_submit, is_submission, set_content};

/// One job of a submission.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubmitJob {
    /// Opaque.
    pub body: Bytes,
    /// Instead of the task's.
    pub priority: Option<i32>,
    /// Instead of the task's.
    pub class: Option<Box<ClassKey>>,
    /// Positions it waits for.
    pub depends_on: Vec<u32>,
}

/// A submission: one task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Submit {
    /// Picked by the client; starts with its Unix time in ms (6 bytes, big endian).
    pub submission: [u8; 16],
    /// Fingerprint of the content, to tell a repeat from a mistake.
    pub content: u64,
    /// Who, for the status log.
    pub name: Box<str>,
    /// Class of the jobs.
    pub class: ClassKey,
    /// Priority of the jobs.
    pub priority: i32,
    /// Repeats.
    pub retry: RetryPolicy,
    /// Unix ms; 0: at once.
    pub not_before_ms: u64,
    /// Unix ms; 0: never.
    pub expires_at_ms: u64,
    /// Jobs that wait for a failed one run anyway.
    pub run_dependents: bool,
    /// More failed jobs close the rest; 0: no bound.
    pub max_failed: u32,
    /// How workers read bodies.
    pub body_type: Box<str>,
    /// Body of an array's jobs.
    pub body: Bytes,
    /// Jobs of an array; 0: `jobs` are written out.
    pub array: u32,
    /// Jobs written out.
    pub jobs: Vec<SubmitJob>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Success.
    Finished = 1,
    /// Failure; repeated while attempts remain.
    Failed = 2,
    /// Given back unrun; not charged.
    Released = 3,
    /// Stopped on the node's word.
    Cancelled = 4,
    /// Failure that is final at once.
    FailedForGood = 5,
}

/// A worker's result.
#[derive(Clone, Debug, PartialEq)]
pub struct JobResult {
    /// Job.
    pub seq: u64,
    /// Must be the current attempt.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// What the worker tells; `None`: nothing worth storing.
    pub report: Option<Box<Report>>,
}

/// What an operator or the system does to jobs.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// End them, with PanDA's kill code; 0 stands for 9.
    Kill(u8),
    /// Keep them from being leased.
    Hold(Box<str>),
    /// Undo a hold; also ends a wait for back-off or a start time.
    Release,
    /// Grant so many attempts more; jobs that wait for a back-off go on at once.
    Retry(u32),
    /// Change the priority.
    Priority(i32),
}

/// What an action is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One job.
    Job(u64),
    /// All jobs of an array that are not yet made; the number is the task's.
    Rest(u64),
}

/// A replicated command.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Makes a task.
    Submit(Box<Submit>),
    /// Gives jobs, chosen by the leader, to a session.
    Lease {
        /// Session.
        session: u64,
        /// Name of the worker, for people.
        worker: Box<str>,
        /// Lease time.
        ttl_ms: u32,
        /// Number of the session's request, counted round: a later heartbeat may settle it.
        request: u32,
        /// Jobs; array jobs are made now.
        jobs: Vec<u64>,
    },
    /// Ends attempts.
    Results {
        /// Session that reports.
        session: u64,
        /// One per job.
        results: Vec<JobResult>,
    },
    /// Takes leases back that never reached their worker: it has settled the requests they answered, and does not hold
    /// them.
    Unheld {
        /// Session that does not hold them.
        session: u64,
        /// Job and the attempt that is meant.
        jobs: Vec<(u64, u32)>,
    },
    /// Takes leases back whose worker is silent.
    Expire {
        /// Job and the attempt that is meant.
        jobs: Vec<(u64, u32)>,
    },
    /// Records that workers prepare or run jobs.
    Phase {
        /// Job, attempt, 1 starting or 2 running.
        jobs: Vec<(u64, u32, u8)>,
    },
    /// Jobs whose time has come: start times, back-offs, expiries.
    Wake {
        /// Jobs; array tasks by their own number.
        jobs: Vec<u64>,
    },
    /// Jobs that were in a state for too long.
    TimeOut {
        /// Job, the state and the change time that are meant.
        jobs: Vec<(u64, JobState, u64)>,
        /// Fail the attempt instead of closing the job.
        fail: bool,
        /// PanDA's kill or dispatcher code.
        code: u8,
    },
    /// An operator's action.
    Act {
        /// What.
        action: Action,
        /// On what.
        targets: Vec<Target>,
        /// Who.
        actor: Box<str>,
    },
    /// Forgets submissions picked before this time.
    Prune {
        /// Unix ms.
        below_ms: u64,
    },
}

/// What became of one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResultStatus {
    /// Recorded; or a late report of an attempt that was already counted as lost, which adds nothing.
    Accepted,
    /// Nothing changed.
    Refused(Code),
}

/// Why an action changed nothing on some jobs.
pub type ActRefusals = Vec<(ActRefusal, u64, u64)>;

/// Reasons of [`ActRefusals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum ActRefusal {
    /// No such live job.
    Ended = 1,
    /// It is leased.
    Leased = 2,
    /// It is not held and waits for nothing that a release ends.
    NotHeld = 3,
    /// It has that priority, hold or kill already.
    Same = 4,
}

/// Answer to a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// To a submission.
    Submitted {
        /// Task.
        task: u64,
        /// Number of jobs; the first is `task + 1`.
        jobs: u32,
        /// It was known.
        repeated: bool,
    },
    /// To a lease: jobs and attempts. Jobs that were no longer ready are left out.
    Leased(Vec<(u64, u32)>),
    /// To results, same positions.
    Results(Vec<ResultStatus>),
    /// To an action.
    Acted {
        /// Jobs changed.
        changed: u64,
        /// The others: reason, how many, one of them.
        refused: ActRefusals,
    },
    /// To the leader's own commands.
    Done,
    /// Nothing changed.
    Refused(Refusal),
}
