//! A node fails: its connections break at once, its shards elect other leaders, its clients go to other nodes.

use super::{Event, Simulation, Step, Thread};
use crate::scale::event::{Ns, s, us};
use rand::Rng;
use serde::Serialize;

/// `raft_tick_ms` of `node/src/config.rs`.
const TICK_S: f64 = 0.1;
/// `election_ticks`: a follower campaigns after so many ticks, up to twice as many.
const ELECTION_TICKS: u32 = 20;

/// What a failure did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Failover {
    /// Shards that lost their leader.
    pub shards: usize,
    /// Nodes that lead them afterwards.
    pub heirs: usize,
    /// From the failure until the new leader serves, ms: half of the shards.
    pub leaderless_p50_ms: f64,
    /// The last of them.
    pub leaderless_max_ms: f64,
    /// Longest time from the failure until one of these shards gave a lease again, ms.
    pub dispatch_gap_ms: f64,
    /// Leases of held jobs that got a new full term.
    pub leases_renewed: f64,
    /// Calls that clients and workers repeated.
    pub repeated: usize,
}

/// Kept while it lasts.
#[derive(Default)]
pub struct State {
    failed_at: Option<Ns>,
    /// By shard: when it was served again, and gave a lease again.
    lost: std::collections::BTreeMap<usize, (Option<Ns>, Option<Ns>)>,
    heirs: std::collections::BTreeSet<usize>,
    repeated: usize,
}

impl State {
    /// A shard gave a lease.
    pub fn leased(&mut self, shard: usize, now: Ns) {
        if let Some((Some(_), leased)) = self.lost.get_mut(&shard) {
            leased.get_or_insert(now);
        }
    }
}

impl Simulation<'_> {
    /// The first node that leads a shard fails.
    pub(super) fn fail(&mut self) {
        let (now, failed) = (self.now(), 0);
        if self.ring.nodes < 2 {
            return;
        }
        self.nodes[failed].alive = false;
        self.failover.failed_at = Some(now);
        for shard in 0..self.shards.len() {
            if self.shards[shard].leader == Some(failed) {
                self.lose_leader(shard, failed);
            }
        }
        // In the order of their numbers: the run must depend on its seed alone.
        for batch in 0..self.batches.len() {
            let job = &self.batches[batch];
            let lost = self.failover.lost.contains_key(&job.shard) || job.gateway == failed;
            if lost && job.step != Step::Ended {
                self.failover.repeated += 1;
                self.again(batch);
            }
        }
    }

    fn lose_leader(&mut self, shard: usize, failed: usize) {
        let state = &mut self.shards[shard];
        (state.leader, state.unpersisted, state.turn) = (None, 0, false);
        state.term += 1;
        state.waiting.clear();
        self.failover.lost.insert(shard, (None, None));
        // The followers last heard of it up to a tick ago; the first whose timeout ends campaigns.
        let heard = self.rng.random::<f64>() * TICK_S;
        let mut first: Option<(Ns, usize)> = None;
        for k in 0..self.ring.copies() {
            let node = self.ring.place(shard, k);
            if node == failed {
                continue;
            }
            let ticks = self.rng.random_range(ELECTION_TICKS..2 * ELECTION_TICKS);
            let at = self.now() + s((f64::from(ticks) * TICK_S - heard).max(0.0));
            first = Some(first.map_or((at, node), |before| before.min((at, node))));
        }
        if let Some((at, node)) = first {
            self.events.at(at, Event::Campaign(shard, node));
        }
    }

    /// Asks whether it would win, is elected, and commits its first entry; then files leases and ready jobs.
    pub(super) fn campaign(&mut self, shard: usize, node: usize) {
        let (costs, load) = (self.plan.costs, self.plan.load);
        let rounds = 3 * 2 * self.latency();
        let synced = 3 * us(costs.sync_us);
        let jobs = (load.running + load.queued) / self.plan.cluster.shards as f64;
        let filed = self.work(node, Thread::Reactor(self.ring.reactor(shard)), jobs * costs.takeover_job_us);
        self.events.at(filed + rounds + synced, Event::Serves(shard, node));
    }

    pub(super) fn serves(&mut self, shard: usize, node: usize) {
        let now = self.now();
        self.shards[shard].leader = Some(node);
        self.failover.heirs.insert(node);
        if let Some((served, _)) = self.failover.lost.get_mut(&shard) {
            *served = Some(now);
        }
        self.hint_soon(node);
        self.turn_soon(shard);
    }

    /// What the failure did; `None` if there was none.
    pub(super) fn failover_report(&self) -> Option<Failover> {
        let failed_at = self.failover.failed_at?;
        let ms = |at: Ns| (at - failed_at) as f64 / 1e6;
        let mut served: Vec<f64> = self.failover.lost.values().filter_map(|(at, _)| at.map(ms)).collect();
        served.sort_by(f64::total_cmp);
        let gap = self.failover.lost.values().filter_map(|(_, at)| at.map(ms)).fold(0.0, f64::max);
        let shards = self.failover.lost.len();
        Some(Failover {
            shards,
            heirs: self.failover.heirs.len(),
            leaderless_p50_ms: served.get(served.len() / 2).copied().unwrap_or(0.0),
            leaderless_max_ms: served.last().copied().unwrap_or(0.0),
            dispatch_gap_ms: gap,
            leases_renewed: self.plan.load.running / self.plan.cluster.shards as f64 * shards as f64,
            repeated: self.failover.repeated,
        })
    }
}
