//! The cluster that is computed: its size, its machines, where the shards are, and what is asked of it.

use serde::Serialize;

/// A node as it is bought or rented.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Cores of a node.
    pub cores: usize,
    /// Memory of a node, bytes.
    pub memory_bytes: f64,
    /// What the disk takes, bytes a second.
    pub disk_bytes_per_s: f64,
    /// What the line takes in each direction, bytes a second.
    pub line_bytes_per_s: f64,
    /// From one node to another, or to a client, one way. µs.
    pub latency_us: f64,
    /// All nodes and the load generator share these cores: a cluster on one machine.
    pub shared: bool,
}

impl Machine {
    /// Threads that own shards, as `node/src/config.rs` has them by default.
    pub fn reactors(&self) -> usize {
        (self.cores / 4).clamp(1, 8)
    }

    /// Threads that serve clients, workers and nodes.
    pub fn api_threads(&self) -> usize {
        (self.cores / 2).clamp(1, 256)
    }
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cluster {
    /// Nodes.
    pub nodes: usize,
    /// Data shards.
    pub shards: usize,
    /// Replicas of each.
    pub replicas: usize,
    /// Every node's machine.
    pub machine: Machine,
    /// A remedy to try: the shards that a node leads are spread evenly over its reactors, not mixed.
    pub spread_reactors: bool,
}

/// What is asked of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Load {
    /// Jobs of a call: of a submission, a lease, a report.
    pub batch: f64,
    /// A job's body, bytes.
    pub body_bytes: f64,
    /// Jobs held by workers.
    pub running: f64,
    /// Jobs that wait, evenly over shards and queues.
    pub queued: f64,
    /// Time between two heartbeats of a worker, s.
    pub heartbeat_s: f64,
    /// Worker sessions, evenly over the nodes.
    pub workers: f64,
    /// Queues.
    pub queues: f64,
    /// Users with running jobs.
    pub users: f64,
    /// Workers that wait for work, evenly over queues and nodes.
    pub idle_workers: f64,
    /// Calls under way at a shard's leader at most: when it is busy, as many gather.
    pub in_flight: f64,
    /// Nodes to which a node sends its hints; all, unless a remedy is tried.
    pub hint_receivers: f64,
    /// Least time between two hints of a node, s.
    pub hint_spacing_s: f64,
}

/// Shards of a reactor: led, and followed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Held {
    /// Led.
    pub led: usize,
    /// Replicas that follow.
    pub followed: usize,
}

impl Cluster {
    /// Other nodes than one.
    pub fn others(&self) -> f64 {
        self.nodes as f64 - 1.0
    }

    /// A part of the cluster that looks the same to each node: a ring of at most so many nodes, with as many shards each.
    pub fn ring(&self, nodes_max: usize) -> Cluster {
        if self.nodes <= nodes_max {
            return self.clone();
        }
        // Rounded: less than one shard a node is some nodes with one.
        let shards = (self.shards * nodes_max + self.nodes / 2) / self.nodes;
        Cluster { nodes: nodes_max, shards: shards.max(1), ..self.clone() }
    }

    /// Replicas of a shard; never more than nodes.
    pub fn copies(&self) -> usize {
        self.replicas.min(self.nodes)
    }

    /// The node with replica `k` of the shard at `index` (its number is one more), as `node/src/open.rs` places it;
    /// replica 0 leads.
    pub fn place(&self, index: usize, k: usize) -> usize {
        (index + k) % self.nodes
    }

    /// The reactor of a shard, the same on all its nodes: mixed, as `reactor_of` in `node/src/reactor.rs` does it.
    pub fn reactor(&self, index: usize) -> usize {
        let reactors = self.machine.reactors();
        if self.spread_reactors {
            return (index % self.nodes + index / self.nodes) % reactors;
        }
        ((index as u32 + 1).wrapping_mul(0x9e37_79b9) >> 16) as usize % reactors
    }

    /// What each reactor of each node holds, by node and then reactor.
    pub fn held(&self) -> Vec<Vec<Held>> {
        let mut held = vec![vec![Held::default(); self.machine.reactors()]; self.nodes];
        for index in 0..self.shards {
            let reactor = self.reactor(index);
            for k in 0..self.copies() {
                let on = &mut held[self.place(index, k)][reactor];
                match k {
                    0 => on.led += 1,
                    _ => on.followed += 1,
                }
            }
        }
        held
    }

    /// The same with one node down: each of its shards is led by one of its followers, in turn.
    pub fn held_without(&self, down: usize) -> Vec<Vec<Held>> {
        let mut held = self.held();
        held[down] = vec![Held::default(); self.machine.reactors()];
        if self.copies() < 2 {
            return held;
        }
        for (turn, index) in (0..self.shards).filter(|&index| self.place(index, 0) == down).enumerate() {
            let heir = self.place(index, 1 + turn % (self.copies() - 1));
            let on = &mut held[heir][self.reactor(index)];
            on.led += 1;
            on.followed -= 1;
        }
        held
    }

    /// Nodes that lead a shard.
    pub fn leading_nodes(&self) -> usize {
        self.shards.min(self.nodes)
    }

    /// Part of the nodes that are not the one where a request came in.
    pub fn elsewhere(&self) -> f64 {
        (self.nodes - 1) as f64 / self.nodes as f64
    }
}

impl Load {
    /// Queues with ready jobs in a shard, in the mean: jobs fall into shards and queues as they come.
    pub fn queues_with_work(&self, shards: f64) -> f64 {
        self.queues * (1.0 - (-self.queued / (shards * self.queues)).exp())
    }

    /// Parts into which a worker's heartbeat is split: the shards that its jobs are of.
    pub fn beat_parts(&self, shards: f64) -> f64 {
        if self.running == 0.0 {
            return 0.0;
        }
        let jobs = self.running / self.workers;
        // As many different shards as so many draws meet.
        shards * (1.0 - (1.0 - 1.0 / shards).powf(jobs))
    }

    /// Heartbeat messages a second.
    pub fn beats_per_s(&self) -> f64 {
        if self.running == 0.0 { 0.0 } else { self.workers / self.heartbeat_s }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A node of 16 cores.
    pub fn machine() -> Machine {
        Machine {
            cores: 16,
            memory_bytes: 64e9,
            disk_bytes_per_s: 1e9,
            line_bytes_per_s: 1.25e9,
            latency_us: 100.0,
            shared: false,
        }
    }

    /// A cluster of such nodes.
    pub fn cluster(nodes: usize, shards: usize) -> Cluster {
        Cluster { nodes, shards, replicas: 3, machine: machine(), spread_reactors: false }
    }

    /// Batches of 100, nothing held.
    pub fn load(batch: f64) -> Load {
        Load {
            batch,
            body_bytes: 1_024.0,
            running: 0.0,
            queued: 0.0,
            heartbeat_s: 60.0,
            workers: 10_000.0,
            queues: 170.0,
            users: 1_400.0,
            idle_workers: 0.0,
            in_flight: 16.0,
            hint_receivers: 1e9,
            hint_spacing_s: 0.002,
        }
    }

    #[test]
    fn replicas_are_where_the_node_puts_them() {
        let cluster = cluster(10, 64);
        assert_eq!([0, 1, 2].map(|k| cluster.place(9, k)), [9, 0, 1]);
        let held = cluster.held();
        let led: Vec<usize> = held.iter().map(|node| node.iter().map(|h| h.led).sum()).collect();
        assert_eq!((led.iter().sum::<usize>(), led[0], led[9]), (64, 7, 6));
        let followed: usize = held.iter().flatten().map(|h| h.followed).sum();
        assert_eq!(followed, 128);
        // Fewer shards than nodes: most lead none.
        assert_eq!((super::tests::cluster(1_000, 64).leading_nodes(), super::tests::cluster(2, 4).copies()), (64, 2));
    }

    #[test]
    fn a_ring_has_as_many_shards_a_node() {
        assert_eq!(cluster(64, 4_095).ring(64), cluster(64, 4_095));
        assert_eq!(cluster(1_000, 4_095).ring(64), cluster(64, 262));
        assert_eq!(cluster(1_000, 64).ring(64), cluster(64, 4));
        assert_eq!(cluster(1_000, 1).ring(64).shards, 1);
    }

    #[test]
    fn the_next_two_nodes_inherit_all_shards_of_one() {
        let held = cluster(10, 640).held_without(3);
        let led: Vec<usize> = held.iter().map(|node| node.iter().map(|h| h.led).sum()).collect();
        assert_eq!(led, [64, 64, 64, 0, 96, 96, 64, 64, 64, 64]);
        assert_eq!(held.iter().flatten().map(|h| h.led + h.followed).sum::<usize>(), 3 * 640 - 192);
    }

    #[test]
    fn the_shards_that_a_node_leads_are_on_all_its_reactors() {
        // Four reactors: of a multiple of four nodes, the shards of a node have the same remainder.
        for nodes in [10, 100, 101] {
            let mixed = cluster(nodes, 4_095);
            assert!(mixed.held().iter().all(|node| node.iter().all(|h| h.led >= 8)), "{nodes} nodes");
            let even = Cluster { spread_reactors: true, ..mixed };
            assert!(even.held().iter().all(|node| node.iter().all(|h| h.led >= 10)), "{nodes} nodes");
        }
    }

    #[test]
    fn a_heartbeat_has_no_more_parts_than_jobs_or_shards() {
        let load = Load { running: 1e6, ..load(1.0) };
        assert!((load.beat_parts(64.0) - 55.0).abs() < 10.0, "100 jobs over 64 shards");
        assert!((load.beat_parts(4_095.0) - 98.8).abs() < 0.5);
        assert_eq!(Load { running: 0.0, ..load.clone() }.beats_per_s(), 0.0);
        assert!(Load { queued: 1e9, ..load.clone() }.queues_with_work(64.0) > 169.9);
        assert_eq!(load.queues_with_work(64.0), 0.0);
    }
}
