//! Opening a node's shards: the state from its store, the log from where the state ends.

use crate::config::Config;
use crate::error::Error;
use crate::fault::damaged_record;
use crate::group::{Group, META_RECORD};
use crate::meta_group::{Bootstrap, MetaGroup};
use crate::salvage::STATE_STORE;
use crate::snapshot::standby::{Loaded, Prepared};
use crate::store::{self, Applied, RaftLog, SegmentLog, SharedRocks, StateStore};
use bytes::Bytes;
use moso_proto::ShardId;
use moso_proto::object::{Node, ShardTable};
use moso_proto::shards::{FOUNDING_INCARNATION, replica_id};
use moso_queue::Machine;
use moso_queue::machine::MetaRecord;
use moso_queue::meta::{MetaMachine, MetaView};
use moso_shard::core::Core;
use moso_shard::members::Members;
use moso_shard::meta_core::MetaCore;
use moso_shard::{ConfState, Durable, Entry, FOUNDING, LogReader, Position, Replica, ReplicaConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Members of the meta group that vote; the others learn.
const META_VOTERS: usize = 5;
/// The id of a node's replica of the meta group, and of the shards with which the cluster was made.
pub fn peer_of(node: u32) -> u64 {
    replica_id(node, FOUNDING_INCARNATION)
}

/// Where the shards are: replica k of shard s on the node s + k, so that leaders and replicas are spread evenly.
pub fn shard_table(config: &Config) -> ShardTable {
    let mut nodes: Vec<u32> = config.members.iter().map(|m| m.node).collect();
    nodes.sort_unstable();
    let replicas = (config.replicas as usize).min(nodes.len());
    let place = |shard: usize| (0..replicas).map(|k| nodes[(shard + k) % nodes.len()]).collect();
    ShardTable { replicas: (0..usize::from(config.shards)).map(place).collect(), ..ShardTable::default() }
}

/// What the first leader of the meta group writes.
pub fn bootstrap(config: &Config) -> Bootstrap {
    let mut nodes: Vec<(u32, Node)> = config
        .members
        .iter()
        .map(|m| {
            (
                m.node,
                Node {
                    api: m.api.clone(),
                    peer: m.peer.clone(),
                    http: m.http.clone(),
                    zone: m.zone.clone(),
                    drain: false,
                },
            )
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

fn replica_config(config: &Config, shard: u16, peer: u64) -> ReplicaConfig {
    ReplicaConfig {
        election_ticks: config.election_ticks,
        heartbeat_ticks: config.heartbeat_ticks,
        ..ReplicaConfig::new(shard, peer)
    }
}

fn open_replica(
    config: &Config,
    shard: u16,
    peer: u64,
    store: &StateStore,
    log: &Arc<SegmentLog>,
) -> Result<(Replica, Position), Error> {
    let found = log.load(shard)?;
    let logged = Durable {
        hard_state: found.hard_state,
        truncated: Position { index: found.truncated.0, term: found.truncated.1 },
        last_index: found.last_index,
        ..Durable::default()
    };
    let (applied, durable) = match store.applied() {
        Some((applied, members)) if applied.index == FOUNDING.index => (applied, Durable::founding(members, logged)),
        Some((applied, members)) => (applied, Durable { conf_state: members, applied: applied.index, ..logged }),
        // It joined, and waits for its first snapshot.
        None if logged.last_index == 0 => (Applied::default(), logged),
        None => {
            let reason = format!("the log ends at {}, but the state is empty", logged.last_index);
            return Err(Error::Damaged { shard, what: STATE_STORE, at: 0, reason });
        }
    };
    let reader = Box::new(ShardLog { shard, log: log.clone() });
    let replica = Replica::open(replica_config(config, shard, peer), durable, reader)?;
    Ok((replica, Position { index: applied.index, term: applied.term }))
}

/// Makes an empty state that of a replica with which its shard is made.
///
/// # Errors
/// The state cannot be written.
pub fn found(shard: u16, store: &StateStore, log: &SegmentLog, members: &ConfState) -> Result<(), Error> {
    let Position { index, term } = FOUNDING;
    if store.applied().is_none() {
        store.commit(store.writer(), Applied { index, term }, Some(members))?;
        store.flush()?;
    }
    if log.load(shard)?.last_index == 0 {
        log.truncate_prefix(shard, index, term)?;
    }
    Ok(())
}

/// The members with which a shard is made.
pub fn founders(nodes: &[u32]) -> ConfState {
    ConfState { voters: nodes.iter().map(|&node| peer_of(node)).collect(), ..ConfState::default() }
}

/// The members with which the meta group is made: every node has a replica, so that all know the objects.
pub fn meta_founders(config: &Config) -> ConfState {
    let voting = meta_voters(config);
    let learners = config.members.iter().filter(|m| !voting.contains(&m.node)).map(|m| peer_of(m.node)).collect();
    ConfState { learners, ..founders(&voting) }
}

/// Loads a copy of a shard's state.
///
/// # Errors
/// `Damaged`, `Read`.
pub fn load(shard: u16, store: Arc<StateStore>, at: Position) -> Result<Prepared, Error> {
    let machine = match shard {
        0 => Loaded::Meta(Box::new(MetaMachine::load(store.records()?.into_iter())?)),
        _ => Loaded::Data(Box::new(load_machine(shard, &store)?)),
    };
    Ok(Prepared { store, machine, at })
}

/// Who should vote in the meta group and who only learn: those that vote stay while they are members, up to an odd number,
/// and nodes with the lowest numbers take the places of others. A node that is to be emptied gives its vote up if another
/// can take it.
pub fn meta_members(view: &MetaView, now: &ConfState) -> Members {
    let all: Vec<u32> = view.nodes().keys().copied().collect();
    let count = all.len().min(META_VOTERS);
    let count = if count.is_multiple_of(2) { count.saturating_sub(1) } else { count };
    let votes = |node: &u32| now.voters.contains(&peer_of(*node));
    let drains = |node: &u32| view.node(*node).is_some_and(|node| node.drain);
    let mut order = all.clone();
    order.sort_by_key(|node| (drains(node), !votes(node), *node));
    let voters: BTreeSet<u64> = order.into_iter().take(count).map(peer_of).collect();
    let learners = all.into_iter().map(peer_of).filter(|peer| !voters.contains(peer)).collect();
    Members { voters, learners }
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
    peer: u64,
    store: Arc<StateStore>,
    log: &Arc<SegmentLog>,
) -> Result<Group, Error> {
    let (replica, applied) = open_replica(config, shard, peer, &store, log)?;
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

/// Opens the meta group's replica.
pub fn open_meta(config: &Config, store: Arc<StateStore>, log: &Arc<SegmentLog>) -> Result<MetaGroup, Error> {
    let (replica, applied) = open_replica(config, 0, peer_of(config.node), &store, log)?;
    let machine = MetaMachine::load(store.records()?.into_iter())?;
    let bootstrap = (!config.join).then(|| bootstrap(config));
    Ok(MetaGroup::new(MetaCore::new(replica, machine, applied), store, bootstrap))
}

/// Opens the state of a replica, or makes an empty one. Of several folders, which a snapshot leaves that was being taken
/// over, the one counts whose state reaches least, but as far as the log was cut: the log began anew in one write, and the
/// old state reaches less. The others are removed.
pub fn open_store(
    data: &Path,
    shard: u16,
    peer: u64,
    log: &SegmentLog,
    shared: &SharedRocks,
) -> Result<Arc<StateStore>, Error> {
    let base = store::replica_dir(data, shard, peer);
    let mut folders = replicas_on_disk(data)?.remove(&(shard, peer)).unwrap_or_default();
    if folders.is_empty() {
        folders.push(base);
    }
    let cut = log.load(shard)?.truncated.0;
    let mut opened = Vec::new();
    for dir in folders {
        let store = StateStore::open(&dir, shard, shared)?;
        let applied = store.applied().map_or(0, |(applied, _)| applied.index);
        opened.push((applied, store));
    }
    opened.sort_by_key(|(applied, _)| *applied);
    let most = opened.last().map_or(0, |(applied, _)| *applied);
    // Behind the founding the log is cut before anything was ever applied.
    let place = opened.iter().position(|(applied, _)| *applied >= cut || cut <= FOUNDING.index);
    let Some(place) = place else {
        let reason = format!("the log was cut at {cut}, but the state reaches only {most}");
        return Err(Error::Damaged { shard, what: STATE_STORE, at: most, reason });
    };
    let (_, store) = opened.swap_remove(place);
    for (_, other) in opened {
        let dir = other.dir().to_owned();
        drop(other);
        std::fs::remove_dir_all(&dir).map_err(|error| Error::io(format!("removing {}", dir.display()), error))?;
    }
    Ok(Arc::new(store))
}

/// The folders of states on disk, by shard and replica. What is left of copies that did not arrive is removed.
///
/// # Errors
/// `Io`.
pub fn replicas_on_disk(data: &Path) -> Result<BTreeMap<(u16, u64), Vec<PathBuf>>, Error> {
    let dir = data.join("shards");
    let io = |error| Error::io(format!("reading {}", dir.display()), error);
    let mut found: BTreeMap<(u16, u64), Vec<PathBuf>> = BTreeMap::new();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(io(error)),
    };
    for entry in entries {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".part") {
            std::fs::remove_dir_all(entry.path()).map_err(io)?;
            continue;
        }
        let (replica, copy) = name.split_once('.').map_or((name.as_str(), None), |(a, b)| (a, Some(b)));
        let parsed = replica.split_once('-').and_then(|(shard, peer)| Some((shard.parse().ok()?, peer.parse().ok()?)));
        if let Some(key) = parsed
            && copy.is_none_or(|index| index.parse::<u64>().is_ok())
        {
            found.entry(key).or_default().push(entry.path());
        }
    }
    Ok(found)
}
