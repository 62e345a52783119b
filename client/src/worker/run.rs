//! The loop of a running worker: one task that owns the session and the leases.

use crate::error::{Error, Result};
use crate::limits::{FRAME_RESULTS_MAX, LEASE_WAIT_MAX, UNACKED_MAX};
use crate::retry::Backoff;
use crate::session::{Session, Turn};
use crate::wire::Wire;
use crate::worker::held::{Held, Taken};
use crate::worker::job::{Job, Stop};
use crate::worker::outcome::JobOutcome;
use crate::worker::{Control, Worker, WorkerReport};
use futures::FutureExt;
use futures::future::BoxFuture;
use moso_proto::v1::{Fault, JobResult, Lease, LeaseReply, LeaseRequest, NodeFrame, Outcome, ResultAck};
use rand::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

/// A result waits so long for others to share its frame, unless no job runs that could bring one.
const LINGER: Duration = Duration::from_millis(2);
/// With less room than this for frames, the next turn waits.
const ROOM_MIN: usize = 4;
/// When the queue for the network is full, it is looked at again after this.
const ROOM_WAIT: Duration = Duration::from_millis(10);
/// An empty answer that comes faster than this did not wait for jobs: the next request waits instead.
const EMPTY_FAST: Duration = Duration::from_millis(100);
/// A node that does not answer a recalled request for so long has forgotten it.
const RECALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A sleep that always something else ends.
const IDLE: Duration = Duration::from_secs(3600);
/// Between heartbeats of a worker that holds nothing, and says so.
const HEARTBEAT_IDLE: Duration = Duration::from_secs(15);
/// Not every shard could take up what is held: it is said again after this.
const SETTLE_AGAIN: Duration = Duration::from_secs(1);
/// Part of the interval by which a heartbeat comes earlier or later, so that workers do not beat in step.
const JITTER: f64 = 0.1;

/// A job's task has ended.
type Done = (u64, u32, JobOutcome);
type Connecting = BoxFuture<'static, Result<Wire>>;

enum Event {
    Frame(Result<NodeFrame>),
    Wire(Result<Wire>),
    Done(std::result::Result<Done, JoinError>),
    Control,
    Wake,
}

pub(crate) struct Run<F> {
    worker: Worker,
    handler: F,
    control: watch::Receiver<Control>,
    session: Session,
    /// The next stream; `None` while the present one works.
    connecting: Option<Connecting>,
    held: Held,
    tasks: JoinSet<Done>,
    /// Results for the next turn, and since when the first of them waits.
    results: Vec<JobResult>,
    results_since: Option<Instant>,
    asked_at: Instant,
    /// No request for jobs before this.
    lease_after: Instant,
    lease_backoff: Backoff,
    /// When the open request was replaced by an empty one, as the worker drains.
    recalled_at: Option<Instant>,
    heartbeat_at: Instant,
    /// When results the node wants again are sent.
    again_at: Instant,
    again_backoff: Backoff,
    reconnect_backoff: Backoff,
    /// Why the cluster will not have the worker.
    failure: Option<Error>,
    report: WorkerReport,
}

impl<F, Fut> Run<F>
where
    F: Fn(Job) -> Fut,
    Fut: Future<Output = JobOutcome> + Send + 'static,
{
    pub fn new(worker: Worker, session: Session, handler: F) -> Self {
        let now = Instant::now();
        Run {
            control: worker.control.subscribe(),
            worker,
            handler,
            session,
            connecting: None,
            held: Held::default(),
            tasks: JoinSet::new(),
            results: Vec::new(),
            results_since: None,
            asked_at: now,
            lease_after: now,
            lease_backoff: Backoff::new(),
            recalled_at: None,
            heartbeat_at: now,
            again_at: now,
            again_backoff: Backoff::new(),
            reconnect_backoff: Backoff::new(),
            failure: None,
            report: WorkerReport::default(),
        }
    }

    pub async fn until_drained(mut self) -> Result<WorkerReport> {
        while !self.is_done() {
            self.send_turn(Instant::now()).await;
            let event = self.next_event().await;
            self.on_event(event, Instant::now()).await;
            while let Some(done) = self.tasks.try_join_next() {
                self.on_done(done, Instant::now());
            }
            let fenced = self.held.fence(Instant::now());
            if fenced > 0 {
                tracing::warn!(fenced, "jobs stop, as their heartbeats are not answered");
            }
        }
        if self.connecting.is_none()
            && let Err(error) = self.session.close().await
        {
            tracing::debug!(%error, "the node did not take the farewell");
        }
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.report),
        }
    }

    fn control(&self) -> Control {
        *self.control.borrow()
    }

    fn is_draining(&self) -> bool {
        self.failure.is_some() || self.control() != Control::Run
    }

    fn is_done(&self) -> bool {
        let idle = self.is_draining() && self.held.is_empty() && self.tasks.is_empty();
        let recalled = self.recalled_at.is_some_and(|at| at.elapsed() >= RECALL_TIMEOUT);
        let reported =
            self.results.is_empty() && self.session.unacked() == 0 && (recalled || !self.session.awaits_lease());
        // Told to end at once, it does not wait for a cluster that is away.
        let hopeless = self.failure.is_some() && self.connecting.is_some();
        idle && (reported || hopeless)
    }

    async fn next_event(&mut self) -> Event {
        let wake = tokio::time::Instant::from_std(self.wake_at(Instant::now()));
        let Run { session, connecting, tasks, control, .. } = self;
        let link = async {
            match connecting {
                Some(connecting) => Event::Wire(connecting.await),
                None => Event::Frame(session.next().await),
            }
        };
        tokio::select! {
            event = link => event,
            Some(done) = tasks.join_next() => Event::Done(done),
            Ok(()) = control.changed() => Event::Control,
            () = tokio::time::sleep_until(wake) => Event::Wake,
        }
    }

    /// The next time at which something is due by the clock.
    fn wake_at(&self, now: Instant) -> Instant {
        let mut wake = now + IDLE;
        let mut due = |at: Instant| wake = wake.min(at);
        if let Some(at) = self.held.fence_at() {
            due(at);
        }
        if self.connecting.is_some() {
            return wake;
        }
        if self.session.room() < ROOM_MIN {
            due(now + ROOM_WAIT);
            return wake;
        }
        if self.beats() {
            due(self.heartbeat_at);
        }
        if let Some(at) = self.recalled_at
            && self.session.awaits_lease()
            && at + RECALL_TIMEOUT > now
        {
            due(at + RECALL_TIMEOUT);
        }
        if self.session.wants_again() {
            due(self.again_at);
        }
        match self.results_since {
            // With a full book of unacknowledged results, the next acknowledgement is what wakes.
            Some(since) if self.session.unacked() < UNACKED_MAX => due(since + LINGER),
            None if self.wants_jobs() => due(self.lease_after),
            _ => {}
        }
        wake
    }

    fn wants_jobs(&self) -> bool {
        !self.is_draining()
            && !self.session.awaits_lease()
            && self.held.len() < self.worker.slots
            && self.session.unacked() < UNACKED_MAX / 2
    }

    /// Whether there is anything to say in a heartbeat.
    fn beats(&self) -> bool {
        !self.held.is_empty() || self.session.settles()
    }

    async fn send_turn(&mut self, now: Instant) {
        if self.connecting.is_some() || self.session.room() < ROOM_MIN {
            return;
        }
        let again = self.session.wants_again() && self.again_at <= now;
        let turn = self.turn(now);
        if turn.is_empty() && !again {
            return;
        }
        if let Err(error) = self.session.turn(turn).await {
            self.on_broken(error);
        }
    }

    /// What is to be said now. Results and requests for jobs wait a little for further results.
    fn turn(&mut self, now: Instant) -> Turn {
        let mut turn = Turn::default();
        if self.beats() && self.heartbeat_at <= now {
            turn.heartbeat = Some(self.held.heartbeat(now));
            turn.complete = true;
            self.schedule_heartbeat(now);
        }
        let lingers = self.results_since.is_some_and(|since| !self.held.is_empty() && now < since + LINGER);
        if lingers && turn.heartbeat.is_none() {
            return turn;
        }
        if self.wants_jobs() && self.lease_after <= now {
            turn.lease = Some(self.request());
            self.asked_at = now;
        } else if self.is_draining() && self.session.awaits_lease() && self.recalled_at.is_none() {
            self.recalled_at = Some(now);
            turn.lease = Some(LeaseRequest { queues: self.worker.request.queues.clone(), ..LeaseRequest::default() });
        }
        let room = (UNACKED_MAX - self.session.unacked().min(UNACKED_MAX))
            .min((self.session.room() - ROOM_MIN + 1) * FRAME_RESULTS_MAX);
        let count = self.results.len().min(room);
        turn.results = self.results.drain(..count).collect();
        if self.results.is_empty() {
            self.results_since = None;
        }
        if let Some(beat) = &mut turn.heartbeat {
            // Not yet told, so not yet given back; of a job leased again meanwhile, the newer attempt counts.
            for result in self.results.iter().filter(|result| !self.held.holds(result.job_id)) {
                beat.jobs.push(result.job_id);
                beat.attempts.push(result.attempt);
                beat.phases.push(0);
            }
        }
        turn
    }

    fn request(&self) -> LeaseRequest {
        let free = self.worker.slots - self.held.len();
        LeaseRequest {
            max_jobs: free.min(self.worker.batch) as u32,
            wait_ms: LEASE_WAIT_MAX.as_millis() as u32,
            ..self.worker.request.clone()
        }
    }

    fn schedule_heartbeat(&mut self, now: Instant) {
        let interval = self.held.heartbeat_interval().unwrap_or(HEARTBEAT_IDLE);
        let factor = rand::rng().random_range(1.0 - JITTER..=1.0 + JITTER);
        self.heartbeat_at = now + interval.mul_f64(factor);
    }

    async fn on_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Frame(Ok(frame)) => self.on_frame(frame, now),
            Event::Frame(Err(error)) => self.on_broken(error),
            Event::Wire(Ok(wire)) => self.on_wire(wire, now).await,
            Event::Wire(Err(error)) => self.on_no_wire(error),
            Event::Done(done) => self.on_done(done, now),
            Event::Control => {
                if self.control() == Control::Abort {
                    self.held.stop_all();
                }
            }
            Event::Wake => {}
        }
    }

    fn on_frame(&mut self, frame: NodeFrame, now: Instant) {
        if let Some(reply) = frame.heartbeat {
            self.held.answered(&reply);
            if self.session.settles() && !reply.settled {
                self.heartbeat_at = self.heartbeat_at.min(now + SETTLE_AGAIN);
            }
        }
        if let Some(reply) = frame.lease {
            self.on_leases(reply, now);
        }
        for command in &frame.commands {
            self.held.command(command);
        }
        if let Some(ack) = frame.results {
            self.on_ack(ack, now);
        }
        if let Some(fault) = frame.fault {
            self.on_fault(fault, now);
        }
        if frame.drain {
            tracing::info!(node = self.session.node(), "the node stops; going on at another");
            self.connecting = Some(self.session.new_wire().boxed());
        }
    }

    fn on_leases(&mut self, reply: LeaseReply, now: Instant) {
        if let Some(fault) = reply.fault {
            self.on_fault(fault, now);
        } else if !reply.leases.is_empty() {
            self.lease_backoff.reset();
            self.lease_after = now;
        } else if now.duration_since(self.asked_at) < EMPTY_FAST {
            self.lease_after = now + self.lease_backoff.wait();
        }
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        if reply.unsettled {
            self.heartbeat_at = now;
        }
        let was_idle = self.held.is_empty() && !self.session.settles();
        for lease in reply.leases {
            self.on_lease(lease, now, now_ms);
        }
        if was_idle {
            self.schedule_heartbeat(now);
        } else if let Some(interval) = self.held.heartbeat_interval() {
            // A queue with a shorter interval than those before.
            self.heartbeat_at = self.heartbeat_at.min(now + interval);
        }
    }

    fn on_lease(&mut self, lease: Lease, now: Instant, now_ms: u64) {
        let (id, attempt) = (lease.job_id, lease.attempt);
        let full = self.is_draining() || self.held.len() >= self.worker.slots;
        let taken = match full {
            true => Taken::Busy,
            false => self.held.insert(lease, now, now_ms),
        };
        match taken {
            Taken::Twice => {}
            Taken::Busy => self.push(JobOutcome::released().into_result(id, attempt, 0), now),
            Taken::New(job) => {
                let run = catch_unwind(AssertUnwindSafe(|| (self.handler)(job)));
                self.tasks.spawn(async move {
                    let outcome = match run {
                        Ok(run) => AssertUnwindSafe(run).catch_unwind().await.ok(),
                        Err(_) => None,
                    };
                    let panicked = || JobOutcome::failed("worker", 1, "the job's closure panicked");
                    (id, attempt, outcome.unwrap_or_else(panicked))
                });
            }
        }
    }

    fn on_done(&mut self, done: std::result::Result<Done, JoinError>, now: Instant) {
        let (id, attempt, mut outcome) =
            done.expect("a job's task catches its panics and is aborted only with the worker");
        let ended = self.held.remove(id, attempt).expect("a job is held until its task has ended");
        if ended.stop == Some(Stop::Lost) {
            self.report.lost += 1;
            return;
        }
        // Nobody asked for its end: it is another worker's turn.
        if outcome.outcome() == Outcome::Cancelled && matches!(ended.stop, Some(Stop::Fenced | Stop::Shutdown)) {
            outcome = JobOutcome::released();
        }
        self.push(outcome.into_result(id, attempt, ended.started_ms), now);
    }

    fn push(&mut self, result: JobResult, now: Instant) {
        match result.outcome() {
            Outcome::Finished => self.report.finished += 1,
            Outcome::Released => self.report.released += 1,
            Outcome::Cancelled => self.report.cancelled += 1,
            Outcome::Failed | Outcome::Unspecified => self.report.failed += 1,
        }
        self.results.push(result);
        self.results_since.get_or_insert(now);
    }

    fn on_ack(&mut self, ack: ResultAck, now: Instant) {
        for refusal in &ack.refused {
            tracing::warn!(
                job = refusal.job_id,
                attempt = refusal.attempt,
                code = refusal.code,
                "a result was refused: {}",
                refusal.message
            );
        }
        self.report.refused += ack.refused.len() as u64;
        if ack.retry.is_empty() {
            self.again_backoff.reset();
        } else {
            self.again_at = now + self.again_backoff.wait();
        }
    }

    fn on_fault(&mut self, fault: Fault, now: Instant) {
        let error = self.session.fault(fault);
        tracing::warn!(node = self.session.node(), %error, "the node reports a fault");
        if let Error::Refused { .. } = error {
            // Asking for nothing, as a draining worker does, may be refused: that is an answer too.
            if !self.is_draining() {
                self.failure = Some(error);
            }
            return;
        }
        let asked = error.retry_after().unwrap_or_default();
        self.lease_after = now + asked + self.lease_backoff.wait();
    }

    fn on_broken(&mut self, error: Error) {
        tracing::warn!(session = self.session.number(), %error, "reconnecting");
        if let Error::Refused { .. } = error {
            self.failure.get_or_insert(error);
            self.held.stop_all();
        }
        self.connecting = Some(self.session.new_wire().boxed());
    }

    async fn on_wire(&mut self, wire: Wire, now: Instant) {
        self.connecting = None;
        self.reconnect_backoff.reset();
        // The node must learn at once that the leases are still held.
        self.heartbeat_at = now;
        if let Err(error) = self.session.attach(wire).await {
            self.on_broken(error);
        }
    }

    fn on_no_wire(&mut self, error: Error) {
        tracing::warn!(session = self.session.number(), %error, "no node takes the session");
        let refused = matches!(error, Error::Refused { .. });
        if refused || self.control() == Control::Abort {
            self.held.stop_all();
            self.failure.get_or_insert(error);
        }
        let (wait, wire) = (self.reconnect_backoff.wait(), self.session.new_wire());
        self.connecting = Some(
            async move {
                tokio::time::sleep(wait).await;
                wire.await
            }
            .boxed(),
        );
    }
}
