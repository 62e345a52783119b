//! The command line.

mod sizes;

pub use sizes::{Axis, Growth, Soak, Upkeep};

use crate::chaos::FaultKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Load, measurements and replays of traces against a moso cluster.
#[derive(Debug, Parser)]
#[command(name = "moso-bench", version)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Addresses of a running cluster (host:port,…). Without it a cluster is started on this machine
    #[arg(long, global = true, value_delimiter = ',', value_name = "HOST:PORT")]
    pub connect: Vec<String>,
    /// Nodes of the cluster that is started (3); sizes to compute for `scale`
    #[arg(long, global = true, value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub nodes: Vec<u32>,
    /// Shards of the cluster that is started (6); shard counts to compute for `scale`
    #[arg(long, global = true, value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4_095))]
    pub shards: Vec<u16>,
    /// Folder of the cluster that is started; a temporary one if not given
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The cluster that is started uses TLS and tokens, made for it
    #[arg(long, global = true)]
    pub tls: bool,
    /// Certificate of the authority of the cluster named with --connect (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A file with a token for it
    #[arg(long, global = true, value_name = "FILE", requires = "ca")]
    pub token_file: Option<PathBuf>,
    /// Leave the cluster running at the end
    #[arg(long, global = true)]
    pub keep: bool,
    /// Write the report as JSON
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw queued, running and ended jobs over time
    #[arg(long, global = true, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write all latency percentiles (text, HdrHistogram's format)
    #[arg(long, global = true, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// Seed of everything that is drawn
    #[arg(long, global = true, default_value_t = 1)]
    pub seed: u64,
    /// Threads of the load generator
    #[arg(long, global = true, default_value_t = 2)]
    pub threads: usize,
    /// Give up when nothing happens for so long
    #[arg(long, global = true, default_value = "180s", value_parser = duration)]
    pub patience: Duration,
    /// Nodes tell each other their counters; a reading waits so long for it
    #[arg(long, global = true, default_value = "1500ms", value_parser = duration)]
    pub settle: Duration,
}

impl Common {
    /// Nodes and shards of the cluster that is started.
    ///
    /// # Errors
    /// When several numbers were given.
    pub fn size(&self) -> anyhow::Result<(u32, u16)> {
        let (nodes, shards) = (self.nodes.as_slice(), self.shards.as_slice());
        anyhow::ensure!(
            nodes.len() <= 1 && shards.len() <= 1,
            "one cluster is started: give --nodes and --shards one number each; only `scale` takes several"
        );
        Ok((nodes.first().copied().unwrap_or(3), shards.first().copied().unwrap_or(6)))
    }
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Submit, lease and finish as many jobs as the cluster takes
    Lifecycle(Lifecycle),
    /// Hold leased jobs with heartbeats and see what they cost
    Running(Running),
    /// Submit at a fixed rate and see how long each step takes
    Latency(Latency),
    /// Replay a trace of a real grid, or a workload like one
    Replay(Replay),
    /// Real processes under load and under faults, and a checker of everything that was answered
    Chaos(Chaos),
    /// The life cycle while shards, queues, sessions, bodies or the backlog grow
    Growth(Growth),
    /// What an operator does to a cluster that holds many jobs, how long it takes, and what its users feel
    Upkeep(Upkeep),
    /// The same load for an hour: memory, disk and latency must stay where they are
    Soak(Soak),
    /// Many times the load that a cluster carries, while workers hold jobs: none may be lost
    Overload(Overload),
    /// Compute how a cluster of any size behaves; needs no cluster
    Scale(Box<Scale>),
    /// The same life cycle on another server, for comparison
    Peer(Peer),
    /// Pilots of PanDA: a job, that it runs, that it is finished; one HTTP request each
    Panda(Panda),
}

#[derive(Clone, Debug, Args)]
pub struct Panda {
    /// Addresses of the fronts for PanDA's programs; with --connect
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
    pub fronts: Vec<String>,
    /// Jobs that go through their cycle
    #[arg(long, default_value_t = 60_000)]
    pub jobs: u32,
    /// Connections on which cycles run, each kept open
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub pilots: u32,
    /// Speak the old dialect: gzip of JSON in, a form out
    #[arg(long)]
    pub old: bool,
    /// Jobs more that stay in the queue
    #[arg(long, default_value_t = 0)]
    pub backlog: u32,
    /// Pilots that ask an empty queue, each on a new connection every time
    #[arg(long, default_value_t = 0)]
    pub idle_pilots: u32,
    /// How often each of them asks; the real ones every 60 to 180 s
    #[arg(long, default_value = "120s", value_parser = duration)]
    pub idle_every: Duration,
    /// Jobs that run all the while, each heard of every so often
    #[arg(long, default_value_t = 0)]
    pub running: u32,
    /// How often
    #[arg(long, default_value = "30m", value_parser = duration)]
    pub heartbeat: Duration,
    /// How long idle pilots and running jobs are looked at, when no jobs go through; s
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
}

#[derive(Clone, Debug, Args)]
pub struct Lifecycle {
    /// Jobs in all
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: u32,
    /// Jobs per submission (one task) and per lease request
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Bytes of a job's body
    #[arg(long, default_value_t = 1024, value_parser = body_bytes)]
    pub body: usize,
    /// Queues the jobs are spread over
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub queues: u32,
    /// Submissions in flight; by the batch if not given
    #[arg(long)]
    pub submitters: Option<u32>,
    /// Worker sessions; by the batch if not given
    #[arg(long)]
    pub workers: Option<u32>,
    /// Submit everything first, then drain
    #[arg(long)]
    pub phases: bool,
    /// Jobs run before, not measured; a tenth, at most 20,000, if not given
    #[arg(long)]
    pub warmup: Option<u32>,
}

impl Lifecycle {
    /// Submitters or workers for a batch: about 1,600 jobs in flight, which hides one commit, on 16 to 64 streams.
    pub fn parallel(&self, asked: Option<u32>) -> u32 {
        asked.unwrap_or((1_600 / self.batch).clamp(16, 64)).max(1)
    }

    /// Jobs of the warm-up.
    pub fn warmup_jobs(&self) -> u32 {
        self.warmup.unwrap_or((self.jobs / 10).min(20_000))
    }

    /// What was asked, in words.
    pub fn describe(&self) -> String {
        format!(
            "{} jobs of {} bytes, batches of {}, {} queues, {} submitters, {} workers, {}",
            self.jobs,
            self.body,
            self.batch,
            self.queues,
            self.parallel(self.submitters),
            self.parallel(self.workers),
            if self.phases { "one phase after the other" } else { "overlapped" }
        )
    }
}

#[derive(Clone, Debug, Args)]
pub struct Overload {
    /// Connections that make the load
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(50..=200_000))]
    pub connections: u32,
    /// How long
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// So many times what the cluster carries
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub factor: f64,
    /// What it carries is measured for so long before
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub calibrate: Duration,
    /// Jobs held by workers meanwhile
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub held: u32,
    /// These workers
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: u32,
    /// Without a heartbeat for so long a job is lost; workers send one in a tenth of it
    #[arg(long, default_value = "15s", value_parser = duration)]
    pub lease: Duration,
    /// Jobs per submission
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Bytes of a job's body
    #[arg(long, default_value_t = 256, value_parser = body_bytes)]
    pub body: usize,
    /// All must be as before so long after the load
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub recover: Duration,
}

/// A server that is not a moso cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// PostgreSQL: a table, FOR UPDATE SKIP LOCKED
    Postgres,
    /// NATS JetStream: work-queue streams on file, pull consumers
    Nats,
    /// RabbitMQ: quorum queues, publisher confirms
    Rabbitmq,
    /// Redis: streams with consumer groups
    Redis,
}

#[derive(Clone, Debug, Args)]
pub struct Peer {
    /// What the server is
    #[arg(long, value_enum)]
    pub kind: Kind,
    /// Where it is: postgres://USER:PASSWORD@HOST:PORT/DB, nats://HOST:PORT, amqp://USER:PASSWORD@HOST:PORT or
    /// redis://HOST:PORT
    #[arg(long)]
    pub url: String,
    /// Replicas of a stream or queue (nats, rabbitmq)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub replicas: u8,
    /// Remove what an earlier run left on the server
    #[arg(long)]
    pub replace: bool,
    #[command(flatten)]
    pub load: Lifecycle,
}

#[derive(Clone, Debug, Args)]
pub struct Running {
    /// Jobs held
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: u32,
    /// Interval of the heartbeats of each job
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub heartbeat: Duration,
    /// Send heartbeats as fast as they are answered
    #[arg(long)]
    pub flood: bool,
    /// How long the jobs are held
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// Bytes of a job's body
    #[arg(long, default_value_t = 1024, value_parser = body_bytes)]
    pub body: usize,
    /// Queues the jobs are spread over
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub queues: u32,
    /// Worker sessions
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: u32,
    /// Jobs that pass through another queue while the others are held
    #[arg(long, default_value_t = 50_000)]
    pub through: u32,
    /// Then kill the node that leads most shards, and all nodes at once, and see when the leases are live again
    #[arg(long)]
    pub failover: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Latency {
    /// Submissions a second
    #[arg(long, default_value_t = 200.0, value_parser = positive)]
    pub rate: f64,
    /// How long it is measured
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// Seconds before, not measured
    #[arg(long, default_value_t = 3)]
    pub warmup: u64,
    /// Jobs per submission
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Bytes of a job's body
    #[arg(long, default_value_t = 1024, value_parser = body_bytes)]
    pub body: usize,
    /// Queues the jobs are spread over
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub queues: u32,
    /// Most submissions in flight; those that come later start late and are timed from when they were due
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub submitters: u32,
    /// Worker sessions that wait for work
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: u32,
}

#[derive(Clone, Debug, Args)]
pub struct Replay {
    /// Trace in the Standard Workload Format, plain or gzip; without it a built-in workload
    #[arg(long, value_name = "FILE.swf[.gz]")]
    pub trace: Option<PathBuf>,
    /// Jobs of the built-in workload, or the first so many of the trace
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: Option<u32>,
    /// How many times faster than recorded
    #[arg(long, default_value_t = 2_000.0, value_parser = positive)]
    pub speedup: f64,
    /// Each job of the trace becomes so many
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub amplify: u32,
    /// Kill a random node this often while the trace lasts, and start it again 2 s later (only a cluster started here)
    #[arg(long, value_parser = duration)]
    pub kill_every: Option<Duration>,
    /// Bytes of a job's body
    #[arg(long, default_value_t = 256, value_parser = body_bytes)]
    pub body: usize,
    /// Most submissions in flight
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub submitters: u32,
    /// Worker sessions; each serves some sites
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: u32,
}

#[derive(Clone, Debug, Args)]
pub struct Chaos {
    /// How long faults are made; the fault that is under way is brought to its end
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub minutes: f64,
    /// Make so many faults, however long it takes
    #[arg(long)]
    pub faults: Option<u32>,
    /// Kinds of faults; all that this machine has the tools for if not given
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    pub kinds: Vec<FaultKind>,
    /// Write the history, a line of JSON for each event
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Only check a history that was written before
    #[arg(long, value_name = "FILE", conflicts_with_all = ["history", "kinds", "faults"])]
    pub check: Option<PathBuf>,
    /// Mean calm time before each fault
    #[arg(long, default_value = "6s", value_parser = duration)]
    pub calm: Duration,
    /// Longest time that a fault lasts
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub hold_max: Duration,
    /// Least operations answered a second over all calm times
    #[arg(long, default_value_t = 50.0, value_parser = not_negative)]
    pub min_rate: f64,
    /// The cluster must be live so long after a fault, and every job must have ended so long after the last
    #[arg(long, default_value = "120s", value_parser = duration)]
    pub bound: Duration,
    /// Submissions in flight
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub submitters: u32,
    /// Worker sessions
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: u32,
    /// Jobs kept ready, so that dispatch has something to give
    #[arg(long, default_value_t = 300)]
    pub backlog: u64,
    /// The longest job
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub job_max: Duration,
}

#[derive(Clone, Debug, Args)]
pub struct Scale {
    /// Jobs held by workers
    #[arg(long, default_value_t = 10_000_000.0, value_parser = not_negative)]
    pub running: f64,
    /// Jobs that wait, spread over shards and queues
    #[arg(long, default_value_t = 1_000_000.0, value_parser = not_negative)]
    pub queued: f64,
    /// Jobs a day
    #[arg(long, default_value_t = 1_500_000.0, value_parser = positive)]
    pub jobs_per_day: f64,
    /// Jobs a second, instead of --jobs-per-day
    #[arg(long, value_parser = positive, conflicts_with = "jobs_per_day")]
    pub rate: Option<f64>,
    /// Jobs per submission, lease request and report
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub batch: u32,
    /// Bytes of a job's body
    #[arg(long, default_value_t = 1024, value_parser = body_bytes)]
    pub body: usize,
    /// Interval of the heartbeats of each worker
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub heartbeat: Duration,
    /// Worker sessions; each holds as many of the running jobs
    #[arg(long, default_value_t = 10_000.0, value_parser = positive)]
    pub workers: f64,
    /// Workers that wait for work
    #[arg(long, default_value_t = 0.0, value_parser = not_negative)]
    pub idle_workers: f64,
    /// Queues
    #[arg(long, default_value_t = 170.0, value_parser = positive)]
    pub queues: f64,
    /// Users with running jobs
    #[arg(long, default_value_t = 1_400.0, value_parser = not_negative)]
    pub users: f64,
    /// Replicas of a shard
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=5))]
    pub replicas: u32,
    /// Cores of a node
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub cores: u32,
    /// Memory of a node, GB
    #[arg(long, default_value_t = 64.0, value_parser = positive)]
    pub memory_gb: f64,
    /// What a node's disk takes, MB a second
    #[arg(long, default_value_t = 1_000.0, value_parser = positive)]
    pub disk_mb: f64,
    /// What a node's line takes in each direction, Gbit a second
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub line_gbit: f64,
    /// From one node to another one, one way, µs
    #[arg(long, default_value_t = 100.0, value_parser = not_negative)]
    pub latency_us: f64,
    /// All nodes and the load generator share the cores of one machine
    #[arg(long)]
    pub one_machine: bool,
    /// Batches under way when the highest rate is simulated; by the number of shards if not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub in_flight: Option<u32>,
    /// Nodes to which a node sends its hints: a remedy to try
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub hint_receivers: u32,
    /// Least time between two hints of a node: a remedy to try
    #[arg(long, default_value = "2ms", value_parser = duration)]
    pub hint_spacing: Duration,
    /// Spread the shards that a node leads over its reactors, whatever the number of nodes: a remedy to try
    #[arg(long)]
    pub spread_reactors: bool,
    /// Unit costs as JSON; what the file does not name keeps its default
    #[arg(long, value_name = "FILE")]
    pub costs: Option<PathBuf>,
    /// Measure on this machine what needs no cluster, print it as a costs file, and end
    #[arg(long)]
    pub calibrate: bool,
    /// The model alone
    #[arg(long)]
    pub no_simulation: bool,
}

/// Reads `250ms`, `20s`, `5m`, `2h`; a plain number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is not a time: write 250ms, 20s, 5m or 2h"))?;
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is not a unit of time: ms, s, m or h")),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|e| e.to_string())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("a number above 0 is needed".to_owned()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
        _ => Err("a number of at least 0 is needed".to_owned()),
    }
}

/// A body holds the generator's mark.
fn body_bytes(text: &str) -> Result<usize, String> {
    let (min, max) = (crate::mark::MARK_BYTES, 1024 * 1024);
    match text.parse::<usize>() {
        Ok(bytes) if (min..=max).contains(&bytes) => Ok(bytes),
        _ => Err(format!("{min} to {max} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "s", "5 s", "5d", "1e400s", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["moso-bench", "replay", "--nodes", "5", "--kill-every=20s"]);
        let cli = cli.expect("global options may follow the command");
        assert_eq!(cli.common.size().expect("one size"), (5, 6));
        assert!(matches!(cli.command, Command::Replay(r) if r.kill_every.is_some()));
    }

    #[test]
    fn only_scale_takes_several_sizes() {
        let parse = |args: &[&str]| Cli::try_parse_from(args).expect("the arguments are good").common;
        let several = parse(&["moso-bench", "scale", "--nodes", "10,100", "--shards", "64"]);
        assert_eq!((several.nodes.as_slice(), several.shards.as_slice()), ([10, 100].as_slice(), [64].as_slice()));
        assert!(several.size().is_err());
        assert_eq!(parse(&["moso-bench", "running"]).size().expect("the defaults"), (3, 6));
        assert!(Cli::try_parse_from(["moso-bench", "scale", "--shards", "4096"]).is_err());
        assert!(Cli::try_parse_from(["moso-bench", "scale", "--running=-1"]).is_err());
    }

    #[test]
    fn small_batches_get_more_streams() {
        let parse = |args: &[&str]| match Cli::try_parse_from(args).map(|cli| cli.command) {
            Ok(Command::Lifecycle(lifecycle)) => lifecycle,
            other => panic!("{other:?}"),
        };
        let one = parse(&["moso-bench", "lifecycle", "--batch", "1"]);
        assert_eq!(one.parallel(one.workers), 64);
        let many = parse(&["moso-bench", "lifecycle", "--workers", "3"]);
        assert_eq!((many.parallel(many.submitters), many.parallel(many.workers)), (16, 3));
        assert_eq!(many.warmup_jobs(), 20_000);
    }

    #[test]
    fn another_server_takes_the_load_of_a_life_cycle() {
        let parse = |args: &str| Cli::try_parse_from(["moso-bench"].into_iter().chain(args.split(' ')));
        let cli = parse("peer --kind nats --url nats://localhost:4222 --replicas 3 --jobs 10 --batch 1 --json r.json");
        let Ok(Cli { command: Command::Peer(peer), common }) = cli else { panic!("{cli:?}") };
        assert_eq!((peer.kind, peer.replicas, peer.replace), (Kind::Nats, 3, false));
        assert_eq!((peer.load.jobs, peer.load.batch, peer.load.body, peer.load.queues), (10, 1, 1024, 8));
        assert!(common.json.is_some());
        for kind in ["postgres", "rabbitmq", "redis"] {
            assert!(parse(&format!("peer --kind {kind} --url x")).is_ok(), "{kind}");
        }
        for bad in ["peer --kind kafka --url x", "peer --kind redis", "peer --url x", "peer --kind nats --replicas 0"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
