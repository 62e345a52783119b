//! Opening a node's shards: the state from its store, the log from where the state ends.

use crate::config::Config;
use crate::error::Error;
use crate::fault::damaged_record;
use crate::group::{Group, META_RECORD};
use crate::meta_group::{Bootstrap, MetaGroup};
use crate::store::{self, RaftLog, SegmentLog, SharedRocks, StateStore};
use bytes::Bytes;
use moso_proto::ShardId;
use moso_proto::object::{Node, ShardTable};
use moso_queue::Machine;
use moso_queue::machine::MetaRecord;
use moso_queue::meta::{MetaMachine, MetaView};
use moso_shard::core::Core;
use moso_shard::meta_core::MetaCore;
use moso_shard::{ConfState, Durable, Entry, LogReader, Position, Replica, ReplicaConfig};
use std::io;
use std::sync::Arc;

/// Members of the meta group that vote; the others learn.
const META_VOTERS: usize = 5;
/// First incarnation of a replica: the lower half of its id.
const INCARNATION: u64 = 1;

/// The id of a node's replica.
pub fn peer_of(node: u32) -> u64 {
    u64::from(node) << 32 | INCARNATION
}

/// Where the shards are: replica k of shard s on the node s + k, so that leaders and replicas are spread evenly.
pub fn shard_table(config: &Config) -> ShardTable {
    let mut nodes: Vec<u32> = config.members.iter().map(|m| m.node).collect();
    nodes.sort_unstable();
    let replicas = (config.replicas as usize).min(nodes.len());
    let place = |shard: usize| (0..replicas).map(|k| nodes[(shard + k) % nodes.len()]).collect();
    ShardTable { replicas: (0..usize::from(config.shards)).map(place).collect() }
}

/// What the first leader of the meta group writes.
pub fn bootstrap(config: &Config) -> Bootstrap {
    let mut nodes: Vec<(u32, Node)> = config
        .members
        .iter()
        .map(|m| {
            (m.node, Node { api: m.api.clone(), peer: m.peer.clone(), http: m.http.clone(), zone: m.zone.clone() })
        })
        .collect();
    nodes.sort_unstable_by_key(|(node, _)| *node);
    Bootstrap { cluster: config.cluster.clone(), nodes, shards: shard_table(config) }
}

/// Reads a shard's entries for its replica.
struct ShardLog {
    shard: u16,
    log: Arc<SegmentLog>,
}

impl LogReader for ShardLog {
    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        Ok(self.log.entries(self.shard, low, high, bytes_max)?)
    }

    fn term(&self, index: u64) -> io::Result<u64> {
        Ok(self.log.term(self.shard, index)?)
    }
}

fn replica_config(config: &Config, shard: u16) -> ReplicaConfig {
    ReplicaConfig {
        election_ticks: config.election_ticks,
        heartbeat_ticks: config.heartbeat_ticks,
        ..ReplicaConfig::new(shard, peer_of(config.node))
    }
}

fn open_replica(
    config: &Config,
    shard: u16,
    store: &StateStore,
    log: &Arc<SegmentLog>,
    initial: ConfState,
) -> Result<(Replica, Position), Error> {
    let (applied, conf_state) = store.applied().unwrap_or_else(|| (Default::default(), initial));
    let found = log.load(shard)?;
    let durable = Durable {
        hard_state: found.hard_state,
        conf_state,
        applied: applied.index,
        truncated: Position { index: found.truncated.0, term: found.truncated.1 },
        last_index: found.last_index,
    };
    let reader = Box::new(ShardLog { shard, log: log.clone() });
    let replica = Replica::open(replica_config(config, shard), durable, reader)?;
    Ok((replica, Position { index: applied.index, term: applied.term }))
}

fn voters(nodes: &[u32]) -> ConfState {
    ConfState { voters: nodes.iter().map(|&node| peer_of(node)).collect(), ..ConfState::default() }
}

/// Loads a shard's machine from its store.
pub fn load_machine(shard: u16, store: &StateStore) -> Result<Machine, Error> {
    let record = match store.meta(META_RECORD)? {
        Some(bytes) => MetaRecord::decode(bytes).map_err(|e| damaged_record(shard, 0, &e))?,
        None => MetaRecord::default(),
    };
    let mut machine = Machine::load(ShardId(shard), record);
    let copy = Bytes::copy_from_slice;
    store.for_each_class(|id, bytes| {
        machine.load_class(id, copy(bytes)).map_err(|e| damaged_record(shard, id.into(), &e))
    })?;
    store.for_each_task(|seq, bytes| {
        // Asked for only if the task has dependencies; one that cannot be read is as good as missing.
        let body = || store.body(seq).ok().flatten();
        machine.load_task(seq, copy(bytes), body).map_err(|e| damaged_record(shard, seq, &e))
    })?;
    store.for_each_job(|seq, bytes| machine.load_job(seq, copy(bytes)).map_err(|e| damaged_record(shard, seq, &e)))?;
    store.for_each_dedup(|submission, bytes| {
        let record = bytes.try_into().map_err(|_| Error::Damaged {
            shard,
            what: "submission",
            at: 0,
            reason: format!("{} bytes instead of 16", bytes.len()),
        })?;
        machine.load_submission(submission, record);
        Ok(())
    })?;
    Ok(machine)
}

/// Opens a data shard's replica.
pub fn open_group(
    config: &Config,
    shard: u16,
    nodes: &[u32],
    store: Arc<StateStore>,
    log: &Arc<SegmentLog>,
) -> Result<Group, Error> {
    let (replica, applied) = open_replica(config, shard, &store, log, voters(nodes))?;
    let machine = load_machine(shard, &store)?;
    let election_ms = u64::from(config.election_ticks) * config.raft_tick_ms;
    let policy = crate::upkeep::policy(&MetaView::default());
    Ok(Group::new(shard, Core::new(replica, machine, applied, policy, election_ms), store))
}

/// Nodes that vote in the meta group: an odd number of the first ones.
pub fn meta_voters(config: &Config) -> Vec<u32> {
    let mut nodes: Vec<u32> = config.members.iter().map(|m| m.node).collect();
    nodes.sort_unstable();
    let count = nodes.len().min(META_VOTERS);
    nodes.truncate(if count.is_multiple_of(2) { count - 1 } else { count });
    nodes
}

/// Opens the meta group's replica: every node has one, so that all know the objects; those beyond the voters learn.
pub fn open_meta(config: &Config, store: Arc<StateStore>, log: &Arc<SegmentLog>) -> Result<MetaGroup, Error> {
    let voting = meta_voters(config);
    let mut conf_state = voters(&voting);
    conf_state.learners =
        config.members.iter().filter(|m| !voting.contains(&m.node)).map(|m| peer_of(m.node)).collect();
    let (replica, applied) = open_replica(config, 0, &store, log, conf_state)?;
    let machine = MetaMachine::load(store.records()?.into_iter())?;
    Ok(MetaGroup::new(MetaCore::new(replica, machine, applied), store, bootstrap(config)))
}

/// Opens the store of a shard's replica here.
pub fn open_store(
    data: &std::path::Path,
    config: &Config,
    shard: u16,
    shared: &SharedRocks,
) -> Result<Arc<StateStore>, Error> {
    let dir = store::replica_dir(data, shard, peer_of(config.node));
    Ok(Arc::new(StateStore::open(&dir, shard, shared)?))
}
