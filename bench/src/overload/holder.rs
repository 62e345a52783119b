//! Workers that hold jobs through the storm: each sends heartbeats for all of them, and now and then a result.

use super::tally::Times;
use anyhow::{Context, Result, ensure};
use moso_client::v1::{Heartbeat, JobResult, Lease, NodeFrame, Outcome};
use moso_client::{Client, Error, NodeRef, Session, SessionOptions, Turn};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Jobs run.
const RUNNING: u32 = 2;
/// Longest wait for jobs at the start, and for the acknowledgement of all results in the end.
const PATIENCE: Duration = Duration::from_secs(90);
/// Pause before a stream that could not be opened is opened again.
const AGAIN: Duration = Duration::from_millis(250);

/// What the workers saw.
#[derive(Default)]
pub struct Seen {
    /// Jobs held by all now.
    pub held: AtomicU64,
    /// Leases that a worker was told it had lost, and results that were refused.
    pub lost: AtomicU64,
    /// Times that a stream broke.
    pub broken: AtomicU64,
    /// Results accepted.
    pub accepted: AtomicU64,
    /// From heartbeat sent to answered.
    pub heartbeats: Times,
    /// From result sent to accepted.
    pub results: Times,
}

/// One worker.
struct Worker {
    session: Session,
    jobs: Vec<Lease>,
    seen: Arc<Seen>,
    /// Heartbeats that await their answers, by number.
    beats: BTreeMap<u64, Instant>,
    results: HashMap<u64, Instant>,
}

/// Leases so many jobs and holds them until `stop`; then reports them all.
///
/// # Errors
/// When the jobs did not come, or their results were not acknowledged in time.
pub async fn hold(
    client: Client,
    index: usize,
    (queue, jobs): (&str, usize),
    beat: Duration,
    seen: Arc<Seen>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let options = SessionOptions { worker: format!("holder-{index}"), node: Some(NodeRef::Index(index)) };
    let session = client.session(options).await.context("session")?;
    let mut worker = Worker { session, jobs: Vec::new(), seen, beats: BTreeMap::new(), results: HashMap::new() };
    worker.fill(queue, jobs).await?;
    let mut beats = tokio::time::interval(beat);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let told = tokio::select! {
            () = async { drop(stop.wait_for(|stop| *stop).await) } => break,
            _ = beats.tick() => worker.speak(1).await,
            frame = worker.session.next() => frame.map(|frame| worker.take(frame)),
        };
        worker.mend(told).await?;
    }
    tokio::time::timeout(PATIENCE, worker.finish()).await.context("the last results were not acknowledged")?
}

impl Worker {
    async fn fill(&mut self, queue: &str, jobs: usize) -> Result<()> {
        let start = Instant::now();
        while self.jobs.len() < jobs {
            ensure!(start.elapsed() < PATIENCE, "only {} of {jobs} jobs came", self.jobs.len());
            let left = (jobs - self.jobs.len()).min(1_000) as u32;
            match self.session.lease(&[queue], left, Duration::from_secs(1)).await {
                Ok(leases) => {
                    self.seen.held.fetch_add(leases.len() as u64, Relaxed);
                    self.jobs.extend(leases);
                }
                Err(error) if error.is_retryable() => tokio::time::sleep(AGAIN).await,
                Err(error) => return Err(error).context("lease"),
            }
        }
        Ok(())
    }

    /// A heartbeat for all jobs, with so many results.
    async fn speak(&mut self, results: usize) -> moso_client::Result<()> {
        let ended = self.jobs.len() - results.min(self.jobs.len().saturating_sub(1));
        let results: Vec<JobResult> = self.jobs.drain(ended..).map(|lease| finished(&lease)).collect();
        let now = Instant::now();
        self.results.extend(results.iter().map(|result| (result.job_id, now)));
        self.seen.held.fetch_sub(results.len() as u64, Relaxed);
        let heartbeat = Heartbeat {
            jobs: self.jobs.iter().map(|lease| lease.job_id).collect(),
            attempts: self.jobs.iter().map(|lease| lease.attempt).collect(),
            phases: vec![RUNNING; self.jobs.len()],
            ..Heartbeat::default()
        };
        self.beats.insert(self.session.heartbeat_seq() + 1, now);
        self.session.turn(Turn { results, heartbeat: Some(heartbeat), ..Turn::default() }).await
    }

    fn take(&mut self, frame: NodeFrame) {
        let now = Instant::now();
        if let Some(reply) = &frame.heartbeat {
            self.seen.lost.fetch_add(reply.lost.len() as u64, Relaxed);
            // Answers that are ready together come as one, with the last one's number.
            let later = self.beats.split_off(&(reply.seq + 1));
            for sent in std::mem::replace(&mut self.beats, later).into_values() {
                self.seen.heartbeats.record(now - sent);
            }
        }
        let Some(ack) = &frame.results else { return };
        for job in &ack.accepted {
            if let Some(sent) = self.results.remove(job) {
                self.seen.results.record(now - sent);
                self.seen.accepted.fetch_add(1, Relaxed);
            }
        }
        for refusal in &ack.refused {
            // One that was accepted before, and the answer lost, is not lost.
            if self.results.remove(&refusal.job_id).is_some() && refusal.code != "already_ended" {
                self.seen.lost.fetch_add(1, Relaxed);
            }
        }
    }

    /// Opens a new stream after the old one broke, and says at once what is held.
    async fn mend(&mut self, told: moso_client::Result<()>) -> Result<()> {
        match told {
            Ok(()) => return Ok(()),
            Err(Error::Disconnected { .. }) => drop(self.seen.broken.fetch_add(1, Relaxed)),
            Err(error) => return Err(error).context("session"),
        }
        // A heartbeat on the old stream is not answered; that it took so long counts.
        for sent in std::mem::take(&mut self.beats).into_values() {
            self.seen.heartbeats.record(sent.elapsed());
        }
        loop {
            if self.session.reconnect().await.is_ok() && self.speak(0).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Reports all that is held, and waits for the acknowledgements.
    async fn finish(&mut self) -> Result<()> {
        let results: Vec<JobResult> = self.jobs.drain(..).map(|lease| finished(&lease)).collect();
        self.seen.held.fetch_sub(results.len() as u64, Relaxed);
        let now = Instant::now();
        self.results.extend(results.iter().map(|result| (result.job_id, now)));
        let mut told = self.session.turn(Turn { results, ..Turn::default() }).await;
        while !self.results.is_empty() {
            self.mend(told).await?;
            told = self.session.next().await.map(|frame| self.take(frame));
            if told.is_ok() {
                // What is to be sent again goes with an empty turn.
                told = self.session.turn(Turn::default()).await;
            }
        }
        for sent in std::mem::take(&mut self.beats).into_values() {
            self.seen.heartbeats.record(sent.elapsed());
        }
        Ok(())
    }
}

fn finished(lease: &Lease) -> JobResult {
    JobResult {
        job_id: lease.job_id,
        attempt: lease.attempt,
        outcome: Outcome::Finished.into(),
        ..JobResult::default()
    }
}
