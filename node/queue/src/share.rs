//! Order between shares: the one furthest below its target first (PanDA: executing / pledged, ascending).

use std::collections::BTreeMap;

/// A share's target and use.
#[derive(Clone, Debug, PartialEq)]
pub struct ShareUse {
    /// Number.
    pub id: u32,
    /// Name: "Test" is always first (PanDA's rank 0).
    pub name: Box<str>,
    /// Target, relative to the others.
    pub target: f64,
    /// Cores in use.
    pub running_cores: u64,
}

/// Ranks of the shares, 0 first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShareOrder {
    ranks: BTreeMap<u32, u32>,
}

impl ShareOrder {
    /// Sorts the shares. One with target 0 counts as a million times over its target.
    pub fn new(shares: &[ShareUse]) -> Self {
        let targets: f64 = shares.iter().map(|s| s.target).sum();
        let total: u64 = shares.iter().map(|s| s.running_cores).sum();
        let over_use = |share: &ShareUse| {
            if share.target <= 0.0 || targets <= 0.0 {
                return 1e6;
            }
            // With nothing running, the larger target is the emptier share.
            share.running_cores as f64 / (total.max(1) as f64 * share.target / targets)
        };
        let mut order: Vec<(bool, f64, f64, u32)> =
            shares.iter().map(|s| (*s.name != *"Test", over_use(s), -s.target, s.id)).collect();
        order.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.total_cmp(&b.2)).then(a.3.cmp(&b.3)));
        let ranks = order.iter().enumerate().map(|(rank, share)| (share.3, rank as u32)).collect();
        ShareOrder { ranks }
    }

    /// Rank of a share; unknown ones come last.
    pub fn rank(&self, share: u32) -> u32 {
        self.ranks.get(&share).copied().unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(id: u32, name: &str, target: f64, running_cores: u64) -> ShareUse {
        ShareUse { id, name: name.into(), target, running_cores }
    }

    #[test]
    fn the_share_furthest_below_its_target_is_first() {
        let order = ShareOrder::new(&[
            share(1, "Analysis", 30.0, 300),
            share(2, "Production", 70.0, 500),
            share(3, "Closed", 0.0, 0),
            share(4, "Test", 1.0, 900),
        ]);
        assert_eq!((order.rank(4), order.rank(2), order.rank(1), order.rank(3)), (0, 1, 2, 3));
        assert_eq!(order.rank(99), u32::MAX);
    }

    #[test]
    fn with_nothing_running_the_larger_target_is_first() {
        let order = ShareOrder::new(&[share(1, "a", 1.0, 0), share(2, "b", 2.0, 0)]);
        assert!(order.rank(2) < order.rank(1));
    }
}
