//! A closed loop of submitters and workers, and the books that must balance in the end.

use super::{Cluster, DEADLINE, eventually, task};
use futures::StreamExt;
use moso_client::v1::{Selector, SubmitReply};
use moso_client::{Client, Job, JobOutcome, Submission, Worker, WorkerHandle, WorkerReport};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;

/// Submissions in flight.
const SUBMITTERS: usize = 2;
/// Worker processes played, each with [`SLOTS`] jobs at once.
const WORKERS: usize = 3;
const SLOTS: usize = 20;
/// Every so many tasks one is an array.
const ARRAY_EVERY: u64 = 3;
/// Jobs of a task.
pub const TASK_JOBS: u32 = 10;

/// Tasks looked at at once.
const READS: usize = 16;

/// The queue that is used.
pub const QUEUE: &str = "load";

/// Load on a cluster.
pub struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<Vec<SubmitReply>>>,
    ran: Arc<AtomicU64>,
    submitters: Vec<JoinHandle<()>>,
    workers: Vec<(WorkerHandle, JoinHandle<WorkerReport>)>,
}

impl Load {
    /// Starts it.
    pub async fn start(cluster: &Cluster) -> Self {
        cluster.short_lease_queue(QUEUE).await;
        let mut load = Load {
            stop: Arc::default(),
            accepted: Arc::default(),
            ran: Arc::default(),
            submitters: Vec::new(),
            workers: Vec::new(),
        };
        for _ in 0..SUBMITTERS {
            let (stop, accepted) = (load.stop.clone(), load.accepted.clone());
            load.submitters.push(tokio::spawn(submit(cluster.client.clone(), stop, accepted)));
        }
        for number in 0..WORKERS {
            let worker =
                Worker::new(&cluster.client).queue(QUEUE).slots(SLOTS).name(format!("wn{number}")).node(number);
            let (handle, ran) = (worker.handle(), load.ran.clone());
            let run = worker.run(move |_: Job| {
                let ran = ran.clone();
                async move {
                    ran.fetch_add(1, Ordering::Relaxed);
                    JobOutcome::finished().output("done")
                }
            });
            load.workers.push((handle, tokio::spawn(async move { run.await.unwrap() })));
        }
        load
    }

    /// What was accepted so far.
    pub fn accepted(&self) -> Vec<SubmitReply> {
        self.accepted.lock().unwrap().clone()
    }

    /// Waits until so many further jobs have run.
    pub async fn progress(&self, jobs: u64) {
        let goal = self.ran.load(Ordering::Relaxed) + jobs;
        eventually(&format!("{jobs} further jobs run"), async || {
            (self.ran.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }

    /// Ends it: all that was accepted must end, exactly once, and nothing else may be there.
    pub async fn settle(self, cluster: &Cluster) {
        self.stop.store(true, Ordering::Relaxed);
        for submitter in self.submitters {
            tokio::time::timeout(DEADLINE, submitter).await.expect("submitters end").unwrap();
        }
        let accepted = std::mem::take(&mut *self.accepted.lock().unwrap());
        let jobs: u64 = accepted.iter().map(|reply| u64::from(reply.jobs)).sum();
        let ends = accepted.iter().map(|reply| cluster.ended_task(reply.task_id));
        let mut ends = futures::stream::iter(ends).buffer_unordered(READS);
        while let Some(ended) = ends.next().await {
            assert_eq!(ended.state, "done", "task {}: {:?}", ended.task_id, ended.counts);
        }
        let mut reports = WorkerReport::default();
        for (handle, worker) in self.workers {
            handle.drain();
            let report = tokio::time::timeout(DEADLINE, worker).await.expect("workers drain").unwrap();
            reports.finished += report.finished;
            reports.refused += report.refused;
            reports.lost += report.lost;
        }
        eprintln!("{jobs} jobs of {} tasks; {reports:?}", accepted.len());
        // An acknowledgement that was lost makes a repeat, which is recognised: nothing is refused.
        assert!(reports.finished - reports.refused >= jobs, "more jobs ended than were reported");
        check_archive(cluster, &accepted).await;
    }
}

/// Submits until it is told to stop. The client repeats what fails, under the same id: a failure here is a loss.
async fn submit(client: Client, stop: Arc<AtomicBool>, accepted: Arc<Mutex<Vec<SubmitReply>>>) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let submission = Submission::new(task(QUEUE));
        let submission = match number % ARRAY_EVERY {
            0 => submission.array(TASK_JOBS),
            _ => (0..TASK_JOBS).fold(submission, |s, job| s.job(format!("job {job}"))),
        };
        let first = client.submit(submission.clone()).await.unwrap();
        if number % 5 == 0 {
            // As if the answer had been lost.
            let again = client.submit(submission).await.unwrap();
            assert!(again.repeated && again.task_id == first.task_id, "{again:?} after {first:?}");
        }
        accepted.lock().unwrap().push(first);
    }
}

/// Each job is in the archive once, with its result, and there are no others.
async fn check_archive(cluster: &Cluster, accepted: &[SubmitReply]) {
    let all = cluster.list(Selector { queue: QUEUE.into(), ..Selector::default() }, 10_000).await;
    let listed: BTreeMap<u64, _> = all.iter().map(|job| (job.job_id, job)).collect();
    assert_eq!(listed.len(), all.len(), "a job is in the archive twice");
    let expected: BTreeSet<u64> =
        accepted.iter().flat_map(|r| r.first_job_id..r.first_job_id + u64::from(r.jobs)).collect();
    let missing: Vec<_> = expected.iter().filter(|id| !listed.contains_key(id)).take(5).collect();
    assert!(missing.is_empty(), "acknowledged jobs are gone, as {missing:?}");
    let others: Vec<_> = listed.keys().filter(|id| !expected.contains(id)).take(5).collect();
    assert!(others.is_empty(), "jobs exist that nobody was told of, as {others:?}");
    for job in listed.values() {
        assert_eq!((job.state.as_str(), &job.output[..]), ("finished", &b"done"[..]), "job {}", job.job_id);
    }
}
