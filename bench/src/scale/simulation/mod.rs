//! A discrete-event simulation of a cluster: the same costs as the model, with queues, batches that form by themselves,
//! hints that are late, and a node that fails. Virtual time, one thread, repeatable from its seed.
//!
//! Up to [`NODES_MAX`] nodes are simulated with all their shards. Of a larger cluster a ring of so many nodes is: each
//! with as many shards, jobs, calls, heartbeats and hints from all the other nodes as in the whole cluster. What does not belong to a job
//! in flight (heartbeats of the held jobs, Raft's ticks and heartbeats, hints received) is charged to each node every
//! 2 ms as one piece of work per thread.
//!
//! A batch of jobs is submitted at the leader of its shard, becomes ready, is leased by a worker that waits at a node
//! drawn at random, and is reported at once: the time that jobs run takes nothing from a cluster but their heartbeats,
//! which are charged for all the jobs held. A worker at another node than the leader's hears of the jobs by a hint.

mod failover;
mod flow;
mod raft;
mod report;
mod upkeep;

pub use failover::Failover;
pub use report::{Percentiles, Simulated};

use super::cluster::{Cluster, Load};
use super::costs::Costs;
use super::event::{Events, Ns, Servers, us};
use super::model::Model;
use raft::{Entry, Log};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::VecDeque;

/// Nodes that are simulated one by one.
pub const NODES_MAX: usize = 64;

/// How jobs come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Drive {
    /// So many jobs a second, whatever the cluster does (Poisson).
    Open(f64),
    /// So many batches under way; each is followed by the next.
    Closed(usize),
}

/// One run.
pub struct Plan<'a> {
    /// Cluster.
    pub cluster: &'a Cluster,
    /// Load.
    pub load: &'a Load,
    /// Costs.
    pub costs: &'a Costs,
    /// How jobs come.
    pub drive: Drive,
    /// Of everything that is drawn.
    pub seed: u64,
    /// Before measuring, ns.
    pub warmup: Ns,
    /// Measured, ns. Afterwards no jobs come, and the run ends when the last has ended.
    pub measure: Ns,
    /// When a node fails, ns.
    pub fail_at: Option<Ns>,
}

/// Where a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Submit,
    Lease,
    Finish,
    Ended,
}

/// Jobs that go together.
struct Batch {
    shard: usize,
    /// The node that its present call is at.
    gateway: usize,
    step: Step,
    /// Number of the present try of the present step: what belongs to an earlier one is ignored.
    tag: u32,
    /// When the submission, and the present step, were due.
    due: Ns,
    step_due: Ns,
    /// When it became ready.
    ready: Ns,
    submit_answered: bool,
    /// Times that its end was applied.
    ends: u32,
}

#[derive(Default)]
struct Shard {
    leader: Option<usize>,
    term: u32,
    /// Commands gathered: batch and tag.
    waiting: VecDeque<(usize, u32)>,
    unpersisted: usize,
    /// A turn is due.
    turn: bool,
}

struct Node {
    alive: bool,
    api: Servers,
    reactors: Vec<Servers>,
    log: Log,
    hints: upkeep::Hints,
}

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A submission of the open loop.
    Arrive,
    /// A batch of the closed loop.
    Begin,
    /// A call reaches its node.
    Call(usize, u32),
    /// It was read there.
    Route(usize, u32),
    /// It reaches the leader's node, in a frame of its own or not.
    Forwarded(usize, u32, bool),
    /// It is left in the shard's inbox.
    Inbox(usize, u32),
    /// A shard takes its turn.
    Turn(usize, u32),
    /// An entry was proposed.
    Proposed(usize),
    /// An append reaches a follower's node.
    Append(usize, usize, bool),
    /// The follower has taken it.
    Appended(usize, usize),
    /// A node's log write is synced.
    Written(usize),
    /// An acknowledgement reaches the leader's node.
    Ack(usize, bool),
    /// The leader has taken it.
    Acked(usize),
    /// An entry is applied at the leader.
    Applied(usize),
    /// The answer reaches the node of the call.
    Reply(usize, u32, Step, bool),
    /// The answer reaches the client or worker.
    Answered(usize, u32, Step),
    /// A node sends hints.
    Hint(usize),
    /// A waiting worker's request looks.
    Look(usize, u32),
    /// What a node does beside jobs.
    Upkeep(usize),
    /// A node fails.
    Fail,
    /// A follower's election timeout ends.
    Campaign(usize, usize),
    /// A new leader serves.
    Serves(usize, usize),
}

/// The simulation.
struct Simulation<'a> {
    plan: &'a Plan<'a>,
    events: Events<Event>,
    rng: StdRng,
    nodes: Vec<Node>,
    shards: Vec<Shard>,
    batches: Vec<Batch>,
    entries: Vec<Entry>,
    /// The part of the cluster that is simulated, and as what part of its shards.
    ring: Cluster,
    part: f64,
    /// The cores of a shared machine.
    cores: Option<Servers>,
    /// When the last frame was sent from one node to another: of Raft, and of calls.
    links: [Vec<Ns>; 2],
    background: upkeep::Background,
    hints_sent: u64,
    failover: failover::State,
    measured: report::Measured,
    under_way: usize,
}

/// A thread of a node.
#[derive(Clone, Copy)]
enum Thread {
    Api,
    Reactor(usize),
    Log,
}

/// Runs a plan.
pub fn run(plan: &Plan<'_>) -> Simulated {
    let mut simulation = Simulation::new(plan);
    simulation.start();
    while let Some(event) = simulation.events.next() {
        simulation.handle(event);
        if simulation.is_over() {
            break;
        }
    }
    simulation.report()
}

impl<'a> Simulation<'a> {
    fn new(plan: &'a Plan<'a>) -> Self {
        let (ring, machine) = (plan.cluster.ring(NODES_MAX), &plan.cluster.machine);
        let node = |_| Node {
            alive: true,
            api: Servers::new(machine.api_threads()),
            reactors: (0..machine.reactors()).map(|_| Servers::new(1)).collect(),
            log: Log::default(),
            hints: upkeep::Hints::default(),
        };
        let shard = |index| Shard { leader: Some(ring.place(index, 0)), ..Shard::default() };
        Simulation {
            plan,
            events: Events::new(),
            rng: StdRng::seed_from_u64(plan.seed),
            nodes: (0..ring.nodes).map(node).collect(),
            shards: (0..ring.shards).map(shard).collect(),
            batches: Vec::new(),
            entries: Vec::new(),
            cores: machine.shared.then(|| Servers::new(machine.cores)),
            links: [0; 2].map(|_| vec![0; ring.nodes * ring.nodes]),
            background: upkeep::Background::new(&Model::new(plan.cluster, plan.load, plan.costs), plan),
            part: ring.shards as f64 / plan.cluster.shards as f64,
            ring,
            hints_sent: 0,
            failover: failover::State::default(),
            measured: report::Measured::new(),
            under_way: 0,
        }
    }

    fn start(&mut self) {
        let nodes = self.nodes.len();
        for node in 0..nodes {
            // Nodes are not in step.
            let offset = self.rng.random_range(0..upkeep::EVERY);
            self.events.at(offset, Event::Upkeep(node));
        }
        match self.plan.drive {
            Drive::Open(_) => self.events.at(0, Event::Arrive),
            Drive::Closed(batches) => {
                for _ in 0..self.share(batches) {
                    // Begun together, they would go round as one wave.
                    let at = self.rng.random_range(0..=self.plan.warmup / 2);
                    self.events.at(at, Event::Begin);
                }
            }
        }
        if let Some(at) = self.plan.fail_at {
            self.events.at(at, Event::Fail);
        }
    }

    fn handle(&mut self, event: Event) {
        self.mark_time();
        match event {
            Event::Arrive => self.arrive(),
            Event::Begin => self.submit(),
            Event::Call(batch, tag) => self.call(batch, tag),
            Event::Route(batch, tag) => self.route(batch, tag),
            Event::Forwarded(batch, tag, fresh) => self.forwarded(batch, tag, fresh),
            Event::Inbox(batch, tag) => self.inbox(batch, tag),
            Event::Turn(shard, term) => self.turn(shard, term),
            Event::Proposed(entry) => self.proposed(entry),
            Event::Append(entry, node, fresh) => self.append(entry, node, fresh),
            Event::Appended(entry, node) => self.log_append(node, entry),
            Event::Written(node) => self.written(node),
            Event::Ack(entry, fresh) => self.ack(entry, fresh),
            Event::Acked(entry) => self.acked(entry),
            Event::Applied(entry) => self.applied(entry),
            Event::Reply(batch, tag, step, fresh) => self.reply(batch, tag, step, fresh),
            Event::Answered(batch, tag, step) => self.answered(batch, tag, step),
            Event::Hint(node) => self.hint(node),
            Event::Look(batch, tag) => self.look(batch, tag),
            Event::Upkeep(node) => self.upkeep(node),
            Event::Fail => self.fail(),
            Event::Campaign(shard, node) => self.campaign(shard, node),
            Event::Serves(shard, node) => self.serves(shard, node),
        }
    }

    fn now(&self) -> Ns {
        self.events.now()
    }

    /// When jobs stop coming.
    fn end(&self) -> Ns {
        self.plan.warmup + self.plan.measure
    }

    /// All that was submitted has ended, or never will: a minute later something is lost.
    fn is_over(&self) -> bool {
        let closing = self.now() >= self.end();
        closing && (self.under_way == 0 || self.now() > self.end() + 60_000_000_000)
    }

    /// Work on a thread of a node; returns when it is done. On a shared machine a thread needs a core, and that is what
    /// it waits for.
    fn work(&mut self, node: usize, thread: Thread, cost_us: f64) -> Ns {
        let (now, cost) = (self.now(), us(cost_us));
        if let Some(cores) = &mut self.cores {
            return cores.serve(now, cost);
        }
        let node = &mut self.nodes[node];
        match thread {
            Thread::Api => node.api.serve(now, cost),
            Thread::Reactor(reactor) => node.reactors[reactor].serve(now, cost),
            Thread::Log => node.log.cpu(now, cost),
        }
    }

    /// The simulated part of so many.
    fn share(&self, whole: usize) -> usize {
        ((whole as f64 * self.part).round() as usize).max(1)
    }

    /// Sends a message to another node; returns when it arrives, and whether in a frame of its own.
    fn send(&mut self, from: usize, to: usize, raft: bool) -> (Ns, bool) {
        let now = self.now();
        // Calls go to all nodes; of a larger cluster, the fewer simulated links must not make them share more frames.
        let apart = if raft { 1.0 } else { self.ring.others() / self.plan.cluster.others() };
        let gap = us(self.plan.costs.coalesce_us * apart);
        let link = &mut self.links[usize::from(raft)][from * self.ring.nodes + to];
        let fresh = *link == 0 || now >= *link + gap;
        if fresh {
            *link = now.max(1);
        }
        // Raft's frames leave with the turn or the write.
        let done = if raft { now } else { self.work(from, Thread::Api, self.side_us(fresh)) };
        (done + us(self.plan.cluster.machine.latency_us), fresh)
    }

    /// One side's cost of a message.
    fn side_us(&self, fresh: bool) -> f64 {
        let costs = self.plan.costs;
        let frame = if fresh { costs.frame_us } else { 0.0 };
        (frame + costs.message_us) / 2.0
    }

    fn latency(&self) -> Ns {
        us(self.plan.cluster.machine.latency_us)
    }

    /// A node that is up, drawn at random.
    fn any_node(&mut self) -> usize {
        loop {
            let node = self.rng.random_range(0..self.nodes.len());
            if self.nodes[node].alive {
                return node;
            }
        }
    }
}

#[cfg(test)]
mod tests;
