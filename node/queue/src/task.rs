//! A task: what its jobs have in common, its array's jobs that are not yet made, and the count of its jobs by state.

use crate::class::ClassId;
use crate::codec::{Get, Put};
use crate::dependencies::{Dependencies, get_pairs, put_pairs};
use crate::error::Error;
use bytes::Bytes;
use moso_proto::state::STATES;
use moso_proto::{JobState, TaskState};

/// How often and when a failed or lost attempt is repeated. Times in ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// First attempt included.
    pub max_attempts: u32,
    /// Wait before the second attempt.
    pub backoff_initial_ms: u32,
    /// Each further wait is so many times longer, in thousandths (2,000: twice), so that replicas agree.
    pub backoff_factor_milli: u32,
    /// Longest wait.
    pub backoff_ceiling_ms: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            max_attempts: 3,
            backoff_initial_ms: 0,
            backoff_factor_milli: 2_000,
            backoff_ceiling_ms: 3_600_000,
        }
    }
}

impl RetryPolicy {
    /// Wait after attempt `attempt` has failed, ms, with up to 10 % taken off by a hash of the job and attempt, so that
    /// jobs that failed together do not come back together.
    pub fn wait_ms(&self, job: u64, attempt: u32) -> u64 {
        if self.backoff_initial_ms == 0 {
            return 0;
        }
        let ceiling = u64::from(self.backoff_ceiling_ms.max(1));
        let mut wait = u64::from(self.backoff_initial_ms).min(ceiling);
        for _ in 1..attempt {
            wait = wait.saturating_mul(u64::from(self.backoff_factor_milli.max(1_000))) / 1_000;
            if wait >= ceiling {
                wait = ceiling;
                break;
            }
        }
        let noise = mix(job ^ (u64::from(attempt) << 40)) % 1_000;
        wait - wait * noise / 10_000
    }
}

/// The finaliser of SplitMix64: spreads the bits of a number.
pub fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The end of an array's jobs that were never made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RestEnd {
    /// Cancelled or closed.
    pub state: JobState,
    /// PanDA's kill code.
    pub code: u8,
    /// When.
    pub time_ms: u64,
}

/// A live task, or an ended one read from the archive.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Sequence number; the id's low part. Its jobs have the `jobs` numbers after it.
    pub seq: u64,
    /// Number of jobs.
    pub jobs: u32,
    /// Name for people.
    pub name: Box<str>,
    /// Class of jobs that do not say otherwise.
    pub class: ClassId,
    /// Priority of jobs that do not say otherwise.
    pub priority: i32,
    /// Submission.
    pub created_ms: u64,
    /// End of the last job; 0: lives.
    pub ended_ms: u64,
    /// No job starts before; 0: at once.
    pub not_before_ms: u64,
    /// Jobs not leased by then are closed; 0: never.
    pub expires_at_ms: u64,
    /// Repeats.
    pub retry: RetryPolicy,
    /// Jobs that wait for a failed one run anyway.
    pub run_dependents: bool,
    /// More failed jobs close the rest; 0: no bound.
    pub max_failed: u32,
    /// How workers read the bodies.
    pub body_type: Box<str>,
    /// The client's submission id.
    pub submission: [u8; 16],
    /// An array: its jobs share a body and are made when leased or asked for.
    pub array: bool,
    /// Positions of array jobs not yet made, as half-open ranges, ascending.
    pub rest: Vec<(u32, u32)>,
    /// State of the jobs not yet made: activated, defined or throttled.
    pub rest_state: JobState,
    /// How the jobs never made have ended.
    pub rest_end: Option<RestEnd>,
    /// Jobs by state; those not yet made count as activated, defined or throttled.
    pub counts: [u32; STATES],
    /// Dependencies between its jobs; stored apart from the record.
    pub deps: Option<Box<Dependencies>>,
}

const FORMAT: u8 = 1;

// Most tasks have one job, so a task costs about as much as two jobs: growth must be a decision.
const _: () = assert!(size_of::<Task>() <= 240);

impl Task {
    /// Number of its first job.
    pub fn first(&self) -> u64 {
        self.seq + 1
    }

    /// Position of a job of this task.
    pub fn position(&self, job: u64) -> Option<u32> {
        let at = job.checked_sub(self.first())?;
        (at < u64::from(self.jobs)).then_some(at as u32)
    }

    /// Array jobs not yet made.
    pub fn rest_len(&self) -> u32 {
        self.rest.iter().map(|(a, b)| b - a).sum()
    }

    /// The array job at this position is not yet made.
    pub fn is_unmade(&self, position: u32) -> bool {
        let at = self.rest.partition_point(|&(_, end)| end <= position);
        self.rest.get(at).is_some_and(|&(start, _)| start <= position)
    }

    /// Takes a position out of the jobs not yet made; `false`: it was made before.
    pub fn take_unmade(&mut self, position: u32) -> bool {
        let at = self.rest.partition_point(|&(_, end)| end <= position);
        let Some(&(start, end)) = self.rest.get(at).filter(|&&(start, _)| start <= position) else {
            return false;
        };
        match (start == position, end == position + 1) {
            (true, true) => {
                self.rest.remove(at);
            }
            (true, false) => self.rest[at].0 = position + 1,
            (false, true) => self.rest[at].1 = position,
            (false, false) => {
                self.rest[at].1 = position;
                self.rest.insert(at + 1, (position + 1, end));
            }
        }
        true
    }

    /// Jobs that have ended.
    pub fn ended(&self) -> u32 {
        self.counts[JobState::Finished as usize..].iter().sum()
    }

    /// The task's state, derived from its jobs.
    pub fn state(&self) -> TaskState {
        let count = |state: JobState| self.counts[state as usize];
        if self.ended() < self.jobs {
            let begun = self.ended() > 0
                || [
                    JobState::Sent,
                    JobState::Starting,
                    JobState::Running,
                    JobState::Holding,
                    JobState::Transferring,
                    JobState::Merging,
                ]
                .iter()
                .any(|&s| count(s) > 0);
            return if begun { TaskState::Running } else { TaskState::Ready };
        }
        match (count(JobState::Finished), count(JobState::Failed)) {
            (finished, _) if finished == self.jobs => TaskState::Done,
            (0, 0) => TaskState::Aborted,
            (0, _) => TaskState::Failed,
            _ => TaskState::Finished,
        }
    }

    /// More jobs have failed than allowed: the others are not tried again.
    pub fn too_many_failed(&self) -> bool {
        self.max_failed > 0 && self.counts[JobState::Failed as usize] > self.max_failed
    }

    /// Its jobs may not be leased any more at this time.
    pub fn expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms > 0 && self.expires_at_ms <= now_ms
    }

    /// The stored record. Only the counts of final states are kept: the others are recounted from the jobs. The
    /// dependencies are not in it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(FORMAT);
        out.put_u32(self.jobs);
        out.put_u32(self.class.0);
        out.put_i32(self.priority);
        for number in [self.created_ms, self.ended_ms, self.not_before_ms, self.expires_at_ms] {
            out.put_u64(number);
        }
        let retry = &self.retry;
        for number in [
            retry.max_attempts,
            retry.backoff_initial_ms,
            retry.backoff_factor_milli,
            retry.backoff_ceiling_ms,
            self.max_failed,
        ] {
            out.put_u32(number);
        }
        out.put_u8(u8::from(self.run_dependents));
        out.put_u8(u8::from(self.array));
        out.put_u8(self.rest_state as u8);
        out.extend_from_slice(&self.submission);
        out.put_str(&self.name);
        out.put_str(&self.body_type);
        for &count in &self.counts[JobState::Finished as usize..] {
            out.put_u32(count);
        }
        match self.rest_end {
            None => out.put_u8(0),
            Some(end) => {
                out.put_u8(end.state as u8);
                out.put_u8(end.code);
                out.put_u64(end.time_ms);
            }
        }
        put_pairs(out, &self.rest);
        out.put_u8(u8::from(self.deps.is_some()));
    }

    /// Reads a record. Where it says that there are dependencies, they are empty and to be filled in.
    pub fn decode(seq: u64, bytes: Bytes) -> Result<Self, Error> {
        let mut get = Get::new(bytes, "task record");
        let format = get.u8()?;
        if format != FORMAT {
            return Err(Error::NewerFormat { what: "task record", found: format, known: FORMAT });
        }
        let (jobs, class, priority) = (get.u32()?, ClassId(get.u32()?), get.i32()?);
        let (created_ms, ended_ms, not_before_ms, expires_at_ms) = (get.u64()?, get.u64()?, get.u64()?, get.u64()?);
        let retry = RetryPolicy {
            max_attempts: get.u32()?,
            backoff_initial_ms: get.u32()?,
            backoff_factor_milli: get.u32()?,
            backoff_ceiling_ms: get.u32()?,
        };
        let max_failed = get.u32()?;
        let (run_dependents, array) = (get.bool()?, get.bool()?);
        let rest_state = JobState::from_number(get.u8()?).ok_or_else(|| get.damaged())?;
        let submission = get.id128()?;
        let (name, body_type) = (get.str()?, get.str()?);
        let mut counts = [0; STATES];
        for count in &mut counts[JobState::Finished as usize..] {
            *count = get.u32()?;
        }
        let rest_end = match get.u8()? {
            0 => None,
            number => Some(RestEnd {
                state: JobState::from_number(number).filter(|s| s.is_final()).ok_or_else(|| get.damaged())?,
                code: get.u8()?,
                time_ms: get.u64()?,
            }),
        };
        let rest = get_pairs(&mut get)?;
        let deps = get.bool()?.then(Box::<Dependencies>::default);
        get.end()?;
        let waits = matches!(rest_state, JobState::Activated | JobState::Defined | JobState::Throttled);
        if !waits || !ranges_fit(&rest, jobs) || counts.iter().map(|&n| u64::from(n)).sum::<u64>() > u64::from(jobs) {
            return Err(get.damaged());
        }
        Ok(Task {
            seq,
            jobs,
            name,
            class,
            priority,
            created_ms,
            ended_ms,
            not_before_ms,
            expires_at_ms,
            retry,
            run_dependents,
            max_failed,
            body_type,
            submission,
            array,
            rest,
            rest_state,
            rest_end,
            counts,
            deps,
        })
    }

    /// Estimated bytes held; does not change while the task lives.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Task>() + self.name.len() + self.body_type.len() + self.deps.as_ref().map_or(0, |d| d.memory_bytes())
    }
}

/// The ranges are ascending, not empty, do not touch, and lie below `jobs`.
fn ranges_fit(ranges: &[(u32, u32)], jobs: u32) -> bool {
    ranges.iter().all(|&(a, b)| a < b && b <= jobs) && ranges.windows(2).all(|w| w[0].1 < w[1].0)
}

/// An ended task: the archive's record is the task's, its class written out, and its dependencies.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedTask {
    /// The task as it ended.
    pub task: Task,
    /// Its class.
    pub key: crate::job::ClassKeyRef,
}

impl EndedTask {
    /// The stored record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(256);
        self.task.encode(&mut body);
        out.put_bytes(&body);
        self.key.encode(out);
        if let Some(deps) = &self.task.deps {
            deps.encode(out);
        }
    }

    /// Reads a record.
    pub fn decode(seq: u64, bytes: Bytes) -> Result<Self, Error> {
        let mut get = Get::new(bytes, "ended task");
        let mut task = Task::decode(seq, get.bytes()?)?;
        let key = crate::class::ClassKey::decode(&mut get)?.into();
        if let Some(deps) = &mut task.deps {
            **deps = Dependencies::decode(&mut get, task.jobs)?;
        }
        get.end()?;
        Ok(EndedTask { task, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_records_are_small() {
        let (job, task) = (size_of::<crate::Job>(), size_of::<Task>());
        println!("a job takes {job} bytes, a task {task}");
        assert!(job <= 104 && task <= 240);
    }

    #[test]
    fn waits_grow_to_the_ceiling_and_differ_between_jobs() {
        let policy = RetryPolicy {
            max_attempts: 9,
            backoff_initial_ms: 1_000,
            backoff_factor_milli: 2_000,
            backoff_ceiling_ms: 10_000,
        };
        for (attempt, top) in [(1, 1_000), (2, 2_000), (3, 4_000), (4, 8_000), (5, 10_000), (900, 10_000)] {
            let wait = policy.wait_ms(7, attempt);
            assert!(wait <= top && wait >= top - top / 10, "attempt {attempt}: {wait}");
        }
        assert_ne!(policy.wait_ms(7, 3), policy.wait_ms(8, 3));
        assert_eq!(RetryPolicy::default().wait_ms(7, 3), 0);
    }
}
