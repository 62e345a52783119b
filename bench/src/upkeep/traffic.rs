//! Users beside an upkeep: they submit single jobs and look at them, at a fixed rate, with the client as everybody makes it.
//! What it reports as failed is a failure.

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use moso_client::v1::TaskSpec;
use moso_client::{Client, Job, JobOutcome, Submission, Worker, WorkerHandle, WorkerReport};
use moso_proto::object::{Queue, kind};
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const QUEUE: &str = "upkeep-traffic";
/// Users, each of whom waits for one answer at a time.
const USERS: u32 = 16;
/// Worker sessions, and jobs that each runs at once.
const WORKERS: usize = 3;
const SLOTS: usize = 16;
/// Latencies told apart, µs: up to ten minutes.
const LONGEST_US: u64 = 600_000_000;
/// Failures kept to be shown.
const SHOWN: usize = 5;

/// What the users met in one phase.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Met {
    /// Phase.
    pub phase: String,
    /// How long it was, s.
    pub seconds: f64,
    /// Requests answered: submissions, and questions about jobs.
    pub requests: u64,
    /// Requests that the client gave up.
    pub failed: u64,
    /// Some of their messages.
    pub failures: Vec<String>,
    /// Latency from when a request was due, ms.
    pub p50_ms: f64,
    /// 99 of 100 are no slower.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

struct Phase {
    name: String,
    since: Instant,
    latencies: Histogram<u64>,
    failed: u64,
    failures: Vec<String>,
}

impl Phase {
    fn new(name: &str) -> Self {
        let latencies = Histogram::new_with_max(LONGEST_US, 3).expect("three digits up to ten minutes are allowed");
        Phase { name: name.to_owned(), since: Instant::now(), latencies, failed: 0, failures: Vec::new() }
    }

    fn met(self) -> Met {
        let ms = |us: u64| us as f64 / 1e3;
        Met {
            phase: self.name,
            seconds: self.since.elapsed().as_secs_f64(),
            requests: self.latencies.len(),
            failed: self.failed,
            failures: self.failures,
            p50_ms: ms(self.latencies.value_at_quantile(0.5)),
            p99_ms: ms(self.latencies.value_at_quantile(0.99)),
            max_ms: ms(self.latencies.max()),
        }
    }
}

/// The users and the workers that serve them.
pub struct Traffic {
    phase: Arc<Mutex<Phase>>,
    stop: Arc<AtomicBool>,
    users: Vec<JoinHandle<()>>,
    workers: Vec<(WorkerHandle, JoinHandle<moso_client::Result<WorkerReport>>)>,
}

impl Traffic {
    /// Begins, with `rate` requests a second.
    ///
    /// # Errors
    /// When the queue cannot be made.
    pub async fn start(client: &Client, rate: f64, phase: &str) -> Result<Traffic> {
        client.put_object(kind::QUEUE, QUEUE, &Queue::default(), None).await.context("queue")?;
        let mut traffic = Traffic {
            phase: Arc::new(Mutex::new(Phase::new(phase))),
            stop: Arc::default(),
            users: Vec::new(),
            workers: Vec::new(),
        };
        for number in 0..WORKERS {
            let worker = Worker::new(client).queue(QUEUE).slots(SLOTS).name(format!("upkeep-{number}")).node(number);
            let handle = worker.handle();
            let run = worker.run(|_: Job| async { JobOutcome::finished() });
            traffic.workers.push((handle, tokio::spawn(run)));
        }
        // Each user makes two requests a round.
        let round = Duration::from_secs_f64(2.0 * f64::from(USERS) / rate);
        for number in 0..USERS {
            let first = Instant::now() + round.mul_f64(f64::from(number) / f64::from(USERS));
            let (client, phase, stop) = (client.clone(), traffic.phase.clone(), traffic.stop.clone());
            traffic.users.push(tokio::spawn(async move {
                let mut due = first;
                while !stop.load(Relaxed) {
                    tokio::time::sleep_until(due).await;
                    use_cluster(&client, &phase, due).await;
                    due += round;
                }
            }));
        }
        Ok(traffic)
    }

    /// Ends a phase, and begins another.
    pub fn next(&self, phase: &str) -> Met {
        std::mem::replace(&mut *lock(&self.phase), Phase::new(phase)).met()
    }

    /// Ends.
    ///
    /// # Errors
    /// When a worker met an error that it could not get over.
    pub async fn stop(self) -> Result<()> {
        self.stop.store(true, Relaxed);
        for user in self.users {
            user.await.context("a user")?;
        }
        for (handle, worker) in self.workers {
            handle.drain();
            worker.await.context("a worker")?.context("a worker")?;
        }
        Ok(())
    }
}

fn lock(phase: &Mutex<Phase>) -> std::sync::MutexGuard<'_, Phase> {
    phase.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note<T>(phase: &Mutex<Phase>, due: Instant, answer: Result<T, moso_client::Error>) -> Option<T> {
    let mut phase = lock(phase);
    let us = due.elapsed().as_micros() as u64;
    // Within the histogram's range by this bound.
    let _ = phase.latencies.record(us.clamp(1, LONGEST_US));
    match answer {
        Ok(answer) => Some(answer),
        Err(error) => {
            phase.failed += 1;
            if phase.failures.len() < SHOWN {
                phase.failures.push(error.to_string());
            }
            None
        }
    }
}

async fn use_cluster(client: &Client, phase: &Mutex<Phase>, due: Instant) {
    let task = TaskSpec { name: "upkeep".into(), queue: QUEUE.into(), owner: "bench".into(), ..TaskSpec::default() };
    let submitted = client.submit(Submission::new(task).job(vec![0; 256])).await;
    if let Some(reply) = note(phase, due, submitted) {
        let asked = Instant::now();
        note(phase, asked, client.job(reply.first_job_id).await);
    }
}
