//! Encoding of commands: kind u8, then the fields.
//!
//! Reading checks form alone. Limits are kept by those who propose: a committed command that some replica refused to
//! read would stop them all.

use super::{Action, Command, JobResult, Outcome, Submit, SubmitJob, Target};
use crate::class::ClassKey;
use crate::codec::{Get, Put};
use crate::error::Error;
use crate::job::Report;
use crate::task::RetryPolicy;
use bytes::Bytes;
use moso_proto::JobState;

const SUBMIT: u8 = 1;
const LEASE: u8 = 2;
const RESULTS: u8 = 3;
const EXPIRE: u8 = 4;
const PHASE: u8 = 5;
const WAKE: u8 = 6;
const TIME_OUT: u8 = 7;
const ACT: u8 = 8;
const PRUNE: u8 = 9;
const UNHELD: u8 = 10;

impl Command {
    /// Appends the command.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Command::Submit(submit) => {
                out.put_u8(SUBMIT);
                submit.encode(out);
            }
            Command::Lease { session, worker, ttl_ms, request, jobs } => {
                out.put_u8(LEASE);
                out.put_u64(*session);
                out.put_u32(*ttl_ms);
                out.put_u32(*request);
                out.put_str(worker);
                put_numbers(out, jobs);
            }
            Command::Results { session, results } => {
                out.put_u8(RESULTS);
                out.put_u64(*session);
                put_list(out, results, put_result);
            }
            Command::Expire { jobs } => {
                out.put_u8(EXPIRE);
                put_leases(out, jobs);
            }
            Command::Unheld { session, jobs } => {
                out.put_u8(UNHELD);
                out.put_u64(*session);
                put_leases(out, jobs);
            }
            Command::Phase { jobs } => {
                out.put_u8(PHASE);
                put_list(out, jobs, |out, &(seq, attempt, phase)| {
                    out.put_u64(seq);
                    out.put_u32(attempt);
                    out.put_u8(phase);
                });
            }
            Command::Wake { jobs } => {
                out.put_u8(WAKE);
                put_numbers(out, jobs);
            }
            Command::TimeOut { jobs, fail, code } => {
                out.put_u8(TIME_OUT);
                out.put_u8(u8::from(*fail));
                out.put_u8(*code);
                put_list(out, jobs, |out, &(seq, state, changed)| {
                    out.put_u64(seq);
                    out.put_u8(state as u8);
                    out.put_u64(changed);
                });
            }
            Command::Act { action, targets, actor } => {
                out.put_u8(ACT);
                action.encode(out);
                put_list(out, targets, put_target);
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
                let (session, ttl_ms, request, worker) = (get.u64()?, get.u32()?, get.u32()?, get.str()?);
                Command::Lease { session, worker, ttl_ms, request, jobs: get_numbers(&mut get)? }
            }
            RESULTS => {
                let session = get.u64()?;
                Command::Results { session, results: get_list(&mut get, 13, get_result)? }
            }
            EXPIRE => Command::Expire { jobs: get_leases(&mut get)? },
            UNHELD => Command::Unheld { session: get.u64()?, jobs: get_leases(&mut get)? },
            PHASE => Command::Phase { jobs: get_list(&mut get, 13, |get| Ok((get.u64()?, get.u32()?, get.u8()?)))? },
            WAKE => Command::Wake { jobs: get_numbers(&mut get)? },
            TIME_OUT => {
                let (fail, code) = (get.bool()?, get.u8()?);
                let jobs = get_list(&mut get, 17, |get| {
                    let (seq, state) = (get.u64()?, JobState::from_number(get.u8()?));
                    Ok((seq, state.ok_or_else(|| get.damaged())?, get.u64()?))
                })?;
                Command::TimeOut { jobs, fail, code }
            }
            ACT => {
                let action = Action::decode(&mut get)?;
                let targets = get_list(&mut get, 9, get_target)?;
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

/// Whether an encoded command is a submission.
pub fn is_submission(encoded: &[u8]) -> bool {
    encoded.first() == Some(&SUBMIT)
}

/// Appends an encoded submission.
pub fn encode_submit(submit: &Submit, out: &mut Vec<u8>) {
    out.put_u8(SUBMIT);
    submit.encode(out);
}

/// Writes the fingerprint into an encoded submission: it stands after the kind and the id.
pub fn set_content(encoded: &mut [u8], content: u64) {
    encoded[17..25].copy_from_slice(&content.to_le_bytes());
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
                put_list(out, &job.depends_on, |out, &parent| out.put_u32(parent));
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
            let depends_on = if flags & 4 != 0 { get_list(get, 4, Get::u32)? } else { Vec::new() };
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

fn put_list<T>(out: &mut Vec<u8>, items: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    out.put_u32(items.len() as u32);
    items.iter().for_each(|item| put(out, item));
}

/// Reads a list whose items take at least `item_bytes` each.
fn get_list<T>(get: &mut Get, item_bytes: usize, item: impl Fn(&mut Get) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    let count = get.count(item_bytes)?;
    (0..count).map(|_| item(get)).collect()
}

fn put_target(out: &mut Vec<u8>, target: &Target) {
    let (kind, seq) = match *target {
        Target::Job(seq) => (0, seq),
        Target::Rest(seq) => (1, seq),
    };
    out.put_u8(kind);
    out.put_u64(seq);
}

fn get_target(get: &mut Get) -> Result<Target, Error> {
    match (get.u8()?, get.u64()?) {
        (0, seq) => Ok(Target::Job(seq)),
        (1, seq) => Ok(Target::Rest(seq)),
        _ => Err(get.damaged()),
    }
}

fn put_result(out: &mut Vec<u8>, result: &JobResult) {
    out.put_u64(result.seq);
    out.put_u32(result.attempt);
    out.put_u8(result.outcome as u8 | if result.report.is_some() { 0x80 } else { 0 });
    if let Some(report) = &result.report {
        report.encode(out);
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
    put_list(out, numbers, |out, &number| out.put_u64(number));
}

fn put_leases(out: &mut Vec<u8>, leases: &[(u64, u32)]) {
    put_list(out, leases, |out, &(seq, attempt)| {
        out.put_u64(seq);
        out.put_u32(attempt);
    });
}

fn get_leases(get: &mut Get) -> Result<Vec<(u64, u32)>, Error> {
    get_list(get, 12, |get| Ok((get.u64()?, get.u32()?)))
}

fn get_numbers(get: &mut Get) -> Result<Vec<u64>, Error> {
    get_list(get, 8, Get::u64)
}
