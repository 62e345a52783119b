//! Options of the commands about clusters that are large, or grow.

use super::{Lifecycle, body_bytes, positive};
use clap::{Args, ValueEnum};

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Axis {
    /// Shards of the cluster
    Shards,
    /// Jobs that wait: all are submitted before the first is leased
    Queued,
    /// Queues that the jobs are spread over
    Queues,
    /// Worker sessions that wait beside, each with connections of its own
    Sessions,
    /// Bytes of a job's body
    Body,
}

impl Axis {
    /// Its sizes when none are given.
    pub fn sizes(self) -> Vec<u64> {
        match self {
            Axis::Shards => vec![1, 2, 4, 8, 16, 32, 64],
            Axis::Queued => vec![1_000, 10_000, 100_000, 1_000_000],
            Axis::Queues => vec![1, 10, 100, 1_000, 10_000],
            Axis::Sessions => vec![1, 10, 100, 1_000, 5_000],
            Axis::Body => vec![64, 256, 1_024, 4_096, 16_384, 65_536],
        }
    }

    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Axis::Shards => "shards",
            Axis::Queued => "queued",
            Axis::Queues => "queues",
            Axis::Sessions => "sessions",
            Axis::Body => "body",
        }
    }

    /// In words, for the picture.
    pub fn words(self) -> &'static str {
        match self {
            Axis::Shards => "shards",
            Axis::Queued => "jobs queued before the first is leased",
            Axis::Queues => "queues",
            Axis::Sessions => "sessions that wait beside",
            Axis::Body => "bytes of a body",
        }
    }
}

#[derive(Clone, Debug, Args)]
pub struct Growth {
    /// What grows
    #[arg(long, value_enum)]
    pub axis: Axis,
    /// The sizes, rising
    #[arg(long, value_delimiter = ',', value_name = "N")]
    pub sizes: Vec<u64>,
    #[command(flatten)]
    pub load: Lifecycle,
}

#[derive(Clone, Debug, Args)]
pub struct Upkeep {
    /// Jobs that the cluster holds
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: u32,
    /// Bytes of a job's body
    #[arg(long, default_value_t = 256, value_parser = body_bytes)]
    pub body: usize,
    /// Requests that users make a second meanwhile
    #[arg(long, default_value_t = 200.0, value_parser = positive)]
    pub rate: f64,
}
