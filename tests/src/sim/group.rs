//! A shard's replica on a simulated node: drives the core exactly as the node's reactor does, in the order that the
//! laws demand (messages, log, state, answers), and watches what it does.

mod checks;
mod copies;
mod open;
mod reads;
mod reconcile;

use super::env::Env;
use super::event::{Answer, Ask, Event, Request, Work};
use super::folders::Folders;
use super::log::{Disk, Key, LogTask, LogWriter};
use super::network;
use super::trace::Note;
use super::watch::{Check, Violation, Watch};
use crate::ensure_that;
use checks::check_digest;
pub use checks::check_machine;
pub use copies::{Copy, Held};
use copies::{Prepared, Restoring, Sending};
use moso_queue::filter::WorkerOffer;
use moso_queue::ready::{Popped, Wanted};
use moso_shard::core::{Answer as CoreAnswer, Core, CoreOutput, LeaseTo, Shed};
use moso_shard::limits::UNPERSISTED_MAX;
use moso_shard::{ConfState, Message, MessageType, Position};
pub use open::Born;
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// All invariants of a machine are checked once in so many turns that applied something.
const CHECK_EVERY: u32 = 48;
/// A request reaches the reactor within this time.
const POPPED_MS: u64 = 4_000;
/// Entries that can go at least when the log is cut.
const CUT_ENTRIES_MIN: u64 = 8;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Owed {
    request: u64,
    client: usize,
}

/// What a group needs of its node for a turn.
pub struct Around<'a> {
    /// Time, chance, events.
    pub env: &'a mut Env,
    /// Oracles.
    pub watch: &'a mut Watch,
    /// The node's logs.
    pub disk: &'a mut Disk,
    /// The node's log writer.
    pub writer: &'a mut LogWriter,
    /// Node.
    pub node: usize,
    /// Of the node's process.
    pub incarnation: u32,
    /// The node's monotonic clock, ms.
    pub mono_ms: u64,
    /// The node's wall clock, Unix ms.
    pub wall_ms: u64,
}

/// A shard's replica on a node.
pub struct Group {
    shard: u16,
    peer: u64,
    /// The configuration that the first batch must bring.
    first_members: Option<ConfState>,
    /// Copies of the state on their way to followers, while it leads.
    sending: BTreeMap<u64, Sending>,
    /// A copy of a leader's state that may take the place of this one's.
    prepared: Option<Prepared>,
    /// The log is to begin anew behind a copy that took the state's place.
    restoring: Option<Restoring>,
    core: Core<Owed>,
    out: CoreOutput<Owed>,
    /// Entries up to here were shown to the oracle.
    observed: u64,
    reads: BTreeMap<u64, Vec<(Owed, u64)>>,
    waiting_reads: Vec<(Owed, u64)>,
    /// Term for which the election jitter was drawn.
    jitter_term: Option<u64>,
    jitter_ticks: u32,
    /// When each peer was last heard in the current term, true time.
    heard: BTreeMap<u64, u64>,
    /// Since when commands may be gathered without being proposed; true time.
    gathering_ms: Option<u64>,
    /// Jobs claimed for leases in this leadership, and not changed since.
    claimed: BTreeSet<u64>,
    /// Jobs taken from the ready index and perhaps not yet at the reactor, with the time.
    popped: BTreeMap<u64, u64>,
    serving: Option<u64>,
    /// Entry of the newest change of members that was looked at.
    members_seen: u64,
    /// When that was, true time.
    members_ms: u64,
    /// Term in which what members there should be was read.
    fresh_term: u64,
    /// When the members are next brought to what they should be, the node's time.
    reconcile_ms: u64,
    /// Entries up to here were looked at after they were applied.
    checked: u64,
    /// Of what is unwritten, so much was looked at.
    seen_jobs: usize,
    seen_ends: usize,
    flush_ms: u64,
    flushing: bool,
    /// Index that every replica has on disk, as a leader said.
    matched: u64,
}

impl Group {
    /// The core.
    pub fn core(&self) -> &Core<Owed> {
        &self.core
    }

    /// Shard, and replica id.
    pub fn key(&self) -> Key {
        (self.shard, self.peer)
    }

    /// An append is on disk.
    pub fn persisted(&mut self, disk: &mut Disk, folders: &mut Folders, number: u64) -> Check {
        self.core.replica().persisted(number);
        if self.restoring.is_some_and(|restoring| restoring.number <= number) {
            self.restoring = None;
            folders.discard_older();
        }
        self.check_log(disk)
    }

    /// A leader's word how far all replicas are.
    pub fn told_matched(&mut self, matched: u64) {
        self.matched = self.matched.max(matched);
    }

    /// Takes a message of another replica.
    pub fn step(&mut self, env: &mut Env, node: usize, message: Message) -> Check {
        self.offer_beginning(env, &message)?;
        let (kind, from, term) = (message.get_msg_type(), message.from, message.term);
        let note = |taken| Note::Got {
            node,
            shard: self.shard,
            kind,
            from,
            term,
            index: message.index,
            commit: message.commit,
            entries: message.entries.len(),
            reject: message.reject,
            taken,
        };
        let (taken, refused) = (note(true), note(false));
        let committed = self.core.replica_ref().committed_index();
        match self.core.replica().step(message) {
            Ok(()) => {
                self.check_snapshot(env, kind, committed)?;
                env.note(taken);
            }
            Err(error @ moso_shard::Error::Damaged { .. }) => {
                return Violation::new("L6 nothing acknowledged was lost", error.to_string());
            }
            Err(_) => {
                env.cover.count(match kind {
                    MessageType::MsgSnapshot => "snapshots: refused",
                    _ => "raft: messages refused",
                });
                env.note(refused);
            }
        }
        let answers = matches!(kind, MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse);
        if answers && term == self.core.replica_ref().term() {
            self.heard.insert(from, env.now_ms);
        }
        Ok(())
    }

    /// What a node's thread does with a request before it reaches the reactor: takes jobs for a lease.
    pub fn prepare(&mut self, env: &mut Env, request: &Request) -> Result<Vec<Popped>, Violation> {
        let mut popped = Vec::new();
        let (Ask::Lease { queue, max, cores, .. }, Some(index)) = (&request.ask, self.core.index()) else {
            return Ok(popped);
        };
        let offer = WorkerOffer { cores: *cores, ..WorkerOffer::default() };
        let by_age = env.once_in(10);
        let wanted = Wanted { fits: &|class| offer.fits(class), rank: &|share| share, by_age, max: *max };
        index.pop(*queue, &wanted, &mut popped);
        if !by_age && env.once_in(4) {
            self.check_order(env, *queue, &offer, &popped)?;
        }
        self.popped.retain(|_, ms| *ms + POPPED_MS > env.now_ms);
        self.popped.extend(popped.iter().map(|popped| (popped.seq, env.now_ms)));
        Ok(popped)
    }

    /// Takes a request.
    pub fn take(&mut self, around: &mut Around<'_>, work: Work) -> Check {
        let Work { request, popped } = work;
        let owed = Owed { request: request.id, client: request.client };
        match request.ask {
            Ask::Command(bytes) => {
                if let Err((shed, owed)) = self.core.command(&bytes, owed) {
                    self.shed(around, shed, owed);
                }
            }
            Ask::Lease { session, worker, ttl_ms, request, .. } => {
                let to = LeaseTo { session, worker: &worker, ttl_ms, request };
                self.lease(around, &popped, &to, owed)?
            }
            Ask::Beat { session, beats, settled } => self.beat(around, owed, session, (&beats, settled))?,
            Ask::Read => {
                let (oracle, _) = around.watch.oracle_mut(self.shard);
                self.waiting_reads.push((owed, oracle.answered));
            }
        }
        Ok(())
    }

    fn lease(&mut self, around: &mut Around<'_>, popped: &[Popped], to: &LeaseTo<'_>, owed: Owed) -> Check {
        let claims: BTreeSet<u64> = popped.iter().filter(|popped| self.claimable(popped)).map(|p| p.seq).collect();
        match self.core.lease(popped, to, owed) {
            Ok(None) => self.check_claims(around, claims)?,
            Ok(Some(owed)) => {
                let none = moso_queue::command::Reply::Leased(Vec::new());
                reply(around, owed, Answer::Reply(none));
            }
            Err((shed, owed)) => {
                if shed == Shed::Busy {
                    around.env.cover.count_n("jobs put back", popped.len() as u64);
                }
                self.shed(around, shed, owed);
            }
        }
        Ok(())
    }

    fn beat(
        &mut self,
        around: &mut Around<'_>,
        owed: Owed,
        session: u64,
        (beats, settled): (&[(u64, u32, u8)], Option<u32>),
    ) -> Check {
        let answer = self.core.heartbeat(session, beats, settled, around.mono_ms);
        let Some(beaten) = answer else {
            let leader = self.leader();
            reply(around, owed, Answer::NotLeader(leader));
            return Ok(());
        };
        let term = self.core.replica_ref().term();
        around.watch.check_sure(around.env, self.shard, term)?;
        let awake_ms = around.watch.awake_ms(around.node, around.env.now_ms);
        let (oracle, leaders) = around.watch.oracle_mut(self.shard);
        for &(seq, attempt, _) in beats {
            if beaten.lost.contains(&seq) {
                oracle.check_lost(around.env, &leaders, term, session, (seq, attempt))?;
            } else {
                around.env.cover.count("heartbeats acknowledged");
                oracle.heard(seq, attempt, term, awake_ms);
            }
        }
        reply(around, owed, Answer::Beaten(beaten));
        Ok(())
    }

    fn leader(&self) -> Option<usize> {
        self.core.replica_ref().leader().map(super::node_of)
    }

    fn shed(&self, around: &mut Around<'_>, shed: Shed, owed: Owed) {
        let answer = match shed {
            Shed::NotLeader => Answer::NotLeader(self.leader()),
            Shed::Busy => {
                around.env.cover.count("requests shed");
                Answer::Busy
            }
        };
        reply(around, owed, answer);
    }

    /// One tick of Raft, and what is done periodically.
    pub fn tick(&mut self, around: &mut Around<'_>, folders: &mut Folders) -> Check {
        let term = self.core.replica_ref().term();
        if self.jitter_term != Some(term) || around.env.once_in(100) {
            self.jitter_term = Some(term);
            let most = around.env.plan.election_ticks - 1;
            self.jitter_ticks = around.env.rng.random_range(0..=most);
            let jitter = Some(self.jitter_ticks);
            self.core.replica().set_election_jitter(jitter);
        }
        self.core.replica().tick();
        self.core.maintain(around.mono_ms, around.wall_ms);
        self.reconcile(around);
        self.tidy_copies(around, folders);
        self.send_copies(around, folders)?;
        if around.mono_ms >= self.flush_ms && !self.flushing && self.core.replica_ref().applied_index() > 0 {
            self.flush_state(around, folders);
        }
        Ok(())
    }

    fn flush_state(&mut self, around: &mut Around<'_>, folders: &mut Folders) {
        self.flushing = true;
        self.write_state(around, folders);
        let span = around.env.plan.flush_ms;
        self.flush_ms = around.mono_ms + around.env.within(span);
        let delay_ms = around.env.within((1, 400));
        let event = Event::Flushed {
            node: around.node,
            incarnation: around.incarnation,
            key: self.key(),
            folder: folders.used(),
            upto: folders.store().applied(),
        };
        around.env.after(delay_ms, event);
    }

    /// Hands the leadership to another node.
    pub fn transfer(&mut self, to: usize) -> bool {
        self.members_on(to).into_iter().any(|peer| self.core.replica().transfer_leader(peer).is_ok())
    }

    fn members_on(&self, node: usize) -> Vec<u64> {
        let state = self.core.replica_ref().conf_state();
        let all = state.voters.iter().chain(&state.learners).chain(&state.voters_outgoing).copied();
        all.filter(|peer| super::node_of(*peer) == node).collect()
    }

    /// Says that messages to a node are lost.
    pub fn report_unreachable(&mut self, node: usize) {
        for peer in self.members_on(node) {
            self.core.replica().report_unreachable(peer);
        }
    }

    /// A flush has ended: the log below may go, as far as every replica has it on disk, and further if one of them lags
    /// too far. Returns what a leader tells the others about that.
    pub fn flushed(&mut self, around: &mut Around<'_>, durable: u64) -> Option<u64> {
        self.flushing = false;
        let own = self.core.replica_ref().matched_by_all();
        if let Some(own) = own {
            self.matched = self.matched.max(own);
        }
        if self.restoring.is_some() {
            return own;
        }
        let (pin, keep) = (around.env.plan.pin_entries, around.env.plan.keep_entries);
        let cut = durable.min(self.matched.max(durable.saturating_sub(pin))).min(self.kept_for_copies(durable, pin));
        let cut = cut.saturating_sub(keep);
        if cut >= self.core.replica_ref().first_index() + CUT_ENTRIES_MIN {
            let entry = around.disk.with(self.key(), |log| log.entry(cut));
            if let Some(entry) = entry {
                self.core.replica().truncate_to(cut, durable);
                let position = Position { term: entry.term, index: cut };
                around.disk.truncate(self.key(), position);
                around.env.cover.count("logs cut");
                if cut > self.matched {
                    around.env.cover.count("logs cut beyond a laggard");
                }
                around.env.note(Note::Cut { node: around.node, shard: self.shard, index: cut });
            }
        }
        own
    }

    /// One turn: proposes, applies, and does what is asked for.
    pub fn turn(&mut self, around: &mut Around<'_>, folders: &mut Folders) -> Check {
        self.start_reads(around);
        let replica = self.core.replica_ref();
        let waits = replica.appends_in_flight() >= UNPERSISTED_MAX || replica.is_transferring();
        if waits {
            self.gathering_ms.get_or_insert(around.env.now_ms);
        }
        self.core.flush(around.wall_ms);
        let mut out = std::mem::take(&mut self.out);
        let turned = self.core.turn(around.mono_ms, &mut out);
        turned.map_err(|error| Violation {
            invariant: "replica goes on",
            detail: format!("node {}: {error}", around.node),
        })?;
        self.check_role(around)?;
        for message in out.messages.drain(..) {
            around.disk.check_promise(self.key(), &message)?;
            let to = super::node_of(message.to);
            network::send(around.env, around.node, to, self.shard, &message)?;
        }
        if let Some(at) = out.restored.take() {
            self.restored(around, folders, at)?;
        }
        for append in out.appends.drain(..) {
            self.check_append(around, &append)?;
            if let Some(at) = append.restart {
                self.restoring = Some(Restoring { number: append.number, at });
            }
            let task = LogTask { key: self.key(), append };
            around.writer.hand(around.env, around.disk, around.node, around.incarnation, task);
        }
        if !waits {
            self.gathering_ms = None;
        }
        self.observe(around)?;
        self.check_members(around)?;
        self.check_applied(around)?;
        let every = around.env.plan.write_every;
        if around.env.once_in(every) {
            self.write_state(around, folders);
        }
        for (owed, answer) in out.answers.drain(..) {
            self.answer(around, owed, answer);
        }
        if out.role.take().is_some() {
            self.role_changed(around);
        }
        self.serve_reads(around, &mut out)?;
        for signal in out.signals.drain(..) {
            around.env.cover.count(if signal.gone { "signals: gone" } else { "signals: kill" });
        }
        self.out = out;
        Ok(())
    }

    fn answer(&mut self, around: &mut Around<'_>, owed: Owed, answer: CoreAnswer) {
        let answer = match answer {
            CoreAnswer::Unknown => Answer::Unknown,
            CoreAnswer::Reply(reply) => {
                let applied = self.core.replica_ref().applied_index();
                let (oracle, _) = around.watch.oracle_mut(self.shard);
                oracle.answered = oracle.answered.max(applied);
                Answer::Reply(reply)
            }
        };
        reply(around, owed, answer);
    }

    /// Looks at what was applied in this turn.
    fn check_applied(&mut self, around: &mut Around<'_>) -> Check {
        let (applied, checked) = (self.core.replica_ref().applied_index(), self.checked);
        let Some((unwritten, ..)) = self.core.unwritten().filter(|_| applied > checked) else {
            return Ok(());
        };
        self.checked = applied;
        let oracle = around.watch.oracle(self.shard);
        for (seq, _, record) in &unwritten.ended_jobs()[self.seen_ends..] {
            let end = oracle.ended(*seq);
            ensure_that!(
                "I8 replicas agree on ends",
                end.is_some_and(|(_, _, told)| told == record),
                "node {} shard {}: job {seq}",
                around.node,
                self.shard
            );
        }
        for seq in &unwritten.jobs()[self.seen_jobs..] {
            self.claimed.remove(seq);
        }
        (self.seen_jobs, self.seen_ends) = (unwritten.jobs().len(), unwritten.ended_jobs().len());
        let machine = self.core.machine();
        check_digest(around, self.shard, applied, machine)?;
        if around.env.once_in(CHECK_EVERY) {
            check_machine(around.node, self.shard, machine)?;
        }
        Ok(())
    }

    /// Writes what was applied, as a node that stops does.
    pub fn write_out(&mut self, folders: &mut Folders) {
        if let Some((unwritten, position, members)) = self.core.unwritten() {
            let members = members.cloned().or(self.first_members.take());
            self.first_members = None;
            folders.store().write(self.core.machine(), unwritten, position, members);
            self.core.written();
            (self.seen_jobs, self.seen_ends) = (0, 0);
        }
    }

    /// Writes what was applied.
    fn write_state(&mut self, around: &mut Around<'_>, folders: &mut Folders) {
        self.write_out(folders);
        // RocksDB flushes by itself when its memory is full: any prefix may become durable.
        if around.env.once_in(200) {
            let most = folders.store().batches() as u64;
            folders.store().flush_oldest(around.env.within((0, most)) as usize);
        }
    }
}

/// Sends an answer to a client.
fn reply(around: &mut Around<'_>, owed: Owed, answer: Answer) {
    send_answer(around.env, around.node, owed.client, owed.request, answer);
}

/// Sends an answer to a client.
pub fn send_answer(env: &mut Env, node: usize, client: usize, request: u64, answer: Answer) {
    if let Some(delay_ms) = network::client_delay(env, node) {
        let event = Event::Answer { client, request, answer };
        env.after(delay_ms, event);
    }
}
