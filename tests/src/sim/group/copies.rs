//! Snapshots: the leader's owner copies the state to a follower that lacks what was cut off, the follower's owner lets it
//! take the state's place.

use super::{Around, Group};
use crate::ensure_that;
use crate::sim::env::Env;
use crate::sim::event::Event;
use crate::sim::folders::Folders;
use crate::sim::network;
use crate::sim::state::Records;
use crate::sim::trace::Note;
use crate::sim::watch::{Check, Violation};
use moso_proto::ShardId;
use moso_queue::Machine;
use moso_shard::{ConfState, MessageType, Position, Role};
use std::sync::Arc;

/// A copy that takes longer is given up by the leader, ms of its time.
const COPY_MS_MAX: u64 = 30_000;
/// A copy holds the leader's log for so many times what a laggard may hold.
const COPY_PINS: u64 = 4;

/// A copy of the state on its way to a follower.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Replica that it is for.
    pub peer: u64,
    /// Node that sends it.
    pub from: usize,
    /// State at `at`.
    pub records: Arc<Records>,
    /// It was not cut off in the middle.
    pub whole: bool,
}

/// A follower's word that it holds a whole copy.
#[derive(Clone, Debug)]
pub struct Held {
    /// Replica that holds it.
    pub peer: u64,
    /// Of the copy.
    pub at: Position,
    /// Of the copy.
    pub members: ConfState,
}

/// A copy that a leader sends, or that waits at the follower for its snapshot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    at: Position,
    until_ms: u64,
}

/// A copy that may take the place of the state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prepared {
    folder: u64,
    at: Position,
}

/// A copy took the place of the state; the append that says so is being written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restoring {
    /// Of the append.
    pub number: u64,
    /// Position of the copy.
    pub at: Position,
}

impl Group {
    /// The leader's owner: brings copies to the followers that need one, one at a time each.
    pub(super) fn send_copies(&mut self, around: &mut Around<'_>, folders: &mut Folders) -> Check {
        if !matches!(self.core.replica_ref().role(), Role::Leader { .. }) {
            self.sending.clear();
        }
        self.sending.retain(|_, sending| sending.until_ms > around.mono_ms);
        for peer in self.core.replica().take_snapshots_wanted() {
            around.env.cover.count("snapshots: wanted");
            if !self.sending.contains_key(&peer) {
                self.send_copy(around, folders, peer)?;
            }
        }
        Ok(())
    }

    fn send_copy(&mut self, around: &mut Around<'_>, folders: &mut Folders, peer: u64) -> Check {
        self.write_out(folders);
        let store = folders.store();
        store.flush(u64::MAX);
        let records = store.durable();
        let at = records.applied;
        if at.index == 0 {
            return Ok(());
        }
        let digest = self.core.machine().digest();
        around.watch.oracle_mut(self.shard).0.agree(at, digest)?;
        let sending = Sending { at, until_ms: around.mono_ms + COPY_MS_MAX };
        self.sending.insert(peer, sending);
        around.env.cover.count("snapshots: copies begun");
        let (from, to) = (around.node, crate::sim::node_of(peer));
        around.env.note(Note::Copy { node: from, shard: self.shard, what: "is sent to", peer, index: at.index });
        let copy = Copy { peer, from, records: Arc::new(records.clone()), whole: true };
        network::copy(around.env, to, self.shard, copy);
        Ok(())
    }

    /// Index above which the log is not cut, for the followers that a copy is under way to.
    pub(super) fn kept_for_copies(&self, durable: u64, pin: u64) -> u64 {
        let replica = self.core.replica_ref();
        let staged = replica.progress().into_iter().filter_map(|peer| replica.staged_snapshot(peer.peer));
        let sending = self.sending.values().map(|sending| sending.at.index);
        let lowest = staged.chain(sending).min().unwrap_or(u64::MAX);
        lowest.max(durable.saturating_sub(pin.saturating_mul(COPY_PINS)))
    }

    /// A follower says that it holds a copy, perhaps of an earlier leadership.
    pub fn held(&mut self, env: &mut Env, node: usize, held: Held) {
        if matches!(self.core.replica_ref().role(), Role::Leader { .. }) {
            env.cover.count("snapshots: staged");
            crash_soon(env, node);
            self.sending.remove(&held.peer);
            self.core.replica().stage_snapshot(held.peer, held.at, held.members);
        }
    }

    /// The follower's owner: a copy has come, as far as it has.
    pub fn receive(&mut self, around: &mut Around<'_>, folders: &mut Folders, copy: &Copy) -> Check {
        let at = copy.records.applied;
        if copy.peer != self.peer {
            around.env.cover.count("snapshots: copies for another");
            return Ok(());
        }
        let held = Held { peer: self.peer, at, members: copy.records.members.clone() };
        if at.index <= self.core.replica_ref().applied_index() {
            // The leader does not know how far this replica is, and learns it by the answer to the snapshot.
            around.env.cover.count("snapshots: copies of no use");
            network::held(around.env, around.node, copy.from, self.shard, held);
            return Ok(());
        }
        if !copy.whole {
            around.env.cover.count("snapshots: copies cut in the middle");
            folders.receive(Records::clone(&copy.records), false);
            return Ok(());
        }
        let machine = copy.records.load(ShardId(self.shard)).map_err(|error| Violation {
            invariant: "state loads",
            detail: format!("node {} shard {}, a copy: {error}", around.node, self.shard),
        })?;
        if !self.core.prepare(machine, at) {
            around.env.cover.count("snapshots: copies while one is taken up");
            return Ok(());
        }
        let folder = folders.receive(Records::clone(&copy.records), true);
        if let Some(before) = self.prepared.replace(Prepared { folder, at }) {
            around.env.cover.count("snapshots: copies replaced by another");
            folders.discard(before.folder);
        }
        let (node, shard, peer) = (around.node, self.shard, self.peer);
        around.env.note(Note::Copy { node, shard, what: "is held by", peer, index: at.index });
        network::held(around.env, node, copy.from, shard, held);
        Ok(())
    }

    /// Removes a copy that came too late, or that nobody asks to be taken over.
    pub(super) fn tidy_copies(&mut self, around: &mut Around<'_>, folders: &mut Folders) {
        let Some(prepared) = self.prepared else { return };
        let late = self.core.replica_ref().applied_index() >= prepared.at.index;
        if (late || (!around.env.calm && around.env.once_in(100))) && self.core.unprepare() {
            around.env.cover.count("snapshots: copies removed unused");
            self.prepared = None;
            folders.discard(prepared.folder);
        }
    }

    /// The copy took the place of the state.
    pub(super) fn restored(&mut self, around: &mut Around<'_>, folders: &mut Folders, at: Position) -> Check {
        let prepared = self.prepared.take();
        let Some(prepared) = prepared.filter(|prepared| prepared.at == at) else {
            return Violation::new("a restored copy is there", format!("{prepared:?} instead of {at:?}"));
        };
        around.env.cover.count("snapshots: restored");
        let (node, shard, peer) = (around.node, self.shard, self.peer);
        around.env.note(Note::Copy { node, shard, what: "is taken over by", peer, index: at.index });
        crash_soon(around.env, node);
        folders.switch(prepared.folder);
        self.first_members = None;
        self.flushing = false;
        (self.observed, self.checked, self.seen_jobs, self.seen_ends) = (at.index, at.index, 0, 0);
        let machine = self.core.machine();
        super::check_machine(node, shard, machine)?;
        let digest = machine.digest();
        let (oracle, _) = around.watch.oracle_mut(shard);
        oracle.agree(at, digest)?;
        ensure_that!(
            "a snapshot is of what is committed",
            oracle.term(at.index) == Some(at.term),
            "shard {shard}: {at:?}"
        );
        Ok(())
    }

    /// What became of a snapshot that Raft has taken. Until the next turn its copy stays, whatever else comes.
    pub(super) fn check_snapshot(&mut self, env: &mut Env, kind: MessageType, committed: u64) -> Check {
        if kind != MessageType::MsgSnapshot {
            return Ok(());
        }
        if !self.core.replica_ref().takes_snapshot() {
            let moved = self.core.replica_ref().committed_index() > committed;
            env.cover.count(if moved { "snapshots: fast-forwarded" } else { "snapshots: of no use" });
            return Ok(());
        }
        let other = Position { term: 1, index: u64::MAX };
        ensure_that!(
            "a copy that is being taken up stays",
            !self.core.prepare(Machine::new(ShardId(self.shard)), other) && !self.core.unprepare(),
            "shard {} replica {:x}",
            self.shard,
            self.peer
        );
        Ok(())
    }
}

/// A crash at any point of what follows.
fn crash_soon(env: &mut Env, node: usize) {
    let part = env.plan.copies.crash;
    if !env.calm && env.chance(part) {
        env.cover.count("faults: crash beside a snapshot");
        let (_, sync_ms) = env.plan.sync_ms;
        let delay_ms = env.within((0, 2 * sync_ms));
        env.after(delay_ms, Event::Kill(node));
    }
}
