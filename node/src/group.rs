//! A data shard on its reactor: the core, its store, and who waits for reads. Does what a turn asks for, in the order
//! that the laws demand: messages, log, answers; the state is written from time to time.

mod picks;
mod stages;

use self::picks::{leased, pick_from_task, usage, within_user_caps};
use self::stages::Stages;
use crate::clock::Clock;
use crate::directory::{Directory, ShardStatus, Usage};
use crate::error::Error;
use crate::log_writer::{LogTask, LogWriter};
use crate::outbound::Outbound;
use crate::request::{CommandReply, Fault, LeaseFor, LeaseReply, LeasedJob, Query, Request, Snapshot};
use crate::router::HeartbeatCall;
use crate::snapshot::sender::Sender;
use crate::snapshot::standby::{self, Floors, Standby};
use crate::store::state::{Applied, StateBatch, StateStore};
use moso_proto::Code;
use moso_queue::command::{Command, JobResult, Outcome, Reply, ResultStatus};
use moso_queue::effect::Signal;
use moso_queue::ready::Popped;
use moso_queue::unwritten::Record;
use moso_queue::{ClassId, Machine, ReadyIndex};
use moso_shard::core::{Answer, Core, CoreOutput, LeaseTo, Shed};
use moso_shard::members::{Members, Step};
use moso_shard::{Message, Position, Replica, Role};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Who waits for a command.
pub enum Owed {
    /// For its reply; taken from the inbox then.
    Command(CommandReply, Instant),
    /// For the jobs.
    Lease(LeaseReply, Instant),
}

/// Requests taken from a shard's inbox in one turn: bounds how long the others wait.
const REQUESTS_PER_TURN: usize = 4_096;
/// Steps of work taken from a shard's inbox in one turn ([`Request::work`]): a few ms.
const WORK_PER_TURN: usize = 20_000;
/// Queries go on for so long in one turn; the others wait for the next.
const QUERIES_PER_TURN: Duration = Duration::from_millis(2);
/// What was applied is written to the store once it is of so many bytes of log,
const UNWRITTEN_BYTES_MAX: usize = 4 << 20;
/// or so old, ms. Jobs that come and go within this time are never written.
const UNWRITTEN_MS: u64 = 1_000;
/// How often the use of resources is summed over the classes, ms.
const USAGE_MS: u64 = 200;

/// A shard's replica on this node.
pub struct Group {
    shard: u16,
    core: Core<Owed>,
    store: Arc<StateStore>,
    reads: BTreeMap<u64, Vec<Query>>,
    waiting_reads: Vec<Query>,
    /// Confirmed by a quorum, to be run.
    confirmed: VecDeque<Query>,
    out: CoreOutput<Owed>,
    usage_ms: u64,
    /// When the state was last written, or all of it was found written.
    written_ms: u64,
    stages: Stages,
    /// It was said that acknowledged entries are missing here.
    damaged: bool,
    /// Log bytes written to the store since its last flush.
    flushable_bytes: u64,
    standby: Standby,
    /// Index up to which the log may be cut, as this leader sees it.
    cut_to: u64,
    /// Version of the objects at which it had the replicas that it should have.
    settled: u64,
    /// The replica is to go, once its appends are on disk: nothing more is taken.
    retired: bool,
}

/// What a group needs of its reactor.
pub struct Surroundings<'a> {
    /// Shared state.
    pub directory: &'a Directory,
    /// To other nodes.
    pub outbound: &'a Outbound,
    /// To the log.
    pub log: &'a LogWriter,
    /// Time.
    pub clock: Clock,
}

impl Group {
    /// A replica whose state was loaded from `store`.
    pub fn new(shard: u16, core: Core<Owed>, store: Arc<StateStore>) -> Self {
        Group {
            shard,
            core,
            store,
            reads: BTreeMap::new(),
            waiting_reads: Vec::new(),
            confirmed: VecDeque::new(),
            out: CoreOutput::default(),
            usage_ms: 0,
            written_ms: 0,
            stages: Stages::default(),
            damaged: false,
            flushable_bytes: 0,
            standby: Standby::default(),
            cut_to: 0,
            settled: 0,
            retired: false,
        }
    }

    /// The core.
    pub fn core(&mut self) -> &mut Core<Owed> {
        &mut self.core
    }

    /// The store.
    pub fn store(&self) -> &Arc<StateStore> {
        &self.store
    }

    /// Id of the replica.
    pub fn peer(&self) -> u64 {
        self.core.replica_ref().peer()
    }

    /// Copies of its state.
    pub fn standby(&mut self) -> (&mut Standby, &mut Replica, &Arc<StateStore>) {
        (&mut self.standby, self.core.replica(), &self.store)
    }

    /// An append is on disk.
    pub fn persisted(&mut self, number: u64) {
        self.core.replica().persisted(number);
        self.standby.persisted(number);
    }

    /// A copy of a leader's state that may take this one's place; `false`: there is no use for it.
    pub fn prepare(&mut self, machine: Machine, store: Arc<StateStore>, at: Position) -> bool {
        let useful = !self.retired && at.index > self.core.replica_ref().applied_index();
        let taken = useful && self.core.prepare(machine, at);
        match taken {
            true => self.standby.keep(store),
            false => standby::remove(store),
        }
        taken
    }

    /// What is to be done about copies from time to time.
    pub fn tend_copies(&mut self, sender: &Arc<Sender>) {
        self.standby.send(self.shard, self.core.replica(), &self.store, sender);
        if self.standby.is_old() && self.core.unprepare() {
            self.standby.drop_copy();
        }
    }

    /// Takes a step towards the replicas that the shard should have, as of `version` of the objects.
    pub fn reconcile(&mut self, wanted: &Members, version: u64) {
        if self.retired {
            return;
        }
        if let Some(Step::Done) = self.core.replica().reconcile(wanted) {
            self.settled = version;
        }
    }

    /// The replica is to go.
    pub fn retire(&mut self) {
        self.retired = true;
    }

    /// It is to go, and nothing of it is under way any more.
    pub fn is_gone(&self) -> bool {
        self.retired && self.core.replica_ref().appends_in_flight() == 0
    }

    /// Ends it: who waits is told; what is left is its store.
    pub fn end(mut self, around: &Surroundings<'_>) -> Arc<StateStore> {
        self.role_changed(Role::Follower { term: 0, leader: None }, around);
        if let Some(slot) = around.directory.shard(self.shard) {
            slot.inbox.store(None);
            slot.store.store(None);
            slot.index.store(None);
        }
        self.standby.clear();
        self.store
    }

    /// Takes a message of another replica.
    pub fn step(&mut self, message: Message) {
        if self.retired {
            return;
        }
        // Refused ones are counted by the receiver's metrics; nothing else happens.
        if let Err(error) = self.core.replica().step(message) {
            metrics::counter!("moso_raft_messages_refused_total").increment(1);
            if matches!(error, moso_shard::Error::Damaged { .. }) && !std::mem::replace(&mut self.damaged, true) {
                tracing::error!(shard = self.shard, %error, "this replica must be replaced");
            }
        }
    }

    /// Takes requests; returns whether there is anything to do for a turn.
    pub fn take_requests(&mut self, around: &Surroundings<'_>) -> bool {
        let Some(slot) = around.directory.shard(self.shard) else { return false };
        let inbox = slot.inbox.load();
        let Some(inbox) = inbox.as_ref() else { return false };
        let mut any = !self.confirmed.is_empty();
        while let Some(popped) = slot.returned.pop() {
            any = true;
            self.core.put_back(&popped);
        }
        let mut work = 0;
        for _ in 0..REQUESTS_PER_TURN {
            if work >= WORK_PER_TURN {
                break;
            }
            let Some((request, since)) = inbox.take() else { break };
            let now = Instant::now();
            if work == 0 {
                self.stages.queue.record(now - since);
            }
            any = true;
            work += request.work();
            self.take(request, now, around);
        }
        any
    }

    fn take(&mut self, request: Request, now: Instant, around: &Surroundings<'_>) {
        let split = |machine: &Machine, popped| {
            within_user_caps(machine, popped, &around.directory.meta.load(), &around.directory.usage.load())
        };
        match request {
            Request::Command { bytes, reply } => {
                self.stages.gather(now);
                if let Err((shed, owed)) = self.core.command(&bytes, Owed::Command(reply, now)) {
                    self.shed(shed, owed);
                }
            }
            Request::Result { result, reply } => {
                self.stages.gather(now);
                let bytes = self.as_its_session(*result);
                if let Err((shed, owed)) = self.core.command(&bytes, Owed::Command(reply, now)) {
                    self.shed(shed, owed);
                }
            }
            Request::Lease { popped, to, reply } => {
                let (allowed, over) = split(self.core.machine(), popped);
                self.core.put_back(&over);
                self.lease(&allowed, &to, now, reply);
            }
            Request::LeaseTask { task, queue, offer, max, to, reply } => match self.core.lease_room() {
                Ok(()) => {
                    let picked = pick_from_task(self.core.machine(), task, queue, &offer, max);
                    let (allowed, _) = split(self.core.machine(), picked);
                    self.lease(&allowed, &to, now, reply);
                }
                Err(shed) => self.shed(shed, Owed::Lease(reply, now)),
            },
            Request::Heartbeat { call: HeartbeatCall { session, beats, settled }, reply } => {
                let answer = self.core.heartbeat(session, &beats, settled, around.clock.mono_ms());
                let _ = reply.send(answer);
            }
            Request::Query(query) => self.waiting_reads.push(query),
        }
    }

    /// The command of a result whose worker has no session: the session of the attempt's lease, if it is known here; the
    /// log decides in any case.
    fn as_its_session(&self, result: JobResult) -> Vec<u8> {
        let job = self.core.machine().job(result.seq).filter(|job| job.attempt == result.attempt);
        let session = job.map_or(0, |job| job.session);
        Command::Results { session, results: vec![result] }.to_bytes()
    }

    fn lease(&mut self, popped: &[Popped], to: &LeaseFor, now: Instant, reply: LeaseReply) {
        self.stages.gather(now);
        let to = LeaseTo { session: to.session, worker: &to.worker, ttl_ms: to.ttl_ms, request: to.request };
        match self.core.lease(popped, &to, Owed::Lease(reply, now)) {
            Ok(None) => {}
            Ok(Some(Owed::Lease(reply, _))) => {
                let _ = reply.send(Ok(Vec::new()));
            }
            Ok(Some(Owed::Command(..))) => unreachable!("the handle given is the one that comes back"),
            Err((shed, owed)) => self.shed(shed, owed),
        }
    }

    fn shed(&self, shed: Shed, owed: Owed) {
        let fault = match shed {
            Shed::NotLeader => Fault::not_leader(self.shard),
            Shed::Busy => Fault::busy(self.shard),
        };
        self.fail(owed, fault);
    }

    fn fail(&self, owed: Owed, fault: Fault) {
        match owed {
            Owed::Command(reply, _) => drop(reply.send(Err(fault))),
            Owed::Lease(reply, _) => drop(reply.send(Err(fault))),
        }
    }

    /// One turn: proposes, applies, and does what is asked for.
    pub fn turn(&mut self, around: &Surroundings<'_>) -> Result<(), Error> {
        self.start_reads();
        if let Some(index) = self.core.flush(around.clock.wall_ms()) {
            self.stages.proposed(index);
        }
        let mut out = std::mem::take(&mut self.out);
        let (start, before) = (Instant::now(), self.core.replica_ref().applied_index());
        self.core.turn(around.clock.mono_ms(), &mut out)?;
        if out.restored.take().is_some() {
            self.standby.swap(&mut self.store, &out.appends);
            self.flushable_bytes = 0;
            if let Some(slot) = around.directory.shard(self.shard) {
                slot.store.store(Some(self.store.clone()));
            }
            tracing::info!(
                shard = self.shard,
                index = self.core.replica_ref().last_index(),
                "took a copy of the state"
            );
        }
        for peer in around.outbound.raft(self.shard, out.messages.drain(..)) {
            self.core.replica().report_unreachable(peer);
        }
        for append in out.appends.drain(..) {
            around.log.write(LogTask::Append { shard: self.shard, append });
        }
        if self.core.replica_ref().applied_index() > before {
            self.stages.apply.record(start.elapsed());
        }
        self.stages.applied(self.core.replica_ref().applied_index());
        for class in out.ready.drain(..) {
            wake_waiting(self.core.machine(), class, around.directory);
        }
        self.write_when_due(&mut out, around)?;
        for (owed, answer) in out.answers.drain(..) {
            self.answer(owed, answer);
        }
        if let Some(role) = out.role.take() {
            self.role_changed(role, around);
        }
        self.serve_reads(&mut out);
        self.pass_signals(&mut out.signals, around);
        self.publish(around);
        self.out = out;
        Ok(())
    }

    fn start_reads(&mut self) {
        if self.waiting_reads.is_empty() {
            return;
        }
        let queries = std::mem::take(&mut self.waiting_reads);
        match self.core.read() {
            Some(context) => drop(self.reads.insert(context, queries)),
            None => queries.into_iter().for_each(|query| query(None)),
        }
    }

    fn serve_reads(&mut self, out: &mut CoreOutput<Owed>) {
        for context in out.reads.drain(..) {
            for query in self.reads.remove(&context).unwrap_or_default() {
                self.confirmed.push_back(query);
            }
        }
        let start = Instant::now();
        while let Some(query) = self.confirmed.pop_front() {
            query(Some(Snapshot { machine: self.core.machine(), store: &self.store }));
            if start.elapsed() >= QUERIES_PER_TURN {
                break;
            }
        }
    }

    /// Writes what was applied if there is much of it, or for long, or if somebody is about to read it.
    fn write_when_due(&mut self, out: &mut CoreOutput<Owed>, around: &Surroundings<'_>) -> Result<(), Error> {
        let now = around.clock.mono_ms();
        if self.core.unwritten().is_none() {
            self.written_ms = now;
            return Ok(());
        }
        let due = self.core.unwritten_bytes() >= UNWRITTEN_BYTES_MAX || now >= self.written_ms + UNWRITTEN_MS;
        let read = !out.reads.is_empty() || !self.confirmed.is_empty() || out.answers.iter().any(looks_in_archive);
        if due || read {
            self.written_ms = now;
            match self.write_state() {
                Err(error) if error.is_no_space() => self.not_written(out, around),
                result => result?,
            }
        }
        Ok(())
    }

    /// The disk is full. The log holds what was applied, and memory too: it is written once there is space. Until then
    /// nobody reads what the store does not have.
    fn not_written(&mut self, out: &mut CoreOutput<Owed>, around: &Surroundings<'_>) {
        around.directory.disk.store_found_full();
        let asked = out.reads.drain(..).filter_map(|context| self.reads.remove(&context)).flatten();
        asked.chain(self.confirmed.drain(..)).for_each(|query| query(None));
    }

    /// Writes what was applied.
    ///
    /// # Errors
    /// See [`StateStore::commit`].
    pub fn write_state(&mut self) -> Result<(), Error> {
        let Some((unwritten, position, conf_state)) = self.core.unwritten() else { return Ok(()) };
        let start = Instant::now();
        let mut batch = self.store.writer();
        unwritten.records(self.core.machine(), |record| put(&mut batch, record, position));
        batch.put_meta(META_RECORD, &self.core.machine().meta_record().encode());
        let applied = Applied { index: position.index, term: position.term };
        // The first batch says with whom the shard was made.
        let first = self.store.applied().is_none().then(|| self.core.replica_ref().conf_state());
        self.store.commit(batch, applied, conf_state.or(first.as_ref()))?;
        self.flushable_bytes += self.core.unwritten_bytes() as u64;
        self.core.written();
        self.stages.state.record(start.elapsed());
        Ok(())
    }

    /// Log bytes applied since the last flush of the state.
    pub fn unflushed_bytes(&self) -> u64 {
        self.flushable_bytes + self.core.unwritten_bytes() as u64
    }

    /// Index up to which every replica lets the log be cut, or a bound on what one of them may hold up does; `None` unless
    /// it leads.
    pub fn cut_to(&mut self, floors: Floors) -> Option<u64> {
        let cut = self.standby.cut_to(self.core.replica_ref(), floors)?;
        self.cut_to = cut;
        Some(cut)
    }

    /// A flush of all that was written was asked for.
    pub fn flush_begun(&mut self) {
        self.flushable_bytes = 0;
    }

    fn answer(&mut self, owed: Owed, answer: Answer) {
        let (Owed::Command(_, taken) | Owed::Lease(_, taken)) = &owed;
        self.stages.commit.record(taken.elapsed());
        match (owed, answer) {
            (owed, Answer::Unknown) => self.fail(owed, Fault::not_leader(self.shard)),
            (Owed::Command(reply, _), Answer::Reply(Reply::Refused(refusal))) => drop(reply.send(Err(refusal.into()))),
            (Owed::Command(reply, _), Answer::Reply(answer)) => drop(reply.send(Ok(answer))),
            (Owed::Lease(reply, _), Answer::Reply(Reply::Leased(jobs))) => {
                let core = &self.core;
                let leases = jobs.into_iter().filter_map(|(seq, attempt)| leased(core, seq, attempt)).collect();
                if let Err(Ok(leases)) = reply.send(Ok(leases)) {
                    self.give_back(&leases);
                }
            }
            (Owed::Lease(..), Answer::Reply(reply)) => unreachable!("a lease is answered with jobs, not {reply:?}"),
        }
    }

    /// Gives back, as their worker would, leases that nobody waits for any more.
    fn give_back(&mut self, leases: &[LeasedJob]) {
        let Some(session) = leases.iter().find_map(|l| self.core.machine().job(l.seq)).map(|job| job.session) else {
            return;
        };
        let released =
            |l: &LeasedJob| JobResult { seq: l.seq, attempt: l.attempt, outcome: Outcome::Released, report: None };
        let command = Command::Results { session, results: leases.iter().map(released).collect() };
        let (nobody, _) = oneshot::channel();
        // If there is no room, they run out.
        let _ = self.core.command(&command.to_bytes(), Owed::Command(nobody, Instant::now()));
    }

    fn role_changed(&mut self, role: Role, around: &Surroundings<'_>) {
        self.stages.forget();
        let reads = std::mem::take(&mut self.reads).into_values().flatten();
        reads.chain(self.confirmed.drain(..)).for_each(|query| query(None));
        let Some(slot) = around.directory.shard(self.shard) else { return };
        let leader = match role {
            Role::Leader { .. } => 0,
            Role::Follower { leader, .. } => leader.map_or(0, node_of),
        };
        slot.leader.store(leader, Ordering::Relaxed);
        tracing::info!(shard = self.shard, ?role, "role");
    }

    fn pass_signals(&self, signals: &mut Vec<Signal>, around: &Surroundings<'_>) {
        if !signals.is_empty() {
            around.outbound.words(self.shard, signals.drain(..));
        }
    }

    /// Lets the other threads know the index, the leader and the figures.
    fn publish(&mut self, around: &Surroundings<'_>) {
        let Some(slot) = around.directory.shard(self.shard) else { return };
        let published = slot.index.load();
        let current = self.core.index();
        if published.as_ref().map(Arc::as_ptr) != current.map(Arc::as_ptr) {
            slot.index.store(current.cloned());
            if current.is_some() {
                slot.leader.store(around.directory.node, Ordering::Relaxed);
                around.directory.hint_now.notify_one();
                wake_all_queues(current, around.directory);
            }
        }
        let now = around.clock.mono_ms();
        if now >= self.usage_ms + USAGE_MS {
            self.usage_ms = now;
            let leads = self.core.serves();
            slot.usage.store(Arc::new(if leads {
                usage(self.core.machine(), &around.directory.meta.load())
            } else {
                Usage::default()
            }));
            slot.status.store(Arc::new(self.status(leads)));
        }
    }

    fn status(&self, leads: bool) -> ShardStatus {
        let replica = self.core.replica_ref();
        let progress = replica.progress();
        let machine = self.core.machine();
        let sum = |f: fn(&moso_queue::Class) -> u64| machine.classes().iter().map(|(_, c)| f(c)).sum();
        ShardStatus {
            shard: self.shard,
            term: replica.term(),
            commit: replica.committed_index(),
            applied: replica.applied_index(),
            lag: progress.iter().map(|p| p.lag).max().unwrap_or(0),
            matched: if leads { self.cut_to } else { 0 },
            settled: if leads { self.settled } else { 0 },
            live: machine.live(),
            ready: sum(moso_queue::Class::ready),
            leased: sum(moso_queue::Class::leased),
            ended: machine.ended_jobs(),
            job_bytes: self.core.memory_bytes() as u64,
        }
    }
}

/// The node of a replica: the upper half of its id.
pub fn node_of(peer: u64) -> u32 {
    (peer >> 32) as u32
}

/// Whether the answer is held against the archive before it goes out: see [`crate::repeats`].
fn looks_in_archive((_, answer): &(Owed, Answer)) -> bool {
    matches!(answer, Answer::Reply(Reply::Results(statuses)) if statuses.contains(&ResultStatus::Refused(Code::AlreadyEnded)))
}

/// Wakes one waiting request for the queue of a class that got work.
fn wake_waiting(machine: &Machine, class: ClassId, directory: &Directory) {
    if let Some(class) = machine.classes().find(class) {
        directory.waiting.wake(class.key.queue);
        directory.hint_now.notify_one();
    }
}

fn wake_all_queues(index: Option<&Arc<ReadyIndex>>, directory: &Directory) {
    for (queue, _) in index.map(|i| i.summaries()).unwrap_or_default() {
        directory.waiting.wake(queue);
    }
}

/// Adds a record to the batch that is written with the applied index.
pub fn put(batch: &mut StateBatch<'_>, record: Record<'_>, position: Position) {
    const DAY_MS: u64 = 86_400_000;
    let day = |time_ms: u64| (time_ms / DAY_MS) as u16;
    match record {
        Record::Job(seq, Some(bytes)) => batch.put_job(seq, bytes),
        Record::Job(seq, None) => batch.delete_job(seq),
        Record::Task(seq, Some(bytes)) => batch.put_task(seq, bytes),
        Record::Task(seq, None) => batch.delete_task(seq),
        Record::Class(id, Some(bytes)) => batch.put_class(id.0, bytes),
        Record::Class(id, None) => batch.delete_class(id.0),
        Record::Body(seq, Some(bytes)) => batch.put_body(seq, bytes),
        Record::Body(seq, None) => batch.delete_body(seq),
        Record::Change(n, change) => {
            let row = crate::views::encode_change(change);
            batch.put_history(day(change.time_ms), change.seq, position.index, n, &row);
        }
        Record::EndedJob(seq, time_ms, bytes) => batch.put_ended_job(day(time_ms), seq, bytes),
        Record::EndedTask(seq, time_ms, bytes) => batch.put_ended_task(day(time_ms), seq, bytes),
        Record::Submission(id, bytes) => batch.put_dedup(id, bytes),
        Record::SubmissionsBelow(id) => batch.delete_dedup_below(id),
    }
}

/// Key of the machine's clock and counters.
pub const META_RECORD: u8 = 1;
