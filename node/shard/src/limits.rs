//! What the shard's replication refuses to exceed, each with its unit and reason.

/// Bytes of one log entry's payload. A command batch is one entry; a larger one would hold up the heartbeats behind it.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Bytes of one encoded message between replicas: the receiver's buffer for one frame. Holds one entry of the greatest
/// size with its header, or an append of [`APPEND_BYTES_MAX`].
pub const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// Bytes of entries in one append, at most. The default is lower: see `ReplicaConfig::append_bytes_max`.
pub const APPEND_BYTES_MAX: usize = ENTRY_BYTES_MAX + (ENTRY_BYTES_MAX >> 1);

/// Entries in one append. A decoded entry costs some 140 bytes beside its payload, so small entries are bounded by number.
pub const APPEND_ENTRIES_MAX: usize = 1024;

/// Bytes of a message's context: a read's id (8) or Raft's mark of a transfer campaign (16).
pub const CONTEXT_BYTES_MAX: usize = 32;

/// Voters and learners of one shard, old and new configuration together. Five replicas being moved make ten.
pub const MEMBERS_MAX: usize = 16;

/// Greatest term and index accepted from a peer. A term near `u64::MAX` would leave no next one to campaign in; at a
/// million entries a second this index is reached after 146 thousand years.
pub const COUNTER_MAX: u64 = 1 << 62;

/// Read requests waiting for a quorum. One request per turn serves all reads of that turn, so more means that the quorum
/// is gone.
pub const READS_PENDING_MAX: usize = 64;

/// Entries a replica may lack and still be given the leadership. The shard takes no proposals until it has caught up.
pub const TRANSFER_LAG_MAX: u64 = 128;

/// Unanswered probes a quorum lease remembers. A probe is due once per heartbeat; an older one can no longer extend it.
pub const LEASE_PROBES_MAX: usize = 16;

/// Bytes a cached entry costs beside its payload, rounded up.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 160;
