//! Submissions: recognised by their id, checked, made into a task.

use super::{Known, Machine};
use crate::class::{ClassId, ClassKey};
use crate::command::{Reply, Submit};
use crate::dependencies::Dependencies;
use crate::effect::Effects;
use crate::error::Refusal;
use crate::job::{Job, Reason};
use crate::limits::{
    ARRAY_JOBS_MAX, ATTEMPTS_MAX, CLOCK_AHEAD_MAX_MS, DEDUP_MAX, DEDUP_WINDOW_MS, LIVE_JOBS_MAX, SEQ_MAX,
    SUBMISSION_EDGES_MAX, SUBMISSION_JOBS_MAX,
};
use crate::task::{RetryPolicy, Task};
use moso_proto::state::STATES;
use moso_proto::{Code, JobState};

/// Unix time in ms that a submission id starts with.
pub fn submission_time_ms(submission: &[u8; 16]) -> u64 {
    submission[..6].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

/// The smallest submission id of a time.
fn submission_at(time_ms: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[..6].copy_from_slice(&time_ms.to_be_bytes()[2..]);
    id
}

impl Machine {
    pub(super) fn submit(&mut self, submit: Submit, effects: &mut Effects) -> Reply {
        if let Some(known) = self.known.get(&submit.submission) {
            if known.content != submit.content {
                return Reply::Refused(Refusal::new(
                    Code::Conflict,
                    format!(
                        "this submission id made task {} with other content; pick a new id",
                        self.shard.id(known.task)
                    ),
                ));
            }
            return Reply::Submitted { task: known.task, jobs: known.jobs, repeated: true };
        }
        match self.check_submission(&submit) {
            Ok(deps) => self.accept(submit, deps, effects),
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    /// Checks that need the machine's state, or that its invariants rest on; names and bodies are checked before the
    /// proposal, at the API.
    fn check_submission(&self, submit: &Submit) -> Result<Dependencies, Refusal> {
        self.check_times(submit)?;
        let count = if submit.array > 0 { submit.array as usize } else { submit.jobs.len() };
        if count == 0 || (submit.array > 0 && !submit.jobs.is_empty()) {
            return Err(Refusal::new(Code::Invalid, "a submission has either jobs or an array of at least one"));
        }
        if submit.array > ARRAY_JOBS_MAX || submit.jobs.len() > SUBMISSION_JOBS_MAX {
            return Err(Refusal::new(
                Code::TooLarge,
                format!("at most {SUBMISSION_JOBS_MAX} jobs, or an array of {ARRAY_JOBS_MAX}, in one submission"),
            ));
        }
        if self.next_seq + count as u64 + 1 > SEQ_MAX {
            return Err(Refusal::new(Code::Busy, "this shard has used up its job numbers"));
        }
        if self.live() + count as u64 > LIVE_JOBS_MAX {
            return Err(Refusal::new(Code::Busy, format!("this shard holds at most {LIVE_JOBS_MAX} live jobs")));
        }
        let keys = submit.jobs.iter().filter_map(|job| job.class.as_deref()).chain([&submit.class]);
        if !self.classes.has_room_for(keys) {
            return Err(Refusal::new(
                Code::Busy,
                "this shard has no room for another class of jobs (queue, share, owner, needs)",
            ));
        }
        dependencies(submit)
    }

    fn check_times(&self, submit: &Submit) -> Result<(), Refusal> {
        let picked = submission_time_ms(&submit.submission);
        // The floor is raised once a minute, and not before a shard's first one.
        let floor_ms = self.dedup_floor_ms.max(self.now_ms.saturating_sub(DEDUP_WINDOW_MS));
        if picked < floor_ms {
            return Err(Refusal::new(
                Code::SubmissionExpired,
                format!(
                    "the submission id was picked at {picked} ms, repeats are recognised from {} ms on: \
                     pick a new id (is the client's clock right?)",
                    floor_ms
                ),
            ));
        }
        if picked > self.now_ms.saturating_add(CLOCK_AHEAD_MAX_MS) {
            return Err(Refusal::new(
                Code::Invalid,
                "the submission id starts with a time more than an hour ahead: set the client's clock",
            ));
        }
        if submit.expires_at_ms > 0 && submit.expires_at_ms <= self.now_ms {
            return Err(Refusal::new(
                Code::Invalid,
                format!("expires_at_ms {} is not after the present time, {} ms", submit.expires_at_ms, self.now_ms),
            ));
        }
        Ok(())
    }

    fn accept(&mut self, submit: Submit, deps: Dependencies, effects: &mut Effects) -> Reply {
        let class = self.intern(&submit.class, effects);
        let jobs = if submit.array > 0 { submit.array } else { submit.jobs.len() as u32 };
        let seq = self.next_seq;
        self.next_seq += u64::from(jobs) + 1;
        let due = submit.not_before_ms <= self.now_ms;
        let array = submit.array > 0;
        let retry = RetryPolicy { max_attempts: submit.retry.max_attempts.clamp(1, ATTEMPTS_MAX), ..submit.retry };
        let mut task = Task {
            seq,
            jobs,
            name: submit.name.clone(),
            class,
            priority: submit.priority,
            created_ms: self.now_ms,
            ended_ms: 0,
            not_before_ms: submit.not_before_ms,
            expires_at_ms: submit.expires_at_ms,
            retry,
            run_dependents: submit.run_dependents,
            max_failed: submit.max_failed,
            body_type: submit.body_type.clone(),
            submission: submit.submission,
            array,
            rest: if array { vec![(0, jobs)] } else { Vec::new() },
            rest_state: if due { JobState::Activated } else { JobState::Defined },
            rest_end: None,
            counts: [0; STATES],
            deps: (!deps.is_empty()).then(|| Box::new(deps)),
        };
        if array {
            task.counts[task.rest_state as usize] = jobs;
            self.classes.get_mut(class).counts[task.rest_state as usize] += jobs;
            self.unmade += u64::from(jobs);
            effects.bodies.push((seq, submit.body.clone()));
            if due {
                effects.ready_arrays.push(seq);
            }
        }
        for time in [submit.not_before_ms, submit.expires_at_ms] {
            if time > self.now_ms {
                effects.timers.push((time, seq));
            }
        }
        if let Some(deps) = &task.deps {
            let mut body = Vec::with_capacity(4 + deps.edges().len() * 8);
            deps.encode(&mut body);
            effects.bodies.push((seq, body.into()));
        }
        self.task_bytes += task.memory_bytes();
        self.tasks.insert(seq, Box::new(task));
        effects.tasks.push(seq);
        self.make_jobs(seq, class, &submit, effects);
        self.remember(&submit, seq, jobs, effects);
        Reply::Submitted { task: seq, jobs, repeated: false }
    }

    /// The class's number, with one more reference.
    fn intern(&mut self, key: &ClassKey, effects: &mut Effects) -> ClassId {
        let (class, new) = self.classes.intern(key.clone()).expect("the submission was checked for room");
        if new {
            effects.classes.push(class);
        }
        class
    }

    fn make_jobs(&mut self, task_seq: u64, class: ClassId, submit: &Submit, effects: &mut Effects) {
        let due = submit.not_before_ms <= self.now_ms;
        let task = &self.tasks[&task_seq];
        let last_attempt = task.retry.max_attempts;
        let unmet = task.deps.as_ref().map_or_else(Vec::new, |deps| deps.unmet(submit.jobs.len()));
        for (at, new) in submit.jobs.iter().enumerate() {
            let class = match &new.class {
                Some(own) => self.intern(own, effects),
                None => {
                    self.classes.retain(class);
                    class
                }
            };
            let unmet = unmet.get(at).copied().unwrap_or(0);
            let seq = task_seq + 1 + at as u64;
            let (state, reason) = match (unmet > 0, due) {
                (true, _) => (JobState::Waiting, Reason::Parents),
                (false, false) => (JobState::Defined, Reason::NotBefore),
                (false, true) => (JobState::Activated, Reason::None),
            };
            let mut job = self.new_job(seq, task_seq, class, state);
            job.reason = reason;
            job.unmet = unmet;
            job.priority = new.priority.unwrap_or(submit.priority);
            job.last_attempt = last_attempt;
            job.ready_ms = submit.not_before_ms.max(self.now_ms);
            match state {
                JobState::Defined => {
                    effects.timers.push((submit.not_before_ms, seq));
                }
                JobState::Activated => effects.ready.push((seq, class, job.priority)),
                _ => {}
            }
            self.classes.get_mut(class).counts[state as usize] += 1;
            self.tasks.get_mut(&task_seq).expect("just made").counts[state as usize] += 1;
            self.jobs.insert(job);
            effects.jobs.push(seq);
            effects.bodies.push((seq, new.body.clone()));
        }
    }

    /// A job that was never leased.
    pub(super) fn new_job(&self, seq: u64, task: u64, class: ClassId, state: JobState) -> Job {
        Job {
            seq,
            task,
            session: 0,
            changed_ms: self.now_ms,
            ready_ms: self.now_ms,
            leased_ms: 0,
            started_ms: 0,
            beat_ms: 0,
            class,
            priority: 0,
            attempt: 0,
            last_attempt: 1,
            unmet: 0,
            ttl_ms: 0,
            request: 0,
            state,
            reason: Reason::None,
            kill: 0,
            phase: 0,
            reserved: false,
        }
    }

    fn remember(&mut self, submit: &Submit, task: u64, jobs: u32, effects: &mut Effects) {
        let known = Known { task, jobs, content: submit.content };
        self.known.insert(submit.submission, known);
        effects.submissions.push((submit.submission, known.encode()));
        if self.known.len() > DEDUP_MAX {
            // The oldest sixteenth goes at once; its time becomes the floor, so none of it can be taken for new.
            let keep = self.known.keys().nth(DEDUP_MAX / 16).map(submission_time_ms).unwrap_or(0);
            self.forget_below(keep + 1, effects);
        }
    }

    pub(super) fn prune(&mut self, below_ms: u64, effects: &mut Effects) -> Reply {
        self.forget_below(below_ms, effects);
        self.jobs.shrink();
        Reply::Done
    }

    fn forget_below(&mut self, below_ms: u64, effects: &mut Effects) {
        // Submission ids have 48 bits for their time.
        let below_ms = below_ms.min((1 << 48) - 1);
        if below_ms <= self.dedup_floor_ms {
            return;
        }
        self.dedup_floor_ms = below_ms;
        let floor = submission_at(below_ms);
        self.known = self.known.split_off(&floor);
        effects.submissions_below = effects.submissions_below.max(Some(floor));
    }
}

/// The dependencies of a submission; refused if a position is not there, or if they run in a circle.
fn dependencies(submit: &Submit) -> Result<Dependencies, Refusal> {
    let count = submit.jobs.len();
    let mut edges = Vec::new();
    for (child, job) in submit.jobs.iter().enumerate() {
        for &parent in &job.depends_on {
            if parent as usize >= count {
                return Err(Refusal::new(
                    Code::Invalid,
                    format!("job {child} depends on job {parent}, but there are {count} jobs"),
                ));
            }
            edges.push((parent, child as u32));
        }
    }
    if edges.len() > SUBMISSION_EDGES_MAX {
        return Err(Refusal::new(
            Code::TooLarge,
            format!("at most {SUBMISSION_EDGES_MAX} dependencies in one submission"),
        ));
    }
    let deps = Dependencies::new(edges);
    if !deps.is_empty() && deps.has_circle(count) {
        return Err(Refusal::new(Code::Invalid, "the dependencies between the jobs run in a circle"));
    }
    Ok(deps)
}

impl Known {
    pub(super) fn encode(self) -> [u8; 16] {
        let mut record = [0; 16];
        record[..5].copy_from_slice(&self.task.to_le_bytes()[..5]);
        record[5..8].copy_from_slice(&self.jobs.to_le_bytes()[..3]);
        record[8..].copy_from_slice(&self.content.to_le_bytes());
        record
    }

    pub(super) fn decode(record: [u8; 16]) -> Self {
        let part = |range: std::ops::Range<usize>| {
            record[range].iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte))
        };
        Known { task: part(0..5), jobs: part(5..8) as u32, content: part(8..16) }
    }
}

// A record holds 40 bits of task and 24 bits of job count.
const _: () = {
    assert!(SEQ_MAX < 1 << 40);
    assert!(ARRAY_JOBS_MAX < 1 << 24);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_submission_comes_back() {
        let known = Known { task: SEQ_MAX, jobs: 10_000_000, content: u64::MAX - 5 };
        assert_eq!(Known::decode(known.encode()), known);
    }

    #[test]
    fn submission_ids_order_by_time() {
        assert_eq!(submission_time_ms(&submission_at(1_700_000_000_123)), 1_700_000_000_123);
        assert!(submission_at(5) < submission_at(6));
    }
}
