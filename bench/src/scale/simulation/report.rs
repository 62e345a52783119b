//! What a run measures.

use super::{Plan, Simulation};
use crate::scale::event::Ns;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest time told apart, µs: a minute.
const LONGEST_US: u64 = 60_000_000;

/// Percentiles of a time, ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// 99 of 100 are no slower.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// What a run found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simulated {
    /// Virtual time measured, s.
    pub seconds: f64,
    /// Jobs ended a second of it.
    pub jobs_per_s: f64,
    /// Nodes simulated one by one; the rates are the whole cluster's.
    pub nodes: usize,
    /// Batches submitted, in the whole run.
    pub submitted: usize,
    /// Batches whose end was applied once.
    pub ended_once: usize,
    /// Submission due to acknowledged.
    pub submit_ms: Percentiles,
    /// Submission due to leased jobs with their worker.
    pub dispatch_ms: Percentiles,
    /// Report due to acknowledged.
    pub finish_ms: Percentiles,
    /// Submission due to end acknowledged.
    pub whole_ms: Percentiles,
    /// Job ready to a worker at another node hearing of it: how old hints are.
    pub hint_ms: Percentiles,
    /// Busy part of the busiest reactor of any node.
    pub reactor_used: f64,
    /// Busy part of the API threads of the busiest node.
    pub api_used: f64,
    /// Busy part of the busiest log writer: its CPU.
    pub log_used: f64,
    /// Busy part of the shared cores, where there are any.
    pub cores_used: f64,
    /// Writes of the busiest log writer a second.
    pub syncs_per_s: f64,
    /// Commands of an entry, in the mean.
    pub commands_per_entry: f64,
    /// What the failure of a node did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
    /// Events simulated.
    pub events: u64,
}

use super::Failover;

/// Busy time of each thread when measuring began or ended.
#[derive(Clone, Default)]
struct Busy {
    reactors: Vec<Ns>,
    api: Vec<Ns>,
    log: Vec<Ns>,
    cores: Ns,
    writes: Vec<u64>,
}

/// Measured so far.
pub struct Measured {
    /// Submit, dispatch, finish, whole, hint.
    times: [Histogram<u64>; 5],
    ended: u64,
    entries: u64,
    commands: u64,
    begun: Option<Busy>,
    over: Option<Busy>,
}

impl Measured {
    /// Nothing yet.
    pub fn new() -> Self {
        let histogram = |_| Histogram::new_with_bounds(1, LONGEST_US, 3).expect("1 µs to a minute is a valid range");
        Measured { times: [0; 5].map(histogram), ended: 0, entries: 0, commands: 0, begun: None, over: None }
    }

    /// A step that was due at one time and over at another; counted if it was due while measuring.
    pub fn step(&mut self, step: usize, due: Ns, now: Ns, plan: &Plan<'_>) {
        if (plan.warmup..plan.warmup + plan.measure).contains(&due) {
            self.times[step].saturating_record(((now - due) / 1_000).max(1));
        }
    }

    /// A worker has heard of ready jobs.
    pub fn hinted(&mut self, ready: Ns, now: Ns, plan: &Plan<'_>) {
        self.step(4, ready, now, plan);
    }

    /// A batch has ended.
    pub fn ended(&mut self, now: Ns, plan: &Plan<'_>) {
        if (plan.warmup..plan.warmup + plan.measure).contains(&now) {
            self.ended += 1;
        }
    }

    /// An entry with so many commands was proposed.
    pub fn entry(&mut self, commands: usize) {
        self.entries += 1;
        self.commands += commands as u64;
    }

    fn percentiles(&self, step: usize) -> Percentiles {
        let histogram = &self.times[step];
        let ms = |us: u64| us as f64 / 1e3;
        Percentiles {
            p50: ms(histogram.value_at_quantile(0.5)),
            p99: ms(histogram.value_at_quantile(0.99)),
            max: ms(histogram.max()),
        }
    }
}

impl Simulation<'_> {
    /// Notes the threads' busy time when measuring begins and ends.
    pub(super) fn mark_time(&mut self) {
        let now = self.now();
        if self.measured.begun.is_none() && now >= self.plan.warmup {
            self.measured.begun = Some(self.busy());
        }
        if self.measured.over.is_none() && now >= self.end() {
            self.measured.over = Some(self.busy());
        }
    }

    fn busy(&self) -> Busy {
        Busy {
            reactors: self.nodes.iter().flat_map(|node| node.reactors.iter().map(|r| r.busy())).collect(),
            api: self.nodes.iter().map(|node| node.api.busy()).collect(),
            log: self.nodes.iter().map(|node| node.log.busy()).collect(),
            cores: self.cores.as_ref().map_or(0, |cores| cores.busy()),
            writes: self.nodes.iter().map(|node| node.log.writes).collect(),
        }
    }

    /// What the run found.
    pub(super) fn report(&self) -> Simulated {
        let seconds = self.plan.measure as f64 / 1e9;
        let over = self.measured.over.clone().unwrap_or_else(|| self.busy());
        let begun = self.measured.begun.clone().unwrap_or_default();
        let most = |over: &[u64], begun: &[u64]| {
            let before = begun.iter().copied().chain(std::iter::repeat(0));
            over.iter().zip(before).map(|(now, before)| now - before).max().unwrap_or(0) as f64 / seconds
        };
        let machine = &self.plan.cluster.machine;
        Simulated {
            seconds,
            jobs_per_s: self.measured.ended as f64 * self.plan.load.batch / self.part / seconds,
            nodes: self.nodes.len(),
            submitted: self.batches.len(),
            ended_once: self.batches.iter().filter(|batch| batch.ends == 1).count(),
            submit_ms: self.measured.percentiles(0),
            dispatch_ms: self.measured.percentiles(1),
            finish_ms: self.measured.percentiles(2),
            whole_ms: self.measured.percentiles(3),
            hint_ms: self.measured.percentiles(4),
            reactor_used: most(&over.reactors, &begun.reactors) / 1e9,
            api_used: most(&over.api, &begun.api) / 1e9 / machine.api_threads() as f64,
            log_used: most(&over.log, &begun.log) / 1e9,
            cores_used: (over.cores - begun.cores) as f64 / 1e9 / seconds / machine.cores as f64,
            syncs_per_s: most(&over.writes, &begun.writes),
            commands_per_entry: self.measured.commands as f64 / self.measured.entries.max(1) as f64,
            failover: self.failover_report(),
            events: self.events.count(),
        }
    }
}
