//! A client that leases jobs and runs them: heartbeats, results, and everything that workers do wrong: they die without
//! a word, come back late with attempts that others have by now, report twice, and report jobs of others.

use super::calls::Calls;
use super::env::Env;
use super::event::{Answer, Ask, Event};
use super::history::{Given, History};
use super::submitter::QUEUES;
use super::watch::{Check, Violation, Watch};
use crate::ensure_that;
use moso_proto::Code;
use moso_queue::command::{Command, JobResult, Outcome, Reply, ResultStatus};
use moso_queue::job::Report;
use moso_shard::core::Beaten;
use rand::Rng;
use std::collections::BTreeMap;

/// Between two steps of a worker.
const STEP_MS: (u64, u64) = (100, 500);
/// A dead worker comes back after this time.
const DEAD_MS: (u64, u64) = (500, 40_000);
/// Jobs that a worker holds once faults have ended, so that all work gets done soon.
const CALM_ROOM: usize = 100;
/// Results in one command.
const RESULTS_MAX: usize = 8;
/// Results that a dead session sends when it comes back.
const LATE_MAX: usize = 6;

/// A job that the worker runs, or thinks it does.
#[derive(Clone, Copy, Debug)]
struct Held {
    attempt: u32,
    begun_ms: u64,
    ends_ms: u64,
    outcome: Outcome,
}

/// Results on their way. Repeated until answered.
#[derive(Clone, Debug)]
struct Results {
    session: u64,
    results: Vec<JobResult>,
    /// The attempt was another's.
    forged: bool,
    /// The attempt may be another's, or nobody's.
    guessed: bool,
}

/// Why a call was sent.
#[derive(Clone, Debug)]
enum Sent {
    Lease { session: u64, request: u32 },
    Beat { session: u64 },
    Results(Results),
}

/// A client that leases jobs and runs them.
pub struct Worker {
    client: usize,
    name: Box<str>,
    calls: Calls<Sent>,
    sessions: u64,
    session: u64,
    held: BTreeMap<(u16, u64), Held>,
    beat_ms: u64,
    dead_until_ms: Option<u64>,
    /// Results to be sent again.
    again: Vec<(u16, Results)>,
    polls: usize,
    /// Number of the last request for jobs; counted round.
    request: u32,
    /// Requests that wait for an answer, oldest first.
    open_requests: Vec<u32>,
}

impl Worker {
    /// A worker.
    pub fn new(client: usize) -> Worker {
        let mut worker = Worker {
            client,
            name: format!("worker {client}").into(),
            calls: Calls::new(client),
            sessions: 0,
            session: 0,
            held: BTreeMap::new(),
            beat_ms: 0,
            dead_until_ms: None,
            again: Vec::new(),
            polls: 0,
            // Runs over its end soon.
            request: u32::MAX - 20,
            open_requests: Vec::new(),
        };
        worker.open_session();
        worker
    }

    fn open_session(&mut self) {
        self.sessions += 1;
        self.session = (self.client as u64) << 32 | self.sessions;
    }

    /// Goes silent.
    pub fn die(&mut self, env: &mut Env) {
        if self.dead_until_ms.is_none() {
            env.cover.count("workers: went silent");
            let dead_ms = env.within(DEAD_MS);
            self.dead_until_ms = Some(env.now_ms + dead_ms);
        }
    }

    /// Takes the next step.
    pub fn wake(&mut self, env: &mut Env, history: &mut History) {
        let step_ms = env.within(STEP_MS);
        env.after(step_ms, Event::Client(self.client));
        if let Some(until_ms) = self.dead_until_ms {
            if env.now_ms < until_ms && !env.calm {
                return;
            }
            self.dead_until_ms = None;
            self.come_back(env);
        }
        for (sent, shard) in self.calls.timed_out(env, history) {
            self.failed(sent, shard);
        }
        for (shard, results) in std::mem::take(&mut self.again) {
            self.report(env, history, shard, results);
        }
        self.end_jobs(env, history);
        if env.now_ms >= self.beat_ms {
            self.beat(env, history);
        }
        self.forge(env, history);
        let room = if env.calm { CALM_ROOM } else { env.plan.clients.room };
        if self.held.len() < room && self.polls < 2 {
            self.poll(env, history, room - self.held.len());
        }
        let deaths = env.plan.clients.deaths;
        if !env.calm && env.once_in(deaths) {
            self.die(env);
        }
    }

    /// After a silence: as if nothing had happened, with results of attempts long lost, or as a new session.
    fn come_back(&mut self, env: &mut Env) {
        let late: Vec<((u16, u64), Held)> = self.held.iter().map(|(k, h)| (*k, *h)).take(LATE_MAX).collect();
        let what = env.within((0, 2));
        env.cover.count(match what {
            0 => "workers: came back in their session",
            1 => "workers: came back with late results",
            _ => "workers: came back anew",
        });
        if what == 1 {
            for ((shard, seq), held) in late {
                let results = Results {
                    session: self.session,
                    results: vec![result(seq, held.attempt, held.outcome)],
                    forged: false,
                    guessed: false,
                };
                self.again.push((shard, results));
            }
        }
        if what > 0 {
            self.held.clear();
            if what == 2 {
                self.open_session();
            }
        }
    }

    /// Ends the jobs whose time has come, a command per shard.
    fn end_jobs(&mut self, env: &mut Env, history: &mut History) {
        let mut done: BTreeMap<u16, Vec<JobResult>> = BTreeMap::new();
        for (&(shard, seq), held) in &self.held {
            if held.ends_ms <= env.now_ms {
                let results = done.entry(shard).or_default();
                results.push(result(seq, held.attempt, held.outcome));
            }
        }
        for (shard, results) in done {
            for results in results.chunks(RESULTS_MAX) {
                for result in results {
                    self.held.remove(&(shard, result.seq));
                }
                let results =
                    Results { session: self.session, results: results.to_vec(), forged: false, guessed: false };
                let repeats = env.plan.clients.repeats;
                if !env.calm && env.chance(repeats) {
                    env.cover.count("workers: results sent twice");
                    self.report(env, history, shard, results.clone());
                }
                self.report(env, history, shard, results);
            }
        }
    }

    fn report(&mut self, env: &mut Env, history: &mut History, shard: u16, results: Results) {
        let command = Command::Results { session: results.session, results: results.results.clone() };
        let ask = Ask::Command(command.to_bytes().into());
        self.calls.send(env, history, shard, ask, Sent::Results(results));
    }

    fn beat(&mut self, env: &mut Env, history: &mut History) {
        let interval_ms = u64::from(env.plan.clients.ttl_ms) / 4;
        let jitter_ms = env.within((0, interval_ms / 5));
        self.beat_ms = env.now_ms + interval_ms * 9 / 10 + jitter_ms;
        let mut shards: BTreeMap<u16, Vec<(u64, u32, u8)>> = BTreeMap::new();
        for (&(shard, seq), held) in &self.held {
            let run_ms = env.now_ms - held.begun_ms;
            let phase = match run_ms {
                0..300 => 0,
                300..1_000 => 1,
                _ => 2,
            };
            let beats = shards.entry(shard).or_default();
            beats.push((seq, held.attempt, phase));
        }
        // Half of them are complete: then all shards must hear them.
        let settled = env.chance(0.5).then(|| self.settle(env, &mut shards));
        for (shard, beats) in shards {
            let sent = Sent::Beat { session: self.session };
            let ask = Ask::Beat { session: self.session, beats, settled };
            self.calls.send(env, history, shard, ask, sent);
        }
    }

    /// Lists results on their way as well, which are jobs held. Gives the last request that is settled: answered, or
    /// given up, so that a late answer is not taken.
    fn settle(&self, env: &Env, shards: &mut BTreeMap<u16, Vec<(u64, u32, u8)>>) -> u32 {
        let sent = self.calls.kept().filter_map(|(shard, sent)| match sent {
            Sent::Results(results) => Some((shard, results)),
            _ => None,
        });
        let waiting = self.again.iter().map(|(shard, results)| (*shard, results));
        for (shard, results) in sent.chain(waiting) {
            if results.session == self.session && !results.guessed {
                let beats = shards.entry(shard).or_default();
                // A job is listed once, by its newest attempt.
                for result in &results.results {
                    match beats.iter_mut().find(|beat| beat.0 == result.seq) {
                        Some(beat) if beat.1 < result.attempt => (beat.1, beat.2) = (result.attempt, 0),
                        Some(_) => {}
                        None => beats.push((result.seq, result.attempt, 0)),
                    }
                }
            }
        }
        for shard in 1..=env.plan.shards {
            shards.entry(shard).or_default();
        }
        self.open_requests.first().map_or(self.request, |oldest| oldest.wrapping_sub(1))
    }

    fn poll(&mut self, env: &mut Env, history: &mut History, room: usize) {
        let shards = u64::from(env.plan.shards);
        let shard = env.within((1, shards)) as u16;
        self.request = self.request.wrapping_add(1);
        self.open_requests.push(self.request);
        let ask = Ask::Lease {
            session: self.session,
            worker: self.name.clone(),
            ttl_ms: env.plan.clients.ttl_ms,
            queue: env.rng.random_range(1..=QUEUES),
            max: env.within((1, room as u64)) as usize,
            cores: if !env.calm && env.once_in(4) { 4 } else { 0 },
            request: self.request,
        };
        self.polls += 1;
        let sent = Sent::Lease { session: self.session, request: self.request };
        self.calls.send(env, history, shard, ask, sent);
    }

    /// Reports a job that another session holds or held.
    fn forge(&mut self, env: &mut Env, history: &mut History) {
        let forgeries = env.plan.clients.forgeries;
        if env.calm || history.given.is_empty() || !env.once_in(forgeries) {
            return;
        }
        let newest = history.given.len().min(40) as u64;
        let back = env.within((1, newest)) as usize;
        let given = history.given[history.given.len() - back];
        if given.session == self.session {
            return;
        }
        env.cover.count("workers: forged results");
        // The attempt after it may be this worker's own.
        let later = env.rng.random_range(0..=1);
        let attempt = given.attempt + later;
        let results = Results {
            session: self.session,
            results: vec![result(given.seq, attempt, Outcome::Finished)],
            forged: later == 0,
            guessed: true,
        };
        self.report(env, history, given.shard, results);
    }

    fn ended_poll(&mut self, request: u32) {
        self.polls -= 1;
        self.open_requests.retain(|open| *open != request);
    }

    /// A call had no effect, or none that is known.
    fn failed(&mut self, sent: Sent, shard: u16) {
        match sent {
            Sent::Lease { request, .. } => self.ended_poll(request),
            Sent::Beat { .. } => {}
            Sent::Results(results) if !results.forged => self.again.push((shard, results)),
            Sent::Results(_) => {}
        }
    }

    /// Takes an answer.
    pub fn answer(&mut self, env: &mut Env, history: &mut History, watch: &Watch, id: u64, answer: Answer) -> Check {
        if self.dead_until_ms.is_some() {
            return Ok(());
        }
        let Some((sent, shard)) = self.calls.answered(env, history, id, &answer) else {
            return Ok(());
        };
        match (sent, answer) {
            (Sent::Lease { session, request }, Answer::Reply(Reply::Leased(jobs))) => {
                self.ended_poll(request);
                self.leased(env, history, (shard, watch), session, &jobs)
            }
            (Sent::Beat { session }, Answer::Beaten(beaten)) => self.beaten(env, (shard, watch), session, &beaten),
            (Sent::Results(results), Answer::Reply(Reply::Results(statuses))) => {
                told(env, history, watch, shard, &results, &statuses)
            }
            (_, Answer::Reply(reply)) => Violation::new("reply fits command", format!("{reply:?}")),
            (sent, _) => {
                self.failed(sent, shard);
                Ok(())
            }
        }
    }

    fn leased(
        &mut self,
        env: &mut Env,
        history: &mut History,
        (shard, watch): (u16, &Watch),
        session: u64,
        jobs: &[(u64, u32)],
    ) -> Check {
        if session != self.session {
            return Ok(());
        }
        let failures = env.plan.clients.failures;
        let run_ms = if env.calm { (0, 500) } else { env.plan.clients.run_ms };
        for &(seq, attempt) in jobs {
            watch.oracle(shard).check_given(seq, attempt)?;
            env.cover.count("workers: jobs begun");
            let run_ms = env.within(run_ms);
            let held = Held {
                attempt,
                begun_ms: env.now_ms,
                ends_ms: env.now_ms + run_ms,
                outcome: if !env.calm && env.chance(failures) { draw_failure(env) } else { Outcome::Finished },
            };
            self.held.insert((shard, seq), held);
            let given = Given { shard, session, seq, attempt };
            history.given.push(given);
        }
        Ok(())
    }

    fn beaten(&mut self, env: &mut Env, (shard, watch): (u16, &Watch), session: u64, beaten: &Beaten) -> Check {
        for &seq in &beaten.lost {
            env.cover.count("workers: told that a lease is lost");
            if session == self.session
                && let Some(held) = self.held.remove(&(shard, seq))
            {
                watch.oracle(shard).check_given(seq, held.attempt)?;
            }
        }
        for &(seq, attempt) in &beaten.kill {
            env.cover.count("workers: told to kill");
            if let Some(held) = self.held.get_mut(&(shard, seq))
                && held.attempt == attempt
            {
                held.ends_ms = env.now_ms;
                held.outcome = Outcome::Cancelled;
            }
        }
        Ok(())
    }
}

fn told(
    env: &mut Env,
    history: &mut History,
    watch: &Watch,
    shard: u16,
    sent: &Results,
    statuses: &[ResultStatus],
) -> Check {
    for (result, status) in sent.results.iter().zip(statuses) {
        if !sent.guessed {
            watch.oracle(shard).check_given(result.seq, result.attempt)?;
        }
        match status {
            ResultStatus::Accepted => {
                ensure_that!(
                    "I4 forged result refused",
                    !sent.forged,
                    "shard {shard}: {result:?} of session {:x}",
                    sent.session
                );
                env.cover.count("workers: results acknowledged");
                if result.outcome == Outcome::Finished {
                    history.finished(watch, shard, result.seq, result.attempt)?;
                }
            }
            ResultStatus::Refused(code) => env.cover.count(match code {
                Code::StaleAttempt => "workers: refused, stale attempt",
                Code::ForeignLease => "workers: refused, foreign lease",
                Code::AlreadyEnded => "workers: refused, already ended",
                Code::WrongState => "workers: refused, wrong state",
                _ => "workers: refused, otherwise",
            }),
        }
    }
    Ok(())
}

fn result(seq: u64, attempt: u32, outcome: Outcome) -> JobResult {
    let failed = matches!(outcome, Outcome::Failed | Outcome::FailedForGood);
    let report = failed.then(|| {
        Box::new(Report {
            exit_code: 1,
            errors: vec![("pilot".into(), 1_305, "payload failed".into())],
            ..Report::default()
        })
    });
    JobResult { seq, attempt, outcome, report }
}

fn draw_failure(env: &mut Env) -> Outcome {
    match env.within((0, 9)) {
        0..=5 => Outcome::Failed,
        6..=7 => Outcome::Released,
        8 => Outcome::Cancelled,
        _ => Outcome::FailedForGood,
    }
}
