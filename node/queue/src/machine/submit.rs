//! Submissions: recognised by their id, checked, made into a task.

use super::{Known, Machine};
use crate::command::{Reply, Submit};
use crate::effect::Effects;
use crate::error::Refusal;
use crate::job::{Job, Reason};
use crate::limits::{CLOCK_AHEAD_MAX_MS, DEDUP_MAX, SEQ_MAX};
use crate::task::{Dependencies, Task};
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

/// Finds a circle among dependencies by taking out jobs that wait for nothing, again and again.
pub fn has_circle(jobs: usize, edges: &[(u32, u32)]) -> bool {
    let deps = Dependencies { edges: edges.to_vec() };
    let mut unmet = vec![0u32; jobs];
    for &(_, child) in edges {
        unmet[child as usize] += 1;
    }
    let mut free: Vec<u32> = (0..jobs as u32).filter(|&job| unmet[job as usize] == 0).collect();
    let mut left = jobs;
    while let Some(parent) = free.pop() {
        left -= 1;
        for child in deps.children(parent) {
            unmet[child as usize] -= 1;
            if unmet[child as usize] == 0 {
                free.push(child);
            }
        }
    }
    left > 0
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
            Ok(edges) => self.accept(submit, edges, effects),
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    /// Checks that need the machine's state; sizes and names are checked before the proposal, at the API.
    fn check_submission(&self, submit: &Submit) -> Result<Vec<(u32, u32)>, Refusal> {
        let picked = submission_time_ms(&submit.submission);
        if picked < self.dedup_floor_ms {
            return Err(Refusal::new(
                Code::SubmissionExpired,
                format!(
                    "the submission id was picked at {picked} ms, repeats are recognised from {} ms on: \
                     pick a new id (is the client's clock right?)",
                    self.dedup_floor_ms
                ),
            ));
        }
        if picked > self.now_ms + CLOCK_AHEAD_MAX_MS {
            return Err(Refusal::new(
                Code::Invalid,
                "the submission id starts with a time more than an hour ahead: set the client's clock",
            ));
        }
        let count = if submit.array > 0 { submit.array as usize } else { submit.jobs.len() };
        if count == 0 || (submit.array > 0 && !submit.jobs.is_empty()) {
            return Err(Refusal::new(Code::Invalid, "a submission has either jobs or an array of at least one"));
        }
        if self.next_seq + count as u64 + 1 > SEQ_MAX {
            return Err(Refusal::new(Code::Busy, "this shard has used up its job numbers"));
        }
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
        edges.sort_unstable();
        edges.dedup();
        if !edges.is_empty() && has_circle(count, &edges) {
            return Err(Refusal::new(Code::Invalid, "the dependencies between the jobs run in a circle"));
        }
        Ok(edges)
    }

    fn accept(&mut self, submit: Submit, edges: Vec<(u32, u32)>, effects: &mut Effects) -> Reply {
        let Some((class, new)) = self.classes.intern(submit.class.clone()) else {
            return Reply::Refused(Refusal::new(
                Code::Busy,
                "this shard has no room for another class of jobs (queue, share, owner, needs)",
            ));
        };
        if new {
            effects.classes.push(class);
        }
        let jobs = if submit.array > 0 { submit.array } else { submit.jobs.len() as u32 };
        let seq = self.next_seq;
        self.next_seq += u64::from(jobs) + 1;
        let due = submit.not_before_ms <= self.now_ms;
        let array = submit.array > 0;
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
            retry: submit.retry,
            run_dependents: submit.run_dependents,
            max_failed: submit.max_failed,
            body_type: submit.body_type.clone(),
            submission: submit.submission,
            array,
            rest: if array { vec![(0, jobs)] } else { Vec::new() },
            rest_state: if due { JobState::Activated } else { JobState::Defined },
            rest_end: None,
            counts: [0; STATES],
            deps: (!edges.is_empty()).then(|| Box::new(Dependencies { edges })),
        };
        if array {
            task.counts[task.rest_state as usize] = jobs;
            self.classes.get_mut(class).counts[task.rest_state as usize] += jobs;
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
        self.tasks.insert(seq, Box::new(task));
        effects.tasks.push(seq);
        self.make_jobs(seq, class, &submit, effects);
        self.remember(&submit, seq, jobs, effects);
        Reply::Submitted { task: seq, jobs, repeated: false }
    }

    fn make_jobs(&mut self, task_seq: u64, class: crate::ClassId, submit: &Submit, effects: &mut Effects) {
        let due = submit.not_before_ms <= self.now_ms;
        let mut unmet = vec![0u32; submit.jobs.len()];
        if let Some(deps) = &self.tasks[&task_seq].deps {
            deps.edges.iter().for_each(|&(_, child)| unmet[child as usize] += 1);
        }
        for (at, new) in submit.jobs.iter().enumerate() {
            let own = new.class.as_ref().and_then(|key| self.classes.intern((**key).clone()));
            let class = match own {
                // Full: the task's class is used rather than the submission refused half way.
                None => {
                    self.classes.retain(class);
                    class
                }
                Some((own, fresh)) => {
                    if fresh {
                        effects.classes.push(own);
                    }
                    own
                }
            };
            let seq = task_seq + 1 + at as u64;
            let (state, reason) = match (unmet[at] > 0, due) {
                (true, _) => (JobState::Waiting, Reason::Parents),
                (false, false) => (JobState::Defined, Reason::NotBefore),
                (false, true) => (JobState::Activated, Reason::None),
            };
            let mut job = self.new_job(seq, task_seq, class, state);
            job.reason = reason;
            job.unmet = unmet[at];
            job.priority = new.priority.unwrap_or(submit.priority);
            job.last_attempt = submit.retry.max_attempts;
            match state {
                JobState::Defined => {
                    job.ready_ms = submit.not_before_ms;
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
    pub(super) fn new_job(&self, seq: u64, task: u64, class: crate::ClassId, state: JobState) -> Job {
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
        if below_ms <= self.dedup_floor_ms {
            return;
        }
        self.dedup_floor_ms = below_ms;
        let floor = submission_at(below_ms);
        self.known = self.known.split_off(&floor);
        effects.submissions_below = effects.submissions_below.max(Some(floor));
    }
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
    assert!(crate::limits::ARRAY_JOBS_MAX < 1 << 24);
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
    fn circles_are_found() {
        assert!(!has_circle(4, &[(0, 1), (0, 2), (1, 3), (2, 3)]));
        assert!(has_circle(3, &[(0, 1), (1, 2), (2, 0)]));
        assert!(has_circle(1, &[(0, 0)]));
    }

    #[test]
    fn submission_ids_order_by_time() {
        assert_eq!(submission_time_ms(&submission_at(1_700_000_000_123)), 1_700_000_000_123);
        assert!(submission_at(5) < submission_at(6));
    }
}
