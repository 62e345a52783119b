//! What a seed does: the size of the cluster, the speed of everything, and which faults happen how often.
//!
//! Each seed draws its own mix (swarm testing): a run with few kinds of fault, but strong ones, reaches states that a
//! run with all of them at once does not.

use super::faults::FaultKind;
use moso_proto::JobState;
use moso_proto::object::{Timeout, TimeoutAction, TimeoutSince, Timeouts};
use moso_shard::core::Policy;
use moso_shard::leases::ExpiryPolicy;
use moso_shard::timeouts::TimeoutTable;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use std::sync::Arc;

/// A range of durations in ms, both ends included.
pub type Span = (u64, u64);

/// How messages travel.
#[derive(Clone, Debug)]
pub struct NetworkPlan {
    /// Delay of most messages.
    pub delay_ms: Span,
    /// Part of messages that take twenty times as long.
    pub slow: f64,
    /// Part of messages lost.
    pub loss: f64,
    /// Part of messages delivered twice.
    pub duplicates: f64,
    /// Messages of one link stay in order.
    pub ordered: bool,
}

/// How copies of states travel.
#[derive(Clone, Debug)]
pub struct CopyPlan {
    /// From the checkpoint to the whole copy.
    pub ms: Span,
    /// Part of copies lost.
    pub lost: f64,
    /// Part of copies cut off in the middle.
    pub cut: f64,
    /// Part of copies that come a second time.
    pub twice: f64,
    /// Part of copies around which a node crashes: the follower while it takes one over, the leader that hears of it.
    pub crash: f64,
}

/// How the clients behave.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    /// Submitters.
    pub submitters: usize,
    /// Workers.
    pub workers: usize,
    /// Operators.
    pub operators: usize,
    /// Pause of a submitter between steps.
    pub think_ms: Span,
    /// Tasks that one submitter makes at most.
    pub tasks_max: usize,
    /// Most jobs of a task written out one by one.
    pub jobs_max: usize,
    /// Most jobs of an array.
    pub array_max: u32,
    /// Run time of a job.
    pub run_ms: Span,
    /// Lease time.
    pub ttl_ms: u32,
    /// Jobs that a worker holds at most.
    pub room: usize,
    /// A worker goes silent once in so many steps; 0: never.
    pub deaths: u32,
    /// Part of results that are failures, returns and the like.
    pub failures: f64,
    /// Part of calls that clients repeat though they were answered, or send twice at once.
    pub repeats: f64,
    /// Results for jobs of others, once in so many steps; 0: never.
    pub forgeries: u32,
    /// Bursts of large submissions, more than a shard will gather.
    pub floods: bool,
}

/// What a seed does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes: 1 to 5.
    pub nodes: usize,
    /// Replicas with which each shard is made: 1, 3 or 5.
    pub replicas: usize,
    /// Shards.
    pub shards: u16,
    /// From a change of what members a shard should have to the next; `None`: they stay.
    pub wish_ms: Option<Span>,
    /// From such a change to a node's knowledge of it.
    pub meta_ms: Span,
    /// Length of the phase with faults.
    pub faulty_ms: u64,
    /// Raft's tick.
    pub tick_ms: u64,
    /// Ticks of an election timeout.
    pub election_ticks: u32,
    /// Ticks between heartbeats of a leader.
    pub heartbeat_ticks: u32,
    /// From a reason to run to the reactor's run.
    pub reaction_ms: Span,
    /// One write with its sync.
    pub sync_ms: Span,
    /// The state is written once in so many turns.
    pub write_every: u32,
    /// From a flush of the state to the next.
    pub flush_ms: Span,
    /// Entries kept in the log beyond what all replicas have.
    pub keep_entries: u64,
    /// Entries of the log that a laggard may hold up.
    pub pin_entries: u64,
    /// Copies of states.
    pub copies: CopyPlan,
    /// Bytes of recent entries a replica keeps in memory.
    pub cache_bytes: usize,
    /// Bytes of entries in one append.
    pub append_bytes: usize,
    /// Unanswered appends per peer.
    pub appends: usize,
    /// Bytes of committed entries handed out at a time.
    pub committed_bytes: usize,
    /// Drift of monotonic clocks, parts per million either way.
    pub drift_ppm: i64,
    /// Messages.
    pub network: NetworkPlan,
    /// Clients.
    pub clients: ClientPlan,
    /// Kinds of faults that happen.
    pub faults: Vec<FaultKind>,
    /// From a fault to the next.
    pub fault_ms: Span,
    /// Waited beyond the lease time.
    pub grace_ms: u64,
    /// Of the expiry breaker.
    pub breaker_percent: u64,
    /// Time-outs of states, in s: sent, activated.
    pub timeouts_s: Option<(u64, u64)>,
}

impl Plan {
    /// Draws a plan.
    pub fn draw(rng: &mut SmallRng) -> Plan {
        let sizes = [(1, 1), (3, 3), (3, 3), (3, 3), (3, 3), (3, 1), (4, 3), (4, 3), (5, 3), (5, 5)];
        let (nodes, replicas) = *sizes.choose(rng).expect("not empty");
        let faults: Vec<FaultKind> = FaultKind::ALL.into_iter().filter(|_| rng.random_bool(0.4)).collect();
        let slowest = *[1_500, 4_000, 12_000].choose(rng).expect("not empty");
        Plan {
            nodes,
            replicas,
            wish_ms: *[None, None, Some((500, 6_000)), Some((2_000, 20_000))].choose(rng).expect("not empty"),
            meta_ms: *[(0, 100), (0, 1_500), (100, 8_000)].choose(rng).expect("not empty"),
            shards: *[1, 1, 2, 2, 3].choose(rng).expect("not empty"),
            faulty_ms: rng.random_range(20_000..=70_000),
            tick_ms: 100,
            election_ticks: rng.random_range(10..=20),
            heartbeat_ticks: rng.random_range(2..=5),
            reaction_ms: (0, *[0, 1, 5].choose(rng).expect("not empty")),
            sync_ms: *[(0, 1), (1, 5), (2, 60)].choose(rng).expect("not empty"),
            write_every: *[1, 4, 50].choose(rng).expect("not empty"),
            flush_ms: *[(200, 1_000), (500, 3_000), (3_000, 15_000)].choose(rng).expect("not empty"),
            keep_entries: *[0, 0, 0, 8, 64].choose(rng).expect("not empty"),
            pin_entries: *[0, 0, 8, 60, u64::MAX].choose(rng).expect("not empty"),
            copies: CopyPlan::draw(rng),
            cache_bytes: *[0, 4 << 10, 1 << 20].choose(rng).expect("not empty"),
            append_bytes: *[1, 2 << 10, 512 << 10].choose(rng).expect("not empty"),
            appends: *[1, 4, 64].choose(rng).expect("not empty"),
            committed_bytes: *[1, 4 << 10, 2 << 20].choose(rng).expect("not empty"),
            drift_ppm: *[0, 1_000, 50_000].choose(rng).expect("not empty"),
            network: NetworkPlan::draw(rng),
            clients: ClientPlan::draw(rng),
            faults,
            fault_ms: (300, slowest),
            grace_ms: rng.random_range(500..=3_000),
            breaker_percent: *[20, 50, 100].choose(rng).expect("not empty"),
            timeouts_s: rng.random_bool(0.3).then(|| (rng.random_range(5..=30), rng.random_range(20..=60))),
        }
    }

    /// Shortest time without a leader before a replica campaigns.
    pub fn election_ms(&self) -> u64 {
        u64::from(self.election_ticks) * self.tick_ms
    }

    /// The policy of all replicas.
    pub fn policy(&self) -> Policy {
        let row = |state, limit_s, action, code| Timeout {
            state,
            label: String::new(),
            queue: String::new(),
            limit_s,
            since: TimeoutSince::Change,
            action,
            code,
        };
        let rows = self.timeouts_s.map_or_else(Vec::new, |(sent, activated)| {
            vec![
                row(JobState::Sent, sent, TimeoutAction::Fail, 102),
                row(JobState::Activated, activated, TimeoutAction::Close, 51),
            ]
        });
        Policy {
            expiry: ExpiryPolicy { grace_ms: self.grace_ms, breaker_percent: self.breaker_percent },
            timeouts: Arc::new(TimeoutTable::new(&Timeouts { rows }, |_| None)),
        }
    }
}

impl NetworkPlan {
    fn draw(rng: &mut SmallRng) -> NetworkPlan {
        NetworkPlan {
            delay_ms: *[(0, 1), (0, 3), (1, 20), (5, 80)].choose(rng).expect("not empty"),
            slow: *[0.0, 0.01, 0.05].choose(rng).expect("not empty"),
            loss: *[0.0, 0.0, 0.01, 0.1, 0.3].choose(rng).expect("not empty"),
            duplicates: *[0.0, 0.02, 0.2].choose(rng).expect("not empty"),
            ordered: rng.random_bool(0.4),
        }
    }
}

impl CopyPlan {
    fn draw(rng: &mut SmallRng) -> CopyPlan {
        CopyPlan {
            ms: *[(1, 50), (50, 1_000), (500, 10_000)].choose(rng).expect("not empty"),
            lost: *[0.0, 0.1, 0.4].choose(rng).expect("not empty"),
            cut: *[0.0, 0.1, 0.4].choose(rng).expect("not empty"),
            twice: *[0.0, 0.3].choose(rng).expect("not empty"),
            crash: *[0.0, 0.1, 0.4].choose(rng).expect("not empty"),
        }
    }
}

impl ClientPlan {
    fn draw(rng: &mut SmallRng) -> ClientPlan {
        let crowd = rng.random_bool(0.2);
        let floods = rng.random_bool(0.05);
        ClientPlan {
            submitters: rng.random_range(1..=3),
            workers: if crowd { rng.random_range(11..=16) } else { rng.random_range(2..=6) },
            // While a shard is full, jobs are held and released.
            operators: if floods { 4 } else { usize::from(rng.random_bool(0.7)) },
            think_ms: *[(50, 800), (300, 3_000)].choose(rng).expect("not empty"),
            tasks_max: rng.random_range(10..=60),
            jobs_max: *[1, 4, 12].choose(rng).expect("not empty"),
            array_max: *[4, 30, 200].choose(rng).expect("not empty"),
            run_ms: *[(50, 500), (500, 5_000), (3_000, 15_000)].choose(rng).expect("not empty"),
            ttl_ms: *[3_000, 6_000, 15_000].choose(rng).expect("not empty"),
            room: rng.random_range(1..=12),
            deaths: *[0, 20, 60, 200].choose(rng).expect("not empty"),
            failures: *[0.0, 0.1, 0.4].choose(rng).expect("not empty"),
            repeats: *[0.0, 0.1, 0.3].choose(rng).expect("not empty"),
            forgeries: *[0, 10, 40].choose(rng).expect("not empty"),
            floods,
        }
    }
}
