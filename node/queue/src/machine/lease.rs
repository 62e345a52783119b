//! Leases: given, lost, and the worker's phase.

use super::{Holder, Machine};
use crate::command::Reply;
use crate::effect::Effects;
use crate::job::{Job, Reason, Report};
use crate::limits::ATTEMPTS_MAX;
use moso_proto::JobState;

impl Machine {
    /// Gives jobs to a session. Jobs that are no longer ready are left out: the log decides, not the leader's index.
    pub(super) fn lease(
        &mut self,
        (session, worker): (u64, &str),
        ttl_ms: u32,
        request: u32,
        jobs: &[u64],
        effects: &mut Effects,
    ) -> Reply {
        let mut leased = Vec::with_capacity(jobs.len());
        for &seq in jobs {
            if self.jobs.get(seq).is_none() && !self.make_array_job(seq, effects) {
                continue;
            }
            let now = self.now_ms;
            let Some(job) = self.jobs.get_mut(seq).filter(|j| j.state == JobState::Activated) else { continue };
            job.attempt += 1;
            job.session = session;
            job.ttl_ms = ttl_ms.max(1);
            job.request = request;
            job.leased_ms = now;
            job.started_ms = 0;
            job.phase = 0;
            job.beat_ms = 0;
            leased.push((seq, job.attempt));
            self.set_state(seq, JobState::Sent, Reason::None, effects);
            effects.leased.push(seq);
            self.holders.entry(session).or_insert_with(|| Holder { name: worker.into(), leases: 0 }).leases += 1;
        }
        Reply::Leased(leased)
    }

    /// Makes the record of an array's job that had none; `false`: there is no such job to make, or it is not ready.
    fn make_array_job(&mut self, seq: u64, effects: &mut Effects) -> bool {
        let Some(task) = self.task_of(seq).filter(|t| t.array && t.rest_state == JobState::Activated) else {
            return false;
        };
        self.materialise(task.seq, seq, effects)
    }

    /// Makes the record of an array's job in the state of the jobs not yet made.
    pub(super) fn materialise(&mut self, task_seq: u64, seq: u64, effects: &mut Effects) -> bool {
        let Some(task) = self.tasks.get_mut(&task_seq) else { return false };
        let Some(position) = task.position(seq) else { return false };
        if !task.take_unmade(position) {
            return false;
        }
        let (class, priority, last_attempt, state) =
            (task.class, task.priority, task.retry.max_attempts, task.rest_state);
        let (not_before, created) = (task.not_before_ms, task.created_ms);
        self.classes.retain(class);
        self.unmade -= 1;
        let mut job: Job = self.new_job(seq, task_seq, class, state);
        job.priority = priority;
        job.last_attempt = last_attempt;
        job.ready_ms = not_before.max(created);
        job.reason = match state {
            JobState::Throttled => Reason::Held,
            JobState::Defined => Reason::NotBefore,
            _ => Reason::None,
        };
        if state == JobState::Defined {
            effects.timers.push((job.ready_ms, seq));
        }
        self.jobs.insert(job);
        effects.jobs.push(seq);
        effects.tasks.push(task_seq);
        true
    }

    /// Takes leases back whose worker is silent. A lease that was given anew meanwhile carries another attempt.
    pub(super) fn expire(&mut self, jobs: &[(u64, u32)], effects: &mut Effects) -> Reply {
        for &(seq, attempt) in jobs {
            let Some(job) = self.jobs.get(seq) else { continue };
            if !job.state.is_leased() || job.attempt != attempt {
                continue;
            }
            self.signal(seq, true, effects);
            self.end_attempt(seq, Reason::LostHeartbeat, lost_heartbeat(), false, effects);
        }
        Reply::Done
    }

    /// Takes leases back that their session does not hold: the answer to its request was lost. Not charged.
    pub(super) fn unheld(&mut self, session: u64, jobs: &[(u64, u32)], effects: &mut Effects) -> Reply {
        for &(seq, attempt) in jobs {
            let Some(job) = self.jobs.get_mut(seq) else { continue };
            if !job.state.is_leased() || job.attempt != attempt || job.session != session {
                continue;
            }
            job.last_attempt = (job.last_attempt + 1).min(ATTEMPTS_MAX);
            self.end_attempt(seq, Reason::Unheld, Report::default(), false, effects);
        }
        Reply::Done
    }

    /// The attempt of a leased job is over without success: the job is ended, or made ready for its next attempt.
    pub(super) fn end_attempt(
        &mut self,
        seq: u64,
        reason: Reason,
        report: Report,
        for_good: bool,
        effects: &mut Effects,
    ) {
        let job = self.jobs.get(seq).expect("the caller holds a live job").clone();
        if job.kill != 0 {
            return self.end_job(seq, JobState::Cancelled, Reason::Killed, report, effects);
        }
        if for_good || job.attempt >= job.last_attempt {
            return self.end_job(seq, JobState::Failed, reason, report, effects);
        }
        let given_back = matches!(reason, Reason::Released | Reason::Unheld);
        let task = self.tasks.get(&job.task).expect("a live job has a live task");
        if task.expired(self.now_ms) || task.too_many_failed() {
            // Jobs of the task that hold no lease were closed, so this one may not become ready again.
            let closed = if task.too_many_failed() { Reason::TooManyFailures } else { Reason::Expired };
            let (state, reason) = if given_back { (JobState::Closed, closed) } else { (JobState::Failed, reason) };
            return self.end_job(seq, state, reason, report, effects);
        }
        let wait = if given_back { 0 } else { task.retry.wait_ms(seq, job.attempt) };
        let text = report.errors.first().map_or("", |(_, _, text)| text).to_owned();
        self.log_attempt(&job, reason, &text, effects);
        self.drop_holder(job.session);
        self.make_ready(seq, self.now_ms.saturating_add(wait), Reason::BackOff, effects);
    }

    /// Records that workers prepare or run their jobs; never goes back (PanDA: running -> starting keeps running).
    pub(super) fn phase(&mut self, jobs: &[(u64, u32, u8)], effects: &mut Effects) -> Reply {
        for &(seq, attempt, phase) in jobs {
            let Some(job) = self.jobs.get_mut(seq) else { continue };
            if job.attempt != attempt {
                continue;
            }
            let state = match (job.state, phase) {
                (JobState::Sent, 1) => JobState::Starting,
                (JobState::Sent | JobState::Starting, 2) => JobState::Running,
                _ => continue,
            };
            if state == JobState::Running {
                job.started_ms = self.now_ms;
            }
            self.set_state(seq, state, Reason::None, effects);
        }
        Reply::Done
    }
}

/// PanDA's dispatcher error 100.
fn lost_heartbeat() -> Report {
    Report { errors: vec![("jobDispatcher".into(), 100, "lost heartbeat".into())], ..Report::default() }
}
