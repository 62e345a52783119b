//! `growth`: the life cycle again and again while one size grows, each time on a fresh cluster. The cost of a job should
//! stay flat; where it does not, the picture has a knee.

use crate::args::{Axis, Common, Growth, Lifecycle};
use crate::cluster::Target;
use crate::lifecycle;
use crate::picture::{self, Point};
use anyhow::{Context, Result, ensure};
use moso_client::{Client, NodeRef, Session, SessionOptions};
use moso_proto::object::{Queue, kind};
use serde::Serialize;
use std::time::Duration;
use tokio::task::JoinSet;

/// Where sessions wait that get nothing.
const IDLE_QUEUE: &str = "bench-idle";
/// How long each of their requests waits: as long as a request may.
const IDLE_WAIT: Duration = Duration::from_secs(30);
/// Sessions opened at once.
const OPENING: usize = 64;

/// A size, and what a job cost there.
#[derive(Clone, Copy, Debug, Serialize)]
struct Step {
    /// The size.
    at: u64,
    /// Jobs ended a second.
    jobs_per_s: f64,
    /// CPU time of the nodes for each, µs.
    cpu_us_per_job: f64,
    /// Bytes that they wrote to disk for each.
    disk_bytes_per_job: f64,
}

/// Runs the command. `true`: every job of every step ended once.
///
/// # Errors
/// When a cluster cannot be started, or refuses or does not answer.
pub async fn command(common: &Common, asked: &Growth) -> Result<bool> {
    ensure!(common.connect.is_empty(), "growth starts its own clusters; --connect does not go with it");
    let sizes = if asked.sizes.is_empty() { asked.axis.sizes() } else { asked.sizes.clone() };
    println!("{:>12}{:>12}{:>14}{:>16}", asked.axis.name(), "jobs/s", "CPU µs/job", "bytes/job");
    let mut steps = Vec::new();
    for at in sizes {
        let step = step(common, asked, at).await.with_context(|| format!("{} {at}", asked.axis.name()))?;
        println!("{at:>12}{:>12.0}{:>14.1}{:>16.0}", step.jobs_per_s, step.cpu_us_per_job, step.disk_bytes_per_job);
        steps.push(step);
    }
    if let Some(path) = &common.json {
        let json = serde_json::to_string_pretty(&steps)?;
        std::fs::write(path, json + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if let Some(path) = &common.svg {
        let points: Vec<Point> =
            steps.iter().map(|s| Point { at: s.at, left: s.cpu_us_per_job, right: s.jobs_per_s }).collect();
        picture::write_growth(path, asked.axis.words(), &points)?;
    }
    Ok(true)
}

async fn step(common: &Common, asked: &Growth, at: u64) -> Result<Step> {
    let (mut common, mut load) = (common.clone(), asked.load.clone());
    let size = u32::try_from(at).context("too large")?;
    match asked.axis {
        Axis::Shards => common.shards = vec![u16::try_from(at).context("too many shards")?],
        Axis::Queued => load = Lifecycle { jobs: size, phases: true, ..load },
        Axis::Queues => load.queues = size,
        Axis::Body => load.body = size as usize,
        Axis::Sessions => {}
    }
    // The folder of one cluster is no other's.
    common.data = None;
    let target = Target::open(&common).await?;
    let idle = match asked.axis {
        Axis::Sessions => idle_sessions(&target, size).await?,
        _ => JoinSet::new(),
    };
    let outcome = lifecycle::command(&common, &load, &target).await;
    drop(idle);
    target.close(false).await?;
    let report = outcome?.report;
    ensure!(report.ok, "{}", report.text());
    Ok(Step {
        at,
        jobs_per_s: report.jobs_per_s.context("nothing ended")?,
        cpu_us_per_job: report.server.cpu_us_per_job.context("the nodes did not say what they used")?,
        disk_bytes_per_job: report.server.disk_bytes_per_job.unwrap_or(0.0),
    })
}

/// Sessions that wait for jobs that never come, each with connections of its own. They end when what is returned is dropped.
async fn idle_sessions(target: &Target, count: u32) -> Result<JoinSet<()>> {
    target.client().await?.put_object(kind::QUEUE, IDLE_QUEUE, &Queue::default(), None).await?;
    let (mut opening, mut waiting) = (JoinSet::new(), JoinSet::new());
    for number in 0..count {
        if opening.len() >= OPENING {
            wait(&mut opening, &mut waiting).await?;
        }
        opening.spawn(open(target.addresses().to_vec(), number));
    }
    while !opening.is_empty() {
        wait(&mut opening, &mut waiting).await?;
    }
    Ok(waiting)
}

async fn open(addresses: Vec<String>, number: u32) -> Result<(Client, Session)> {
    let client = Client::connect(addresses).await?;
    let options = SessionOptions { worker: format!("idle-{number}"), node: Some(NodeRef::Index(number as usize)) };
    let session = client.session(options).await?;
    Ok((client, session))
}

/// One more session is open: it asks from now on.
async fn wait(opening: &mut JoinSet<Result<(Client, Session)>>, waiting: &mut JoinSet<()>) -> Result<()> {
    let opened = opening.join_next().await.context("nothing is being opened")?;
    let (client, mut session) = opened.context("a session")?.context("a session that waits")?;
    waiting.spawn(async move {
        // It lives as long as its client.
        let _client = client;
        // An error ends it: there are as many as can be.
        while session.lease(&[IDLE_QUEUE], 1, IDLE_WAIT).await.is_ok() {}
    });
    Ok(())
}
