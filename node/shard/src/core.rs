//! A shard's core: the replica, the job machine, and, while it leads, the leader's volatile state. Fed with messages,
//! ticks, commands and times; asked for its output after each turn. No clock, no I/O, no threads: the node's reactor
//! and the simulator drive the same code.
//!
//! The path of a command: [`Core::command`] gathers it, [`Core::flush`] proposes the gathered ones as one entry, the
//! log writer puts it on disk, a majority acknowledges, [`Core::turn`] applies it, and the reply goes to whoever asked.
//! What is gathered while a write is under way goes into the next entry.

mod periodic;

use crate::leading::Leading;
use crate::leases::ExpiryPolicy;
use crate::limits::{BATCH_BYTES_MAX, BATCHES_MAX, ENTRY_BYTES_TARGET, PROPOSALS_MAX, UNPERSISTED_MAX};
use crate::output::{Append, Payload, Position, Role};
use crate::pending::Pending;
use crate::prepared::Prepared;
use crate::quorum::QuorumLease;
use crate::replica::Replica;
use crate::timeouts::TimeoutTable;
use crate::{ConfState, Error, Message};
use bytes::Bytes;
use moso_queue::command::{Command, EntryBuilder, Reply, is_submission};
use moso_queue::effect::Signal;
use moso_queue::limits::ENTRY_COMMANDS_MAX;
use moso_queue::ready::Popped;
use moso_queue::{ClassId, Effects, Job, Machine, ReadyIndex, Unwritten};
use std::collections::VecDeque;
use std::sync::Arc;

/// What the meta group says about time.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Of leases.
    pub expiry: ExpiryPolicy,
    /// Of states.
    pub timeouts: Arc<TimeoutTable>,
}

/// What becomes of a command that was asked for.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// Applied.
    Reply(Reply),
    /// The leadership was lost: the outcome is not known, repeating is safe.
    Unknown,
}

/// Why a command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// This replica does not lead, or does not serve yet.
    NotLeader,
    /// Too much is waiting: come back later.
    Busy,
}

/// Answer to a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beaten {
    /// No longer this session's.
    pub lost: Vec<u64>,
    /// To be killed: job and attempt.
    pub kill: Vec<(u64, u32)>,
    /// What was said of settled requests is taken up: leases that the session does not hold are taken back.
    pub settled: bool,
}

/// To whom jobs are leased.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTo<'a> {
    /// Session.
    pub session: u64,
    /// Worker's name.
    pub worker: &'a str,
    /// Lease time.
    pub ttl_ms: u32,
    /// The session's request that is answered, counted round.
    pub request: u32,
}

/// What a turn asks of the owner. See [`crate::Output`] for the order.
pub struct CoreOutput<T> {
    /// To be sent at once.
    pub messages: Vec<Message>,
    /// To be written to the log, in order.
    pub appends: Vec<Append>,
    /// Answers.
    pub answers: Vec<(T, Answer)>,
    /// Classes that got ready jobs, while it leads; may repeat.
    pub ready: Vec<ClassId>,
    /// Reads that may be served now.
    pub reads: Vec<u64>,
    /// Words to workers.
    pub signals: Vec<Signal>,
    /// Changed role.
    pub role: Option<Role>,
    /// The copy given to [`Core::prepare`] took the place of the state. Its store is the one to write to from now on; the
    /// log may be cut nowhere but by the appends of this output, which begin it anew.
    pub restored: Option<Position>,
}

impl<T> Default for CoreOutput<T> {
    fn default() -> Self {
        CoreOutput {
            messages: Vec::new(),
            appends: Vec::new(),
            answers: Vec::new(),
            ready: Vec::new(),
            reads: Vec::new(),
            signals: Vec::new(),
            role: None,
            restored: None,
        }
    }
}

impl<T> CoreOutput<T> {
    fn wake(&mut self, machine: &Machine, effects: &Effects) {
        for &(_, class, _) in &effects.ready {
            if self.ready.last() != Some(&class) {
                self.ready.push(class);
            }
        }
        let arrays = effects.ready_arrays.iter().filter_map(|&seq| machine.task(seq));
        self.ready.extend(arrays.map(|task| task.class));
    }
}

/// Commands of one entry, and who waits for them.
struct Batch<T> {
    entry: EntryBuilder,
    owed: Vec<Option<T>>,
}

/// A shard on this node. `T` is whoever waits for an answer.
pub struct Core<T> {
    replica: Replica,
    machine: Machine,
    leading: Option<Leading>,
    policy: Policy,
    quorum: QuorumLease,
    pending: Pending<Vec<Option<T>>>,
    /// Commands gathered for the next entries; the last one is open.
    batches: VecDeque<Batch<T>>,
    batch_bytes: usize,
    /// An entry that could not be proposed yet.
    stuck: Option<(Bytes, Vec<Option<T>>)>,
    /// Of the entry that is being applied; kept for its memory.
    effects: Effects,
    unwritten: Unwritten,
    /// Bytes of the entries applied and not written.
    unwritten_bytes: usize,
    applied: Position,
    /// A copy of the state that may take its place, and its position.
    prepared: Prepared<Machine>,
    conf_state: Option<ConfState>,
    /// Something was applied since the last write.
    ahead: bool,
    /// Reads confirmed by a quorum: they wait until their index is applied.
    reads: VecDeque<(u64, u64)>,
    next_context: u64,
    stamp_ms: u64,
    /// The shard's time while it leads, Unix ms: see [`Core::maintain`].
    time_ms: u64,
    probe_ms: u64,
}

/// Contexts of probes for the quorum lease are odd, those of reads even.
const PROBE: u64 = 1;

/// How much may be gathered before something is shed, in parts of [`BATCH_BYTES_MAX`] and [`BATCHES_MAX`]: submissions
/// first, then leases; results and actions last.
const SUBMISSION_ROOM: usize = 1;
const LEASE_ROOM: usize = 2;
const RESULT_ROOM: usize = 3;

impl<T> Core<T> {
    /// Joins a replica and the machine loaded from its state. `election_ms` is the shortest election timeout.
    pub fn new(replica: Replica, machine: Machine, applied: Position, policy: Policy, election_ms: u64) -> Self {
        Core {
            unwritten: Unwritten::new(&machine),
            unwritten_bytes: 0,
            machine,
            leading: None,
            policy,
            quorum: QuorumLease::new(election_ms, election_ms / 4),
            pending: Pending::new(PROPOSALS_MAX),
            batches: VecDeque::new(),
            batch_bytes: 0,
            stuck: None,
            effects: Effects::default(),
            applied,
            prepared: Prepared::none(),
            conf_state: None,
            ahead: false,
            reads: VecDeque::new(),
            next_context: 2,
            stamp_ms: 0,
            time_ms: 0,
            probe_ms: 0,
            replica,
        }
    }

    /// The replica, for steps, ticks and positions.
    pub fn replica(&mut self) -> &mut Replica {
        &mut self.replica
    }
    /// The replica.
    pub fn replica_ref(&self) -> &Replica {
        &self.replica
    }
    /// The applied state.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }
    /// The ready index, while it leads. It is replaced when it holds too many stale entries.
    pub fn index(&self) -> Option<&Arc<ReadyIndex>> {
        self.leading.as_ref().map(|l| &l.index)
    }
    /// It leads and has applied all that was committed before its term.
    pub fn serves(&self) -> bool {
        self.leading.is_some()
    }
    /// It serves, and is sure that nobody else leads.
    pub fn sure(&self, now_ms: u64) -> bool {
        self.leading.is_some() && self.quorum.valid(now_ms)
    }
    /// Times that the expiry breaker held in this leadership.
    pub fn breaks(&self) -> u64 {
        self.leading.as_ref().map_or(0, |l| l.leases.breaks)
    }
    /// Replaces the policy.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }
    /// Estimated bytes held for jobs and their leases.
    pub fn memory_bytes(&self) -> usize {
        let index =
            self.leading.as_ref().map_or(0, |l| l.index.summaries().iter().map(|(_, s)| s.ready as usize * 9).sum());
        self.machine.memory_bytes() + self.leading.as_ref().map_or(0, Leading::memory_bytes) + index
    }

    /// What is to be written, with the position and configuration that belong in the same batch. `None`: nothing was
    /// applied since [`Core::written`]. The owner writes when it likes: until then the log holds it.
    pub fn unwritten(&self) -> Option<(&Unwritten, Position, Option<&ConfState>)> {
        self.ahead.then_some((&self.unwritten, self.applied, self.conf_state.as_ref()))
    }
    /// A body that is not written yet.
    pub fn body(&self, seq: u64) -> Option<&Bytes> {
        self.unwritten.body(seq)
    }
    /// Bytes of the entries that were applied and not written: about what that holds of memory, and what is applied
    /// again after a crash.
    pub fn unwritten_bytes(&self) -> usize {
        self.unwritten_bytes
    }
    /// All that was applied is written.
    pub fn written(&mut self) {
        self.ahead = false;
        self.unwritten_bytes = 0;
        self.unwritten.written(&self.machine);
        self.conf_state = None;
    }

    /// Gives a copy of a leader's state as of `at`, to take the place of this replica's when that leader's snapshot comes.
    /// It replaces an earlier one. `false`: the earlier one is being taken up, the next turn tells so; the new one is not
    /// needed.
    #[must_use]
    pub fn prepare(&mut self, machine: Machine, at: Position) -> bool {
        self.prepared.put(&mut self.replica, machine, at)
    }

    /// The copy that was prepared is of no use any more. `false`: it is being taken up, the next turn tells so.
    #[must_use]
    pub fn unprepare(&mut self) -> bool {
        self.prepared.forget(&mut self.replica)
    }

    /// Gathers an encoded command; whoever waits gets the answer from a later [`Core::turn`].
    pub fn command(&mut self, command: &[u8], owed: T) -> Result<(), (Shed, T)> {
        match self.room(if is_submission(command) { SUBMISSION_ROOM } else { RESULT_ROOM }) {
            Ok(()) => {
                let (room, before) = self.open(command.len());
                room.entry.push(command);
                room.owed.push(Some(owed));
                self.batch_bytes += room.entry.len() - before;
                Ok(())
            }
            Err(shed) => Err((shed, owed)),
        }
    }

    fn room(&self, parts: usize) -> Result<(), Shed> {
        if self.leading.is_none() {
            Err(Shed::NotLeader)
        } else if self.batch_bytes > parts * BATCH_BYTES_MAX || self.batches.len() > parts * BATCHES_MAX {
            Err(Shed::Busy)
        } else {
            Ok(())
        }
    }

    /// Proposes a lease of jobs taken from the index. `Ok(Some(owed))`: none of them was ready any more, nothing was
    /// proposed.
    pub fn lease(&mut self, popped: &[Popped], to: &LeaseTo<'_>, owed: T) -> Result<Option<T>, (Shed, T)> {
        if let Err(shed) = self.lease_room() {
            self.put_back(popped);
            return Err((shed, owed));
        }
        let leading = self.leading.as_mut().expect("there is room only while it leads");
        let jobs: Vec<u64> = popped.iter().filter(|p| leading.claim(&mut self.machine, p)).map(|p| p.seq).collect();
        leading.feed(&self.machine);
        if jobs.is_empty() {
            return Ok(Some(owed));
        }
        let &LeaseTo { session, worker, ttl_ms, request } = to;
        self.gather(&Command::Lease { session, worker: worker.into(), ttl_ms, request, jobs }, Some(owed));
        Ok(None)
    }

    /// Whether a lease would be taken now.
    pub fn lease_room(&self) -> Result<(), Shed> {
        self.room(LEASE_ROOM)
    }

    /// Files jobs again that were taken from the index and not proposed. What is no longer ready is found out when it
    /// is taken again.
    pub fn put_back(&self, popped: &[Popped]) {
        if let Some(leading) = &self.leading {
            popped.iter().for_each(|p| leading.put_back(&self.machine, p));
        }
    }

    /// Takes a worker's heartbeat. With `settled`, the session holds nothing of its requests up to that one but what is
    /// listed. Session 0 speaks for whoever holds the attempt: for workers that have no session of their own. `None`: this
    /// replica may not answer, another one should be asked.
    pub fn heartbeat(
        &mut self,
        session: u64,
        beats: &[(u64, u32, u8)],
        settled: Option<u32>,
        now_ms: u64,
    ) -> Option<Beaten> {
        if !self.sure(now_ms) {
            return None;
        }
        let leading = self.leading.as_mut()?;
        let mut answer = Beaten::default();
        for &(seq, attempt, phase) in beats {
            let job = self.machine.jobs_volatile().get_mut(seq);
            // Once its expiry is proposed, a lease is lost: no heartbeat is acknowledged that would not keep it.
            let held = |j: &&mut Job| j.state.is_leased() && !j.reserved && j.attempt == attempt;
            let Some(job) = job.filter(held).filter(|j| session == 0 || j.session == session) else {
                answer.lost.push(seq);
                continue;
            };
            job.beat_ms = job.beat_ms.max(now_ms);
            if job.kill != 0 {
                answer.kill.push((seq, attempt));
            }
            // One that finds no room is told again by the next heartbeat.
            if phase > job.phase && phase <= 2 && leading.phase(seq, attempt, phase) {
                job.phase = phase;
            }
        }
        if let Some(request) = settled {
            let kept = beats.len() - answer.lost.len();
            let held = beats.iter().map(|&(seq, attempt, _)| (seq, attempt));
            answer.settled =
                kept >= self.machine.leases_of(session) as usize || leading.settlements.note(session, request, held);
        }
        Some(answer)
    }

    /// Asks the quorum whether this replica still leads; the context comes back in [`CoreOutput::reads`] once all that
    /// was committed before is applied. `None`: it does not lead.
    pub fn read(&mut self) -> Option<u64> {
        self.leading.as_ref()?;
        let context = self.next_context;
        self.replica.read_index(context).ok()?;
        self.next_context += 2;
        Some(context)
    }

    /// Proposes what was gathered, if the disk keeps up or enough was gathered; returns the index of the last entry
    /// that was proposed now. `wall_ms` is Unix time.
    pub fn flush(&mut self, wall_ms: u64) -> Option<u64> {
        let mut proposed = None;
        while self.stuck.is_some() || self.seal(wall_ms) {
            let Some((entry, owed)) = self.stuck.take() else { break };
            if !self.pending.has_room() {
                self.stuck = Some((entry, owed));
                break;
            }
            match self.replica.propose(entry.clone()) {
                Ok(position) => {
                    proposed = Some(position.index);
                    self.pending.push(position, owed);
                }
                // Dropped by Raft for want of room: the same entry is tried again, so the order of commands is kept.
                Err(_) => {
                    self.stuck = Some((entry, owed));
                    break;
                }
            }
        }
        proposed
    }

    /// Turns the oldest gathered commands into an entry; `false`: there are none, or they wait for the disk.
    fn seal(&mut self, wall_ms: u64) -> bool {
        let Some(first) = self.batches.front() else {
            return false;
        };
        let full = self.batches.len() > 1 || first.entry.len() >= ENTRY_BYTES_TARGET;
        if !full && self.replica.appends_in_flight() >= UNPERSISTED_MAX {
            return false;
        }
        let Some(mut batch) = self.batches.pop_front() else {
            return false;
        };
        self.batch_bytes -= batch.entry.len();
        self.stamp_ms = self.stamp_ms.max(wall_ms).max(self.time_ms).max(self.machine.now_ms());
        self.stuck = Some((batch.entry.finish(self.stamp_ms), batch.owed));
        true
    }

    /// The open batch, a new one if the last has no room for so many bytes; and its length.
    fn open(&mut self, bytes: usize) -> (&mut Batch<T>, usize) {
        let room = self
            .batches
            .back()
            .is_some_and(|b| b.entry.commands() < ENTRY_COMMANDS_MAX && b.entry.len() + bytes <= ENTRY_BYTES_TARGET);
        if !room {
            let batch = Batch { entry: EntryBuilder::default(), owed: Vec::new() };
            self.batch_bytes += batch.entry.len();
            self.batches.push_back(batch);
        }
        let batch = self.batches.back_mut().expect("just pushed or found");
        let before = batch.entry.len();
        (batch, before)
    }

    fn gather(&mut self, command: &Command, owed: Option<T>) {
        let (batch, before) = self.open(0);
        batch.entry.push_command(command);
        batch.owed.push(owed);
        self.batch_bytes += batch.entry.len() - before;
    }

    /// Does what there is to do; everything it asks for is added to `out`.
    ///
    /// # Errors
    /// The replica is damaged or its log cannot be read: the node stops.
    pub fn turn(&mut self, now_ms: u64, out: &mut CoreOutput<T>) -> Result<(), Error> {
        while let Some(output) = self.replica.take_output()? {
            out.messages.extend(output.messages);
            out.appends.extend(output.append);
            if let Some(at) = output.restore {
                self.restore(at, out);
            }
            for committed in output.committed {
                self.apply(committed.position, committed.payload, now_ms, out)?;
            }
            self.replica.applied(output.committed_to);
            self.pending.abort_to(output.committed_to);
            for read in output.reads {
                if read.context & PROBE != 0 {
                    self.quorum.confirmed(read.context);
                } else {
                    self.reads.push_back((read.context, read.index));
                }
            }
            if let Some(role) = output.role_change {
                self.change_role(role, out);
            }
        }
        self.serve(now_ms);
        let applied = self.replica.applied_index();
        self.reads.retain(|&(context, index)| {
            if index <= applied {
                out.reads.push(context);
            }
            index > applied
        });
        let aborted = self.pending.take_aborted();
        out.answers.extend(aborted.into_iter().flatten().flatten().map(|owed| (owed, Answer::Unknown)));
        Ok(())
    }

    fn apply(
        &mut self,
        position: Position,
        payload: Payload,
        now_ms: u64,
        out: &mut CoreOutput<T>,
    ) -> Result<(), Error> {
        let (shard, peer) = (self.replica.shard(), self.replica.peer());
        self.applied = position;
        self.ahead = true;
        let entry = match payload {
            Payload::Configuration(conf_state) => {
                self.conf_state = Some(*conf_state);
                return Ok(());
            }
            Payload::Command(entry) => entry,
        };
        self.unwritten_bytes += entry.len();
        let (effects, mut replies) = (&mut self.effects, Vec::new());
        self.machine.apply(entry, effects, &mut replies).map_err(|error| Error::Damaged {
            shard,
            peer,
            reason: error.to_string(),
        })?;
        if let Some(leading) = &mut self.leading {
            leading.take_effects(&mut self.machine, effects, now_ms, self.policy.expiry);
            out.signals.append(&mut effects.signals);
            out.wake(&self.machine, effects);
        }
        self.unwritten.take(effects);
        effects.clear();
        if let Some(owed) = self.pending.take(position) {
            let answered =
                owed.into_iter().zip(replies).filter_map(|(owed, reply)| Some((owed?, Answer::Reply(reply))));
            out.answers.extend(answered);
        }
        Ok(())
    }

    /// What was applied and not written is part of the snapshot, or was never decided.
    fn restore(&mut self, at: Position, out: &mut CoreOutput<T>) {
        self.machine = self.prepared.take(at);
        self.unwritten = Unwritten::new(&self.machine);
        (self.unwritten_bytes, self.ahead, self.conf_state) = (0, false, None);
        self.applied = at;
        out.restored = Some(at);
    }

    fn change_role(&mut self, role: Role, out: &mut CoreOutput<T>) {
        self.quorum.reset();
        self.pending.abort_all();
        let stuck = self.stuck.take().map(|(_, owed)| owed).unwrap_or_default();
        let gathered = self.batches.drain(..).flat_map(|b| b.owed);
        self.batch_bytes = 0;
        out.answers.extend(stuck.into_iter().chain(gathered).flatten().map(|owed| (owed, Answer::Unknown)));
        self.leading = None;
        self.reads.clear();
        out.role = Some(role);
    }

    /// Begins to serve once all entries of earlier terms are applied.
    fn serve(&mut self, now_ms: u64) {
        if self.leading.is_none() && self.replica.serving_term().is_some() {
            self.leading = Some(Leading::new(&mut self.machine, now_ms, self.policy.expiry));
            self.probe_ms = now_ms;
            self.time_ms = 0;
        }
    }
}
