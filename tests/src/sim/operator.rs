//! A client that kills, holds, releases, retries and re-prioritises jobs.

use super::calls::Calls;
use super::env::Env;
use super::event::{Answer, Ask, Event};
use super::history::History;
use super::watch::{Check, Watch};
use crate::ensure_that;
use moso_proto::JobState;
use moso_queue::command::{Action, Command, Reply, Target};
use rand::Rng;

/// Between two steps of an operator.
const STEP_MS: (u64, u64) = (300, 3_000);
/// PanDA's kill codes, with and without force.
const KILLS: [u8; 6] = [2, 9, 51, 55, 60, 91];

/// A client that acts on jobs.
pub struct Operator {
    client: usize,
    calls: Calls<()>,
}

impl Operator {
    /// An operator.
    pub fn new(client: usize) -> Operator {
        Operator { client, calls: Calls::new(client) }
    }

    /// Takes the next step.
    pub fn wake(&mut self, env: &mut Env, history: &mut History, watch: &Watch) {
        let hurried = env.plan.clients.floods && !env.calm;
        let step_ms = env.within(STEP_MS) / if hurried { 4 } else { 1 };
        env.after(step_ms, Event::Client(self.client));
        self.calls.timed_out(env, history);
        let drawn = if env.calm {
            let shard = env.rng.random_range(1..=env.plan.shards);
            let targets = held(watch, shard);
            Some((shard, Action::Release, targets))
        } else {
            draw(env, history)
        };
        let Some((shard, action, targets)) = drawn.filter(|(_, _, targets)| !targets.is_empty()) else {
            return;
        };
        // Thinks better of it at once: the ready index then has two entries of a job.
        let undo = matches!(action, Action::Hold(_)) && env.once_in(2);
        self.act(env, history, shard, action, targets.clone());
        if undo {
            self.act(env, history, shard, Action::Release, targets);
        }
    }

    fn act(&mut self, env: &mut Env, history: &mut History, shard: u16, action: Action, targets: Vec<Target>) {
        env.cover.count(match action {
            Action::Kill(_) => "operators: kill",
            Action::Hold(_) => "operators: hold",
            Action::Release => "operators: release",
            Action::Retry(_) => "operators: retry",
            Action::Priority(_) => "operators: priority",
        });
        let command = Command::Act { action, targets, actor: "operator".into() };
        let ask = Ask::Command(command.to_bytes().into());
        self.calls.send(env, history, shard, ask, ());
    }

    /// Takes an answer.
    pub fn answer(&mut self, env: &mut Env, history: &mut History, id: u64, answer: Answer) -> Check {
        self.calls.answered(env, history, id, &answer);
        if let Answer::Reply(reply) = answer {
            ensure_that!("reply fits command", matches!(reply, Reply::Acted { .. }), "{reply:?}");
        }
        Ok(())
    }
}

/// Everything that is held in a shard.
fn held(watch: &Watch, shard: u16) -> Vec<Target> {
    let machine = watch.oracle(shard).machine();
    let jobs = machine.jobs().from(0);
    let jobs = jobs.filter(|job| job.state == JobState::Throttled);
    let rests = machine.tasks_from(0);
    let rests = rests.filter(|task| task.rest_state == JobState::Throttled);
    jobs.map(|job| Target::Job(job.seq)).chain(rests.map(|task| Target::Rest(task.seq))).take(1_000).collect()
}

/// An action on some jobs of one acknowledged task.
fn draw(env: &mut Env, history: &History) -> Option<(u16, Action, Vec<Target>)> {
    let newest = history.acked.len().min(12) as u64;
    if newest == 0 {
        return None;
    }
    let back = env.within((1, newest)) as usize;
    let acked = history.acked[history.acked.len() - back];
    let action = match env.within((0, 9)) {
        0..=1 => Action::Kill(KILLS[env.rng.random_range(0..KILLS.len())]),
        2..=4 => Action::Hold("looked at".into()),
        5..=7 => Action::Release,
        8 => Action::Retry(env.rng.random_range(1..=3)),
        _ => Action::Priority(env.rng.random_range(0..5) * 100),
    };
    let mut targets = Vec::new();
    for _ in 0..env.rng.random_range(1..=4) {
        let at = env.rng.random_range(0..acked.jobs.min(20));
        targets.push(Target::Job(acked.task + 1 + u64::from(at)));
    }
    if env.once_in(3) {
        targets.push(Target::Rest(acked.task));
    }
    Some((acked.shard, action, targets))
}
