//! Results of attempts. Law: an accepted result carries the current attempt, and comes from the session that holds it.

use super::Machine;
use crate::command::{JobResult, Outcome, Reply, ResultStatus};
use crate::effect::Effects;
use crate::job::{Job, Reason, Report};
use crate::limits::ATTEMPTS_MAX;
use crate::task::Task;
use moso_proto::{Code, JobState};

impl Machine {
    pub(super) fn results(&mut self, session: u64, results: Vec<JobResult>, effects: &mut Effects) -> Reply {
        Reply::Results(results.into_iter().map(|result| self.result(session, result, effects)).collect())
    }

    /// What a result of this session and attempt may do to the job.
    fn guard(&self, session: u64, result: &JobResult) -> Result<&Job, Code> {
        let Some(job) = self.jobs.get(result.seq) else {
            let unmade = |task: &Task| task.position(result.seq).is_some_and(|at| task.is_unmade(at));
            let never = result.seq >= self.next_seq
                || self.tasks.contains_key(&result.seq)
                || self.task_of(result.seq).is_some_and(unmade);
            return Err(if never { Code::NotFound } else { Code::AlreadyEnded });
        };
        if job.attempt != result.attempt {
            return Err(if result.attempt < job.attempt { Code::StaleAttempt } else { Code::NotFound });
        }
        // Attempt 0 was nobody's: without this, session 0 could end a job that was never leased.
        if job.attempt == 0 {
            return Err(Code::NotFound);
        }
        if job.session != session {
            return Err(Code::ForeignLease);
        }
        Ok(job)
    }

    fn result(&mut self, session: u64, result: JobResult, effects: &mut Effects) -> ResultStatus {
        let job = match self.guard(session, &result) {
            Ok(job) => job,
            Err(code) => return ResultStatus::Refused(code),
        };
        let leased = job.state.is_leased();
        // The lease is gone, but nobody else has the job yet: work done is not thrown away.
        let waits = matches!(job.state, JobState::Activated | JobState::Defined | JobState::Throttled);
        let (seq, last) = (job.seq, job.last_attempt);
        let report = result.report.map_or_else(Report::default, |r| *r);
        match result.outcome {
            Outcome::Finished if leased || waits => {
                self.end_job(seq, JobState::Finished, Reason::None, report, effects);
            }
            Outcome::Failed | Outcome::FailedForGood | Outcome::Cancelled if leased => {
                let for_good = result.outcome == Outcome::FailedForGood;
                self.end_attempt(seq, Reason::WorkerFailed, report, for_good, effects);
            }
            Outcome::Released if leased => {
                // Not charged: one attempt more is allowed, though never more than any job may have.
                self.jobs.get_mut(seq).expect("guarded").last_attempt = (last + 1).min(ATTEMPTS_MAX);
                self.end_attempt(seq, Reason::Released, report, false, effects);
            }
            // The attempt was already counted as lost: a late failure adds nothing.
            _ if waits => {}
            _ => return ResultStatus::Refused(Code::WrongState),
        }
        ResultStatus::Accepted
    }
}
