//! The closed-form model: what each resource of the busiest node does at a rate, which one binds, and the highest rate
//! that all of them bear. The formulas, with where they come from, are in `bench/SCALE.md`.

use super::cluster::{Cluster, Held, Load};
use super::costs::Costs;
use serde::Serialize;

/// Raft ticks a second; on each a leader probes its quorum (`node/shard/src/core/periodic.rs`).
pub const TICKS_PER_S: f64 = 10.0;
/// Raft heartbeats of a leader to a follower a second: one for each probe, and one every three ticks.
pub const RAFT_BEATS_PER_S: f64 = TICKS_PER_S + TICKS_PER_S / 3.0;
/// Most time between two hints of a node, s (`node/src/hints.rs`).
pub const HINT_INTERVAL_S: f64 = 0.1;
/// The use of resources is sent and summed so often a second.
pub const USAGE_PER_S: f64 = 10.0;
/// Commands that a batch of jobs needs: submit, lease, report.
pub const STEPS: f64 = 3.0;
/// Appends of a leader that may wait for its disk (`UNPERSISTED_MAX`).
pub const UNPERSISTED_MAX: f64 = 2.0;
/// Entries of a shard under way at once: two that wait for the disk, and one that is gathered or applied.
const ENTRIES_UNDER_WAY: f64 = 3.0;
/// Streams of workers that a node takes (`node/src/sessions.rs`).
const STREAMS_MAX: f64 = 200_000.0;
/// Nodes of a cluster (`MEMBERS_MAX` in `node/src/limits.rs`).
const MEMBERS_MAX: usize = 1_000;

/// A resource of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// The busiest thread that owns shards.
    Reactor,
    /// The threads that serve clients, workers and nodes.
    Api,
    /// The thread that writes the log: its CPU.
    LogWriter,
    /// All cores.
    Cores,
    /// Bytes to the disk.
    Disk,
    /// Bytes on the line, the fuller direction.
    Line,
}

impl Resource {
    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Reactor => "busiest reactor",
            Resource::Api => "API threads",
            Resource::LogWriter => "log writer",
            Resource::Cores => "cores",
            Resource::Disk => "disk bytes",
            Resource::Line => "line",
        }
    }
}

/// What the model says of a cluster at a rate. Figures are the busiest node's unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Jobs a second, whole lives.
    pub jobs_per_s: f64,
    /// Used part of each resource, the fullest first.
    pub used: Vec<(Resource, f64)>,
    /// Cores used by upkeep, whatever the rate: hints, use of resources, ticks, heartbeats.
    pub upkeep: Upkeep,
    /// Commands that share a Raft entry.
    pub commands_per_entry: f64,
    /// Writes to the log, each with a sync, a second.
    pub syncs_per_s: f64,
    /// Resident memory, bytes.
    pub memory_bytes: f64,
    /// Worker sessions.
    pub sessions: f64,
    /// TCP connections to and from other nodes.
    pub connections: usize,
    /// Shards led and replicas held.
    pub shards_led: usize,
    /// Replicas, each with a RocksDB instance.
    pub replicas: usize,
}

/// What keeps a node busy beside jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Upkeep {
    /// Hints a second that the node sends to each other one.
    pub hints_per_s: f64,
    /// Bytes of one of them.
    pub hint_bytes: f64,
    /// Cores: hints sent and received.
    pub hint_cores: f64,
    /// Bytes a second of hints on the line, in each direction.
    pub hint_line_bytes_per_s: f64,
    /// Cores: use of resources summed over all nodes.
    pub usage_cores: f64,
    /// Cores: lease requests looking at hints.
    pub scan_cores: f64,
    /// Cores: ticks and heartbeats of Raft.
    pub raft_cores: f64,
    /// Cores: workers' heartbeats.
    pub beat_cores: f64,
    /// Parts of one worker's heartbeat.
    pub beat_parts: f64,
    /// Cores: lease requests that a hint has woken and that find nothing.
    pub herd_cores: f64,
}

/// Work of a cluster that has nothing to do but to hold its jobs, for the simulation.
pub struct Idle {
    /// A node's API threads: workers' heartbeats and Raft's idle traffic, µs a second.
    pub api_us_per_s: f64,
    /// Each reactor of each node, µs a second.
    pub reactor_us_per_s: Vec<Vec<f64>>,
    /// Making a hint, or reading one. µs.
    pub hint_us: f64,
    /// Summing the use of resources of all nodes. µs.
    pub usage_us: f64,
    /// A lease request's look over the hints. µs.
    pub look_us: f64,
}

/// A model of a cluster under a load.
pub struct Model<'a> {
    cluster: &'a Cluster,
    load: &'a Load,
    costs: &'a Costs,
    held: Vec<Vec<Held>>,
    /// Most shards that a node leads, and most replicas that it holds.
    led: f64,
    replicas: f64,
}

/// Whether hints wait when the threads that send them are busy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hints {
    Prompt,
    MayBeLate,
}

/// Rates that everything else follows from.
struct Flow {
    /// Jobs a second.
    rate: f64,
    /// Commands a second and shard.
    commands: f64,
    /// Raft entries a second and shard.
    entries: f64,
    /// Hints a second that a node sends to each receiver.
    hints: f64,
}

impl<'a> Model<'a> {
    /// A model.
    pub fn new(cluster: &'a Cluster, load: &'a Load, costs: &'a Costs) -> Self {
        Model { cluster, load, costs, held: Vec::new(), led: 0.0, replicas: 0.0 }.holding(cluster.held())
    }

    fn holding(mut self, held: Vec<Vec<Held>>) -> Self {
        let most = |of: fn(&Held) -> usize| held.iter().map(|node| node.iter().map(of).sum::<usize>()).max();
        self.led = most(|h| h.led).unwrap_or(0) as f64;
        self.replicas = most(|h| h.led + h.followed).unwrap_or(0) as f64;
        self.held = held;
        self
    }

    /// The model of the cluster with its first node down.
    pub fn one_down(self) -> Self {
        let held = self.cluster.held_without(0);
        self.holding(held)
    }

    /// What there is to do at rest.
    pub fn idle(&self) -> Idle {
        let flow = Flow { rate: 0.0, commands: 0.0, entries: 0.0, hints: 0.0 };
        let reactors = |node: &Vec<Held>| node.iter().map(|held| self.reactor_us(held, &flow)).collect();
        let beats_us = self.load.beats_per_s() / self.nodes() * self.costs.beat_call_us;
        Idle {
            api_us_per_s: beats_us + self.peer_us(&flow),
            reactor_us_per_s: self.held.iter().map(reactors).collect(),
            hint_us: self.hint_entries() * self.costs.hint_entry_us,
            usage_us: (1.0 + self.receivers()) * self.usage_entries() * self.costs.usage_entry_us,
            look_us: self.shards() * (1.0 + self.load.queues_with_work(self.shards())) * self.costs.scan_entry_us,
        }
    }

    /// What happens at `rate` jobs a second.
    pub fn at(&self, rate: f64) -> Estimate {
        self.with_hints(rate, Hints::MayBeLate)
    }

    fn with_hints(&self, rate: f64, hints: Hints) -> Estimate {
        let flow = self.flow(rate, hints);
        let upkeep = self.upkeep(&flow);
        let machine = &self.cluster.machine;
        let reactors: Vec<Vec<f64>> =
            self.held.iter().map(|node| node.iter().map(|held| self.reactor_us(held, &flow)).collect()).collect();
        let busiest = |node: &Vec<f64>| node.iter().copied().fold(0.0, f64::max);
        let reactor = reactors.iter().map(busiest).fold(0.0, f64::max) / 1e6;
        let reactors_sum = reactors.iter().map(|node| node.iter().sum()).fold(0.0, f64::max) / 1e6;
        let api = self.api_cores(&flow, &upkeep);
        let syncs = self.syncs(&flow);
        let log = syncs * self.costs.write_us / 1e6;
        let cores = match machine.shared {
            true => self.shared_cores(&flow),
            false => (reactors_sum + api + log) / machine.cores as f64,
        };
        let mut used = vec![
            (Resource::Cores, cores),
            (Resource::Disk, self.disk_bytes(&flow) / machine.disk_bytes_per_s),
            (Resource::Line, self.line_bytes(&flow, &upkeep) / machine.line_bytes_per_s),
        ];
        if !machine.shared {
            used.push((Resource::Reactor, reactor));
            used.push((Resource::Api, api / machine.api_threads() as f64));
            used.push((Resource::LogWriter, log));
        }
        used.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        Estimate {
            jobs_per_s: rate,
            used,
            upkeep,
            commands_per_entry: flow.commands / flow.entries.max(f64::MIN_POSITIVE),
            syncs_per_s: syncs,
            memory_bytes: self.memory_bytes(),
            sessions: self.load.workers / self.cluster.nodes as f64,
            connections: 2 * (self.cluster.nodes - 1),
            shards_led: self.led as usize,
            replicas: self.replicas as usize,
        }
    }

    /// The highest rate at which no resource is used more than fully; `None`: not even at rest.
    pub fn max_rate(&self) -> Option<f64> {
        self.max_rate_with(Hints::MayBeLate)
    }

    /// The highest rate at which hints are still sent as soon as they are due.
    pub fn prompt_rate(&self) -> Option<f64> {
        self.max_rate_with(Hints::Prompt)
    }

    fn max_rate_with(&self, hints: Hints) -> Option<f64> {
        let fits = |rate: f64| self.with_hints(rate, hints).used[0].1 <= 1.0 + 1e-9;
        if !fits(0.0) {
            return None;
        }
        let (mut low, mut high) = (0.0, 1.0);
        while fits(high) {
            (low, high) = (high, high * 2.0);
        }
        for _ in 0..50 {
            let middle = (low + high) / 2.0;
            if fits(middle) { low = middle } else { high = middle }
        }
        Some(low)
    }

    /// Why a cluster of this size does not run, whatever its load.
    pub fn obstacles(&self) -> Vec<String> {
        let mut found = Vec::new();
        let (nodes, estimate) = (self.cluster.nodes, self.at(0.0));
        if nodes > MEMBERS_MAX {
            found.push(format!("a cluster takes {MEMBERS_MAX} members, not {nodes}"));
        }
        if estimate.sessions > STREAMS_MAX {
            found.push(format!("{:.0} sessions a node: it takes {STREAMS_MAX}", estimate.sessions));
        }
        if estimate.memory_bytes > self.cluster.machine.memory_bytes {
            found.push(format!("{:.1} GB of memory a node", estimate.memory_bytes / 1e9));
        }
        found
    }

    fn shards(&self) -> f64 {
        self.cluster.shards as f64
    }

    fn nodes(&self) -> f64 {
        self.cluster.nodes as f64
    }

    fn others(&self) -> f64 {
        self.cluster.others()
    }

    /// Followers of a shard.
    fn followers(&self) -> f64 {
        self.cluster.copies() as f64 - 1.0
    }

    /// The flow at a rate, with what yields to it. While two appends wait for the disk, commands gather for the next
    /// entry; and while the reactor, or the shared cores, are busy: then entries become fewer, down to what is under way
    /// shared by three of them. And while the API threads are busy hints are late, down to those of a node at rest.
    fn flow(&self, rate: f64, hints: Hints) -> Flow {
        let commands = STEPS * rate / self.load.batch / self.shards();
        // A write is joined half-way through the one before it, in the mean.
        let persisted_s = 1.5 * self.persist_s();
        let many = commands / (1.0 + commands * persisted_s / UNPERSISTED_MAX);
        let few = many.min(commands / (self.load.in_flight / ENTRIES_UNDER_WAY).max(1.0));
        let (rest, prompt) = (self.hints_per_s(0.0), self.hints_per_s(rate));
        let with = |entries, hints| Flow { rate, commands, entries, hints };
        let machine = &self.cluster.machine;
        let sent = match (hints, machine.shared) {
            (Hints::Prompt, _) => prompt,
            (_, true) => largest(rest, prompt, |hints| self.shared_cores(&with(few, hints)) <= 1.0),
            _ => largest(rest, prompt, |hints| {
                let flow = with(many, hints);
                self.api_cores(&flow, &self.upkeep(&flow)) <= machine.api_threads() as f64
            }),
        };
        with(largest(few, many, |entries| self.used_by_shards(&with(entries, sent)) <= 1.0), sent)
    }

    /// From a write to the log until the next one may begin, s.
    fn persist_s(&self) -> f64 {
        (self.costs.write_us + self.costs.sync_us) / 1e6
    }

    /// Hints a second of a node, if nothing holds them up.
    fn hints_per_s(&self, rate: f64) -> f64 {
        if self.receivers() == 0.0 {
            return 0.0;
        }
        let ready_per_s = rate / self.load.batch / self.cluster.leading_nodes() as f64;
        let idle = self.idle();
        hints_per_s(ready_per_s, self.load.hint_spacing_s, idle.hint_us / 1e6, idle.usage_us / 1e6)
    }

    /// Nodes to which a node sends its hints, and from which it gets theirs.
    fn receivers(&self) -> f64 {
        self.cluster.others().min(self.load.hint_receivers)
    }

    /// Used part of the busiest reactor, or of the shared cores.
    fn used_by_shards(&self, flow: &Flow) -> f64 {
        let reactors = self.held.iter().flatten().map(|held| self.reactor_us(held, flow) / 1e6);
        if self.cluster.machine.shared { self.shared_cores(flow) } else { reactors.fold(0.0, f64::max) }
    }

    /// Used part of cores that all nodes and the generator share.
    fn shared_cores(&self, flow: &Flow) -> f64 {
        let reactors: f64 = self.held.iter().flatten().map(|held| self.reactor_us(held, flow) / 1e6).sum();
        let api = self.api_cores(flow, &self.upkeep(flow));
        let log = self.syncs(flow) * self.costs.write_us / 1e6;
        (reactors + self.nodes() * (api + log) + self.generator_cores(flow)) / self.cluster.machine.cores as f64
    }

    /// µs of work a second.
    fn reactor_us(&self, held: &Held, flow: &Flow) -> f64 {
        let c = self.costs;
        let (led, replicas) = (held.led as f64, (held.led + held.followed) as f64);
        let jobs = STEPS * flow.rate / self.shards();
        let per_replica = flow.commands * c.command_us + flow.entries * c.entry_us;
        let parts = self.load.beats_per_s() * self.load.beat_parts(self.shards()) / self.shards();
        let beats = self.load.running / self.load.heartbeat_s / self.shards();
        replicas * per_replica
            + jobs * (led * c.job_leader_us + held.followed as f64 * c.job_follower_us)
            + led * (parts * c.part_us + beats * c.beat_us)
            + self.ticks_us(held)
    }

    /// Ticks, and Raft's heartbeats: a leader gets its followers' answers, a follower the leader's.
    fn ticks_us(&self, held: &Held) -> f64 {
        let (led, followed) = (held.led as f64, held.followed as f64);
        let beats = RAFT_BEATS_PER_S * (led * self.followers() + followed);
        ((led + followed) * TICKS_PER_S + beats) * self.costs.tick_us
    }

    /// Messages and frames between nodes, per node: each is sent by one and received by another. Raft's are written by
    /// reactors and log writers, so half of them is none of this.
    fn peer_us(&self, flow: &Flow) -> f64 {
        let c = self.costs;
        let led = self.led;
        let gap_s = c.coalesce_us / 1e6;
        let frames = |messages: f64| messages / (1.0 + messages * gap_s);
        // Appends to the followers' nodes and their acknowledgements, both ways on each of these links.
        let raft = led * flow.entries;
        let bursts = if led > 0.0 && self.followers() > 0.0 { RAFT_BEATS_PER_S } else { 0.0 };
        let raft_links = 2.0 * self.followers();
        // Leases, reports and parts of heartbeats to leaders elsewhere, and their answers, over all links.
        let forwarded = 2.0 * self.forwarded(flow);
        let forward_frames = if self.others() > 0.0 { self.others() * frames(forwarded / self.others()) } else { 0.0 };
        let messages = raft_links / 2.0 * (raft + led * RAFT_BEATS_PER_S) + forwarded;
        (raft_links / 2.0 * (frames(raft) + bursts) + forward_frames) * c.frame_us + messages * c.message_us
    }

    /// Requests a second that a node passes on. Clients submit at the leader.
    fn forwarded(&self, flow: &Flow) -> f64 {
        let calls = (STEPS - 1.0) * flow.rate / self.load.batch;
        let parts = self.load.beats_per_s() * self.load.beat_parts(self.shards());
        // The busiest node answers for all shards that it leads.
        let most = self.led / self.shards();
        let even = 1.0 / self.nodes();
        (calls + parts) * self.cluster.elsewhere() * (even + most) / 2.0
    }

    fn api_cores(&self, flow: &Flow, upkeep: &Upkeep) -> f64 {
        let c = self.costs;
        let calls = STEPS * flow.rate / self.load.batch / self.nodes();
        let calls_us = calls * (c.call_us + self.load.batch * c.call_job_us);
        let beats_us = self.load.beats_per_s() / self.nodes() * c.beat_call_us;
        (calls_us + beats_us + self.peer_us(flow)) / 1e6
            + upkeep.hint_cores
            + upkeep.usage_cores
            + upkeep.scan_cores
            + upkeep.herd_cores
    }

    /// Entries of a node's hint: its shards, and the queues with work in each.
    fn hint_entries(&self) -> f64 {
        self.shards() / self.nodes() * (1.0 + self.load.queues_with_work(self.shards()))
    }

    /// Entries of a node's use of resources.
    fn usage_entries(&self) -> f64 {
        self.load.queues + self.load.users
    }

    fn upkeep(&self, flow: &Flow) -> Upkeep {
        let (c, load, others) = (self.costs, self.load, self.receivers());
        let idle = self.idle();
        let led = self.shards() / self.nodes();
        let batches = flow.rate / load.batch;
        let hints_per_s = flow.hints;
        let sums_per_s = hints_per_s.min(USAGE_PER_S);
        let hint_bytes = c.wire_frame_bytes
            + led * c.wire_hint_shard_bytes
            + led * load.queues_with_work(self.shards()) * c.wire_hint_entry_bytes;
        let usage_bytes = self.usage_entries() * c.wire_usage_entry_bytes;
        // Written once, sent to all others; received from all others.
        let hint_us = hints_per_s * (idle.hint_us + others * (c.frame_us + idle.hint_us));
        // One request of a node is woken for each queue of a hint; but for one of them they find nothing.
        let woken = (load.idle_workers / load.queues / self.nodes()).min(1.0) * others;
        let herd_us = batches / self.nodes() * woken * (idle.look_us + 2.0 * (c.frame_us + c.message_us));
        let raft_us: f64 = self.held.iter().map(|node| node.iter().map(|h| self.ticks_us(h)).sum()).fold(0.0, f64::max);
        Upkeep {
            hints_per_s,
            hint_bytes,
            hint_cores: hint_us / 1e6,
            hint_line_bytes_per_s: others * (hints_per_s * hint_bytes + sums_per_s * usage_bytes),
            usage_cores: sums_per_s * idle.usage_us / 1e6,
            // A request looks before it asks, and once more for the next one that waits.
            scan_cores: 2.0 * batches / self.nodes() * idle.look_us / 1e6,
            raft_cores: raft_us / 1e6,
            beat_cores: self.beat_cores(),
            beat_parts: load.beat_parts(self.shards()),
            herd_cores: herd_us / 1e6,
        }
    }

    /// Workers' heartbeats alone: the message, its parts, their way to the leaders and back.
    fn beat_cores(&self) -> f64 {
        let c = self.costs;
        let messages = self.load.beats_per_s() / self.nodes();
        let parts = messages * self.load.beat_parts(self.shards());
        let away = parts * self.cluster.elsewhere() * 2.0;
        let frames = if self.others() > 0.0 { away / (1.0 + away / self.others() * c.coalesce_us / 1e6) } else { 0.0 };
        let beats = self.load.running / self.load.heartbeat_s / self.nodes();
        let us = messages * c.beat_call_us
            + parts * c.part_us
            + beats * c.beat_us
            + frames * c.frame_us
            + away * c.message_us;
        us / 1e6
    }

    /// What arrives while a write is synced goes into the next.
    fn syncs(&self, flow: &Flow) -> f64 {
        let appends = self.replicas * flow.entries;
        appends / (1.0 + appends * self.persist_s())
    }

    /// Cores of the load generator.
    fn generator_cores(&self, flow: &Flow) -> f64 {
        flow.rate * (STEPS * self.costs.generator_call_us / self.load.batch + self.costs.generator_job_us) / 1e6
    }

    /// Bytes a second to the disk: of a node, or of all if they share it.
    fn disk_bytes(&self, flow: &Flow) -> f64 {
        let replicas = match self.cluster.machine.shared {
            true => self.shards() * self.cluster.copies() as f64,
            false => self.replicas,
        };
        flow.rate / self.shards() * replicas * self.costs.disk_bytes(self.load.body_bytes)
    }

    /// Bytes a second out of the busiest node; about as many come in.
    fn line_bytes(&self, flow: &Flow, upkeep: &Upkeep) -> f64 {
        let c = self.costs;
        if self.cluster.machine.shared {
            return 0.0;
        }
        let led = self.led / self.shards();
        let body = self.load.body_bytes;
        // To each follower: the body once, the job in three commands.
        let raft = flow.rate * led * self.followers() * (body + STEPS * c.wire_job_bytes)
            + led * self.shards() * flow.entries * self.followers() * c.wire_frame_bytes;
        // A lease with its body from the leader to the worker's node, and from there to the worker.
        let lease = flow.rate * (led * self.cluster.elsewhere() + 1.0 / self.nodes()) * (body + c.wire_job_bytes);
        let reports = flow.rate * self.cluster.elsewhere() / self.nodes() * c.wire_job_bytes;
        let raft_idle = led * self.shards() * self.followers() * 2.0 * RAFT_BEATS_PER_S * c.wire_raft_bytes;
        let parts = self.load.beats_per_s() * self.load.beat_parts(self.shards()) / self.nodes();
        let beats = self.load.running / self.load.heartbeat_s / self.nodes();
        let heartbeats = beats * c.wire_beat_bytes + parts * c.wire_frame_bytes;
        raft + lease + reports + raft_idle + heartbeats + upkeep.hint_line_bytes_per_s
    }

    fn memory_bytes(&self) -> f64 {
        let c = self.costs;
        let replicas = self.replicas;
        let jobs = (self.load.running + self.load.queued) / self.shards() * replicas;
        let hints = self.shards() * (96.0 + self.load.queues_with_work(self.shards()) * c.hint_entry_bytes);
        let usage = self.nodes() * self.usage_entries() * 4.0 * c.hint_entry_bytes;
        c.node_bytes
            + replicas * c.replica_bytes
            + jobs * c.job_bytes
            + self.load.workers / self.nodes() * c.session_bytes
            + 2.0 * self.others() * c.connection_bytes
            + hints
            + usage
    }
}

/// The largest number from `low` to `high` that fits; `low`, if none does. What fits must be an interval from below.
fn largest(low: f64, high: f64, fits: impl Fn(f64) -> bool) -> f64 {
    if fits(high) {
        return high;
    }
    let (mut low, mut high) = (low, high);
    for _ in 0..24 {
        let middle = (low + high) / 2.0;
        if fits(middle) { low = middle } else { high = middle }
    }
    low
}

/// Hints a second of a node where ready jobs come `events` times a second: at once, but spaced; and at the latest after
/// the interval. One task makes them, which takes `make_s`; when it is due it sums the use of resources before, which
/// takes `sum_s`.
pub fn hints_per_s(events: f64, spacing_s: f64, make_s: f64, sum_s: f64) -> f64 {
    let wait = if events > 0.0 { (1.0 - (-events * HINT_INTERVAL_S).exp()) / events } else { HINT_INTERVAL_S };
    let between = spacing_s + wait + make_s;
    let summing = sum_s * USAGE_PER_S;
    // Sums are a fixed part of the time, unless one is due for every hint.
    let shared = if summing < 1.0 { between / (1.0 - summing) } else { f64::INFINITY };
    1.0 / if shared < 1.0 / USAGE_PER_S { shared } else { between + sum_s }
}

#[cfg(test)]
mod tests;
