//! Closed loops: submitters that submit the next batch when the last is acknowledged, workers that report a batch and
//! ask for the next in one frame.

use crate::books::Ending;
use crate::mark::{Bodies, Mark};
use crate::run::Run;
use crate::station::{Station, lease_request};
use anyhow::{Context, Result};
use bytes::Bytes;
use moso_client::Submission;
use moso_client::v1::{JobSpec, TaskSpec};
use moso_proto::object::{Queue, kind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// What closed loops submit.
pub struct Load {
    /// Queues, one after the other.
    pub queues: Vec<String>,
    /// Jobs in all.
    pub jobs: u32,
    /// Jobs of one task.
    pub batch: u32,
    /// Makes the bodies.
    pub bodies: Bodies,
    next: AtomicU32,
    ahead_ms: AtomicU64,
}

impl Load {
    /// So many jobs in tasks of `batch`.
    pub fn new(queues: Vec<String>, jobs: u32, batch: u32, bodies: Bodies) -> Arc<Load> {
        Arc::new(Load { queues, jobs, batch, bodies, next: AtomicU32::new(0), ahead_ms: AtomicU64::new(0) })
    }

    /// Number of tasks.
    pub fn batches(&self) -> u32 {
        self.jobs.div_ceil(self.batch)
    }

    /// The next batch that nobody has taken.
    pub fn take(&self) -> Option<u32> {
        let batch = self.next.fetch_add(1, Relaxed);
        (batch < self.batches()).then_some(batch)
    }

    /// Submits one batch.
    ///
    /// # Errors
    /// As [`Run::submit`].
    pub async fn submit(&self, run: &Run, batch: u32, intended_us: u64) -> Result<()> {
        let bodies = self.make(run.number, batch, intended_us);
        let count = bodies.len() as u32;
        let jobs = bodies.into_iter().map(|body| JobSpec { body, ..JobSpec::default() });
        let queue = &self.queues[self.queue_of(batch)];
        let submission = Submission::new(task(queue)).jobs(jobs.collect());
        let submission = match self.ahead_ms.load(Relaxed) {
            0 => submission,
            ahead_ms => {
                let id = later(submission.id(), ahead_ms);
                submission.with_id(id)
            }
        };
        run.submit(submission, count, intended_us).await
    }

    /// The bodies of one batch.
    pub fn make(&self, run: u32, batch: u32, intended_us: u64) -> Vec<Bytes> {
        let count = self.batch.min(self.jobs - batch * self.batch);
        self.bodies.make(Mark { run, record: batch, intended_us }, count)
    }

    /// The nodes' clocks are so far ahead, ms: submissions are picked by their time.
    pub fn set_ahead(&self, ms: u64) {
        self.ahead_ms.store(ms, Relaxed);
    }

    /// Where a batch goes, as an index of `queues`.
    pub fn queue_of(&self, batch: u32) -> usize {
        batch as usize % self.queues.len()
    }
}

/// The id of a submission that was picked so much later: its first six bytes are Unix time in ms, big endian.
fn later(mut id: [u8; 16], ms: u64) -> [u8; 16] {
    let mut time = [0; 8];
    time[2..].copy_from_slice(&id[..6]);
    let time = u64::from_be_bytes(time).wrapping_add(ms).to_be_bytes();
    id[..6].copy_from_slice(&time[2..]);
    id
}

/// What all tasks of the generator have in common.
pub fn task(queue: &str) -> TaskSpec {
    TaskSpec {
        name: "bench".to_owned(),
        queue: queue.to_owned(),
        owner: "bench".to_owned(),
        group: "bench".to_owned(),
        label: "managed".to_owned(),
        priority: 1_000,
        body_type: "bench".to_owned(),
        ..TaskSpec::default()
    }
}

/// Names `bench-1`, `bench-2`, ….
pub fn queue_names(prefix: &str, count: u32) -> Vec<String> {
    (1..=count).map(|n| format!("{prefix}-{n}")).collect()
}

/// Makes the queues, as given, also where they exist.
///
/// # Errors
/// When the cluster refuses.
pub async fn make_queues(run: &Run, names: &[String], queue: &Queue) -> Result<()> {
    for name in names {
        run.client.put_object(kind::QUEUE, name, queue, None).await.with_context(|| format!("queue {name}"))?;
    }
    Ok(())
}

/// Submits batch after batch until there is none left.
///
/// # Errors
/// As [`Run::submit`].
pub async fn submit_all(run: Arc<Run>, load: Arc<Load>) -> Result<()> {
    while let Some(batch) = load.take() {
        if run.is_stopped() {
            break;
        }
        load.submit(&run, batch, run.now_us()).await?;
    }
    Ok(())
}

/// Leases up to `max_jobs` jobs, reports them finished with the next request, and so on until the run stops.
///
/// # Errors
/// When the session cannot go on.
pub async fn finish_all(run: Arc<Run>, index: usize, mut queues: Vec<String>, max_jobs: u32) -> Result<()> {
    let shift = index % queues.len();
    queues.rotate_left(shift);
    let mut station = Station::open(run.clone(), index).await?;
    let mut results = Vec::new();
    loop {
        let request = lease_request(&queues, max_jobs);
        station.turn(std::mem::take(&mut results), None, Some(request)).await?;
        let leases = loop {
            if let Some(beat) = station.complete_beat(std::iter::empty(), run.now_us()) {
                station.turn(Vec::new(), Some(beat), None).await?;
            }
            let frame = tokio::select! {
                frame = station.frame() => frame,
                () = run.stopped() => {
                    station.close().await;
                    return Ok(());
                }
            };
            if let Some(leases) = station.take(frame).await?.leases {
                break leases;
            }
        };
        let now_us = run.now_us();
        results.extend(leases.iter().map(|job| station.report(job, Ending::Finished, now_us)));
    }
}
