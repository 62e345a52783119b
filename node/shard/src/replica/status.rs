//! What a replica says about itself. Nothing here changes it.

use super::Replica;
use crate::output::{PeerProgress, Role};
use raft::StateRole;
use raft::eraftpb::ConfState;

impl Replica {
    /// The shard.
    pub fn shard(&self) -> u16 {
        self.config.shard
    }

    /// This replica's id.
    pub fn peer(&self) -> u64 {
        self.config.peer
    }

    /// Role and term now.
    pub fn role(&self) -> Role {
        let raft = &self.raw.raft;
        match raft.state {
            StateRole::Leader => Role::Leader { term: raft.term },
            StateRole::Follower | StateRole::Candidate | StateRole::PreCandidate => {
                Role::Follower { term: raft.term, leader: self.leader() }
            }
        }
    }

    /// The leader of the current term, if known; this replica itself if it leads.
    pub fn leader(&self) -> Option<u64> {
        Some(self.raw.raft.leader_id).filter(|leader| *leader != raft::INVALID_ID)
    }

    /// The term in which this replica leads and may serve: it has applied its own first entry, so its state holds all
    /// that earlier leaders acknowledged.
    pub fn serving_term(&self) -> Option<u64> {
        let raft = &self.raw.raft;
        (raft.state == StateRole::Leader && raft.apply_to_current_term()).then_some(raft.term)
    }

    /// Whether this leader is handing over its leadership. Another may lead at any moment, whatever leases say.
    pub fn is_transferring(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Index of the last entry known to be committed.
    pub fn committed_index(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// Index up to which [`applied`](Replica::applied) was said.
    pub fn applied_index(&self) -> u64 {
        self.raw.raft.raft_log.applied
    }

    /// Index up to which the log is on disk.
    pub fn persisted_index(&self) -> u64 {
        self.raw.raft.raft_log.persisted
    }

    /// Index of the last entry, on disk or not.
    pub fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    /// Index of the oldest entry kept.
    pub fn first_index(&self) -> u64 {
        self.raw.store().truncated().index + 1
    }

    /// Bytes of recent entries in memory.
    pub fn cached_bytes(&self) -> usize {
        self.raw.store().cached_bytes()
    }

    /// Appends handed out and not yet reported persisted.
    pub fn appends_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The group's configuration as of the last entry handed out.
    pub fn conf_state(&self) -> ConfState {
        self.raw.raft.prs().conf().to_conf_state()
    }

    /// Index up to which every member has the log on disk, this one included, as this leader knows: the log may be cut up
    /// to it on all of them. `None` unless this replica leads.
    pub fn matched_by_all(&self) -> Option<u64> {
        if self.raw.raft.state != StateRole::Leader {
            return None;
        }
        let others = self.progress().into_iter().map(|peer| peer.matched);
        others.chain([self.persisted_index()]).min()
    }

    /// How far the other members are, by id; empty unless this replica leads.
    pub fn progress(&self) -> Vec<PeerProgress> {
        if self.raw.raft.state != StateRole::Leader {
            return Vec::new();
        }
        let last = self.last_index();
        let others = self.raw.raft.prs().iter().filter(|(peer, _)| **peer != self.config.peer);
        let mut progress: Vec<PeerProgress> = others
            .map(|(peer, progress)| PeerProgress {
                peer: *peer,
                matched: progress.matched,
                lag: last.saturating_sub(progress.matched),
                active: progress.recent_active,
            })
            .collect();
        progress.sort_by_key(|progress| progress.peer);
        progress
    }
}
