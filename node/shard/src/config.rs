//! Settings of one replica.

use crate::error::{Error, Result};
use crate::limits::{APPEND_BYTES_MAX, ENTRY_BYTES_MAX};

/// Settings of one replica. All replicas of a shard should have the same, but for `peer`.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// The shard, for messages to the operator.
    pub shard: u16,
    /// This replica's id, not 0, never used twice: a replica that lost its data comes back under a new one.
    pub peer: u64,
    /// Ticks without a leader before a replica campaigns: drawn between this and twice this. Also how long a leader
    /// without a quorum goes on leading.
    pub election_ticks: u32,
    /// Ticks between a leader's heartbeats. Less than `election_ticks`.
    pub heartbeat_ticks: u32,
    /// Campaign after exactly `election_ticks` plus this, which must be less than `election_ticks`. For simulations,
    /// which must be repeatable; `None` lets Raft draw it.
    pub election_jitter_ticks: Option<u32>,
    /// Bytes of entries per append.
    pub append_bytes_max: usize,
    /// Unanswered appends per peer. Times `append_bytes_max`, this is what one slow peer may hold in queues.
    pub appends_in_flight_max: usize,
    /// Bytes of entries proposed but not committed; beyond it proposals are refused.
    pub uncommitted_bytes_max: usize,
    /// Bytes of committed entries per output, so that a long replay leaves room for heartbeats.
    pub committed_bytes_max: usize,
    /// Bytes of recent entries kept in memory, so that followers are served without reading the disk. Entries not yet
    /// persisted or not yet applied stay beyond it.
    pub cache_bytes_max: usize,
}

impl ReplicaConfig {
    /// The defaults, for a tick of 100 ms: heartbeat every 0.5 s, election after 2 to 4 s.
    pub fn new(shard: u16, peer: u64) -> ReplicaConfig {
        ReplicaConfig {
            shard,
            peer,
            election_ticks: 20,
            heartbeat_ticks: 5,
            election_jitter_ticks: None,
            append_bytes_max: 512 << 10,
            appends_in_flight_max: 64,
            uncommitted_bytes_max: 16 << 20,
            committed_bytes_max: 2 << 20,
            cache_bytes_max: 8 << 20,
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let reason = if self.peer == 0 {
            "the replica id must not be 0"
        } else if self.heartbeat_ticks == 0 || self.heartbeat_ticks >= self.election_ticks {
            "heartbeat_ticks must be at least 1 and less than election_ticks"
        } else if self.election_ticks > u32::MAX / 2 {
            "election_ticks is too great"
        } else if self.election_jitter_ticks.is_some_and(|ticks| ticks >= self.election_ticks) {
            "election_jitter_ticks must be less than election_ticks"
        } else if self.append_bytes_max == 0 || self.append_bytes_max > APPEND_BYTES_MAX {
            "append_bytes_max must be at least 1 and at most APPEND_BYTES_MAX"
        } else if self.appends_in_flight_max == 0 {
            "appends_in_flight_max must be at least 1"
        } else if self.uncommitted_bytes_max < self.append_bytes_max.max(ENTRY_BYTES_MAX) {
            "uncommitted_bytes_max must hold an append and an entry of the greatest size"
        } else if self.committed_bytes_max == 0 {
            "committed_bytes_max must be at least 1"
        } else {
            return Ok(());
        };
        Err(Error::Config { shard: self.shard, reason: reason.to_string() })
    }

    pub(crate) fn raft(&self, applied: u64) -> raft::Config {
        raft::Config {
            id: self.peer,
            applied,
            election_tick: self.election_ticks as usize,
            heartbeat_tick: self.heartbeat_ticks as usize,
            max_size_per_msg: self.append_bytes_max as u64,
            max_inflight_msgs: self.appends_in_flight_max,
            max_uncommitted_size: self.uncommitted_bytes_max as u64,
            max_committed_size_per_ready: self.committed_bytes_max as u64,
            pre_vote: true,
            check_quorum: true,
            batch_append: true,
            skip_bcast_commit: true,
            read_only_option: raft::ReadOnlyOption::Safe,
            ..raft::Config::default()
        }
    }
}
