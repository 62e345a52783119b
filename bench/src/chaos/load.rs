//! What submitters, workers and the run share.

use super::history::{History, SubmissionId};
use moso_client::v1::{JobSpec, RetryPolicy, TaskSpec};
use moso_client::{Client, Submission};
use rand::Rng;
use rand::rngs::StdRng;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Attempts of a job: more than any run takes, so that every job can succeed.
const ATTEMPTS: u32 = 1_000;
/// Bytes of a body beyond the submission's id.
const BODY_MAX: usize = 512;
/// Jobs of a submission.
const TASK_JOBS_MAX: u32 = 10;

/// Part of the submissions of jobs of their own whose last job waits for the first.
const WAITS: f64 = 0.2;
/// How often the cluster is asked how many jobs are ready, and when its word is old.
const READY_LOOK: Duration = Duration::from_millis(100);
const READY_OLD: Duration = Duration::from_millis(600);

/// The phases of a run, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Submitters submit, workers work, and both die.
    Load,
    /// No more is submitted, nobody dies any more.
    Drain,
    /// All leave.
    Over,
}

/// Operations answered.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Submissions acknowledged, repeats too.
    pub submits: AtomicU64,
    /// Jobs leased.
    pub leases: AtomicU64,
    /// Heartbeat messages answered.
    pub heartbeats: AtomicU64,
    /// Results accepted or refused.
    pub results: AtomicU64,
}

/// Operations answered, at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Operations {
    /// Submissions acknowledged, repeats too.
    pub submits: u64,
    /// Jobs leased.
    pub leases: u64,
    /// Heartbeat messages answered.
    pub heartbeats: u64,
    /// Results accepted or refused.
    pub results: u64,
}

impl Operations {
    /// All together.
    pub fn sum(&self) -> u64 {
        self.submits + self.leases + self.heartbeats + self.results
    }
}

/// What submitters, workers and the run share.
pub(super) struct Load {
    /// For submitters and workers: gives up soon, so that they notice.
    pub client: Client,
    /// What happens.
    pub history: Arc<History>,
    /// Operations answered.
    pub counters: Counters,
    /// Name of the queue.
    pub queue: String,
    /// Submitters hold back while so many jobs are ready.
    pub backlog: u64,
    /// A job that runs long takes this at most.
    pub job_max: Duration,
    /// Jobs ready, as the cluster last said, and when it was asked (ns since the run began).
    ready: AtomicU64,
    ready_ns: AtomicU64,
    phase: watch::Sender<Phase>,
    problems: Mutex<Vec<String>>,
}

impl Load {
    /// Load of a queue, not begun yet.
    pub fn new(client: Client, history: Arc<History>, queue: &str, backlog: u64, job_max: Duration) -> Load {
        Load {
            client,
            history,
            counters: Counters::default(),
            queue: queue.to_owned(),
            backlog,
            job_max,
            ready: AtomicU64::new(0),
            ready_ns: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::Load),
            problems: Mutex::default(),
        }
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes on to a later phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits for a phase, or a later one.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives as long as `self`.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Keeps what the cluster says is ready, until the run is over.
    pub async fn watch_ready(self: Arc<Self>) {
        while self.phase() < Phase::Over {
            let asked_ns = self.history.now_ns();
            if let Ok(cluster) = self.client.cluster().await {
                self.ready.store(cluster.shards.iter().map(|shard| shard.ready).sum(), Relaxed);
                self.ready_ns.store(asked_ns, Relaxed);
            }
            tokio::time::sleep(READY_LOOK).await;
        }
    }

    /// Whether enough jobs are ready. A word that is old says nothing: it may be that all have gone.
    pub fn is_full(&self) -> bool {
        let age_ns = self.history.now_ns().saturating_sub(self.ready_ns.load(Relaxed));
        age_ns < READY_OLD.as_nanos() as u64 && self.ready.load(Relaxed) >= self.backlog
    }

    /// Operations answered so far.
    pub fn operations(&self) -> Operations {
        let counters = &self.counters;
        Operations {
            submits: counters.submits.load(Relaxed),
            leases: counters.leases.load(Relaxed),
            heartbeats: counters.heartbeats.load(Relaxed),
            results: counters.results.load(Relaxed),
        }
    }

    /// A client was told something that no cluster may say.
    pub fn problem(&self, problem: String) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        // Said once: the same defect answers many.
        if !problems.contains(&problem) && problems.len() < 100 {
            println!("           PROBLEM: {problem}");
            problems.push(problem);
        }
    }

    /// What clients were told that no cluster may say.
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A submission of some jobs, whose name and bodies say its id.
    pub fn draw_submission(&self, rng: &mut StdRng) -> (Submission, u32) {
        let id = Submission::new(TaskSpec::default()).id();
        let body = |rng: &mut StdRng| {
            let mut body = id.to_vec();
            body.resize(id.len() + rng.random_range(0..=BODY_MAX), b'.');
            body
        };
        let jobs = rng.random_range(1..=TASK_JOBS_MAX);
        let is_array = rng.random_bool(0.3);
        let task = TaskSpec {
            name: SubmissionId(id).to_string(),
            queue: self.queue.clone(),
            owner: "chaos".to_owned(),
            priority: 1_000,
            body_type: "chaos".to_owned(),
            retry: Some(RetryPolicy { max_attempts: ATTEMPTS, ..RetryPolicy::default() }),
            body: if is_array { body(rng).into() } else { Default::default() },
            ..TaskSpec::default()
        };
        let submission = Submission::new(task).with_id(id);
        let submission = match is_array {
            true => submission.array(jobs),
            false => {
                let spec = |_| JobSpec { body: body(rng).into(), ..JobSpec::default() };
                let mut specs: Vec<JobSpec> = (0..jobs).map(spec).collect();
                if let [_, .., last] = &mut specs[..]
                    && rng.random_bool(WAITS)
                {
                    last.depends_on = vec![0];
                }
                submission.jobs(specs)
            }
        };
        (submission, jobs)
    }
}

/// The submission that a job's body names.
pub(super) fn submission_of(body: &[u8]) -> Option<SubmissionId> {
    Some(SubmissionId(body.get(..16)?.try_into().ok()?))
}
