//! Limits of what a shard accepts, each with its unit and reason.

/// Jobs written out one by one in a submission: with 1 KiB bodies a full one is a tenth of a second of log.
pub const SUBMISSION_JOBS_MAX: usize = 10_000;
/// Jobs of an array, which costs one record until its jobs are leased.
pub const ARRAY_JOBS_MAX: u32 = 10_000_000;
/// Bytes of all bodies of a submission: one Raft entry carries it, and must not hold up the others of its shard.
pub const SUBMISSION_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one body, whatever the setting says: a body is copied into every replica's log and store.
pub const BODY_BYTES_HARD_MAX: usize = 1024 * 1024;
/// Bytes of a name: queue, owner, group, share, label, task, worker, tag, body type.
pub const NAME_BYTES_MAX: usize = 256;
/// Tags of a job's needs.
pub const TAGS_MAX: usize = 32;
/// Parents of one job; the whole submission is further bounded by [`SUBMISSION_EDGES_MAX`].
pub const PARENTS_MAX: usize = 10_000;
/// Dependencies of a whole submission: they stay in memory while the task lives.
pub const SUBMISSION_EDGES_MAX: usize = 100_000;
/// Bytes of a job's last output that are kept with its result.
pub const OUTPUT_BYTES_MAX: usize = 4 * 1024;
/// Bytes of what else a worker tells with a result: a pilot's job report is some 10 KiB, now and then 100.
pub const DETAILS_BYTES_MAX: usize = 256 * 1024;
/// Error pairs of a result: PanDA has eight.
pub const ERRORS_MAX: usize = 8;
/// Bytes of an error's text or of a reason.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Results in one command.
pub const RESULTS_MAX: usize = 4_096;
/// Jobs in one lease.
pub const LEASE_JOBS_MAX: usize = 1_000;
/// Jobs named in one command by the leader (expire, wake, time out, act).
pub const COMMAND_JOBS_MAX: usize = 4_096;
/// Commands in one entry.
pub const ENTRY_COMMANDS_MAX: usize = 4_096;
/// Bytes of one entry: the largest submission and its frame.
pub const ENTRY_BYTES_MAX: usize = SUBMISSION_BYTES_MAX + 512 * 1024;
/// Classes of a shard: a worker's request looks at those of its queue.
pub const CLASSES_MAX: usize = 65_536;
/// Submissions remembered for recognising repeats, per shard: 48 B each.
pub const DEDUP_MAX: usize = 262_144;
/// How long a submission is remembered, ms: far longer than any client retries.
pub const DEDUP_WINDOW_MS: u64 = 3_600_000;
/// How far a client's clock may be ahead, ms.
pub const CLOCK_AHEAD_MAX_MS: u64 = 3_600_000;
/// Priorities: PanDA's run from 0 to about 7,000.
pub const PRIORITY_MAX: i32 = 10_000;
/// Attempts of a job.
pub const ATTEMPTS_MAX: u32 = 1_000;
/// Cores of a job: larger than any machine.
pub const CORES_MAX: u32 = 100_000;
/// Longest wall time, s: a year.
pub const WALL_TIME_S_MAX: u32 = 366 * 86_400;
/// Live jobs of a shard, those of arrays included: counters of a class have 32 bits. Operators set a lower bound.
pub const LIVE_JOBS_MAX: u64 = 1_000_000_000;
/// Live sequence numbers of a shard stay below this: ids are never used twice.
pub const SEQ_MAX: u64 = moso_proto::id::SEQ_MAX;

const _: () = {
    assert!(SUBMISSION_BYTES_MAX >= BODY_BYTES_HARD_MAX);
    assert!(ENTRY_BYTES_MAX > SUBMISSION_BYTES_MAX);
    assert!(LEASE_JOBS_MAX <= COMMAND_JOBS_MAX);
    assert!(PARENTS_MAX <= SUBMISSION_EDGES_MAX);
    assert!(LIVE_JOBS_MAX + SUBMISSION_JOBS_MAX as u64 <= u32::MAX as u64);
    assert!(ARRAY_JOBS_MAX as u64 <= LIVE_JOBS_MAX);
};
