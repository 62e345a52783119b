//! The leader's view of its shard's leases: when each was last heard of, and which have run out.
//!
//! Heartbeats are never logged. A new leader gives every lease a full term from its start. A lease is looked at when
//! its earliest possible end comes, or sooner if that is far, and filed again if heartbeats came meanwhile; so a million
//! leases cost a few thousand looks a second, and a heartbeat costs one store.
//!
//! All times are milliseconds of the leader's monotonic clock.

use crate::limits::{EXPIRIES_PER_SECOND_MIN, EXPIRY_SESSIONS_MIN, EXPIRY_WINDOW_MS, LEASE_BUCKET_MS, LEASE_LOOK_MS};
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

/// A lease that has run out: job and attempt.
struct Silent {
    lease: (u64, u32),
    session: u64,
    ttl_ms: u64,
}

/// Leases by the time at which they are to be looked at.
pub struct LeaseTable {
    /// Job and attempt.
    buckets: BTreeMap<u64, Vec<(u64, u32)>>,
    /// (time, session) of recent expiries, for the breaker.
    recent: VecDeque<(u64, u64)>,
    /// Until when the breaker holds expiry back.
    held_until_ms: u64,
    /// Sessions that were held back, and until when: they get one more lease time, and not another.
    held: BTreeMap<u64, u64>,
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
            held: BTreeMap::new(),
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
                leases.push((job.seq, job.attempt, job.beat_ms + ttl + policy.grace_ms));
            }
        });
        // In order of number: the walk above is in the order of slots, which differs between replicas.
        leases.sort_unstable();
        leases.into_iter().for_each(|(seq, attempt, due)| table.file((seq, attempt), due, now_ms));
        table
    }

    /// Files a lease that ends at `due_ms` at the earliest.
    fn file(&mut self, lease: (u64, u32), due_ms: u64, now_ms: u64) {
        let look_ms = due_ms.min(now_ms + LEASE_LOOK_MS);
        self.buckets.entry(look_ms / LEASE_BUCKET_MS + 1).or_default().push(lease);
    }

    /// A lease was given.
    pub fn leased(&mut self, machine: &mut Machine, seq: u64, now_ms: u64, policy: ExpiryPolicy) {
        if let Some(job) = machine.jobs_volatile().get_mut(seq).filter(|j| j.state.is_leased()) {
            job.beat_ms = now_ms;
            let due = now_ms + u64::from(job.ttl_ms) + policy.grace_ms;
            self.file((seq, job.attempt), due, now_ms);
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
            for (seq, attempt) in bucket.remove() {
                // A lease given meanwhile was filed by itself.
                let Some(job) = machine.job(seq).filter(|j| j.state.is_leased() && j.attempt == attempt) else {
                    continue;
                };
                let (session, ttl_ms) = (job.session, u64::from(job.ttl_ms));
                let due = job.beat_ms + ttl_ms + policy.grace_ms;
                if due > now_ms {
                    // Heard of since it was held back: no longer silent.
                    if self.held.get(&session).is_some_and(|until| job.beat_ms + ttl_ms > *until) {
                        self.held.remove(&session);
                    }
                    again.push(((seq, attempt), due));
                } else {
                    silent.push(Silent { lease: (seq, attempt), session, ttl_ms });
                }
            }
        }
        again.into_iter().for_each(|(lease, due)| self.file(lease, due, now_ms));
        let silent = self.hold_back(machine, silent, now_ms, policy);
        self.limit(silent, now_ms)
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

    /// Applies the breaker; what it holds back is filed again. While it holds, and for whoever is silent then, each
    /// session gets one more lease time, and only one: workers that are dead are found out then.
    fn hold_back(&mut self, machine: &Machine, silent: Vec<Silent>, now_ms: u64, policy: ExpiryPolicy) -> Vec<Silent> {
        let waited = |lease: &Silent| self.held.get(&lease.session).is_some_and(|until| *until <= now_ms);
        let (mut passing, fresh): (Vec<Silent>, Vec<Silent>) = silent.into_iter().partition(waited);
        if now_ms >= self.held_until_ms && self.trips(machine, &fresh, now_ms, policy) {
            // So many workers at once: the network is ill, not the workers.
            self.held_until_ms = now_ms + fresh.iter().map(|lease| lease.ttl_ms).max().unwrap_or(0);
            self.held.retain(|_, until| *until + EXPIRY_WINDOW_MS > now_ms);
            self.recent.clear();
            self.breaks += 1;
        }
        if now_ms >= self.held_until_ms {
            passing.extend(fresh);
            return passing;
        }
        for Silent { lease, session, ttl_ms } in fresh {
            let until = *self.held.entry(session).or_insert(now_ms + ttl_ms);
            self.file(lease, until, now_ms);
        }
        passing
    }

    /// Whether too many sessions have fallen silent within the window.
    fn trips(&mut self, machine: &Machine, fresh: &[Silent], now_ms: u64, policy: ExpiryPolicy) -> bool {
        while self.recent.front().is_some_and(|(time, _)| time + EXPIRY_WINDOW_MS < now_ms) {
            self.recent.pop_front();
        }
        let recent = self.recent.iter().map(|(_, session)| *session);
        let gone = fresh.iter().map(|lease| lease.session).chain(recent).collect::<BTreeSet<u64>>().len() as u64;
        !fresh.is_empty()
            && gone >= EXPIRY_SESSIONS_MIN
            && gone * 100 > machine.sessions() as u64 * policy.breaker_percent
    }

    /// Applies the rate limit; what is beyond it is filed again.
    fn limit(&mut self, mut silent: Vec<Silent>, now_ms: u64) -> Vec<(u64, u32)> {
        let allowed = (self.budget as usize).min(silent.len());
        self.budget -= allowed as u64;
        for late in silent.drain(allowed..) {
            self.file(late.lease, now_ms, now_ms);
        }
        for lease in &silent {
            let counted = self.held.contains_key(&lease.session)
                || self.recent.back().is_some_and(|(_, last)| *last == lease.session);
            if !counted {
                self.recent.push_back((now_ms, lease.session));
            }
        }
        silent.into_iter().map(|expired| expired.lease).collect()
    }

    /// Estimated bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.buckets.values().map(|b| b.capacity() * 16 + 64).sum::<usize>() + self.held.len() * 24
    }
}
