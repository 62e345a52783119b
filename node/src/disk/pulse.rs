//! How long the log's write has been under way. The time is the caller's.

use std::sync::atomic::{AtomicU64, Ordering};

/// A write that has hung for so long will not come back, ms: the process ends, to be started elsewhere.
pub const HOPELESS_MS: u64 = 60_000;

/// What is thought of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Answers,
    /// A write hangs: others should lead.
    Stuck,
    /// It has hung for a minute: end.
    Hopeless,
}

/// The log's write, as its thread says. One thread begins and ends, any looks.
pub struct Pulse {
    stuck_ms: u64,
    /// When the write began; 0: none is under way.
    since: AtomicU64,
}

impl Pulse {
    /// A write longer than `stuck_ms` is stuck.
    pub fn new(stuck_ms: u64) -> Self {
        Pulse { stuck_ms, since: AtomicU64::new(0) }
    }

    /// A write and its sync begin. Times are never 0.
    pub fn begin(&self, now_ms: u64) {
        self.since.store(now_ms.max(1), Ordering::Relaxed);
    }

    /// They are done.
    pub fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// The disk answered, though the write is not done.
    pub fn pause(&self) {
        self.end();
    }

    /// What to think of it now.
    pub fn verdict(&self, now_ms: u64) -> Verdict {
        match self.since.load(Ordering::Relaxed) {
            0 => Verdict::Answers,
            since if now_ms.saturating_sub(since) >= HOPELESS_MS => Verdict::Hopeless,
            since if now_ms.saturating_sub(since) >= self.stuck_ms => Verdict::Stuck,
            _ => Verdict::Answers,
        }
    }

    /// For how long it has been stuck, ms; 0: it is not.
    pub fn stuck_for(&self, now_ms: u64) -> u64 {
        match self.since.load(Ordering::Relaxed) {
            0 => 0,
            since => now_ms.saturating_sub(since).saturating_sub(self.stuck_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_write_that_lasts_is_stuck() {
        let pulse = Pulse::new(3_000);
        assert_eq!(pulse.verdict(1_000_000), Verdict::Answers);
        pulse.begin(1_000);
        assert_eq!([1_000, 3_999, 4_000, 60_999, 61_000].map(|now| pulse.verdict(now)), {
            use Verdict::*;
            [Answers, Answers, Stuck, Stuck, Hopeless]
        });
        assert_eq!([3_000, 4_000, 6_500].map(|now| pulse.stuck_for(now)), [0, 0, 2_500]);
        // The clock of the one that looks may be behind.
        assert_eq!(pulse.verdict(900), Verdict::Answers);
        pulse.end();
        assert_eq!((pulse.verdict(90_000), pulse.stuck_for(90_000)), (Verdict::Answers, 0));
        pulse.begin(90_000);
        assert_eq!(pulse.verdict(90_001), Verdict::Answers);
    }
}
