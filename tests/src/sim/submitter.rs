//! A client that submits tasks, and repeats a submission under its id until it knows what became of it.

use super::calls::Calls;
use super::env::{EPOCH_MS, Env};
use super::event::{Answer, Ask, Event};
use super::history::{Acked, History};
use super::watch::{Check, Violation, Watch};
use crate::ensure_that;
use bytes::Bytes;
use moso_proto::Code;
use moso_queue::ClassKey;
use moso_queue::command::{Command, Reply, Submit, SubmitJob};
use moso_queue::task::RetryPolicy;
use rand::Rng;
use std::collections::BTreeMap;

/// Queues that jobs are for.
pub const QUEUES: u32 = 2;
/// Body bytes of a job in a flood: two of them do not fit in one entry.
const FLOOD_BYTES: usize = 140 << 10;
/// Submissions of a flood: more than a shard gathers.
const FLOOD_TASKS: usize = 110;
/// Floods of one submitter.
const FLOODS_MAX: usize = 1;
/// Submissions that wait for an answer at a time, floods aside.
const OPEN_MAX: usize = 4;

/// A submission as its client sees it.
struct Submission {
    shard: u16,
    encoded: Bytes,
    content: u64,
    jobs: u32,
    task: Option<u64>,
    /// Waits for an answer.
    open: usize,
    /// Whether it may have been done.
    unknown: bool,
    given_up: bool,
}

/// Why a submission was sent.
#[derive(Clone, Copy)]
enum Sent {
    Submission([u8; 16]),
    /// The same id with other content.
    Conflict,
    /// A read.
    Read,
}

/// A client that submits tasks.
pub struct Submitter {
    client: usize,
    calls: Calls<Sent>,
    submissions: BTreeMap<[u8; 16], Submission>,
    left: usize,
    floods: usize,
    /// The last submission was made.
    last: bool,
}

impl Submitter {
    /// A submitter.
    pub fn new(client: usize, tasks: usize) -> Submitter {
        Submitter {
            client,
            calls: Calls::new(client),
            submissions: BTreeMap::new(),
            left: tasks,
            floods: 0,
            last: false,
        }
    }

    /// All submissions have an answer, or never will.
    pub fn is_done(&self) -> bool {
        let mut all = self.submissions.values();
        self.last && all.all(|s| s.task.is_some() || s.given_up)
    }

    /// Takes the next step.
    pub fn wake(&mut self, env: &mut Env, history: &mut History, watch: &mut Watch) {
        for (sent, _) in self.calls.timed_out(env, history) {
            if let Some(submission) = self.submission(sent) {
                submission.open -= 1;
                submission.unknown = true;
            }
        }
        self.repeat(env, history);
        if env.plan.clients.floods && self.floods < FLOODS_MAX && env.once_in(10) && !env.calm {
            self.floods += 1;
            env.cover.count("clients: floods");
            for _ in 0..FLOOD_TASKS {
                self.submit(env, history, watch, FLOOD_BYTES);
            }
        }
        // One more after the faults: a cluster that takes nothing any more must not pass.
        let last = env.calm && !std::mem::replace(&mut self.last, env.calm);
        if last || (self.left > 0 && !env.calm && self.calls.open() < OPEN_MAX) {
            self.left = self.left.saturating_sub(1);
            self.submit(env, history, watch, 0);
        }
        let repeats = env.plan.clients.repeats;
        if !env.calm && env.chance(repeats) {
            self.disturb(env, history, watch);
        }
        if env.once_in(3) {
            let shards = u64::from(env.plan.shards);
            let shard = env.within((1, shards)) as u16;
            self.calls.send(env, history, shard, Ask::Read, Sent::Read);
        }
        let think_ms = env.plan.clients.think_ms;
        let pause_ms = env.within(think_ms);
        env.after(pause_ms, Event::Client(self.client));
    }

    fn submission(&mut self, sent: Sent) -> Option<&mut Submission> {
        match sent {
            Sent::Submission(id) => self.submissions.get_mut(&id),
            Sent::Conflict | Sent::Read => None,
        }
    }

    fn submit(&mut self, env: &mut Env, history: &mut History, watch: &mut Watch, bytes: usize) {
        let shards = u64::from(env.plan.shards);
        let shard = env.within((1, shards)) as u16;
        let submit = draw_submit(env, bytes);
        let jobs = submit.array.max(submit.jobs.len() as u32);
        let (id, content) = (submit.submission, submit.content);
        watch.oracle_mut(shard).0.invoke(id, content);
        let submission = Submission {
            shard,
            encoded: Command::Submit(Box::new(submit)).to_bytes().into(),
            content,
            jobs,
            task: None,
            open: 0,
            unknown: false,
            given_up: false,
        };
        self.submissions.insert(id, submission);
        self.send(env, history, id);
    }

    fn send(&mut self, env: &mut Env, history: &mut History, id: [u8; 16]) {
        let Some(submission) = self.submissions.get_mut(&id) else {
            return;
        };
        submission.open += 1;
        let ask = Ask::Command(submission.encoded.clone());
        let shard = submission.shard;
        self.calls.send(env, history, shard, ask, Sent::Submission(id));
    }

    /// Repeats what has no answer.
    fn repeat(&mut self, env: &mut Env, history: &mut History) {
        let again: Vec<[u8; 16]> = self
            .submissions
            .iter()
            .filter(|(_, s)| s.task.is_none() && !s.given_up && s.open == 0)
            .map(|(id, _)| *id)
            .collect();
        for id in again {
            env.cover.count("clients: submissions repeated");
            self.send(env, history, id);
        }
    }

    /// Repeats what has an answer, sends twice at once, or uses an id again for something else.
    fn disturb(&mut self, env: &mut Env, history: &mut History, watch: &mut Watch) {
        if self.submissions.is_empty() {
            return;
        }
        let at = env.within((0, self.submissions.len() as u64 - 1)) as usize;
        let Some((&id, submission)) = self.submissions.iter().nth(at) else {
            return;
        };
        // Only once the first content is known to hold: before, either may win.
        if env.once_in(4) && submission.task.is_some() {
            let shard = submission.shard;
            let other = Submit { submission: id, ..draw_submit(env, 0) };
            watch.oracle_mut(shard).0.invoke(id, other.content);
            let ask = Ask::Command(Command::Submit(Box::new(other)).to_bytes().into());
            env.cover.count("clients: ids used twice");
            self.calls.send(env, history, shard, ask, Sent::Conflict);
        } else {
            env.cover.count("clients: submissions sent twice");
            self.send(env, history, id);
        }
    }

    /// Takes an answer.
    pub fn answer(&mut self, env: &mut Env, history: &mut History, watch: &Watch, id: u64, answer: Answer) -> Check {
        let Some((sent, shard)) = self.calls.answered(env, history, id, &answer) else {
            return Ok(());
        };
        match (sent, answer) {
            (Sent::Submission(submission), Answer::Reply(reply)) => {
                self.told(env, history, watch, shard, submission, reply)
            }
            (Sent::Conflict, Answer::Reply(Reply::Submitted { task, .. })) => Violation::new(
                "I2 one task per submission",
                format!("shard {shard}: other content under a known id made or was taken for task {task}"),
            ),
            (sent, answer) => {
                if let Some(submission) = self.submission(sent) {
                    submission.open -= 1;
                    submission.unknown |= matches!(answer, Answer::Unknown);
                }
                Ok(())
            }
        }
    }

    fn told(
        &mut self,
        env: &mut Env,
        history: &mut History,
        watch: &Watch,
        shard: u16,
        id: [u8; 16],
        reply: Reply,
    ) -> Check {
        let Some(submission) = self.submissions.get_mut(&id) else {
            return Ok(());
        };
        submission.open -= 1;
        match reply {
            Reply::Submitted { task, jobs, .. } => {
                ensure_that!(
                    "I2 one task per submission",
                    jobs == submission.jobs && submission.task.is_none_or(|known| known == task),
                    "shard {shard}: task {:?} with {} jobs was acknowledged again as {task} with {jobs}",
                    submission.task,
                    submission.jobs
                );
                if submission.task.replace(task).is_none() {
                    env.cover.count("clients: submissions acknowledged");
                    let acked = Acked { shard, submission: id, task, jobs };
                    history.submitted(watch, acked)?;
                }
                Ok(())
            }
            Reply::Refused(refusal) => {
                let expected = match refusal.code {
                    // Its time is over, or the leader's clock is far from the client's.
                    Code::SubmissionExpired | Code::Invalid => true,
                    Code::Busy => true,
                    _ => false,
                };
                ensure_that!(
                    "submission refused for a reason",
                    expected,
                    "shard {shard} content {}: {refusal:?}",
                    submission.content
                );
                env.cover.count("clients: submissions refused");
                submission.given_up = submission.task.is_none();
                // Another one will do after the faults.
                self.last = false;
                Ok(())
            }
            other => Violation::new("reply fits command", format!("{other:?}")),
        }
    }
}

/// Draws a submission; with `bytes`, one large job.
fn draw_submit(env: &mut Env, bytes: usize) -> Submit {
    let mut submission: [u8; 16] = env.rng.random();
    submission[..6].copy_from_slice(&env.client_wall_ms().to_be_bytes()[2..]);
    let jobs_max = env.plan.clients.jobs_max;
    let wall_ms = EPOCH_MS + env.now_ms;
    let submit = Submit {
        submission,
        content: env.rng.random(),
        name: "task".into(),
        class: draw_class(env),
        priority: env.rng.random_range(0..4) * 100,
        body_type: "text".into(),
        ..Submit::default()
    };
    if bytes > 0 {
        let job = SubmitJob { body: vec![7; bytes].into(), ..SubmitJob::default() };
        return Submit { jobs: vec![job], ..submit };
    }
    let submit = Submit {
        retry: RetryPolicy {
            max_attempts: env.rng.random_range(1..=6),
            backoff_initial_ms: *pick(env, &[0, 0, 200, 2_000]),
            backoff_factor_milli: 2_000,
            backoff_ceiling_ms: 8_000,
        },
        not_before_ms: if !env.calm && env.once_in(8) { wall_ms + env.within((0, 15_000)) } else { 0 },
        expires_at_ms: if !env.calm && env.once_in(10) { wall_ms + env.within((1_000, 30_000)) } else { 0 },
        run_dependents: env.once_in(3),
        max_failed: if env.once_in(4) { env.rng.random_range(1..=3) } else { 0 },
        ..submit
    };
    if env.once_in(3) {
        let array_max = env.plan.clients.array_max;
        return Submit { array: env.rng.random_range(1..=array_max), body: Bytes::from_static(b"array"), ..submit };
    }
    let count = env.rng.random_range(1..=jobs_max);
    let linked = env.once_in(3);
    let jobs = (0..count).map(|at| draw_job(env, at as u32, linked)).collect();
    Submit { jobs, ..submit }
}

fn draw_job(env: &mut Env, at: u32, linked: bool) -> SubmitJob {
    let mut depends_on = Vec::new();
    if linked && at > 0 {
        for _ in 0..env.rng.random_range(0..=2) {
            depends_on.push(env.rng.random_range(0..at));
        }
        depends_on.sort_unstable();
        depends_on.dedup();
    }
    SubmitJob {
        body: Bytes::copy_from_slice(&env.rng.random::<[u8; 8]>()),
        priority: env.once_in(4).then(|| env.rng.random_range(0..4) * 100),
        class: env.once_in(6).then(|| Box::new(draw_class(env))),
        depends_on,
    }
}

fn draw_class(env: &mut Env) -> ClassKey {
    ClassKey {
        queue: env.rng.random_range(1..=QUEUES),
        share: env.rng.random_range(1..=2),
        owner: (*pick(env, &["ann", "bob"])).into(),
        cores: *pick(env, &[1, 1, 1, 8]),
        ..ClassKey::default()
    }
}

fn pick<'a, T>(env: &mut Env, from: &'a [T]) -> &'a T {
    &from[env.rng.random_range(0..from.len())]
}
