//! What all parts of a run share: the client, the run's clock, its books and its latencies.

use crate::books::{Books, Ending};
use crate::flow::Flow;
use crate::histogram::{Latencies, Step};
use crate::mark::Mark;
use crate::workload::Workload;
use anyhow::{Context, Result, bail};
use moso_client::{Client, Submission};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often the state of a run is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// One run, against a moso cluster unless said otherwise.
pub struct Run<C = Client> {
    /// What it runs against.
    pub client: C,
    /// Who ended how often.
    pub books: Books,
    /// How long each step took.
    pub latencies: Latencies,
    /// When leases came.
    pub flow: Flow,
    /// Tells this run's jobs from those left by another.
    pub number: u32,
    /// Ends by site, for a replay.
    sites: Option<Sites>,
    running: AtomicU64,
    running_peak: AtomicU64,
    leases_lost: AtomicU64,
    /// Task ids and their numbers of jobs.
    tasks: Mutex<Vec<(u64, u32)>>,
    started: Instant,
    stop: watch::Sender<bool>,
    failure: Mutex<Option<anyhow::Error>>,
    parts: Mutex<Vec<JoinHandle<()>>>,
}

struct Sites {
    workload: Arc<Workload>,
    finished: Vec<AtomicU64>,
    failed: Vec<AtomicU64>,
}

impl<C> Run<C> {
    /// A run that begins now. `workload` is given by a replay, to count by site.
    pub fn new(client: C, workload: Option<Arc<Workload>>) -> Arc<Self> {
        let zeros = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        let sites = workload.map(|workload| Sites {
            finished: zeros(workload.sites.len()),
            failed: zeros(workload.sites.len()),
            workload,
        });
        Arc::new(Run {
            client,
            books: Books::new(),
            latencies: Latencies::new(),
            flow: Flow::new(),
            number: rand::random(),
            sites,
            running: AtomicU64::new(0),
            running_peak: AtomicU64::new(0),
            leases_lost: AtomicU64::new(0),
            tasks: Mutex::new(Vec::new()),
            started: Instant::now(),
            stop: watch::Sender::new(false),
            failure: Mutex::new(None),
            parts: Mutex::new(Vec::new()),
        })
    }

    /// The run's clock, µs since it began.
    pub fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// The moment at which the run's clock shows this.
    pub fn moment(&self, at_us: u64) -> tokio::time::Instant {
        (self.started + Duration::from_micros(at_us)).into()
    }

    /// The end of a job was accepted: `due_us` is when its report was due.
    pub fn ended(&self, job: u64, mark: &Mark, ending: Ending, due_us: u64, now_us: u64) {
        self.latencies.record(Step::Finish, due_us, now_us, 1);
        self.latencies.record(Step::Whole, mark.intended_us, now_us, 1);
        self.books.accepted(job, ending);
        let Some(sites) = &self.sites else { return };
        let Some(record) = sites.workload.records.get(mark.record as usize) else {
            return;
        };
        let counts = match ending {
            Ending::Finished => &sites.finished,
            Ending::Failed => &sites.failed,
        };
        counts[usize::from(record.site)].fetch_add(1, Relaxed);
    }

    /// Finished and failed jobs of each site; empty unless it is a replay.
    pub fn by_site(&self) -> Vec<(String, u64, u64)> {
        let Some(sites) = &self.sites else {
            return Vec::new();
        };
        let counts = sites.finished.iter().zip(&sites.failed);
        let names = sites.workload.sites.iter().cloned();
        names
            .zip(counts)
            .map(|(name, (finished, failed))| (name, finished.load(Relaxed), failed.load(Relaxed)))
            .collect()
    }

    /// Workers hold so many jobs more.
    pub fn hold(&self, jobs: u64) {
        let now = self.running.fetch_add(jobs, Relaxed) + jobs;
        self.running_peak.fetch_max(now, Relaxed);
    }

    /// Workers hold so many jobs less.
    pub fn release(&self, jobs: u64) {
        self.running.fetch_sub(jobs, Relaxed);
    }

    /// Jobs that workers hold now.
    pub fn running(&self) -> u64 {
        self.running.load(Relaxed)
    }

    /// Most jobs that workers held at once.
    pub fn running_peak(&self) -> u64 {
        self.running_peak.load(Relaxed)
    }

    /// A holder was told that a job is no longer his.
    pub fn lose(&self) {
        self.leases_lost.fetch_add(1, Relaxed);
    }

    /// Jobs of which holders were told so.
    pub fn leases_lost(&self) -> u64 {
        self.leases_lost.load(Relaxed)
    }

    /// Tasks acknowledged so far, with their numbers of jobs.
    pub fn tasks(&self) -> Vec<(u64, u32)> {
        lock(&self.tasks).clone()
    }

    /// Ends the run: workers leave, submitters stop.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for the end of the run.
    pub async fn stopped(&self) {
        // The sender lives as long as `self`.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Whether the run has ended.
    pub fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Ends the run because something went wrong. The first reason is kept.
    pub fn fail(&self, reason: anyhow::Error) {
        lock(&self.failure).get_or_insert(reason);
        self.stop();
    }

    /// Runs a part of the load beside the others; its failure ends the run.
    pub fn spawn(self: &Arc<Self>, part: impl Future<Output = Result<()>> + Send + 'static)
    where
        C: Send + Sync + 'static,
    {
        let run = self.clone();
        let part = tokio::spawn(async move {
            if let Err(error) = part.await {
                run.fail(error);
            }
        });
        lock(&self.parts).push(part);
    }

    /// Waits for the end of all parts. Call [`stop`](Self::stop) before.
    pub async fn join(&self) {
        let parts = std::mem::take(&mut *lock(&self.parts));
        for part in parts {
            if let Err(error) = part.await {
                self.fail(error.into());
            }
        }
    }

    /// Waits until `done` holds. `false`: the run failed, or nothing happened for `patience`.
    pub async fn wait_until(&self, patience: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let (mut seen, mut since) = (self.books.progress(), Instant::now());
        while !done(self) {
            if self.is_stopped() {
                return false;
            }
            tokio::time::sleep(LOOK).await;
            let now = self.books.progress();
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > patience {
                tracing::error!("nothing has happened for {patience:?}: giving up");
                return false;
            }
        }
        true
    }

    /// The reason the run failed, if it did.
    pub fn take_failure(&self) -> Option<anyhow::Error> {
        lock(&self.failure).take()
    }
}

impl Run {
    /// Submits a task of `jobs` jobs that was due at `intended_us`, and enters it in the books.
    ///
    /// # Errors
    /// When the cluster refuses it, or cannot take it for longer than the client repeats.
    pub async fn submit(&self, submission: Submission, jobs: u32, intended_us: u64) -> Result<()> {
        let reply = self.client.submit(submission).await.context("submission")?;
        let now_us = self.now_us();
        if reply.jobs != jobs {
            bail!("{jobs} jobs were submitted, {} acknowledged", reply.jobs);
        }
        self.latencies.record(Step::Submit, intended_us, now_us, 1);
        self.books.submitted(reply.first_job_id, jobs);
        lock(&self.tasks).push((reply.task_id, jobs));
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
