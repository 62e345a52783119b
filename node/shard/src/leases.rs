//! The leader's view of its shard's leases: when each was last heard of, and which have run out.
//!
//! Heartbeats are never logged. A new leader gives every lease a full term from its start. A lease is looked at when
//! its earliest possible end comes, and filed again if heartbeats came meanwhile; so a million leases cost a few
//! thousand looks a second, and a heartbeat costs one store.
//!
//! All times are milliseconds of the leader's monotonic clock.

use crate::limits::{EXPIRIES_PER_SECOND_MIN, EXPIRY_SESSIONS_MIN, EXPIRY_WINDOW_MS, LEASE_BUCKET_MS};
use moso_queue::Machine;
use moso_queue::task::mix;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What happens to leases that have run out.
#[derive(Clone, Copy, Debug)]
pub struct ExpiryPolicy {
    /// Waited beyond the lease time.
    pub grace_ms: u64,
    /// More sessions than this part of all falling silent within ten seconds hold expiry back.
    pub breaker_percent: u64,
}

/// Leases by the time at which they are to be looked at.
pub struct LeaseTable {
    buckets: BTreeMap<u64, Vec<u64>>,
    /// (time, session) of recent expiries, for the breaker.
    recent: VecDeque<(u64, u64)>,
    held_until_ms: u64,
    budget: u64,
    budget_ms: u64,
    /// Times that the breaker held expiry back.
    pub breaks: u64,
}

impl LeaseTable {
    /// Files all leases of the machine anew: each lives a full term from now, plus up to a quarter, so that they do
    /// not all end at once.
    pub fn new(machine: &mut Machine, now_ms: u64, policy: ExpiryPolicy) -> Self {
        let mut table = LeaseTable {
            buckets: BTreeMap::new(),
            recent: VecDeque::new(),
            held_until_ms: 0,
            budget: 0,
            budget_ms: now_ms,
            breaks: 0,
        };
        let mut leases = Vec::new();
        machine.jobs_volatile().for_each_volatile(|job| {
            job.reserved = false;
            job.phase = 0;
            if job.state.is_leased() {
                let ttl = u64::from(job.ttl_ms);
                job.beat_ms = now_ms + mix(job.seq) % (ttl / 4).max(1);
                leases.push((job.seq, job.beat_ms + ttl + policy.grace_ms));
            }
        });
        // In order of number: the walk above is in the order of slots, which differs between replicas.
        leases.sort_unstable();
        leases.into_iter().for_each(|(seq, due)| table.file(seq, due));
        table
    }

    fn file(&mut self, seq: u64, due_ms: u64) {
        self.buckets.entry(due_ms / LEASE_BUCKET_MS + 1).or_default().push(seq);
    }

    /// A lease was given.
    pub fn leased(&mut self, machine: &mut Machine, seq: u64, now_ms: u64, policy: ExpiryPolicy) {
        if let Some(job) = machine.jobs_volatile().get_mut(seq).filter(|j| j.state.is_leased()) {
            job.beat_ms = now_ms;
            let due = now_ms + u64::from(job.ttl_ms) + policy.grace_ms;
            self.file(seq, due);
        }
    }

    /// The process stood still for so long: workers could not be heard, so nobody is silent because of it.
    pub fn stalled(&mut self, machine: &mut Machine, gap_ms: u64) {
        machine.jobs_volatile().for_each_volatile(|job| {
            if job.state.is_leased() {
                job.beat_ms += gap_ms;
            }
        });
    }

    /// Leases that have run out at `now_ms`, with their attempts. The caller proposes their expiry, and calls this only
    /// while it is sure to lead.
    pub fn expired(&mut self, machine: &Machine, now_ms: u64, policy: ExpiryPolicy) -> Vec<(u64, u32)> {
        self.refill(machine, now_ms);
        let mut silent = Vec::new();
        let mut again = Vec::new();
        while let Some(bucket) = self.buckets.first_entry().filter(|b| *b.key() * LEASE_BUCKET_MS <= now_ms) {
            for seq in bucket.remove() {
                let Some(job) = machine.job(seq).filter(|j| j.state.is_leased()) else {
                    continue;
                };
                let due = job.beat_ms + u64::from(job.ttl_ms) + policy.grace_ms;
                if due > now_ms {
                    again.push((seq, due));
                } else {
                    silent.push((seq, job.attempt, job.session, u64::from(job.ttl_ms)));
                }
            }
        }
        let silent = self.hold_back(machine, silent, now_ms, policy, &mut again);
        again.into_iter().for_each(|(seq, due)| self.file(seq, due));
        silent
    }

    /// Expiries allowed now: 100 a second or 2 % of the leases a second, saved up for at most a second.
    fn refill(&mut self, machine: &Machine, now_ms: u64) {
        let leased: u64 = machine.classes().iter().map(|(_, class)| class.leased()).sum();
        let per_second = EXPIRIES_PER_SECOND_MIN.max(leased / 50);
        let passed = now_ms.saturating_sub(self.budget_ms).min(1_000);
        self.budget = (self.budget + per_second * passed / 1_000).min(per_second);
        if per_second * passed >= 1_000 {
            self.budget_ms = now_ms;
        }
    }

    /// Applies breaker and rate limit; what is held back is filed again.
    fn hold_back(
        &mut self,
        machine: &Machine,
        silent: Vec<(u64, u32, u64, u64)>,
        now_ms: u64,
        policy: ExpiryPolicy,
        again: &mut Vec<(u64, u64)>,
    ) -> Vec<(u64, u32)> {
        if silent.is_empty() {
            return Vec::new();
        }
        while self.recent.front().is_some_and(|(time, _)| time + EXPIRY_WINDOW_MS < now_ms) {
            self.recent.pop_front();
        }
        if now_ms >= self.held_until_ms {
            let sessions: BTreeSet<u64> =
                silent.iter().map(|(_, _, session, _)| *session).chain(self.recent.iter().map(|(_, s)| *s)).collect();
            let gone = sessions.len() as u64;
            if gone >= EXPIRY_SESSIONS_MIN && gone * 100 > machine.sessions() as u64 * policy.breaker_percent {
                // So many workers at once: the network is ill, not the workers. Give them one more lease time.
                let ttl = silent.iter().map(|(_, _, _, ttl)| *ttl).max().unwrap_or(0);
                self.held_until_ms = now_ms + ttl;
                self.recent.clear();
                self.breaks += 1;
                again.extend(silent.into_iter().map(|(seq, _, _, ttl)| (seq, now_ms + ttl)));
                return Vec::new();
            }
        }
        let allowed = (self.budget as usize).min(silent.len());
        self.budget -= allowed as u64;
        let mut out = Vec::with_capacity(allowed);
        for (at, (seq, attempt, session, _)) in silent.into_iter().enumerate() {
            if at < allowed {
                if self.recent.back().is_none_or(|(_, last)| *last != session) {
                    self.recent.push_back((now_ms, session));
                }
                out.push((seq, attempt));
            } else {
                again.push((seq, now_ms));
            }
        }
        out
    }

    /// Estimated bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.buckets.values().map(|b| b.capacity() * 8 + 64).sum()
    }
}
