//! A worker: it leases, holds with heartbeats, reports; it dies without a word, falls silent and comes back late, and
//! now and then reports a job that it was told it had lost. One session is one life.

use super::history::{Leased, Outcome, SubmissionId, What};
use super::load::{Load, Phase, submission_of};
use moso_client::v1::{Heartbeat, HeartbeatReply, JobResult, LeaseReply, LeaseRequest, NodeFrame, ResultAck};
use moso_client::{Error, NodeRef, Session, SessionOptions, Turn};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Jobs held at once.
const SLOTS: usize = 8;
/// Phase of a job that runs.
const RUNNING: u32 = 2;
/// Between heartbeats, and between complete ones when leases may have been lost on their way.
const BEAT_EVERY: Duration = Duration::from_secs(3);
const SETTLE_EVERY: Duration = Duration::from_secs(1);
/// Longest wait of a lease request.
const LEASE_WAIT_MS: u32 = 2_000;
/// After an empty answer.
const EMPTY_PAUSE: Duration = Duration::from_millis(50);
/// A node that has not answered a heartbeat for so long is left.
const SILENCE_MAX: Duration = Duration::from_secs(8);
/// A frame that the network does not take for so long: the stream is given up.
const SEND_MAX: Duration = Duration::from_secs(5);
/// Mean life of a worker, and mean time until it falls silent, s; and how long it then is, s: up to two lease times.
const LIFE_S: f64 = 60.0;
const SILENT_AFTER_S: f64 = 120.0;
const SILENT_S: (f64, f64) = (5.0, 35.0);
/// Part of the jobs told to be lost that are reported all the same.
const DISOBEYS: f64 = 0.5;
/// Part of the attempts that fail, and that are given back.
const FAILS: f64 = 0.05;
const RELEASES: f64 = 0.03;
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Plays workers, one after the other, until the run is over.
pub(super) async fn run(load: Arc<Load>, index: usize, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    for life in 1_u64.. {
        if load.phase() == Phase::Over {
            return;
        }
        let node = Some(NodeRef::Index(rng.random_range(0..1_000)));
        let options = SessionOptions { worker: format!("chaos-{index}-{life}"), node };
        match load.client.session(options).await {
            Ok(session) => Worker::new(load.clone(), session, rng.random()).live().await,
            Err(error) => {
                tracing::debug!(%error, "no session");
                sleep(PAUSE_MAX).await;
            }
        }
    }
}

/// A leased job.
struct Held {
    attempt: u32,
    outcome: Outcome,
    /// When it ends.
    due: Instant,
    /// The cluster said that it is lost; it is reported all the same.
    lost: bool,
}

struct Worker {
    load: Arc<Load>,
    session: Session,
    rng: StdRng,
    held: BTreeMap<u64, Held>,
    /// Results that await their answer: attempt and outcome.
    pending: HashMap<u64, (u32, Outcome)>,
    /// Heartbeats that await their answer.
    beats: VecDeque<(u64, Instant)>,
    beat_at: Instant,
    lease_at: Instant,
    dies_at: Instant,
    silent_at: Instant,
}

impl Worker {
    fn new(load: Arc<Load>, session: Session, seed: u64) -> Worker {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = Instant::now();
        let mut after = |mean_s: f64| {
            let drawn: f64 = rng.random_range(f64::EPSILON..1.0);
            now + Duration::from_secs_f64(-drawn.ln() * mean_s)
        };
        let (dies_at, silent_at) = (after(LIFE_S), after(SILENT_AFTER_S));
        Worker {
            load,
            session,
            rng,
            held: BTreeMap::new(),
            pending: HashMap::new(),
            beats: VecDeque::new(),
            beat_at: now + BEAT_EVERY,
            lease_at: now,
            dies_at,
            silent_at,
        }
    }

    async fn live(mut self) {
        loop {
            let phase = self.load.phase();
            if phase == Phase::Over {
                self.end(false);
                // Nothing depends on the farewell.
                let _ = self.session.close().await;
                return;
            }
            let now = Instant::now();
            if phase == Phase::Load && now >= self.dies_at {
                // Dropped without a word.
                return self.end(true);
            }
            if phase == Phase::Load && now >= self.silent_at {
                self.silent_at = now + Duration::from_secs_f64(SILENT_AFTER_S);
                // Neither reads nor speaks; its jobs run on, and are reported late.
                sleep(Duration::from_secs_f64(self.rng.random_range(SILENT_S.0..SILENT_S.1))).await;
                self.beats.clear();
            }
            if self.beats.front().is_some_and(|(_, sent)| sent.elapsed() > SILENCE_MAX) {
                self.reconnect().await;
            }
            self.speak(Instant::now()).await;
            let load = self.load.clone();
            let wake = self.wakes_at();
            tokio::select! {
                frame = self.session.next() => self.take(frame).await,
                () = sleep_until(wake) => {}
                () = load.reached(Phase::Over) => {}
            }
        }
    }

    /// What is under way is unknown from now on.
    fn end(&mut self, dead: bool) {
        let session = self.session.number();
        for (job, (attempt, _)) in self.pending.drain() {
            self.load.history.add(What::ResultUnknown { session, job, attempt });
        }
        self.forget_lease();
        if dead {
            self.load.history.add(What::WorkerDied { session });
        }
    }

    fn forget_lease(&self) {
        if self.session.awaits_lease() {
            let (session, request) = (self.session.number(), self.session.request_id());
            self.load.history.add(What::LeaseUnknown { session, request });
        }
    }

    fn wakes_at(&self) -> Instant {
        let due = self.held.values().map(|held| held.due).min();
        let lease = (!self.session.awaits_lease() && self.held.len() < SLOTS).then_some(self.lease_at);
        let silence = self.beats.front().map(|(_, sent)| *sent + SILENCE_MAX);
        let times = [due, lease, silence, Some(self.beat_at), Some(self.dies_at), Some(self.silent_at)];
        let next = times.into_iter().flatten().min().unwrap_or(self.beat_at);
        // While it drains it no longer dies: a time that is past must not make it spin.
        next.max(Instant::now() + Duration::from_millis(2))
    }

    /// Says what is due, in one frame.
    async fn speak(&mut self, now: Instant) {
        let results = self.due_results(now);
        let (heartbeat, complete) = self.due_beat(now);
        let lease = self.due_request(now);
        let turn = Turn { results, heartbeat, complete, lease };
        if turn.is_empty() {
            return;
        }
        match timeout(SEND_MAX, self.session.turn(turn)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "a turn was not sent");
                self.reconnect().await;
            }
            Err(_) => self.reconnect().await,
        }
    }

    fn due_results(&mut self, now: Instant) -> Vec<JobResult> {
        let session = self.session.number();
        let due: Vec<u64> = self.held.iter().filter(|(_, held)| held.due <= now).map(|(job, _)| *job).collect();
        let mut results = Vec::with_capacity(due.len());
        for job in due {
            let Some(Held { attempt, outcome, .. }) = self.held.remove(&job) else { continue };
            self.load.history.add(What::ResultInvoke { session, job, attempt, outcome });
            self.pending.insert(job, (attempt, outcome));
            results.push(result_of(job, attempt, outcome));
        }
        results
    }

    fn due_beat(&mut self, now: Instant) -> (Option<Heartbeat>, bool) {
        let settles = self.session.settles();
        let due = if settles { self.beat_at - (BEAT_EVERY - SETTLE_EVERY) } else { self.beat_at };
        if now < due {
            return (None, false);
        }
        self.beat_at = now + BEAT_EVERY;
        let held = || self.held.iter().filter(|(_, held)| !held.lost);
        let named: Vec<(u64, u32)> = held().map(|(job, held)| (*job, held.attempt)).collect();
        let seq = self.session.heartbeat_seq() + 1;
        let heartbeat = Heartbeat {
            seq,
            jobs: named.iter().map(|(job, _)| *job).collect(),
            attempts: named.iter().map(|(_, attempt)| *attempt).collect(),
            phases: vec![RUNNING; named.len()],
            ..Heartbeat::default()
        };
        self.load.history.add(What::BeatInvoke { session: self.session.number(), seq, held: named });
        self.beats.push_back((seq, now));
        (Some(heartbeat), settles)
    }

    fn due_request(&mut self, now: Instant) -> Option<LeaseRequest> {
        let free = SLOTS.saturating_sub(self.held.len());
        if free == 0 || self.session.awaits_lease() || now < self.lease_at {
            return None;
        }
        let request = self.session.request_id() + 1;
        self.load.history.add(What::LeaseInvoke { session: self.session.number(), request });
        Some(LeaseRequest {
            queues: vec![self.load.queue.clone()],
            max_jobs: free as u32,
            wait_ms: LEASE_WAIT_MS,
            ..LeaseRequest::default()
        })
    }

    /// Opens a new stream; the session sends again what was not answered.
    async fn reconnect(&mut self) {
        self.beats.clear();
        while self.load.phase() < Phase::Over {
            self.forget_lease();
            if self.session.awaits_lease() {
                let request = self.session.request_id() + 1;
                self.load.history.add(What::LeaseInvoke { session: self.session.number(), request });
            }
            match self.session.reconnect().await {
                Ok(()) => break,
                Err(error) => tracing::debug!(%error, "no new stream"),
            }
            sleep(PAUSE_MAX).await;
        }
        self.beat_at = Instant::now();
    }

    async fn take(&mut self, frame: moso_client::Result<NodeFrame>) {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                if let Error::Defect { message, .. } = &error {
                    self.load.problem(format!("a session was answered with a defect: {message}"));
                }
                return self.reconnect().await;
            }
        };
        if let Some(ack) = frame.results {
            self.take_ack(ack).await;
        }
        if let Some(reply) = frame.heartbeat {
            self.take_beat(reply);
        }
        if let Some(reply) = frame.lease {
            self.take_leases(reply);
        }
        if let Some(fault) = &frame.fault {
            tracing::debug!(code = fault.code, message = fault.message, "session fault");
            sleep(pause(fault.retry_after_ms)).await;
        }
        if frame.drain || frame.fault.is_some() {
            self.reconnect().await;
        }
    }

    async fn take_ack(&mut self, ack: ResultAck) {
        let session = self.session.number();
        for job in ack.accepted {
            // One that is not pending was answered before.
            if let Some((attempt, outcome)) = self.pending.remove(&job) {
                self.load.history.add(What::ResultOk { session, job, attempt, outcome });
                self.load.counters.results.fetch_add(1, Relaxed);
            }
        }
        for refusal in ack.refused {
            let job = refusal.job_id;
            if self.pending.get(&job).is_some_and(|(attempt, _)| *attempt == refusal.attempt) {
                self.pending.remove(&job);
                self.load.counters.results.fetch_add(1, Relaxed);
                let (attempt, code) = (refusal.attempt, refusal.code);
                self.load.history.add(What::ResultFail { session, job, attempt, code });
            }
        }
        if !ack.retry.is_empty() {
            sleep(PAUSE).await;
            if !matches!(timeout(SEND_MAX, self.session.turn(Turn::default())).await, Ok(Ok(()))) {
                self.reconnect().await;
            }
        }
    }

    fn take_beat(&mut self, reply: HeartbeatReply) {
        while self.beats.front().is_some_and(|(seq, _)| *seq <= reply.seq) {
            self.beats.pop_front();
        }
        for job in &reply.lost {
            let disobeys = self.rng.random_bool(DISOBEYS);
            match self.held.get_mut(job) {
                Some(held) if disobeys => held.lost = true,
                _ => drop(self.held.remove(job)),
            }
        }
        self.load.counters.heartbeats.fetch_add(1, Relaxed);
        let HeartbeatReply { seq, lost, unknown, .. } = reply;
        self.load.history.add(What::BeatOk { session: self.session.number(), seq, lost, unknown });
    }

    fn take_leases(&mut self, reply: LeaseReply) {
        let (session, request) = (self.session.number(), reply.request_id);
        if let Some(fault) = reply.fault {
            tracing::debug!(code = fault.code, message = fault.message, "no lease");
            self.load.history.add(What::LeaseUnknown { session, request });
            self.lease_at = Instant::now() + pause(fault.retry_after_ms);
            return;
        }
        let mut leases = Vec::with_capacity(reply.leases.len());
        let now = Instant::now();
        for lease in reply.leases {
            leases.push(Leased {
                job: lease.job_id,
                attempt: lease.attempt,
                task: lease.task_id,
                index: lease.index,
                // A body without an id is found as another submission's.
                submission: submission_of(&lease.body).unwrap_or(SubmissionId([0; 16])),
                ttl_ms: lease.ttl_ms,
            });
            // A result of an earlier attempt is under way, and its answer would not say which attempt it is for: this
            // lease is left to run out.
            if !self.pending.contains_key(&lease.job_id) {
                let (outcome, due) = (self.draw_outcome(), now + self.draw_time());
                self.held.insert(lease.job_id, Held { attempt: lease.attempt, outcome, due, lost: false });
            }
        }
        if leases.is_empty() {
            // An answer that did not wait for jobs is not followed by the next question at once.
            self.lease_at = now + EMPTY_PAUSE;
        }
        self.load.counters.leases.fetch_add(leases.len() as u64, Relaxed);
        self.load.history.add(What::LeaseOk { session, request, leases });
    }

    fn draw_outcome(&mut self) -> Outcome {
        match self.rng.random_range(0.0..1.0) {
            drawn if drawn < FAILS => Outcome::Failed,
            drawn if drawn < FAILS + RELEASES => Outcome::Released,
            _ => Outcome::Finished,
        }
    }

    /// How long a job runs: most are short, some take seconds, a few longer than a lease.
    fn draw_time(&mut self) -> Duration {
        let longest = self.load.job_max.as_secs_f64();
        let seconds = match self.rng.random_range(0..100) {
            0..90 => self.rng.random_range(0.05..0.4),
            90..98 => self.rng.random_range(1.0..4.0),
            _ => longest * self.rng.random_range(0.5..1.0),
        };
        Duration::from_secs_f64(seconds.min(longest))
    }
}

fn pause(retry_after_ms: u32) -> Duration {
    Duration::from_millis(retry_after_ms.into()).clamp(PAUSE, PAUSE_MAX)
}

fn result_of(job_id: u64, attempt: u32, outcome: Outcome) -> JobResult {
    use moso_client::v1::Outcome as Word;
    let word = match outcome {
        Outcome::Finished => Word::Finished,
        Outcome::Failed => Word::Failed,
        Outcome::Released => Word::Released,
    };
    let exit_code = i32::from(outcome == Outcome::Failed);
    JobResult { job_id, attempt, outcome: word.into(), exit_code, ..JobResult::default() }
}
