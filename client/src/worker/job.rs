//! A leased job as its closure sees it.

use bytes::Bytes;
use moso_proto::v1::Lease;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Why a job must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Somebody killed it, gently: end soon, keep what is done.
    SoftKilled,
    /// Somebody killed it, or its task is over.
    Killed,
    /// The lease is no longer this worker's: the job may run elsewhere. Its result will not be sent.
    Lost,
    /// No heartbeat was acknowledged for three quarters of the lease: the job may soon run elsewhere.
    Fenced,
    /// The worker leaves at once.
    Shutdown,
}

/// How far a job is, for those who watch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Its inputs are being fetched, its container started.
    Starting = 1,
    /// It runs.
    Running = 2,
}

/// A leased job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its id.
    pub id: u64,
    /// Which attempt this is, from 1: the fence of everything the job writes.
    pub attempt: u32,
    /// The task it belongs to.
    pub task: u64,
    /// The queue it came from.
    pub queue: String,
    /// How to read the body.
    pub body_type: String,
    /// What to do.
    pub body: Bytes,
    /// Longest time it may run; the closure's business to enforce. `None`: no limit.
    pub wall_time: Option<Duration>,
    stop: watch::Receiver<Option<Stop>>,
    phase: Arc<AtomicU8>,
}

impl Job {
    pub(crate) fn new(lease: Lease, stop: watch::Receiver<Option<Stop>>, phase: Arc<AtomicU8>) -> Self {
        Job {
            id: lease.job_id,
            attempt: lease.attempt,
            task: lease.task_id,
            queue: lease.queue,
            body_type: lease.body_type,
            body: lease.body,
            wall_time: (lease.wall_time_s > 0).then(|| Duration::from_secs(lease.wall_time_s.into())),
            stop,
            phase,
        }
    }

    /// Waits until the job must stop, and says why. A gentle kill may be followed by another reason: ask
    /// [`stop`](Self::stop) for the latest.
    pub async fn stopped(&self) -> Stop {
        self.stopped_unless(|_| false).await
    }

    /// Waits until the job must stop at once: as [`stopped`](Self::stopped), but not for [`Stop::SoftKilled`].
    pub async fn stopped_at_once(&self) -> Stop {
        self.stopped_unless(|stop| stop == Stop::SoftKilled).await
    }

    async fn stopped_unless(&self, ignored: impl Fn(Stop) -> bool) -> Stop {
        let mut stop = self.stop.clone();
        let told = stop.wait_for(|stop| stop.is_some_and(|stop| !ignored(stop)));
        match told.await {
            Ok(told) => told.expect("waited for a reason"),
            // The worker has been dropped: nobody sends heartbeats any more.
            Err(_) => Stop::Shutdown,
        }
    }

    /// Why the job must stop, if it must.
    pub fn stop(&self) -> Option<Stop> {
        *self.stop.borrow()
    }

    /// Tells how far the job is, with the next heartbeat. It begins as [`Phase::Running`].
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }
}
