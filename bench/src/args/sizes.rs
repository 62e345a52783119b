//! Options of the commands about clusters that are large, or grow.

use super::{Lifecycle, body_bytes, duration, positive};
use clap::{Args, ValueEnum};
use std::time::Duration;

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

#[derive(Clone, Debug, Args)]
pub struct Soak {
    /// How long the load lasts
    #[arg(long, default_value_t = 60.0, value_parser = positive)]
    pub minutes: f64,
    /// Jobs a second
    #[arg(long, default_value_t = 20_000.0, value_parser = positive)]
    pub rate: f64,
    /// Jobs per submission (one task) and per lease request
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Bytes of a job's body
    #[arg(long, default_value_t = 1024, value_parser = body_bytes)]
    pub body: usize,
    /// Queues the jobs are spread over
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub queues: u32,
    /// Most submissions in flight; those that come later start late and are timed from when they were due
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub submitters: u32,
    /// Worker sessions
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: u32,
    /// Between two lines
    #[arg(long, default_value = "1m", value_parser = duration)]
    pub every: Duration,
    /// A day of the nodes' clocks passes in so long (needs libfaketime), and ended jobs are kept for one
    #[arg(long, value_name = "T", value_parser = duration)]
    pub day: Option<Duration>,
}

impl Soak {
    /// What was asked, in words.
    pub fn describe(&self) -> String {
        let day = self.day.map(|day| format!(", a day every {day:?}")).unwrap_or_default();
        format!(
            "{} jobs/s of {} bytes in batches of {} for {} minutes{day}",
            self.rate, self.body, self.batch, self.minutes
        )
    }
}
