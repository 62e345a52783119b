//! Leases that never reached their worker.
//!
//! The answer to a lease request can be lost: with the node that carried it, or with the leader that gave the lease.
//! Nobody runs such a job, and since each new leader grants every lease a full term, it would wait for as long as
//! leaders change. So a worker that has reconnected says which of its requests are settled (answered, or given up for
//! good) and what it holds: a lease that answers a settled request and is not held is nobody's.
//!
//! It does not matter how late such a word arrives: every lease of a request settled by then was held by then or never
//! will be, and a job leased again since answers a later request.

use crate::limits::{SETTLEMENTS_LEASES_MAX, SETTLEMENTS_MAX};
use moso_queue::Machine;
use std::collections::BTreeMap;

/// What a session said.
struct Settlement {
    /// Requests up to this one, counted round, are settled.
    request: u32,
    /// Leases held in this shard, sorted.
    held: Vec<(u64, u32)>,
}

/// Words of sessions, until the next walk over the jobs compares them all at once.
#[derive(Default)]
pub struct Settlements {
    sessions: BTreeMap<u64, Settlement>,
    leases: usize,
}

impl Settlements {
    /// Remembers that the session holds nothing of its requests up to `request` but these leases. `false`: there is no
    /// room, it should say so again.
    pub fn note(&mut self, session: u64, request: u32, held: impl Iterator<Item = (u64, u32)>) -> bool {
        if self.sessions.get(&session).is_some_and(|old| is_after(old.request, request)) {
            return true;
        }
        self.leases -= self.sessions.remove(&session).map_or(0, |old| old.held.len());
        let mut held: Vec<(u64, u32)> = held.collect();
        if self.sessions.len() >= SETTLEMENTS_MAX || self.leases + held.len() > SETTLEMENTS_LEASES_MAX {
            return false;
        }
        held.sort_unstable();
        self.leases += held.len();
        self.sessions.insert(session, Settlement { request, held });
        true
    }

    /// Leases that nobody holds, by session. Forgets all that was said.
    pub fn take_unheld(&mut self, machine: &Machine) -> BTreeMap<u64, Vec<(u64, u32)>> {
        let mut unheld: BTreeMap<u64, Vec<(u64, u32)>> = BTreeMap::new();
        if self.sessions.is_empty() {
            return unheld;
        }
        let Settlements { sessions, .. } = std::mem::take(self);
        for job in machine.jobs().from(0).filter(|j| j.state.is_leased() && !j.reserved) {
            let Some(said) = sessions.get(&job.session).filter(|said| !is_after(job.request, said.request)) else {
                continue;
            };
            let lease = (job.seq, job.attempt);
            if said.held.binary_search(&lease).is_err() {
                unheld.entry(job.session).or_default().push(lease);
            }
        }
        unheld
    }

    /// Estimated bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.sessions.len() * 64 + self.leases * 16
    }
}

/// Whether request `a` was numbered after `b`. Numbers are counted round; a session's live leases answer requests far
/// closer to each other than half the circle.
fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_compared_across_the_end_of_the_circle() {
        assert!(is_after(2, 1) && !is_after(1, 2) && !is_after(1, 1));
        assert!(is_after(3, u32::MAX - 3) && !is_after(u32::MAX - 3, 3));
    }

    #[test]
    fn an_older_word_does_not_replace_a_newer_one() {
        let mut said = Settlements::default();
        assert!(said.note(7, 10, [(1, 1), (2, 1)].into_iter()));
        assert!(said.note(7, 9, [].into_iter()));
        assert_eq!((said.sessions[&7].request, said.leases), (10, 2));
        assert!(said.note(7, 11, [(2, 1)].into_iter()));
        assert_eq!((said.sessions[&7].request, said.leases), (11, 1));
    }

    #[test]
    fn full_means_say_it_again() {
        let mut said = Settlements::default();
        assert!(!said.note(7, 1, (0..=SETTLEMENTS_LEASES_MAX as u64).map(|seq| (seq, 1))));
        assert_eq!((said.sessions.len(), said.leases), (0, 0));
        (0..SETTLEMENTS_MAX as u64).for_each(|session| assert!(said.note(session, 1, [].into_iter())));
        assert!(!said.note(u64::MAX, 1, [].into_iter()));
        assert!(said.note(3, 2, [].into_iter()), "whoever is known is heard");
    }
}
