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

/// Memory of a node beside what its configuration bounds, bytes: the program, its threads, the log's segments in memory,
/// requests in the inboxes, what RocksDB holds beside its caches.
pub const BASE_BYTES: usize = 256 * MIB;
/// What a connection takes with its buffers, bytes; measured with 10,000 that submit.
pub const CONNECTION_BYTES: usize = 128 * KIB;
/// What a stream of a session or of submissions takes at rest, bytes; measured with 5,000.
pub const STREAM_BYTES: usize = 32 * KIB;
/// What a call takes beside what it says, bytes; measured with as many as connections take.
pub const CALL_BYTES: usize = 10 * KIB;
/// What a question and its answer take, bytes: a job with its log.
pub const QUESTION_BYTES: usize = 16 * KIB;
/// What a listing takes, bytes: a page of 4 MiB, as it is read and as it is written.
pub const LIST_BYTES: usize = 12 * MIB;
/// Submissions under way at a node: as many as its shards' inboxes hold. More only wait.
pub const SUBMISSIONS_MAX: usize = 8_192;
/// Streams of one gRPC connection: a client opens another connection for more.
pub const STREAMS_MAX: u32 = 1_024;
/// Bytes of a gRPC call's head, uncompressed: ours have some hundred; tokens have up to 8 KiB.
pub const CALL_HEAD_BYTES: u32 = 16 * KIB as u32;
/// Bytes of one stream that may be on the way: what a line of 100 ms carries at 5 MiB/s.
pub const STREAM_WINDOW_BYTES: u32 = 512 * KIB as u32;
/// Bytes of one connection that may be on the way, all its streams together.
pub const CONNECTION_WINDOW_BYTES: u32 = MIB as u32;
/// Streams that a client opened and took back before they were served; more end the connection.
pub const STREAMS_RESET_MAX: usize = 64;
/// Streams that the node took back for a client's errors; more end the connection.
pub const STREAM_ERRORS_MAX: usize = 256;
/// Bytes that a connection reads in its turn.
pub const TURN_BYTES: usize = 32 * KIB;
/// Bytes of the head of a request for a page.
pub const PAGE_HEAD_BYTES: usize = 16 * KIB;
/// Header lines of a request for a page.
pub const PAGE_HEADERS_MAX: usize = 64;

/// Time until a connection has begun its first call.
pub const CALL_BEGIN_MAX: Duration = Duration::from_secs(10);
/// A connection without calls is closed after so long: its client opens another one when it needs it.
pub const LINE_IDLE_MAX: Duration = Duration::from_secs(300);
/// How often a connection with calls is looked after.
pub const LINE_LOOK: Duration = Duration::from_secs(10);
/// Time for a message to come, or a part of a reply to be taken; a second more for each [`SLOW_BYTES_PER_S`].
pub const SLOW_MAX: Duration = Duration::from_secs(20);
/// Who is slower is cut off, bytes/s.
pub const SLOW_BYTES_PER_S: usize = 64 * KIB;
/// How often a connection is asked for a sign of life, and the time for it to come.
pub const PROBE: Duration = Duration::from_secs(20);
/// Time for the head of a request for a page.
pub const PAGE_HEAD_TIME: Duration = Duration::from_secs(5);
/// A connection for pages on which nothing moves is closed after so long.
pub const PAGE_LINE_IDLE_MAX: Duration = Duration::from_secs(30);
/// A page that was made is given to all who ask within this time.
pub const PAGE_FRESH: Duration = Duration::from_millis(100);
/// Pause after the system refused a connection, for want of descriptors most likely.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const _: () = assert!(CONNECTION_WINDOW_BYTES >= STREAM_WINDOW_BYTES);

/// Tokens remembered as good: some 200 B each, one for each user and each pilot.
pub const TOKENS_CACHED_MAX: usize = 50_000;
/// Issuers of tokens that a cluster trusts.
pub const TOKEN_ISSUERS_MAX: usize = 32;
