//! Workers: lease jobs, run an async closure on each, report.

pub(crate) mod held;
pub(crate) mod job;
pub(crate) mod outcome;
mod run;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::session::{NodeRef, SessionOptions};
use job::Job;
use moso_proto::v1::LeaseRequest;
use outcome::JobOutcome;
use run::Run;
use std::sync::Arc;
use tokio::sync::watch;

/// What a worker was told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Control {
    Run,
    Drain,
    Abort,
}

/// Ends a running [`Worker`].
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    control: Arc<watch::Sender<Control>>,
}

impl WorkerHandle {
    /// Takes no more leases; [`Worker::run`] returns when what runs has ended and was reported.
    pub fn drain(&self) {
        self.raise(Control::Drain);
    }

    /// As [`drain`](Self::drain), and tells every job to stop with [`Stop::Shutdown`](crate::Stop::Shutdown). Jobs that
    /// answer with [`JobOutcome::cancelled`] or [`JobOutcome::released`] go to another worker.
    pub fn abort(&self) {
        self.raise(Control::Abort);
    }

    fn raise(&self, to: Control) {
        self.control.send_if_modified(|now| {
            let news = *now < to;
            *now = to.max(*now);
            news
        });
    }
}

/// What a worker has done, in jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// Reported as finished.
    pub finished: u64,
    /// Reported as failed.
    pub failed: u64,
    /// Reported as cancelled.
    pub cancelled: u64,
    /// Given back.
    pub released: u64,
    /// Not reported, as the lease was lost.
    pub lost: u64,
    /// Of those reported, refused by the cluster: the job had gone elsewhere or had ended.
    pub refused: u64,
}

/// Leases jobs and runs an async closure on each.
///
/// The worker sends heartbeats for all its jobs, tells a job when it is killed, when its lease is lost and when it can no
/// longer be sure of it ([`Job::stopped`]), keeps each result until a majority has recorded it, and goes on at another
/// node when one fails. Results, heartbeat and the next request for jobs share a frame when they coincide.
///
/// ```no_run
/// use moso_client::{Client, Job, JobOutcome, Worker};
///
/// # async fn example() -> moso_client::Result<()> {
/// let client = Client::connect(["127.0.0.1:7001"]).await?;
/// let worker = Worker::new(&client).queue("CERN").queue("BNL").slots(64).name("wn17");
/// let handle = worker.handle();
/// tokio::spawn(async move {
///     let _ = tokio::signal::ctrl_c().await;
///     handle.drain();
/// });
/// let report = worker
///     .run(|job: Job| async move {
///         println!("job {} attempt {}: {} bytes", job.id, job.attempt, job.body.len());
///         JobOutcome::finished()
///     })
///     .await?;
/// println!("{} jobs finished", report.finished);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Worker {
    client: Client,
    session: SessionOptions,
    request: LeaseRequest,
    slots: usize,
    batch: usize,
    control: Arc<watch::Sender<Control>>,
}

impl Worker {
    /// A worker with one slot. It needs at least one [`queue`](Self::queue).
    pub fn new(client: &Client) -> Self {
        Worker {
            client: client.clone(),
            session: SessionOptions::default(),
            request: LeaseRequest::default(),
            slots: 1,
            batch: 100,
            control: Arc::new(watch::Sender::new(Control::Run)),
        }
    }

    /// Adds a queue to take jobs from; the first is asked first.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.request.queues.push(queue.into());
        self
    }

    /// Jobs run at once. Default 1, at least 1.
    pub fn slots(mut self, slots: usize) -> Self {
        self.slots = slots.max(1);
        self
    }

    /// Most jobs asked for at once. Default 100, at least 1.
    pub fn lease_batch(mut self, jobs: usize) -> Self {
        self.batch = jobs.max(1);
        self
    }

    /// Name for people: host, slot, batch id.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.session.worker = name.into();
        self
    }

    /// The node asked first. Default: the client's choice.
    pub fn node(mut self, node: impl Into<NodeRef>) -> Self {
        self.session.node = Some(node.into());
        self
    }

    /// What the worker has and wants (cores, memory, tags, label, …), in the words of the API: only jobs that fit are
    /// leased. Queues, number and wait of the request are the worker's own and stay as they are.
    pub fn offer(mut self, offer: LeaseRequest) -> Self {
        self.request = LeaseRequest { queues: self.request.queues, request_id: 0, max_jobs: 0, wait_ms: 0, ..offer };
        self
    }

    /// A handle that ends it.
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle { control: self.control.clone() }
    }

    /// Runs until [`WorkerHandle::drain`] or [`WorkerHandle::abort`]. Each job runs in a task of its own; a panic in it
    /// is a failure of the job. Dropping the future aborts the jobs; their leases then run out.
    ///
    /// # Errors
    /// [`Error::Refused`] when the cluster will not have the worker (a queue that does not exist): what runs is ended
    /// and reported first. [`Error::Unreachable`] when no node answers at the start, or at the end of an abort; between
    /// them the worker waits for the cluster to come back.
    pub async fn run<F, Fut>(self, handler: F) -> Result<WorkerReport>
    where
        F: Fn(Job) -> Fut,
        Fut: Future<Output = JobOutcome> + Send + 'static,
    {
        if self.request.queues.is_empty() {
            return Err(Error::invalid("a worker needs at least one queue"));
        }
        let session = self.client.session(self.session.clone()).await?;
        Run::new(self, session, handler).until_drained().await
    }
}
