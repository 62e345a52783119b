//! `soak`: the same load for an hour or more, and whether memory, disk and latency stay where they are.
//!
//! Ended jobs are kept for whole days. So that days pass within the run, the nodes' clocks can be led ahead (libfaketime,
//! a step every second; monotonic time stays), and what the generator submits bears the same time.

mod report;

use crate::args::{Common, Soak};
use crate::chaos::clock::Clocks;
use crate::chaos::tools::faketime;
use crate::histogram::Step;
use crate::load::{Load, finish_all, make_queues, queue_names};
use crate::mark::Bodies;
use crate::meter::{Meter, Used};
use crate::run::Run;
use anyhow::{Context, Result, anyhow, ensure};
use moso::{LocalCluster, LocalOptions, Surroundings};
use moso_client::{Client, ClientOptions};
use moso_proto::object::{Queue, Setting, kind};
use moso_proto::setting::ARCHIVE_DAYS;
use report::{Report, Row};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the clocks are led on; libfaketime looks that often.
const CLOCK_STEP: Duration = Duration::from_secs(1);
const DAY_S: f64 = 86_400.0;
/// Shorter days are refused: a step of the clocks would be most of the hour by which submissions may be ahead.
const DAY_MIN: Duration = Duration::from_secs(120);
/// How often the end is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// The nodes' clocks.
#[derive(Debug)]
struct Ahead(Clocks);

impl Surroundings for Ahead {
    fn env(&self, node: u32) -> Vec<(String, String)> {
        self.0.env(node)
    }
}

/// Runs the command. `true`: every job ended once, and nothing grew.
///
/// # Errors
/// When the cluster cannot be started, refuses or does not answer.
pub async fn command(common: &Common, asked: &Soak) -> Result<bool> {
    ensure!(common.connect.is_empty(), "soak starts its own cluster; --connect does not go with it");
    ensure!(asked.day.is_none_or(|day| day >= DAY_MIN), "--day: a day takes {DAY_MIN:?} or more");
    ensure!(
        asked.minutes * 60.0 >= 3.0 * asked.every.as_secs_f64(),
        "a soak of fewer than three lines does not tell whether anything grows: more --minutes, or --every shorter"
    );
    let (nodes, shards) = common.size()?;
    let temporary = tempfile::Builder::new().prefix("moso-soak-").tempdir().context("temporary folder")?;
    let folder = common.data.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
    let ahead = match asked.day {
        Some(_) => {
            let library = faketime().map_err(|why| anyhow!("--day: {why}"))?;
            Some(Arc::new(Ahead(Clocks::new(library, &folder, nodes)?)))
        }
        None => None,
    };
    let mut options =
        LocalOptions { nodes, shards, data: Some(folder), cluster: "soak".to_owned(), ..LocalOptions::default() };
    if let Some(ahead) = &ahead {
        options.surroundings = ahead.clone();
    }
    let mut cluster = LocalCluster::start(options).await.context("local cluster")?;
    println!("soak: {} on {nodes} local nodes, {shards} shards", asked.describe());
    let done = Soaking::new(common, asked, &cluster).await?.run(&mut cluster, ahead.as_deref()).await;
    let stopped = cluster.stop().await.context("local cluster");
    let report = done?;
    stopped?;
    print!("{}", report.text());
    if let Some(path) = &common.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if let Some(path) = &common.svg {
        report.draw(path)?;
    }
    Ok(report.ok())
}

struct Soaking<'a> {
    common: &'a Common,
    asked: &'a Soak,
    run: Arc<Run>,
    load: Arc<Load>,
    queues: Vec<String>,
    meter: Meter,
}

impl<'a> Soaking<'a> {
    async fn new(common: &'a Common, asked: &'a Soak, cluster: &LocalCluster) -> Result<Self> {
        let options = ClientOptions {
            retry_budget: common.patience,
            author: "moso-bench".to_owned(),
            ..ClientOptions::default()
        };
        let client = Client::connect_with(cluster.addrs(), options).await.context("cluster")?;
        let queues = queue_names("bench", asked.queues);
        let run = Run::new(client, None);
        make_queues(&run, &queues, &Queue::default()).await?;
        if asked.day.is_some() {
            let kept = Setting { value: ARCHIVE_DAYS.min };
            run.client.put_object(kind::SETTING, ARCHIVE_DAYS.name, &kept, None).await.context("archive_days")?;
        }
        let jobs = asked.rate * asked.minutes * 60.0;
        ensure!(jobs < f64::from(u32::MAX), "{jobs} jobs are more than one run can take");
        let load = Load::new(queues.clone(), jobs.ceil() as u32, asked.batch, Bodies::new(common.seed, asked.body));
        Ok(Soaking { common, asked, run, load, queues, meter: Meter::default() })
    }

    /// The load, a row every so often, and the accounts in the end.
    async fn run(mut self, cluster: &mut LocalCluster, ahead: Option<&Ahead>) -> Result<Report> {
        let (run, jobs) = (self.run.clone(), u64::from(self.load.jobs));
        for index in 0..self.asked.workers as usize {
            run.spawn(finish_all(run.clone(), index, self.queues.clone(), self.asked.batch));
        }
        let begin_us = run.now_us();
        let rate = self.asked.rate / f64::from(self.asked.batch);
        for _ in 0..self.asked.submitters {
            run.spawn(crate::latency::submit_when_due(run.clone(), self.load.clone(), begin_us, rate));
        }
        println!("{}", Row::head());
        let started = Instant::now();
        let mut report = Report::new(self.asked, self.common);
        let (mut next, mut clock) = (started + self.asked.every, started);
        let (mut before, mut used, mut progress) = (Instant::now(), Used::default(), (0, Instant::now()));
        let mut ended = 0;
        while run.books.ended_count() < jobs && !run.is_stopped() {
            tokio::time::sleep(LOOK).await;
            let now = Instant::now();
            if let (Some(ahead), Some(day), true) = (ahead, self.asked.day, now >= clock) {
                self.lead(ahead, day, started.elapsed())?;
                clock += CLOCK_STEP;
            }
            let made = run.books.progress();
            if made != progress.0 {
                progress = (made, now);
            } else if now - progress.1 > self.common.patience {
                report.problems.push(format!("nothing happened for {:?}", self.common.patience));
                break;
            }
            if now >= next {
                cluster.check()?;
                let seconds = (now - before).as_secs_f64();
                let row = self.row(started, seconds, &mut used, &mut ended, cluster.folder()).await?;
                println!("{row}");
                report.rows.push(row);
                (before, next) = (now, next + self.asked.every);
            }
        }
        report.seconds = started.elapsed().as_secs_f64();
        run.stop();
        run.join().await;
        if let Some(error) = run.take_failure() {
            return Err(error);
        }
        report.balanced(&run.books.balance(), self.left().await?);
        Ok(report)
    }

    /// All clocks, the generator's included, to where this day's length puts them.
    fn lead(&self, ahead: &Ahead, day: Duration, passed: Duration) -> Result<()> {
        let factor = DAY_S / day.as_secs_f64() - 1.0;
        let ahead_s = passed.as_secs_f64() * factor.max(0.0);
        (1..=self.common.size()?.0).try_for_each(|node| ahead.0.set(node, ahead_s as i64))?;
        self.load.set_ahead((ahead_s * 1e3) as u64);
        Ok(())
    }

    async fn row(
        &mut self,
        started: Instant,
        seconds: f64,
        used: &mut Used,
        ended: &mut u64,
        folder: &Path,
    ) -> Result<Row> {
        let run = &self.run;
        let first = self.meter.nodes() == 0;
        self.meter.observe(&run.client.cluster().await.context("the nodes' counters")?);
        let all = run.books.ended_count();
        let (jobs, now) = ((all - *ended) as f64, self.meter.used());
        let since = now.since(*used);
        let percentiles = |step| run.latencies.percentiles(step);
        let (submit, whole) = (percentiles(Step::Submit), percentiles(Step::Whole));
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let row = Row {
            minutes: started.elapsed().as_secs_f64() / 60.0,
            jobs_per_s: jobs / seconds,
            queued: run.books.submitted_count().saturating_sub(all),
            submit_p50_ms: submit.map_or(0.0, |p| p.p50),
            submit_p99_ms: submit.map_or(0.0, |p| p.p99),
            whole_p50_ms: whole.map_or(0.0, |p| p.p50),
            whole_p99_ms: whole.map_or(0.0, |p| p.p99),
            // The first reading only tells where the counters stand.
            cpu_us_per_job: (!first).then(|| since.cpu_us as f64 / jobs.max(1.0)),
            disk_bytes_per_job: (!first).then(|| since.written_bytes as f64 / jobs.max(1.0)),
            memory_mib: mib(self.meter.rss_bytes()),
            jobs_mib: mib(self.meter.job_bytes()),
            data_mib: mib(bytes_in(folder)),
        };
        (*used, *ended) = (now, all);
        run.latencies.reset();
        Ok(row)
    }

    /// Jobs of the run's queues that have not ended, as the cluster counts them.
    async fn left(&self) -> Result<u64> {
        // Nodes tell each other what they have.
        tokio::time::sleep(self.common.settle).await;
        let queues = self.run.client.cluster().await.context("the queues")?.queues;
        Ok(queues.iter().filter(|q| self.queues.contains(&q.queue)).map(|q| q.ready + q.leased).sum())
    }
}

/// Bytes of the files in a folder. Files that go meanwhile count for nothing.
fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_in(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
