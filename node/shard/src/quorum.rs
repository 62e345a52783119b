//! How long a leader may be sure that nobody else leads.

use crate::limits::LEASE_PROBES_MAX;
use std::collections::VecDeque;

/// How long a leader may be sure that nobody else leads, from the answers of its quorum.
///
/// A majority that answered a probe will not elect another leader within an election timeout of answering, which was
/// after the probe was sent. So the lease runs from the *sending* of a confirmed probe, for four fifths of the shortest
/// election timeout: the rest allows for clocks of different speed.
///
/// It gates what a leader does about workers (expiring leases, answering heartbeats). It protects no data: a follower
/// that restarts forgets its promise, and a late order to campaign ignores it. The log decides.
///
/// All times are milliseconds of one monotonic clock, given by the owner.
#[derive(Debug)]
pub struct QuorumLease {
    length_ms: u64,
    stall_ms_max: u64,
    /// Probes sent and not confirmed: context and time of sending, oldest first.
    probes: VecDeque<(u64, u64)>,
    until_ms: Option<u64>,
    last_turn_ms: Option<u64>,
    transferring: bool,
}

impl QuorumLease {
    /// A lease for replicas whose shortest election timeout is `election_ms_min`. If more than `stall_ms_max` pass between
    /// two turns, the process was stalled, and the lease is void.
    pub fn new(election_ms_min: u64, stall_ms_max: u64) -> QuorumLease {
        QuorumLease {
            length_ms: election_ms_min / 5 * 4,
            stall_ms_max,
            probes: VecDeque::new(),
            until_ms: None,
            last_turn_ms: None,
            transferring: false,
        }
    }

    /// A turn of the owner's loop begins. Returns whether it came after a stall, which voided the lease.
    pub fn turn(&mut self, now_ms: u64) -> bool {
        let stalled = self.stalled(now_ms);
        if stalled {
            self.void();
        }
        self.last_turn_ms = Some(now_ms);
        stalled
    }

    /// A probe, [`crate::Replica::read_index`] with `context`, is sent. Contexts are never reused.
    pub fn sent(&mut self, context: u64, now_ms: u64) {
        if self.transferring {
            return;
        }
        if self.probes.len() == LEASE_PROBES_MAX {
            self.probes.pop_front();
        }
        self.probes.push_back((context, now_ms));
    }

    /// The quorum answered the probe with `context`. Unknown ones are ignored: they were sent before the lease was void.
    pub fn confirmed(&mut self, context: u64) {
        let Some(position) = self.probes.iter().position(|probe| probe.0 == context) else {
            return;
        };
        let (_, sent_ms) = self.probes[position];
        self.probes.drain(..=position);
        self.until_ms = self.until_ms.max(Some(sent_ms + self.length_ms));
    }

    /// Whether the lease holds at `now_ms`.
    pub fn valid(&self, now_ms: u64) -> bool {
        !self.stalled(now_ms) && self.until_ms.is_some_and(|until_ms| now_ms < until_ms)
    }

    /// The role or term changed: the lease is void, and so are probes under way.
    pub fn reset(&mut self) {
        self.void();
        self.transferring = false;
    }

    /// Follows [`crate::Replica::is_transferring`]. The chosen peer may campaign at any moment, whatever its voters
    /// promised: while it is so the lease is void, and only a probe sent after it brings it back.
    pub fn set_transferring(&mut self, transferring: bool) {
        if transferring {
            self.void();
        }
        self.transferring = transferring;
    }

    fn void(&mut self) {
        self.probes.clear();
        self.until_ms = None;
    }

    fn stalled(&self, now_ms: u64) -> bool {
        self.last_turn_ms.is_some_and(|last_ms| now_ms.saturating_sub(last_ms) > self.stall_ms_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lease of 800 ms, with a stall limit of 500 ms, after a turn at 1000 ms.
    fn lease() -> QuorumLease {
        let mut lease = QuorumLease::new(1000, 500);
        lease.turn(1000);
        lease
    }

    fn turns(lease: &mut QuorumLease, from_ms: u64, to_ms: u64) {
        (from_ms..=to_ms).step_by(100).for_each(|now_ms| assert!(!lease.turn(now_ms)));
    }

    #[test]
    fn runs_from_sending_and_not_from_the_answer() {
        let mut lease = lease();
        assert!(!lease.valid(1000));
        lease.sent(1, 1000);
        turns(&mut lease, 1100, 1700);
        assert!(!lease.valid(1700));
        lease.confirmed(1);
        assert!(lease.valid(1700));
        assert!(lease.valid(1799));
        assert!(!lease.valid(1800));
    }

    #[test]
    fn a_later_answer_counts_for_earlier_probes_and_never_shortens() {
        let mut lease = lease();
        lease.sent(1, 1000);
        lease.sent(2, 1100);
        lease.confirmed(2);
        lease.confirmed(1);
        turns(&mut lease, 1100, 1800);
        assert!(lease.valid(1899));
        assert!(!lease.valid(1900));
    }

    #[test]
    fn a_stall_voids_it_and_probes_under_way() {
        let mut lease = lease();
        lease.sent(1, 1000);
        lease.confirmed(1);
        lease.sent(2, 1000);
        assert!(lease.valid(1500));
        assert!(!lease.valid(1501), "a stall counts before the turn that finds it");
        assert!(lease.turn(1501));
        lease.confirmed(2);
        assert!(!lease.valid(1501));
        lease.sent(3, 1501);
        lease.confirmed(3);
        assert!(lease.valid(1501));
    }

    #[test]
    fn a_change_of_leadership_voids_it() {
        let mut lease = lease();
        lease.sent(1, 1000);
        lease.confirmed(1);
        lease.sent(2, 1000);
        lease.reset();
        lease.confirmed(2);
        assert!(!lease.valid(1000));
    }

    #[test]
    fn void_while_transferring_and_until_a_later_probe() {
        let mut lease = lease();
        lease.sent(1, 1000);
        lease.confirmed(1);
        lease.sent(2, 1000);
        lease.set_transferring(true);
        assert!(!lease.valid(1000));
        lease.sent(3, 1010);
        lease.set_transferring(false);
        lease.confirmed(2);
        lease.confirmed(3);
        assert!(!lease.valid(1010));
        lease.sent(4, 1020);
        lease.confirmed(4);
        assert!(lease.valid(1020));
    }

    #[test]
    fn remembers_a_bounded_number_of_probes() {
        let mut lease = lease();
        (0..=LEASE_PROBES_MAX as u64).for_each(|context| lease.sent(context, 1000));
        lease.confirmed(0);
        assert!(!lease.valid(1000));
        lease.confirmed(1);
        assert!(lease.valid(1000));
    }
}
