//! Random commands over few numbers, so that they meet the same jobs, sessions and submissions again and again.

use crate::language::submission;
use moso_proto::JobState;
use moso_queue::class::ClassKey;
use moso_queue::command::{Action, Command, JobResult, Outcome, Submit, SubmitJob, Target};
use moso_queue::job::Report;
use moso_queue::machine::Machine;
use moso_queue::task::RetryPolicy;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Job numbers that commands name: small, since the first tasks are.
const SEQS: std::ops::Range<u64> = 0..48;
const SESSIONS: std::ops::Range<u64> = 0..4;

/// What happens in a random run. Some of it needs to look at the machine to hit anything.
#[derive(Clone, Debug)]
pub enum Op {
    /// As it stands.
    Plain(Command),
    /// A result of the session that holds or held the job, for its attempt less `behind`.
    Result { seq: u64, behind: u32, outcome: Outcome, report: Option<Box<Report>> },
    /// An expiry of the attempt that is current.
    Expire(Vec<u64>),
    /// Word of the holder that it does not hold the job.
    Unheld(u64),
    /// A phase of the attempt that is current.
    Phase(u64, u8),
    /// A time-out of the state and time that are current.
    TimeOut { jobs: Vec<u64>, fail: bool, code: u8 },
}

impl Op {
    /// The command that it stands for in this state.
    pub fn command(&self, machine: &Machine) -> Command {
        match self {
            Op::Plain(command) => command.clone(),
            Op::Result { seq, behind, outcome, report } => {
                let (session, attempt) = machine.job(*seq).map_or((1, 1), |j| (j.session, j.attempt));
                let attempt = attempt.saturating_sub(*behind);
                let result = JobResult { seq: *seq, attempt, outcome: *outcome, report: report.clone() };
                Command::Results { session, results: vec![result.clone(), result] }
            }
            Op::Expire(jobs) => {
                let meant = jobs.iter().filter_map(|&seq| Some((seq, machine.job(seq)?.attempt)));
                Command::Expire { jobs: meant.collect() }
            }
            Op::Unheld(seq) => {
                let (session, attempt) = machine.job(*seq).map_or((1, 1), |j| (j.session, j.attempt));
                Command::Unheld { session, jobs: vec![(*seq, attempt)] }
            }
            Op::Phase(seq, phase) => {
                let attempt = machine.job(*seq).map_or(1, |j| j.attempt);
                Command::Phase { jobs: vec![(*seq, attempt, *phase)] }
            }
            Op::TimeOut { jobs, fail, code } => {
                let meant = jobs.iter().filter_map(|&seq| machine.job(seq).map(|j| (seq, j.state, j.changed_ms)));
                Command::TimeOut { jobs: meant.collect(), fail: *fail, code: *code }
            }
        }
    }
}

fn seqs() -> impl Strategy<Value = Vec<u64>> {
    vec(SEQS, 0..6)
}

fn text() -> impl Strategy<Value = Box<str>> {
    "[a-zé]{0,6}".prop_map(Into::into)
}

fn class() -> impl Strategy<Value = ClassKey> {
    (1..3u32, 1..3u32, prop::sample::select(vec!["managed", "user"]), vec("[a-b]", 0..2)).prop_map(
        |(queue, cores, label, tags)| ClassKey {
            queue,
            cores,
            label: label.into(),
            owner: "ann".into(),
            tags: tags.into_iter().map(Into::into).collect(),
            ..ClassKey::default()
        },
    )
}

fn retry() -> impl Strategy<Value = RetryPolicy> {
    (0..5u32, 0..3_000u32, 0..4_000u32, 0..10_000u32).prop_map(|(attempts, initial, factor, ceiling)| RetryPolicy {
        max_attempts: attempts,
        backoff_initial_ms: initial,
        backoff_factor_milli: factor,
        backoff_ceiling_ms: ceiling,
    })
}

fn submit_job() -> impl Strategy<Value = SubmitJob> {
    let depends_on = prop_oneof![3 => Just(Vec::new()), 2 => vec(0..6u32, 1..3)];
    (vec(any::<u8>(), 0..4), option::of(-3..3i32), option::weighted(0.2, class()), depends_on).prop_map(
        |(body, priority, class, depends_on)| SubmitJob {
            body: body.into(),
            priority,
            class: class.map(Box::new),
            depends_on,
        },
    )
}

/// Jobs that wait only for earlier ones, mostly: anything else is refused.
fn submit_jobs() -> impl Strategy<Value = Vec<SubmitJob>> {
    (vec(submit_job(), 1..7), any::<u8>()).prop_map(|(mut jobs, dice)| {
        if dice > 20 {
            for (at, job) in jobs.iter_mut().enumerate() {
                job.depends_on.retain(|&parent| (parent as usize) < at);
            }
        }
        jobs
    })
}

/// A submission.
pub fn submit() -> impl Strategy<Value = Submit> {
    let jobs = prop_oneof![
        3 => submit_jobs().prop_map(|jobs| (0, jobs)),
        1 => (1..9u32).prop_map(|array| (array, Vec::new())),
    ];
    let time = || prop_oneof![3 => Just(0), 1 => 0..30_000u64];
    let policy = (retry(), time(), time(), any::<bool>(), 0..3u32);
    ((0..40u64, 0..2u64), (text(), text()), class(), -3..3i32, policy, jobs).prop_map(
        |((id, content), (name, body_type), class, priority, policy, (array, jobs))| {
            let (retry, not_before_ms, expires_at_ms, run_dependents, max_failed) = policy;
            Submit {
                submission: submission(id * 500, id),
                content,
                name,
                class,
                priority,
                retry,
                not_before_ms,
                expires_at_ms,
                run_dependents,
                max_failed,
                body_type,
                body: vec![7; array as usize].into(),
                array,
                jobs,
            }
        },
    )
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop::sample::select(vec![
        Outcome::Finished,
        Outcome::Failed,
        Outcome::Failed,
        Outcome::Released,
        Outcome::Cancelled,
        Outcome::FailedForGood,
    ])
}

fn report() -> impl Strategy<Value = Option<Box<Report>>> {
    let report = (any::<i32>(), vec((text(), any::<i32>(), text()), 0..2), vec(any::<u8>(), 0..5), any::<u64>());
    option::of(report.prop_map(|(exit_code, errors, output, cpu_ms)| {
        Box::new(Report { exit_code, errors, output: output.into(), cpu_ms, ..Report::default() })
    }))
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        prop::sample::select(vec![0, 2, 3, 9, 51, 55, 99]).prop_map(Action::Kill),
        text().prop_map(Action::Hold),
        Just(Action::Release),
        Just(Action::Release),
        (0..3u32).prop_map(Action::Retry),
        (-3..3i32).prop_map(Action::Priority),
    ]
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![3 => SEQS.prop_map(Target::Job), 1 => SEQS.prop_map(Target::Rest)]
}

fn state() -> impl Strategy<Value = JobState> {
    prop::sample::select(JobState::ALL.to_vec())
}

/// Any command.
pub fn command() -> impl Strategy<Value = Command> {
    let result = (SEQS, 0..4u32, outcome(), report()).prop_map(|(seq, attempt, outcome, report)| JobResult {
        seq,
        attempt,
        outcome,
        report,
    });
    prop_oneof![
        4 => submit().prop_map(|submit| Command::Submit(Box::new(submit))),
        6 => (SESSIONS, text(), 0..9_000u32, any::<u32>(), seqs()).prop_map(
            |(session, worker, ttl_ms, request, jobs)| Command::Lease { session, worker, ttl_ms, request, jobs }
        ),
        1 => (SESSIONS, vec((SEQS, 0..4u32), 0..4)).prop_map(|(session, jobs)| Command::Unheld { session, jobs }),
        2 => (SESSIONS, vec(result, 0..4)).prop_map(|(session, results)| Command::Results { session, results }),
        1 => vec((SEQS, 0..4u32), 0..4).prop_map(|jobs| Command::Expire { jobs }),
        1 => vec((SEQS, 0..4u32, 0..4u8), 0..4).prop_map(|jobs| Command::Phase { jobs }),
        2 => seqs().prop_map(|jobs| Command::Wake { jobs }),
        1 => (vec((SEQS, state(), 0..30_000u64), 0..4), any::<bool>(), any::<u8>())
            .prop_map(|(jobs, fail, code)| Command::TimeOut { jobs, fail, code }),
        4 => (action(), vec(target(), 0..4), text())
            .prop_map(|(action, targets, actor)| Command::Act { action, targets, actor }),
        1 => (0..20_000u64).prop_map(|below_ms| Command::Prune { below_ms }),
    ]
}

/// Something that happens.
pub fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => command().prop_map(Op::Plain),
        4 => (SEQS, 0..10u32, outcome(), report()).prop_map(|(seq, behind, outcome, report)| Op::Result {
            seq,
            behind: behind.saturating_sub(8),
            outcome,
            report,
        }),
        1 => seqs().prop_map(Op::Expire),
        1 => SEQS.prop_map(Op::Unheld),
        1 => (SEQS, 0..4u8).prop_map(|(seq, phase)| Op::Phase(seq, phase)),
        1 => (seqs(), any::<bool>(), any::<u8>()).prop_map(|(jobs, fail, code)| Op::TimeOut { jobs, fail, code }),
    ]
}
