//! Limits of the meta group. All objects are held in memory on every node, and each change is one log entry.

/// Live objects of all kinds. PanDA has some 1,500 users and a few hundred queues; a view of this many is still made
/// in a fraction of a second.
pub const OBJECTS_MAX: usize = 100_000;
/// JSON of one object, bytes: a change stays far below the size of a log entry.
pub const JSON_BYTES_MAX: usize = 64 * 1024;
/// JSON of the shard table, bytes: the most shards with five replicas each that all have moved.
pub const TABLE_BYTES_MAX: usize = 512 * 1024;
/// JSON of all live objects, bytes, so that the number and the size limit together cannot fill the memory.
pub const JSON_BYTES_TOTAL_MAX: usize = 256 * 1024 * 1024;
/// Author of a change, bytes: a certificate's subject fits.
pub const AUTHOR_BYTES_MAX: usize = 256;
/// Name of an object, bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Name of the cluster, bytes.
pub const CLUSTER_BYTES_MAX: usize = 128;
/// Changes kept of one object: enough to see who changed what in the last weeks.
pub const HISTORY_CHANGES_MAX: usize = 100;
/// Changes kept of all objects, bytes ([`CHANGE_BYTES`] and the strings of each); the oldest go first.
pub const HISTORY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// What a change costs in memory beside its strings, bytes.
pub const CHANGE_BYTES: usize = 256;
/// Rows of the time-out table: it is searched row by row.
pub const TIMEOUT_ROWS_MAX: usize = 256;
/// Longest time-out, s: ten years, so that sums in ms cannot overflow.
pub const TIMEOUT_LIMIT_S_MAX: u64 = 10 * 365 * 24 * 3600;
/// Shortest lease, ms: two heartbeats and an election fit.
pub const LEASE_TTL_MS_MIN: u32 = 15_000;
/// Longest lease, ms: a day.
pub const LEASE_TTL_MS_MAX: u32 = 86_400_000;
/// Shortest heartbeat interval, ms.
pub const HEARTBEAT_MS_MIN: u32 = 1_000;
/// Tags of a queue.
pub const TAGS_MAX: usize = 64;
/// One tag, bytes.
pub const TAG_BYTES_MAX: usize = 64;
/// Reason of a queue's state, bytes: it is shown to people on one line.
pub const REASON_BYTES_MAX: usize = 1024;
/// Target of a share, so that sums of targets stay exact enough.
pub const SHARE_TARGET_MAX: f64 = 1e9;
/// Address or zone of a node, bytes: a DNS name and a port fit.
pub const ADDRESS_BYTES_MAX: usize = 300;
/// Replicas of one shard: more only slow a commit down.
pub const REPLICAS_MAX: usize = 7;
/// Nodes of a bootstrap.
pub const NODES_MAX: usize = 1_000;
/// A text of the audit log, bytes.
pub const AUDIT_TEXT_BYTES_MAX: usize = 512;
/// Words of the audit log in one command.
pub const AUDIT_WORDS_MAX: usize = 256;
/// A day, ms.
pub const DAY_MS: u64 = 24 * 3600 * 1000;
/// Message of a refusal, bytes: it may quote what the caller sent.
pub const MESSAGE_BYTES_MAX: usize = 512;
