//! Where the replicas of each shard are, and where they are going.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Incarnation of the replicas with which a cluster is made.
pub const FOUNDING_INCARNATION: u32 = 1;

/// The id of a replica: its node and, in the lower half, the incarnation, which no two replicas of a cluster's lifetime
/// share but those with which it was made.
pub fn replica_id(node: u32, incarnation: u32) -> u64 {
    u64::from(node) << 32 | u64::from(incarnation)
}

/// The node of a replica.
pub fn node_of(replica: u64) -> u32 {
    (replica >> 32) as u32
}

/// Which nodes hold which shard.
///
/// Invariants: `incarnations` is empty, when all replicas are those that the cluster was made with, or of the shape of
/// `replicas`; no replica id in it was ever another replica's; what is in `leaving` is not among the wanted ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardTable {
    /// Node numbers of the replicas that shard 1, 2, … should have; the first is the preferred leader.
    pub replicas: Vec<Vec<u32>>,
    /// Their incarnations.
    #[serde(default)]
    pub incarnations: Vec<Vec<u32>>,
    /// Replicas, by id, that shards still have and should not: destroyed once the shard has the wanted ones. A shard that
    /// is named here is changing.
    #[serde(default)]
    pub leaving: BTreeMap<u16, Vec<u64>>,
    /// Last incarnation given; 0: none but the founding one.
    #[serde(default)]
    pub last_incarnation: u32,
}

impl ShardTable {
    fn place(&self, shard: u16) -> Option<usize> {
        usize::from(shard).checked_sub(1).filter(|&place| place < self.replicas.len())
    }

    /// Ids of the replicas that a shard should have; empty for a shard that does not exist.
    pub fn wanted(&self, shard: u16) -> Vec<u64> {
        let Some(place) = self.place(shard) else { return Vec::new() };
        let nodes = self.replicas[place].iter().enumerate();
        nodes.map(|(at, &node)| replica_id(node, self.incarnation(place, at))).collect()
    }

    fn incarnation(&self, place: usize, at: usize) -> u32 {
        self.incarnations.get(place).and_then(|of| of.get(at)).copied().unwrap_or(FOUNDING_INCARNATION)
    }

    /// Ids of the replicas that go once the shard has those it should have.
    pub fn leaving(&self, shard: u16) -> &[u64] {
        self.leaving.get(&shard).map_or(&[], Vec::as_slice)
    }

    /// Shards whose replicas are changing.
    pub fn changing(&self) -> impl Iterator<Item = u16> {
        self.leaving.keys().copied()
    }

    /// A shard should have a replica on `to` instead of the one on `from`; `None`: one more, or one less. With both the
    /// same, a new one instead of a damaged one.
    ///
    /// # Errors
    /// Why not, for people: the shard is changing, `from` has no replica of it or `to` has one, or it would have none.
    pub fn replace(&mut self, shard: u16, from: Option<u32>, to: Option<u32>) -> Result<(), String> {
        let place = self.place(shard).ok_or_else(|| format!("there is no shard {shard}"))?;
        if self.leaving.contains_key(&shard) {
            return Err(format!("shard {shard} is changing: wait until that is done"));
        }
        if let Some(to) = to
            && Some(to) != from
            && self.replicas[place].contains(&to)
        {
            return Err(format!("node {to} has a replica of shard {shard}"));
        }
        let at = match from {
            Some(from) => {
                let at = self.replicas[place].iter().position(|&node| node == from);
                Some(at.ok_or_else(|| format!("node {from} has no replica of shard {shard}"))?)
            }
            None => None,
        };
        if to.is_none() && (at.is_none() || self.replicas[place].len() == 1) {
            return Err(format!("shard {shard} must keep a replica"));
        }
        // Until the new one has its copy, there is one less.
        if from == to && self.replicas[place].len() < 3 {
            return Err(format!("shard {shard} has too few replicas to make one anew where it is: move it"));
        }
        let last = self.last_incarnation.max(FOUNDING_INCARNATION);
        let next = last.checked_add(1).ok_or("all incarnations are used")?;
        self.spell_out();
        let (nodes, incarnations) = (&mut self.replicas[place], &mut self.incarnations[place]);
        let gone = at.map(|at| (nodes.remove(at), incarnations.remove(at)));
        if let Some(to) = to {
            let at = at.unwrap_or(nodes.len());
            nodes.insert(at, to);
            incarnations.insert(at, next);
            self.last_incarnation = next;
        }
        let gone = gone.map(|(node, incarnation)| replica_id(node, incarnation));
        self.leaving.insert(shard, gone.into_iter().collect());
        Ok(())
    }

    /// The shard has the replicas that it should have.
    pub fn settle(&mut self, shard: u16) {
        self.leaving.remove(&shard);
    }

    /// Another of the shard's nodes should lead it.
    ///
    /// # Errors
    /// It has no replica of the shard.
    pub fn prefer(&mut self, shard: u16, node: u32) -> Result<(), String> {
        let place = self.place(shard).ok_or_else(|| format!("there is no shard {shard}"))?;
        let at = self.replicas[place].iter().position(|&replica| replica == node);
        let at = at.ok_or_else(|| format!("node {node} has no replica of shard {shard}"))?;
        self.replicas[place].swap(0, at);
        if let Some(incarnations) = self.incarnations.get_mut(place) {
            incarnations.swap(0, at);
        }
        Ok(())
    }

    fn spell_out(&mut self) {
        if self.incarnations.is_empty() {
            let founding = |nodes: &Vec<u32>| vec![FOUNDING_INCARNATION; nodes.len()];
            self.incarnations = self.replicas.iter().map(founding).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> ShardTable {
        ShardTable { replicas: vec![vec![1, 2, 3], vec![2, 3, 1]], ..ShardTable::default() }
    }

    #[test]
    fn a_replica_moves_under_a_new_id() {
        let mut table = table();
        table.replace(1, Some(2), Some(4)).unwrap();
        assert_eq!(table.wanted(1), [replica_id(1, 1), replica_id(4, 2), replica_id(3, 1)]);
        assert_eq!(table.leaving(1), [replica_id(2, 1)]);
        assert!(table.replace(1, Some(3), Some(5)).unwrap_err().contains("changing"));
        table.settle(1);
        table.replace(1, Some(4), Some(2)).unwrap();
        assert_eq!(table.wanted(1)[1], replica_id(2, 3), "never an id again");
        assert_eq!(table.wanted(2), [2, 3, 1].map(|node| replica_id(node, 1)));
    }

    #[test]
    fn a_damaged_replica_is_replaced_where_it_is() {
        let mut table = table();
        table.replace(2, Some(3), Some(3)).unwrap();
        assert_eq!(table.wanted(2)[1], replica_id(3, 2));
        assert_eq!(table.leaving(2), [replica_id(3, 1)]);
    }

    #[test]
    fn shards_grow_and_shrink_but_not_to_nothing() {
        let mut table = ShardTable { replicas: vec![vec![1]], ..ShardTable::default() };
        assert!(table.replace(1, Some(1), None).is_err());
        assert!(table.replace(1, None, Some(1)).is_err());
        table.replace(1, None, Some(2)).unwrap();
        assert_eq!((table.wanted(1).len(), table.leaving(1).len()), (2, 0));
        assert_eq!(table.changing().collect::<Vec<_>>(), [1]);
        table.settle(1);
        table.replace(1, Some(1), None).unwrap();
        assert_eq!(table.wanted(1), [replica_id(2, 2)]);
    }

    #[test]
    fn the_preferred_leader_changes_place() {
        let mut table = table();
        table.prefer(1, 3).unwrap();
        assert_eq!(table.replicas[0], [3, 2, 1]);
        assert!(table.prefer(1, 9).is_err());
    }
}
