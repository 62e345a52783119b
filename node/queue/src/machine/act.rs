//! Actions of operators, and what time does: wake-ups and time-outs.

use super::Machine;
use crate::command::{ActRefusal, Action, Reply, Target};
use crate::effect::{Change, Effects};
use crate::job::{Job, Reason, Report};
use crate::limits::ATTEMPTS_MAX;
use moso_proto::JobState;

/// Kill codes that end a leased job at once instead of asking its worker (PanDA: 9 and 52, 99 with role).
pub const FORCED_KILLS: [u8; 3] = [9, 52, 99];

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
        for target in targets {
            match *target {
                Target::Job(seq) => {
                    if self.jobs.get(seq).is_none()
                        && let Some(task) = self.task_of(seq).map(|t| t.seq)
                    {
                        self.materialise(task, seq, effects);
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
                if !matches!(job.state, JobState::Throttled | JobState::Defined) {
                    return Err(ActRefusal::NotHeld);
                }
                if job.unmet > 0 {
                    self.set_state(seq, JobState::Waiting, Reason::Parents, effects);
                } else {
                    self.make_ready(seq, 0, Reason::None, effects);
                }
                let state = self.jobs.get(seq).expect("just set").state;
                self.log_change(seq, state, Reason::None, actor, "released", effects);
                Ok(())
            }
            Action::Retry(attempts) => {
                let job_mut = self.jobs.get_mut(seq).expect("just looked at");
                job_mut.last_attempt = job.last_attempt.saturating_add(*attempts).min(ATTEMPTS_MAX.max(job.attempt));
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
        } else if FORCED_KILLS.contains(&code) {
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
        let class = task.class;
        let old = task.rest_state;
        let new = match action {
            Action::Kill(code) => {
                let (state, _) = killed_state(*code);
                self.end_rest(task_seq, state, *code, effects);
                self.settle_task(task_seq, effects);
                return Ok(count);
            }
            Action::Priority(priority) => {
                task.priority = *priority;
                old
            }
            Action::Retry(attempts) => {
                task.retry.max_attempts = task.retry.max_attempts.saturating_add(*attempts).min(ATTEMPTS_MAX);
                old
            }
            Action::Hold(_) if old == JobState::Throttled => return Err((ActRefusal::Same, count)),
            Action::Hold(_) => JobState::Throttled,
            Action::Release if old == JobState::Activated => return Err((ActRefusal::NotHeld, count)),
            Action::Release => JobState::Activated,
        };
        task.rest_state = new;
        task.counts[old as usize] -= count;
        task.counts[new as usize] += count;
        let counts = &mut self.classes.get_mut(class).counts;
        counts[old as usize] -= count;
        counts[new as usize] += count;
        effects.tasks.push(task_seq);
        if old == JobState::Activated {
            effects.unready += u64::from(count);
        }
        if new == JobState::Activated {
            effects.ready_arrays.push(task_seq);
        }
        Ok(count)
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
        if task.expires_at_ms > 0 && task.expires_at_ms <= self.now_ms {
            let (from, to) = (task.first(), task.first() + u64::from(task.jobs));
            let late: Vec<u64> =
                self.jobs.from(from).take_while(|j| j.seq < to).filter(|j| !j.state.is_leased()).map(|j| j.seq).collect();
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
    pub(super) fn time_out(&mut self, jobs: &[(u64, JobState, u64)], fail: bool, code: u8, effects: &mut Effects) -> Reply {
        for &(seq, state, changed_ms) in jobs {
            let Some(job) = self.jobs.get(seq) else { continue };
            if job.state != state || job.changed_ms != changed_ms {
                continue;
            }
            self.signal(seq, true, effects);
            if fail {
                let text = format!("too long in state {state}");
                let report = Report {
                    errors: vec![("jobDispatcher".into(), i32::from(code), text.into())],
                    ..Report::default()
                };
                self.end_attempt(seq, Reason::TimedOut, report, false, effects);
            } else {
                let (to, _) = killed_state(code);
                self.jobs.get_mut(seq).expect("just looked at").kill = code;
                self.end_job(seq, to, Reason::TimedOut, Report::default(), effects);
            }
        }
        Reply::Done
    }
}
