//! What goes wrong, and when it ends.

use super::env::Env;
use super::event::{Event, Mend};
use super::log::Key;
use super::meta;
use super::node::Node;
use super::trace::Note;
use super::watch::{Check, Watch};
use moso_shard::Role;
use rand::Rng;
use rand::seq::IteratorRandom;
use std::collections::BTreeSet;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// One node crashes.
    CrashOne,
    /// A majority crashes at once.
    CrashMajority,
    /// All nodes crash at once.
    CrashAll,
    /// A node's process stands still for 0.2 to 60 s.
    Pause,
    /// The nodes fall apart in two parts.
    Partition,
    /// One direction between two nodes.
    OneWay,
    /// Two parts that only one node reaches both of.
    Bridge,
    /// Clients and nodes do not reach one node, or clients alone.
    Isolate,
    /// A node's disk takes up to 2 s for a write.
    SlowDisk,
    /// A sync fails: the process ends.
    FailSync,
    /// A wall clock jumps by up to an hour.
    WallJump,
    /// A leader hands its leadership over.
    Transfer,
    /// Many workers go silent at once.
    Workers,
    /// A third of all messages are lost for a while.
    Loss,
    /// A node loses its disk.
    Wipe,
    /// An entry of a log is damaged while its node is down.
    SpoilLog,
    /// A record of a state is damaged while its node is down.
    SpoilState,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [FaultKind; 17] = [
        FaultKind::CrashOne,
        FaultKind::CrashMajority,
        FaultKind::CrashAll,
        FaultKind::Pause,
        FaultKind::Partition,
        FaultKind::OneWay,
        FaultKind::Bridge,
        FaultKind::Isolate,
        FaultKind::SlowDisk,
        FaultKind::FailSync,
        FaultKind::WallJump,
        FaultKind::Transfer,
        FaultKind::Workers,
        FaultKind::Loss,
        FaultKind::Wipe,
        FaultKind::SpoilLog,
        FaultKind::SpoilState,
    ];

    fn name(self) -> &'static str {
        match self {
            FaultKind::CrashOne => "faults: crash of one",
            FaultKind::CrashMajority => "faults: crash of a majority",
            FaultKind::CrashAll => "faults: crash of all",
            FaultKind::Pause => "faults: pause",
            FaultKind::Partition => "faults: partition",
            FaultKind::OneWay => "faults: one-way partition",
            FaultKind::Bridge => "faults: bridge partition",
            FaultKind::Isolate => "faults: isolation",
            FaultKind::SlowDisk => "faults: slow disk",
            FaultKind::FailSync => "faults: sync to fail",
            FaultKind::WallJump => "faults: wall clock jump",
            FaultKind::Transfer => "faults: leader transfer",
            FaultKind::Workers => "faults: workers silent",
            FaultKind::Loss => "faults: message loss",
            FaultKind::Wipe => "faults: disks to be lost",
            FaultKind::SpoilLog => "faults: logs to be damaged",
            FaultKind::SpoilState => "faults: states to be damaged",
        }
    }
}

/// Lets a fault happen, and plans its end. Returns whether many workers are to go silent.
pub fn strike(
    env: &mut Env,
    watch: &mut Watch,
    nodes: &mut [Node],
    kind: FaultKind,
) -> Result<bool, super::watch::Violation> {
    env.cover.count(kind.name());
    let one = env.rng.random_range(0..nodes.len());
    match kind {
        FaultKind::CrashOne => {
            let node = target(env, nodes);
            crash(env, nodes, &[node])?;
        }
        FaultKind::CrashMajority => {
            let some = shuffled(env, nodes.len());
            crash(env, nodes, &some[..=nodes.len() / 2])?;
        }
        FaultKind::CrashAll => {
            let all = shuffled(env, nodes.len());
            crash(env, nodes, &all)?;
        }
        FaultKind::Pause => pause(env, nodes),
        FaultKind::Partition | FaultKind::OneWay | FaultKind::Bridge | FaultKind::Isolate => {
            partition(env, nodes, kind);
        }
        FaultKind::SlowDisk => {
            let slowest = env.within((20, 2_000));
            note(env, format!("disk of {one} takes up to {slowest} ms"));
            nodes[one].disk().slow_ms = Some((slowest / 10, slowest));
            let ms = env.within((1_000, 15_000));
            env.after(ms, Event::Mend(Mend::Disk(one)));
        }
        FaultKind::FailSync => nodes[one].disk().fails = true,
        FaultKind::WallJump => wall_jump(env, &mut nodes[one], one),
        FaultKind::Transfer => {
            let shard = env.rng.random_range(1..=env.plan.shards);
            let to = env.rng.random_range(0..nodes.len());
            if let Some(leader) = leader(nodes, shard)
                && nodes[leader].transfer(env, watch, shard, to)
            {
                env.cover.count("transfers begun");
                note(env, format!("shard {shard} from {leader} to {to}"));
            }
        }
        FaultKind::Workers => return Ok(true),
        FaultKind::Wipe => wipe(env, watch, nodes)?,
        FaultKind::SpoilLog | FaultKind::SpoilState => spoil(env, watch, nodes, kind)?,
        FaultKind::Loss => {
            env.net.extra_loss = 0.3;
            let ms = env.within((500, 10_000));
            env.after(ms, Event::Mend(Mend::Loss));
        }
    }
    Ok(false)
}

/// Ends a fault.
pub fn mend(env: &mut Env, watch: &mut Watch, nodes: &mut [Node], mend: Mend) -> Check {
    match mend {
        Mend::Start(node) => {
            if !nodes[node].is_up() {
                nodes[node].start(env, watch)?;
            }
        }
        Mend::Resume(node) => nodes[node].resume(env, watch),
        Mend::Links(fault) => env.net.mend(fault),
        Mend::Disk(node) => nodes[node].disk().slow_ms = None,
        Mend::Wall(node) => nodes[node].set_wall_offset(0),
        Mend::Loss => env.net.extra_loss = 0.0,
    }
    Ok(())
}

/// Ends all faults.
pub fn mend_all(env: &mut Env, watch: &mut Watch, nodes: &mut [Node]) -> Check {
    env.net.mend_all();
    for (at, node) in nodes.iter_mut().enumerate() {
        node.disk().slow_ms = None;
        node.disk().fails = false;
        node.set_wall_offset(0);
        node.resume(env, watch);
        if !node.is_up() {
            env.after(at as u64 * 10, Event::Mend(Mend::Start(at)));
        }
    }
    Ok(())
}

fn note(env: &mut Env, text: String) {
    env.note(Note::Fault(text));
}

/// The node that leads a shard, as it thinks itself.
pub fn leader(nodes: &[Node], shard: u16) -> Option<usize> {
    nodes.iter().position(|node| {
        node.group(shard).is_some_and(|group| matches!(group.core().replica_ref().role(), Role::Leader { .. }))
    })
}

/// A leader in more than half of the cases, else any node.
fn target(env: &mut Env, nodes: &[Node]) -> usize {
    let shard = env.rng.random_range(1..=env.plan.shards);
    let any = env.rng.random_range(0..nodes.len());
    let leads = env.chance(0.6);
    leader(nodes, shard).filter(|_| leads).unwrap_or(any)
}

fn shuffled(env: &mut Env, nodes: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..nodes).collect();
    for at in (1..nodes).rev() {
        all.swap(at, env.rng.random_range(0..=at));
    }
    all
}

/// Crashes nodes, which start again after a while.
pub fn crash(env: &mut Env, nodes: &mut [Node], which: &[usize]) -> Check {
    for &node in which {
        nodes[node].crash(env)?;
        for other in nodes.iter_mut() {
            if env.once_in(2) {
                other.unreachable(env, node);
            }
        }
        let down_ms = if env.once_in(4) { env.within((3_000, 20_000)) } else { env.within((50, 3_000)) };
        env.after(down_ms, Event::Mend(Mend::Start(node)));
    }
    Ok(())
}

fn pause(env: &mut Env, nodes: &mut [Node]) {
    let node = target(env, nodes);
    let ms = match env.within((0, 3)) {
        0 => env.within((5_000, 60_000)),
        1 => env.within((1_000, 8_000)),
        _ => env.within((200, 2_500)),
    };
    note(env, format!("pause of {node} for {ms} ms"));
    nodes[node].pause(env, ms);
    env.after(ms, Event::Mend(Mend::Resume(node)));
}

/// Whether a replica may lose its data: then all others have theirs, and they are a quorum.
fn can_lose(env: &Env, watch: &Watch, shard: u16, peer: u64) -> bool {
    let wish = env.meta.newest(shard);
    let members = watch.oracle(shard).members.newest();
    let settled = env.meta.is_whole(shard) && members.outgoing.is_empty() && members.voters == wish.members.voters;
    !members.names(peer) || (settled && members.voters.len() > 2)
}

fn wipe(env: &mut Env, watch: &mut Watch, nodes: &mut [Node]) -> Check {
    let node = target(env, nodes);
    let mut lost: BTreeSet<Key> = nodes[node].replicas().into_iter().collect();
    for shard in 1..=env.plan.shards {
        lost.extend(env.meta.newest(shard).of(node, nodes[node].disk_number()).map(|peer| (shard, peer)));
    }
    if !lost.iter().all(|(shard, peer)| can_lose(env, watch, *shard, *peer)) {
        return Ok(());
    }
    env.cover.count("faults: disk lost");
    note(env, format!("{node} loses its disk"));
    crash(env, nodes, &[node])?;
    nodes[node].wipe(watch);
    for (shard, peer) in lost {
        if env.meta.newest(shard).names(peer) {
            if watch.oracle(shard).members.newest().names(peer) {
                env.meta.hurt(shard, peer);
            }
            let delay_ms = meta::delay(env);
            env.after(delay_ms, Event::Replace { shard, peer });
        }
    }
    Ok(())
}

fn spoil(env: &mut Env, watch: &mut Watch, nodes: &mut [Node], kind: FaultKind) -> Check {
    let node = target(env, nodes);
    let Some((shard, peer)) = nodes[node].replicas().into_iter().choose(&mut env.rng) else {
        return Ok(());
    };
    if !env.meta.newest(shard).names(peer) || !env.meta.is_whole(shard) || !can_lose(env, watch, shard, peer) {
        return Ok(());
    }
    crash(env, nodes, &[node])?;
    if nodes[node].spoil(env, shard, kind == FaultKind::SpoilLog) {
        env.cover.count(if kind == FaultKind::SpoilLog { "faults: log damaged" } else { "faults: state damaged" });
        note(env, format!("shard {shard} is damaged on {node}"));
        env.meta.hurt(shard, peer);
    }
    Ok(())
}

fn wall_jump(env: &mut Env, node: &mut Node, number: usize) {
    let hour = 3_600_000;
    let offset_ms = match env.within((0, 2)) {
        0 => env.rng.random_range(-hour..=hour),
        1 => env.rng.random_range(-10_000..=10_000),
        _ => [-hour, hour][env.rng.random_range(0..2)],
    };
    note(env, format!("wall clock of {number} is off by {offset_ms} ms"));
    node.set_wall_offset(offset_ms);
    let ms = env.within((500, 30_000));
    env.after(ms, Event::Mend(Mend::Wall(number)));
}

fn partition(env: &mut Env, nodes: &[Node], kind: FaultKind) {
    let all = shuffled(env, nodes.len());
    let victim = target(env, nodes);
    let size = env.rng.random_range(0..nodes.len());
    let (left, right) = all.split_at(size);
    let apart = |left: &[usize], right: &[usize]| {
        let pairs = left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b)));
        pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect::<Vec<_>>()
    };
    let mut from_clients = Vec::new();
    let links = match kind {
        FaultKind::OneWay => {
            let mut links = Vec::new();
            for other in all.iter().copied().filter(|node| *node != victim) {
                let outward = if all.len() > 1 && env.once_in(2) { (victim, other) } else { (other, victim) };
                links.push(outward);
            }
            if env.once_in(2) {
                links.truncate(1);
            }
            links
        }
        FaultKind::Bridge if right.len() > 1 => apart(left, &right[1..]),
        FaultKind::Isolate => {
            from_clients.push(victim);
            let others: Vec<usize> = all.iter().copied().filter(|n| *n != victim).collect();
            if env.once_in(2) { apart(&[victim], &others) } else { Vec::new() }
        }
        _ => apart(left, right),
    };
    note(env, format!("cut {links:?}, from clients {from_clients:?}"));
    let fault = env.net.cut(&links, &from_clients);
    let ms = env.within((300, 20_000));
    env.after(ms, Event::Mend(Mend::Links(fault)));
}
