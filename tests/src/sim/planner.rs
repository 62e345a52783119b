//! Decides what members the shards should have, as operators and the meta group do: moves, growth, shrinking, and the
//! replacement of replicas whose data is lost.

use super::env::Env;
use super::meta;
use super::node::Node;
use super::node_of;
use super::trace::Note;
use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom};
use std::collections::BTreeMap;

/// A change of mind, or the next change.
pub fn change(env: &mut Env, nodes: &[Node]) {
    let shard = env.rng.random_range(1..=env.plan.shards);
    let hurried = env.once_in(4) && env.meta.is_unhurt(shard);
    if !env.meta.is_whole(shard) && !hurried {
        return;
    }
    let mut disks = env.meta.newest(shard).disks.clone();
    let (what, size) = match env.within((0, 3)) {
        0 => ("members: wish to shrink", [1, 3].choose(&mut env.rng).copied().unwrap_or(1).min(disks.len())),
        1 => ("members: wish to grow", [3, 5].choose(&mut env.rng).copied().unwrap_or(3).min(env.plan.nodes | 1)),
        _ => ("members: wish to move", disks.len()),
    };
    let goes = if size < disks.len() { disks.len() - size } else { usize::from(size == disks.len()) };
    // The leader's own replica as often as another.
    let leader = super::faults::leader(nodes, shard);
    let first = disks.keys().copied().find(|peer| Some(node_of(*peer)) == leader).filter(|_| env.once_in(2));
    for nth in 0..goes {
        let any = disks.keys().copied().choose(&mut env.rng);
        if let Some(peer) = first.filter(|_| nth == 0).or(any) {
            disks.remove(&peer);
        }
    }
    while disks.len() < size {
        let Some(node) = free_node(env, nodes, shard, &disks, None) else { return };
        disks.insert(env.meta.new_peer(node), nodes[node].disk_number());
    }
    if disks != env.meta.newest(shard).disks {
        env.cover.count(what);
        wish(env, shard, disks);
    }
}

/// Another replica is to take the place of one whose data is lost.
pub fn replace(env: &mut Env, nodes: &[Node], shard: u16, peer: u64) {
    let mut disks = env.meta.newest(shard).disks.clone();
    if disks.remove(&peer).is_none() {
        return;
    }
    if let Some(node) = free_node(env, nodes, shard, &disks, Some(node_of(peer))) {
        disks.insert(env.meta.new_peer(node), nodes[node].disk_number());
        env.cover.count("members: wish to replace what is lost");
        wish(env, shard, disks);
    }
}

fn wish(env: &mut Env, shard: u16, disks: BTreeMap<u64, u32>) {
    let peers: Vec<String> = disks.keys().map(|peer| format!("{peer:x}")).collect();
    env.note(Note::Fault(format!("shard {shard} should have {}", peers.join(" "))));
    env.meta.wish(shard, disks);
    meta::publish(env, shard);
}

/// A node that has no replica of the shard, and none that may still come; `lost` is one whose replica cannot run.
fn free_node(
    env: &mut Env,
    nodes: &[Node],
    shard: u16,
    disks: &BTreeMap<u64, u32>,
    lost: Option<usize>,
) -> Option<usize> {
    let lately: Vec<usize> = env.meta.lately_wanted(shard).map(node_of).collect();
    let free = |node: &usize| {
        let taken = disks.keys().any(|peer| node_of(*peer) == *node);
        !taken && (lost == Some(*node) || (!lately.contains(node) && !nodes[*node].has_replica(shard)))
    };
    (0..nodes.len()).filter(free).choose(&mut env.rng)
}
