//! A worker session as the generator uses it: many jobs, no task per job, and books kept of every report.

use crate::books::Ending;
use crate::histogram::Step;
use crate::mark::Mark;
use crate::run::Run;
use anyhow::{Context, Result, anyhow};
use moso_client::v1::{ErrorPair, Heartbeat, JobResult, LeaseReply, LeaseRequest, NodeFrame, Outcome, ResultAck};
use moso_client::{Error, NodeRef, Session, SessionOptions, Turn};
use moso_proto::JobId;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

/// Phase of a job that runs.
pub const RUNNING: u32 = 2;
/// With more jobs than this a complete heartbeat is not sent: lost leases run out.
const COMPLETE_JOBS_MAX: usize = 50_000;
/// Between two of them.
const COMPLETE_INTERVAL_US: u64 = 1_000_000;
/// Longest wait of a lease request.
const LEASE_WAIT_MS: u32 = 5_000;
/// Wait before a refused request or an undecided result is sent again, and its ceiling when a node names a time.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A leased job.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its id.
    pub job_id: u64,
    /// The attempt leased.
    pub attempt: u32,
    /// Who made it.
    pub mark: Mark,
    /// How often the cluster wants a heartbeat, ms.
    pub heartbeat_ms: u32,
}

/// A report that awaits its acknowledgement.
struct Reported {
    attempt: u32,
    mark: Mark,
    ending: Ending,
    due_us: u64,
}

/// What a frame meant.
#[derive(Debug, Default)]
pub struct Event {
    /// Answer to the lease request; empty: there was nothing.
    pub leases: Option<Vec<Held>>,
    /// Jobs that are no longer this session's.
    pub lost: Vec<u64>,
    /// A heartbeat was answered: its number, and the jobs of which no leader heard.
    pub beat: Option<(u64, Vec<u64>)>,
    /// The stream is a new one: heartbeats on the way were lost.
    pub reconnected: bool,
}

/// A worker session.
pub struct Station {
    session: Session,
    run: Arc<Run>,
    reported: HashMap<u64, Reported>,
    /// Reports for jobs that another run left behind.
    leftovers: Vec<JobResult>,
    /// The next heartbeat is complete, and when another one may be.
    complete: bool,
    complete_at_us: u64,
}

impl Station {
    /// Opens a session; sessions spread over the nodes by `index`.
    ///
    /// # Errors
    /// When no node takes it.
    pub async fn open(run: Arc<Run>, index: usize) -> Result<Station> {
        let options = SessionOptions { worker: format!("bench-{index}"), node: Some(NodeRef::Index(index)) };
        let session = run.client.session(options).await.context("session")?;
        Ok(Station {
            session,
            run,
            reported: HashMap::new(),
            leftovers: Vec::new(),
            complete: false,
            complete_at_us: 0,
        })
    }

    /// Whether a lease request is open.
    pub fn awaits_lease(&self) -> bool {
        self.session.awaits_lease()
    }

    /// Number of the latest heartbeat.
    pub fn heartbeat_seq(&self) -> u64 {
        self.session.heartbeat_seq()
    }

    /// Results sent and not acknowledged.
    pub fn unacked(&self) -> usize {
        self.session.unacked()
    }

    /// The report of a job that should end at `due_us`; goes with the next turn.
    pub fn report(&mut self, held: &Held, ending: Ending, due_us: u64) -> JobResult {
        let reported = Reported { attempt: held.attempt, mark: held.mark, ending, due_us };
        self.reported.insert(held.job_id, reported);
        self.run.release(1);
        result_of(held.job_id, held.attempt, ending)
    }

    /// Sends results, a heartbeat and a request in one frame.
    ///
    /// # Errors
    /// When the session cannot go on.
    pub async fn turn(
        &mut self,
        mut results: Vec<JobResult>,
        heartbeat: Option<Heartbeat>,
        lease: Option<LeaseRequest>,
    ) -> Result<()> {
        results.append(&mut self.leftovers);
        let complete = std::mem::take(&mut self.complete) && heartbeat.is_some();
        let turn = Turn { results, heartbeat, complete, lease };
        match self.session.turn(turn).await {
            Err(Error::Disconnected { .. }) => self.reconnect().await,
            other => other.context("worker session"),
        }
    }

    /// When leases may have been lost on their way: the heartbeat, for the next turn, that names all jobs held.
    pub fn complete_beat(&mut self, held: impl ExactSizeIterator<Item = (u64, u32)>, now_us: u64) -> Option<Heartbeat> {
        if !self.session.settles() || now_us < self.complete_at_us || held.len() > COMPLETE_JOBS_MAX {
            return None;
        }
        self.complete = true;
        self.complete_at_us = now_us + COMPLETE_INTERVAL_US;
        let (jobs, attempts): (Vec<u64>, Vec<u32>) = held.unzip();
        let phases = vec![RUNNING; jobs.len()];
        Some(Heartbeat { jobs, attempts, phases, ..Heartbeat::default() })
    }

    /// The next frame, for [`take`](Self::take). Dropping the future loses nothing.
    pub async fn frame(&mut self) -> moso_client::Result<NodeFrame> {
        self.session.next().await
    }

    /// Enters a frame in the books and says what it meant. Not to be dropped half way.
    ///
    /// # Errors
    /// When the session cannot go on, or the queue holds jobs that no run of this program made.
    pub async fn take(&mut self, frame: moso_client::Result<NodeFrame>) -> Result<Event> {
        let mut event = Event::default();
        let frame = match frame {
            Ok(frame) => frame,
            Err(Error::Disconnected { .. }) => {
                self.reconnect().await?;
                event.reconnected = true;
                return Ok(event);
            }
            Err(error) => return Err(error).context("worker session"),
        };
        if let Some(ack) = frame.results {
            self.take_ack(ack).await?;
        }
        if let Some(reply) = frame.heartbeat {
            event.lost = reply.lost;
            event.beat = Some((reply.seq, reply.unknown));
        }
        if let Some(reply) = frame.lease {
            event.leases = self.take_leases(reply).await?;
        }
        if let Some(fault) = &frame.fault {
            tracing::debug!(code = fault.code, message = fault.message, "session fault");
            tokio::time::sleep(pause(fault.retry_after_ms)).await;
        }
        if frame.drain || frame.fault.is_some() {
            self.reconnect().await?;
            event.reconnected = true;
        }
        Ok(event)
    }

    /// Leaves. Reports that are not acknowledged yet are given up.
    pub async fn close(self) {
        // Nothing depends on the farewell.
        let _ = self.session.close().await;
    }

    async fn take_ack(&mut self, ack: ResultAck) -> Result<()> {
        let now_us = self.run.now_us();
        for job in ack.accepted {
            if let Some(r) = self.reported.remove(&job) {
                self.run.ended(job, &r.mark, r.ending, r.due_us, now_us);
            }
        }
        for refusal in ack.refused {
            // The refusal of an earlier attempt says nothing about the one reported last.
            if let Entry::Occupied(reported) = self.reported.entry(refusal.job_id) {
                self.run.books.refused(refusal.job_id, &refusal.code);
                if reported.get().attempt == refusal.attempt {
                    reported.remove();
                }
            }
        }
        if !ack.retry.is_empty() {
            tokio::time::sleep(PAUSE).await;
            self.turn(Vec::new(), None, None).await?;
        }
        Ok(())
    }

    /// `None`: the answer of a request that was replaced.
    async fn take_leases(&mut self, reply: LeaseReply) -> Result<Option<Vec<Held>>> {
        if reply.request_id != self.session.request_id() {
            return Ok(None);
        }
        if let Some(fault) = reply.fault {
            tracing::debug!(code = fault.code, message = fault.message, "no lease");
            tokio::time::sleep(pause(fault.retry_after_ms)).await;
            return Ok(Some(Vec::new()));
        }
        let mut held = Vec::with_capacity(reply.leases.len());
        for lease in reply.leases {
            match Mark::of(&lease.body) {
                Some(mark) if mark.run == self.run.number => held.push(Held {
                    job_id: lease.job_id,
                    attempt: lease.attempt,
                    mark,
                    heartbeat_ms: lease.heartbeat_ms,
                }),
                Some(_) => {
                    let result = result_of(lease.job_id, lease.attempt, Ending::Finished);
                    self.leftovers.push(result);
                }
                None => {
                    return Err(anyhow!(
                        "queue {} holds job {}, which this program did not make: use another cluster",
                        lease.queue,
                        lease.job_id
                    ));
                }
            }
        }
        let now_us = self.run.now_us();
        for job in &held {
            let intended_us = job.mark.intended_us;
            self.run.flow.came(JobId(job.job_id).shard().map_or(0, |shard| shard.0), now_us);
            self.run.latencies.record(Step::Dispatch, intended_us, now_us, 1);
        }
        self.run.books.leased(held.len() as u64);
        self.run.hold(held.len() as u64);
        Ok(Some(held))
    }

    async fn reconnect(&mut self) -> Result<()> {
        loop {
            match self.session.reconnect().await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_retryable() && !self.run.is_stopped() => {
                    tracing::debug!(%error, "session");
                    tokio::time::sleep(PAUSE_MAX).await;
                }
                Err(error) => return Err(error).context("worker session"),
            }
        }
    }
}

/// A request for up to `max_jobs` jobs that waits for work.
pub fn lease_request(queues: &[String], max_jobs: u32) -> LeaseRequest {
    LeaseRequest { queues: queues.to_vec(), max_jobs, wait_ms: LEASE_WAIT_MS, ..LeaseRequest::default() }
}

fn pause(retry_after_ms: u32) -> Duration {
    Duration::from_millis(retry_after_ms.into()).clamp(PAUSE, PAUSE_MAX)
}

fn result_of(job_id: u64, attempt: u32, ending: Ending) -> JobResult {
    let mut result = JobResult { job_id, attempt, outcome: Outcome::Finished.into(), ..JobResult::default() };
    if ending == Ending::Failed {
        result.outcome = Outcome::Failed.into();
        result.exit_code = 1;
        result.no_retry = true;
        result.errors.push(ErrorPair { source: "bench".to_owned(), code: 1, text: "failed in the trace".to_owned() });
    }
    result
}
