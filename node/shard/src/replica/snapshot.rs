//! Snapshots: the leader's half, which sends them to followers that lack what was cut off, and the follower's.

use super::Replica;
use crate::error::{Error, Result};
use crate::output::{Output, Position};
use crate::snapshots::position;
use raft::eraftpb::{ConfState, Message, Snapshot};
use raft::{ProgressState, SnapshotStatus, StateRole};
use std::collections::BTreeSet;

/// Election timeouts that a follower may take to answer a snapshot whose copy it holds already.
const ANSWER_TIMEOUTS: u32 = 2;

/// A restored snapshot whose log record is being written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restoring {
    /// Number of the append that holds it.
    number: u64,
    index: u64,
}

impl Replica {
    /// Followers that lack what was cut off the log, and for which a copy of the state was wanted since the last call. The
    /// owner brings each of them one, one at a time, and calls [`Replica::stage_snapshot`].
    pub fn take_snapshots_wanted(&mut self) -> BTreeSet<u64> {
        let wanted = self.raw.mut_store().snapshots.take_wanted();
        if self.raw.raft.state == StateRole::Leader { wanted } else { BTreeSet::new() }
    }

    /// Says that `peer` holds a whole copy of the state as of `at`, where the members were `members`, and expects the
    /// snapshot; or that it has applied as much and needs no copy, which Raft learns from its answer to the snapshot. It leaves as soon as Raft hears of the follower again.
    pub fn stage_snapshot(&mut self, peer: u64, at: Position, members: ConfState) {
        if self.raw.raft.state == StateRole::Leader {
            self.raw.mut_store().snapshots.stage(peer, at, members);
        }
    }

    /// Index up to which the log must be kept for `peer`: that of the copy it holds, until it has taken it over.
    pub fn staged_snapshot(&self, peer: u64) -> Option<u64> {
        self.raw.store().snapshots.staged(peer)
    }

    /// Says that this replica's owner holds a whole copy of the state as of `at`, ready to take its place; `None`: not any
    /// more. Only a snapshot of that position is taken from a leader.
    pub fn expect_snapshot(&mut self, at: Option<Position>) {
        self.expected = at;
    }

    /// Whether Raft has accepted the snapshot that was expected, which the next output tells: until then the copy must stay.
    pub fn takes_snapshot(&self) -> bool {
        self.raw.raft.raft_log.unstable.snapshot.is_some()
    }

    /// Whether this replica was never given a state: it joined, and waits for its first snapshot.
    pub fn is_joining(&self) -> bool {
        self.last_index() == 0 && self.raw.raft.prs().conf().voters().ids().iter().next().is_none()
    }

    pub(super) fn check_expected(&self, message: &Message) -> Result<()> {
        let offered = position(message.get_snapshot());
        match self.expected {
            Some(expected) if expected == offered => Ok(()),
            // It changes nothing, and Raft answers how far this replica is: the leader, which has not heard, waits for that.
            _ if offered.index <= self.committed_index() => Ok(()),
            _ => Err(Error::Refused("a snapshot whose copy is not here")),
        }
    }

    /// Takes up a snapshot that Raft has accepted: the log begins anew behind it.
    pub(super) fn take_restore(&mut self, snapshot: &Snapshot, output: &mut Output) {
        let at = position(snapshot);
        if at.index == 0 {
            return;
        }
        self.raw.mut_store().restore(at);
        self.replacing_number = self.last_number;
        self.handed_out = at.index;
        self.expected = None;
        self.restoring = Some(Restoring { number: self.last_number, index: at.index });
        output.restore = Some(at);
    }

    /// What is on disk may now be a snapshot: it counts as applied.
    pub(super) fn finish_restore(&mut self, number: u64) {
        if let Some(restoring) = self.restoring.filter(|restoring| restoring.number <= number) {
            self.restoring = None;
            self.raw.advance_apply_to(restoring.index);
        }
    }

    /// Gives up snapshots that are not answered, so that Raft tries again, and forgets those that were taken over.
    pub(super) fn time_out_snapshots(&mut self) {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            self.answer_ticks.clear();
            self.raw.mut_store().snapshots.clear();
            return;
        }
        let waiting: BTreeSet<u64> =
            raft.prs().iter().filter(|(_, p)| p.state == ProgressState::Snapshot).map(|(peer, _)| *peer).collect();
        let matched: Vec<(u64, u64)> = raft.prs().iter().map(|(peer, p)| (*peer, p.matched)).collect();
        let snapshots = &mut self.raw.mut_store().snapshots;
        for (peer, matched) in matched {
            if snapshots.staged(peer).is_some_and(|index| matched >= index) {
                snapshots.unstage(peer);
            }
        }
        self.answer_ticks.retain(|peer, _| waiting.contains(peer));
        for peer in waiting {
            let ticks = self.answer_ticks.entry(peer).or_default();
            *ticks += 1;
            if *ticks > ANSWER_TIMEOUTS * self.config.election_ticks {
                self.answer_ticks.remove(&peer);
                self.raw.mut_store().snapshots.unstage(peer);
                self.raw.report_snapshot(peer, SnapshotStatus::Failure);
            }
        }
    }
}
