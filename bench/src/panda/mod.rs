//! `panda`: what pilots of PanDA cost. A cycle is a job for a pilot, the word that it runs and the word that it is finished,
//! each one request, as PanDA's pilots send them. Idle pilots ask an empty queue; running jobs are heard of now and then.

mod connection;

use crate::args::{Common, Panda};
use crate::cluster::Target;
use anyhow::{Context, Result, ensure};
use connection::Connection;
use flate2::Compression;
use flate2::write::GzEncoder;
use hdrhistogram::Histogram;
use moso_client::{Client, Submission};
use moso_proto::object::{Queue, kind};
use moso_proto::v1::TaskSpec;
use serde_json::{Value, json};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Queues of the jobs: those of the cycles, those that run, and none.
const CYCLES: &str = "panda-cycles";
const RUNNING: &str = "panda-running";
const EMPTY: &str = "panda-empty";
/// Jobs in one task.
const TASK_JOBS: u32 = 10_000;
/// Jobs of one request, for those that run.
const BULK: u32 = 200;
/// Wait of a pilot that found nothing while jobs are left.
const PAUSE: Duration = Duration::from_millis(20);
/// Steps of a cycle.
const STEPS: [&str; 3] = ["acquire", "running", "finished"];
/// Longest time told apart, µs.
const LONGEST_US: u64 = 600_000_000;

/// What the pilots share.
struct Bench {
    fronts: Vec<String>,
    old: bool,
    calls: AtomicU64,
    finished: AtomicU64,
    refused: AtomicU64,
    stop: AtomicBool,
    latencies: [Mutex<Histogram<u64>>; 3],
}

/// A job that a pilot has.
#[derive(Clone, Copy)]
struct Job {
    id: u64,
    attempt: u64,
}

impl Bench {
    fn front(&self, pilot: u32) -> &str {
        &self.fronts[pilot as usize % self.fronts.len()]
    }

    async fn call(&self, connection: &mut Connection, call: &str, body: &Value) -> Result<Value> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut bytes = body.to_string().into_bytes();
        if !self.old {
            let answer = connection.post(&format!("/api/v1/pilot/{call}"), &bytes).await?;
            return serde_json::from_slice(&answer).context("an answer that is no JSON");
        }
        let mut gzip = GzEncoder::new(Vec::with_capacity(bytes.len()), Compression::fast());
        gzip.write_all(&bytes).context("gzip")?;
        bytes = gzip.finish().context("gzip")?;
        let name = if call == "acquire_jobs" { "getJob" } else { "updateJob" };
        let answer = connection.post(&format!("/server/panda/{name}"), &bytes).await?;
        let pairs = form_urlencoded::parse(&answer);
        Ok(Value::Object(pairs.map(|(key, value)| (key.into_owned(), Value::from(value.into_owned()))).collect()))
    }

    async fn acquire(&self, connection: &mut Connection, queue: &str, jobs: u32) -> Result<Vec<Job>> {
        let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let job = |value: &Value| Some(Job { id: number(&value["PandaID"])?, attempt: number(&value["attemptNr"])? });
        if self.old {
            let body =
                json!({"siteName": queue, "prodSourceLabel": "user", "node": "bench", "mem": 2000.0, "diskSpace": 0});
            return Ok(job(&self.call(connection, "acquire_jobs", &body).await?).into_iter().collect());
        }
        let body = json!({"site_name": queue, "prod_source_label": "user", "node": "bench", "memory": 2000,
            "disk_space": 0, "n_jobs": jobs});
        let answer = self.call(connection, "acquire_jobs", &body).await?;
        Ok(answer["data"]["jobs"].as_array().into_iter().flatten().filter_map(job).collect())
    }

    async fn update(&self, connection: &mut Connection, job: Job, state: &str) -> Result<bool> {
        let body = if self.old {
            json!({"jobId": job.id.to_string(), "state": state, "attemptNr": job.attempt, "siteName": CYCLES,
                "node": "bench", "pilotID": "bench|PR|3", "coreCount": 1, "xml": "", "metaData": ""})
        } else {
            json!({"job_id": job.id, "job_status": state, "attempt_nr": job.attempt, "site_name": CYCLES,
                "node": "bench", "pilot_id": "bench|PR|3", "core_count": 1})
        };
        let answer = self.call(connection, "update_job", &body).await?;
        let command = if self.old { &answer["command"] } else { &answer["data"]["command"] };
        Ok(command == "NULL")
    }

    fn record(&self, step: usize, since: Instant) {
        let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(LONGEST_US).clamp(1, LONGEST_US);
        self.latencies[step].lock().expect("no code panics while it holds this lock").saturating_record(us);
    }

    /// Cycles until all jobs are finished.
    async fn cycles(self: Arc<Self>, pilot: u32, jobs: u64) -> Result<()> {
        let mut connection = Connection::open(self.front(pilot)).await?;
        while self.finished.load(Ordering::Relaxed) < jobs {
            let since = Instant::now();
            let Some(&job) = self.acquire(&mut connection, CYCLES, 1).await?.first() else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            self.record(0, since);
            for (step, state) in [(1, "running"), (2, "finished")] {
                let since = Instant::now();
                if !self.update(&mut connection, job, state).await? {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                self.record(step, since);
            }
            self.finished.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Asks an empty queue, on a new connection every time.
    async fn idle(self: Arc<Self>, pilot: u32, every: Duration) -> Result<()> {
        tokio::time::sleep(every.mul_f64(rand::random::<f64>())).await;
        while !self.stop.load(Ordering::Relaxed) {
            let mut connection = Connection::open(self.front(pilot)).await?;
            self.acquire(&mut connection, EMPTY, 1).await?;
            drop(connection);
            tokio::time::sleep(every.mul_f64(0.5 + rand::random::<f64>())).await;
        }
        Ok(())
    }

    /// Takes jobs and tells of each that it runs, one request at a time, each job once in `every`.
    async fn hold(self: Arc<Self>, pilot: u32, jobs: u32, every: Duration, ready: Arc<AtomicU64>) -> Result<()> {
        let mut connection = Connection::open(self.front(pilot)).await?;
        let mut held: Vec<Job> = Vec::with_capacity(jobs as usize);
        while held.len() < jobs as usize {
            let more = self.acquire(&mut connection, RUNNING, BULK.min(jobs - held.len() as u32)).await?;
            if more.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
            held.extend(more);
        }
        ready.fetch_add(u64::from(jobs), Ordering::Relaxed);
        let step = every / jobs.max(1);
        let mut next = tokio::time::Instant::now() + step.mul_f64(rand::random::<f64>());
        loop {
            for &job in &held {
                tokio::time::sleep_until(next).await;
                next += step;
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                if !self.update(&mut connection, job, "running").await? {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Jobs with a body that a pilot can run.
async fn submit(client: &Client, queue: &str, jobs: u32) -> Result<()> {
    let body = json!({"panda": 1, "job": {"transformation": "http://localhost/bash-c", "jobParameters": "'true'",
        "jobName": "bench", "prodSourceLabel": "user", "computingSite": queue, "Files": []}});
    let body = body.to_string().into_bytes();
    for start in (0..jobs).step_by(TASK_JOBS as usize) {
        let task = TaskSpec {
            name: "panda".into(),
            queue: queue.into(),
            owner: "bench".into(),
            label: "user".into(),
            priority: 1_000,
            body_type: "panda".into(),
            body: body.clone().into(),
            ..TaskSpec::default()
        };
        client.submit(Submission::new(task).array(TASK_JOBS.min(jobs - start))).await.context("submission")?;
    }
    Ok(())
}

/// CPU time of all nodes, µs.
async fn cpu_us(common: &Common, client: &Client) -> Result<u64> {
    tokio::time::sleep(common.settle).await;
    Ok(client.cluster().await?.nodes.iter().map(|node| node.cpu_us).sum())
}

/// Waits for the tasks; the first that fails ends the run.
async fn all(tasks: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(task) = tasks.join_next().await {
        task.context("a pilot")??;
    }
    Ok(())
}

/// Runs the command; whether every job ended once and no pilot was told otherwise.
///
/// # Errors
/// When the cluster refuses or does not answer.
pub async fn command(common: &Common, asked: &Panda) -> Result<bool> {
    let target = Target::open(common).await?;
    let client = target.client().await?;
    let own = target.fronts().await;
    let fronts = if asked.fronts.is_empty() { own } else { asked.fronts.clone() };
    ensure!(fronts.iter().all(|f| !f.is_empty()) && !fronts.is_empty(), "name the fronts of the cluster with --fronts");
    let queue = Queue { lease_ttl_ms: 3 * 3_600_000, heartbeat_ms: 30 * 60_000, ..Queue::default() };
    for name in [CYCLES, RUNNING, EMPTY] {
        client.put_object(kind::QUEUE, name, &queue, None).await.context("queue")?;
    }
    let histogram = || Histogram::new_with_bounds(1, LONGEST_US, 3).expect("a valid range");
    let bench = Arc::new(Bench {
        fronts,
        old: asked.old,
        calls: AtomicU64::new(0),
        finished: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        latencies: std::array::from_fn(|_| Mutex::new(histogram())),
    });
    let done = measure(common, asked, &client, &bench).await;
    let closed = target.close(common.keep && done.is_ok()).await;
    let ok = done?;
    closed.map(|()| ok)
}

async fn measure(common: &Common, asked: &Panda, client: &Client, bench: &Arc<Bench>) -> Result<bool> {
    submit(client, RUNNING, asked.running).await?;
    submit(client, CYCLES, asked.jobs + asked.backlog).await?;
    let mut others = JoinSet::new();
    let ready = Arc::new(AtomicU64::new(0));
    let holders = asked.running.div_ceil(2_000);
    for holder in 0..holders {
        let jobs = asked.running / holders + u32::from(holder < asked.running % holders);
        others.spawn(bench.clone().hold(holder, jobs, asked.heartbeat, ready.clone()));
    }
    let patience = Instant::now() + common.patience;
    while ready.load(Ordering::Relaxed) < u64::from(asked.running) {
        ensure!(Instant::now() < patience, "the running jobs did not start in time");
        tokio::time::sleep(PAUSE).await;
    }
    for pilot in 0..asked.idle_pilots {
        others.spawn(bench.clone().idle(pilot, asked.idle_every));
    }
    let (calls, cpu, since) = (bench.calls.load(Ordering::Relaxed), cpu_us(common, client).await?, Instant::now());
    if asked.jobs > 0 {
        let mut pilots = JoinSet::new();
        for pilot in 0..asked.pilots {
            pilots.spawn(bench.clone().cycles(pilot, asked.jobs.into()));
        }
        all(&mut pilots).await?;
    } else {
        tokio::time::sleep(Duration::from_secs(asked.seconds)).await;
    }
    let took = since.elapsed();
    let used = cpu_us(common, client).await?.saturating_sub(cpu);
    let calls = bench.calls.load(Ordering::Relaxed).saturating_sub(calls);
    bench.stop.store(true, Ordering::Relaxed);
    others.abort_all();
    report(common, asked, bench, took, calls, used)
}

fn report(common: &Common, asked: &Panda, bench: &Bench, took: Duration, calls: u64, cpu_us: u64) -> Result<bool> {
    let (finished, refused) = (bench.finished.load(Ordering::Relaxed), bench.refused.load(Ordering::Relaxed));
    let seconds = took.as_secs_f64();
    let mut out = json!({
        "command": "panda", "dialect": if asked.old { "old" } else { "v1" }, "pilots": asked.pilots,
        "cycles": finished, "refused": refused, "seconds": seconds, "calls": calls,
        "cycles_per_s": finished as f64 / seconds, "calls_per_s": calls as f64 / seconds,
        "cpu_us_per_call": cpu_us as f64 / calls.max(1) as f64, "cpu_cores": cpu_us as f64 / 1e6 / seconds,
        "backlog": asked.backlog, "idle_pilots": asked.idle_pilots, "running": asked.running,
    });
    println!(
        "cycles {finished} in {seconds:.1} s: {:.0}/s; calls {calls}: {:.0}/s",
        finished as f64 / seconds,
        calls as f64 / seconds
    );
    println!(
        "nodes' CPU {:.1} µs a call, {:.3} cores",
        cpu_us as f64 / calls.max(1) as f64,
        cpu_us as f64 / 1e6 / seconds
    );
    for (step, name) in STEPS.into_iter().enumerate() {
        let histogram = bench.latencies[step].lock().expect("no code panics while it holds this lock");
        if histogram.is_empty() {
            continue;
        }
        let at = |q: f64| histogram.value_at_quantile(q) as f64 / 1_000.0;
        println!(
            "{name:9} p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            at(0.5),
            at(0.99),
            histogram.max() as f64 / 1_000.0
        );
        out[name] = json!({ "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": histogram.max() as f64 / 1_000.0 });
    }
    let ok = refused == 0 && finished >= u64::from(asked.jobs);
    out["ok"] = ok.into();
    println!("{}", if ok { "every job ended once" } else { "SOMETHING WAS REFUSED" });
    if let Some(path) = &common.json {
        let json = serde_json::to_string_pretty(&out).context("report")?;
        std::fs::write(path, json + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(ok)
}
