//! What is known of one job.

use super::{KEPT_PART, Rule, Verdict};
use crate::chaos::history::{Leased, Outcome, SubmissionId};

/// Whose a job is, by the answer to its submission.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub submission: SubmissionId,
    pub task: u64,
    pub index: u32,
    pub acknowledged: bool,
}

/// The job as the cluster shows it in the end.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub ns: u64,
    pub task: u64,
    pub state: String,
    pub attempt: u32,
    pub session: u64,
}

#[derive(Debug)]
struct Lease {
    given: Leased,
    session: u64,
    asked_ns: u64,
    answered_ns: u64,
}

#[derive(Debug)]
struct Report {
    attempt: u32,
    session: u64,
    outcome: Outcome,
    sent_ns: u64,
}

/// The latest heartbeat that was answered with the lease kept.
#[derive(Debug)]
struct Kept {
    attempt: u32,
    session: u64,
    sent_ns: u64,
}

/// What is known of one job.
#[derive(Debug, Default)]
pub(super) struct JobBook {
    leases: Vec<Lease>,
    kept: Vec<Kept>,
    reports: Vec<Report>,
    /// Accepted results and when the answer came.
    accepted: Vec<Report>,
    pub found: Vec<Found>,
}

impl JobBook {
    pub fn leased(&mut self, lease: &Leased, session: u64, asked_ns: u64, answered_ns: u64) {
        self.leases.push(Lease { given: lease.clone(), session, asked_ns, answered_ns });
    }

    pub fn kept(&mut self, attempt: u32, session: u64, sent_ns: u64) {
        match self.kept.iter_mut().find(|kept| (kept.attempt, kept.session) == (attempt, session)) {
            Some(kept) => kept.sent_ns = kept.sent_ns.max(sent_ns),
            None => self.kept.push(Kept { attempt, session, sent_ns }),
        }
    }

    pub fn reported(&mut self, attempt: u32, session: u64, outcome: Outcome, sent_ns: u64) {
        self.reports.push(Report { attempt, session, outcome, sent_ns });
    }

    pub fn accepted(&mut self, attempt: u32, session: u64, outcome: Outcome, ns: u64) {
        self.accepted.push(Report { attempt, session, outcome, sent_ns: ns });
    }

    pub fn check(&self, job: u64, owner: Option<&Owner>, verdict: &mut Verdict) {
        let acknowledged = owner.is_some_and(|owner| owner.acknowledged);
        verdict.jobs += u64::from(acknowledged);
        verdict.jobs_unacknowledged += u64::from(!acknowledged && !self.found.is_empty());
        verdict.leases_again += self.leases.len().saturating_sub(1) as u64;
        self.check_identity(job, owner, verdict);
        self.check_attempts(job, verdict);
        self.check_kept(job, verdict);
        self.check_full_term(job, verdict);
        self.check_results(job, verdict);
        self.check_end(job, verdict);
    }

    /// Every lease and every listing shows the job that was submitted.
    fn check_identity(&self, job: u64, owner: Option<&Owner>, verdict: &mut Verdict) {
        let Some(owner) = owner else {
            let ns = self.leases.first().map(|lease| lease.answered_ns).or(self.found.first().map(|found| found.ns));
            verdict.broke(Rule::Phantom, ns.unwrap_or(0), format!("job {job} was submitted by nobody"));
            return;
        };
        for lease in &self.leases {
            let given = &lease.given;
            if (given.submission, given.task, given.index) != (owner.submission, owner.task, owner.index) {
                let text = format!(
                    "the lease of job {job} says task {}, position {}, submission {}; it is task {}, position {}, submission {}",
                    given.task, given.index, given.submission, owner.task, owner.index, owner.submission
                );
                verdict.broke(Rule::WrongJob, lease.answered_ns, text);
            }
        }
        for found in self.found.iter().filter(|found| found.task != owner.task) {
            let text = format!("job {job} is listed with task {}, it is of task {}", found.task, owner.task);
            verdict.broke(Rule::WrongJob, found.ns, text);
        }
    }

    /// Attempts rise, and each belongs to one session and one answer.
    fn check_attempts(&self, job: u64, verdict: &mut Verdict) {
        for (at, lease) in self.leases.iter().enumerate() {
            for earlier in &self.leases[..at] {
                let (a, b) = (earlier.given.attempt, lease.given.attempt);
                if a == b {
                    let text = format!(
                        "attempt {a} of job {job} was given to session {:x} and to session {:x}",
                        earlier.session, lease.session
                    );
                    verdict.broke(Rule::AttemptReused, lease.answered_ns, text);
                } else if a > b && earlier.answered_ns < lease.asked_ns {
                    // Answers may overtake each other; a request sent after an answer was read is later for sure.
                    let text = format!("job {job} was given as attempt {a}, and later as attempt {b}");
                    verdict.broke(Rule::AttemptFell, lease.answered_ns, text);
                }
            }
        }
    }

    /// A lease that was acknowledged as kept is not given to anybody else. The heartbeat was taken up at the time of its
    /// sending at the earliest, and the next lease was given at the time of its answer at the latest.
    fn check_kept(&self, job: u64, verdict: &mut Verdict) {
        for lease in &self.leases {
            let ttl_ns = (f64::from(lease.given.ttl_ms) * 1e6 * KEPT_PART) as u64;
            let earlier = self.kept.iter().filter(|kept| kept.attempt < lease.given.attempt);
            for kept in earlier.filter(|kept| kept.sent_ns + ttl_ns > lease.answered_ns) {
                // Its holder gave it back, or may have.
                let is_it = |report: &&Report| (report.attempt, report.session) == (kept.attempt, kept.session);
                let gave_back = self.reports.iter().filter(is_it).any(|report| report.sent_ns < lease.answered_ns);
                if !gave_back {
                    let text = format!(
                        "attempt {} of job {job} was kept for session {:x} by a heartbeat sent at {:.3} s, yet attempt {} was given to session {:x}, answered at {:.3} s; the lease is {} ms",
                        kept.attempt,
                        kept.session,
                        kept.sent_ns as f64 / 1e9,
                        lease.given.attempt,
                        lease.session,
                        lease.answered_ns as f64 / 1e9,
                        lease.given.ttl_ms
                    );
                    verdict.broke(Rule::LeaseBroken, lease.answered_ns, text);
                }
            }
        }
    }

    /// A lease lasts for its time. It began when it was asked for at the earliest.
    fn check_full_term(&self, job: u64, verdict: &mut Verdict) {
        for holder in &self.leases {
            let ends_ns = holder.asked_ns + (f64::from(holder.given.ttl_ms) * 1e6 * KEPT_PART) as u64;
            let later = self.leases.iter().filter(|lease| lease.given.attempt > holder.given.attempt);
            for lease in later.filter(|lease| (holder.asked_ns..ends_ns).contains(&lease.answered_ns)) {
                // Also a result of an earlier attempt: a worker may leave the lease aside that comes while it is decided.
                let mut reports = self.reports.iter().filter(|report| report.session == holder.session);
                if !reports.any(|report| report.sent_ns < lease.answered_ns) {
                    let text = format!(
                        "attempt {} of job {job}, asked for by session {:x} at {:.3} s, was a lease of {} ms, yet attempt {} was given to session {:x}, answered at {:.3} s",
                        holder.given.attempt,
                        holder.session,
                        holder.asked_ns as f64 / 1e9,
                        holder.given.ttl_ms,
                        lease.given.attempt,
                        lease.session,
                        lease.answered_ns as f64 / 1e9
                    );
                    verdict.broke(Rule::LeaseCutShort, lease.answered_ns, text);
                }
            }
        }
    }

    /// One success, of the last attempt; no result of an attempt that was over.
    fn check_results(&self, job: u64, verdict: &mut Verdict) {
        let mut successes = self.accepted.iter().filter(|report| report.outcome == Outcome::Finished);
        if let Some(first) = successes.next() {
            verdict.successes += 1;
            for second in successes {
                let text = format!(
                    "job {job} succeeded as attempt {} of session {:x} and as attempt {} of session {:x}",
                    first.attempt, first.session, second.attempt, second.session
                );
                verdict.broke(Rule::Doubled, second.sent_ns, text);
            }
        }
        for accepted in &self.accepted {
            let is_it = |report: &&Report| (report.attempt, report.session) == (accepted.attempt, accepted.session);
            let sent_ns = self.reports.iter().find(is_it).map(|report| report.sent_ns);
            for lease in self.leases.iter().filter(|lease| lease.given.attempt > accepted.attempt) {
                let stale = sent_ns.is_some_and(|sent_ns| lease.answered_ns < sent_ns);
                let text = format!(
                    "job {job}: {:?} of attempt {} was accepted, attempt {} was given",
                    accepted.outcome, accepted.attempt, lease.given.attempt
                );
                if stale {
                    verdict.broke(Rule::StaleAccepted, accepted.sent_ns, text);
                } else if accepted.outcome == Outcome::Finished {
                    // In whatever order the two answers were read: once a job has succeeded it is not given again, and
                    // once it is given again the earlier attempt cannot succeed.
                    verdict.broke(Rule::LeasedAfterEnd, lease.answered_ns, text);
                }
            }
        }
    }

    /// The job is there once, as a success, by the attempt that was acknowledged or at least reported.
    fn check_end(&self, job: u64, verdict: &mut Verdict) {
        let Some(found) = self.found.first() else { return };
        if self.found.len() > 1 {
            verdict.broke(Rule::Doubled, found.ns, format!("job {job} is listed {} times", self.found.len()));
        }
        if found.state != "finished" {
            let text = format!("job {job} is {}, attempt {}", found.state, found.attempt);
            verdict.broke(Rule::NotEnded, found.ns, text);
            return;
        }
        let end = (found.attempt, found.session);
        let success = |report: &&Report| report.outcome == Outcome::Finished;
        match self.accepted.iter().find(success) {
            Some(accepted) if (accepted.attempt, accepted.session) != end => {
                let text = format!(
                    "job {job} ended by attempt {} of session {:x}, but attempt {} of session {:x} was acknowledged",
                    found.attempt, found.session, accepted.attempt, accepted.session
                );
                verdict.broke(Rule::ForeignEnd, found.ns, text);
            }
            Some(_) => {}
            None if self.reports.iter().filter(success).any(|report| (report.attempt, report.session) == end) => {
                verdict.successes_unseen += 1;
            }
            None => {
                let text = format!(
                    "job {job} ended by attempt {} of session {:x}, which reported no success",
                    found.attempt, found.session
                );
                verdict.broke(Rule::ForeignEnd, found.ns, text);
            }
        }
        if let Some(later) = self.leases.iter().find(|lease| lease.given.attempt > found.attempt) {
            let text =
                format!("job {job} ended by attempt {}, yet attempt {} was given", found.attempt, later.given.attempt);
            verdict.broke(Rule::StaleAccepted, found.ns, text);
        }
    }
}
