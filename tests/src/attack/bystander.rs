//! A worker with running jobs, beside the attacks.

use anyhow::{Context, Result, ensure};
use moso_client::v1::{Heartbeat, JobResult, JobSpec, Lease, Outcome, TaskSpec};
use moso_client::{Client, Error, NodeRef, Session, SessionOptions, Submission, Turn};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Between two heartbeats.
const BEAT: Duration = Duration::from_millis(250);
/// Longest wait for jobs, and for the end.
const PATIENCE: Duration = Duration::from_secs(90);
const AGAIN: Duration = Duration::from_millis(100);

/// What it saw since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Heartbeats answered.
    pub beats: u64,
    /// The slowest, also one that is not answered yet.
    pub slowest: Duration,
    /// Leases lost.
    pub lost: u64,
    /// Times that its stream broke.
    pub broken: u64,
}

#[derive(Default)]
struct State {
    told: Told,
    /// When the heartbeat that awaits its answer was sent.
    sent: Option<Instant>,
}

/// The worker.
pub struct Bystander {
    /// Its jobs and their attempts.
    pub jobs: Vec<(u64, u32)>,
    state: Arc<Mutex<State>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<()>>,
}

impl Bystander {
    /// Takes so many jobs of the queue at the node with this address, and holds them.
    ///
    /// # Errors
    /// When they did not come.
    pub async fn start(client: &Client, queue: &str, jobs: usize, node: &str) -> Result<Bystander> {
        let spec = TaskSpec { queue: queue.into(), owner: "bystander".into(), ..TaskSpec::default() };
        let held = vec![JobSpec { body: "hold".into(), ..JobSpec::default() }; jobs];
        client.submit(Submission::new(spec).jobs(held)).await.context("jobs to hold")?;
        let options = SessionOptions { worker: "bystander".into(), node: Some(NodeRef::Address(node.into())) };
        let mut session = client.session(options).await.context("session")?;
        let (mut leases, began) = (Vec::new(), Instant::now());
        while leases.len() < jobs {
            ensure!(began.elapsed() < PATIENCE, "only {} of {jobs} jobs came", leases.len());
            let left = (jobs - leases.len()) as u32;
            match session.lease(&[queue], left, Duration::from_secs(1)).await {
                Ok(more) => leases.extend(more),
                Err(error) if error.is_retryable() => tokio::time::sleep(AGAIN).await,
                Err(error) => return Err(error).context("lease"),
            }
        }
        let ids = leases.iter().map(|lease| (lease.job_id, lease.attempt)).collect();
        let (state, (stop, stopped)) = (Arc::<Mutex<State>>::default(), watch::channel(false));
        let task = tokio::spawn(hold(session, leases, state.clone(), stopped));
        Ok(Bystander { jobs: ids, state, stop, task })
    }

    /// What it saw since the last call.
    pub fn told(&self) -> Told {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = std::mem::take(&mut state.told);
        told.slowest = told.slowest.max(state.sent.map_or(Duration::ZERO, |sent| sent.elapsed()));
        told
    }

    /// Reports all jobs: each must be accepted.
    ///
    /// # Errors
    /// When one was not, or not in time.
    pub async fn finish(self) -> Result<()> {
        self.stop.send_replace(true);
        tokio::time::timeout(PATIENCE, self.task).await.context("the bystander does not end")??
    }
}

async fn hold(
    mut session: Session,
    leases: Vec<Lease>,
    state: Arc<Mutex<State>>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let with = |change: &dyn Fn(&mut State)| change(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
    loop {
        let done = tokio::select! {
            () = async { drop(stop.wait_for(|stop| *stop).await) } => break,
            _ = beats.tick() => {
                with(&|state| _ = state.sent.get_or_insert_with(Instant::now));
                session.turn(Turn { heartbeat: Some(beat(&leases)), ..Turn::default() }).await
            }
            frame = session.next() => frame.map(|frame| {
                let Some(reply) = frame.heartbeat else { return };
                with(&|state| {
                    state.told.lost += reply.lost.len() as u64;
                    state.told.beats += 1;
                    let took = state.sent.take().map_or(Duration::ZERO, |sent| sent.elapsed());
                    state.told.slowest = state.told.slowest.max(took);
                });
            }),
        };
        match done {
            Ok(()) => {}
            Err(Error::Disconnected { .. }) => {
                with(&|state| state.told.broken += 1);
                while session.reconnect().await.is_err() {
                    tokio::time::sleep(AGAIN).await;
                }
            }
            Err(error) => return Err(error).context("session"),
        }
    }
    let results = leases.iter().map(|lease| JobResult {
        job_id: lease.job_id,
        attempt: lease.attempt,
        outcome: Outcome::Finished.into(),
        ..JobResult::default()
    });
    let ack = session.report(results.collect()).await.context("the last results")?;
    ensure!(ack.refused.is_empty(), "{} of the jobs held were lost: {:?}", ack.refused.len(), ack.refused.first());
    Ok(())
}

fn beat(leases: &[Lease]) -> Heartbeat {
    Heartbeat {
        jobs: leases.iter().map(|lease| lease.job_id).collect(),
        attempts: leases.iter().map(|lease| lease.attempt).collect(),
        phases: vec![2; leases.len()],
        ..Heartbeat::default()
    }
}
