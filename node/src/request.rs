//! Requests to a shard's reactor. Each carries the handle of whoever waits; a dropped handle means that the node stops.

use crate::router::HeartbeatCall;
use crate::store::state::StateStore;
use bytes::Bytes;
use moso_proto::Code;
use moso_queue::command::{JobResult, Reply, is_submission};
use moso_queue::filter::WorkerOffer;
use moso_queue::ready::Popped;
use moso_queue::{Machine, Refusal};
use moso_shard::core::Beaten;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Why a shard did not answer, or what it refused.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fault {
    /// Code of the API.
    pub code: Code,
    /// For people.
    pub message: String,
    /// When a retry may succeed, ms; 0: not said.
    pub retry_after_ms: u32,
    /// Node that may know better; 0: none.
    pub leader: u32,
}

impl Fault {
    /// A fault with this text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Fault { code, message: message.into(), retry_after_ms: 0, leader: 0 }
    }

    /// The shard has no leader that answers, or it changed meanwhile.
    pub fn not_leader(shard: u16) -> Self {
        Fault {
            retry_after_ms: 100,
            ..Fault::new(Code::NotLeader, format!("shard {shard} has no leader that answers; repeating is safe"))
        }
    }

    /// Too much is waiting.
    pub fn busy(shard: u16) -> Self {
        Fault { retry_after_ms: 50, ..Fault::new(Code::Busy, format!("shard {shard} is full; come back later")) }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let retry_after_ms = if refusal.code.is_retryable() { 100 } else { 0 };
        Fault { retry_after_ms, ..Fault::new(refusal.code, refusal.message) }
    }
}

/// A leased job's body.
#[derive(Clone, Debug)]
pub enum Body {
    /// In the store under this number: the job's own, or the array task's.
    Stored(u64),
    /// Not written yet.
    Here(Bytes),
}

/// A job as it is handed to a worker.
#[derive(Clone, Debug)]
pub struct LeasedJob {
    /// Job.
    pub seq: u64,
    /// Body.
    pub body: Body,
    /// Task.
    pub task: u64,
    /// Position in its task.
    pub index: u32,
    /// Attempt.
    pub attempt: u32,
    /// How to read the body.
    pub body_type: Arc<str>,
    /// Longest run time in s; 0: no limit.
    pub wall_time_s: u32,
    /// Queue.
    pub queue: u32,
}

/// Answer to a command.
pub type CommandReply = oneshot::Sender<Result<Reply, Fault>>;
/// Answer to a lease request.
pub type LeaseReply = oneshot::Sender<Result<Vec<LeasedJob>, Fault>>;

/// What a query sees: the shard's state as of now, confirmed by a quorum.
pub struct Snapshot<'a> {
    /// Live jobs and tasks.
    pub machine: &'a Machine,
    /// Bodies, status log, ended jobs.
    pub store: &'a Arc<StateStore>,
}

/// Runs on the reactor; `None`: this replica does not lead.
pub type Query = Box<dyn FnOnce(Option<Snapshot<'_>>) + Send>;

/// To whom a lease goes.
#[derive(Clone, Debug)]
pub struct LeaseFor {
    /// Session.
    pub session: u64,
    /// Worker's name.
    pub worker: Arc<str>,
    /// Lease time.
    pub ttl_ms: u32,
    /// The session's request that is answered, counted round.
    pub request: u32,
}

/// A request to a shard.
pub enum Request {
    /// Proposes an encoded command.
    Command {
        /// Encoded [`moso_queue::Command`].
        bytes: Bytes,
        /// Answer.
        reply: CommandReply,
    },
    /// Ends an attempt on the word of a worker that has no session of its own: that of the attempt's lease speaks.
    Result {
        /// What it says.
        result: Box<JobResult>,
        /// Answer.
        reply: CommandReply,
    },
    /// Leases jobs that were taken from the ready index.
    Lease {
        /// Jobs.
        popped: Vec<Popped>,
        /// To whom.
        to: LeaseFor,
        /// Answer.
        reply: LeaseReply,
    },
    /// Leases jobs of one task, whatever their place in the order.
    LeaseTask {
        /// Task.
        task: u64,
        /// Queue: jobs of the task that are in another one are not meant.
        queue: u32,
        /// What the worker has.
        offer: Box<WorkerOffer>,
        /// Most jobs.
        max: usize,
        /// To whom.
        to: LeaseFor,
        /// Answer.
        reply: LeaseReply,
    },
    /// A worker's heartbeat.
    Heartbeat {
        /// What it says.
        call: HeartbeatCall,
        /// Answer; `None`: ask another node.
        reply: oneshot::Sender<Option<Beaten>>,
    },
    /// Reads the state.
    Query(Query),
}

impl Request {
    /// Up to which part of the inbox the request is taken, percent: submissions are refused first, then leases, then
    /// reads. `None`: it is urgent, as heartbeats and results are, and has room of its own.
    pub fn inbox_percent(&self) -> Option<usize> {
        match self {
            Request::Command { bytes, .. } if is_submission(bytes) => Some(50),
            Request::Lease { .. } | Request::LeaseTask { .. } => Some(70),
            Request::Query(_) => Some(85),
            Request::Command { .. } | Request::Result { .. } | Request::Heartbeat { .. } => None,
        }
    }

    /// What the request costs the reactor, in steps of well below a microsecond.
    pub fn work(&self) -> usize {
        match self {
            Request::Command { .. } | Request::Result { .. } | Request::Query(_) => 1,
            Request::Lease { popped, .. } => 1 + popped.len(),
            // Looks at jobs of the task, most often at few beyond those it finds.
            Request::LeaseTask { max, .. } => 1 + 4 * max,
            Request::Heartbeat { call, .. } => 1 + call.beats.len(),
        }
    }
}

/// A request to the meta group.
pub enum MetaRequest {
    /// Proposes an encoded command.
    Command {
        /// Encoded [`moso_queue::meta::MetaCommand`].
        bytes: Bytes,
        /// Answer.
        reply: oneshot::Sender<Result<moso_queue::meta::Object, Fault>>,
    },
    /// Reads the objects, confirmed by a quorum; `None`: not the leader.
    Query(MetaQuery),
}

/// Runs on the reactor.
pub type MetaQuery = Box<dyn FnOnce(Option<&moso_queue::meta::MetaMachine>) + Send>;
