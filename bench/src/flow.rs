//! How long no lease came: of any shard, and of each.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Largest number of a shard.
const SHARDS_MAX: u16 = 4_095;

/// When leases came. Times on the run's clock, µs.
#[derive(Debug)]
pub struct Flow {
    any: Last,
    shards: Box<[Last]>,
}

#[derive(Debug, Default)]
struct Last {
    at_us: AtomicU64,
    longest_us: AtomicU64,
}

impl Last {
    fn begin(&self, now_us: u64) {
        self.at_us.store(now_us, Relaxed);
        self.longest_us.store(0, Relaxed);
    }

    fn came(&self, now_us: u64) {
        let before = self.at_us.fetch_max(now_us, Relaxed);
        self.longest_us.fetch_max(now_us.saturating_sub(before), Relaxed);
    }

    fn longest_us(&self, now_us: u64) -> u64 {
        let silent = now_us.saturating_sub(self.at_us.load(Relaxed));
        self.longest_us.load(Relaxed).max(silent)
    }
}

impl Flow {
    /// None came yet.
    pub fn new() -> Flow {
        Flow { any: Last::default(), shards: (0..=SHARDS_MAX).map(|_| Last::default()).collect() }
    }

    /// Forgets what was: silence counts from now on.
    pub fn begin(&self, now_us: u64) {
        self.any.begin(now_us);
        self.shards.iter().for_each(|last| last.begin(now_us));
    }

    /// A lease of a shard's job came.
    pub fn came(&self, shard: u16, now_us: u64) {
        self.any.came(now_us);
        if let Some(last) = self.shards.get(usize::from(shard)) {
            last.came(now_us);
        }
    }

    /// Whether one came of each of these shards since it began.
    pub fn all_came(&self, shards: std::ops::RangeInclusive<u16>, began_us: u64) -> bool {
        let came = |shard: u16| self.shards.get(usize::from(shard)).is_some_and(|l| l.at_us.load(Relaxed) > began_us);
        shards.into_iter().all(came)
    }

    /// Longest time without one, s: of any shard, and of the shard where it was longest.
    pub fn silence_s(&self, shards: std::ops::RangeInclusive<u16>, now_us: u64) -> (f64, f64) {
        let of = |shard: u16| self.shards.get(usize::from(shard)).map_or(0, |last| last.longest_us(now_us));
        let worst_us = shards.into_iter().map(of).max().unwrap_or(0);
        (self.any.longest_us(now_us) as f64 / 1e6, worst_us as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_shard_is_told_apart_from_any() {
        let flow = Flow::new();
        flow.came(1, 500);
        flow.begin(1_000_000);
        assert!(!flow.all_came(1..=2, 1_000_000));
        for tick in 1..=10 {
            flow.came(1, 1_000_000 + tick * 100_000);
        }
        flow.came(2, 1_700_000);
        assert!(flow.all_came(1..=2, 1_000_000));
        let (any, worst) = flow.silence_s(1..=2, 2_000_000);
        assert!((any - 0.1).abs() < 1e-9 && (worst - 0.7).abs() < 1e-9, "{any} {worst}");
        // One that never came, and one that is late.
        assert_eq!(flow.silence_s(1..=3, 2_000_000).1, 1.0);
        assert_eq!(flow.silence_s(1..=2, 4_000_000), (2.0, 2.3));
    }
}
