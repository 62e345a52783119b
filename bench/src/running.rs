//! `running`: jobs held by workers with heartbeats, and what they cost the nodes.

use crate::args::{Common, Running};
use crate::books::Ending;
use crate::cluster::Target;
use crate::failover;
use crate::holder::{Plan, hold};
use crate::lifecycle::rate;
use crate::load::{Load, finish_all, make_queues, queue_names, submit_all};
use crate::mark::Bodies;
use crate::monitor::Monitor;
use crate::outcome::{Outcome, conclude};
use crate::report::Report;
use crate::roll_call::RollCall;
use crate::run::Run;
use anyhow::{Result, ensure};
use moso_proto::object::Queue;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Jobs of one submission.
const BATCH: u32 = 100;
/// Jobs of one heartbeat message.
const BEAT_JOBS: usize = 100;
/// Jobs of one lease request.
const LEASE_JOBS: u32 = 1_000;
/// Submissions in flight.
const SUBMITTERS: u32 = 16;
/// "Until told otherwise", µs: far beyond any run.
const FOREVER_US: u64 = 1 << 50;

/// A queue whose leases outlive three lost heartbeats.
fn queue_for(heartbeat: Duration) -> Queue {
    let heartbeat_ms = heartbeat.as_millis().clamp(1_000, 21_600_000) as u32;
    Queue { heartbeat_ms, lease_ttl_ms: (heartbeat_ms * 4).clamp(60_000, 86_400_000), ..Queue::default() }
}

/// Runs the command.
///
/// # Errors
/// When the cluster refuses or does not answer.
pub async fn command(common: &Common, asked: &Running, target: &Target) -> Result<Outcome> {
    ensure!(target.is_own() || !asked.failover, "--failover needs a cluster that is started here, not --connect");
    let (held, through) = (u64::from(asked.jobs), u64::from(asked.through));
    let jobs = held + through;
    let queues = queue_names("bench-held", asked.queues);
    let passing = queue_names("bench-through", 1);
    let run = Run::new(target.client().await?, None);
    make_queues(&run, &queues, &queue_for(asked.heartbeat)).await?;
    make_queues(&run, &passing, &Queue::default()).await?;
    let monitor = Monitor::start(common, &run, "running", jobs).await;
    let mut report = Report::new("running", common.seed, jobs);
    report.batch = Some(BATCH);
    report.body_bytes = Some(asked.body);

    let (release, released) = watch::channel(false);
    let (call, called) = watch::channel(0);
    let stage = Stage {
        common,
        asked,
        run: &run,
        monitor: &monitor,
        idle_cores: idle_cores(common, &monitor).await,
        roll_call: RollCall::new(called),
    };
    let good = stage.fill(&queues, released, &mut report).await;
    if good {
        stage.watch(&passing, &mut report).await;
    }
    let mut all: Vec<String> = queues.into_iter().chain(passing).collect();
    let mut jobs = jobs;
    if good && asked.failover {
        let probes = failover::Failing::start(common, &run, target, (call, stage.roll_call.clone())).await?;
        all.push(probes.queue().to_owned());
        jobs += probes.run(asked.workers, &mut report, |line| monitor.say(line)).await?;
        report.jobs = jobs;
    }
    release.send_replace(true);
    let drain = Instant::now();
    let ended = |run: &Run| run.books.ended_count() >= jobs;
    if run.wait_until(common.patience, ended).await {
        report.phases.drain_per_s = Some(rate(held, drain));
    }
    let mut outcome = conclude(run, monitor, report, &all).await?;
    // Over a run that mostly waits these say nothing.
    outcome.report.jobs_per_s = None;
    outcome.report.server.cpu_us_per_job = None;
    Ok(outcome)
}

struct Stage<'a> {
    common: &'a Common,
    asked: &'a Running,
    run: &'a Arc<Run>,
    monitor: &'a Monitor,
    /// Cores that the nodes use with nothing to do.
    idle_cores: f64,
    roll_call: RollCall,
}

async fn idle_cores(common: &Common, monitor: &Monitor) -> f64 {
    let before = monitor.settle().await;
    let started = Instant::now();
    tokio::time::sleep(common.settle * 2).await;
    let used = monitor.settle().await.since(before);
    used.cpu_us as f64 / 1e6 / started.elapsed().as_secs_f64()
}

impl Stage<'_> {
    /// Submits the jobs to be held, then leases them all, and reads what a held job costs in memory.
    async fn fill(&self, queues: &[String], released: watch::Receiver<bool>, report: &mut Report) -> bool {
        let (run, asked) = (self.run, self.asked);
        let held = u64::from(asked.jobs);
        let before = self.monitor.read(|m| (m.rss_bytes(), m.job_bytes()));
        let bodies = Bodies::new(self.common.seed, asked.body);
        let load = Load::new(queues.to_vec(), asked.jobs, BATCH, bodies);
        let started = Instant::now();
        for _ in 0..SUBMITTERS {
            run.spawn(submit_all(run.clone(), load.clone()));
        }
        let submitted = |run: &Run| run.books.submitted_count() >= held;
        if !run.wait_until(self.common.patience, submitted).await {
            return false;
        }
        report.phases.submit_per_s = Some(rate(held, started));

        let started = Instant::now();
        let plan = self.plan(queues, released);
        for index in 0..asked.workers as usize {
            let mut plan = plan.clone();
            let shift = index % plan.queues.len();
            plan.queues.rotate_left(shift);
            run.spawn(hold(run.clone(), index, plan));
        }
        let leased = |run: &Run| run.running() >= held;
        if !run.wait_until(self.common.patience, leased).await {
            return false;
        }
        report.phases.lease_per_s = Some(rate(held, started));

        self.monitor.settle().await;
        let (nodes, rss, counted) = self.monitor.read(|m| (m.nodes().max(1), m.rss_bytes(), m.job_bytes()));
        let each = |now: u64, before: u64| Some(now.saturating_sub(before) as f64 / (held * nodes) as f64);
        report.server.bytes_per_running_job = each(rss, before.0);
        report.server.counted_bytes_per_running_job = each(counted, before.1);
        self.monitor.say(format!("{held} jobs are held"));
        true
    }

    /// Holds the jobs for the time asked, reads what their heartbeats cost, then passes others through beside them.
    async fn watch(&self, passing: &[String], report: &mut Report) {
        let (run, asked) = (self.run, self.asked);
        let before = self.monitor.settle().await;
        let started = Instant::now();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(asked.seconds)) => {}
            () = run.stopped() => return,
        }
        let used = self.monitor.settle().await.since(before);
        let seconds = started.elapsed().as_secs_f64();
        report.server.heartbeats_per_s = Some(used.heartbeats as f64 / seconds);
        let cores = used.cpu_us as f64 / 1e6 / seconds;
        report.server.heartbeat_cpu_cores = Some((cores - self.idle_cores).max(0.0));
        if asked.through == 0 {
            return;
        }
        let bodies = Bodies::new(self.common.seed, asked.body);
        let load = Load::new(passing.to_vec(), asked.through, BATCH, bodies);
        let started = Instant::now();
        for index in 0..SUBMITTERS as usize {
            run.spawn(submit_all(run.clone(), load.clone()));
            run.spawn(finish_all(run.clone(), index, passing.to_vec(), BATCH));
        }
        let through = u64::from(asked.through);
        let ended = |run: &Run| run.books.ended_count() >= through;
        if run.wait_until(self.common.patience, ended).await {
            report.server.through_per_s = Some(rate(through, started));
        }
    }

    fn plan(&self, queues: &[String], release: watch::Receiver<bool>) -> Plan {
        Plan {
            queues: queues.to_vec(),
            max_jobs: LEASE_JOBS.min(self.asked.jobs.div_ceil(self.asked.workers)),
            beat_jobs: BEAT_JOBS,
            heartbeat_us: self.asked.heartbeat.as_micros() as u64,
            flood: self.asked.flood,
            wanted: Some(Arc::new(AtomicI64::new(self.asked.jobs.into()))),
            fate: Arc::new(|_| (FOREVER_US, Ending::Finished)),
            release,
            roll_call: Some(self.roll_call.clone()),
        }
    }
}
