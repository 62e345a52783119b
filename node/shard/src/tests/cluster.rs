//! A group of replicas whose network and disks are moved by hand.

use crate::wire;
use crate::{Append, Committed, ConfState, Durable, Entry, Error, HardState, LogReader, Message, Output, Payload};
use crate::{Position, Read, Replica, ReplicaConfig, Role};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

pub const SHARD: u16 = 7;

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub entries: BTreeMap<u64, Entry>,
    pub truncated: Position,
    pub conf_state: ConfState,
    pub applied: u64,
}

impl Disk {
    pub fn new(voters: &[u64]) -> Disk {
        Disk { conf_state: ConfState { voters: voters.to_vec(), ..ConfState::default() }, ..Disk::default() }
    }

    /// Writes as a log writer does, through the encoding used on disk.
    pub fn write(&mut self, append: &Append) {
        if let Some(hard_state) = &append.hard_state {
            let mut bytes = Vec::new();
            wire::encode_hard_state(hard_state, &mut bytes);
            self.hard_state = wire::decode_hard_state(&bytes).unwrap();
        }
        if let Some(at) = append.restart {
            self.entries.clear();
            self.truncated = at;
        }
        for entry in &append.entries {
            self.entries.split_off(&entry.index);
            let mut bytes = Vec::new();
            wire::encode_entry(entry, &mut bytes);
            self.entries.insert(entry.index, wire::decode_entry(entry.index, bytes.into()).unwrap());
        }
    }

    pub fn durable(&self) -> Durable {
        Durable {
            hard_state: self.hard_state.clone(),
            conf_state: self.conf_state.clone(),
            applied: self.applied,
            truncated: self.truncated,
            last_index: self.entries.keys().next_back().copied().unwrap_or(self.truncated.index),
        }
    }
}

/// Reads a disk, which can be made to fail, and counts the reads.
#[derive(Clone, Default)]
pub struct Reader {
    pub disk: Arc<Mutex<Disk>>,
    pub fails: Arc<Mutex<bool>>,
    pub reads: Arc<Mutex<usize>>,
}

impl LogReader for Reader {
    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        *self.reads.lock().unwrap() += 1;
        if *self.fails.lock().unwrap() {
            return Err(io::Error::other("the disk is gone"));
        }
        let mut bytes = 0;
        let mut entries = Vec::new();
        for (_, entry) in self.disk.lock().unwrap().entries.range(low..high) {
            bytes += entry.data.len() as u64;
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> io::Result<u64> {
        let disk = self.disk.lock().unwrap();
        disk.entries.get(&index).map(|entry| entry.term).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// A replica with its disk and what it was seen to do.
pub struct Node {
    pub replica: Replica,
    pub reader: Reader,
    /// Appends handed out and not yet written.
    pub writes: VecDeque<Append>,
    /// Whether appends are written as soon as they are handed out.
    pub writes_at_once: bool,
    /// Whether committed entries are applied as soon as they are handed out.
    pub applies_at_once: bool,
    pub committed: Vec<Committed>,
    pub reads: Vec<Read>,
    pub roles: Vec<Role>,
    /// A copy of another node's state, and where it stands.
    pub copy: Option<(Vec<Committed>, Disk)>,
}

impl Node {
    pub fn commands(&self) -> Vec<String> {
        let command = |committed: &Committed| match &committed.payload {
            Payload::Command(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
            Payload::Configuration(_) => None,
        };
        self.committed.iter().filter_map(command).collect()
    }

    pub fn disk(&self) -> Disk {
        self.reader.disk.lock().unwrap().clone()
    }
}

/// Replicas 1, 2, ... with election timeouts that rise by 2 ticks, so that the lowest one alive campaigns first.
pub struct Cluster {
    pub nodes: BTreeMap<u64, Node>,
    pub network: VecDeque<Message>,
    pub cut: BTreeSet<u64>,
}

pub fn config(peer: u64) -> ReplicaConfig {
    ReplicaConfig {
        election_ticks: 10,
        heartbeat_ticks: 2,
        election_jitter_ticks: Some((peer as u32 - 1) * 2),
        ..ReplicaConfig::new(SHARD, peer)
    }
}

pub fn open(config: ReplicaConfig, disk: Disk) -> Result<Node, Error> {
    let reader = Reader { disk: Arc::new(Mutex::new(disk.clone())), ..Reader::default() };
    Ok(Node {
        replica: Replica::open(config, disk.durable(), Box::new(reader.clone()))?,
        reader,
        writes: VecDeque::new(),
        writes_at_once: true,
        applies_at_once: true,
        committed: Vec::new(),
        reads: Vec::new(),
        roles: Vec::new(),
        copy: None,
    })
}

impl Cluster {
    pub fn new(size: u64) -> Cluster {
        Cluster::with(size, config)
    }

    pub fn with(size: u64, config: impl Fn(u64) -> ReplicaConfig) -> Cluster {
        let voters: Vec<u64> = (1..=size).collect();
        let nodes = voters.iter().map(|peer| (*peer, open(config(*peer), Disk::new(&voters)).unwrap())).collect();
        Cluster { nodes, network: VecDeque::new(), cut: BTreeSet::new() }
    }

    /// Three replicas of which 1 leads and serves.
    pub fn led_by_1() -> Cluster {
        let mut cluster = Cluster::new(3);
        cluster.elect(1);
        cluster
    }

    pub fn node(&mut self, peer: u64) -> &mut Node {
        self.nodes.get_mut(&peer).unwrap()
    }

    pub fn replica(&mut self, peer: u64) -> &mut Replica {
        &mut self.node(peer).replica
    }

    pub fn elect(&mut self, peer: u64) {
        self.replica(peer).campaign().unwrap();
        self.settle();
        assert!(self.replica(peer).serving_term().is_some());
    }

    pub fn propose(&mut self, peer: u64, command: &str) -> Position {
        self.replica(peer).propose(Bytes::copy_from_slice(command.as_bytes())).unwrap()
    }

    /// Copies a leader's state to a follower, and lets both know.
    pub fn copy_state(&mut self, leader: u64, follower: u64) -> Position {
        let (committed, disk) = (self.node(leader).committed.clone(), self.node(leader).disk());
        let term = disk.entries.get(&disk.applied).map_or(disk.truncated.term, |entry| entry.term);
        let at = Position { index: disk.applied, term };
        self.replica(leader).stage_snapshot(follower, at, disk.conf_state.clone());
        self.node(follower).copy = Some((committed, disk));
        self.replica(follower).expect_snapshot(Some(at));
        at
    }

    /// Cuts a replica's log at what it has applied.
    pub fn cut_log(&mut self, peer: u64) {
        let node = self.node(peer);
        let applied = node.replica.applied_index();
        let mut disk = node.reader.disk.lock().unwrap();
        disk.truncated = Position { index: applied, term: disk.entries[&applied].term };
        disk.entries = disk.entries.split_off(&(applied + 1));
        drop(disk);
        node.replica.truncate_to(applied, applied);
    }

    /// Takes all outputs of a replica; messages wait in the network.
    pub fn turn(&mut self, peer: u64) {
        while let Some(output) = self.replica(peer).take_output().unwrap() {
            self.act(peer, output);
        }
    }

    fn act(&mut self, peer: u64, output: Output) {
        self.send(output.messages);
        if let Some(append) = output.append {
            self.node(peer).writes.push_back(append);
            if self.node(peer).writes_at_once {
                self.write_all(peer);
            }
        }
        let node = self.node(peer);
        if output.restore.is_some() {
            let (committed, state) = node.copy.take().unwrap();
            node.committed = committed;
            let mut disk = node.reader.disk.lock().unwrap();
            (disk.applied, disk.conf_state) = (state.applied, state.conf_state);
        }
        for committed in &output.committed {
            if let Payload::Configuration(conf_state) = &committed.payload {
                node.reader.disk.lock().unwrap().conf_state = (**conf_state).clone();
            }
        }
        node.committed.extend(output.committed);
        if node.applies_at_once && output.committed_to > node.replica.applied_index() {
            node.reader.disk.lock().unwrap().applied = output.committed_to;
            node.replica.applied(output.committed_to);
        }
        node.reads.extend(output.reads);
        node.roles.extend(output.role_change);
    }

    /// Writes the oldest append that waits, reports it, and sends what it held back.
    pub fn write_one(&mut self, peer: u64) {
        let node = self.node(peer);
        let append = node.writes.pop_front().unwrap();
        node.reader.disk.lock().unwrap().write(&append);
        node.replica.persisted(append.number);
        self.send(append.messages);
    }

    pub fn write_all(&mut self, peer: u64) {
        while !self.node(peer).writes.is_empty() {
            self.write_one(peer);
        }
    }

    /// Sends through the encoding used on the wire.
    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let mut bytes = Vec::new();
            wire::encode_message(&message, &mut bytes).unwrap();
            assert_eq!(bytes.len(), wire::message_bytes(&message));
            let decoded = wire::decode_message(bytes.into()).unwrap();
            assert_eq!(decoded, message);
            self.network.push_back(decoded);
        }
    }

    /// Delivers the oldest message, unless an end of it is cut off.
    pub fn deliver_one(&mut self) {
        let message = self.network.pop_front().unwrap();
        let (from, to) = (message.from, message.to);
        if self.cut.contains(&from) || self.cut.contains(&to) || !self.nodes.contains_key(&to) {
            return;
        }
        let member = self.replica(to).conf_state().voters.contains(&from);
        let needs_copy = message.snapshot.is_some();
        let result = self.replica(to).step(message);
        assert!(result.is_ok() || !member || needs_copy, "{result:?}");
        self.turn(to);
    }

    /// Runs until nothing moves by itself.
    pub fn settle(&mut self) {
        loop {
            for peer in self.peers() {
                self.turn(peer);
            }
            if self.network.is_empty() {
                return;
            }
            self.deliver_one();
        }
    }

    pub fn tick(&mut self, ticks: usize) {
        for _ in 0..ticks {
            for peer in self.peers() {
                self.replica(peer).tick();
            }
            self.settle();
        }
    }

    /// Loses what is not on disk and starts again.
    pub fn restart(&mut self, peer: u64) {
        let disk = self.node(peer).disk();
        self.network.retain(|message| message.from != peer && message.to != peer);
        self.nodes.insert(peer, open(config(peer), disk).unwrap());
    }

    pub fn leaders(&mut self) -> Vec<u64> {
        let leads = |node: &Node| matches!(node.replica.role(), Role::Leader { .. });
        self.nodes.iter().filter(|(_, node)| leads(node)).map(|(peer, _)| *peer).collect()
    }

    pub fn peers(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }
}
