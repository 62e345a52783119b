//! What a node does beside jobs: hints to all other nodes, the use of resources, heartbeats of held jobs, Raft's ticks.

use super::{Event, Plan, Simulation, Thread};
use crate::scale::event::{Ns, s};
use crate::scale::model::{HINT_INTERVAL_S, Model, USAGE_PER_S};

/// How often the work of upkeep is charged, ns.
pub const EVERY: Ns = 2_000_000;

/// A node's hints.
#[derive(Default)]
pub struct Hints {
    /// Batches that no worker elsewhere has heard of.
    pub unheard: Vec<(usize, u32)>,
    last: Ns,
    summed: Option<Ns>,
    scheduled: bool,
    /// Sent so far by this node, and by all when this one last looked.
    pub sent: u64,
    seen: u64,
}

/// Work that does not depend on jobs in flight, µs.
pub struct Background {
    /// A node's API threads, in each period: heartbeats of workers, idle traffic of Raft.
    api_us: f64,
    /// Each reactor of each node, in each period.
    reactor_us: Vec<Vec<f64>>,
    /// A hint: made, and read by a receiver.
    hint_us: f64,
    /// The use of resources of all nodes: summed.
    usage_us: f64,
    /// A lease request's look over the hints.
    pub look_us: f64,
}

impl Background {
    /// By the model's formulas.
    pub fn new(model: &Model<'_>, plan: &Plan<'_>) -> Self {
        let periods = 1e9 / EVERY as f64;
        let idle = model.idle();
        let reactors = |node: Vec<f64>| node.into_iter().map(|us| us / periods).collect();
        let upkeep = plan.cluster.nodes > 1;
        Background {
            api_us: idle.api_us_per_s / periods,
            // Of a larger cluster, the first nodes: no others hold more.
            reactor_us: idle.reactor_us_per_s.into_iter().map(reactors).collect(),
            hint_us: idle.hint_us,
            usage_us: if upkeep { idle.usage_us } else { 0.0 },
            look_us: idle.look_us,
        }
    }
}

impl Simulation<'_> {
    /// Hints are sent at once, but not sooner than the last ones allow.
    pub(super) fn hint_soon(&mut self, node: usize) {
        let at = self.now().max(self.nodes[node].hints.last + s(self.plan.load.hint_spacing_s));
        let hints = &mut self.nodes[node].hints;
        if self.plan.cluster.nodes > 1 && !std::mem::replace(&mut hints.scheduled, true) {
            self.events.at(at, Event::Hint(node));
        }
    }

    /// One task makes them and sums the use of resources; then a frame goes to every other node.
    pub(super) fn hint(&mut self, node: usize) {
        if !self.nodes[node].alive {
            return;
        }
        let now = self.now();
        let hints = &self.nodes[node].hints;
        let due = hints.summed.is_none_or(|at| now >= at + s(1.0 / USAGE_PER_S));
        let usage = if due { self.background.usage_us } else { 0.0 };
        let made = self.work(node, Thread::Api, self.background.hint_us + usage);
        // The frames are written by all threads.
        let others = self.receivers();
        let frames = others * self.plan.costs.frame_us / 2.0;
        let sent = made.max(self.spread(node, frames));
        let side = self.plan.costs.frame_us / 2.0 + self.background.hint_us;
        let heard = sent + self.latency() + s(side / 1e6);
        let hints = &mut self.nodes[node].hints;
        hints.summed = if due { Some(now) } else { hints.summed };
        (hints.last, hints.scheduled) = (made, false);
        hints.sent += 1;
        self.hints_sent += 1;
        for (batch, tag) in std::mem::take(&mut self.nodes[node].hints.unheard) {
            self.events.at(heard, Event::Look(batch, tag));
        }
    }

    /// Nodes to which a node sends its hints.
    fn receivers(&self) -> f64 {
        self.plan.cluster.others().min(self.plan.load.hint_receivers)
    }

    /// Work that all API threads share; returns when it is done.
    fn spread(&mut self, node: usize, cost_us: f64) -> Ns {
        let threads = self.nodes[node].api.count();
        (0..threads).map(|_| self.work(node, Thread::Api, cost_us / threads as f64)).max().unwrap_or(0)
    }

    pub(super) fn upkeep(&mut self, node: usize) {
        if !self.nodes[node].alive || (self.now() >= self.end() && self.under_way == 0) {
            return;
        }
        let now = self.now();
        // Those of nodes that are not simulated are as many for each that is.
        let each = self.receivers() / self.ring.others().max(1.0);
        let hints = &mut self.nodes[node].hints;
        let received = (self.hints_sent - hints.seen - hints.sent) as f64 * each;
        hints.seen = self.hints_sent - hints.sent;
        let last = hints.last;
        let silent = now >= last + s(self.plan.load.hint_spacing_s + HINT_INTERVAL_S);
        let side = self.plan.costs.frame_us / 2.0 + self.background.hint_us;
        self.spread(node, self.background.api_us + received * side);
        for reactor in 0..self.background.reactor_us[node].len() {
            let cost = self.background.reactor_us[node][reactor];
            self.work(node, Thread::Reactor(reactor), cost);
        }
        if silent {
            self.hint_soon(node);
        }
        self.events.at(now + EVERY, Event::Upkeep(node));
    }
}
