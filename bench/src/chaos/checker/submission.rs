//! What is known of one submission.

use super::{Rule, Verdict};
use crate::chaos::history::SubmissionId;

/// An acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub ns: u64,
    pub task: u64,
    pub first: u64,
    pub jobs: u32,
    /// The cluster says that it did not know the id before.
    pub new: bool,
}

/// A task of this submission that the cluster shows in the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub ns: u64,
    pub task: u64,
    pub first: u64,
    pub jobs: u32,
    /// Jobs that the task counts as finished.
    pub finished: u32,
}

/// What is known of one submission.
#[derive(Debug, Default)]
pub(super) struct SubmissionBook {
    /// Jobs asked for.
    jobs: u32,
    tries: u32,
    failed: u32,
    answers: Vec<Answer>,
    /// Tries that were given up.
    unknown: u32,
    pub found: Vec<Found>,
}

impl SubmissionBook {
    pub fn invoked(&mut self, jobs: u32) {
        self.jobs = jobs;
        self.tries += 1;
    }

    pub fn answered(&mut self, answer: Answer) {
        self.answers.push(answer);
    }

    pub fn failed(&mut self) {
        self.failed += 1;
    }

    pub fn unknown(&mut self) {
        self.unknown += 1;
    }

    pub fn is_acknowledged(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Jobs, their positions and their task, as first acknowledged, or else as found.
    pub fn jobs(&self) -> impl Iterator<Item = (u64, u32, u64)> {
        let answered = self.answers.first().map(|a| (a.task, a.first, a.jobs));
        let (task, first, jobs) =
            answered.or(self.found.first().map(|f| (f.task, f.first, f.jobs))).unwrap_or_default();
        (0..jobs).map(move |index| (first + u64::from(index), index, task))
    }

    pub fn check(&self, id: SubmissionId, verdict: &mut Verdict) {
        verdict.submissions += u64::from(self.is_acknowledged());
        self.check_answers(id, verdict);
        if self.found.len() > 1 {
            let tasks: Vec<u64> = self.found.iter().map(|found| found.task).collect();
            verdict.broke(Rule::SubmissionDoubled, self.found[1].ns, format!("submission {id} made tasks {tasks:?}"));
        }
        if let Some(found) = self.found.first() {
            // Each try was refused without effect.
            if self.tries > 0 && self.failed == self.tries {
                let text = format!("submission {id} was refused, yet there is task {}", found.task);
                verdict.broke(Rule::Phantom, found.ns, text);
            }
            if found.jobs != self.jobs {
                let text =
                    format!("submission {id} asked for {} jobs, task {} has {}", self.jobs, found.task, found.jobs);
                verdict.broke(Rule::WrongJob, found.ns, text);
            } else if found.finished != found.jobs {
                let text = format!("task {} counts {} of {} jobs as finished", found.task, found.finished, found.jobs);
                verdict.broke(Rule::NotEnded, found.ns, text);
            }
        }
    }

    fn check_answers(&self, id: SubmissionId, verdict: &mut Verdict) {
        let Some(first) = self.answers.first() else { return };
        if first.jobs != self.jobs {
            let text = format!("submission {id} asked for {} jobs, {} were acknowledged", self.jobs, first.jobs);
            verdict.broke(Rule::WrongJob, first.ns, text);
        }
        for answer in &self.answers[1..] {
            if (answer.task, answer.first, answer.jobs) != (first.task, first.first, first.jobs) {
                let text = format!("submission {id} was answered with task {} and task {}", first.task, answer.task);
                verdict.broke(Rule::SubmissionDoubled, answer.ns, text);
            }
        }
        let mut new = self.answers.iter().filter(|answer| answer.new).skip(1);
        if let Some(second) = new.next() {
            let text = format!("submission {id} was answered twice as one that was not known");
            verdict.broke(Rule::SubmissionDoubled, second.ns, text);
        }
        match self.found.first() {
            Some(found) if (found.task, found.first) != (first.task, first.first) => {
                let text = format!("submission {id} was answered with task {}, found as {}", first.task, found.task);
                verdict.broke(Rule::SubmissionDoubled, found.ns, text);
            }
            Some(_) => {}
            None => {
                let text = format!("task {} of submission {id} is not there in the end", first.task);
                verdict.broke(Rule::Lost, first.ns, text);
            }
        }
    }
}
