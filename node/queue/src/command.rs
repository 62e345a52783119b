//! Every replicated command, its encoding, and the replies. A batch of commands is one Raft entry:
//!
//! ```text
//! entry    format u8 | time ms u64 | { length u32 | command }*
//! command  kind u8 | fields
//! ```

use crate::class::ClassKey;
use crate::codec::{Get, Put};
use crate::error::{Error, Refusal};
use crate::job::Report;
use crate::limits::{COMMAND_JOBS_MAX, ENTRY_COMMANDS_MAX};
use crate::task::RetryPolicy;
use bytes::Bytes;
use moso_proto::{Code, JobState};
use serde::{Deserialize, Serialize};

const FORMAT: u8 = 1;

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
    /// End them, with PanDA's kill code.
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

const SUBMIT: u8 = 1;
const LEASE: u8 = 2;
const RESULTS: u8 = 3;
const EXPIRE: u8 = 4;
const PHASE: u8 = 5;
const WAKE: u8 = 6;
const TIME_OUT: u8 = 7;
const ACT: u8 = 8;
const PRUNE: u8 = 9;

impl Command {
    /// Appends the command.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Command::Submit(submit) => {
                out.put_u8(SUBMIT);
                submit.encode(out);
            }
            Command::Lease { session, worker, ttl_ms, jobs } => {
                out.put_u8(LEASE);
                out.put_u64(*session);
                out.put_u32(*ttl_ms);
                out.put_str(worker);
                put_numbers(out, jobs);
            }
            Command::Results { session, results } => {
                out.put_u8(RESULTS);
                out.put_u64(*session);
                out.put_u32(results.len() as u32);
                for result in results {
                    out.put_u64(result.seq);
                    out.put_u32(result.attempt);
                    out.put_u8(result.outcome as u8 | if result.report.is_some() { 0x80 } else { 0 });
                    if let Some(report) = &result.report {
                        report.encode(out);
                    }
                }
            }
            Command::Expire { jobs } => {
                out.put_u8(EXPIRE);
                out.put_u32(jobs.len() as u32);
                for &(seq, attempt) in jobs {
                    out.put_u64(seq);
                    out.put_u32(attempt);
                }
            }
            Command::Phase { jobs } => {
                out.put_u8(PHASE);
                out.put_u32(jobs.len() as u32);
                for &(seq, attempt, phase) in jobs {
                    out.put_u64(seq);
                    out.put_u32(attempt);
                    out.put_u8(phase);
                }
            }
            Command::Wake { jobs } => {
                out.put_u8(WAKE);
                put_numbers(out, jobs);
            }
            Command::TimeOut { jobs, fail, code } => {
                out.put_u8(TIME_OUT);
                out.put_u8(u8::from(*fail));
                out.put_u8(*code);
                out.put_u32(jobs.len() as u32);
                for &(seq, state, changed) in jobs {
                    out.put_u64(seq);
                    out.put_u8(state as u8);
                    out.put_u64(changed);
                }
            }
            Command::Act { action, targets, actor } => {
                out.put_u8(ACT);
                action.encode(out);
                out.put_u32(targets.len() as u32);
                for target in targets {
                    let (kind, seq) = match *target {
                        Target::Job(seq) => (0, seq),
                        Target::Rest(seq) => (1, seq),
                    };
                    out.put_u8(kind);
                    out.put_u64(seq);
                }
                out.put_str(actor);
            }
            Command::Prune { below_ms } => {
                out.put_u8(PRUNE);
                out.put_u64(*below_ms);
            }
        }
    }

    /// Reads a command; bodies share the input's memory.
    pub fn decode(bytes: Bytes) -> Result<Self, Error> {
        let mut get = Get::new(bytes, "command");
        let command = match get.u8()? {
            SUBMIT => Command::Submit(Box::new(Submit::decode(&mut get)?)),
            LEASE => {
                let (session, ttl_ms, worker) = (get.u64()?, get.u32()?, get.str()?);
                Command::Lease { session, worker, ttl_ms, jobs: get_numbers(&mut get)? }
            }
            RESULTS => {
                let session = get.u64()?;
                let count = get.count(13)?;
                let results = (0..count).map(|_| get_result(&mut get)).collect::<Result<_, _>>()?;
                Command::Results { session, results }
            }
            EXPIRE => {
                let count = get.count(12)?;
                let jobs = (0..count).map(|_| Ok((get.u64()?, get.u32()?))).collect::<Result<_, Error>>()?;
                Command::Expire { jobs }
            }
            PHASE => {
                let count = get.count(13)?;
                let jobs =
                    (0..count).map(|_| Ok((get.u64()?, get.u32()?, get.u8()?))).collect::<Result<_, Error>>()?;
                Command::Phase { jobs }
            }
            WAKE => Command::Wake { jobs: get_numbers(&mut get)? },
            TIME_OUT => {
                let (fail, code) = (get.bool()?, get.u8()?);
                let count = get.count(17)?;
                let jobs = (0..count)
                    .map(|_| {
                        let (seq, state) = (get.u64()?, JobState::from_number(get.u8()?));
                        Ok((seq, state.ok_or_else(|| get.damaged())?, get.u64()?))
                    })
                    .collect::<Result<_, Error>>()?;
                Command::TimeOut { jobs, fail, code }
            }
            ACT => {
                let action = Action::decode(&mut get)?;
                let count = get.count(9)?;
                let targets = (0..count)
                    .map(|_| match (get.u8()?, get.u64()?) {
                        (0, seq) => Ok(Target::Job(seq)),
                        (1, seq) => Ok(Target::Rest(seq)),
                        _ => Err(get.damaged()),
                    })
                    .collect::<Result<_, Error>>()?;
                Command::Act { action, targets, actor: get.str()? }
            }
            PRUNE => Command::Prune { below_ms: get.u64()? },
            _ => return Err(get.damaged()),
        };
        get.end()?;
        Ok(command)
    }

    /// The encoded command.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        self.encode(&mut out);
        out
    }
}

impl Submit {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.submission);
        out.put_u64(self.content);
        out.put_str(&self.name);
        self.class.encode(out);
        out.put_i32(self.priority);
        for number in [
            self.retry.max_attempts,
            self.retry.backoff_initial_ms,
            self.retry.backoff_factor_milli,
            self.retry.backoff_ceiling_ms,
        ] {
            out.put_u32(number);
        }
        out.put_u64(self.not_before_ms);
        out.put_u64(self.expires_at_ms);
        out.put_u8(u8::from(self.run_dependents));
        out.put_u32(self.max_failed);
        out.put_str(&self.body_type);
        out.put_bytes(&self.body);
        out.put_u32(self.array);
        out.put_u32(self.jobs.len() as u32);
        for job in &self.jobs {
            let flags = u8::from(job.priority.is_some())
                | u8::from(job.class.is_some()) << 1
                | u8::from(!job.depends_on.is_empty()) << 2;
            out.put_u8(flags);
            out.put_bytes(&job.body);
            if let Some(priority) = job.priority {
                out.put_i32(priority);
            }
            if let Some(class) = &job.class {
                class.encode(out);
            }
            if !job.depends_on.is_empty() {
                out.put_u32(job.depends_on.len() as u32);
                job.depends_on.iter().for_each(|&parent| out.put_u32(parent));
            }
        }
    }

    fn decode(get: &mut Get) -> Result<Self, Error> {
        let submission = get.id128()?;
        let (content, name) = (get.u64()?, get.str()?);
        let class = ClassKey::decode(get)?;
        let priority = get.i32()?;
        let retry = RetryPolicy {
            max_attempts: get.u32()?,
            backoff_initial_ms: get.u32()?,
            backoff_factor_milli: get.u32()?,
            backoff_ceiling_ms: get.u32()?,
        };
        let (not_before_ms, expires_at_ms) = (get.u64()?, get.u64()?);
        let (run_dependents, max_failed) = (get.bool()?, get.u32()?);
        let (body_type, body, array) = (get.str()?, get.bytes()?, get.u32()?);
        let count = get.count(5)?;
        let mut jobs = Vec::with_capacity(count);
        for _ in 0..count {
            let flags = get.u8()?;
            if flags > 7 {
                return Err(get.damaged());
            }
            let body = get.bytes()?;
            let priority = if flags & 1 != 0 { Some(get.i32()?) } else { None };
            let class = if flags & 2 != 0 { Some(Box::new(ClassKey::decode(get)?)) } else { None };
            let parents = if flags & 4 != 0 { get.count(4)? } else { 0 };
            let depends_on = (0..parents).map(|_| get.u32()).collect::<Result<_, _>>()?;
            jobs.push(SubmitJob { body, priority, class, depends_on });
        }
        Ok(Submit {
            submission,
            content,
            name,
            class,
            priority,
            retry,
            not_before_ms,
            expires_at_ms,
            run_dependents,
            max_failed,
            body_type,
            body,
            array,
            jobs,
        })
    }
}

impl Action {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Action::Kill(code) => {
                out.put_u8(1);
                out.put_u8(*code);
            }
            Action::Hold(text) => {
                out.put_u8(2);
                out.put_str(text);
            }
            Action::Release => out.put_u8(3),
            Action::Retry(attempts) => {
                out.put_u8(4);
                out.put_u32(*attempts);
            }
            Action::Priority(priority) => {
                out.put_u8(5);
                out.put_i32(*priority);
            }
        }
    }

    fn decode(get: &mut Get) -> Result<Self, Error> {
        Ok(match get.u8()? {
            1 => Action::Kill(get.u8()?),
            2 => Action::Hold(get.str()?),
            3 => Action::Release,
            4 => Action::Retry(get.u32()?),
            5 => Action::Priority(get.i32()?),
            _ => return Err(get.damaged()),
        })
    }
}

fn get_result(get: &mut Get) -> Result<JobResult, Error> {
    let (seq, attempt, byte) = (get.u64()?, get.u32()?, get.u8()?);
    let outcome = match byte & 0x7f {
        1 => Outcome::Finished,
        2 => Outcome::Failed,
        3 => Outcome::Released,
        4 => Outcome::Cancelled,
        5 => Outcome::FailedForGood,
        _ => return Err(get.damaged()),
    };
    let report = if byte & 0x80 != 0 { Some(Box::new(Report::decode(get)?)) } else { None };
    Ok(JobResult { seq, attempt, outcome, report })
}

fn put_numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    out.put_u32(numbers.len() as u32);
    numbers.iter().for_each(|&number| out.put_u64(number));
}

fn get_numbers(get: &mut Get) -> Result<Vec<u64>, Error> {
    let count = get.count(8)?;
    if count > COMMAND_JOBS_MAX {
        return Err(get.damaged());
    }
    (0..count).map(|_| get.u64()).collect()
}

/// What became of one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResultStatus {
    /// Recorded, or the same was recorded before.
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

/// Builds an entry from commands.
pub struct EntryBuilder {
    bytes: Vec<u8>,
    commands: usize,
}

const ENTRY_HEAD: usize = 9;

impl Default for EntryBuilder {
    fn default() -> Self {
        EntryBuilder { bytes: vec![0; ENTRY_HEAD], commands: 0 }
    }
}

impl EntryBuilder {
    /// Appends an encoded command.
    pub fn push(&mut self, command: &[u8]) {
        debug_assert!(self.commands < ENTRY_COMMANDS_MAX);
        if self.commands == 0 {
            self.bytes.reserve(command.len() + 4);
        }
        self.bytes.put_bytes(command);
        self.commands += 1;
    }

    /// Appends a command.
    pub fn push_command(&mut self, command: &Command) {
        let at = self.bytes.len();
        self.bytes.put_u32(0);
        command.encode(&mut self.bytes);
        let len = (self.bytes.len() - at - 4) as u32;
        self.bytes[at..at + 4].copy_from_slice(&len.to_le_bytes());
        self.commands += 1;
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Commands so far.
    pub fn commands(&self) -> usize {
        self.commands
    }

    /// Nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.commands == 0
    }

    /// The entry, stamped with the leader's time; the builder is empty again.
    pub fn finish(&mut self, time_ms: u64) -> Bytes {
        self.bytes[0] = FORMAT;
        self.bytes[1..ENTRY_HEAD].copy_from_slice(&time_ms.to_le_bytes());
        let bytes = std::mem::replace(&mut self.bytes, vec![0; ENTRY_HEAD]);
        self.commands = 0;
        bytes.into()
    }
}

/// Time and encoded commands of an entry.
pub fn read_entry(entry: Bytes) -> Result<(u64, Vec<Bytes>), Error> {
    let mut get = Get::new(entry, "log entry");
    let format = get.u8()?;
    if format != FORMAT {
        return Err(Error::NewerFormat { what: "log entry", found: format, known: FORMAT });
    }
    let time_ms = get.u64()?;
    let mut commands = Vec::new();
    while get.left() > 0 {
        commands.push(get.bytes()?);
    }
    Ok((time_ms, commands))
}
