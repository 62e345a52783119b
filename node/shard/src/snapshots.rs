//! Which followers need a snapshot, and which hold the copy of the state that goes with one.
//!
//! A snapshot has two halves. The owner copies the state to the follower beside the Raft stream, which may take minutes and
//! may fail; only when the copy is whole there does the small message leave by which Raft takes the copy's position over.

use crate::output::Position;
use raft::eraftpb::{ConfState, Snapshot, SnapshotMetadata};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// What a leader knows of its followers' snapshots. Empty unless it leads.
#[derive(Default)]
pub(crate) struct Snapshots {
    /// Followers that hold a whole copy, with its position.
    staged: BTreeMap<u64, Snapshot>,
    /// Followers for which Raft asked; asked again while they lack one.
    wanted: RefCell<BTreeSet<u64>>,
}

impl Snapshots {
    /// The snapshot that `peer` holds a copy for, if it reaches at least to `first`. Otherwise one is wanted.
    pub(crate) fn give(&self, peer: u64, first: u64) -> Option<Snapshot> {
        let staged = self.staged.get(&peer).filter(|snapshot| snapshot.get_metadata().index >= first);
        if staged.is_none() {
            self.wanted.borrow_mut().insert(peer);
        }
        staged.cloned()
    }

    /// Followers for which one was wanted since the last call.
    pub(crate) fn take_wanted(&mut self) -> BTreeSet<u64> {
        std::mem::take(self.wanted.get_mut())
    }

    /// `peer` holds a whole copy of the state at `at`.
    pub(crate) fn stage(&mut self, peer: u64, at: Position, members: ConfState) {
        self.wanted.get_mut().remove(&peer);
        self.staged.insert(peer, snapshot(at, members));
    }

    /// The copy that `peer` held is of no use any more.
    pub(crate) fn unstage(&mut self, peer: u64) {
        self.staged.remove(&peer);
    }

    /// Position of the copy that `peer` holds.
    pub(crate) fn staged(&self, peer: u64) -> Option<u64> {
        self.staged.get(&peer).map(|snapshot| snapshot.get_metadata().index)
    }

    /// The leadership is lost.
    pub(crate) fn clear(&mut self) {
        *self = Snapshots::default();
    }
}

/// Raft's half of a snapshot.
pub(crate) fn snapshot(at: Position, members: ConfState) -> Snapshot {
    let mut metadata = SnapshotMetadata { index: at.index, term: at.term, ..SnapshotMetadata::default() };
    metadata.set_conf_state(members);
    let mut snapshot = Snapshot::default();
    snapshot.set_metadata(metadata);
    snapshot
}

/// The position of a snapshot.
pub(crate) fn position(snapshot: &Snapshot) -> Position {
    Position { term: snapshot.get_metadata().term, index: snapshot.get_metadata().index }
}
