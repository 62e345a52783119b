//! `overload`: many times the load that a cluster carries, from thousands of connections, while workers hold jobs.
//!
//! | module | what |
//! |---|---|
//! | `caller`, `crowd` | connections, and what those do that make the load |
//! | `holder` | workers with running jobs, which must not notice |
//! | `nodes`, `tally`, `report` | what is measured, and what it means |

mod caller;
mod crowd;
mod holder;
mod nodes;
mod report;
mod tally;

use crate::args::{Common, Overload};
use anyhow::{Context, Result, ensure};
use caller::{Answer, Ask, Caller, answer};
use crowd::{Crowd, Manner, Plan};
use holder::Seen;
use moso::{LocalCluster, LocalOptions};
use moso_client::proto::object::{Queue, kind};
use moso_client::v1::{JobSpec, TaskSpec};
use moso_client::{Client, ClientOptions, Submission};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use report::Report;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tally::Tally;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;

const HELD_QUEUE: &str = "held";
const FLOOD_QUEUE: &str = "flood";
/// Connections of the measurement of what is carried: so many that it is not their waiting that is measured.
const CALM_CONNECTIONS: usize = 256;
/// Jobs of one submission for the workers.
const HELD_BATCH: usize = 500;
/// Figures are looked at this often.
const LOOK: Duration = Duration::from_millis(200);
/// Submissions one after the other that must be answered as before.
const PROBES: usize = 20;
/// An answer is as before if it comes within so many times what the slowest of the probes before took, or within
/// [`PROBE_LEAST`].
const PROBE_FACTOR: u32 = 3;
const PROBE_LEAST: Duration = Duration::from_millis(100);
/// The cluster carries as before if it carries this part of it: the machine is shared with all that was started.
const CARRIED_PART: f64 = 0.5;
const PROBE_TIME: Duration = Duration::from_millis(500);

/// Runs the command. `true`: no lease was lost, memory stayed within its limit, who was refused was told when to come
/// back, and soon all was as before.
///
/// # Errors
/// When the run could not be made, or was interrupted. All processes it started have ended then.
pub async fn command(common: &Common, asked: &Overload) -> Result<bool> {
    ensure!(common.connect.is_empty(), "overload starts its own cluster; --connect does not go with it");
    descriptors(asked.connections as usize)?;
    let report = tokio::select! {
        report = run(common, asked) => report?,
        signal = tokio::signal::ctrl_c() => {
            signal.context("signal")?;
            anyhow::bail!("interrupted");
        }
    };
    print!("{}", report.text());
    if let Some(path) = &common.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(report.ok)
}

/// Each connection is a descriptor.
fn descriptors(connections: usize) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("limit of open files")?;
    let need = connections as u64 + 1_000;
    ensure!(hard >= need, "{connections} connections need {need} open files, the system allows {hard}: see ulimit -n");
    if soft < need {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("limit of open files")?;
    }
    Ok(())
}

/// A cluster with its clients.
struct Stage {
    cluster: LocalCluster,
    client: Client,
    nodes: Vec<SocketAddr>,
    ask: Ask,
    /// Threads of the crowd: workers must not wait for it in this process either.
    crowd: Option<Runtime>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(runtime) = self.crowd.take() {
            runtime.shutdown_background();
        }
    }
}

async fn run(common: &Common, asked: &Overload) -> Result<Report> {
    let mut stage = Stage::open(common, asked).await?;
    let mut report = Report {
        command: "overload",
        nodes: stage.nodes.len() as u32,
        connections: asked.connections as usize,
        held: asked.held.into(),
        ..Report::default()
    };
    let seen = Arc::new(Seen::default());
    let (stop, stopped) = watch::channel(false);
    let mut workers = stage.hold(asked, &seen, stopped).await?;
    report.capacity_per_s = stage.carried(asked.calibrate, CALM_CONNECTIONS).await?;
    let calm = stage.probe_slowest().await?;
    report.heartbeats_before = seen.heartbeats.spread();
    report.asked_per_s = asked.factor * report.capacity_per_s;
    println!("{:.0} submissions/s are carried; now {:.0}/s", report.capacity_per_s, report.asked_per_s);

    let tally = Arc::new(Tally::default());
    let (began, plan) = (Instant::now(), stage.plan(asked, report.asked_per_s));
    let crowd = stage.start(plan, &tally);
    while began.elapsed() < Duration::from_secs(asked.seconds) {
        tokio::time::sleep(LOOK).await;
        report.open_peak = report.open_peak.max(tally.open.load(Relaxed));
        stage.cluster.check().context("a node ended under the load")?;
        if let Some(ended) = workers.try_join_next() {
            ended??;
        }
    }
    report.seconds = began.elapsed().as_secs_f64();
    report.take(&tally);
    stage.stop(crowd).await?;
    let over = Instant::now();
    report.normal_after_s = stage.recover(asked.recover, calm, report.capacity_per_s, over).await?;
    stop.send_replace(true);
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    report.heartbeats = seen.heartbeats.spread();
    report.results = seen.results.spread();
    report.leases_lost = seen.lost.load(Relaxed) + u64::from(asked.held).saturating_sub(seen.accepted.load(Relaxed));
    report.streams_broken = seen.broken.load(Relaxed);
    report.memory = nodes::memory(&stage.cluster).await?;
    report.refused = nodes::refused(&stage.cluster).await?;
    stage.cluster.check().context("a node ended after the load")?;
    report.judge(asked.recover.as_secs_f64());
    stage.cluster.stop().await.context("local cluster")?;
    Ok(report)
}

impl Stage {
    async fn open(common: &Common, asked: &Overload) -> Result<Stage> {
        let (nodes, shards) = common.size()?;
        let options = LocalOptions {
            nodes,
            shards,
            data: common.data.clone(),
            cluster: "overload".to_owned(),
            ..LocalOptions::default()
        };
        let cluster = LocalCluster::start(options).await.context("local cluster")?;
        let options = ClientOptions {
            retry_budget: common.patience,
            author: "moso-bench".to_owned(),
            ..ClientOptions::default()
        };
        let client = Client::connect_with(cluster.addrs(), options).await.context("cluster")?;
        let lease_ms = asked.lease.as_millis() as u32;
        let held = Queue { lease_ttl_ms: lease_ms, heartbeat_ms: lease_ms / 4, ..Queue::default() };
        client.put_object(kind::QUEUE, HELD_QUEUE, &held, None).await.context("queue")?;
        client.put_object(kind::QUEUE, FLOOD_QUEUE, &Queue::default(), None).await.context("queue")?;
        let nodes = cluster.addrs().iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
        let threads = Builder::new_multi_thread().worker_threads(common.threads.max(1)).enable_all().build();
        let ask = Ask::new(FLOOD_QUEUE, asked.batch, asked.body);
        Ok(Stage { cluster, client, nodes, ask, crowd: Some(threads.context("tokio")?) })
    }

    /// Workers that hold all the jobs.
    async fn hold(
        &self,
        asked: &Overload,
        seen: &Arc<Seen>,
        stop: watch::Receiver<bool>,
    ) -> Result<JoinSet<Result<()>>> {
        let (all, count) = (asked.held as usize, asked.workers as usize);
        for part in vec![(); all].chunks(HELD_BATCH) {
            let task = TaskSpec { queue: HELD_QUEUE.into(), owner: "holder".into(), ..TaskSpec::default() };
            let jobs = vec![JobSpec { body: "hold".into(), ..JobSpec::default() }; part.len()];
            self.client.submit(Submission::new(task).jobs(jobs)).await.context("jobs to hold")?;
        }
        let mut workers = JoinSet::new();
        for index in 0..count {
            let jobs = all / count + usize::from(index < all % count);
            let (client, seen, stop, beat) = (self.client.clone(), seen.clone(), stop.clone(), asked.lease / 10);
            workers.spawn(async move { holder::hold(client, index, (HELD_QUEUE, jobs), beat, seen, stop).await });
        }
        let began = Instant::now();
        while seen.held.load(Relaxed) + seen.accepted.load(Relaxed) < all as u64 {
            tokio::time::sleep(LOOK).await;
            ensure!(began.elapsed() < Duration::from_secs(90), "the workers did not get their {all} jobs");
            if let Some(ended) = workers.try_join_next() {
                ended??;
            }
        }
        Ok(workers)
    }

    fn plan(&self, asked: &Overload, rate: f64) -> Plan {
        let all = asked.connections as usize;
        let part = |percent: usize| (all * percent).div_ceil(100);
        let odd =
            [(Manner::Unread, part(2)), (Manner::Half, part(2)), (Manner::Eager, part(6)), (Manner::Closed, part(30))];
        let rest = all.saturating_sub(odd.iter().map(|(_, count)| count).sum());
        let members = odd.into_iter().chain([(Manner::Open, rest)]).collect();
        Plan { nodes: self.nodes.clone(), ask: self.ask.clone(), members, rate }
    }

    fn start(&self, plan: Plan, tally: &Arc<Tally>) -> Crowd {
        let _entered = self.crowd.as_ref().map(Runtime::enter);
        Crowd::start(plan, tally.clone())
    }

    async fn stop(&self, crowd: Crowd) -> Result<()> {
        let runtime = self.crowd.as_ref().context("the crowd's threads have ended")?;
        runtime.spawn(crowd.stop()).await.context("the crowd")
    }

    /// Submissions a second that are carried when those who submit wait for their answers.
    async fn carried(&self, time: Duration, connections: usize) -> Result<f64> {
        let tally = Arc::new(Tally::default());
        let members = vec![(Manner::Eager, connections)];
        let plan = Plan { nodes: self.nodes.clone(), ask: self.ask.clone(), members, rate: f64::MAX };
        let crowd = self.start(plan, &tally);
        tokio::time::sleep(time / 5).await;
        let (began, before) = (Instant::now(), tally.carried.load(Relaxed));
        tokio::time::sleep(time).await;
        let carried = (tally.carried.load(Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
        self.stop(crowd).await?;
        Ok(carried)
    }

    /// The slowest of some submissions one after the other, over all nodes; `None`: one was refused.
    async fn probe(&self) -> Result<Option<Duration>> {
        let mut slowest = Duration::ZERO;
        let mut ask = self.ask.clone();
        for node in &self.nodes {
            let mut caller = Caller::open(*node, IpAddr::V4(Ipv4Addr::LOCALHOST), 64 << 10).await?;
            for _ in 0..PROBES {
                let sent = Instant::now();
                if answer(caller.submit(&mut ask)?).await != Answer::Carried {
                    return Ok(None);
                }
                slowest = slowest.max(sent.elapsed());
            }
        }
        Ok(Some(slowest))
    }

    async fn probe_slowest(&self) -> Result<Duration> {
        self.probe().await?.context("a submission was refused with no load on the cluster")
    }

    /// How long after the load's end all is as before; `None`: not within `time`.
    async fn recover(&self, time: Duration, calm: Duration, capacity: f64, over: Instant) -> Result<Option<f64>> {
        let usual = (PROBE_FACTOR * calm).max(PROBE_LEAST);
        while over.elapsed() < time {
            let at = over.elapsed();
            let quick = matches!(self.probe().await, Ok(Some(slowest)) if slowest <= usual);
            if quick && self.carried(PROBE_TIME, CALM_CONNECTIONS).await? >= CARRIED_PART * capacity {
                return Ok(Some(at.as_secs_f64()));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(None)
    }
}
