//! One replica of a shard's Raft group.

mod snapshot;
mod status;

use crate::config::ReplicaConfig;
use crate::error::{Error, Result};
use crate::inbound;
use crate::limits::{ENTRY_BYTES_MAX, READS_PENDING_MAX, TRANSFER_LAG_MAX};
use crate::members::{self, Members, Step};
use crate::output::{Append, Committed, Output, Payload, PeerProgress, Position, Read, Role, push_split};
use crate::storage::{Durable, FOUNDING, LogReader, Storage, decode_change};
use bytes::Bytes;
use raft::eraftpb::{ConfChangeType, ConfChangeV2, Entry, EntryType, HardState, Message, MessageType};
use raft::{RawNode, ReadState, StateRole};
use snapshot::Restoring;
use std::collections::{BTreeMap, VecDeque};

/// One replica of a shard's Raft group.
///
/// Fed by [`step`](Replica::step), [`tick`](Replica::tick), [`propose`](Replica::propose) and
/// [`persisted`](Replica::persisted); after each turn the owner takes [`Output`]s until there are none. It never blocks,
/// except where the [`LogReader`] does.
pub struct Replica {
    config: ReplicaConfig,
    raw: RawNode<Storage>,
    /// As last said to the owner.
    role: Role,
    /// Numbers of the appends handed out and not yet reported persisted, rising.
    in_flight: VecDeque<u64>,
    /// Number of the last Ready taken from raft.
    last_number: u64,
    /// Number of the last append that replaced entries.
    replacing_number: u64,
    /// Number of the last append that changed term or vote.
    promising_number: u64,
    /// Index up to which committed entries were handed out.
    handed_out: u64,
    /// As last handed to the log writer.
    hard_state: HardState,
    /// Where the log ended when the members last changed, or when this leadership first looked at them: what follows was
    /// sent by a leader that knew the change as decided, and is written together with that.
    members_until: u64,
    /// Term of that leadership.
    members_term: u64,
    /// Position of the copy of the state that the owner holds for a snapshot.
    expected: Option<Position>,
    /// A snapshot that is being written to the log.
    restoring: Option<Restoring>,
    /// A leader's word to campaign, which came while entries waited to be persisted or applied.
    summons: Option<Message>,
    /// Ticks for which a follower has not answered a snapshot.
    answer_ticks: BTreeMap<u64, u32>,
}

impl Replica {
    /// Opens a replica on what is on its disk. At the first start that is [`Durable::founding`] for all replicas with which
    /// the shard is made, and nothing at all, not even members, for one that joins later.
    ///
    /// # Errors
    /// `Config` if the settings or the configuration are wrong; `Damaged` if the disk contradicts itself, in which case
    /// the replica must not be opened again under this id; `LogRead` if the log cannot be read.
    pub fn open(config: ReplicaConfig, durable: Durable, reader: Box<dyn LogReader>) -> Result<Replica> {
        config.validate()?;
        let members = &durable.conf_state;
        let named = [&members.voters, &members.learners, &members.voters_outgoing];
        // Later it may have been removed, which it then learns by itself or from its owner.
        let founding = durable.applied <= FOUNDING.index && named.iter().any(|ids| !ids.is_empty());
        if founding && !named.iter().any(|ids| ids.contains(&config.peer)) {
            let reason = format!("replica {} is not in the configuration", config.peer);
            return Err(Error::Config { shard: config.shard, reason });
        }
        let applied = durable.applied;
        let storage = Storage::open(&config, durable, reader)?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config.raft(applied), storage, &logger)
            .map_err(|error| Error::Config { shard: config.shard, reason: error.to_string() })?;
        let hard_state = raw.raft.hard_state();
        Ok(Replica {
            role: Role::Follower { term: hard_state.term, leader: None },
            in_flight: VecDeque::new(),
            last_number: 0,
            replacing_number: 0,
            promising_number: 0,
            handed_out: applied,
            hard_state,
            members_until: 0,
            members_term: 0,
            expected: None,
            restoring: None,
            summons: None,
            answer_ticks: BTreeMap::new(),
            config,
            raw,
        })
    }

    /// Lets one tick pass. If several are due, the owner first drains its inbox and then lets pass one: heartbeats that
    /// waited there must not be overtaken.
    pub fn tick(&mut self) {
        self.pin_election();
        self.time_out_snapshots();
        let raft = &self.raw.raft;
        let campaigns =
            raft.state != StateRole::Leader && raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        if !(campaigns && self.is_behind()) {
            self.raw.tick();
        }
    }

    /// Takes a message from a peer.
    ///
    /// # Errors
    /// `Refused` if no replica would send it; it is dropped. `Damaged` if a leader counts on entries that this replica no
    /// longer has: acknowledged entries were lost, and the replica must be replaced. Nothing was changed in either case.
    pub fn step(&mut self, message: Message) -> Result<()> {
        inbound::check(&self.raw.raft, &message)?;
        match message.get_msg_type() {
            MessageType::MsgTimeoutNow if self.is_behind() => {
                // It ends by itself in a moment, but a leader that hands over waits for an election timeout if this is lost.
                self.summons = Some(message);
                return Ok(());
            }
            MessageType::MsgAppend if self.is_joining() && message.index == 0 => {
                return Err(Error::Refused("the beginning of a log, to a replica that joins"));
            }
            MessageType::MsgSnapshot => self.check_expected(&message)?,
            _ => {}
        }
        self.raw.step(message).map_err(|_| Error::Refused("raft did not take it"))
    }

    /// Proposes a command and says where it will stand in the log if it is committed: compare index and term when that
    /// index is applied. Only a leader proposes; nothing is forwarded.
    ///
    /// # Errors
    /// `NotLeader`; `EntrySize`; `Busy` while too much is uncommitted or the leadership is being transferred.
    pub fn propose(&mut self, command: Bytes) -> Result<Position> {
        if command.is_empty() || command.len() > ENTRY_BYTES_MAX {
            return Err(Error::EntrySize { bytes: command.len(), max: ENTRY_BYTES_MAX });
        }
        self.check_leads()?;
        self.propose_entry(command)
    }

    fn propose_entry(&mut self, data: Bytes) -> Result<Position> {
        let mut message = Message { from: self.config.peer, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(vec![Entry { data, ..Entry::default() }].into());
        self.raw.raft.step(message).map_err(|_| self.busy("too many bytes are not yet committed"))?;
        Ok(self.last_proposed())
    }

    /// Proposes a change of the group's members, to be seen as [`Payload::Configuration`] when applied.
    ///
    /// # Errors
    /// As [`propose`](Replica::propose); `Busy` also while an earlier change is not applied; `Refused` if it would remove
    /// this replica or make it a learner: a leader first gives up the leadership.
    pub fn propose_change(&mut self, change: ConfChangeV2) -> Result<Position> {
        self.check_leads()?;
        if self.raw.raft.has_pending_conf() {
            // raft would silently propose an empty entry instead.
            return Err(self.busy("an earlier configuration change is not applied"));
        }
        let own = |single: &raft::eraftpb::ConfChangeSingle| {
            single.node_id == self.config.peer && single.get_change_type() != ConfChangeType::AddNode
        };
        if change.changes.iter().any(own) {
            return Err(Error::Refused("a leader cannot remove itself"));
        }
        self.raw.propose_conf_change(Vec::new(), change).map_err(|_| self.busy("raft did not take the change"))?;
        Ok(self.last_proposed())
    }

    /// Takes the next step towards these members, if this replica leads: a change, a transfer of the leadership. Called
    /// from time to time until it is [`Step::Done`]: then the group has agreed on it, a majority of the members has that on
    /// disk, and whoever is no member any more is not needed, even if all members restart.
    ///
    /// A commit index is written with the entries that follow. Without one, a member that restarts would find itself in the
    /// earlier configuration, and wait for the votes of those that are gone.
    pub fn reconcile(&mut self, wanted: &Members) -> Option<Step> {
        let term = self.serving_term()?;
        if std::mem::replace(&mut self.members_term, term) != term {
            self.members_until = self.last_index();
        }
        let step = members::next(self.config.peer, &self.conf_state(), wanted, &self.progress());
        if step == Step::Done && self.committed_index() <= self.members_until {
            if self.last_index() <= self.members_until {
                drop(self.propose_entry(Bytes::new()));
            }
            return Some(Step::Wait("the change is not yet on the disks of a majority"));
        }
        // What is refused now, because an earlier change is under way, say, is found to be missing the next time.
        match &step {
            Step::Change(change) => drop(self.propose_change(change.clone())),
            Step::GiveAway(peer) => drop(self.transfer_leader(*peer)),
            Step::Done | Step::Wait(_) => {}
        }
        Some(step)
    }

    /// Asks a quorum whether this replica still leads. The answer comes as [`Read`] with `context`, which must differ
    /// from those still waiting; or never, if the leadership is lost or messages are: the owner repeats under a new
    /// context. One call can serve all reads of a turn.
    ///
    /// # Errors
    /// `NotLeader`; `Busy` before the leader's first entry is committed, or while too many wait.
    pub fn read_index(&mut self, context: u64) -> Result<()> {
        self.check_leads()?;
        if !self.raw.raft.commit_to_current_term() {
            return Err(self.busy("the leader's first entry is not committed"));
        }
        if self.raw.raft.pending_read_count() >= READS_PENDING_MAX {
            return Err(self.busy("too many reads wait for a quorum"));
        }
        self.raw.read_index(context.to_be_bytes().to_vec());
        Ok(())
    }

    /// Hands the leadership to a voter. Proposals are refused until it is done, or given up after an election timeout.
    ///
    /// # Errors
    /// `NotLeader`; `Refused` if `peer` is no other voter; `Busy` if it lags too far or was not heard of.
    pub fn transfer_leader(&mut self, peer: u64) -> Result<()> {
        self.check_leads()?;
        if peer == self.config.peer || !self.raw.raft.prs().conf().voters().contains(peer) {
            return Err(Error::Refused("not another voter"));
        }
        let ready =
            |progress: &PeerProgress| progress.peer == peer && progress.lag <= TRANSFER_LAG_MAX && progress.active;
        if !self.progress().iter().any(ready) {
            return Err(self.busy("the peer lags or is silent"));
        }
        self.raw.transfer_leader(peer);
        Ok(())
    }

    /// Stops leading without a successor, as a leader that lost its quorum does: another is elected after an election
    /// timeout. `false`: it does not lead, or there is nobody else.
    pub fn step_down(&mut self) -> bool {
        let raft = &mut self.raw.raft;
        let alone = raft.prs().conf().voters().ids().len() < 2;
        if alone || raft.state != StateRole::Leader {
            return false;
        }
        let term = raft.term;
        raft.become_follower(term, raft::INVALID_ID);
        true
    }

    /// Campaigns now instead of after the election timeout. Peers that hear a leader will not agree.
    ///
    /// # Errors
    /// `Busy` while entries are not persisted or committed ones not handed out.
    pub fn campaign(&mut self) -> Result<()> {
        if self.is_behind() {
            return Err(self.busy("entries wait to be persisted or applied"));
        }
        self.raw.campaign().map_err(|_| self.busy("raft did not campaign"))
    }

    /// Says that a message to `peer` was dropped, so that appends are sent again.
    pub fn report_unreachable(&mut self, peer: u64) {
        self.raw.report_unreachable(peer);
    }

    /// What there is to do since the last call. The owner calls it until there is nothing, and acts on every output, in
    /// this order.
    ///
    /// # Errors
    /// `LogRead` if the log could not be read, `Damaged` if it holds a configuration change that cannot be read. Both
    /// are final: nothing may be sent or written for this replica any more.
    pub fn take_output(&mut self) -> Result<Option<Output>> {
        self.check_log()?;
        if !self.raw.has_ready() {
            return Ok(None);
        }
        let mut ready = self.raw.ready();
        self.check_log()?;
        self.last_number = ready.number();
        let mut output = Output::default();
        let mut after_write = Vec::new();
        for message in ready.take_messages() {
            let message = self.aligned(message);
            push_split(message, self.config.append_bytes_max, &mut output.messages);
        }
        for message in ready.take_persisted_messages() {
            let message = self.aligned(message);
            push_split(message, self.config.append_bytes_max, &mut after_write);
        }
        self.take_restore(ready.snapshot(), &mut output);
        // The storage must hold the entries before raft lets go of them.
        let entries = ready.take_entries();
        if let Some(first) = entries.first() {
            let storage = self.raw.mut_store();
            if first.index <= storage.last().index {
                self.replacing_number = self.last_number;
            }
            storage.append(&entries);
        }
        output.reads = ready.take_read_states().iter().filter_map(read_of).collect();
        let committed = ready.take_committed_entries();
        self.raw.advance_append_async(ready);

        self.hand_append(entries, after_write, &mut output);
        self.hand_committed(committed, &mut output)?;
        output.role_change = self.take_role_change();
        Ok(Some(output))
    }

    /// Says that the append with this number, and thus all before it, is on disk.
    ///
    /// # Panics
    /// If no append with this number was handed out.
    pub fn persisted(&mut self, number: u64) {
        assert!(number <= self.last_number, "append {number} was never handed out");
        while self.in_flight.front().is_some_and(|first| *first <= number) {
            self.in_flight.pop_front();
        }
        self.report_persisted();
        self.follow_summons();
    }

    /// Says that committed entries are applied up to `index`.
    ///
    /// # Panics
    /// If `index` is below what was said before or above what was handed out.
    pub fn applied(&mut self, index: u64) {
        assert!(
            (self.applied_index()..=self.handed_out).contains(&index),
            "{index} cannot be applied after {}: {} was handed out",
            self.applied_index(),
            self.handed_out
        );
        self.raw.advance_apply_to(index);
        self.shrink_cache();
        self.follow_summons();
    }

    /// Campaigns if a leader of this term asked for it.
    fn follow_summons(&mut self) {
        if self.is_behind() {
            return;
        }
        if let Some(message) = self.summons.take().filter(|message| message.term == self.term()) {
            let _ = self.raw.step(message);
        }
    }

    /// Forgets the log at and below `index`. The owner then deletes it on disk. The seam for snapshots: a peer that lacks
    /// entries below `index` can no longer be served.
    ///
    /// # Panics
    /// If `index` is above `durable_applied`, the index up to which the state on disk has applied the log, or that above
    /// what is applied.
    pub fn truncate_to(&mut self, index: u64, durable_applied: u64) {
        assert!(index <= durable_applied, "the log is needed to restore the state after {durable_applied}");
        assert!(durable_applied <= self.applied_index(), "more is durable than was applied");
        if index > self.raw.store().truncated().index {
            self.raw.mut_store().truncate_to(index);
        }
    }

    /// Campaign after exactly `election_ticks` plus this many; `None` lets Raft draw it. For simulations.
    ///
    /// # Panics
    /// If `ticks` is not less than `election_ticks`.
    pub fn set_election_jitter(&mut self, ticks: Option<u32>) {
        assert!(ticks.is_none_or(|ticks| ticks < self.config.election_ticks), "jitter beyond the election timeout");
        self.config.election_jitter_ticks = ticks;
    }

    /// A replica that has not persisted its log cannot win, and one with committed entries still to hand out would first
    /// read them all at once, to look for configuration changes; raft panics on the first. Both end by themselves.
    fn is_behind(&self) -> bool {
        self.persisted_index() < self.last_index() || self.handed_out < self.committed_index()
    }

    /// raft draws a new timeout at every change of role or term, and compares it only in a tick.
    fn pin_election(&mut self) {
        if let Some(jitter) = self.config.election_jitter_ticks {
            let ticks = self.config.election_ticks + jitter;
            self.raw.raft.set_randomized_election_timeout(ticks as usize);
        }
    }

    fn check_leads(&self) -> Result<()> {
        if self.raw.raft.state != StateRole::Leader {
            return Err(Error::NotLeader { shard: self.config.shard, leader: self.leader() });
        }
        Ok(())
    }

    fn check_log(&self) -> Result<()> {
        match self.raw.store().failed() {
            Some(source) => Err(Error::LogRead { shard: self.config.shard, source }),
            None => Ok(()),
        }
    }

    fn busy(&self, reason: &'static str) -> Error {
        let reason = if self.is_transferring() { "the leadership is being transferred" } else { reason };
        Error::Busy { shard: self.config.shard, reason }
    }

    fn last_proposed(&self) -> Position {
        let position = Position { term: self.term(), index: self.last_index() };
        debug_assert_eq!(self.raw.raft.raft_log.term(position.index), Ok(position.term));
        position
    }

    /// Decides what of a Ready must be written, and until when its messages must wait.
    ///
    /// A commit index alone is not written: it need not be durable, and goes with the next entries.
    ///
    /// raft lets a leader's messages leave at once, for its vote has made it leader and so is on disk. A single voter needs
    /// no other's vote: its messages wait, or a crash would let it lead the same term again with other entries.
    fn hand_append(&mut self, entries: Vec<Entry>, mut after_write: Vec<Message>, output: &mut Output) {
        let hard_state = self.raw.raft.hard_state();
        let promised = hard_state.term != self.hard_state.term || hard_state.vote != self.hard_state.vote;
        let writes = promised || !entries.is_empty() || output.restore.is_some();
        if promised {
            self.promising_number = self.last_number;
        }
        if promised || self.in_flight.front().is_some_and(|first| *first <= self.promising_number) {
            after_write.splice(0..0, output.messages.drain(..));
        }
        let waits = !self.in_flight.is_empty() && !after_write.is_empty();
        if !writes && !waits {
            output.messages.append(&mut after_write);
            self.report_persisted();
            return;
        }
        let hard_state = (writes && hard_state != self.hard_state).then_some(hard_state);
        if let Some(hard_state) = &hard_state {
            self.hard_state = hard_state.clone();
        }
        self.in_flight.push_back(self.last_number);
        let restart = output.restore;
        output.append = Some(Append { number: self.last_number, restart, entries, hard_state, messages: after_write });
    }

    /// The append with the position that its entries follow.
    ///
    /// raft joins entries to an append of the same turn to the same peer. If that one held none it keeps its position,
    /// although the peer may have asked for earlier entries since. Where the position's term is not known any more, the
    /// entries stay behind: the peer will ask again.
    fn aligned(&self, mut message: Message) -> Message {
        let before = message.entries.first().map(|first| first.index - 1);
        let append = message.get_msg_type() == MessageType::MsgAppend;
        let Some(index) = before.filter(|index| append && *index != message.index) else { return message };
        match self.raw.raft.raft_log.term(index) {
            Ok(log_term) if log_term <= message.term => (message.index, message.log_term) = (index, log_term),
            _ => drop(message.take_entries()),
        }
        message
    }

    /// Tells raft how far the log is on disk: up to the first append in flight.
    ///
    /// raft takes an entry for persisted when an entry with its index and term was, although it may have been replaced
    /// and appended again since, all in flight. So while an append that replaces entries is in flight, those before it
    /// are not reported.
    fn report_persisted(&mut self) {
        let number = self.in_flight.front().map_or(self.last_number, |first| first - 1);
        if number >= self.replacing_number {
            self.raw.on_persist_ready(number);
            self.finish_restore(number);
            self.shrink_cache();
        }
    }

    fn shrink_cache(&mut self) {
        let index = self.persisted_index().min(self.applied_index());
        self.raw.mut_store().shrink_cache_to(index);
    }

    fn hand_committed(&mut self, entries: Vec<Entry>, output: &mut Output) -> Result<()> {
        for entry in entries {
            let position = Position { term: entry.term, index: entry.index };
            self.handed_out = position.index;
            let payload = match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => None,
                EntryType::EntryNormal => Some(Payload::Command(entry.data)),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.change_members(&entry)?,
            };
            output.committed.extend(payload.map(|payload| Committed { position, payload }));
        }
        // A snapshot counts as applied once it is on disk.
        output.committed_to = if self.restoring.is_some() { self.applied_index() } else { self.handed_out };
        Ok(())
    }

    /// Takes over a committed change. One that the group's configuration does not allow changes nothing, on any replica.
    fn change_members(&mut self, entry: &Entry) -> Result<Option<Payload>> {
        let change = decode_change(entry).ok_or_else(|| Error::Damaged {
            shard: self.config.shard,
            peer: self.config.peer,
            reason: format!("the configuration change at {} cannot be read", entry.index),
        })?;
        let Ok(conf_state) = self.raw.apply_conf_change(&change) else {
            return Ok(None);
        };
        self.members_until = self.last_index();
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader && raft.prs().get(raft.id).is_none() {
            // raft lets a removed leader lead on, and panics when its next entry is persisted.
            let term = raft.term;
            raft.become_follower(term, raft::INVALID_ID);
        }
        Ok(Some(Payload::Configuration(Box::new(conf_state))))
    }

    fn take_role_change(&mut self) -> Option<Role> {
        let role = self.role();
        (role != std::mem::replace(&mut self.role, role)).then_some(role)
    }
}

fn read_of(state: &ReadState) -> Option<Read> {
    let context = state.request_ctx.as_slice().try_into().ok()?;
    Some(Read { context: u64::from_be_bytes(context), index: state.index })
}
