//! The load on another server: the closed loops of `lifecycle`, with one connection per submitter and worker.

use super::{Peer, Submitter, Worker};
use crate::args::{Common, Lifecycle, Peer as Asked};
use crate::books::Ending;
use crate::histogram::Step;
use crate::lifecycle::{pass, report};
use crate::load::{Load, queue_names};
use crate::mark::{self, Bodies, Mark};
use crate::monitor::{Counted, Monitor};
use crate::outcome::{Outcome, end};
use crate::run::Run;
use anyhow::{Context, Result, bail, ensure};
use moso_proto::view::Cluster;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A submission or a finish on the way when the run ends is waited for so long, for the sake of the books.
const GRACE: Duration = Duration::from_secs(5);
/// The pause before each connection is opened, so that the server is not flooded.
const CONNECT_PAUSE: Duration = Duration::from_millis(2);

/// What the run is against: a server whose counters cannot be read.
pub struct Elsewhere;

impl Counted for Elsewhere {
    async fn counters(&self) -> moso_client::Result<Option<Cluster>> {
        Ok(None)
    }
}

/// Runs the command against an open server, and leaves the server as it was.
///
/// # Errors
/// When the server refuses or stops answering, or a report cannot be written.
pub async fn command<P: Peer>(common: &Common, asked: &Asked, peer: P) -> Result<bool> {
    let title = format!("peer: {}", asked.load.describe());
    println!("{title} on {}", peer.about());
    let outcome = lifecycle(common, &asked.load, &peer).await;
    let removed = within(common.patience, peer.remove()).await;
    let outcome = outcome?;
    crate::publish(common, &outcome, &title)?;
    removed.context("clean-up; the next run needs --replace")?;
    Ok(outcome.report.ok)
}

/// The warm-up, then the run that is measured.
///
/// # Errors
/// When the server refuses or stops answering, or the warm-up goes wrong.
pub async fn lifecycle<P: Peer>(common: &Common, asked: &Lifecycle, peer: &P) -> Result<Outcome<Elsewhere>> {
    let workers = asked.parallel(asked.workers);
    ensure!(
        workers >= asked.queues,
        "each worker serves one queue: {} queues need --workers {} or more",
        asked.queues,
        asked.queues
    );
    let interrupted = interrupts();
    // Nothing to wait for: there are no counters.
    let common = Common { settle: Duration::ZERO, ..common.clone() };
    if asked.warmup_jobs() > 0 {
        let asked = Lifecycle { jobs: asked.warmup_jobs(), phases: false, ..asked.clone() };
        let outcome = measure(&common, &asked, peer, "warm-up", interrupted.clone()).await?;
        ensure!(outcome.report.ok, "warm-up:\n{}", outcome.report.text());
    }
    measure(&common, asked, peer, "peer", interrupted).await
}

async fn measure<P: Peer>(
    common: &Common,
    asked: &Lifecycle,
    peer: &P,
    title: &str,
    interrupted: watch::Receiver<bool>,
) -> Result<Outcome<Elsewhere>> {
    let mut report = report("peer", common, asked);
    report.peer = Some(peer.about());
    let bodies = Bodies::new(common.seed, asked.body);
    let load = Load::new(queue_names("moso_bench", asked.queues), asked.jobs, asked.batch, bodies);
    // Connecting is not measured.
    let (mut submitters, mut workers) = (Vec::new(), Vec::new());
    for number in 0..asked.parallel(asked.submitters) {
        tokio::time::sleep(CONNECT_PAUSE).await;
        submitters.push(peer.submitter().await.with_context(|| format!("submitter {number}"))?);
    }
    for number in 0..asked.parallel(asked.workers) {
        tokio::time::sleep(CONNECT_PAUSE).await;
        let worker = peer.worker(number, number % asked.queues).await;
        workers.push(worker.with_context(|| format!("worker {number}"))?);
    }
    let run = Run::new(Elsewhere, None);
    run.spawn(heed(run.clone(), interrupted));
    let monitor = Monitor::start(common, &run, title, report.jobs).await;
    let submitters = submitters.into_iter().map(|submitter| submit_all(run.clone(), load.clone(), submitter));
    let workers = workers.into_iter().map(|worker| finish_all(run.clone(), asked.batch, worker));
    report.phases = pass(&run, common, asked, submitters, workers).await;
    let seen = end(&run, monitor, &mut report).await?;
    let left = within(common.patience, peer.left()).await.context("jobs left on the server")?;
    report.checked_peer(&run.books.balance(), left);
    Ok(Outcome { report, seen, run })
}

/// Becomes true on Ctrl-C, from now on.
fn interrupts() -> watch::Receiver<bool> {
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            tell.send_replace(true);
        }
        tell.closed().await;
    });
    told
}

/// Fails the run on Ctrl-C, so that what was made for it is removed.
async fn heed(run: Arc<Run<Elsewhere>>, mut interrupted: watch::Receiver<bool>) -> Result<()> {
    tokio::select! {
        _ = interrupted.wait_for(|interrupted| *interrupted) => bail!("interrupted"),
        () = run.stopped() => Ok(()),
    }
}

async fn within<T>(patience: Duration, answer: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(patience, answer).await.context("the server does not answer")?
}

/// Submits batch after batch until there is none left.
async fn submit_all(run: Arc<Run<Elsewhere>>, load: Arc<Load>, mut submitter: impl Submitter) -> Result<()> {
    while let Some(batch) = load.take() {
        if run.is_stopped() {
            break;
        }
        let intended_us = run.now_us();
        let bodies = load.make(run.number, batch, intended_us);
        let queue = load.queue_of(batch) as u32;
        let Some(submitted) = unless_stopped(&run, GRACE, submitter.submit(queue, &bodies)).await else { break };
        submitted.context("submission")?;
        run.latencies.record(Step::Submit, intended_us, run.now_us(), 1);
        run.books.submitted(number(load.batch, batch, 0), bodies.len() as u32);
    }
    Ok(())
}

/// Leases up to `batch` jobs, reports them finished, and so on until the run stops.
async fn finish_all(run: Arc<Run<Elsewhere>>, batch: u32, mut worker: impl Worker) -> Result<()> {
    while let Some(leased) = unless_stopped(&run, Duration::ZERO, worker.lease(batch)).await {
        let leased = leased.context("lease")?;
        if leased.is_empty() {
            continue;
        }
        let now_us = run.now_us();
        let (mut jobs, mut receipts) = (Vec::with_capacity(leased.len()), Vec::with_capacity(leased.len()));
        for job in leased {
            let mark = Mark::of(&job.body).zip(mark::position(&job.body));
            let (mark, position) = mark.context("a queue holds a job that this program did not make")?;
            receipts.push(job.receipt);
            // Those of another run are finished and not counted.
            jobs.push((mark.run == run.number).then(|| (number(batch, mark.record, position), mark)));
        }
        let mine = jobs.iter().flatten().count() as u64;
        for (_, mark) in jobs.iter().flatten() {
            run.latencies.record(Step::Dispatch, mark.intended_us, now_us, 1);
        }
        run.books.leased(mine);
        run.hold(mine);
        let due_us = run.now_us();
        run.release(mine);
        let Some(finished) = unless_stopped(&run, GRACE, worker.finish(receipts)).await else { break };
        let finished = finished.context("finish")?;
        ensure!(finished.len() == jobs.len(), "{} jobs were finished, {} answered", jobs.len(), finished.len());
        let now_us = run.now_us();
        for (job, accepted) in jobs.into_iter().zip(finished) {
            match job {
                Some((id, mark)) if accepted => run.ended(id, &mark, Ending::Finished, due_us, now_us),
                Some((id, _)) => _ = run.books.refused(id, moso_proto::Code::StaleAttempt.name()),
                None => {}
            }
        }
    }
    worker.close().await
}

/// The generator's own number of a job, since not every server gives it one: from the batch and the place in it.
fn number(batch_jobs: u32, batch: u32, position: u32) -> u64 {
    u64::from(batch) * u64::from(batch_jobs) + u64::from(position)
}

/// `None` if the run stopped, and `grace` after it the future was still not done.
async fn unless_stopped<C, T>(run: &Run<C>, grace: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = future => Some(done),
        () = async { run.stopped().await; tokio::time::sleep(grace).await } => None,
    }
}
