//! The only reader of time in a node.
//!
//! Wall clocks are wrong at times, by hours. What a leader stamps with such a time cannot be taken back: time-outs would end
//! jobs that just began, and fresh submissions would count as old. So the node's wall time runs with its monotonic clock,
//! and where it stands is what most nodes of the cluster say.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A difference of at most this is how long messages take, ms: it is not followed, or times would go back and forth.
const NOISE_MS: i64 = 50;
/// A difference of at most this is drift, ms: it is followed bit by bit.
const DRIFT_MS: i64 = 500;
/// So much of it at a time, ms. Asked for every 100 ms or so, this follows a clock that is wrong by 5 %.
const STEP_MS: i64 = 5;

/// Monotonic and wall clock. All copies of one are the same clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    /// Unix time at `start`, ms.
    base_ms: &'static AtomicI64,
}

impl Default for Clock {
    /// A node has one, for as long as it runs.
    fn default() -> Self {
        let start = Instant::now();
        Clock { start, base_ms: Box::leak(Box::new(AtomicI64::new(system_ms()))) }
    }
}

impl Clock {
    /// Milliseconds since the node started, from 1,000,000 so that ages can be subtracted.
    pub fn mono_ms(&self) -> u64 {
        1_000_000 + self.start.elapsed().as_millis() as u64
    }

    /// Microseconds since the node started.
    pub fn mono_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// Unix time in ms, as the cluster takes it to be. Only recorded, and compared with times that users gave.
    pub fn wall_ms(&self) -> u64 {
        let ms = self.base_ms.load(Ordering::Relaxed) + self.start.elapsed().as_millis() as i64;
        u64::try_from(ms).unwrap_or(0)
    }

    /// What the system takes Unix time at this clock's start to have been, ms. It jumps when the system's clock is set.
    pub fn system_base_ms(&self) -> i64 {
        system_ms() - self.start.elapsed().as_millis() as i64
    }

    /// What another node's Unix time, heard now, makes of it.
    pub fn base_of_ms(&self, wall_ms: u64) -> i64 {
        i64::try_from(wall_ms).unwrap_or(i64::MAX) - self.start.elapsed().as_millis() as i64
    }

    /// Goes by the median of what the nodes' systems say, this one's included. Returns how far this node's own system is
    /// off, ms.
    pub fn agree(&self, bases_ms: Vec<i64>) -> i64 {
        let now = self.base_ms.load(Ordering::Relaxed);
        let base = agreed(now, bases_ms);
        self.base_ms.store(base, Ordering::Relaxed);
        self.system_base_ms() - base
    }
}

/// Where a clock that stands at `now` goes. Of two medians the nearer one counts: with one other node nobody knows who is
/// wrong, and to stay is best.
fn agreed(now: i64, mut bases: Vec<i64>) -> i64 {
    bases.sort_unstable();
    let middle = bases.len() / 2;
    let median = match bases.get(middle.saturating_sub(1 - bases.len() % 2)..=middle) {
        Some(&[low, high]) if now.abs_diff(low) <= now.abs_diff(high) => low,
        Some([.., median]) => *median,
        _ => return now,
    };
    match median - now {
        noise if noise.abs() <= NOISE_MS => now,
        drift if drift.abs() <= DRIFT_MS => now + drift.clamp(-STEP_MS, STEP_MS),
        _ => median,
    }
}

fn system_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn one_wrong_clock_of_three_is_outvoted() {
        assert_eq!(agreed(1_000, vec![1_000 + HOUR, 1_000, 1_001]), 1_000);
        assert_eq!(agreed(1_000, vec![1_000 - HOUR, 1_000, 999]), 1_000);
        // The one that is wrong, after its start.
        assert_eq!(agreed(HOUR, vec![HOUR, 3, 5]), 5);
    }

    #[test]
    fn of_two_clocks_the_nearer_counts() {
        assert_eq!(agreed(1_000, vec![1_000 + HOUR, 1_000]), 1_000);
        assert_eq!(agreed(1_000, vec![1_000 - HOUR, 1_002]), 1_000);
    }

    #[test]
    fn a_clock_alone_follows_its_system() {
        assert_eq!(agreed(1_000, vec![1_000 + HOUR]), 1_000 + HOUR);
        assert_eq!(agreed(1_000, vec![]), 1_000);
    }

    #[test]
    fn drift_is_followed_bit_by_bit() {
        assert_eq!(agreed(1_000, vec![1_400]), 1_005);
        assert_eq!(agreed(1_000, vec![600]), 995);
        assert_eq!(agreed(1_000, vec![1_002]), 1_000, "noise");
    }

    #[test]
    fn copies_are_the_same_clock() {
        let clock = Clock::default();
        let copy = clock;
        let off = clock.agree(vec![clock.system_base_ms() + HOUR]);
        assert!((off + HOUR).abs() < 1_000, "{off}");
        assert!(copy.wall_ms() as i64 - system_ms() > HOUR - 1_000);
    }
}
