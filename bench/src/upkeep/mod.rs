//! `upkeep`: what an operator does to a cluster that holds many jobs, how long each step takes, and what its users feel.
//!
//! | step | how it is timed |
//! |---|---|
//! | all nodes restarted, one after the other | from the first SIGTERM until the last is ready |
//! | a node's disk lost, another node in its place | from the new node's start until every shard has all its replicas |
//! | backup | the run of `moso backup create` |
//! | restore into a new cluster of as many nodes | the runs of `moso-node restore`; then from the start until every shard is led |

mod report;
mod traffic;

use crate::args::{Common, Upkeep};
use crate::mark::{Bodies, Mark};
use anyhow::{Context, Result, bail, ensure};
use moso::{LocalCluster, LocalOptions};
use moso_client::v1::TaskSpec;
use moso_client::{Client, ClientOptions, Code, Error, Submission};
use moso_proto::object::{Node, Queue, QueueState, ShardTable, kind};
use report::Report;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::task::JoinSet;
use traffic::Traffic;

const QUEUE: &str = "upkeep-held";
/// Jobs of a submission, and submissions in flight.
const BATCH: u64 = 1_000;
const SUBMITTERS: u64 = 16;
/// Users alone, to compare with.
const CALM: Duration = Duration::from_secs(10);
/// A step must be done after this.
const STEP_MAX: Duration = Duration::from_secs(1_800);
const LOOK: Duration = Duration::from_millis(200);
/// The node whose disk is lost.
const LOST: u32 = 3;

/// Runs the command. `true`: no request failed, and the restored cluster holds every job.
///
/// # Errors
/// When a step cannot be made.
pub async fn command(common: &Common, asked: &Upkeep) -> Result<bool> {
    ensure!(common.connect.is_empty(), "upkeep starts its own cluster; --connect does not go with it");
    let (nodes, shards) = common.size()?;
    ensure!(nodes >= 3, "a node can be spared only of three or more");
    // Goes with this call, also if that is given up.
    let temporary = tempfile::Builder::new().prefix("moso-upkeep-").tempdir().context("temporary folder")?;
    let folder = common.data.as_deref().unwrap_or(temporary.path());
    let report = run(common, asked, folder, (nodes, shards)).await?;
    print!("{}", report.text());
    if let Some(path) = &common.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(report.ok())
}

async fn run(common: &Common, asked: &Upkeep, folder: &Path, (nodes, shards): (u32, u16)) -> Result<Report> {
    let options = |name: &str| LocalOptions {
        nodes,
        shards,
        data: Some(folder.join(name)),
        cluster: name.to_owned(),
        // A node with many jobs loads them first.
        ready_timeout: STEP_MAX,
        ..LocalOptions::default()
    };
    let mut cluster = LocalCluster::start(options("upkeep")).await.context("local cluster")?;
    println!("upkeep: {} jobs of {} bytes on {nodes} local nodes, {shards} shards", asked.jobs, asked.body);
    let mut report = Report { jobs: asked.jobs, body_bytes: asked.body, nodes, shards, ..Report::default() };
    let client = Client::connect(cluster.addrs()).await.context("cluster")?;
    let operator = operator(&cluster).await?;
    fill(&client, asked, common.seed, &mut report).await?;

    let traffic = Traffic::start(&client, asked.rate, "calm").await?;
    tokio::time::sleep(CALM).await;
    report.phases.push(traffic.next("restart of all nodes"));
    report.restart_s = restart_all(&mut cluster).await?;
    println!("all nodes restarted in {:.1} s", report.restart_s);
    report.phases.push(traffic.next("a disk lost, a node in its place"));
    report.replace_s = replace(&mut cluster, &operator).await?;
    println!("a new node in the place of one that lost its disk: whole after {:.1} s", report.replace_s);
    report.phases.push(traffic.next("backup"));
    let backup = folder.join("backup");
    report.backup_s = back_up(&cluster, &backup).await?;
    println!("backup: {:.1} s", report.backup_s);
    report.phases.push(traffic.next("end"));
    traffic.stop().await?;
    report.backup_bytes = bytes_in(&backup)?;
    drop(client);
    cluster.stop().await.context("local cluster")?;
    restore(options("restored"), &backup, common, &mut report).await?;
    Ok(report)
}

async fn operator(cluster: &LocalCluster) -> Result<Client> {
    let options = ClientOptions { retry_budget: STEP_MAX, author: "upkeep".into(), ..ClientOptions::default() };
    Client::connect_with(cluster.addrs(), options).await.context("cluster")
}

/// Jobs that wait, in a queue that gives none.
async fn fill(client: &Client, asked: &Upkeep, seed: u64, report: &mut Report) -> Result<()> {
    let queue = Queue { state: QueueState::Paused, ..Queue::default() };
    client.put_object(kind::QUEUE, QUEUE, &queue, None).await.context("queue")?;
    let started = Instant::now();
    let left = Arc::new(AtomicU64::new(u64::from(asked.jobs)));
    let mut submitters = JoinSet::new();
    for number in 0..SUBMITTERS {
        let (client, left) = (client.clone(), left.clone());
        // Noise, which does not compress, so that what is written and sent is what it would be.
        let bodies = Bodies::new(seed + number, asked.body);
        submitters.spawn(async move {
            while let Ok(before) = left.fetch_update(Relaxed, Relaxed, |l| (l > 0).then(|| l.saturating_sub(BATCH))) {
                let task =
                    TaskSpec { name: "held".into(), queue: QUEUE.into(), owner: "bench".into(), ..TaskSpec::default() };
                let jobs = before.min(BATCH);
                let mark = Mark { run: number as u32, record: before as u32, intended_us: 0 };
                let bodies = bodies.make(mark, jobs as u32);
                let submission = bodies.into_iter().fold(Submission::new(task), Submission::job);
                client.submit(submission).await?;
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(done) = submitters.join_next().await {
        done.context("a submitter")?.context("submission")?;
    }
    report.fill_s = started.elapsed().as_secs_f64();
    println!("{} jobs submitted in {:.1} s", asked.jobs, report.fill_s);
    Ok(())
}

async fn restart_all(cluster: &mut LocalCluster) -> Result<f64> {
    let started = Instant::now();
    for node in 1..=cluster.nodes() {
        ensure!(cluster.stop_node(node).await?, "node {node} did not end by itself");
        cluster.restart(node).await?;
    }
    Ok(started.elapsed().as_secs_f64())
}

async fn table(client: &Client) -> Result<ShardTable> {
    Ok(serde_json::from_str(&client.get_object(kind::SHARDS, "table").await?.json)?)
}

/// Waits until no shard has a replica there, or is about to change.
async fn whole_without(client: &Client, node: u32) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < STEP_MAX {
        let table = table(client).await?;
        if table.leaving.is_empty() && !table.replicas.iter().any(|nodes| nodes.contains(&node)) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("node {node} still has replicas after {STEP_MAX:?}")
}

async fn replace(cluster: &mut LocalCluster, client: &Client) -> Result<f64> {
    cluster.kill(LOST)?;
    let data = cluster.data(LOST);
    std::fs::remove_dir_all(&data).with_context(|| format!("{} cannot be removed", data.display()))?;
    let started = Instant::now();
    let new = cluster.add_node()?;
    client.put_object(kind::NODE, &new.to_string(), &cluster.object(new)?, None).await?;
    let object = client.get_object(kind::NODE, &LOST.to_string()).await?;
    let known: Node = serde_json::from_str(&object.json)?;
    client.put_object(kind::NODE, &LOST.to_string(), &Node { drain: true, ..known }, Some(object.version)).await?;
    whole_without(client, LOST).await?;
    let seconds = started.elapsed().as_secs_f64();
    match client.delete_object(kind::NODE, &LOST.to_string(), None).await {
        // A repeat, after the answer was lost, finds it gone.
        Ok(_) | Err(Error::Refused { code: Code::NotFound, .. }) => Ok(seconds),
        Err(error) => Err(error.into()),
    }
}

/// A program that was built beside this one.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe().context("own path")?.with_file_name(name);
    ensure!(path.exists(), "{} is missing: build it first", path.display());
    Ok(path)
}

async fn timed(command: &mut Command) -> Result<f64> {
    let started = Instant::now();
    let done = command.kill_on_drop(true).output().await.context("program")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{:?}: {}: {said}", command.as_std(), done.status);
    Ok(started.elapsed().as_secs_f64())
}

async fn back_up(cluster: &LocalCluster, folder: &Path) -> Result<f64> {
    let mut command = Command::new(program("moso")?);
    command.arg("--connect").arg(cluster.addrs().join(",")).args(["backup", "create"]).arg(folder);
    timed(&mut command).await
}

fn bytes_in(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let entry = entry?;
        let kind = entry.metadata()?;
        sum += if kind.is_dir() { bytes_in(&entry.path())? } else { kind.len() };
    }
    Ok(sum)
}

/// Into a cluster of as many nodes and shards; then its jobs are counted.
async fn restore(options: LocalOptions, backup: &Path, common: &Common, report: &mut Report) -> Result<()> {
    let mut cluster = LocalCluster::prepare(options)?;
    for node in 1..=cluster.nodes() {
        let mut command = Command::new(program("moso-node")?);
        command.arg("restore").arg("--backup").arg(backup).arg("--config").arg(cluster.config(node));
        report.restore_s.push(timed(&mut command).await?);
    }
    let started = Instant::now();
    cluster.start_nodes().await.context("restored cluster")?;
    report.start_s = started.elapsed().as_secs_f64();
    let client = Client::connect(cluster.addrs()).await.context("restored cluster")?;
    let waited = Instant::now();
    loop {
        let queues = client.cluster().await?.queues;
        report.restored_jobs = queues.iter().find(|q| q.queue == QUEUE).map_or(0, |q| q.ready);
        if report.restored_jobs >= u64::from(report.jobs) || waited.elapsed() > common.patience {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    cluster.stop().await.context("restored cluster")
}
