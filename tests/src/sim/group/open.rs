//! A replica is opened on what is on its node's disk.

use super::checks::check_digest;
use super::{Around, Group, Owed};
use crate::sim::env::Env;
use crate::sim::folders::Folders;
use crate::sim::log::{Key, ShardLog};
use crate::sim::trace::Note;
use crate::sim::watch::Violation;
use moso_proto::ShardId;
use moso_shard::core::{Core, CoreOutput};
use moso_shard::limits::ENTRY_BYTES_MAX;
use moso_shard::{ConfState, Durable, FOUNDING, Replica, ReplicaConfig};
use std::collections::{BTreeMap, BTreeSet};

/// A replica that a node has on its disk.
pub struct Born {
    /// Its id.
    pub peer: u64,
    /// The members with which the shard was made, if it is one of them.
    pub founding: Option<ConfState>,
    /// Its state.
    pub folders: Folders,
    /// Version of the wish by which it was made: nothing older says that it is not wanted.
    pub version: u64,
    /// Something of it was damaged on disk.
    pub hurt: bool,
    /// It was found damaged: it is not opened any more.
    pub refused: bool,
    /// It is being destroyed; what is left of it goes at this time of the node.
    pub dying_ms: Option<u64>,
}

impl Born {
    /// A replica without state.
    pub fn new(peer: u64, founding: Option<ConfState>, version: u64) -> Born {
        let folders = Folders::default();
        Born { peer, founding, folders, version, hurt: false, refused: false, dying_ms: None }
    }
}

impl Group {
    /// Opens a replica on what is on the node's disk.
    pub fn open(around: &mut Around<'_>, shard: u16, born: &mut Born) -> Result<Group, Violation> {
        let (node, peer) = (around.node, born.peer);
        let damaged = |what: String| Violation {
            invariant: "replica opens",
            detail: format!("node {node} shard {shard} replica {peer:x}: {what}"),
        };
        let log = around.disk.durable((shard, peer));
        if !around.disk.with((shard, peer), ShardLog::is_sound) {
            return Err(damaged("the log is not what was written".into()));
        }
        if !born.folders.recover(log.truncated.index) {
            return Err(damaged(format!("no state goes with a log that was cut at {:?}", log.truncated)));
        }
        let records = born.folders.store().durable();
        if !records.is_sound() {
            return Err(damaged("the state is not what was written".into()));
        }
        let machine = records.load(ShardId(shard)).map_err(|error| damaged(error.to_string()))?;
        moso_queue::check::check(&machine).map_err(|what| Violation {
            invariant: "I7 state adds up",
            detail: format!("node {node} shard {shard}, loaded: {what}"),
        })?;
        check_digest(around, shard, records.applied.index, &machine)?;
        let fresh = records.applied.index == 0;
        let (durable, at) = match &born.founding {
            Some(members) if fresh => (Durable::founding(members.clone(), log), FOUNDING),
            _ => {
                let (conf_state, applied) = (records.members.clone(), records.applied.index);
                // A log that was never cut begins behind the founding, unless the replica waits for its first state.
                let truncated = if fresh { log.truncated } else { log.truncated.max(FOUNDING) };
                (Durable { conf_state, applied, truncated, ..log }, records.applied)
            }
        };
        around.watch.oracle_mut(shard).0.members.agree(at.index, &durable.conf_state)?;
        let (applied, last) = (durable.applied, durable.last_index);
        let replica =
            Replica::open(replica_config(around.env, shard, peer), durable, around.disk.reader((shard, peer)))
                .map_err(|error| damaged(error.to_string()))?;
        let plan = &around.env.plan;
        let core = Core::new(replica, machine, at, plan.policy(), plan.election_ms());
        around.watch.opened(node, (shard, peer), around.env.now_ms)?;
        around.env.note(Note::Start { node, shard, applied, last });
        let first_members = born.founding.clone().filter(|_| fresh);
        Ok(Group::with(around, (shard, peer), core, applied, first_members))
    }

    fn with(
        around: &mut Around<'_>,
        (shard, peer): Key,
        core: Core<Owed>,
        applied: u64,
        first_members: Option<ConfState>,
    ) -> Group {
        let first_flush = around.env.plan.flush_ms;
        Group {
            shard,
            peer,
            first_members,
            sending: BTreeMap::new(),
            prepared: None,
            restoring: None,
            core,
            out: CoreOutput::default(),
            observed: applied,
            reads: BTreeMap::new(),
            waiting_reads: Vec::new(),
            jitter_term: None,
            jitter_ticks: 0,
            heard: BTreeMap::new(),
            gathering_ms: None,
            claimed: BTreeSet::new(),
            popped: BTreeMap::new(),
            serving: None,
            members_seen: 0,
            members_ms: 0,
            fresh_term: 0,
            reconcile_ms: 0,
            checked: applied,
            seen_jobs: 0,
            seen_ends: 0,
            flush_ms: around.mono_ms + around.env.within(first_flush),
            flushing: false,
            matched: 0,
        }
    }
}

fn replica_config(env: &Env, shard: u16, peer: u64) -> ReplicaConfig {
    let plan = &env.plan;
    ReplicaConfig {
        election_ticks: plan.election_ticks,
        heartbeat_ticks: plan.heartbeat_ticks,
        election_jitter_ticks: Some(0),
        cache_bytes_max: plan.cache_bytes,
        append_bytes_max: plan.append_bytes,
        appends_in_flight_max: plan.appends,
        committed_bytes_max: plan.committed_bytes,
        // The least allowed: a flood must fill it.
        uncommitted_bytes_max: ENTRY_BYTES_MAX,
        ..ReplicaConfig::new(shard, peer)
    }
}
