//! Settings: every number that may be changed while the cluster runs, with unit, range, default and meaning.

use crate::level;

/// Description of a setting.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// Name, as given to `moso settings`.
    pub name: &'static str,
    /// Unit of the value.
    pub unit: &'static str,
    /// Smallest value.
    pub min: u64,
    /// Largest value.
    pub max: u64,
    /// Value when none is set.
    pub default: u64,
    /// Meaning.
    pub doc: &'static str,
    /// Feature level from which on it may be changed.
    pub since: u32,
}

/// Share of leases that go to the oldest job instead of the best (PanDA's SLOPPY_DISPATCH_RATIO).
pub const SLOPPY_DISPATCH_PERCENT: Schema = Schema {
    name: "sloppy_dispatch_percent",
    unit: "percent",
    min: 0,
    max: 100,
    default: 11,
    doc: "share of lease requests answered by age alone, so that low priorities are not starved",
    since: level::FIRST,
};
/// Largest body of a job.
pub const BODY_BYTES_MAX: Schema = Schema {
    name: "body_bytes_max",
    unit: "bytes",
    min: 1024,
    max: 1024 * 1024,
    default: 64 * 1024,
    doc: "largest body of one job",
    since: level::FIRST,
};
/// Days that ended jobs are kept.
pub const ARCHIVE_DAYS: Schema = Schema {
    name: "archive_days",
    unit: "days",
    min: 1,
    max: 3650,
    default: 3,
    doc: "ended jobs are kept this long, then dropped by whole days",
    since: level::FIRST,
};
/// Part of a shard's leases that may expire at once.
pub const EXPIRY_BREAKER_PERCENT: Schema = Schema {
    name: "expiry_breaker_percent",
    unit: "percent",
    min: 1,
    max: 100,
    default: 20,
    doc: "more leases of a shard than this expiring within 10 s hold expiry back for one lease time",
    since: level::FIRST,
};
/// Grace added to a lease before it is taken back.
pub const LEASE_GRACE_MS: Schema = Schema {
    name: "lease_grace_ms",
    unit: "ms",
    min: 0,
    max: 600_000,
    default: 5_000,
    doc: "waited after a lease has run out before the job is given to another worker",
    since: level::FIRST,
};
/// Queued jobs of one shard.
pub const SHARD_JOBS_MAX: Schema = Schema {
    name: "shard_jobs_max",
    unit: "jobs",
    min: 1_000,
    max: 100_000_000,
    default: 20_000_000,
    doc: "live jobs held by one shard; submissions beyond are told to come back later",
    since: level::FIRST,
};

/// Replicas of each shard.
pub const REPLICAS: Schema = Schema {
    name: "replicas",
    unit: "replicas",
    min: 0,
    max: 5,
    default: 0,
    doc: "replicas of each shard: 1, 3 or 5; 0: as many as the cluster was made with",
    since: level::FIRST,
};
/// Whether replicas are moved without being asked.
pub const REBALANCE: Schema = Schema {
    name: "rebalance",
    unit: "on or off",
    min: 0,
    max: 1,
    default: 1,
    doc: "1: replicas and leaderships are spread over the nodes by themselves; 0: only what is asked for is moved",
    since: level::FIRST,
};
/// Shards that may change their replicas at a time.
pub const MOVES_MAX: Schema = Schema {
    name: "moves_max",
    unit: "shards",
    min: 1,
    max: 64,
    default: 2,
    doc: "shards whose replicas change at a time; each copies its state to another node",
    since: level::FIRST,
};

/// At which feature level the cluster is. It goes there by itself.
pub const FEATURE_LEVEL: Schema = Schema {
    name: "feature_level",
    unit: "level",
    min: level::FIRST as u64,
    // A version that does not know a level must not refuse what the others take: it stops instead.
    max: u32::MAX as u64,
    default: level::FIRST as u64,
    doc: "what all nodes know and the cluster uses; raised by the cluster itself after an upgrade, and never lowered",
    since: level::LEVELS,
};

/// Entries of the audit log.
pub const AUDIT_ENTRIES_MAX: Schema = Schema {
    name: "audit_entries_max",
    unit: "entries",
    min: 100,
    max: 100_000,
    default: 10_000,
    doc: "entries of the audit log that are kept; the oldest go first",
    since: level::AUDIT,
};
/// Days that entries of the audit log are kept.
pub const AUDIT_DAYS: Schema = Schema {
    name: "audit_days",
    unit: "days",
    min: 1,
    max: 3650,
    default: 365,
    doc: "entries of the audit log are kept this long",
    since: level::AUDIT,
};

/// All settings.
pub const ALL: [Schema; 12] = [
    SLOPPY_DISPATCH_PERCENT,
    BODY_BYTES_MAX,
    ARCHIVE_DAYS,
    EXPIRY_BREAKER_PERCENT,
    LEASE_GRACE_MS,
    SHARD_JOBS_MAX,
    REPLICAS,
    REBALANCE,
    MOVES_MAX,
    FEATURE_LEVEL,
    AUDIT_ENTRIES_MAX,
    AUDIT_DAYS,
];

/// The setting of this name.
pub fn find(name: &str) -> Option<&'static Schema> {
    ALL.iter().find(|s| s.name == name)
}
