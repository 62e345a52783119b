//! Links between nodes, and between clients and nodes: which are cut, and how long a message takes.

use super::env::Env;
use super::event::Event;
use super::group::{Copy, Held};
use super::trace::Note;
use super::watch::{Check, Violation};
use bytes::Bytes;
use moso_shard::{Message, wire};
use std::sync::Arc;

/// Links that are cut, and the time of the last delivery on each.
pub struct Network {
    nodes: usize,
    /// Cuts: fault, from, to.
    cuts: Vec<(u64, usize, usize)>,
    /// Nodes that clients do not reach: fault, node.
    client_cuts: Vec<(u64, usize)>,
    last_ms: Vec<u64>,
    next_fault: u64,
    /// Beside the plan's.
    pub extra_loss: f64,
}

impl Network {
    /// Whole.
    pub fn new(nodes: usize) -> Network {
        Network {
            nodes,
            cuts: Vec::new(),
            client_cuts: Vec::new(),
            last_ms: vec![0; nodes * nodes],
            next_fault: 0,
            extra_loss: 0.0,
        }
    }

    /// Cuts links, and nodes from clients; returns the number under which they are mended.
    pub fn cut(&mut self, links: &[(usize, usize)], from_clients: &[usize]) -> u64 {
        self.next_fault += 1;
        let fault = self.next_fault;
        self.cuts.extend(links.iter().map(|&(from, to)| (fault, from, to)));
        self.client_cuts.extend(from_clients.iter().map(|&node| (fault, node)));
        fault
    }

    /// Mends what one fault cut.
    pub fn mend(&mut self, fault: u64) {
        self.cuts.retain(|cut| cut.0 != fault);
        self.client_cuts.retain(|cut| cut.0 != fault);
    }

    /// Mends everything.
    pub fn mend_all(&mut self) {
        self.cuts.clear();
        self.client_cuts.clear();
        self.extra_loss = 0.0;
    }

    /// Whether messages pass from node to node.
    pub fn passes(&self, from: usize, to: usize) -> bool {
        !self.cuts.iter().any(|cut| (cut.1, cut.2) == (from, to))
    }

    fn reaches_clients(&self, node: usize) -> bool {
        !self.client_cuts.iter().any(|cut| cut.1 == node)
    }
}

/// Sends a message of Raft through the wire's encoding.
pub fn send(env: &mut Env, from: usize, to: usize, shard: u16, message: &Message) -> Check {
    let bytes: usize = message.entries.iter().map(|entry| entry.data.len() + 64).sum();
    let mut encoded = Vec::with_capacity(bytes + 256);
    if let Err(error) = wire::encode_message(message, &mut encoded) {
        let invariant = "messages are well formed";
        return Violation::new(invariant, format!("shard {shard}: {error}: {message:?}"));
    }
    let bytes = Bytes::from(encoded);
    if !env.net.passes(from, to) || lost(env) {
        env.cover.count("network: lost");
        env.note(Note::Lost { from, to, shard });
        return Ok(());
    }
    let part = env.plan.network.duplicates;
    let copies = if !env.calm && env.chance(part) { 2 } else { 1 };
    env.cover.count_n("network: duplicated", copies - 1);
    for _ in 0..copies {
        let mut delay_ms = delay(env);
        if env.plan.network.ordered {
            let link = from * env.net.nodes + to;
            let at = env.net.last_ms[link].max(env.now_ms + delay_ms);
            env.net.last_ms[link] = at;
            delay_ms = at - env.now_ms;
        }
        let bytes = bytes.clone();
        env.after(delay_ms, Event::Message { to, shard, bytes });
    }
    Ok(())
}

/// Sends a copy of the state, beside the messages: it takes long, is lost, cut off in the middle, or comes twice.
pub fn copy(env: &mut Env, to: usize, shard: u16, copy: Copy) {
    let plan = env.plan.copies.clone();
    if !env.net.passes(copy.from, to) || !env.net.passes(to, copy.from) || (!env.calm && env.chance(plan.lost)) {
        env.cover.count("snapshots: copies lost");
        return;
    }
    let span = if env.calm { (5, 50) } else { plan.ms };
    let cut = !env.calm && env.chance(plan.cut);
    let twice = !env.calm && env.chance(plan.twice);
    let copy = if cut { Copy { whole: false, records: Arc::new(copy.records.part()), ..copy } } else { copy };
    if twice {
        env.cover.count("snapshots: copies sent twice");
        let delay_ms = env.within(span) * 2;
        env.after(delay_ms, Event::Copy { to, shard, copy: copy.clone() });
    }
    let delay_ms = env.within(span);
    env.after(delay_ms, Event::Copy { to, shard, copy });
}

/// Tells a leader that a copy is whole.
pub fn held(env: &mut Env, from: usize, to: usize, shard: u16, held: Held) {
    let again = if !env.calm && env.once_in(4) { 2 } else { 1 };
    for nth in 0..again {
        if env.net.passes(from, to) && !lost(env) {
            let late_ms = if nth > 0 { env.within((0, 20_000)) } else { 0 };
            let delay_ms = delay(env) + late_ms;
            env.after(delay_ms, Event::Held { to, shard, held: held.clone() });
        }
    }
}

/// Whether and when something passes between a client and a node.
pub fn client_delay(env: &mut Env, node: usize) -> Option<u64> {
    if !env.net.reaches_clients(node) || lost(env) {
        return None;
    }
    Some(delay(env))
}

fn lost(env: &mut Env) -> bool {
    let loss = (env.plan.network.loss + env.net.extra_loss).min(0.3);
    !env.calm && env.chance(loss)
}

fn delay(env: &mut Env) -> u64 {
    if env.calm {
        return env.within((0, 2));
    }
    let span = env.plan.network.delay_ms;
    let slow = env.plan.network.slow;
    let delay_ms = env.within(span);
    if env.chance(slow) { (delay_ms + 1) * 20 } else { delay_ms }
}
