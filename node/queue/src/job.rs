//! A live job: the small mutable record. Its body lies in the store and is not touched.

use crate::class::ClassId;
use crate::codec::{Get, Put};
use crate::error::Error;
use bytes::Bytes;
use moso_proto::JobState;
use std::fmt;

/// Why a job is in its state; also the sub-status of ended jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// Nothing special.
    #[default]
    None = 0,
    /// Waits for jobs it depends on.
    Parents = 1,
    /// Its time has not come.
    NotBefore = 2,
    /// Waits before its next attempt.
    BackOff = 3,
    /// Held by a person.
    Held = 4,
    /// A job it depends on did not finish.
    ParentFailed = 5,
    /// Its time has passed before it ran.
    Expired = 6,
    /// More jobs of the task failed than allowed.
    TooManyFailures = 7,
    /// Killed; the kill code says more.
    Killed = 8,
    /// The worker went silent.
    LostHeartbeat = 9,
    /// A time-out of the table.
    TimedOut = 10,
    /// The worker gave it back.
    Released = 11,
    /// PanDA's sub-status of kill codes 2, 4 and 51.
    ToReassign = 12,
    /// PanDA's sub-status of kill code 55.
    TaskDone = 13,
    /// The worker reported a failure.
    WorkerFailed = 14,
    /// The lease never reached its worker.
    Unheld = 15,
}

impl Reason {
    /// Text for people.
    pub fn text(self) -> &'static str {
        match self {
            Reason::None => "",
            Reason::Parents => "waits for other jobs of its task",
            Reason::NotBefore => "not before its start time",
            Reason::BackOff => "waits before its next attempt",
            Reason::Held => "held",
            Reason::ParentFailed => "a job it depends on did not finish",
            Reason::Expired => "expired before it ran",
            Reason::TooManyFailures => "too many jobs of its task failed",
            Reason::Killed => "killed",
            Reason::LostHeartbeat => "lost heartbeat",
            Reason::TimedOut => "time-out",
            Reason::Released => "given back by its worker",
            Reason::ToReassign => "toreassign",
            Reason::TaskDone => "taskdone",
            Reason::WorkerFailed => "failed at its worker",
            Reason::Unheld => "its lease never reached the worker",
        }
    }

    /// The reason with this stored number.
    pub fn from_number(number: u8) -> Option<Self> {
        use Reason::*;
        const ALL: [Reason; 16] = [
            None,
            Parents,
            NotBefore,
            BackOff,
            Held,
            ParentFailed,
            Expired,
            TooManyFailures,
            Killed,
            LostHeartbeat,
            TimedOut,
            Released,
            ToReassign,
            TaskDone,
            WorkerFailed,
            Unheld,
        ];
        ALL.get(usize::from(number)).copied()
    }
}

/// A live job. Times are Unix ms as stamped by leaders.
///
/// `beat_ms`, `phase` and `reserved` are the leader's and volatile: not stored, not part of the digest.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Sequence number; the id's low part.
    pub seq: u64,
    /// Sequence number of its task.
    pub task: u64,
    /// Holder of the lease, or of the last one.
    pub session: u64,
    /// Last change of state.
    pub changed_ms: u64,
    /// Since when it is ready, or will be.
    pub ready_ms: u64,
    /// When the last lease was given.
    pub leased_ms: u64,
    /// When the worker said that it runs.
    pub started_ms: u64,
    /// Volatile: last heartbeat on the leader's monotonic clock.
    pub beat_ms: u64,
    /// Class.
    pub class: ClassId,
    /// Higher first.
    pub priority: i32,
    /// Rises with each lease: the fence.
    pub attempt: u32,
    /// The attempt that is the last.
    pub last_attempt: u32,
    /// Jobs it still waits for.
    pub unmet: u32,
    /// A lease ends so long after its last heartbeat.
    pub ttl_ms: u32,
    /// The session's request that the last lease answered; counted round.
    pub request: u32,
    /// State.
    pub state: JobState,
    /// Why.
    pub reason: Reason,
    /// PanDA's kill code once a kill is under way; 0: none.
    pub kill: u8,
    /// Volatile: phase the worker reported (0 sent, 1 starting, 2 running), not yet in the log.
    pub phase: u8,
    /// Volatile: a lease of it, or the expiry of its lease, is proposed.
    pub reserved: bool,
}

const FORMAT: u8 = 2;

impl Job {
    /// The stored record; `worker` is the name of the lease's holder.
    pub fn encode(&self, worker: &str, out: &mut Vec<u8>) {
        out.put_u8(FORMAT);
        out.put_u8(self.state as u8);
        out.put_u8(self.reason as u8);
        out.put_u8(self.kill);
        for number in [self.class.0, self.attempt, self.last_attempt, self.unmet, self.ttl_ms, self.request] {
            out.put_u32(number);
        }
        out.put_i32(self.priority);
        for number in [self.task, self.session, self.changed_ms, self.ready_ms, self.leased_ms, self.started_ms] {
            out.put_u64(number);
        }
        out.put_str(worker);
    }

    /// Reads a record; the name of the worker beside it.
    pub fn decode(seq: u64, bytes: Bytes) -> Result<(Job, Box<str>), Error> {
        let mut get = Get::new(bytes, "job record");
        let format = get.u8()?;
        if format != FORMAT {
            return Err(Error::NewerFormat { what: "job record", found: format, known: FORMAT });
        }
        let state = JobState::from_number(get.u8()?).ok_or_else(|| get.damaged())?;
        let reason = Reason::from_number(get.u8()?).ok_or_else(|| get.damaged())?;
        let kill = get.u8()?;
        let (class, attempt, last_attempt, unmet, ttl_ms, request) =
            (ClassId(get.u32()?), get.u32()?, get.u32()?, get.u32()?, get.u32()?, get.u32()?);
        let priority = get.i32()?;
        let (task, session, changed_ms, ready_ms, leased_ms, started_ms) =
            (get.u64()?, get.u64()?, get.u64()?, get.u64()?, get.u64()?, get.u64()?);
        let worker = get.str()?;
        get.end()?;
        let job = Job {
            seq,
            task,
            session,
            changed_ms,
            ready_ms,
            leased_ms,
            started_ms,
            beat_ms: 0,
            class,
            priority,
            attempt,
            last_attempt,
            unmet,
            ttl_ms,
            request,
            state,
            reason,
            kill,
            phase: 0,
            reserved: false,
        };
        Ok((job, worker))
    }
}

// A million live jobs are held on every replica: growth must be a decision.
const _: () = assert!(size_of::<Job>() <= 104);

/// What an ended job leaves behind: the archive's record.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedJob {
    /// The job as it ended.
    pub job: Job,
    /// Its class, written out.
    pub key: ClassKeyRef,
    /// Submission time.
    pub created_ms: u64,
    /// End time.
    pub ended_ms: u64,
    /// Worker of the last attempt.
    pub worker: Box<str>,
    /// What the worker reported.
    pub report: Report,
}

/// The class written out, shared with the live table.
pub type ClassKeyRef = std::sync::Arc<crate::class::ClassKey>;

/// A worker's report of an attempt's end.
#[derive(Clone, Default, PartialEq)]
pub struct Report {
    /// Exit code of the payload.
    pub exit_code: i32,
    /// PanDA's pairs: source, code, text.
    pub errors: Vec<(Box<str>, i32, Box<str>)>,
    /// Last bytes of its output.
    pub output: Bytes,
    /// CPU time.
    pub cpu_ms: u64,
    /// Peak memory.
    pub memory_peak_kib: u64,
    /// Start by the worker's clock; 0: not told.
    pub started_ms: u64,
    /// All else that it tells, as a JSON object (a pilot's metadata, output files, measures); empty: nothing.
    pub details: Bytes,
}

/// In the count of errors: details follow the output. Without it a report is as it was before there were any.
const DETAILS: u8 = 0x80;
const _: () = assert!(crate::limits::ERRORS_MAX < DETAILS as usize);

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { exit_code, errors, output, cpu_ms, memory_peak_kib, started_ms, details } = self;
        let mut out = f.debug_struct("Report");
        out.field("exit_code", exit_code).field("errors", errors).field("output", output).field("cpu_ms", cpu_ms);
        out.field("memory_peak_kib", memory_peak_kib).field("started_ms", started_ms);
        if !details.is_empty() {
            out.field("details", details);
        }
        out.finish()
    }
}

impl Report {
    /// Appends the report.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_i32(self.exit_code);
        out.put_u64(self.cpu_ms);
        out.put_u64(self.memory_peak_kib);
        out.put_u64(self.started_ms);
        let errors = self.errors.len().min(usize::from(DETAILS - 1));
        out.put_u8(errors as u8 | if self.details.is_empty() { 0 } else { DETAILS });
        for (source, code, text) in self.errors.iter().take(errors) {
            out.put_str(source);
            out.put_i32(*code);
            out.put_str(text);
        }
        out.put_bytes(&self.output);
        if !self.details.is_empty() {
            out.put_bytes(&self.details);
        }
    }

    /// Reads a report.
    pub fn decode(get: &mut Get) -> Result<Self, Error> {
        let (exit_code, cpu_ms, memory_peak_kib, started_ms) = (get.i32()?, get.u64()?, get.u64()?, get.u64()?);
        let head = get.u8()?;
        let errors = (0..head & !DETAILS).map(|_| Ok((get.str()?, get.i32()?, get.str()?)));
        let errors = errors.collect::<Result<_, Error>>()?;
        let output = get.bytes()?;
        let details = if head & DETAILS != 0 { get.bytes()? } else { Bytes::new() };
        if head & DETAILS != 0 && details.is_empty() {
            return Err(get.damaged());
        }
        Ok(Report { exit_code, cpu_ms, memory_peak_kib, started_ms, errors, output, details })
    }
}

impl EndedJob {
    /// The stored record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        self.job.encode(&self.worker, out);
        let mut tail = Vec::with_capacity(128);
        self.key.encode(&mut tail);
        tail.put_u64(self.created_ms);
        tail.put_u64(self.ended_ms);
        self.report.encode(&mut tail);
        // The job's part ends with a text; its length is written so that both parts read alone.
        let head = (out.len() - start) as u32;
        out.extend_from_slice(&tail);
        out.put_u32(head);
    }

    /// Reads a record.
    pub fn decode(seq: u64, bytes: Bytes) -> Result<Self, Error> {
        let damaged = Error::Damaged { what: "ended job", at: 0 };
        let split = bytes.len().checked_sub(4).ok_or(damaged.clone())?;
        let head = u32::from_le_bytes(bytes[split..].try_into().expect("four bytes")) as usize;
        if head > split {
            return Err(damaged);
        }
        let (job, worker) = Job::decode(seq, bytes.slice(..head))?;
        let mut get = Get::new(bytes.slice(head..split), "ended job");
        let key = crate::class::ClassKey::decode(&mut get)?.into();
        let (created_ms, ended_ms) = (get.u64()?, get.u64()?);
        let report = Report::decode(&mut get)?;
        get.end()?;
        Ok(EndedJob { job, key, created_ms, ended_ms, worker, report })
    }
}
