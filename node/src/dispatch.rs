//! Answers lease requests: which queue, which shard, which jobs. Chooses outside the log; the log decides.
//!
//! Order: the worker's queues as it names them; of the shards with work those with the highest priority, of two of
//! these drawn at random the one with more jobs (a shard led here is preferred unless it has much less); within a
//! shard share, priority, age ([`moso_queue::ready`]). One request in nine goes by age alone.

use crate::directory::{Counters, Directory, ShardSlot};
use crate::error::Error;
use crate::lease_ask::LeaseAsk;
use crate::request::{Body, Fault, LeaseFor, LeasedJob};
use crate::router::{Router, call, pack};
use crate::store::state::StateStore;
use bytes::Bytes;
use moso_proto::object::QueueState;
use moso_proto::{ShardId, TaskId, setting, v1};
use moso_queue::command::{Command, JobResult, Outcome};
use moso_queue::filter::WorkerOffer;
use moso_queue::limits::LEASE_JOBS_MAX;
use moso_queue::meta::{MetaView, QueueEntry};
use moso_queue::ready::Wanted;
use prost::Message as _;
use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Shards on other nodes asked for one request and queue; those led here are all looked at.
const SHARDS_ASKED: usize = 3;
/// Bytes of bodies in one answer: what does not fit is given back.
const BODIES_BYTES_MAX: usize = 6 << 20;
/// Bodies read at a time, so that little is read that does not fit.
const BODIES_STEP: usize = 32;
/// Times that a shard's index is looked at again at once, because all that it gave was stale.
const STALE_TRIES: usize = 100;
/// A request that was woken and found nothing that fits waits so long before it looks again,
const UNFIT_PAUSE: Duration = Duration::from_millis(50);
/// and this much longer for each request that waits for the queue, so that a job that fits nobody costs 2,000 looks a
/// second at most;
const UNFIT_PAUSE_EACH: Duration = Duration::from_micros(500);
/// but never longer than this.
const UNFIT_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A waiting request looks by itself every so often: a hint may be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A worker's request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Queues by number, first asked first.
    pub queues: Vec<u32>,
    /// Most jobs.
    pub max: usize,
    /// What the worker has.
    pub offer: WorkerOffer,
    /// Only jobs of this task.
    pub task: Option<TaskId>,
    /// Session.
    pub session: u64,
    /// Number of its request, counted round.
    pub request: u32,
    /// Worker's name.
    pub worker: Arc<str>,
    /// How long to wait for work.
    pub wait: Duration,
}

/// Ends the waiting of a request whose worker has gone or asked anew. A lease under way still comes to its end.
#[derive(Default)]
pub struct Cancel {
    cancelled: AtomicBool,
    notify: Notify,
}

impl Cancel {
    /// Ends the waiting.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.notify.notify_one();
    }
}

/// A shard that may have work.
#[derive(Clone, Copy)]
struct Candidate {
    shard: u16,
    leader: u32,
    ready: u64,
    top_priority: i32,
}

/// Answers lease requests.
pub struct Dispatcher {
    router: Arc<Router>,
    /// About the bytes of one body in recent leases: a lease of more than an answer holds is mostly given back.
    body_bytes: AtomicUsize,
}

/// What a lease request brought.
#[derive(Debug, Default)]
pub struct Leased {
    /// Leases.
    pub leases: Vec<v1::Lease>,
    /// A shard's answer was lost: the session may have been given jobs that are not here.
    pub unsettled: bool,
}

/// What one look at the queues brought.
#[derive(Default)]
struct Look {
    leased: Leased,
    /// There was work, but none of it fits.
    unfit: bool,
}

impl Dispatcher {
    /// Leases through `router`.
    pub fn new(router: Arc<Router>) -> Self {
        Dispatcher { router, body_bytes: AtomicUsize::new(0) }
    }

    fn directory(&self) -> &Directory {
        &self.router.directory
    }

    /// Leases up to `ask.max` jobs; waits up to `ask.wait` for the first, or until it is not known what was leased.
    /// Empty: there was none. The future must not be dropped before it is done.
    pub async fn lease(&self, ask: &Ask, cancel: &Cancel) -> Result<Leased, Fault> {
        let deadline = Instant::now() + ask.wait;
        let places: Vec<_> = ask.queues.iter().map(|&q| self.directory().waiting.room(q).enter()).collect();
        loop {
            // Registered before looking, so that work that comes in between wakes this request.
            let woken: Vec<_> = places.iter().map(|place| Box::pin(place.woken())).collect();
            let woken = futures::future::select_all(woken);
            let look = self.try_once(ask).await;
            let now = Instant::now();
            let found = look.as_ref().is_ok_and(|look| !look.leased.leases.is_empty());
            let unsettled = look.as_ref().is_ok_and(|look| look.leased.unsettled);
            let ends =
                found || unsettled || look.is_err() || now >= deadline || cancel.cancelled.load(Ordering::Acquire);
            if ends {
                // This request may have been woken for what it leaves behind.
                self.wake_next(ask, found);
                return look.map(|look| look.leased);
            }
            if look.is_ok_and(|look| look.unfit) {
                self.wake_next(ask, false);
                let waiting = places.iter().map(|place| place.room().waiting()).max().unwrap_or(0);
                tokio::select! {
                    () = tokio::time::sleep(unfit_pause(waiting).min(deadline - now)) => {}
                    () = cancel.notify.notified() => {}
                }
                continue;
            }
            tokio::select! {
                _ = woken => {}
                () = tokio::time::sleep(LOOK_AGAIN.min(deadline - now)) => {}
                () = cancel.notify.notified() => {}
            }
        }
    }

    /// If work is left, the next request may have it. Hints of other nodes count only if this request found work: they
    /// may be late, and would wake one after the other for nothing.
    fn wake_next(&self, ask: &Ask, hinted: bool) {
        for &queue in &ask.queues {
            let left = if hinted {
                !self.candidates(queue).is_empty()
            } else {
                let ready = |slot: &ShardSlot| slot.index.load().as_ref().map_or(0, |i| i.summary(queue).ready);
                self.directory().led_here().any(|slot| ready(slot) > 0)
            };
            if left {
                self.directory().waiting.wake(queue);
            }
        }
    }

    /// Looks once.
    async fn try_once(&self, ask: &Ask) -> Result<Look, Fault> {
        let meta = self.directory().meta.load_full();
        let mut look = Look::default();
        for &number in &ask.queues {
            let Some(queue) = meta.queue_by_id(number) else { continue };
            let max = room_of(self.directory(), queue, ask.max);
            if max == 0 || !queue.gives_leases(self.directory().clock.wall_ms()) {
                continue;
            }
            if let Some(task) = ask.task {
                let leases = self.ask_shard(shard_of(task, self.directory())?, number, max, false, ask).await;
                if look.found(leases)? {
                    return Ok(look);
                }
                continue;
            }
            let by_age = rand::rng().random_range(0..100) < meta.setting(&setting::SLOPPY_DISPATCH_PERCENT);
            let mut candidates = self.candidates(number);
            look.unfit |= !candidates.is_empty();
            let mut asked = 0;
            while asked < SHARDS_ASKED {
                let order = match (by_age, asked + 1 == SHARDS_ASKED) {
                    // Were the best always asked, and nothing of theirs fitted, the others would never be.
                    (_, true) => Order::Any,
                    (true, _) => Order::Most,
                    _ => Order::Best,
                };
                let Some(candidate) = choose(&mut candidates, self.directory().node, order) else { break };
                if candidate.leader != self.directory().node {
                    asked += 1;
                }
                let leases = self.ask_shard(candidate.shard, number, max, by_age, ask).await;
                if look.found(leases)? {
                    return Ok(look);
                }
            }
        }
        Ok(look)
    }

    /// Whether some shard seems to have work for a queue: without, a request that does not wait gets nothing.
    pub fn has_work(&self, queue: u32) -> bool {
        !self.candidates(queue).is_empty()
    }

    /// Shards with work for a queue: led here by their index, elsewhere by hints.
    fn candidates(&self, queue: u32) -> Vec<Candidate> {
        let directory = self.directory();
        let mut found = Vec::new();
        for slot in directory.led_here() {
            if let Some(index) = slot.index.load().as_ref() {
                let summary = index.summary(queue);
                if summary.ready > 0 {
                    found.push(Candidate {
                        shard: slot.shard,
                        leader: directory.node,
                        ready: summary.ready,
                        top_priority: summary.top_priority,
                    });
                }
            }
        }
        for (&node, hints) in directory.hints.load().iter() {
            if !self.router.peers.is_up(node) {
                continue;
            }
            for shard in &hints.load().shards {
                for hint in shard.queues.iter().filter(|h| h.queue == queue) {
                    // A hint of a node that does not lead any more is worth nothing.
                    let number = shard.status.shard;
                    if directory.shard(number).is_some_and(|s| s.leader() == node) {
                        found.push(Candidate {
                            shard: number,
                            leader: node,
                            ready: hint.ready,
                            top_priority: hint.top_priority,
                        });
                    }
                }
            }
        }
        found
    }

    async fn ask_shard(
        &self,
        shard: u16,
        queue: u32,
        max: usize,
        by_age: bool,
        ask: &Ask,
    ) -> Result<Vec<v1::Lease>, Fault> {
        let passed = LeaseAsk {
            queue,
            max: max as u32,
            by_age,
            task: ask.task.map(TaskId::seq),
            session: ask.session,
            request: ask.request,
            worker: ask.worker.to_string(),
            offer: (&ask.offer).into(),
        };
        let leader = self.directory().shard(shard).map_or(0, ShardSlot::leader);
        if leader == self.directory().node {
            return self.lease_here(shard, passed).await;
        }
        if leader == 0 {
            return Err(Fault::busy(shard));
        }
        let body = self.router.call(leader, shard, call::LEASE, pack(&passed)).await?;
        let reply = v1::LeaseReply::decode(body)
            .map_err(|e| Fault::new(moso_proto::Code::Internal, format!("another node's lease reply: {e}")))?;
        Ok(reply.leases)
    }

    /// Leases jobs of a shard led here. The future must not be dropped before it is done.
    pub async fn lease_here(&self, shard: u16, ask: LeaseAsk) -> Result<Vec<v1::Lease>, Fault> {
        let meta = self.directory().meta.load_full();
        let Some(queue) = meta.queue_by_id(ask.queue).filter(|q| q.gives_leases(self.directory().clock.wall_ms()))
        else {
            return Ok(Vec::new());
        };
        let body_bytes = self.body_bytes.load(Ordering::Relaxed).max(1);
        let max = (ask.max as usize).min(LEASE_JOBS_MAX).min((BODIES_BYTES_MAX / body_bytes).max(1));
        let max = room_of(self.directory(), queue, max);
        if max == 0 {
            return Ok(Vec::new());
        }
        let mut offer = WorkerOffer::from(ask.offer);
        if queue.state_at(self.directory().clock.wall_ms()) == QueueState::Test {
            offer = offer.in_test_queue();
        }
        let to = LeaseFor {
            session: ask.session,
            worker: ask.worker.into(),
            ttl_ms: queue.queue.lease_ttl_ms,
            request: ask.request,
        };
        let mut jobs = Vec::new();
        if let Some(task) = ask.task {
            jobs = self.router.lease_task_here(shard, (task, ask.queue), offer, max, to.clone()).await?;
        } else {
            for _ in 0..STALE_TRIES {
                let popped = self.pop(shard, ask.queue, &offer, ask.by_age, max, &meta);
                if popped.is_empty() {
                    break;
                }
                jobs = self.router.lease_here(shard, popped, to.clone()).await?;
                if !jobs.is_empty() {
                    break;
                }
            }
        }
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        Counters::add(&self.directory().counters.leased, jobs.len() as u64);
        self.with_bodies(shard, jobs, queue, &to).await
    }

    fn pop(
        &self,
        shard: u16,
        queue: u32,
        offer: &WorkerOffer,
        by_age: bool,
        max: usize,
        meta: &MetaView,
    ) -> Vec<moso_queue::ready::Popped> {
        let Some(index) = self.directory().shard(shard).and_then(|s| s.index.load_full()) else { return Vec::new() };
        let order = self.directory().order.load();
        let usage = self.directory().usage.load();
        let may_run = |owner: &str| {
            let cap = meta.user(owner).max_running;
            cap == 0 || usage.user_leased.get(owner).is_none_or(|&n| n < cap)
        };
        let wanted = Wanted {
            fits: &|class| offer.fits(class) && may_run(&class.owner),
            rank: &|share| order.rank(share),
            by_age,
            max,
        };
        let mut popped = Vec::with_capacity(max.min(128));
        index.pop(queue, &wanted, &mut popped);
        popped
    }

    /// Adds the bodies. Read here, on the leader's node; what does not fit in one answer is given back.
    async fn with_bodies(
        &self,
        shard: u16,
        jobs: Vec<LeasedJob>,
        queue: &QueueEntry,
        to: &LeaseFor,
    ) -> Result<Vec<v1::Lease>, Fault> {
        let store = self.directory().shard(shard).and_then(|s| s.store.load_full());
        let store = store.ok_or_else(|| Fault::not_leader(shard))?;
        let mut leases = Vec::with_capacity(jobs.len());
        let mut bytes = 0;
        let mut failed = None;
        'steps: for step in jobs.chunks(BODIES_STEP) {
            let bodies = match bodies(&store, step) {
                Ok(bodies) => bodies,
                Err(error) => {
                    failed = Some(error.into_fault());
                    break;
                }
            };
            for (job, body) in step.iter().zip(bodies) {
                if bytes + body.len() > BODIES_BYTES_MAX && !leases.is_empty() {
                    break 'steps;
                }
                bytes += body.len();
                leases.push(lease(shard, job, body, queue));
            }
        }
        if let Some(average) = bytes.checked_div(leases.len()) {
            let before = self.body_bytes.load(Ordering::Relaxed);
            let full = leases.len() < jobs.len();
            self.body_bytes.store(if full { average } else { (7 * before + average) / 8 }, Ordering::Relaxed);
        }
        let back: Vec<(u64, u32)> = jobs[leases.len()..].iter().map(|job| (job.seq, job.attempt)).collect();
        if !back.is_empty() {
            self.give_back(shard, to.session, back).await;
        }
        match failed {
            Some(fault) if leases.is_empty() => Err(fault),
            _ => Ok(leases),
        }
    }

    /// Gives leased jobs back unrun, as their worker would.
    pub async fn give_back(&self, shard: u16, session: u64, jobs: Vec<(u64, u32)>) {
        let results = jobs
            .into_iter()
            .map(|(seq, attempt)| JobResult { seq, attempt, outcome: Outcome::Released, report: None })
            .collect();
        let command = Command::Results { session, results }.to_bytes();
        // If this fails too, the leases run out by themselves.
        let _ = self.router.command(shard, command.into()).await;
    }

    /// Gives leases back that could not be delivered.
    pub async fn undelivered(&self, session: u64, leases: &[v1::Lease]) {
        let mut by_shard: std::collections::BTreeMap<u16, Vec<(u64, u32)>> = Default::default();
        for lease in leases {
            let id = moso_proto::JobId(lease.job_id);
            if let Some(shard) = id.shard() {
                by_shard.entry(shard.0).or_default().push((id.seq(), lease.attempt));
            }
        }
        for (shard, jobs) in by_shard {
            self.give_back(shard, session, jobs).await;
        }
    }
}

/// The jobs' bodies, in their order.
fn bodies(store: &StateStore, jobs: &[LeasedJob]) -> Result<Vec<Bytes>, Error> {
    let stored = jobs.iter().filter_map(|job| match job.body {
        Body::Stored(at) => Some(at),
        Body::Here(_) => None,
    });
    let stored: Vec<u64> = stored.collect();
    let mut found = if stored.is_empty() { Vec::new() } else { store.bodies(&stored)? }.into_iter();
    let body = |job: &LeasedJob| match &job.body {
        Body::Here(body) => body.clone(),
        Body::Stored(_) => found.next().flatten().unwrap_or_default(),
    };
    Ok(jobs.iter().map(body).collect())
}

fn lease(shard: u16, job: &LeasedJob, body: Bytes, queue: &QueueEntry) -> v1::Lease {
    v1::Lease {
        job_id: ShardId(shard).id(job.seq),
        attempt: job.attempt,
        ttl_ms: queue.queue.lease_ttl_ms,
        heartbeat_ms: queue.queue.heartbeat_ms,
        body,
        body_type: job.body_type.to_string(),
        wall_time_s: job.wall_time_s,
        queue: queue.name.clone(),
        task_id: ShardId(shard).id(job.task),
        index: job.index,
    }
}

/// How many jobs the queue's cap leaves.
fn room_of(directory: &Directory, queue: &QueueEntry, max: usize) -> usize {
    let cap = queue.queue.max_running;
    if cap == 0 {
        return max;
    }
    let leased = directory.usage.load().queue_leased.get(&queue.id).copied().unwrap_or(0);
    max.min(cap.saturating_sub(leased) as usize)
}

impl Look {
    /// Takes a shard's answer; whether it brought leases. A fault that other shards may not have counts as none.
    fn found(&mut self, leases: Result<Vec<v1::Lease>, Fault>) -> Result<bool, Fault> {
        match leases {
            Ok(leases) => self.leased.leases = leases,
            // Refused for want of room: nothing was begun.
            Err(fault) if fault.code == moso_proto::Code::Busy => {}
            Err(fault) if fault.code.is_retryable() => self.leased.unsettled = true,
            Err(fault) => return Err(fault),
        }
        Ok(!self.leased.leases.is_empty())
    }
}

fn shard_of(task: TaskId, directory: &Directory) -> Result<u16, Fault> {
    let shard = task.shard().filter(|shard| directory.shard(shard.0).is_some());
    let missing = || Fault::new(moso_proto::Code::NotFound, format!("there is no task {}", task.0));
    shard.map(|shard| shard.0).ok_or_else(missing)
}

fn unfit_pause(waiting: usize) -> Duration {
    let each = UNFIT_PAUSE_EACH.saturating_mul(u32::try_from(waiting).unwrap_or(u32::MAX));
    each.clamp(UNFIT_PAUSE, UNFIT_PAUSE_MAX)
}

/// By what a shard is chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Among those with the highest priority the one with more jobs of two drawn at random.
    Best,
    /// Among all the one with more jobs of two drawn at random.
    Most,
    /// Any.
    Any,
}

/// Takes a candidate out.
fn choose(candidates: &mut Vec<Candidate>, node: u32, order: Order) -> Option<Candidate> {
    let top = candidates.iter().map(|c| c.top_priority).max()?;
    let eligible = |&i: &usize| order != Order::Best || candidates[i].top_priority == top;
    let best: Vec<usize> = (0..candidates.len()).filter(eligible).collect();
    let mut rng = rand::rng();
    let (a, b) = (best[rng.random_range(0..best.len())], best[rng.random_range(0..best.len())]);
    if order == Order::Any {
        return Some(candidates.swap_remove(a));
    }
    // A shard led here saves a hop: it may have up to a fifth less.
    let worth = |c: &Candidate| if c.leader == node { c.ready.saturating_add(c.ready / 4 + 1) } else { c.ready };
    let at = if worth(&candidates[a]) >= worth(&candidates[b]) { a } else { b };
    Some(candidates.swap_remove(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates() -> Vec<Candidate> {
        let of = |(shard, leader, ready, top_priority)| Candidate { shard, leader, ready, top_priority };
        [(1, 1, 10, 5), (2, 2, 100, 5), (3, 3, 1_000, 1), (4, 3, 1, 0)].map(of).into()
    }

    #[test]
    fn the_highest_priority_is_asked_first() {
        for _ in 0..100 {
            let mut left = candidates();
            let mut next = || choose(&mut left, 1, Order::Best).map(|c| c.shard);
            let first = [next(), next()];
            assert!(first == [Some(1), Some(2)] || first == [Some(2), Some(1)], "{first:?}");
            assert_eq!([next(), next(), next()], [Some(3), Some(4), None]);
        }
    }

    #[test]
    fn every_shard_is_asked_at_times() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1_000 {
            seen.insert(choose(&mut candidates(), 1, Order::Any).unwrap().shard);
        }
        assert_eq!(seen.len(), 4, "a shard whose jobs have low priorities would starve behind jobs that fit nobody");
    }

    #[test]
    fn a_job_that_fits_nobody_does_not_cost_more_with_more_workers() {
        assert_eq!(unfit_pause(1), UNFIT_PAUSE);
        assert_eq!(unfit_pause(1_000), Duration::from_millis(500));
        assert_eq!(unfit_pause(usize::MAX), UNFIT_PAUSE_MAX);
    }

    #[test]
    fn only_faults_of_the_request_itself_end_it() {
        let mut look = Look::default();
        assert_eq!(look.found(Ok(Vec::new())), Ok(false));
        assert_eq!(look.found(Err(Fault::busy(1))), Ok(false));
        assert!(!look.leased.unsettled);
        let fault = Fault::new(moso_proto::Code::TooLarge, "");
        assert_eq!(look.found(Err(fault.clone())), Err(fault));
        assert_eq!(look.found(Err(Fault::not_leader(1))), Ok(false));
        assert!(look.leased.unsettled, "the lease may have been given all the same");
    }
}
