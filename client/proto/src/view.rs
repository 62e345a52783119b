//! What `moso cluster` and HTTP `/v1/cluster` show.

use serde::{Deserialize, Serialize};

/// The cluster as one node sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cluster {
    /// Cluster name.
    pub cluster: String,
    /// The feature level that it is at.
    #[serde(default)]
    pub feature_level: u32,
    /// The node that answers.
    pub node: u32,
    /// All nodes.
    pub nodes: Vec<NodeView>,
    /// All shards, the meta group (0) first.
    pub shards: Vec<ShardView>,
    /// All queues, summed over the shards.
    pub queues: Vec<QueueView>,
    /// Calls rejected because of who called, since each node's start; the most frequent of each node.
    #[serde(default)]
    pub rejected: Vec<Rejected>,
}

/// One node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeView {
    /// Number.
    pub id: u32,
    /// gRPC address.
    pub api: String,
    /// HTTP address.
    pub http: String,
    /// Heard from within the last 3 s (or the node itself).
    pub up: bool,
    /// Version of the program.
    pub version: String,
    /// Shards it leads.
    pub leaders: u32,
    /// Replicas it holds.
    pub replicas: u32,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// CPU time used since start, µs (user and system).
    pub cpu_us: u64,
    /// Bytes written to disk since start, as the kernel counts them.
    pub written_bytes: u64,
    /// Bytes of the data folder's file system that are free.
    pub disk_free_bytes: u64,
    /// Worker sessions connected here.
    pub sessions: u64,
    /// Heartbeats of single jobs taken since start.
    pub heartbeats: u64,
    /// Stale or foreign results refused since start.
    pub refused: u64,
    /// Bytes of live jobs, tasks and indexes in memory, by the node's own count.
    pub job_bytes: u64,
    /// Its disk is nearly full or full: submissions are refused, and it leads only where nobody else can.
    #[serde(default)]
    pub disk_low: bool,
    /// Its disk does not answer: it leads only where nobody else can.
    #[serde(default)]
    pub disk_stuck: bool,
    /// Shards whose replica there was found damaged and set aside: it must be replaced.
    #[serde(default)]
    pub damaged_replicas: Vec<u16>,
    /// Seconds since start.
    pub uptime_s: u64,
}

/// Calls that were rejected because of who called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The node that was called.
    pub node: u32,
    /// Why.
    pub reason: String,
    /// Who; empty: nobody knows.
    pub user: String,
    /// How often.
    pub count: u64,
}

/// One shard.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShardView {
    /// Number.
    pub shard: u16,
    /// Nodes that hold a replica.
    pub replicas: Vec<u32>,
    /// Node that leads; 0: none known.
    pub leader: u32,
    /// Raft term.
    pub term: u64,
    /// Committed index.
    pub commit: u64,
    /// Applied index on the answering node or the leader.
    pub applied: u64,
    /// Entries the slowest replica is behind.
    pub lag: u64,
    /// Live jobs.
    pub live: u64,
    /// Jobs ready to be leased.
    pub ready: u64,
    /// Leased jobs.
    pub leased: u64,
    /// Jobs ended since the cluster was made.
    pub ended: u64,
}

/// One queue.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QueueView {
    /// Name.
    pub queue: String,
    /// Jobs ready to be leased.
    pub ready: u64,
    /// Leased jobs.
    pub leased: u64,
    /// Lease requests waiting for work.
    pub waiting_workers: u64,
}
