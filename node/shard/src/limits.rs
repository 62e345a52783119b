//! What the shard's replication refuses to exceed, each with its unit and reason.

/// Bytes of one log entry's payload: the largest submission and its frame. Batches of commands are far smaller
/// ([`ENTRY_BYTES_TARGET`]); a larger entry would hold up the heartbeats behind it.
pub const ENTRY_BYTES_MAX: usize = 5 << 20;

/// Bytes of one encoded message between replicas: the receiver's buffer for one frame. Holds one entry of the greatest
/// size with its header, or an append of [`APPEND_BYTES_MAX`].
pub const MESSAGE_BYTES_MAX: usize = 10 << 20;

/// Bytes of entries in one append, at most. The default is lower: see `ReplicaConfig::append_bytes_max`.
pub const APPEND_BYTES_MAX: usize = ENTRY_BYTES_MAX + (ENTRY_BYTES_MAX >> 1);

/// Entries in one append. A decoded entry costs some 140 bytes beside its payload, so small entries are bounded by number.
pub const APPEND_ENTRIES_MAX: usize = 1024;

/// Bytes of a message's context: a read's id (8) or Raft's mark of a transfer campaign (16).
pub const CONTEXT_BYTES_MAX: usize = 32;

/// Members of one group in each of its four lists. A shard has five and as many that join; of the meta group every node is
/// a member.
pub const MEMBERS_MAX: usize = 1_000;

/// Entries that a learner may lack when it gets its vote: about what a loaded shard has under way. One that lacked more
/// would hold up every commit that needs it.
pub const PROMOTE_LAG_MAX: u64 = 1_024;

/// Greatest term and index accepted from a peer. A term near `u64::MAX` would leave no next one to campaign in; at a
/// million entries a second this index is reached after 146 thousand years.
pub const COUNTER_MAX: u64 = 1 << 62;

/// Read requests waiting for a quorum. One request per turn serves all reads of that turn, so more means that the quorum
/// is gone.
pub const READS_PENDING_MAX: usize = 64;

/// Entries a replica may lack and still be given the leadership. The shard takes no proposals until it has caught up; a
/// busy shard has hundreds under way at any time.
pub const TRANSFER_LAG_MAX: u64 = 1_024;

/// Unanswered probes a quorum lease remembers. A probe is due once per heartbeat; an older one can no longer extend it.
pub const LEASE_PROBES_MAX: usize = 16;

/// Bytes a cached entry costs beside its payload, rounded up.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 160;

/// Leases are filed by the time at which they are to be looked at, in steps of so many ms: an expiry is late by one
/// step at most.
pub const LEASE_BUCKET_MS: u64 = 250;
/// A lease is looked at after so many ms at the latest, however long it is: what has ended is forgotten then, so that the
/// table holds the leases given in five minutes, not those of a day.
pub const LEASE_LOOK_MS: u64 = 300_000;
/// Leases that may expire in a second even in a small shard; larger ones may lose 2 % a second.
pub const EXPIRIES_PER_SECOND_MIN: u64 = 100;
/// Silent workers are counted over so many ms by the breaker.
pub const EXPIRY_WINDOW_MS: u64 = 10_000;
/// Fewer silent sessions than this are dead workers, not an ill network, whatever part of all they are.
pub const EXPIRY_SESSIONS_MIN: u64 = 10;
/// Jobs of an array filed in the ready index at a time: a worker's largest lease and some.
pub const ARRAY_FEED_MAX: u32 = 2_048;
/// With fewer filed jobs of an array than this, more are filed.
pub const ARRAY_FEED_LOW: u32 = 1_024;
/// A ready index with fewer stale entries than this is not worth building anew.
pub const INDEX_REBUILD_STALE_MIN: u64 = 1_000;
/// Sessions whose word on what they hold waits for the next look, once a second: as many as reconnect in a second after
/// a node's end. Beyond that a worker is told to say it again.
pub const SETTLEMENTS_MAX: usize = 100_000;
/// Leases in such words: 16 MB.
pub const SETTLEMENTS_LEASES_MAX: usize = 1_000_000;
/// Phases kept until they are proposed, once a second; beyond that a worker's next heartbeat tells again.
pub const PHASES_MAX: usize = 100_000;
/// Entries proposed and not yet applied, per shard.
pub const PROPOSALS_MAX: usize = 1_024;
/// Bytes of commands gathered for the next entry at which it is proposed without waiting: a disk write of some 100 µs.
pub const ENTRY_BYTES_TARGET: usize = 256 << 10;
/// Bytes of commands gathered at which submitters are told to come back later; at twice as many leases are refused, at
/// three times as many results.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Entries gathered and not yet proposed, with the same steps.
pub const BATCHES_MAX: usize = 64;
/// Appends of a leader not yet on disk, beyond which it gathers commands instead of proposing them.
pub const UNPERSISTED_MAX: usize = 2;
/// Jobs looked at for time-outs in one step; a walk over all takes a minute.
pub const SWEEP_JOBS_MIN: usize = 1_000;
/// Parts of a walk for time-outs: one a second.
pub const SWEEP_PARTS: usize = 60;

const _: () = {
    assert!(ENTRY_BYTES_MAX >= moso_queue::limits::ENTRY_BYTES_MAX);
    assert!(MESSAGE_BYTES_MAX > APPEND_BYTES_MAX);
};
