//! Histories with planted violations, each found by its rule and by no other, and odd ones that break none.

use super::*;
use crate::chaos::history::{Leased, Outcome};

const A: u64 = 0xa;
const B: u64 = 0xb;
const SUBMISSION: SubmissionId = SubmissionId([1; 16]);
const TASK: u64 = 100;
const JOB: u64 = 101;
const SECOND: u64 = 1_000_000_000;

/// Events a second apart.
#[derive(Default)]
struct Story {
    events: Vec<Event>,
    requests: u64,
}

impl Story {
    fn at(mut self, seconds: u64, what: What) -> Self {
        self.events.push(Event { ns: seconds * SECOND, what });
        self
    }

    fn then(self, what: What) -> Self {
        let seconds = self.events.last().map_or(0, |event| event.ns / SECOND) + 1;
        self.at(seconds, what)
    }

    /// One job, acknowledged.
    fn submitted() -> Self {
        let invoke = What::SubmitInvoke { submission: SUBMISSION, jobs: 1 };
        Story::default().then(invoke).then(submit_ok(TASK, false))
    }

    /// A time in which nothing happens, longer than a lease.
    fn silence(self) -> Self {
        let seconds = self.events.last().map_or(0, |event| event.ns / SECOND) + 30;
        self.at(seconds, What::WorkerDied { session: 0xdead })
    }

    /// Asked for and answered within a second.
    fn lease(mut self, session: u64, attempt: u32) -> Self {
        self.requests += 1;
        let request = self.requests;
        self.then(What::LeaseInvoke { session, request }).then(lease_ok(session, request, attempt))
    }

    fn beat(self, session: u64, seq: u64, attempt: u32) -> Self {
        let held = vec![(JOB, attempt)];
        let answer = What::BeatOk { session, seq, lost: Vec::new(), unknown: Vec::new() };
        self.then(What::BeatInvoke { session, seq, held }).then(answer)
    }

    fn send(self, session: u64, attempt: u32, outcome: Outcome) -> Self {
        self.then(What::ResultInvoke { session, job: JOB, attempt, outcome })
    }

    fn accept(self, session: u64, attempt: u32, outcome: Outcome) -> Self {
        self.then(What::ResultOk { session, job: JOB, attempt, outcome })
    }

    fn finish(self, session: u64, attempt: u32) -> Self {
        self.send(session, attempt, Outcome::Finished).accept(session, attempt, Outcome::Finished)
    }

    fn found_task(self, task: u64) -> Self {
        let (first_job, jobs, finished) = (task + 1, 1, 1);
        self.then(What::FoundTask { task, submission: Some(SUBMISSION), first_job, jobs, finished })
    }

    fn found(self, attempt: u32, session: u64) -> Self {
        self.found_task(TASK).then(found_job("finished", attempt, session))
    }

    fn broken(self) -> Vec<Rule> {
        let verdict = check(&self.events);
        verdict.violations.iter().map(|violation| violation.rule).collect()
    }
}

fn submit_ok(task: u64, repeated: bool) -> What {
    What::SubmitOk { submission: SUBMISSION, task, first_job: task + 1, jobs: 1, repeated }
}

fn submit_unknown() -> What {
    What::SubmitUnknown { submission: SUBMISSION, reason: "abandoned".to_owned() }
}

fn lease_ok(session: u64, request: u64, attempt: u32) -> What {
    let lease = Leased { job: JOB, attempt, task: TASK, index: 0, submission: SUBMISSION, ttl_ms: 15_000 };
    What::LeaseOk { session, request, leases: vec![lease] }
}

fn found_job(state: &str, attempt: u32, session: u64) -> What {
    What::FoundJob { job: JOB, task: TASK, state: state.to_owned(), attempt, session }
}

#[test]
fn a_plain_life_breaks_no_rule() {
    let story = Story::submitted().lease(A, 1).beat(A, 1, 1).finish(A, 1).found(1, A);
    let verdict = check(&story.events);
    assert_eq!(verdict, Verdict { submissions: 1, jobs: 1, successes: 1, ..Verdict::default() });
}

#[test]
fn a_second_attempt_after_silence_breaks_no_rule() {
    let story = Story::submitted().lease(A, 1).beat(A, 1, 1).at(40, What::WorkerDied { session: A });
    let verdict = check(&story.lease(B, 2).finish(B, 2).found(2, B).events);
    assert_eq!((verdict.violations.len(), verdict.leases_again), (0, 1));
}

#[test]
fn acknowledged_and_gone_is_lost() {
    assert_eq!(Story::submitted().broken(), [Rule::Lost, Rule::Lost], "the task and its job");
    assert_eq!(Story::submitted().lease(A, 1).finish(A, 1).found_task(TASK).broken(), [Rule::Lost]);
}

#[test]
fn an_abandoned_submission_may_exist_or_not() {
    let invoke = || What::SubmitInvoke { submission: SUBMISSION, jobs: 1 };
    let abandoned = || Story::default().then(invoke()).then(submit_unknown());
    assert_eq!(abandoned().broken(), []);
    let story = abandoned().lease(A, 1).finish(A, 1).found(1, A);
    let verdict = check(&story.events);
    assert_eq!((verdict.violations.len(), verdict.jobs_unacknowledged), (0, 1));
    // Repeated, it must be the one that was made.
    let story = abandoned().lease(A, 1).then(invoke()).then(submit_ok(TASK, true));
    assert_eq!(story.finish(A, 1).found(1, A).broken(), []);
}

#[test]
fn what_nobody_submitted_is_a_phantom() {
    let task = What::FoundTask { task: 7, submission: None, first_job: 8, jobs: 1, finished: 1 };
    assert_eq!(Story::default().then(task).broken(), [Rule::Phantom]);
    assert_eq!(Story::default().lease(A, 1).broken(), [Rule::Phantom]);
    assert_eq!(Story::default().then(found_job("finished", 1, A)).broken(), [Rule::Phantom, Rule::ForeignEnd]);
}

#[test]
fn what_was_refused_must_not_exist() {
    let refused = What::SubmitFail { submission: SUBMISSION, code: "invalid".to_owned() };
    let invoke = || What::SubmitInvoke { submission: SUBMISSION, jobs: 1 };
    let story = || Story::default().then(invoke()).then(refused.clone());
    assert_eq!(story().broken(), []);
    assert_eq!(story().lease(A, 1).finish(A, 1).found(1, A).broken(), [Rule::Phantom]);
    // Refused only as a repeat: the first try may have made it.
    let story = Story::default().then(invoke()).then(submit_unknown()).then(invoke()).then(refused.clone());
    assert_eq!(story.lease(A, 1).finish(A, 1).found(1, A).broken(), []);
}

#[test]
fn a_submission_makes_one_task() {
    let again = What::SubmitInvoke { submission: SUBMISSION, jobs: 1 };
    let twice = |task, repeated| Story::submitted().then(again.clone()).then(submit_ok(task, repeated));
    let ended = |story: Story| story.lease(A, 1).finish(A, 1).found(1, A);
    assert_eq!(ended(twice(TASK, true)).broken(), []);
    assert_eq!(ended(twice(TASK, false)).broken(), [Rule::SubmissionDoubled], "not known the second time");
    assert_eq!(ended(twice(200, true)).broken(), [Rule::SubmissionDoubled], "another task the second time");
    assert_eq!(ended(Story::submitted()).found_task(200).broken(), [Rule::SubmissionDoubled], "two tasks found");
}

#[test]
fn a_job_has_one_success() {
    let story = Story::submitted().lease(A, 1).silence().lease(B, 2).finish(B, 2);
    let broken = story.accept(A, 1, Outcome::Finished).found(2, B).broken();
    assert!(broken.contains(&Rule::Doubled), "{broken:?}");
    let story = Story::submitted().lease(A, 1).finish(A, 1).found(1, A).then(found_job("finished", 1, A));
    assert_eq!(story.broken(), [Rule::Doubled], "listed twice");
}

#[test]
fn every_job_ends_as_a_success() {
    for state in ["activated", "running", "failed", "closed"] {
        let story = Story::submitted().lease(A, 1).found_task(TASK).then(found_job(state, 1, A));
        assert_eq!(story.broken(), [Rule::NotEnded], "{state}");
    }
    let (task, first_job, jobs, finished) = (TASK, JOB, 1, 0);
    let uncounted = What::FoundTask { task, submission: Some(SUBMISSION), first_job, jobs, finished };
    let story = Story::submitted().lease(A, 1).finish(A, 1).then(uncounted).then(found_job("finished", 1, A));
    assert_eq!(story.broken(), [Rule::NotEnded], "not counted by its task");
}

#[test]
fn the_recorded_end_is_the_acknowledged_one() {
    let story = || Story::submitted().lease(A, 1);
    assert_eq!(story().finish(A, 1).found(1, B).broken(), [Rule::ForeignEnd], "another session");
    assert_eq!(story().found(1, A).broken(), [Rule::ForeignEnd], "reported by nobody");
    assert_eq!(story().send(A, 1, Outcome::Failed).found(1, A).broken(), [Rule::ForeignEnd], "a failure reported");
    let verdict = check(&story().send(A, 1, Outcome::Finished).found(1, A).events);
    assert_eq!((verdict.violations.len(), verdict.successes_unseen), (0, 1));
}

#[test]
fn an_attempt_is_given_once() {
    let story = Story::submitted().lease(A, 1).lease(B, 1);
    assert_eq!(story.finish(A, 1).found(1, A).broken(), [Rule::AttemptReused]);
    let story = Story::submitted().lease(A, 1).lease(A, 1);
    assert_eq!(story.finish(A, 1).found(1, A).broken(), [Rule::AttemptReused], "twice to one session");
}

#[test]
fn attempts_rise_unless_their_answers_overtake() {
    let fallen = Story::submitted().lease(A, 2).silence().lease(B, 1).finish(A, 2).found(2, A);
    assert_eq!(fallen.broken(), [Rule::AttemptFell]);
    // The request for attempt 1 was sent before attempt 2 was answered, its answer came late.
    let story = Story::submitted().then(What::LeaseInvoke { session: B, request: 9 }).silence().lease(A, 2);
    assert_eq!(story.then(lease_ok(B, 9, 1)).finish(A, 2).found(2, A).broken(), []);
}

#[test]
fn no_result_of_a_stale_attempt_is_accepted() {
    for outcome in [Outcome::Failed, Outcome::Released] {
        let story = Story::submitted().lease(A, 1).silence().lease(B, 2).send(A, 1, outcome).accept(A, 1, outcome);
        assert_eq!(story.finish(B, 2).found(2, B).broken(), [Rule::StaleAccepted], "{outcome:?}");
        // In order: the attempt was over when the next was given.
        let story = Story::submitted().lease(A, 1).send(A, 1, outcome).accept(A, 1, outcome).lease(B, 2);
        assert_eq!(story.finish(B, 2).found(2, B).broken(), [], "{outcome:?}");
        // Its acknowledgement is read late.
        let story = Story::submitted().lease(A, 1).send(A, 1, outcome).lease(B, 2).accept(A, 1, outcome);
        assert_eq!(story.finish(B, 2).found(2, B).broken(), [], "{outcome:?}");
    }
    let story = Story::submitted().lease(A, 1).silence().lease(B, 2).finish(A, 1).found(1, A);
    assert_eq!(story.broken(), [Rule::StaleAccepted, Rule::StaleAccepted], "the result, and the record");
}

#[test]
fn an_ended_job_is_not_given_out() {
    let story = Story::submitted().lease(A, 1).finish(A, 1).lease(B, 2).found(1, A);
    assert_eq!(story.broken(), [Rule::LeasedAfterEnd, Rule::StaleAccepted], "the lease, and the record");
}

#[test]
fn a_lease_kept_by_heartbeats_is_not_given_away() {
    let held = || Story::submitted().lease(A, 1).at(20, What::BeatInvoke { session: A, seq: 1, held: vec![(JOB, 1)] });
    let answer = |lost: Vec<u64>, unknown: Vec<u64>| What::BeatOk { session: A, seq: 1, lost, unknown };
    let kept = || held().then(answer(Vec::new(), Vec::new()));
    let given = |story: Story, seconds| {
        let story = story.at(seconds, What::LeaseInvoke { session: B, request: 9 }).then(lease_ok(B, 9, 2));
        story.finish(B, 2).found(2, B).broken()
    };
    // The heartbeat was sent at 20 s and protects for 0.9 of 15 s.
    assert_eq!(given(kept(), 31), [Rule::LeaseBroken]);
    assert_eq!(given(kept(), 33), []);
    assert_eq!(given(held().then(answer(vec![JOB], Vec::new())), 24), [], "told that it is lost");
    assert_eq!(given(held().then(answer(Vec::new(), vec![JOB])), 24), [], "no leader answered");
    assert_eq!(given(held(), 24), [], "not answered");
    let given_back = kept().send(A, 1, Outcome::Released);
    assert_eq!(given(given_back, 24), [], "given back");
    // Kept although it is another's already.
    let story = Story::submitted().lease(A, 1).at(60, What::WorkerDied { session: B }).lease(B, 2).beat(A, 5, 1);
    assert_eq!(story.finish(B, 2).found(2, B).broken(), [Rule::LeaseBroken]);
}

#[test]
fn a_lease_lasts_for_its_time() {
    // Asked for at 3 s.
    let given = |story: Story, seconds| {
        let story = story.at(seconds, What::LeaseInvoke { session: B, request: 9 }).then(lease_ok(B, 9, 2));
        story.finish(B, 2).found(2, B).broken()
    };
    let leased = || Story::submitted().lease(A, 1);
    assert_eq!(given(leased(), 10), [Rule::LeaseCutShort]);
    assert_eq!(
        given(leased().then(What::WorkerDied { session: A }), 10),
        [Rule::LeaseCutShort],
        "death gives nothing back"
    );
    assert_eq!(given(leased(), 16), []);
    assert_eq!(given(leased().send(A, 1, Outcome::Released), 10), [], "given back");
}

#[test]
fn a_lease_names_the_job_that_was_submitted() {
    let mut lease = Leased { job: JOB, attempt: 1, task: TASK, index: 0, submission: SUBMISSION, ttl_ms: 15_000 };
    let story = |lease: &Leased| {
        let asked = Story::submitted().then(What::LeaseInvoke { session: A, request: 1 });
        asked.then(What::LeaseOk { session: A, request: 1, leases: vec![lease.clone()] }).finish(A, 1).found(1, A)
    };
    assert_eq!(story(&lease).broken(), []);
    lease.submission = SubmissionId([2; 16]);
    assert_eq!(story(&lease).broken(), [Rule::WrongJob]);
    (lease.submission, lease.index) = (SUBMISSION, 4);
    assert_eq!(story(&lease).broken(), [Rule::WrongJob]);
    let many = What::FoundTask { task: TASK, submission: Some(SUBMISSION), first_job: JOB, jobs: 2, finished: 2 };
    let story = Story::submitted().lease(A, 1).finish(A, 1).then(many).then(found_job("finished", 1, A));
    assert_eq!(story.broken(), [Rule::WrongJob], "more jobs than were asked for");
}
