//! What members each shard should have: decided by the meta group, of which only the outcome is simulated, and learned by
//! every node late, at another time, and after a restart perhaps once more from an old view.

use super::env::Env;
use super::event::Event;
use super::{incarnation_of, node_of, peer_at};
use moso_shard::members::Members;
use std::collections::{BTreeMap, BTreeSet};

/// What members a shard should have.
#[derive(Clone, Debug)]
pub struct Wish {
    /// From 1, rising.
    pub version: u64,
    /// Replica ids. One that a wish leaves out never comes back.
    pub members: Members,
    /// For each the disk on which it is to live: a node that lost its disk has another one.
    pub disks: BTreeMap<u64, u32>,
}

impl Wish {
    /// The replica that a node should have on this disk.
    pub fn of(&self, node: usize, disk: u32) -> Option<u64> {
        self.disks.iter().find(|(peer, on)| node_of(**peer) == node && **on == disk).map(|(peer, _)| *peer)
    }

    /// Whether it wants the replica.
    pub fn names(&self, peer: u64) -> bool {
        self.members.voters.contains(&peer)
    }
}

/// A node's view of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct View {
    /// Of the wish.
    pub version: u64,
    /// The newest wish that is known to be fulfilled.
    pub settled: u64,
}

struct Shard {
    wishes: Vec<Wish>,
    settled: u64,
    views: Vec<View>,
    /// A member whose data is lost or damaged: nothing else may befall the shard until it is replaced.
    hurt: Option<u64>,
}

/// What members each shard should have.
pub struct Meta {
    shards: BTreeMap<u16, Shard>,
    /// The newest incarnation given out for each node.
    incarnations: Vec<u64>,
}

impl Meta {
    /// As the shards are made: each on so many nodes, beginning with another one.
    pub fn new(nodes: usize, shards: u16, replicas: usize) -> Meta {
        let found = |shard: u16| {
            let first = usize::from(shard);
            let voters: BTreeSet<u64> = (0..replicas).map(|nth| peer_at((first + nth) % nodes, 1)).collect();
            let disks = voters.iter().map(|peer| (*peer, 1)).collect();
            let wish = Wish { version: 1, members: Members { voters, learners: BTreeSet::new() }, disks };
            let view = View { version: 1, settled: 1 };
            Shard { wishes: vec![wish], settled: 1, views: vec![view; nodes], hurt: None }
        };
        Meta { shards: (1..=shards).map(|shard| (shard, found(shard))).collect(), incarnations: vec![1; nodes] }
    }

    fn shard(&self, shard: u16) -> &Shard {
        &self.shards[&shard]
    }

    fn shard_mut(&mut self, shard: u16) -> &mut Shard {
        self.shards.get_mut(&shard).expect("shards are fixed")
    }

    /// The members with which a shard was made.
    pub fn founders(&self, shard: u16) -> &BTreeSet<u64> {
        &self.shard(shard).wishes[0].members.voters
    }

    /// The newest wish.
    pub fn newest(&self, shard: u16) -> &Wish {
        self.shard(shard).wishes.last().expect("the founding")
    }

    /// The members of a wish.
    pub fn members(&self, shard: u16, version: u64) -> &BTreeSet<u64> {
        &self.shard(shard).wishes[version as usize - 1].members.voters
    }

    /// The newest wish is fulfilled.
    pub fn is_settled(&self, shard: u16) -> bool {
        self.shard(shard).settled == self.newest(shard).version
    }

    /// The newest wish is fulfilled, and all data of its members is there.
    pub fn is_whole(&self, shard: u16) -> bool {
        self.is_settled(shard) && self.shard(shard).hurt.is_none()
    }

    /// All data of its members is there, as far as anybody knows.
    pub fn is_unhurt(&self, shard: u16) -> bool {
        self.shard(shard).hurt.is_none()
    }

    /// All ids that were wanted since the newest wish that was fulfilled.
    pub fn lately_wanted(&self, shard: u16) -> impl Iterator<Item = u64> {
        let since = self.shard(shard).settled.saturating_sub(1) as usize;
        self.shard(shard).wishes[since..].iter().flat_map(|wish| wish.members.voters.iter().copied())
    }

    /// What a node knows.
    pub fn view(&self, node: usize, shard: u16) -> (&Wish, View) {
        let view = self.shard(shard).views[node];
        (&self.shard(shard).wishes[view.version as usize - 1], view)
    }

    /// A node learns something, if it is new.
    pub fn learn(&mut self, node: usize, shard: u16, view: View) {
        let known = &mut self.shard_mut(shard).views[node];
        *known = (*known).max(view);
    }

    /// A node's view goes back.
    pub fn forget(&mut self, node: usize, shard: u16, version: u64) {
        let known = &mut self.shard_mut(shard).views[node];
        known.version = known.version.min(version);
        known.settled = known.settled.min(known.version);
    }

    /// What is true now.
    pub fn truth(&self, shard: u16) -> View {
        View { version: self.newest(shard).version, settled: self.shard(shard).settled }
    }

    /// A leader says that a wish is fulfilled.
    pub fn settle(&mut self, shard: u16, version: u64) {
        let shard = self.shard_mut(shard);
        shard.settled = shard.settled.max(version);
        if shard.hurt.is_some_and(|hurt| !shard.wishes[shard.settled as usize - 1].names(hurt)) {
            shard.hurt = None;
        }
    }

    /// A member's data is lost or damaged.
    pub fn hurt(&mut self, shard: u16, peer: u64) {
        self.shard_mut(shard).hurt = Some(peer);
    }

    /// An id for a new replica.
    pub fn new_peer(&mut self, node: usize) -> u64 {
        self.incarnations[node] += 1;
        let peer = peer_at(node, self.incarnations[node]);
        debug_assert!(incarnation_of(peer) > 1);
        peer
    }

    /// A new wish.
    pub fn wish(&mut self, shard: u16, disks: BTreeMap<u64, u32>) {
        let version = self.newest(shard).version + 1;
        let voters = disks.keys().copied().collect();
        let wish = Wish { version, members: Members { voters, learners: BTreeSet::new() }, disks };
        self.shard_mut(shard).wishes.push(wish);
    }
}

/// Lets all nodes learn what is true now, each at its time.
pub fn publish(env: &mut Env, shard: u16) {
    let view = env.meta.truth(shard);
    for node in 0..env.plan.nodes {
        let delay_ms = delay(env);
        env.after(delay_ms, Event::Learn { node, shard, view });
    }
}

/// From a fact to a node's knowledge of it.
pub fn delay(env: &mut Env) -> u64 {
    let span = if env.calm { (0, 100) } else { env.plan.meta_ms };
    env.within(span)
}
