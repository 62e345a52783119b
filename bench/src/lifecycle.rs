//! `lifecycle`: as many jobs as the cluster takes, through submit, lease and finish.

use crate::args::{Common, Lifecycle};
use crate::cluster::Target;
use crate::load::{Load, finish_all, make_queues, queue_names, submit_all};
use crate::mark::Bodies;
use crate::monitor::Monitor;
use crate::outcome::{Outcome, conclude};
use crate::report::{Phases, Report};
use crate::run::Run;
use anyhow::{Result, ensure};
use moso_proto::object::Queue;
use std::sync::Arc;
use std::time::Instant;

/// Runs the command.
///
/// # Errors
/// When the cluster refuses or does not answer.
pub async fn command(common: &Common, asked: &Lifecycle, target: &Target) -> Result<Outcome> {
    let queues = queue_names("bench", asked.queues);
    let warmup = Run::new(target.client().await?, None);
    make_queues(&warmup, &queues, &Queue::default()).await?;
    if asked.warmup_jobs() > 0 {
        let asked = Lifecycle { jobs: asked.warmup_jobs(), phases: false, ..asked.clone() };
        let outcome = measure(common, &asked, warmup, &queues, "warm-up").await?;
        ensure!(outcome.report.ok, "warm-up:\n{}", outcome.report.text());
    }
    let run = Run::new(target.client().await?, None);
    measure(common, asked, run, &queues, "lifecycle").await
}

/// Passes jobs through the cluster until all have ended, the run fails or patience is over.
async fn measure(common: &Common, asked: &Lifecycle, run: Arc<Run>, queues: &[String], title: &str) -> Result<Outcome> {
    let mut report = report("lifecycle", common, asked);
    let bodies = Bodies::new(common.seed, asked.body);
    let load = Load::new(queues.to_vec(), asked.jobs, asked.batch, bodies);
    let monitor = Monitor::start(common, &run, title, report.jobs).await;
    let submitters = (0..asked.parallel(asked.submitters)).map(|_| submit_all(run.clone(), load.clone()));
    let workers = 0..asked.parallel(asked.workers) as usize;
    let workers = workers.map(|index| finish_all(run.clone(), index, queues.to_vec(), asked.batch));
    report.phases = pass(&run, common, asked, submitters, workers).await;
    conclude(run, monitor, report, queues).await
}

/// The report of a life cycle, before it is run.
pub fn report(command: &str, common: &Common, asked: &Lifecycle) -> Report {
    let mut report = Report::new(command, common.seed, asked.jobs.into());
    report.batch = Some(asked.batch);
    report.body_bytes = Some(asked.body);
    report
}

/// Lets submitters and workers loose, and waits until all jobs have ended, the run fails or patience is over.
pub async fn pass<C, S, W>(
    run: &Arc<Run<C>>,
    common: &Common,
    asked: &Lifecycle,
    submitters: impl Iterator<Item = S>,
    workers: impl Iterator<Item = W>,
) -> Phases
where
    C: Send + Sync + 'static,
    S: Future<Output = Result<()>> + Send + 'static,
    W: Future<Output = Result<()>> + Send + 'static,
{
    let jobs = u64::from(asked.jobs);
    let mut phases = Phases::default();
    let started = Instant::now();
    submitters.for_each(|submitter| run.spawn(submitter));
    if asked.phases {
        let good = submitted(run, common, jobs).await;
        phases.submit_per_s = Some(rate(jobs, started));
        if !good {
            return phases;
        }
    }
    let drain = Instant::now();
    workers.for_each(|worker| run.spawn(worker));
    if !asked.phases && submitted(run, common, jobs).await {
        phases.submit_per_s = Some(rate(jobs, started));
    }
    let ended = |run: &Run<C>| run.books.ended_count() >= jobs;
    if run.wait_until(common.patience, ended).await && asked.phases {
        phases.drain_per_s = Some(rate(jobs, drain));
    }
    phases
}

async fn submitted<C>(run: &Run<C>, common: &Common, jobs: u64) -> bool {
    let all = |run: &Run<C>| run.books.submitted_count() >= jobs;
    run.wait_until(common.patience, all).await
}

/// Jobs a second since `from`.
pub fn rate(jobs: u64, from: Instant) -> f64 {
    jobs as f64 / from.elapsed().as_secs_f64().max(1e-6)
}
