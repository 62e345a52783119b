//! A client's calls: to whom they go, which of them wait for an answer, and when that takes too long.

use super::env::Env;
use super::event::{Answer, Ask, Event, Request};
use super::history::{Ended, History};
use super::network::client_delay;
use super::trace::Note;
use std::collections::BTreeMap;

/// A client gives up waiting after this time.
const TIMEOUT_MS: (u64, u64) = (1_000, 4_000);

/// A call that waits for its answer. `K` is what the client needs to remember.
struct Open<K> {
    kept: K,
    shard: u16,
    node: usize,
    deadline_ms: u64,
}

/// The calls of one client.
pub struct Calls<K> {
    client: usize,
    leaders: BTreeMap<u16, usize>,
    open: BTreeMap<u64, Open<K>>,
}

impl<K> Calls<K> {
    /// None yet.
    pub fn new(client: usize) -> Calls<K> {
        Calls { client, leaders: BTreeMap::new(), open: BTreeMap::new() }
    }

    /// Calls that wait.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// What is kept of the calls that wait, with their shards.
    pub fn kept(&self) -> impl Iterator<Item = (u16, &K)> {
        self.open.values().map(|open| (open.shard, &open.kept))
    }

    /// Sends a call to the shard's leader, as far as known.
    pub fn send(&mut self, env: &mut Env, history: &mut History, shard: u16, ask: Ask, kept: K) -> u64 {
        let nodes = env.plan.nodes as u64;
        let known = self.leaders.get(&shard).copied();
        let node = match known {
            Some(node) => node,
            None => env.within((0, nodes - 1)) as usize,
        };
        self.send_to(env, history, node, shard, ask, kept)
    }

    /// Sends a call to a node.
    pub fn send_to(&mut self, env: &mut Env, history: &mut History, node: usize, shard: u16, ask: Ask, kept: K) -> u64 {
        let id = env.request_id();
        let what = name(&ask);
        env.note(Note::Asked { client: self.client, request: id, node, shard, what });
        history.invoke(env, id, self.client, shard, what);
        let open = Open { kept, shard, node, deadline_ms: env.now_ms + env.within(TIMEOUT_MS) };
        self.open.insert(id, open);
        let request = Request { id, client: self.client, shard, ask };
        if let Some(delay_ms) = client_delay(env, node) {
            env.after(delay_ms, Event::Request { to: node, request });
        }
        id
    }

    /// An answer has come; `None`: nobody waits for it any more.
    pub fn answered(&mut self, env: &mut Env, history: &mut History, id: u64, answer: &Answer) -> Option<(K, u16)> {
        let open = self.open.remove(&id)?;
        match answer {
            Answer::NotLeader(Some(leader)) if *leader != open.node => {
                self.leaders.insert(open.shard, *leader);
            }
            Answer::NotLeader(_) | Answer::Unknown | Answer::Down => {
                self.leaders.remove(&open.shard);
            }
            Answer::Busy => {}
            Answer::Reply(_) | Answer::Beaten(_) | Answer::Read => {
                self.leaders.insert(open.shard, open.node);
            }
        }
        let ended = match answer {
            Answer::NotLeader(_) | Answer::Down | Answer::Busy => Ended::Fail,
            Answer::Unknown => Ended::Unknown,
            _ => Ended::Ok,
        };
        history.end(env, id, ended);
        Some((open.kept, open.shard))
    }

    /// Takes the calls that waited too long.
    pub fn timed_out(&mut self, env: &mut Env, history: &mut History) -> Vec<(K, u16)> {
        let now_ms = env.now_ms;
        let late: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.deadline_ms <= now_ms).map(|(id, _)| *id).collect();
        let mut out = Vec::new();
        for id in late {
            if let Some(open) = self.open.remove(&id) {
                self.leaders.remove(&open.shard);
                history.end(env, id, Ended::Unknown);
                out.push((open.kept, open.shard));
            }
        }
        out
    }
}

fn name(ask: &Ask) -> &'static str {
    match ask {
        Ask::Command(_) => "command",
        Ask::Lease { .. } => "lease",
        Ask::Beat { .. } => "heartbeat",
        Ask::Read => "read",
    }
}
