//! `latency`: submissions at a fixed rate, whatever the cluster does, and how long each step takes from when it was
//! due.

use crate::args::{Common, Latency};
use crate::cluster::Target;
use crate::load::{Load, finish_all, make_queues, queue_names};
use crate::mark::Bodies;
use crate::monitor::Monitor;
use crate::outcome::{Outcome, conclude};
use crate::report::Report;
use crate::run::Run;
use anyhow::{Result, ensure};
use moso_proto::object::Queue;
use std::sync::Arc;

/// When the n-th submission is due, µs after the first.
fn due_us(submission: u32, rate: f64) -> u64 {
    (f64::from(submission) * 1e6 / rate) as u64
}

/// Runs the command.
///
/// # Errors
/// When the cluster refuses or does not answer.
pub async fn command(common: &Common, asked: &Latency, target: &Target) -> Result<Outcome> {
    let seconds = asked.warmup + asked.seconds;
    let submissions = (asked.rate * seconds as f64).ceil();
    let jobs = submissions * f64::from(asked.batch);
    ensure!(jobs < f64::from(u32::MAX), "{jobs} jobs are more than one run can take");
    let queues = queue_names("bench", asked.queues);
    let run = Run::new(target.client().await?, None);
    make_queues(&run, &queues, &Queue::default()).await?;
    let bodies = Bodies::new(common.seed, asked.body);
    let load = Load::new(queues.clone(), jobs as u32, asked.batch, bodies);
    let jobs = u64::from(load.jobs);

    for index in 0..asked.workers as usize {
        let worker = finish_all(run.clone(), index, queues.clone(), asked.batch);
        run.spawn(worker);
    }
    let monitor = Monitor::start(common, &run, "latency", jobs).await;
    let begin_us = run.now_us();
    for _ in 0..asked.submitters {
        let submitter = submit_when_due(run.clone(), load.clone(), begin_us, asked.rate);
        run.spawn(submitter);
    }
    tokio::time::sleep_until(run.moment(begin_us + asked.warmup * 1_000_000)).await;
    run.latencies.reset();
    let ended = |run: &Run| run.books.ended_count() >= jobs;
    run.wait_until(common.patience, ended).await;
    let mut report = Report::new("latency", common.seed, jobs);
    report.batch = Some(asked.batch);
    report.body_bytes = Some(asked.body);
    conclude(run, monitor, report, &queues).await
}

/// One of the streams on which submissions leave, `rate` of them a second. When all are busy a submission leaves late, and
/// its latency says so.
///
/// # Errors
/// As [`Run::submit`].
pub async fn submit_when_due(run: Arc<Run>, load: Arc<Load>, begin_us: u64, rate: f64) -> Result<()> {
    while let Some(batch) = load.take() {
        let intended_us = begin_us + due_us(batch, rate);
        tokio::select! {
            () = tokio::time::sleep_until(run.moment(intended_us)) => {}
            () = run.stopped() => break,
        }
        load.submit(&run, batch, intended_us).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submissions_are_due_evenly() {
        assert_eq!(due_us(0, 250.0), 0);
        assert_eq!(due_us(1, 250.0), 4_000);
        assert_eq!(due_us(250_000, 250.0), 1_000_000_000);
        assert_eq!(due_us(u32::MAX, 0.5), 8_589_934_590_000_000);
    }
}
