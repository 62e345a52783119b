//! `replay`: the jobs of a trace, faster than they were, with workers at every site; if asked, while nodes are killed.

use crate::args::{Common, Replay};
use crate::books::Ending;
use crate::cluster::Target;
use crate::holder::{Fate, Plan, hold};
use crate::load::{make_queues, task};
use crate::mark::{Bodies, Mark};
use crate::monitor::Monitor;
use crate::outcome::{Outcome, conclude};
use crate::report::Report;
use crate::run::Run;
use crate::swf;
use crate::workload::{Shape, Workload};
use anyhow::{Result, ensure};
use moso_client::Submission;
use moso_client::v1::{Needs, RetryPolicy, TaskSpec};
use moso_proto::object::Queue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::watch;

/// Jobs of the built-in workload if not given.
const JOBS: u32 = 200_000;
/// Jobs of one lease request.
const LEASE_JOBS: u32 = 1_000;
/// Jobs of one heartbeat message.
const BEAT_JOBS: usize = 1_000;
/// Attempts of a job: node failures must not use them up.
const ATTEMPTS: u32 = 16;

/// The workload asked for.
///
/// # Errors
/// When the trace cannot be read.
pub fn workload(common: &Common, asked: &Replay) -> Result<Workload> {
    let Some(path) = &asked.trace else {
        return Ok(Shape::new(asked.jobs.unwrap_or(JOBS)).draw(common.seed));
    };
    let swf::Trace { mut workload, broken } = swf::read_file(path)?;
    if broken.lines > 0 {
        eprintln!("{} broken lines were skipped:", broken.lines);
        broken.first.iter().for_each(|line| eprintln!("  {line}"));
    }
    if let Some(jobs) = asked.jobs {
        workload.truncate(jobs as usize);
    }
    Ok(workload)
}

/// Runs the command.
///
/// # Errors
/// When the trace cannot be read, or the cluster refuses or does not answer.
pub async fn command(common: &Common, asked: &Replay, target: &Target, workload: Arc<Workload>) -> Result<Outcome> {
    let jobs = workload.records.len() as u64 * u64::from(asked.amplify);
    ensure!(
        asked.kill_every.is_none() || target.is_own(),
        "--kill-every needs a cluster that is started here, not --connect"
    );
    let run = Run::new(target.client().await?, Some(workload.clone()));
    make_queues(&run, &workload.sites, &Queue::default()).await?;
    let monitor = Monitor::start(common, &run, "replay", jobs).await;
    let (_release, released) = watch::channel(false);
    start(common, asked, &run, &workload, released);
    // In a quiet stretch of the trace nothing happens, and that is no fault.
    let quiet = Duration::from_secs_f64(f64::from(workload.quiet_s()) / asked.speedup);
    let ended = |run: &Run| run.books.ended_count() >= jobs;
    let all_ended = run.wait_until(common.patience + quiet, ended);
    let mut report = Report::new("replay", common.seed, jobs);
    report.body_bytes = Some(asked.body);
    match asked.kill_every {
        Some(every) => {
            let span = Duration::from_secs_f64(f64::from(workload.span_s()) / asked.speedup);
            let until = tokio::time::Instant::now() + span;
            tokio::select! {
                fault = target.kill_nodes(every, until, common.seed, monitor.voice()) => run.fail(fault),
                _ = all_ended => report.kills = Some(target.kills()),
            }
            // A node that is down now belongs up again before the cluster is asked.
            target.restore().await?;
        }
        None => _ = all_ended.await,
    }
    conclude(run, monitor, report, &workload.sites).await
}

/// Starts the workers of all sites, and the submitters.
fn start(common: &Common, asked: &Replay, run: &Arc<Run>, workload: &Arc<Workload>, released: watch::Receiver<bool>) {
    for (index, queues) in spread(workload, asked.workers).into_iter().enumerate() {
        let plan = Plan {
            queues,
            max_jobs: LEASE_JOBS,
            beat_jobs: BEAT_JOBS,
            heartbeat_us: 0,
            flood: false,
            wanted: None,
            fate: fate(workload.clone(), asked.speedup),
            release: released.clone(),
            roll_call: None,
        };
        run.spawn(hold(run.clone(), index, plan));
    }
    let submitter = Arc::new(Submitter {
        begin_us: run.now_us(),
        next: AtomicU32::new(0),
        bodies: Bodies::new(common.seed, asked.body),
        speedup: asked.speedup,
        amplify: asked.amplify,
        workload: workload.clone(),
    });
    for _ in 0..asked.submitters {
        run.spawn(submitter.clone().run(run.clone()));
    }
}

/// What a leased job does: it runs as long as in the trace, so many times faster.
fn fate(workload: Arc<Workload>, speedup: f64) -> Fate {
    Arc::new(move |mark| {
        let record = workload.records.get(mark.record as usize);
        record.map_or((0, Ending::Finished), |record| {
            let run_us = (f64::from(record.run_s) * 1e6 / speedup) as u64;
            let ending = if record.failed { Ending::Failed } else { Ending::Finished };
            (run_us, ending)
        })
    })
}

/// Gives the sites to the workers, the largest first to whom has the least, so that all have about as much to do.
fn spread(workload: &Workload, workers: u32) -> Vec<Vec<String>> {
    let per_site = workload.per_site();
    let mut sites: Vec<usize> = (0..workload.sites.len()).collect();
    sites.sort_by_key(|&site| (u64::MAX - per_site[site], site));
    let count = workers.min(sites.len() as u32).max(1) as usize;
    let mut shares = vec![(0u64, Vec::new()); count];
    for site in sites {
        let least = shares.iter_mut().min_by_key(|(jobs, queues)| (*jobs, queues.len()));
        let (jobs, queues) = least.expect("there is at least one worker");
        *jobs += per_site[site];
        queues.push(workload.sites[site].clone());
    }
    shares.into_iter().map(|(_, queues)| queues).collect()
}

struct Submitter {
    workload: Arc<Workload>,
    bodies: Bodies,
    speedup: f64,
    amplify: u32,
    begin_us: u64,
    next: AtomicU32,
}

impl Submitter {
    /// One of the streams on which submissions leave, each when it is due.
    async fn run(self: Arc<Self>, run: Arc<Run>) -> Result<()> {
        loop {
            let record = self.next.fetch_add(1, Relaxed);
            let Some(intended_us) = self.due_us(record) else {
                return Ok(());
            };
            tokio::select! {
                () = tokio::time::sleep_until(run.moment(intended_us)) => {}
                () = run.stopped() => return Ok(()),
            }
            let mark = Mark { run: run.number, record, intended_us };
            let submission = Submission::new(self.task(mark)).array(self.amplify);
            run.submit(submission, self.amplify, intended_us).await?;
        }
    }

    fn due_us(&self, record: u32) -> Option<u64> {
        let record = self.workload.records.get(record as usize)?;
        Some(self.begin_us + (f64::from(record.submit_s) * 1e6 / self.speedup) as u64)
    }

    fn task(&self, mark: Mark) -> TaskSpec {
        let record = &self.workload.records[mark.record as usize];
        let body = self.bodies.make(mark, 1).pop().unwrap_or_default();
        TaskSpec {
            name: format!("replay-{}", mark.record),
            owner: format!("user-{:03}", record.user),
            group: format!("group-{:02}", record.group),
            needs: Some(Needs { cores: 1, wall_time_s: record.wall_s, ..Needs::default() }),
            retry: Some(RetryPolicy { max_attempts: ATTEMPTS, ..RetryPolicy::default() }),
            body,
            ..task(&self.workload.sites[usize::from(record.site)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_site_has_one_worker_and_the_work_is_even() {
        let workload = Shape::new(20_000).draw(1);
        let shares = spread(&workload, 8);
        let mut served: Vec<&String> = shares.iter().flatten().collect();
        served.sort();
        assert_eq!(served, workload.sites.iter().collect::<Vec<_>>());
        let jobs_of = |queues: &Vec<String>| -> u64 {
            let per_site = workload.per_site();
            let sites = workload.sites.iter().zip(per_site);
            sites.filter(|(name, _)| queues.contains(name)).map(|(_, jobs)| jobs).sum()
        };
        let jobs: Vec<u64> = shares.iter().map(jobs_of).collect();
        let (least, most) = (jobs.iter().min(), jobs.iter().max());
        assert!(least.copied() > most.map(|most| most / 2), "{jobs:?}");
        assert_eq!(spread(&workload, 1_000).len(), 170);
    }

    #[test]
    fn times_shrink_by_the_speedup() {
        let mut workload = Shape::new(10).draw(1);
        workload.records[3].run_s = 5_000;
        workload.records[3].submit_s = 100;
        workload.records[3].failed = true;
        let workload = Arc::new(workload);
        let mark = |record| Mark { run: 1, record, intended_us: 0 };
        let fate = fate(workload.clone(), 1_000.0);
        assert_eq!(fate(&mark(3)), (5_000_000, Ending::Failed));
        assert_eq!(fate(&mark(99)), (0, Ending::Finished));
        let submitter = Submitter {
            workload,
            bodies: Bodies::new(1, 64),
            speedup: 1_000.0,
            amplify: 3,
            begin_us: 7,
            next: AtomicU32::new(0),
        };
        assert_eq!(submitter.due_us(3), Some(100_007));
        assert_eq!(submitter.due_us(10), None);
        let task = submitter.task(mark(3));
        assert_eq!(Mark::of(&task.body), Some(mark(3)));
        assert!(task.queue.starts_with("site-") && task.owner.starts_with("user-"));
    }
}
