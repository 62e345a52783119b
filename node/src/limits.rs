//! Limits of the node's sockets, queues and stores, each with its unit and reason.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bytes of one frame between nodes: the largest public call (20 MiB), passed on to another node, and its head.
pub const PEER_FRAME_BYTES_MAX: usize = 24 * MIB;
/// Bytes of a frame before both sides know each other: a greeting, or the reason of a refusal.
pub const PEER_GREETING_BYTES_MAX: usize = 4 * KIB;
/// Bytes of a cluster's name.
pub const CLUSTER_NAME_BYTES_MAX: usize = 64;
/// Bytes waiting for one peer: what a 1 GbE line carries in half a second. Beyond it, waiting only adds delay.
pub const PEER_QUEUE_BYTES_MAX: usize = 64 * MIB;
/// Messages waiting for one peer: as many as all shards of a large node send in a second.
pub const PEER_QUEUE_MESSAGES_MAX: usize = 16_384;
/// Bytes gathered for one write to a socket: larger writes save no more system calls.
pub const PEER_WRITE_BYTES_TARGET: usize = MIB;
/// Raft messages in one frame: bounds what a receiver holds as small allocations.
pub const PEER_BATCH_MESSAGES_MAX: usize = 4_096;
/// Bytes read from a socket at a time: several small frames, and not much held by the last one that is still in use.
pub const PEER_READ_BYTES: usize = 64 * KIB;
/// Calls running at once for one peer, and asked of one peer. More means that this node is behind: come back later.
pub const PEER_CALLS_MAX: usize = 1_024;
/// Connections that have not said who they are. Peers do so at once; the rest is noise.
pub const PEER_STRANGERS_MAX: usize = 64;
/// Different refusals remembered, so that each is logged once.
pub const PEER_REFUSALS_LOGGED_MAX: usize = 64;

/// Time for making a connection.
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for both sides to say who they are.
pub const PEER_GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// Pings go out this often, so that a dead line is seen although nothing else is said.
pub const PEER_PING_INTERVAL: Duration = Duration::from_secs(1);
/// A connection on which nothing arrives for so long is dead: five pings.
pub const PEER_SILENCE_MAX: Duration = Duration::from_secs(5);
/// A node heard from within this time is up even if the connection to it is being made again.
pub const PEER_HEARD_WITHIN: Duration = Duration::from_secs(3);
/// First pause before connecting again; doubles with each failure.
pub const PEER_BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause before connecting again: a node that comes back is found within a second.
pub const PEER_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Highest number of a node: two bytes are plenty, and keep replica ids readable.
pub const NODE_MAX: u32 = 65_535;
/// Nodes of a cluster: each holds a connection to each.
pub const MEMBERS_MAX: usize = 1_000;

/// Bytes of an entry's context: only configuration changes may have one.
pub const ENTRY_CONTEXT_BYTES_MAX: usize = 4 * KIB;
/// Bytes of one write to the log: its length has 32 bits, and it is built in memory.
pub const LOG_WRITE_BYTES_MAX: usize = 512 * MIB;
/// Replicas in one list of a configuration: in the meta group every node votes or learns.
pub const CONF_MEMBERS_MAX: usize = MEMBERS_MAX;
/// Bodies read at once: as many as a lease may have jobs, and some.
pub const BODIES_READ_MAX: usize = 4_096;
/// Rows of the status log or archive read at once; a caller pages on.
pub const ROWS_READ_MAX: usize = 10_000;

const _: () = {
    assert!(PEER_QUEUE_BYTES_MAX >= PEER_FRAME_BYTES_MAX);
    assert!(PEER_GREETING_BYTES_MAX >= 8 * CLUSTER_NAME_BYTES_MAX);
};

/// Bytes of results in one command: a worker's frame may hold more, and is split.
pub const RESULTS_BYTES_MAX: usize = MIB;

/// Tokens remembered as good: some 200 B each, one for each user and each pilot.
pub const TOKENS_CACHED_MAX: usize = 50_000;
/// Issuers of tokens that a cluster trusts.
pub const TOKEN_ISSUERS_MAX: usize = 32;
