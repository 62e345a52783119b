//! Where replicas should be: what to change next in the shard table. Pure: the node whose meta group leads asks, and writes
//! the answer, one shard after the other.
//!
//! In this order: nodes that are to be emptied give their replicas away; every shard gets as many replicas as it should
//! have; replicas are spread evenly over the nodes, those of one shard over zones; so are the preferred leaders. Shards are
//! hashed, so that all carry about the same load: their number is what is balanced.

use super::MetaView;
use moso_proto::{ShardId, setting};
use std::collections::{BTreeMap, BTreeSet};

/// A change of the shard table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// As [`moso_proto::object::ShardTable::replace`].
    Replace {
        /// Shard.
        shard: u16,
        /// Node that gives its replica up.
        from: Option<u32>,
        /// Node that gets one.
        to: Option<u32>,
    },
    /// As [`moso_proto::object::ShardTable::prefer`].
    Prefer {
        /// Shard.
        shard: u16,
        /// Node.
        node: u32,
    },
}

/// The next change, if any is wanted. Only nodes that are `up` get replicas.
pub fn next(view: &MetaView, up: &BTreeSet<u32>) -> Option<Change> {
    let plan = Plan::new(view, up);
    let change = plan.emptied().or_else(|| plan.counted());
    let spread = || plan.spread().or_else(|| plan.spread_leaders());
    change.or_else(|| if view.setting(&setting::REBALANCE) == 1 { spread() } else { None })
}

struct Plan<'a> {
    view: &'a MetaView,
    /// Nodes that may get replicas.
    able: BTreeSet<u32>,
    /// Replicas of each node.
    counts: BTreeMap<u32, usize>,
    leaders: BTreeMap<u32, usize>,
    changing: BTreeSet<u16>,
}

impl<'a> Plan<'a> {
    fn new(view: &'a MetaView, up: &BTreeSet<u32>) -> Self {
        let able = view.nodes().iter().filter(|(id, node)| !node.drain && up.contains(id)).map(|(id, _)| *id).collect();
        let table = view.shards();
        let mut counts: BTreeMap<u32, usize> = view.nodes().keys().map(|&node| (node, 0)).collect();
        let mut leaders = counts.clone();
        for nodes in &table.replicas {
            nodes.iter().for_each(|node| *counts.entry(*node).or_default() += 1);
            nodes.iter().take(1).for_each(|node| *leaders.entry(*node).or_default() += 1);
        }
        Plan { view, able, counts, leaders, changing: table.changing().collect() }
    }

    /// Shards that are at rest, with their nodes.
    fn shards(&self) -> impl Iterator<Item = (u16, &[u32])> {
        let all = (1..=self.view.shards().replicas.len() as u16).filter(|shard| !self.changing.contains(shard));
        all.map(|shard| (shard, self.view.replicas(ShardId(shard))))
    }

    fn count(&self, node: u32) -> usize {
        self.counts.get(&node).copied().unwrap_or(0)
    }

    fn drains(&self, node: u32) -> bool {
        self.view.node(node).is_none_or(|node| node.drain)
    }

    /// Replicas in the node's zone, of these; a node without a zone is a zone of its own.
    fn neighbours(&self, node: u32, replicas: &[u32]) -> usize {
        let zone = |node: u32| self.view.node(node).map(|node| node.zone.as_str()).filter(|zone| !zone.is_empty());
        let own = zone(node);
        replicas.iter().filter(|&&other| other != node && own.is_some() && zone(other) == own).count()
    }

    /// The best node for a replica beside these: alone in its zone, then with the fewest.
    fn best(&self, beside: &[u32]) -> Option<u32> {
        let able = self.able.iter().copied().filter(|node| !beside.contains(node));
        able.min_by_key(|&node| (self.neighbours(node, beside), self.count(node), node))
    }

    fn emptied(&self) -> Option<Change> {
        let moved = self.shards().find_map(|(shard, nodes)| {
            let from = nodes.iter().copied().find(|&node| self.drains(node))?;
            let others: Vec<u32> = nodes.iter().copied().filter(|&node| node != from).collect();
            let to = self.best(&others).filter(|to| *to != from)?;
            Some(Change::Replace { shard, from: Some(from), to: Some(to) })
        });
        // Where no other node can take the replica, the leadership goes at least.
        moved.or_else(|| {
            self.shards().find_map(|(shard, nodes)| {
                let leader = nodes.first().copied().filter(|&node| self.drains(node))?;
                let node = nodes.iter().copied().find(|&node| node != leader && self.able.contains(&node))?;
                Some(Change::Prefer { shard, node })
            })
        })
    }

    /// Every shard has as many replicas as the setting says; an even number is never aimed at.
    fn counted(&self) -> Option<Change> {
        let wanted = self.view.setting(&setting::REPLICAS) as usize;
        if wanted == 0 || wanted.is_multiple_of(2) {
            return None;
        }
        self.shards().find_map(|(shard, nodes)| {
            if nodes.len() < wanted {
                let to = self.best(nodes)?;
                return Some(Change::Replace { shard, from: None, to: Some(to) });
            }
            // The preferred leader stays.
            let spare = nodes.get(1..)?.iter().copied().filter(|_| nodes.len() > wanted);
            let from = spare.max_by_key(|&node| (self.neighbours(node, nodes), self.count(node), node))?;
            Some(Change::Replace { shard, from: Some(from), to: None })
        })
    }

    /// From a node with many replicas to one with few, if that makes them more even and no zone worse.
    fn spread(&self) -> Option<Change> {
        let pairs = self.able.iter().flat_map(|&from| self.able.iter().map(move |&to| (from, to)));
        let uneven = |&(from, to): &(u32, u32)| self.count(from) >= self.count(to) + 2;
        let mut pairs: Vec<(u32, u32)> = pairs.filter(uneven).collect();
        pairs.sort_by_key(|&(from, to)| std::cmp::Reverse(self.count(from) - self.count(to)));
        pairs.into_iter().find_map(|(from, to)| {
            let moves = |nodes: &[u32]| {
                let others: Vec<u32> = nodes.iter().copied().filter(|&node| node != from).collect();
                nodes.contains(&from)
                    && !nodes.contains(&to)
                    && self.neighbours(to, &others) <= self.neighbours(from, &others)
            };
            let (shard, _) = self.shards().find(|(_, nodes)| moves(nodes))?;
            Some(Change::Replace { shard, from: Some(from), to: Some(to) })
        })
    }

    fn spread_leaders(&self) -> Option<Change> {
        let led = |node: u32| self.leaders.get(&node).copied().unwrap_or(0);
        let candidates = self.shards().filter_map(|(shard, nodes)| {
            let leader = *nodes.first()?;
            let others = nodes.iter().copied().filter(|node| self.able.contains(node));
            let node = others.min_by_key(|&node| (led(node), node))?;
            (led(leader) >= led(node) + 2).then_some((led(leader) - led(node), shard, node))
        });
        let (_, shard, node) = candidates.max_by_key(|(gain, shard, _)| (*gain, std::cmp::Reverse(*shard)))?;
        Some(Change::Prefer { shard, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{MetaCommand, MetaMachine};
    use moso_proto::object::{Node, ShardTable, kind};

    /// A cluster whose shards are all on the first nodes; zones by node, empty: none.
    struct Cluster {
        machine: MetaMachine,
        up: BTreeSet<u32>,
    }

    impl Cluster {
        fn new(zones: &[&str], shards: usize, replicas: usize) -> Self {
            let node = |zone: &str| Node {
                api: "h:1".into(),
                peer: "h:2".into(),
                http: "h:3".into(),
                zone: zone.into(),
                drain: false,
            };
            let nodes: Vec<(u32, Node)> = zones.iter().zip(1..).map(|(zone, id)| (id, node(zone))).collect();
            let founding = replicas.max(3).min(nodes.len()) as u32;
            let place = |shard: usize| (0..replicas as u32).map(|k| (shard as u32 + k) % founding + 1).collect();
            let shards = ShardTable { replicas: (0..shards).map(place).collect(), ..ShardTable::default() };
            let up = nodes.iter().map(|(id, _)| *id).collect();
            let mut cluster = Cluster { machine: MetaMachine::new(), up };
            cluster.apply(&MetaCommand::Bootstrap { cluster: "test".into(), nodes, shards });
            cluster
        }

        fn apply(&mut self, command: &MetaCommand) {
            let reply = self.machine.apply(1, &command.encode()).unwrap();
            assert!(matches!(reply, crate::meta::MetaReply::Ok(_)), "{reply:?}");
        }

        fn put(&mut self, kind: &str, name: &str, json: String) {
            let (kind, name, author) = (kind.into(), name.into(), "test".into());
            self.apply(&MetaCommand::Put { kind, name, json, expected_version: None, author });
        }

        fn drain(&mut self, node: u32) {
            let view = MetaView::new(&self.machine).unwrap();
            let drained = Node { drain: true, ..view.node(node).unwrap().clone() };
            self.put(kind::NODE, &node.to_string(), serde_json::to_string(&drained).unwrap());
        }

        /// Makes all changes, each settled at once; returns how many there were.
        fn settle(&mut self) -> usize {
            for changes in 0..1_000 {
                let view = MetaView::new(&self.machine).unwrap();
                let Some(change) = next(&view, &self.up) else { return changes };
                let mut table = view.shards().clone();
                match change {
                    Change::Replace { shard, from, to } => {
                        table.replace(shard, from, to).unwrap();
                        self.put(kind::SHARDS, "table", serde_json::to_string(&table).unwrap());
                        table.settle(shard);
                    }
                    Change::Prefer { shard, node } => table.prefer(shard, node).unwrap(),
                }
                self.put(kind::SHARDS, "table", serde_json::to_string(&table).unwrap());
            }
            panic!("it never ends");
        }

        fn table(&self) -> ShardTable {
            MetaView::new(&self.machine).unwrap().shards().clone()
        }

        fn counts(&self) -> Vec<usize> {
            let table = self.table();
            self.up.iter().map(|node| table.replicas.iter().filter(|nodes| nodes.contains(node)).count()).collect()
        }
    }

    #[test]
    fn a_cluster_as_it_was_made_stays() {
        assert_eq!(Cluster::new(&["a", "b", "c"], 6, 3).settle(), 0);
        assert_eq!(Cluster::new(&[""], 6, 1).settle(), 0);
    }

    #[test]
    fn a_new_node_gets_its_part() {
        let mut cluster = Cluster::new(&["", "", "", ""], 8, 3);
        cluster.settle();
        assert_eq!(cluster.counts(), [6, 6, 6, 6]);
        let leaders = cluster.table().replicas.iter().filter(|nodes| nodes[0] == 4).count();
        assert_eq!(leaders, 2);
    }

    #[test]
    fn a_drained_node_is_emptied_if_others_can_take_its_replicas() {
        let mut cluster = Cluster::new(&["", "", "", ""], 8, 3);
        cluster.drain(2);
        cluster.settle();
        assert_eq!(cluster.counts(), [8, 0, 8, 8]);
        let mut cluster = Cluster::new(&["", "", ""], 6, 3);
        cluster.drain(2);
        cluster.settle();
        assert_eq!(cluster.counts(), [6, 6, 6]);
        assert!(cluster.table().replicas.iter().all(|nodes| nodes[0] != 2), "it leads nothing");
    }

    #[test]
    fn zones_keep_the_replicas_of_a_shard_apart() {
        let mut cluster = Cluster::new(&["a", "b", "c", "a", "b", "c"], 12, 3);
        cluster.settle();
        for nodes in cluster.table().replicas {
            let zones: BTreeSet<u32> = nodes.iter().map(|node| node % 3).collect();
            assert_eq!(zones.len(), 3, "{nodes:?}");
        }
        assert_eq!(cluster.counts(), [6; 6]);
    }

    #[test]
    fn shards_get_the_replicas_that_the_setting_says() {
        let mut cluster = Cluster::new(&["", "", "", "", ""], 5, 3);
        for (wanted, total) in [(5, 25), (1, 5), (3, 15)] {
            cluster.put(kind::SETTING, "replicas", format!(r#"{{"value":{wanted}}}"#));
            cluster.settle();
            assert_eq!(cluster.counts().iter().sum::<usize>(), total);
        }
    }

    #[test]
    fn a_node_that_is_down_gets_nothing() {
        let mut cluster = Cluster::new(&["", "", "", ""], 8, 3);
        cluster.up.remove(&4);
        assert_eq!(cluster.settle(), 0);
    }
}
