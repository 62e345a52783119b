//! The low level of a worker: one session and its frames, without a task for each job.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::limits::{FRAME_RESULTS_MAX, FRAMES_ASIDE_MAX, LEASE_WAIT_MAX, UNACKED_MAX};
use crate::retry::{Backoff, by_code};
use crate::wire::Wire;
use moso_proto::v1::{
    Fault, Heartbeat, Hello, JobResult, Lease, LeaseReply, LeaseRequest, NodeFrame, ResultAck, WorkerFrame,
};
use moso_proto::{Code, MESSAGE_BYTES_MAX};
use rand::Rng;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

/// A lease that was under way when its answer was lost may be given after the first word on what is held; the second
/// comes an interval later.
const SETTLE_ROUNDS: u32 = 2;
/// After its last frame a session waits so long for the node to take it in and close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Which node to ask first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeRef {
    /// The node at this place in the order of node numbers, counted round.
    Index(usize),
    /// The node with this API address.
    Address(String),
}

impl From<usize> for NodeRef {
    fn from(index: usize) -> Self {
        NodeRef::Index(index)
    }
}

impl From<&str> for NodeRef {
    fn from(address: &str) -> Self {
        NodeRef::Address(address.to_owned())
    }
}

impl From<String> for NodeRef {
    fn from(address: String) -> Self {
        NodeRef::Address(address)
    }
}

/// How a session presents itself.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Name for people: host, slot, batch id.
    pub worker: String,
    /// The node asked first; `None`: the client's choice. When it does not answer, another one is taken.
    pub node: Option<NodeRef>,
}

/// What a worker says at once. All parts travel in one frame (or a few, when there are very many results).
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// Jobs that have ended. The session keeps each until the node has acknowledged it.
    pub results: Vec<JobResult>,
    /// Leases held. A `seq` of 0 is numbered by the session.
    pub heartbeat: Option<Heartbeat>,
    /// The heartbeat lists every lease that the session was answered with and whose result it was not given. Leases
    /// whose answer was lost then go back to their queues as soon as [`settles`](Session::settles) says that there may be
    /// some; otherwise they run out.
    pub complete: bool,
    /// Asks for jobs; replaces a request still open. A `request_id` of 0 is numbered by the session.
    pub lease: Option<LeaseRequest>,
}

impl Turn {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.results.is_empty() && self.heartbeat.is_none() && self.lease.is_none()
    }
}

/// One worker session: leases are granted to it, and stay with it when its stream moves to another node.
///
/// A session numbers requests and heartbeats, and keeps results until they are acknowledged. After
/// [`Error::Disconnected`], [`reconnect`](Self::reconnect) opens a new stream under the same session number and sends
/// again what was not acknowledged. Nobody but the caller sends heartbeats.
///
/// ```no_run
/// use moso_client::{Client, SessionOptions, Turn, v1::{JobResult, Outcome}};
/// use std::time::Duration;
///
/// # async fn example() -> moso_client::Result<()> {
/// let client = Client::connect(["127.0.0.1:7001"]).await?;
/// let options = SessionOptions { worker: "wn17".into(), node: None };
/// let mut session = client.session(options).await?;
/// let leases = session.lease(&["CERN"], 100, Duration::from_secs(5)).await?;
/// let results = leases
///     .iter()
///     .map(|lease| JobResult {
///         job_id: lease.job_id,
///         attempt: lease.attempt,
///         outcome: Outcome::Finished.into(),
///         ..JobResult::default()
///     })
///     .collect();
/// session.report(results).await?;
/// session.close().await
/// # }
/// ```
pub struct Session {
    client: Client,
    number: u64,
    /// With which key the nodes made the number the caller's own; 0: not told, or not asked.
    key: u32,
    options: SessionOptions,
    wire: Wire,
    request_id: u64,
    heartbeat_seq: u64,
    /// Requests up to this one are answered or given up.
    settled_request: u64,
    /// Complete heartbeats still to be taken up by all shards.
    settle_rounds: u32,
    /// The lease request that awaits its answer.
    open_lease: Option<LeaseRequest>,
    /// Results sent and not acknowledged, by job. A job's later attempt replaces the earlier.
    unacked: HashMap<u64, JobResult>,
    /// Of these, the ones the node wants again.
    again: Vec<u64>,
    /// Frames that came while a call waited for another.
    aside: VecDeque<NodeFrame>,
}

impl Client {
    /// Opens a worker session with a new random number.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no node takes it within the retry budget.
    pub async fn session(&self, options: SessionOptions) -> Result<Session> {
        let number = rand::rng().random_range(1..=u64::MAX);
        let hello = Hello { session: number, worker: options.worker.clone(), key: 0 };
        let wire = Wire::open(self.clone(), options.node.clone(), hello).await?;
        Ok(Session {
            client: self.clone(),
            number,
            key: 0,
            options,
            wire,
            request_id: 0,
            heartbeat_seq: 0,
            settled_request: 0,
            settle_rounds: 0,
            open_lease: None,
            unacked: HashMap::new(),
            again: Vec::new(),
            aside: VecDeque::new(),
        })
    }
}

impl Session {
    /// The session's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// API address of the node the stream goes to.
    pub fn node(&self) -> &str {
        self.wire.node()
    }

    /// Results sent and not acknowledged.
    pub fn unacked(&self) -> usize {
        self.unacked.len()
    }

    /// Whether a lease request awaits its answer.
    pub fn awaits_lease(&self) -> bool {
        self.open_lease.is_some()
    }

    /// Number of the latest lease request.
    pub fn request_id(&self) -> u64 {
        self.request_id
    }

    /// Number of the latest heartbeat.
    pub fn heartbeat_seq(&self) -> u64 {
        self.heartbeat_seq
    }

    /// Whether the cluster may count leases as this session's that it was never given: their answer was lost with a
    /// stream or within the cluster. [Complete](Turn::complete) heartbeats end that.
    pub fn settles(&self) -> bool {
        self.settle_rounds > 0
    }

    /// Sends. Results the node asked for again go along, so an empty turn sends only those. Waits while
    /// [`FRAMES_QUEUED_MAX`](crate::limits::FRAMES_QUEUED_MAX) frames are queued for the network: read with
    /// [`next`](Self::next) between turns.
    ///
    /// # Errors
    /// [`Error::Disconnected`]: the turn is kept, [`reconnect`](Self::reconnect) sends it (but for the heartbeat).
    /// [`Error::Unavailable`] and [`Error::Refused`] with [`Code::TooLarge`]: nothing was sent.
    pub async fn turn(&mut self, turn: Turn) -> Result<()> {
        self.check(&turn)?;
        let mut results: Vec<JobResult> =
            self.again.drain(..).filter_map(|job| self.unacked.get(&job).cloned()).collect();
        for result in turn.results {
            self.unacked.insert(result.job_id, result.clone());
            results.push(result);
        }
        let heartbeat = turn.heartbeat.map(|beat| self.numbered_heartbeat(beat, turn.complete));
        let lease = turn.lease.map(|request| self.numbered_lease(request));
        self.send(results, heartbeat, lease).await
    }

    /// The next frame of the node. Dropping the future loses nothing. A frame with `drain` asks for a
    /// [`reconnect`](Self::reconnect), which then goes to another node.
    ///
    /// # Errors
    /// [`Error::Disconnected`] when the stream broke; [`Error::Refused`] when the node will not have the session.
    pub async fn next(&mut self) -> Result<NodeFrame> {
        match self.aside.pop_front() {
            Some(frame) => Ok(frame),
            None => self.read().await,
        }
    }

    /// Opens a new stream, to the preferred node if it is up, under the same session number, and sends the open lease
    /// request (under a new number) and the unacknowledged results again. The caller sends a heartbeat next.
    ///
    /// # Errors
    /// As [`Client::session`]. The session stays as it was and may try again.
    pub async fn reconnect(&mut self) -> Result<()> {
        let wire = self.new_wire().await?;
        self.attach(wire).await
    }

    /// Asks for up to `max_jobs` jobs of the queues (the first is asked first) and waits for the answer, which is empty
    /// when there was none within `wait` (at most [`LEASE_WAIT_MAX`]). Frames with other content are kept for
    /// [`next`](Self::next).
    ///
    /// # Errors
    /// As [`next`](Self::next), and what the node answers instead of leases.
    pub async fn lease(&mut self, queues: &[&str], max_jobs: u32, wait: Duration) -> Result<Vec<Lease>> {
        let request = LeaseRequest {
            queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
            max_jobs,
            wait_ms: wait.min(LEASE_WAIT_MAX).as_millis() as u32,
            ..LeaseRequest::default()
        };
        self.turn(Turn { lease: Some(request), ..Turn::default() }).await?;
        loop {
            let mut frame = self.read().await?;
            let reply = frame.lease.take_if(|r| r.request_id == self.request_id);
            self.put_aside(frame)?;
            match reply {
                Some(LeaseReply { fault: Some(fault), .. }) => return Err(self.fault(fault)),
                Some(reply) => return Ok(reply.leases),
                None => {}
            }
        }
    }

    /// Reports jobs that have ended and waits until each is accepted or refused for good; what the node cannot decide
    /// yet is sent again. Frames with other content are kept for [`next`](Self::next).
    ///
    /// # Errors
    /// As [`next`](Self::next). The results are kept: after [`reconnect`](Self::reconnect) they are sent again, and
    /// their acknowledgements come by [`next`](Self::next).
    pub async fn report(&mut self, results: Vec<JobResult>) -> Result<ResultAck> {
        let mut open: HashSet<u64> = results.iter().map(|r| r.job_id).collect();
        let mut settled = ResultAck::default();
        let mut backoff = Backoff::new();
        self.turn(Turn { results, ..Turn::default() }).await?;
        while !open.is_empty() {
            let mut frame = self.read().await?;
            if let Some(ack) = frame.results.take() {
                let (accepted, others) = ack.accepted.into_iter().partition(|id| open.remove(id));
                let (refused, other_refusals) = ack.refused.into_iter().partition(|r| open.remove(&r.job_id));
                settled.accepted.extend::<Vec<u64>>(accepted);
                settled.refused.extend::<Vec<_>>(refused);
                let (again, others_again): (Vec<u64>, _) = ack.retry.into_iter().partition(|id| open.contains(id));
                frame.results = Some(ResultAck { accepted: others, refused: other_refusals, retry: others_again })
                    .filter(|ack| *ack != ResultAck::default());
                if !again.is_empty() {
                    tokio::time::sleep(backoff.wait()).await;
                    self.turn(Turn::default()).await?;
                }
            }
            self.put_aside(frame)?;
        }
        Ok(settled)
    }

    /// Says that the worker holds nothing and leaves, and waits until the node has taken it in.
    ///
    /// # Errors
    /// [`Error::Disconnected`] when the stream is broken: nothing is lost but the farewell.
    pub async fn close(mut self) -> Result<()> {
        let heartbeat = self.settles().then(|| self.numbered_heartbeat(Heartbeat::default(), true));
        self.wire.send(WorkerFrame { heartbeat, drained: true, ..WorkerFrame::default() }).await?;
        self.wire.close();
        // The node closes the stream; if it does not, dropping it does.
        let closed = async { while self.wire.next().await.is_ok() {} };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
        Ok(())
    }

    /// Frames that can be sent without a wait.
    pub(crate) fn room(&self) -> usize {
        self.wire.room()
    }

    /// Whether the node wants results again.
    pub(crate) fn wants_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// Opens a new stream, to be attached.
    pub(crate) fn new_wire(&self) -> impl Future<Output = Result<Wire>> + Send + 'static {
        let hello = Hello { session: self.number, worker: self.options.worker.clone(), key: self.key };
        Wire::open(self.client.clone(), self.options.node.clone(), hello)
    }

    /// Goes on with a new stream.
    pub(crate) async fn attach(&mut self, wire: Wire) -> Result<()> {
        self.wire = wire;
        self.again.clear();
        let results = self.unacked.values().cloned().collect();
        // What was answered on the old stream and not read is lost.
        self.settled_request = self.request_id;
        self.settle_rounds = if self.request_id > 0 { SETTLE_ROUNDS } else { 0 };
        let lease =
            self.open_lease.take().map(|request| self.numbered_lease(LeaseRequest { request_id: 0, ..request }));
        self.send(results, None, lease).await
    }

    /// What a fault of the node means to the caller.
    pub(crate) fn fault(&self, fault: Fault) -> Error {
        let code = fault.code.parse().unwrap_or(Code::Internal);
        let retry_after = (fault.retry_after_ms > 0).then(|| Duration::from_millis(fault.retry_after_ms.into()));
        by_code(code, fault.message, retry_after, self.node())
    }

    fn check(&self, turn: &Turn) -> Result<()> {
        if self.unacked.len() + turn.results.len() > UNACKED_MAX {
            return Err(Error::Unavailable {
                code: Code::Busy,
                message: format!("{UNACKED_MAX} results wait for their acknowledgement"),
                retry_after: None,
            });
        }
        // 8 bytes for an id, up to 5 each for attempt and phase.
        let beats = turn.heartbeat.as_ref().map_or(0, |h| h.jobs.len());
        if beats > MESSAGE_BYTES_MAX / 18 {
            return Err(Error::Refused {
                code: Code::TooLarge,
                message: format!("a heartbeat carries at most {} jobs", MESSAGE_BYTES_MAX / 18),
            });
        }
        Ok(())
    }

    fn numbered_heartbeat(&mut self, mut beat: Heartbeat, complete: bool) -> Heartbeat {
        if beat.seq == 0 {
            beat.seq = self.heartbeat_seq + 1;
        }
        self.heartbeat_seq = beat.seq;
        if complete && self.settles() {
            self.settle(&mut beat);
        }
        beat
    }

    /// Makes a complete heartbeat say so. Jobs whose results are not acknowledged are still the session's, and answers
    /// put aside have not been seen by the caller.
    fn settle(&self, beat: &mut Heartbeat) {
        let aside = self.aside.iter().filter_map(|frame| frame.lease.as_ref()).map(|reply| reply.request_id - 1).min();
        beat.settled_request = aside.map_or(self.settled_request, |seen| seen.min(self.settled_request));
        let listed: HashSet<u64> = beat.jobs.iter().copied().collect();
        for result in self.unacked.values().filter(|result| !listed.contains(&result.job_id)) {
            beat.jobs.push(result.job_id);
            beat.attempts.push(result.attempt);
            if !beat.phases.is_empty() {
                beat.phases.push(0);
            }
        }
    }

    fn numbered_lease(&mut self, mut request: LeaseRequest) -> LeaseRequest {
        if request.request_id == 0 {
            request.request_id = self.request_id + 1;
        }
        self.request_id = request.request_id;
        self.open_lease = Some(request.clone());
        request
    }

    /// One frame, or several when results do not fit into one; heartbeat and request go with the last.
    async fn send(
        &mut self,
        mut results: Vec<JobResult>,
        heartbeat: Option<Heartbeat>,
        lease: Option<LeaseRequest>,
    ) -> Result<()> {
        while results.len() > FRAME_RESULTS_MAX {
            let rest = results.split_off(FRAME_RESULTS_MAX);
            let frame = WorkerFrame { results: std::mem::replace(&mut results, rest), ..WorkerFrame::default() };
            self.wire.send(frame).await?;
        }
        if results.is_empty() && heartbeat.is_none() && lease.is_none() {
            return Ok(());
        }
        let frame = WorkerFrame { results, heartbeat, lease, ..WorkerFrame::default() };
        self.wire.send(frame).await
    }

    /// Reads a frame and takes note of acknowledgements.
    async fn read(&mut self) -> Result<NodeFrame> {
        let mut frame = self.wire.next().await?;
        if frame.session_key != 0 {
            self.key = std::mem::take(&mut frame.session_key);
            if frame == NodeFrame::default() {
                // A word to this side only.
                frame = self.wire.next().await?;
            }
        }
        if let Some(ack) = &frame.results {
            for job in &ack.accepted {
                self.unacked.remove(job);
            }
            for refusal in &ack.refused {
                // Not a later attempt's result, still on its way.
                let current = self.unacked.get(&refusal.job_id).map(|r| r.attempt);
                if current == Some(refusal.attempt) {
                    self.unacked.remove(&refusal.job_id);
                }
            }
            self.again.extend(&ack.retry);
        }
        if frame.heartbeat.as_ref().is_some_and(|reply| reply.settled) {
            self.settle_rounds = self.settle_rounds.saturating_sub(1);
        }
        if let Some(reply) = &frame.lease {
            self.settled_request = self.settled_request.max(reply.request_id.min(self.request_id));
            if reply.unsettled {
                self.settle_rounds = SETTLE_ROUNDS;
            }
        }
        let open = self.open_lease.as_ref().map(|request| request.request_id);
        if frame.lease.as_ref().is_some_and(|r| Some(r.request_id) == open) {
            self.open_lease = None;
        }
        Ok(frame)
    }

    fn put_aside(&mut self, frame: NodeFrame) -> Result<()> {
        if frame == NodeFrame::default() {
            return Ok(());
        }
        if self.aside.len() >= FRAMES_ASIDE_MAX {
            return Err(Error::Defect {
                node: self.node().to_owned(),
                message: format!("{FRAMES_ASIDE_MAX} frames came that nobody asked for"),
            });
        }
        self.aside.push_back(frame);
        Ok(())
    }
}
