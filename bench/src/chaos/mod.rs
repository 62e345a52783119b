//! `chaos`: a cluster of real processes under load and under faults, and a checker of everything that its clients were
//! told.
//!
//! | module | what |
//! |---|---|
//! | `kind`, `tools`, `faults` | the kinds of faults, what they need, and how each is made |
//! | `site`, `links`, `clock`, `disk` | the cluster, and what stands between and under its nodes |
//! | `load`, `submitter`, `worker` | who uses it |
//! | `history`, `checker` | what they did and were told, and whether that may be |
//! | `gaps`, `report`, `finish` | the end of a run, and what it says |

mod checker;
pub(crate) mod clock;
mod disk;
mod faults;
mod finish;
mod gaps;
mod history;
mod kind;
mod links;
mod load;
mod report;
mod site;
mod submitter;
pub(crate) mod tools;
mod worker;

pub use kind::FaultKind;

use crate::args::{Chaos, Common};
use anyhow::{Context, Result, ensure};
use history::History;
use load::{Load, Phase};
use moso_client::{Client, ClientOptions};
use moso_proto::object::{Queue, kind as object_kind};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use report::{Calm, Report};
use site::{Site, SiteOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tools::Tools;

const QUEUE: &str = "chaos";
/// The shortest lease that a queue may have, and heartbeats as workers send them.
const LEASE_MS: u32 = 15_000;
const HEARTBEAT_MS: u32 = 3_000;
/// Clients under load give up soon, so that unknown outcomes are seen.
const CALL_DEADLINE: Duration = Duration::from_secs(3);
const RETRY_BUDGET: Duration = Duration::from_secs(5);
/// The load runs so long before the first fault.
const WARM_UP: Duration = Duration::from_secs(2);

/// Runs the command. `true`: no rule was broken.
///
/// # Errors
/// When the run could not be made, or was interrupted (Ctrl-C, SIGTERM). All processes it started have ended then.
pub async fn command(common: &Common, asked: &Chaos) -> Result<bool> {
    ensure!(common.connect.is_empty(), "chaos starts its own cluster; --connect does not go with it");
    if let Some(path) = &asked.check {
        return check_again(common, path);
    }
    let mut terminate = signal(SignalKind::terminate()).context("signal")?;
    // What is dropped here ends its processes.
    let report = tokio::select! {
        report = run(common, asked) => report?,
        signal = tokio::signal::ctrl_c() => {
            signal.context("signal")?;
            anyhow::bail!("interrupted");
        }
        _ = terminate.recv() => anyhow::bail!("told to end"),
    };
    publish(common, &report)
}

/// Judges a history that was written before: what only its run could see is not known.
fn check_again(common: &Common, path: &Path) -> Result<bool> {
    let events = history::read(path)?;
    let mut report = Report { command: "chaos".to_owned(), ..Report::default() };
    report.take_history(&events);
    report.judge(checker::check(&events));
    publish(common, &report)
}

fn publish(common: &Common, report: &Report) -> Result<bool> {
    print!("{}", report.text());
    if let Some(path) = &common.json {
        let json = serde_json::to_string_pretty(report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(report.ok)
}

async fn run(common: &Common, asked: &Chaos) -> Result<Report> {
    let (nodes, shards) = common.size()?;
    let scratch = tempfile::tempdir().context("temporary folder")?;
    let tools = Tools::find(scratch.path(), nodes);
    let (kinds, skipped) = tools.choose(&asked.kinds)?;
    for (kind, reason) in &skipped {
        println!("{kind} is left out: {reason}");
    }
    let history = Arc::new(History::new(asked.history.as_deref())?);
    let mut rng = StdRng::seed_from_u64(common.seed);
    let options = SiteOptions {
        nodes,
        shards,
        data: common.data.clone(),
        kinds: kinds.clone(),
        minutes: asked.minutes,
        hold_max: asked.hold_max,
        recovery_max: asked.bound,
    };
    let mut site = Site::open(options, &tools, history.clone(), &mut rng).await?;
    println!(
        "chaos: {nodes} nodes, {shards} shards, seed {}, data in {}",
        common.seed,
        site.cluster.folder().display()
    );
    let load = Arc::new(open_load(asked, &site, history.clone()).await?);
    let mut report = Report {
        command: "chaos".to_owned(),
        seed: common.seed,
        nodes,
        shards,
        calm: Calm { least_per_s: asked.min_rate, ..Calm::default() },
        skipped: skipped.into_iter().map(|(kind, reason)| (kind.name(), reason)).collect(),
        ..Report::default()
    };
    let mut crowd = Crowd::start(asked, &load, common.seed);
    let began = Instant::now();
    disturb(asked, &kinds, &mut site, &load, &mut rng, &mut report.calm).await?;
    report.seconds = began.elapsed().as_secs_f64();
    conclude(asked, &mut site, &load, &mut crowd, &mut report).await?;
    site.cluster.stop().await.context("local cluster")?;
    Ok(report)
}

/// A client and a queue with short leases.
async fn open_load(asked: &Chaos, site: &Site, history: Arc<History>) -> Result<Load> {
    let client = |retry_budget| {
        let options = ClientOptions {
            call_deadline: CALL_DEADLINE,
            retry_budget,
            author: "moso-bench".to_owned(),
            ..ClientOptions::default()
        };
        Client::connect_with(site.cluster.addrs(), options)
    };
    let queue = Queue { lease_ttl_ms: LEASE_MS, heartbeat_ms: HEARTBEAT_MS, ..Queue::default() };
    let patient = client(asked.bound).await.context("cluster")?;
    patient.put_object(object_kind::QUEUE, QUEUE, &queue, None).await.context("queue")?;
    let client = client(RETRY_BUDGET).await.context("cluster")?;
    Ok(Load::new(client, history, QUEUE, asked.backlog, asked.job_max))
}

/// Submitters and workers. Dropping it ends them.
struct Crowd {
    submitters: JoinSet<()>,
    workers: JoinSet<()>,
}

impl Crowd {
    fn start(asked: &Chaos, load: &Arc<Load>, seed: u64) -> Crowd {
        let mut seeds = StdRng::seed_from_u64(seed.wrapping_add(1));
        let (mut submitters, mut workers) = (JoinSet::new(), JoinSet::new());
        for _ in 0..asked.submitters {
            submitters.spawn(submitter::run(load.clone(), seeds.random()));
        }
        for index in 0..asked.workers as usize {
            workers.spawn(worker::run(load.clone(), index, seeds.random()));
        }
        workers.spawn(load.clone().watch_ready());
        Crowd { submitters, workers }
    }
}

/// Makes one fault after the other with calm times between them, until the time is over or all were made.
async fn disturb(
    asked: &Chaos,
    kinds: &[FaultKind],
    site: &mut Site,
    load: &Load,
    rng: &mut StdRng,
    calm: &mut Calm,
) -> Result<()> {
    site.pass(WARM_UP).await?;
    let end = Instant::now() + Duration::from_secs_f64(asked.minutes * 60.0);
    let mut bag: Vec<FaultKind> = Vec::new();
    let mut made = 0;
    loop {
        let (before, since) = (load.operations().sum(), Instant::now());
        site.pass(asked.calm.mul_f64(rng.random_range(0.7..1.3))).await?;
        calm.add(since.elapsed().as_secs_f64(), load.operations().sum() - before);
        if asked.faults.map_or(Instant::now() >= end, |faults| made >= faults) {
            return Ok(());
        }
        if bag.is_empty() {
            // Each kind once before any comes again.
            bag = kinds.to_vec();
            bag.shuffle(rng);
        }
        let Some(kind) = bag.pop() else { anyhow::bail!("there is no kind of fault to make") };
        faults::make(kind, site, rng).await.with_context(|| format!("the fault {kind} cannot be made"))?;
        site.heal()?;
        site.recover().await?;
        made += 1;
    }
}

/// Lets everything end, and judges.
async fn conclude(
    asked: &Chaos,
    site: &mut Site,
    load: &Arc<Load>,
    crowd: &mut Crowd,
    report: &mut Report,
) -> Result<()> {
    load.enter(Phase::Drain);
    let ended = async { while crowd.submitters.join_next().await.is_some() {} };
    if tokio::time::timeout(asked.bound, ended).await.is_err() {
        site.problem(format!("a submission was not answered within {:?} after the last fault", asked.bound));
        crowd.submitters.shutdown().await;
    }
    let drained = finish::drain(site, asked.bound).await?;
    match &drained {
        Ok(time) => report.drain_seconds = time.as_secs_f64(),
        Err(left) => site.problem(format!("not drained {:?} after the last fault: {left}", asked.bound)),
    }
    load.enter(Phase::Over);
    if tokio::time::timeout(asked.bound, async { while crowd.workers.join_next().await.is_some() {} }).await.is_err() {
        crowd.workers.shutdown().await;
    }
    report.operations = load.operations();
    let read = finish::read(&load.client, QUEUE, &load.history).await;
    if let Err(error) = &read {
        site.problem(format!("the jobs cannot be read in the end: {error:#}"));
    }
    let events = load.history.finish()?;
    report.take_history(&events);
    let mut verdict = checker::check(&events);
    if read.is_err() {
        // What was not read is not lost.
        verdict.violations.retain(|violation| violation.rule != checker::Rule::Lost);
    }
    report.problems = [site.problems(), &load.problems()].concat();
    report.judge(verdict);
    Ok(())
}
