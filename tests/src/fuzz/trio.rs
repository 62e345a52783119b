//! Three replicas whose messages and writes a fuzzed script orders.

use moso_shard::{
    Append, ConfState, Durable, Entry, HardState, LogReader, Message, Output, Payload, Replica, ReplicaConfig, wire,
};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

const SHARD: u16 = 7;

#[derive(Default)]
struct Disk {
    hard_state: HardState,
    entries: BTreeMap<u64, Entry>,
    conf_state: ConfState,
    applied: u64,
}

struct Reader(Arc<Mutex<Disk>>);

impl LogReader for Reader {
    fn entries(&self, low: u64, high: u64, _bytes_max: u64) -> io::Result<Vec<Entry>> {
        Ok(self.0.lock().expect("one thread").entries.range(low..high).map(|(_, entry)| entry.clone()).collect())
    }

    fn term(&self, index: u64) -> io::Result<u64> {
        let disk = self.0.lock().expect("one thread");
        disk.entries.get(&index).map(|entry| entry.term).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

struct Node {
    replica: Replica,
    disk: Arc<Mutex<Disk>>,
    writes: VecDeque<Append>,
    /// The log could not be read, or a message revealed a loss: the node would stop.
    stopped: bool,
}

/// Replicas 1, 2 and 3; the first one leads.
pub(super) struct Trio {
    nodes: Vec<Node>,
    pub(super) network: VecDeque<Message>,
    pub(super) writes_lag: bool,
}

fn config(peer: u64) -> ReplicaConfig {
    ReplicaConfig {
        election_ticks: 10,
        heartbeat_ticks: 2,
        election_jitter_ticks: Some((peer as u32 - 1) * 2),
        ..ReplicaConfig::new(SHARD, peer)
    }
}

fn open(peer: u64, disk: &Arc<Mutex<Disk>>) -> Result<Replica, moso_shard::Error> {
    let durable = {
        let disk = disk.lock().expect("one thread");
        Durable {
            hard_state: disk.hard_state.clone(),
            conf_state: disk.conf_state.clone(),
            applied: disk.applied,
            last_index: disk.entries.keys().next_back().copied().unwrap_or(0),
            ..Durable::default()
        }
    };
    Replica::open(config(peer), durable, Box::new(Reader(disk.clone())))
}

impl Trio {
    pub(super) fn new() -> Trio {
        let node = |peer| {
            let conf_state = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
            let disk = Arc::new(Mutex::new(Disk { conf_state, ..Disk::default() }));
            let replica = open(peer, &disk).expect("a first start");
            Node { replica, disk, writes: VecDeque::new(), stopped: false }
        };
        let mut trio = Trio { nodes: (1..=3).map(node).collect(), network: VecDeque::new(), writes_lag: false };
        trio.nodes[0].replica.campaign().expect("nothing waits");
        trio.settle();
        trio
    }

    /// The replica of this number, round.
    pub(super) fn replica(&mut self, number: u8) -> &mut Replica {
        let at = usize::from(number) % self.nodes.len();
        &mut self.nodes[at].replica
    }

    /// A message to the replica that it names, as a node takes it from the wire. A broken peer can cost a replica that
    /// reveals a loss, never a panic.
    pub(super) fn deliver(&mut self, message: Message) {
        let Some(at) = (message.to as usize).checked_sub(1).filter(|at| *at < self.nodes.len()) else { return };
        if self.nodes[at].stopped {
            return;
        }
        match self.nodes[at].replica.step(message) {
            Ok(()) => super::reached::reached("taken"),
            Err(error) => super::reached::text(error),
        }
        self.turn(at);
    }

    pub(super) fn deliver_one(&mut self) {
        if let Some(message) = self.network.pop_front() {
            self.deliver(message);
        }
    }

    /// Takes all that a replica has to say.
    pub(super) fn turn(&mut self, at: usize) {
        let at = at % self.nodes.len();
        while !self.nodes[at].stopped {
            match self.nodes[at].replica.take_output() {
                Ok(Some(output)) => self.act(at, output),
                Ok(None) => return,
                Err(_) => self.nodes[at].stopped = true,
            }
        }
    }

    fn act(&mut self, at: usize, output: Output) {
        self.send(output.messages);
        let node = &mut self.nodes[at];
        node.writes.extend(output.append);
        let mut disk = node.disk.lock().expect("one thread");
        for committed in &output.committed {
            if let Payload::Configuration(conf_state) = &committed.payload {
                disk.conf_state = (**conf_state).clone();
            }
        }
        if output.committed_to > disk.applied {
            disk.applied = output.committed_to;
            node.replica.applied(output.committed_to);
        }
        drop(disk);
        if !self.writes_lag {
            self.write_all(at);
        }
    }

    pub(super) fn write_all(&mut self, at: usize) {
        let at = at % self.nodes.len();
        while let Some(append) = self.nodes[at].writes.pop_front() {
            let node = &mut self.nodes[at];
            let mut disk = node.disk.lock().expect("one thread");
            if let Some(state) = append.hard_state {
                disk.hard_state = state;
            }
            for entry in append.entries {
                disk.entries.split_off(&entry.index);
                disk.entries.insert(entry.index, entry);
            }
            drop(disk);
            node.replica.persisted(append.number);
            self.send(append.messages);
        }
    }

    /// Through the bytes of the wire.
    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let mut bytes = Vec::new();
            wire::encode_message(&message, &mut bytes).expect("replicas send what the wire carries");
            assert_eq!(bytes.len(), wire::message_bytes(&message));
            let decoded = wire::decode_message(bytes.into()).expect("replicas read what they send");
            assert_eq!(decoded, message);
            // A script of a few KiB cannot ask for more that matters.
            if self.network.len() < 256 {
                self.network.push_back(decoded);
            }
        }
    }

    /// Runs until nothing moves, or for long enough.
    pub(super) fn settle(&mut self) {
        for _ in 0..512 {
            (0..self.nodes.len()).for_each(|at| self.turn(at));
            if self.network.is_empty() {
                return;
            }
            self.deliver_one();
        }
    }

    /// Starts a replica anew on what is on its disk.
    pub(super) fn restart(&mut self, at: usize) {
        let at = at % self.nodes.len();
        let node = &mut self.nodes[at];
        node.writes.clear();
        match open(at as u64 + 1, &node.disk) {
            Ok(replica) => (node.replica, node.stopped) = (replica, false),
            Err(error) => {
                super::reached::text(error);
                node.stopped = true;
            }
        }
    }

    /// One serving leader of a term at most, and equal entries where both are committed.
    pub(super) fn check(&self) {
        let mut terms: Vec<u64> = self.nodes.iter().filter_map(|node| node.replica.serving_term()).collect();
        terms.sort_unstable();
        for node in &self.nodes {
            assert!(node.replica.applied_index() <= node.replica.committed_index(), "applied before it was committed");
        }
        super::reached::reached(terms.len());
    }
}
