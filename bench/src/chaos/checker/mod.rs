//! Checks a history. Pure: events in, verdict out.
//!
//! The rules use only what must be so in real time: what the cluster did lies between the sending of a request and the
//! reading of its answer, and nowhere more exactly. So a slow answer, a halted node or a lost message breaks no rule.

mod job;
mod submission;
#[cfg(test)]
mod tests;

use super::history::{Event, SubmissionId, What};
use job::JobBook;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use submission::SubmissionBook;

/// Part of the lease time for which an acknowledged heartbeat protects a lease; the rest allows for clocks of different
/// speed.
const KEPT_PART: f64 = 0.9;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// A job of an acknowledged submission is not there in the end.
    Lost,
    /// A job or task is there that nobody submitted, or whose submission was refused.
    Phantom,
    /// A submission id made more than one task, or was answered in two ways.
    SubmissionDoubled,
    /// A job is listed twice, or has two accepted successes.
    Doubled,
    /// A job has not ended as a success, although it may run as often as it needs; or its task does not count it so.
    NotEnded,
    /// The end that the cluster records is not the one it acknowledged, or nobody reported it.
    ForeignEnd,
    /// An attempt was given twice.
    AttemptReused,
    /// A later lease of a job has no higher attempt.
    AttemptFell,
    /// A result was accepted although a later attempt had been given.
    StaleAccepted,
    /// A job was given out after its success was acknowledged.
    LeasedAfterEnd,
    /// A job was given to another session while its holder's heartbeats were acknowledged.
    LeaseBroken,
    /// A job was given to another session before the lease time of its holder was over, who had not given it back.
    LeaseCutShort,
    /// A lease names another submission, task or position than the job has.
    WrongJob,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_owned));
        f.pad(&name.unwrap_or_default())
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// When it was seen, ns since the run began.
    pub ns: u64,
    /// What was seen.
    pub text: String,
}

/// What a history says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Broken rules, in no order.
    pub violations: Vec<Violation>,
    /// Submissions acknowledged, each id once.
    pub submissions: u64,
    /// Jobs of acknowledged submissions.
    pub jobs: u64,
    /// Jobs of submissions that were never acknowledged, found all the same: as it may be.
    pub jobs_unacknowledged: u64,
    /// Jobs whose success was acknowledged.
    pub successes: u64,
    /// Jobs whose success is recorded, but was acknowledged to nobody.
    pub successes_unseen: u64,
    /// Leases beyond the first of their job.
    pub leases_again: u64,
}

impl Verdict {
    /// How often a rule was broken.
    pub fn broken(&self, rule: Rule) -> u64 {
        self.violations.iter().filter(|violation| violation.rule == rule).count() as u64
    }

    fn broke(&mut self, rule: Rule, ns: u64, text: String) {
        self.violations.push(Violation { rule, ns, text });
    }
}

/// Checks a whole history.
pub fn check(events: &[Event]) -> Verdict {
    let mut checker = Checker::default();
    for event in events {
        checker.take(event);
    }
    checker.finish()
}

/// A heartbeat on its way: when it was sent, and the jobs and attempts that it named.
type Beat = (u64, Vec<(u64, u32)>);

#[derive(Default)]
struct Checker {
    submissions: BTreeMap<SubmissionId, SubmissionBook>,
    jobs: BTreeMap<u64, JobBook>,
    /// When open lease requests were sent, by session and number.
    asked: HashMap<(u64, u64), u64>,
    /// Heartbeats on their way, by session and number.
    beats: HashMap<(u64, u64), Beat>,
    verdict: Verdict,
}

impl Checker {
    fn take(&mut self, event: &Event) {
        let ns = event.ns;
        match &event.what {
            What::SubmitInvoke { submission, jobs } => self.submission(*submission).invoked(*jobs),
            What::SubmitOk { submission, task, first_job, jobs, repeated } => {
                let answer = submission::Answer { ns, task: *task, first: *first_job, jobs: *jobs, new: !repeated };
                self.submission(*submission).answered(answer);
            }
            What::SubmitFail { submission, .. } => self.submission(*submission).failed(),
            What::SubmitUnknown { submission, .. } => self.submission(*submission).unknown(),
            What::LeaseInvoke { session, request } => drop(self.asked.insert((*session, *request), ns)),
            What::LeaseOk { session, request, leases } => {
                // A request that nobody sent was answered: all it can have taken since the run began.
                let asked_ns = self.asked.remove(&(*session, *request)).unwrap_or(0);
                for lease in leases {
                    let book = self.jobs.entry(lease.job).or_default();
                    book.leased(lease, *session, asked_ns, ns);
                }
            }
            What::LeaseUnknown { session, request } => drop(self.asked.remove(&(*session, *request))),
            What::BeatInvoke { session, seq, held } => drop(self.beats.insert((*session, *seq), (ns, held.clone()))),
            What::BeatOk { session, seq, lost, unknown } => {
                let Some((sent_ns, held)) = self.beats.remove(&(*session, *seq)) else { return };
                let kept = held.iter().filter(|(job, _)| !lost.contains(job) && !unknown.contains(job));
                for (job, attempt) in kept {
                    self.jobs.entry(*job).or_default().kept(*attempt, *session, sent_ns);
                }
            }
            What::ResultInvoke { session, job, attempt, outcome } => {
                self.jobs.entry(*job).or_default().reported(*attempt, *session, *outcome, ns);
            }
            What::ResultOk { session, job, attempt, outcome } => {
                self.jobs.entry(*job).or_default().accepted(*attempt, *session, *outcome, ns);
            }
            What::FoundTask { task, submission, first_job, jobs, finished } => {
                let (task, first, jobs, finished) = (*task, *first_job, *jobs, *finished);
                self.found_task(*submission, submission::Found { ns, task, first, jobs, finished });
            }
            What::FoundJob { job, task, state, attempt, session } => {
                let found = job::Found { ns, task: *task, state: state.clone(), attempt: *attempt, session: *session };
                self.jobs.entry(*job).or_default().found.push(found);
            }
            What::WorkerDied { .. }
            | What::ResultFail { .. }
            | What::ResultUnknown { .. }
            | What::FaultBegin { .. }
            | What::FaultHealed { .. }
            | What::FaultOver { .. } => {}
        }
    }

    fn submission(&mut self, id: SubmissionId) -> &mut SubmissionBook {
        self.submissions.entry(id).or_default()
    }

    fn found_task(&mut self, submission: Option<SubmissionId>, found: submission::Found) {
        let known = submission.and_then(|id| self.submissions.get_mut(&id));
        match known {
            Some(book) => book.found.push(found),
            None => self.verdict.broke(Rule::Phantom, found.ns, format!("task {} was submitted by nobody", found.task)),
        }
    }

    fn finish(mut self) -> Verdict {
        let mut owners = BTreeMap::new();
        for (id, book) in &self.submissions {
            book.check(*id, &mut self.verdict);
            for (job, index, task) in book.jobs() {
                owners.insert(job, job::Owner { submission: *id, task, index, acknowledged: book.is_acknowledged() });
            }
        }
        for (job, owner) in &owners {
            if self.jobs.get(job).is_none_or(|book| book.found.is_empty()) {
                let text = format!("job {job} of submission {} is not there in the end", owner.submission);
                self.verdict.broke(Rule::Lost, 0, text);
            }
        }
        for (job, book) in &self.jobs {
            book.check(*job, owners.get(job), &mut self.verdict);
        }
        self.verdict
    }
}
