//! What was refused, by reason, and when to come back.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// First and longest "come back later", ms.
const RETRY_MS: (u64, u64) = (250, 10_000);

/// Why a connection or a call was refused or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// As many connections as the port takes are open.
    Connections,
    /// As many connections as one address may have are open.
    Address,
    /// A connection that did not begin a call in time.
    Silent,
    /// A connection that made no call for long.
    Idle,
    /// A reply that was not read in time.
    SlowReader,
    /// A request that did not come in time.
    SlowRequest,
    /// The memory for calls is in use.
    Memory,
    /// As many submissions as the node works on are under way.
    Submissions,
}

impl Reason {
    /// All.
    pub const ALL: [Reason; 8] = [
        Reason::Connections,
        Reason::Address,
        Reason::Silent,
        Reason::Idle,
        Reason::SlowReader,
        Reason::SlowRequest,
        Reason::Memory,
        Reason::Submissions,
    ];

    /// As the metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Connections => "connections",
            Reason::Address => "connections_of_address",
            Reason::Silent => "silent",
            Reason::Idle => "idle",
            Reason::SlowReader => "slow_reader",
            Reason::SlowRequest => "slow_request",
            Reason::Memory => "memory",
            Reason::Submissions => "submissions",
        }
    }

    /// For the caller.
    pub fn text(self) -> &'static str {
        match self {
            Reason::Connections => {
                "this node has as many connections as it takes: come back later, or ask another node"
            }
            Reason::Address => "your address has as many connections as one may have: use fewer, each takes many calls",
            Reason::Silent => "the connection began no call in time",
            Reason::Idle => "the connection made no call for long",
            Reason::SlowReader => "the answers were not read in time",
            Reason::SlowRequest => "the request did not come in time",
            Reason::Memory => "this node's memory for calls is in use: come back later",
            Reason::Submissions => "too many submissions at this node: come back later",
        }
    }
}

/// Counters by reason.
pub struct Refusals {
    counts: [AtomicU64; Reason::ALL.len()],
    retry_ms: AtomicU32,
    /// Refused submissions and accepted ones when the time to come back was computed last.
    before: [AtomicU64; 2],
}

impl Default for Refusals {
    fn default() -> Self {
        Refusals { counts: Default::default(), retry_ms: AtomicU32::new(RETRY_MS.0 as u32), before: Default::default() }
    }
}

impl Refusals {
    /// Counts one.
    pub fn count(&self, reason: Reason) {
        self.counts[reason as usize].fetch_add(1, Relaxed);
    }

    /// So many since the start.
    pub fn counted(&self, reason: Reason) -> u64 {
        self.counts[reason as usize].load(Relaxed)
    }

    /// When a caller that is refused now may come back, ms.
    pub fn retry_after_ms(&self) -> u32 {
        self.retry_ms.load(Relaxed)
    }

    /// A second has passed: computes anew when to come back. Those refused in it fit into the node after
    /// so many seconds as there were of them for each that was taken.
    pub fn second(&self, taken: u64) {
        let refused = self.counted(Reason::Submissions) + self.counted(Reason::Memory);
        let [refused_before, taken_before] = &self.before;
        let refused_now = refused - refused_before.swap(refused, Relaxed);
        let taken_now = taken.saturating_sub(taken_before.swap(taken, Relaxed));
        let ms = (refused_now * 1_000 / taken_now.max(1)).clamp(RETRY_MS.0, RETRY_MS.1);
        self.retry_ms.store(ms as u32, Relaxed);
    }

    /// Writes the counters to the metrics.
    pub fn publish(&self) {
        for reason in Reason::ALL {
            metrics::counter!("moso_refused_total", "reason" => reason.name()).absolute(self.counted(reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_are_refused_more_often_come_back_later() {
        let refusals = Refusals::default();
        assert_eq!(refusals.retry_after_ms(), 250);
        (0..900).for_each(|_| refusals.count(Reason::Submissions));
        refusals.second(300);
        assert_eq!(refusals.retry_after_ms(), 3_000);
        (0..900).for_each(|_| refusals.count(Reason::Submissions));
        refusals.second(300);
        assert_eq!(refusals.retry_after_ms(), 10_000, "nothing was taken");
        refusals.second(600);
        assert_eq!(refusals.retry_after_ms(), 250, "nobody was refused");
    }

    #[test]
    fn each_reason_has_its_own_counter() {
        let refusals = Refusals::default();
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            refusals.count(reason);
        }
        assert!(Reason::ALL.iter().all(|&reason| refusals.counted(reason) == 1));
    }
}
