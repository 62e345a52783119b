//! Actions of operators, and what time does: wake-ups and time-outs.

use super::Machine;
use crate::command::{ActRefusal, Action, Reply, Target};
use crate::effect::{Change, Effects};
use crate::job::{Job, Reason, Report};
use crate::limits::ATTEMPTS_MAX;
use moso_proto::JobState;

/// Kill code of a kill that names none.
const DEFAULT_KILL: u8 = 9;

/// The kill ends a leased job at once instead of asking its worker (PanDA: 9 and 52 on production and test jobs, 99
/// with the production role, which the API checks).
fn is_forced(code: u8, label: &str) -> bool {
    match code {
        9 | 52 => matches!(label, "managed" | "test"),
        99 => true,
        _ => false,
    }
}

/// Final state and sub-status of a job that is killed before it runs (PanDA's killJob).
fn killed_state(code: u8) -> (JobState, Reason) {
    match code {
        2 | 4 | 51 => (JobState::Closed, Reason::ToReassign),
        55 => (JobState::Closed, Reason::TaskDone),
        10 | 60 => (JobState::Closed, Reason::Killed),
        _ => (JobState::Cancelled, Reason::Killed),
    }
}

#[derive(Default)]
struct Tally {
    changed: u64,
    refused: Vec<(ActRefusal, u64, u64)>,
}

impl Tally {
    fn refuse(&mut self, why: ActRefusal, count: u64, example: u64) {
        match self.refused.iter_mut().find(|(w, _, _)| *w == why) {
            Some((_, n, _)) => *n += count,
            None => self.refused.push((why, count, example)),
        }
    }
}

impl Machine {
    pub(super) fn act(&mut self, action: &Action, targets: &[Target], actor: &str, effects: &mut Effects) -> Reply {
        let mut tally = Tally::default();
        // A job's kill code 0 means that no kill is under way.
        let action = if *action == Action::Kill(0) { &Action::Kill(DEFAULT_KILL) } else { action };
        for target in targets {
            match *target {
                Target::Job(seq) => {
                    if self.jobs.get(seq).is_none()
                        && let Some(task) = self.task_of(seq).map(|t| t.seq)
                    {
                        self.materialise(task, seq, effects);
                        // It may not have been filed yet, and is not among those still to be filed any more.
                        if let Some(job) = self.jobs.get(seq).filter(|j| j.state == JobState::Activated) {
                            effects.ready.push((seq, job.class, job.priority));
                        }
                    }
                    match self.act_on_job(seq, action, actor, effects) {
                        Ok(()) => tally.changed += 1,
                        Err(why) => tally.refuse(why, 1, seq),
                    }
                }
                Target::Rest(task) => match self.act_on_rest(task, action, effects) {
                    Ok(count) => tally.changed += u64::from(count),
                    Err((why, count)) => tally.refuse(why, u64::from(count), task),
                },
            }
        }
        tally.refused.sort_unstable();
        Reply::Acted { changed: tally.changed, refused: tally.refused }
    }

    fn act_on_job(&mut self, seq: u64, action: &Action, actor: &str, effects: &mut Effects) -> Result<(), ActRefusal> {
        let job = self.jobs.get(seq).ok_or(ActRefusal::Ended)?.clone();
        match action {
            Action::Kill(code) => self.kill(&job, *code, actor, effects),
            Action::Hold(text) => {
                if job.state.is_leased() {
                    return Err(ActRefusal::Leased);
                }
                if job.state == JobState::Throttled {
                    return Err(ActRefusal::Same);
                }
                self.set_state(seq, JobState::Throttled, Reason::Held, effects);
                self.log_change(seq, JobState::Throttled, Reason::Held, actor, text, effects);
                Ok(())
            }
            Action::Release => {
                match job.state {
                    JobState::Defined => self.make_ready(seq, 0, Reason::None, effects),
                    JobState::Throttled if job.unmet > 0 => {
                        self.set_state(seq, JobState::Waiting, Reason::Parents, effects);
                    }
                    // Goes on with the wait that the hold interrupted, if that is not over.
                    JobState::Throttled => {
                        let reason = if job.attempt > 0 { Reason::BackOff } else { Reason::NotBefore };
                        self.make_ready(seq, job.ready_ms, reason, effects);
                    }
                    _ => return Err(ActRefusal::NotHeld),
                }
                let state = self.jobs.get(seq).expect("just set").state;
                self.log_change(seq, state, Reason::None, actor, "released", effects);
                Ok(())
            }
            Action::Retry(attempts) => {
                let job_mut = self.jobs.get_mut(seq).expect("just looked at");
                job_mut.last_attempt = job.last_attempt.saturating_add(*attempts).min(ATTEMPTS_MAX);
                effects.jobs.push(seq);
                if job.state == JobState::Defined && job.reason == Reason::BackOff {
                    self.make_ready(seq, 0, Reason::None, effects);
                }
                Ok(())
            }
            Action::Priority(priority) => {
                if job.priority == *priority {
                    return Err(ActRefusal::Same);
                }
                self.jobs.get_mut(seq).expect("just looked at").priority = *priority;
                effects.jobs.push(seq);
                if job.state == JobState::Activated {
                    effects.unready += 1;
                    effects.ready.push((seq, job.class, *priority));
                }
                Ok(())
            }
        }
    }

    fn kill(&mut self, job: &Job, code: u8, actor: &str, effects: &mut Effects) -> Result<(), ActRefusal> {
        let seq = job.seq;
        let text = format!("kill code {code}");
        if !job.state.is_leased() {
            let (state, reason) = killed_state(code);
            self.jobs.get_mut(seq).expect("just looked at").kill = code;
            self.log_change(seq, state, reason, actor, &text, effects);
            self.end_job(seq, state, reason, Report::default(), effects);
        } else if is_forced(code, &self.classes.get(job.class).key.label) {
            self.jobs.get_mut(seq).expect("just looked at").kill = code;
            self.log_change(seq, JobState::Cancelled, Reason::Killed, actor, &text, effects);
            self.signal(seq, true, effects);
            self.end_job(seq, JobState::Cancelled, Reason::Killed, Report::default(), effects);
        } else {
            if job.kill != 0 {
                return Err(ActRefusal::Same);
            }
            self.jobs.get_mut(seq).expect("just looked at").kill = code;
            effects.jobs.push(seq);
            self.log_change(seq, job.state, Reason::Killed, actor, &text, effects);
            self.signal(seq, false, effects);
        }
        Ok(())
    }

    fn act_on_rest(&mut self, task_seq: u64, action: &Action, effects: &mut Effects) -> Result<u32, (ActRefusal, u32)> {
        let Some(task) = self.tasks.get_mut(&task_seq) else { return Ok(0) };
        let count = task.rest_len();
        if count == 0 {
            return Ok(0);
        }
        match action {
            Action::Kill(code) => {
                let (state, _) = killed_state(*code);
                self.end_rest(task_seq, state, *code, effects);
                self.settle_task(task_seq, effects);
            }
            Action::Priority(priority) if task.priority == *priority => return Err((ActRefusal::Same, count)),
            Action::Priority(priority) => {
                task.priority = *priority;
                let state = task.rest_state;
                self.set_rest_state(task_seq, state, effects);
            }
            Action::Retry(attempts) => {
                task.retry.max_attempts = task.retry.max_attempts.saturating_add(*attempts).min(ATTEMPTS_MAX);
                effects.tasks.push(task_seq);
            }
            Action::Hold(_) if task.rest_state == JobState::Throttled => return Err((ActRefusal::Same, count)),
            Action::Hold(_) => self.set_rest_state(task_seq, JobState::Throttled, effects),
            Action::Release if task.rest_state == JobState::Activated => return Err((ActRefusal::NotHeld, count)),
            // Goes on with the wait that the hold interrupted, if that is not over.
            Action::Release if task.rest_state == JobState::Throttled && task.not_before_ms > self.now_ms => {
                effects.timers.push((task.not_before_ms, task_seq));
                self.set_rest_state(task_seq, JobState::Defined, effects);
            }
            Action::Release => {
                task.not_before_ms = task.not_before_ms.min(self.now_ms);
                self.set_rest_state(task_seq, JobState::Activated, effects);
            }
        }
        Ok(count)
    }

    /// Moves the jobs of an array that are not yet made; from activated to activated files them anew.
    fn set_rest_state(&mut self, task_seq: u64, new: JobState, effects: &mut Effects) {
        let task = self.tasks.get_mut(&task_seq).expect("the caller holds a live task");
        let (count, old) = (task.rest_len(), task.rest_state);
        task.rest_state = new;
        let class = &mut self.classes.get_mut(task.class).counts;
        for counts in [&mut task.counts, class] {
            counts[old as usize] -= count;
            counts[new as usize] += count;
        }
        effects.tasks.push(task_seq);
        if old == JobState::Activated {
            effects.unready += u64::from(count);
        }
        if new == JobState::Activated {
            effects.ready_arrays.push(task_seq);
        }
    }

    fn log_change(&self, seq: u64, state: JobState, reason: Reason, who: &str, text: &str, effects: &mut Effects) {
        let attempt = self.jobs.get(seq).map_or(0, |j| j.attempt);
        effects.changes.push(Change {
            seq,
            time_ms: self.now_ms,
            state,
            attempt,
            who: who.into(),
            reason,
            text: text.into(),
        });
    }

    /// Times have come: jobs by their number, tasks (start of an array, expiry) by theirs. Compared with the command's
    /// time, so a wake-up that comes too early changes nothing.
    pub(super) fn wake(&mut self, jobs: &[u64], effects: &mut Effects) -> Reply {
        for &seq in jobs {
            if self.tasks.contains_key(&seq) {
                self.wake_task(seq, effects);
            } else if let Some(job) = self.jobs.get(seq)
                && job.state == JobState::Defined
                && job.ready_ms <= self.now_ms
            {
                self.make_ready(seq, 0, Reason::None, effects);
            }
        }
        Reply::Done
    }

    fn wake_task(&mut self, seq: u64, effects: &mut Effects) {
        let task = &self.tasks[&seq];
        if task.expired(self.now_ms) {
            let late = self.unleased(seq);
            // Kept alive through the ends of its jobs: the last one settles it.
            let rest = self.end_rest(seq, JobState::Closed, 0, effects);
            for job in late {
                self.end_job(job, JobState::Closed, Reason::Expired, Report::default(), effects);
            }
            if rest > 0 {
                self.settle_task(seq, effects);
            }
        } else if task.rest_state == JobState::Defined && task.not_before_ms <= self.now_ms {
            let _ = self.act_on_rest(seq, &Action::Release, effects);
        }
    }

    /// Jobs that were in a state for too long, if they still are in it since the same time.
    pub(super) fn time_out(
        &mut self,
        jobs: &[(u64, JobState, u64)],
        fail: bool,
        code: u8,
        effects: &mut Effects,
    ) -> Reply {
        for &(seq, state, changed_ms) in jobs {
            let Some(job) = self.jobs.get(seq) else { continue };
            if job.state != state || job.changed_ms != changed_ms {
                continue;
            }
            self.signal(seq, true, effects);
            let leased = state.is_leased();
            if !fail {
                let (to, _) = killed_state(code);
                self.jobs.get_mut(seq).expect("just looked at").kill = code;
                self.end_job(seq, to, Reason::TimedOut, Report::default(), effects);
                continue;
            }
            let text = format!("too long in state {state}");
            let report =
                Report { errors: vec![("jobDispatcher".into(), i32::from(code), text.into())], ..Report::default() };
            if leased {
                self.end_attempt(seq, Reason::TimedOut, report, false, effects);
            } else {
                // There is no attempt to fail, and whatever it waits for has not come.
                self.end_job(seq, JobState::Failed, Reason::TimedOut, report, effects);
            }
        }
        Reply::Done
    }
}
