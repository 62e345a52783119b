//! The kinds of faults.

use clap::ValueEnum;
use std::fmt;

/// A kind of fault. To add one: a variant here, its needs in `tools.rs`, and its file in `faults/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum FaultKind {
    /// SIGKILL of one node
    KillOne,
    /// SIGKILL of the node that leads most shards
    KillLeader,
    /// SIGKILL of a majority at once
    KillMajority,
    /// SIGKILL of all nodes at once
    KillAll,
    /// SIGTERM of one node after the other, each started again when it has ended
    RollingRestart,
    /// A shard's replica is destroyed and a new one takes its place, by copy, learner and joint consensus
    ReplaceReplica,
    /// A node is drained, and taken back
    Drain,
    /// SIGSTOP of one node for 1 to 60 s
    Stop,
    /// One node is cut off from all others, both ways
    Partition,
    /// What one node sends to the others does not arrive
    PartitionOneWay,
    /// Two nodes do not hear each other
    PartitionLink,
    /// Messages to and from one node take 5 to 200 ms longer
    SlowLink,
    /// Connections between nodes are reset again and again
    ResetLinks,
    /// Syncs of one node take 50 ms to 1 s longer (strace)
    SlowSync,
    /// Syncs of one node fail with EIO (strace): it must end itself
    SyncError,
    /// The disk of one node is full (a tmpfs is mounted; root)
    DiskFull,
    /// The wall clock of one node jumps an hour ahead or back, and later returns (libfaketime)
    ClockJump,
}

impl FaultKind {
    /// All kinds.
    pub fn all() -> &'static [FaultKind] {
        Self::value_variants()
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}
