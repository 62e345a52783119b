//! From a request to the leader of its shard: here through the shard's inbox, elsewhere through the peer connection.
//! While a shard has no leader, what may be repeated safely is tried again until its time is up.

use crate::directory::{Counters, Directory};
use crate::peer::{CallError, Peers};
use crate::query::{self, MetaQueryCall, QueryCall};
use crate::request::{Fault, LeaseFor, LeasedJob, MetaRequest, Request};
use bytes::Bytes;
use metrics::Histogram;
use moso_proto::Code;
use moso_proto::object::kind;
use moso_queue::command::{Command, JobResult, Reply, is_submission};
use moso_queue::filter::WorkerOffer;
use moso_queue::limits::{ENTRY_BYTES_MAX, NAME_BYTES_MAX};
use moso_queue::meta::{MetaView, Object};
use moso_queue::ready::Popped;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Kinds of calls between nodes.
pub mod call {
    /// An encoded command.
    pub const COMMAND: u8 = 1;
    /// [`crate::lease_ask::LeaseAsk`].
    pub const LEASE: u8 = 2;
    /// Heartbeats.
    pub const HEARTBEAT: u8 = 3;
    /// [`crate::query::QueryCall`].
    pub const QUERY: u8 = 4;
    /// An encoded meta command.
    pub const META_COMMAND: u8 = 5;
    /// [`crate::query::MetaQueryCall`].
    pub const META_QUERY: u8 = 6;
    /// [`crate::snapshot::Offer`]: a copy of a shard's state.
    pub const SNAPSHOT_OFFER: u8 = 7;
    /// Length of the head, [`crate::snapshot::ChunkHead`], a part of a file.
    pub const SNAPSHOT_CHUNK: u8 = 8;
    /// [`crate::snapshot::Done`].
    pub const SNAPSHOT_DONE: u8 = 9;
    /// Encoded results of session 0: one, of a worker that has no session of its own.
    pub const RESULT: u8 = 20;
    /// [`crate::panda::sandbox::Part`]: bytes of a sandbox.
    pub const SANDBOX_PUT: u8 = 21;
    /// [`crate::panda::sandbox::Wanted`]: asks for bytes of a sandbox.
    pub const SANDBOX_GET: u8 = 22;
}

/// Status of an answer.
pub const OK: u8 = 0;
/// The body is a [`Fault`].
pub const FAULT: u8 = 1;

/// A command is given up after this time; the caller may repeat it.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);
/// A query is given up after this time.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// One call to another node.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// When a submission refused for want of disk may be repeated, ms: an operator is to act.
const DISK_RETRY_MS: u32 = 10_000;
/// Bytes of an entry beside its command.
const ENTRY_HEAD_BYTES: usize = 64;
/// Wait between tries while there is no leader.
const PAUSE: Duration = Duration::from_millis(25);

/// Heartbeats of a session for one shard.
#[derive(Serialize, Deserialize)]
pub struct HeartbeatCall {
    /// Session.
    pub session: u64,
    /// Job, attempt, phase.
    pub beats: Vec<(u64, u32, u8)>,
    /// Of its requests up to this one, counted round, the session holds nothing else here.
    pub settled: Option<u32>,
}

/// Lost jobs, jobs to be killed with their attempts, and whether what was said of settled requests is taken up.
pub type HeartbeatAnswer = Option<(Vec<u64>, Vec<(u64, u32)>, bool)>;

/// Routes requests to shards.
pub struct Router {
    /// Shared state.
    pub directory: Arc<Directory>,
    /// Other nodes.
    pub peers: Arc<Peers>,
    /// From a command left at a shard to its answer in the caller's hands; what the other stages leave of it is the
    /// reply's way back.
    whole: Histogram,
}

/// How long a request waits for this node to hear of an object that exists.
const BEHIND_MAX: Duration = Duration::from_millis(1_500);

/// How long a missing leader is waited for.
struct Patience {
    deadline: Instant,
}

impl Patience {
    fn new(time: Duration) -> Self {
        Patience { deadline: Instant::now() + time }
    }

    /// Waits a little if trying again may help; gives the fault back if not, or if the time is up.
    async fn wait(&self, fault: Fault) -> Result<(), Fault> {
        if fault.code != Code::NotLeader || Instant::now() + PAUSE >= self.deadline {
            return Err(fault);
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}

/// There is no such object.
pub fn unknown(kind: &str, name: &str) -> Fault {
    Fault::new(Code::NotFound, format!("there is no {kind} {name:?}; `moso {kind} --help` tells how to make one"))
}

/// Encodes what goes between nodes.
pub fn pack<T: Serialize>(value: &T) -> Bytes {
    postcard::to_stdvec(value).expect("plain values encode into memory").into()
}

/// Reads what comes from another node.
pub fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    postcard::from_bytes(bytes)
        .map_err(|e| Fault::new(Code::Internal, format!("another node sent what this one cannot read: {e}")))
}

/// Waits for a reactor's answer. An answer that comes in the very moment in which the time ends still counts: one that
/// comes later is seen by the reactor to find nobody.
pub async fn in_time<T>(mut answer: oneshot::Receiver<T>, time: Duration, shard: u16) -> Result<T, Fault> {
    match tokio::time::timeout(time, &mut answer).await {
        Ok(answer) => answer.map_err(|_| Fault::not_leader(shard)),
        Err(_) => {
            answer.close();
            answer.try_recv().map_err(|_| {
                Fault::new(Code::Timeout, format!("shard {shard} did not answer within {} s", time.as_secs()))
            })
        }
    }
}

impl Router {
    /// Routes to the shards of `directory`, here and at `peers`.
    pub fn new(directory: Arc<Directory>, peers: Arc<Peers>) -> Self {
        Router { directory, peers, whole: metrics::histogram!("moso_stage_seconds", "stage" => "whole") }
    }

    /// Asks another node.
    pub async fn call(&self, node: u32, shard: u16, kind: u8, body: Bytes) -> Result<Bytes, Fault> {
        // Leases whose answer is not waited for run out by themselves, but only in minutes.
        let time = if kind == call::LEASE { COMMAND_TIMEOUT } else { CALL_TIMEOUT };
        match self.peers.call(node, shard, kind, body, time).await {
            Ok(body) => Ok(body),
            Err(CallError::Refused { body, .. }) => Err(unpack::<Fault>(&body)?),
            Err(CallError::Busy) => Err(Fault::busy(shard)),
            Err(CallError::Unreachable | CallError::Timeout) => Err(Fault::not_leader(shard)),
            Err(CallError::TooLarge) => {
                Err(Fault::new(Code::TooLarge, "what goes to the shard's leader is larger than a frame between nodes"))
            }
        }
    }

    fn leader(&self, shard: u16) -> Result<u32, Fault> {
        let slot = self.directory.shard(shard);
        let slot = slot.ok_or_else(|| Fault::new(Code::NotFound, format!("there is no shard {shard}")))?;
        match slot.leader() {
            0 => Err(Fault::not_leader(shard)),
            leader => Ok(leader),
        }
    }

    /// Proposes an encoded command at the shard's leader, trying again while the leadership changes: only for commands
    /// that may be repeated.
    pub async fn command(&self, shard: u16, bytes: Bytes) -> Result<Reply, Fault> {
        let patience = Patience::new(COMMAND_TIMEOUT);
        loop {
            match self.command_once(shard, bytes.clone()).await {
                Err(fault) => patience.wait(fault).await?,
                reply => return reply,
            }
        }
    }

    /// Proposes once.
    pub async fn command_once(&self, shard: u16, bytes: Bytes) -> Result<Reply, Fault> {
        let leader = self.leader(shard)?;
        if leader != self.directory.node {
            return unpack(&self.call(leader, shard, call::COMMAND, bytes).await?);
        }
        self.command_here(shard, bytes).await
    }

    /// Proposes at this node.
    pub async fn command_here(&self, shard: u16, bytes: Bytes) -> Result<Reply, Fault> {
        self.admit(&bytes)?;
        let start = Instant::now();
        let (reply, answer) = oneshot::channel();
        self.request(shard, Request::Command { bytes: bytes.clone(), reply })?;
        let mut reply = in_time(answer, COMMAND_TIMEOUT, shard).await??;
        self.whole.record(start.elapsed());
        crate::repeats::recognise(&self.directory, shard, &bytes, &mut reply);
        Ok(reply)
    }

    /// Ends an attempt on the word of a worker that has no session of its own, trying again while the leadership changes.
    pub async fn result(&self, shard: u16, result: JobResult) -> Result<Reply, Fault> {
        let patience = Patience::new(COMMAND_TIMEOUT);
        loop {
            let done = match self.leader(shard) {
                Ok(leader) if leader == self.directory.node => self.result_here(shard, result.clone()).await,
                Ok(leader) => {
                    let bytes = Command::Results { session: 0, results: vec![result.clone()] }.to_bytes();
                    self.call(leader, shard, call::RESULT, bytes.into()).await.and_then(|reply| unpack(&reply))
                }
                Err(fault) => Err(fault),
            };
            match done {
                Err(fault) => patience.wait(fault).await?,
                reply => return reply,
            }
        }
    }

    /// Takes such a result at this node.
    pub async fn result_here(&self, shard: u16, result: JobResult) -> Result<Reply, Fault> {
        let (reply, answer) = oneshot::channel();
        self.request(shard, Request::Result { result: Box::new(result), reply })?;
        in_time(answer, COMMAND_TIMEOUT, shard).await?
    }

    /// Refuses what cannot be an entry, and submissions while the disk is nearly full: results and leases go on, so
    /// that running jobs can end.
    fn admit(&self, command: &Bytes) -> Result<(), Fault> {
        if command.len() + ENTRY_HEAD_BYTES > ENTRY_BYTES_MAX {
            let bytes = command.len();
            return Err(Fault::new(
                Code::TooLarge,
                format!(
                    "the call makes a log entry of {bytes} bytes, at most {ENTRY_BYTES_MAX} are allowed: send less at once"
                ),
            ));
        }
        if is_submission(command)
            && let Some(why) = self.directory.disk.refusal()
        {
            Counters::add(&self.directory.counters.shed, 1);
            return Err(Fault { retry_after_ms: DISK_RETRY_MS, ..Fault::new(Code::Busy, why) });
        }
        Ok(())
    }

    /// Leaves a request at a shard of this node.
    pub fn request(&self, shard: u16, request: Request) -> Result<(), Fault> {
        let inbox = self.directory.shard(shard).map(|s| s.inbox.load());
        let inbox = inbox.as_ref().and_then(|inbox| inbox.as_ref()).ok_or_else(|| Fault::not_leader(shard))?;
        let sent = match request.inbox_percent() {
            Some(percent) => inbox.send_within(request, percent),
            None => inbox.send_urgent(request),
        };
        sent.map_err(|refused| {
            Counters::add(&self.directory.counters.shed, 1);
            if let (Request::Lease { popped, .. }, Some(slot)) = (refused, self.directory.shard(shard)) {
                // Only the reactor may file them again.
                slot.returned.push(popped);
                inbox.wake();
            }
            Fault::busy(shard)
        })
    }

    /// Leases jobs taken from a ready index of this node. The future must not be dropped before it is done, or nobody
    /// knows of the leases until they run out.
    pub async fn lease_here(&self, shard: u16, popped: Vec<Popped>, to: LeaseFor) -> Result<Vec<LeasedJob>, Fault> {
        let (reply, answer) = oneshot::channel();
        self.request(shard, Request::Lease { popped, to, reply })?;
        in_time(answer, COMMAND_TIMEOUT, shard).await?
    }

    /// Leases jobs of a task led by this node; as [`Router::lease_here`].
    pub async fn lease_task_here(
        &self,
        shard: u16,
        (task, queue): (u64, u32),
        offer: WorkerOffer,
        max: usize,
        to: LeaseFor,
    ) -> Result<Vec<LeasedJob>, Fault> {
        let (reply, answer) = oneshot::channel();
        self.request(shard, Request::LeaseTask { task, queue, offer: Box::new(offer), max, to, reply })?;
        in_time(answer, COMMAND_TIMEOUT, shard).await?
    }

    /// Passes a session's heartbeat on. `None`: no leader answered.
    pub async fn heartbeat(&self, shard: u16, call: HeartbeatCall) -> HeartbeatAnswer {
        let leader = self.leader(shard).ok()?;
        if leader == self.directory.node {
            return self.heartbeat_here(shard, call).await;
        }
        unpack(&self.call(leader, shard, call::HEARTBEAT, pack(&call)).await.ok()?).ok()?
    }

    /// Takes a session's heartbeat at this node.
    pub async fn heartbeat_here(&self, shard: u16, call: HeartbeatCall) -> HeartbeatAnswer {
        let (reply, answer) = oneshot::channel();
        let count = call.beats.len() as u64;
        self.request(shard, Request::Heartbeat { call, reply }).ok()?;
        let answer = in_time(answer, CALL_TIMEOUT, shard).await.ok()??;
        Counters::add(&self.directory.counters.heartbeats, count);
        Some((answer.lost, answer.kill, answer.settled))
    }

    /// Runs a query at the shard's leader.
    pub async fn query(&self, shard: u16, query: &QueryCall) -> Result<Bytes, Fault> {
        let patience = Patience::new(QUERY_TIMEOUT);
        loop {
            match self.query_once(shard, query).await {
                Err(fault) => patience.wait(fault).await?,
                answer => return answer,
            }
        }
    }

    async fn query_once(&self, shard: u16, query: &QueryCall) -> Result<Bytes, Fault> {
        let leader = self.leader(shard)?;
        if leader == self.directory.node {
            query::run(self, shard, query.clone()).await
        } else {
            self.call(leader, shard, call::QUERY, pack(query)).await
        }
    }

    fn meta_leader(&self) -> Result<u32, Fault> {
        match self.directory.meta_leader.load(Ordering::Relaxed) {
            0 => Err(Fault::not_leader(0)),
            leader => Ok(leader),
        }
    }

    /// Proposes an encoded meta command.
    pub async fn meta_command(&self, bytes: Bytes) -> Result<Object, Fault> {
        let leader = self.meta_leader()?;
        if leader != self.directory.node {
            return unpack(&self.call(leader, 0, call::META_COMMAND, bytes).await?);
        }
        self.meta_command_here(bytes).await
    }

    /// Proposes an encoded meta command at this node.
    pub async fn meta_command_here(&self, bytes: Bytes) -> Result<Object, Fault> {
        let (reply, answer) = oneshot::channel();
        self.meta_request(MetaRequest::Command { bytes, reply })?;
        in_time(answer, COMMAND_TIMEOUT, 0).await?
    }

    /// Leaves a request at the meta group of this node.
    pub fn meta_request(&self, request: MetaRequest) -> Result<(), Fault> {
        let inbox = self.directory.meta_inbox.as_ref().ok_or_else(|| Fault::not_leader(0))?;
        inbox.send(request).map_err(|_| Fault::busy(0))
    }

    /// Reads objects at the meta group's leader.
    pub async fn meta_query(&self, query: &MetaQueryCall) -> Result<Vec<Object>, Fault> {
        let patience = Patience::new(QUERY_TIMEOUT);
        loop {
            match self.meta_query_once(query).await {
                Err(fault) => patience.wait(fault).await?,
                answer => return answer,
            }
        }
    }

    /// The meta view, once it knows these objects (kind and name). This node may be behind, after a restart or a
    /// change at another node: only the meta group can say that there is no such object.
    pub async fn meta_with(&self, named: &[(&str, &str)]) -> Result<Arc<MetaView>, Fault> {
        let deadline = Instant::now() + BEHIND_MAX;
        let knows = |meta: &MetaView, kind: &str, name: &str| match kind {
            kind::QUEUE => meta.queue(name).is_some(),
            _ => meta.share(name).is_some(),
        };
        for &(kind, name) in named {
            if name.len() > NAME_BYTES_MAX {
                let message = format!("the name of a {kind} has at most {NAME_BYTES_MAX} bytes");
                return Err(Fault::new(Code::TooLarge, message));
            }
            if knows(&self.directory.meta.load(), kind, name) {
                continue;
            }
            let query = MetaQueryCall::Get { kind: kind.into(), name: name.into() };
            if self.meta_query(&query).await?.iter().all(|object| object.json.is_empty()) {
                return Err(unknown(kind, name));
            }
            loop {
                let changed = self.directory.meta_changed.notified();
                if knows(&self.directory.meta.load(), kind, name) {
                    break;
                }
                if tokio::time::timeout_at(deadline, changed).await.is_err() {
                    let message = format!("node {} does not know the {kind} {name:?} yet", self.directory.node);
                    return Err(Fault { retry_after_ms: 100, ..Fault::new(Code::Unavailable, message) });
                }
            }
        }
        Ok(self.directory.meta.load_full())
    }

    async fn meta_query_once(&self, query: &MetaQueryCall) -> Result<Vec<Object>, Fault> {
        let leader = self.meta_leader()?;
        if leader == self.directory.node {
            query::run_meta(self, query.clone()).await
        } else {
            unpack(&self.call(leader, 0, call::META_QUERY, pack(query)).await?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_waited_for_and_the_late_one_finds_nobody() {
        let (send, answer) = oneshot::channel();
        send.send(7).unwrap();
        assert_eq!(in_time(answer, CALL_TIMEOUT, 1).await, Ok(7));

        let (send, answer) = oneshot::channel::<u8>();
        let fault = in_time(answer, Duration::from_millis(1), 1).await.unwrap_err();
        assert_eq!(fault.code, Code::Timeout);
        assert_eq!(send.send(7), Err(7));

        let (send, answer) = oneshot::channel::<u8>();
        drop(send);
        assert_eq!(in_time(answer, CALL_TIMEOUT, 1).await, Err(Fault::not_leader(1)));
    }
}
