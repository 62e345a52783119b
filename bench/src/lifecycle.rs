//! `lifecycle`: as many jobs as the cluster takes, through submit, lease and finish.

use crate::args::{Common, Lifecycle};
use crate::cluster::Target;
use crate::load::{Load, finish_all, make_queues, queue_names, submit_all};
use crate::mark::Bodies;
use crate::monitor::Monitor;
use crate::outcome::{Outcome, conclude};
use crate::report::Report;
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
    let jobs = u64::from(asked.jobs);
    let mut report = Report::new("lifecycle", common.seed, jobs);
    report.batch = Some(asked.batch);
    report.body_bytes = Some(asked.body);
    let bodies = Bodies::new(common.seed, asked.body);
    let load = Load::new(queues.to_vec(), asked.jobs, asked.batch, bodies);
    let monitor = Monitor::start(common, &run, title, jobs).await;
    let started = Instant::now();
    for _ in 0..asked.parallel(asked.submitters) {
        run.spawn(submit_all(run.clone(), load.clone()));
    }
    let mut good = true;
    if asked.phases {
        good = submitted(&run, common, jobs).await;
        report.phases.submit_per_s = Some(rate(jobs, started));
    }
    if good {
        let drain = Instant::now();
        for index in 0..asked.parallel(asked.workers) as usize {
            run.spawn(finish_all(run.clone(), index, queues.to_vec(), asked.batch));
        }
        if !asked.phases && submitted(&run, common, jobs).await {
            report.phases.submit_per_s = Some(rate(jobs, started));
        }
        let ended = |run: &Run| run.books.ended_count() >= jobs;
        if run.wait_until(common.patience, ended).await && asked.phases {
            report.phases.drain_per_s = Some(rate(jobs, drain));
        }
    }
    conclude(run, monitor, report, queues).await
}

async fn submitted(run: &Run, common: &Common, jobs: u64) -> bool {
    let all = |run: &Run| run.books.submitted_count() >= jobs;
    run.wait_until(common.patience, all).await
}

/// Jobs a second since `from`.
pub fn rate(jobs: u64, from: Instant) -> f64 {
    jobs as f64 / from.elapsed().as_secs_f64().max(1e-6)
}
