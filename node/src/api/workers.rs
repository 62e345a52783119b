//! Workers: one stream is one session. A frame may carry results, heartbeats and a lease request; what is ready at the
//! same time goes back in one frame.

use super::caller::{caller, over_now};
use super::frames::{fault_of, merge, push_into, read, refusal, settle, split, tobekilled};
use super::{check, invalid, status};
use crate::dispatch::{Ask, Cancel, Dispatcher, Leased};
use crate::gate::line::Line;
use crate::gate::{Gate, Held, Reason, share};
use crate::identity::{Guard, Principal};
use crate::limits::{CALL_BEGIN_MAX, SLOW_MAX, STREAM_WINDOW_BYTES};
use crate::request::Fault;
use crate::router::{HeartbeatCall, Router, unknown};
use crate::sessions::{PUSHES, Push, STREAMS_MAX, Sessions};
use futures::stream::{FuturesUnordered, StreamExt};
use moso_proto::object::kind;
use moso_proto::v1::{self, workers_server::Workers};
use moso_proto::{Code, JobId, MESSAGE_BYTES_MAX, TaskId};
use moso_queue::command::{Command, JobResult};
use moso_queue::filter::WorkerOffer;
use moso_queue::limits::{LEASE_JOBS_MAX, RESULTS_MAX, TAGS_MAX};
use prost::Message as _;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

/// Frames of a session under way; the stream is not read further meanwhile.
const FRAMES_MAX: usize = 64;
/// Bytes of frames of a session under way, beyond which the stream is not read further: what a worker that sends all it
/// can may hold of the node's memory, with one frame more.
const FRAMES_BYTES: usize = MESSAGE_BYTES_MAX / 2;
/// Frames waiting to be sent to a worker; the session of one that does not read them ends. Each may hold the bodies of a
/// lease.
const SEND_QUEUE: usize = 4;
/// Lease requests of a session that have begun or were replaced and not yet ended: one leases at a time.
const LEASINGS_MAX: usize = 64;
/// Heartbeats of jobs in one frame.
const BEATS_MAX: usize = 100_000;
/// Longest wait of a lease request.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Queues in one lease request.
const QUEUES_MAX: usize = 1_000;

/// What a frame asks for.
type Part<T = v1::NodeFrame> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What is under way of a session.
#[derive(Default)]
struct UnderWay {
    /// Each with the bytes of its frame.
    parts: FuturesUnordered<Part<(v1::NodeFrame, usize)>>,
    bytes: usize,
    /// For them, as they came and as commands.
    held: Held,
    /// For what the worker may send while nothing is read from it.
    window: Held,
}

/// A frame to a worker, and the memory for it.
type Out = (Held, Result<v1::NodeFrame, Status>);

impl UnderWay {
    fn push(&mut self, part: Part, bytes: usize) {
        self.bytes += bytes;
        self.parts.push(Box::pin(async move { (part.await, bytes) }));
    }

    async fn next(&mut self) -> Option<v1::NodeFrame> {
        let (frame, bytes) = self.parts.next().await?;
        self.bytes -= bytes;
        Some(frame)
    }

    /// Whether another frame may be read. One always may: with nothing under way a session waits for nobody.
    fn has_room(&mut self, gate: &Gate) -> bool {
        self.held.set(&gate.memory, 2 * self.bytes, share::RUNNING)
            && self.parts.len() < FRAMES_MAX
            && self.bytes < FRAMES_BYTES
    }

    /// Keeps memory for what comes while nothing is read. Where there is none the session ends; the worker comes back.
    fn keep_window(&mut self, unread: bool, gate: &Gate) -> Result<(), Fault> {
        let bytes = if unread { STREAM_WINDOW_BYTES as usize } else { 0 };
        match self.window.set(&gate.memory, bytes, share::RUNNING) {
            true => Ok(()),
            false => Err(gate.refuse(Reason::Memory)),
        }
    }
}

/// The service.
#[derive(Clone)]
pub struct WorkersApi {
    router: Arc<Router>,
    guard: Arc<Guard>,
    dispatcher: Arc<Dispatcher>,
    sessions: Arc<Sessions>,
    gate: Arc<Gate>,
}

impl WorkersApi {
    /// Serves through `router` and `dispatcher` what `gate` lets in and `guard` allows.
    pub fn new(
        router: Arc<Router>,
        guard: Arc<Guard>,
        dispatcher: Arc<Dispatcher>,
        sessions: Arc<Sessions>,
        gate: Arc<Gate>,
    ) -> Self {
        WorkersApi { router, guard, dispatcher, sessions, gate }
    }
}

#[tonic::async_trait]
impl Workers for WorkersApi {
    type SessionStream = Frames;

    async fn session(
        &self,
        request: Request<Streaming<v1::WorkerFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let who = caller(&request)?;
        let (send, frames) = mpsc::channel(SEND_QUEUE);
        let api = self.clone();
        let session = Arc::new(AtomicU64::new(0));
        let frames =
            Frames { frames, held: Held::default(), dispatcher: self.dispatcher.clone(), session: session.clone() };
        tokio::spawn(async move {
            let line = request.extensions().get::<Arc<Line>>().cloned();
            let mut inbound = request.into_inner();
            if let Err(fault) = api.serve(who, &mut inbound, &send, &session, line).await {
                let status = status(fault, &api.router.directory.meta.load());
                let _ = send.send_timeout((Held::default(), Err(status)), SLOW_MAX).await;
            }
        });
        Ok(Response::new(frames))
    }
}

/// A lease request under way. Dropped, it ends, and what was leased is given back.
struct Leasing {
    cancel: Arc<Cancel>,
    answer: oneshot::Receiver<v1::LeaseReply>,
    dispatcher: Arc<Dispatcher>,
    session: u64,
}

impl Drop for Leasing {
    fn drop(&mut self) {
        self.cancel.cancel();
        // From now on the task finds nobody; what it left before must not be lost.
        self.answer.close();
        if let Ok(reply) = self.answer.try_recv() {
            give_back(&self.dispatcher, self.session, reply.leases);
        }
    }
}

/// Gives leases back that their worker will not see, unless the node stops.
fn give_back(dispatcher: &Arc<Dispatcher>, session: u64, leases: Vec<v1::Lease>) {
    if let (false, Ok(runtime)) = (leases.is_empty(), Handle::try_current()) {
        let dispatcher = dispatcher.clone();
        runtime.spawn(async move { dispatcher.undelivered(session, &leases).await });
    }
}

/// The frames to a worker. Those that it leaves unread are looked through for leases, which are given back.
pub struct Frames {
    frames: mpsc::Receiver<Out>,
    /// For the frame that is being sent.
    held: Held,
    dispatcher: Arc<Dispatcher>,
    /// Session, once it is known.
    session: Arc<AtomicU64>,
}

impl Stream for Frames {
    type Item = Result<v1::NodeFrame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.frames.poll_recv(context);
        next.map(|out| {
            let (held, frame) = out.unzip();
            self.held = held.unwrap_or_default();
            frame
        })
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.frames.close();
        let mut leases = Vec::new();
        while let Ok((_, frame)) = self.frames.try_recv() {
            leases.extend(frame.ok().and_then(|frame| frame.lease).into_iter().flat_map(|reply| reply.leases));
        }
        give_back(&self.dispatcher, self.session.load(Ordering::Relaxed), leases);
    }
}

impl WorkersApi {
    async fn serve(
        &self,
        who: Arc<Principal>,
        inbound: &mut Streaming<v1::WorkerFrame>,
        send: &mpsc::Sender<Out>,
        number: &AtomicU64,
        line: Option<Arc<Line>>,
    ) -> Result<(), Fault> {
        let Ok(Ok(Some(first))) = tokio::time::timeout(CALL_BEGIN_MAX, inbound.message()).await else { return Ok(()) };
        let hello = first.hello.clone().ok_or_else(|| invalid("the first frame of a session must say hello"))?;
        if hello.session == 0 {
            return Err(invalid("the session number must not be zero"));
        }
        let name = match who.is_anyone() {
            true => hello.worker,
            false => format!("{}:{}", who.user, hello.worker),
        };
        let worker: Arc<str> = check::name("worker", &name)?.into();
        // From here on the session's number is one that only this caller can have.
        let (own, session_key) = self.guard.session(&who, hello.session, hello.key)?;
        number.store(own, Ordering::Relaxed);
        if session_key != 0
            && send
                .send((Held::default(), Ok(v1::NodeFrame { session_key, ..v1::NodeFrame::default() })))
                .await
                .is_err()
        {
            return Ok(());
        }
        let (pushes, mut pushed) = mpsc::channel(PUSHES);
        let ticket = self.sessions.open(own, pushes).ok_or_else(|| Fault {
            retry_after_ms: 5_000,
            ..Fault::new(Code::Busy, format!("this node has {STREAMS_MAX} sessions already: go to another"))
        })?;
        let session = Session {
            api: self.clone(),
            number: own,
            line,
            worker,
            who,
            one_lease: Arc::default(),
            leasings: Arc::new(Semaphore::new(LEASINGS_MAX)),
        };
        let result = session.run(first, inbound, &mut pushed, send).await;
        self.sessions.close(own, ticket);
        result
    }
}

#[derive(Clone)]
struct Session {
    api: WorkersApi,
    number: u64,
    /// Its connection.
    line: Option<Arc<Line>>,
    worker: Arc<str>,
    who: Arc<Principal>,
    /// Held by the lease request that is being answered: those that it replaces end before it begins.
    one_lease: Arc<Mutex<()>>,
    leasings: Arc<Semaphore>,
}

impl Session {
    async fn run(
        &self,
        first: v1::WorkerFrame,
        inbound: &mut Streaming<v1::WorkerFrame>,
        pushed: &mut mpsc::Receiver<Push>,
        send: &mpsc::Sender<Out>,
    ) -> Result<(), Fault> {
        let mut parts = UnderWay::default();
        let mut leasing: Option<Leasing> = None;
        let mut reading = self.take(first, &mut parts, &mut leasing)?;
        let mut over = std::pin::pin!(self.api.guard.over(&self.who));
        loop {
            let mut out = v1::NodeFrame::default();
            let mut undelivered = Vec::new();
            let room = reading && parts.has_room(&self.api.gate);
            parts.keep_window(reading && !room, &self.api.gate)?;
            tokio::select! {
                // The worker has gone; what is under way comes to its end by itself, or is repeated.
                () = send.closed() => return Ok(()),
                // Whoever comes again shows that he still may.
                () = &mut over => return Err(over_now()),
                frame = inbound.message(), if room => match frame {
                    Ok(Some(frame)) => reading = self.take(frame, &mut parts, &mut leasing)?,
                    Ok(None) => reading = false,
                    Err(_) => return Ok(()),
                },
                Some(part) = parts.next() => merge(&mut out, part),
                Some(push) = pushed.recv() => push_into(&mut out, push),
                reply = answer(&mut leasing) => {
                    leasing = None;
                    undelivered = reply.leases.clone();
                    out.lease = Some(reply);
                }
            }
            // What else is ready goes along.
            while let Some(Some(part)) = futures::FutureExt::now_or_never(parts.next()) {
                merge(&mut out, part);
            }
            if out.lease.is_none()
                && let Some(reply) = leasing.as_mut().and_then(|l| l.answer.try_recv().ok())
            {
                leasing = None;
                undelivered = reply.leases.clone();
                out.lease = Some(reply);
            }
            while let Ok(push) = pushed.try_recv() {
                push_into(&mut out, push);
            }
            if out != v1::NodeFrame::default() && !self.give(out, &mut undelivered, send).await {
                self.api.dispatcher.undelivered(self.number, &undelivered).await;
                return Ok(());
            }
            if !reading && parts.parts.is_empty() {
                return Ok(());
            }
        }
    }

    /// Hands a frame over to be sent, and empties `undelivered` if the leases in it went another way. `false`: the worker
    /// is gone, or does not read.
    async fn give(&self, mut out: v1::NodeFrame, undelivered: &mut Vec<v1::Lease>, send: &mpsc::Sender<Out>) -> bool {
        let gate = &self.api.gate;
        if let Some(line) = &self.line
            && (!undelivered.is_empty() || out.results.as_ref().is_some_and(|results| !results.accepted.is_empty()))
        {
            line.earn();
        }
        let mut held = Held::default();
        if let (false, Some(lease)) = (undelivered.is_empty(), &mut out.lease) {
            match gate.hold(2 * lease.encoded_len(), share::LEASES) {
                Ok(room) => held = room,
                Err(fault) => {
                    let request_id = lease.request_id;
                    *lease = v1::LeaseReply { request_id, fault: Some(fault_of(&fault)), ..v1::LeaseReply::default() };
                    self.api.dispatcher.undelivered(self.number, &std::mem::take(undelivered)).await;
                }
            }
        }
        let out = match send.try_send((held, Ok(out))) {
            Ok(()) => return true,
            Err(mpsc::error::TrySendError::Closed(_)) => return false,
            Err(mpsc::error::TrySendError::Full(out)) => out,
        };
        // Meanwhile nothing is read from the worker, and what it sends is kept for it. Where there is no room for that, it is
        // cut off at once; it comes back with its session.
        let Ok(_window) = gate.hold(STREAM_WINDOW_BYTES as usize, share::RUNNING) else { return false };
        match send.send_timeout(out, SLOW_MAX).await {
            Ok(()) => true,
            Err(error) => {
                if matches!(error, mpsc::error::SendTimeoutError::Timeout(_)) {
                    gate.refusals.count(Reason::SlowReader);
                }
                false
            }
        }
    }

    /// Starts what a frame asks for; `false`: it was the last one.
    fn take(&self, frame: v1::WorkerFrame, parts: &mut UnderWay, leasing: &mut Option<Leasing>) -> Result<bool, Fault> {
        if !frame.results.is_empty() {
            let bytes = frame.results.iter().map(prost::Message::encoded_len).sum();
            parts.push(self.results(frame.results)?, bytes);
        }
        if let Some(heartbeat) = frame.heartbeat {
            let bytes = heartbeat.encoded_len();
            parts.push(self.heartbeat(heartbeat)?, bytes);
        }
        if let Some(request) = frame.lease {
            // A newer request replaces the one that waits.
            *leasing = None;
            let id = request.request_id;
            if request.max_jobs == 0 {
                let lease = Some(v1::LeaseReply { request_id: id, ..v1::LeaseReply::default() });
                parts.push(Box::pin(std::future::ready(v1::NodeFrame { lease, ..v1::NodeFrame::default() })), 0);
                return Ok(!frame.drained);
            }
            *leasing = Some(self.lease(request)?);
        }
        if frame.drained {
            *leasing = None;
        }
        Ok(!frame.drained)
    }

    async fn ask(&self, request: v1::LeaseRequest) -> Result<Ask, Fault> {
        if request.queues.is_empty() {
            return Err(invalid("a lease request names at least one queue"));
        }
        if request.queues.len() > QUEUES_MAX || request.tags.len() > TAGS_MAX {
            return Err(Fault::new(
                Code::TooLarge,
                format!("at most {QUEUES_MAX} queues and {TAGS_MAX} tags in one lease request"),
            ));
        }
        self.may_take(&request)?;
        let named: Vec<_> = request.queues.iter().map(|name| (kind::QUEUE, name.as_str())).collect();
        let meta = self.api.router.meta_with(&named).await?;
        let queue = |name: &String| meta.queue(name).map(|q| q.id).ok_or_else(|| unknown(kind::QUEUE, name));
        let queues = request.queues.iter().map(queue).collect::<Result<_, _>>()?;
        let mut tags: Vec<Box<str>> =
            request.tags.iter().map(|t| check::name("a tag", t).map(Box::from)).collect::<Result<_, _>>()?;
        tags.sort_unstable();
        Ok(Ask {
            queues,
            max: (request.max_jobs as usize).min(LEASE_JOBS_MAX),
            offer: WorkerOffer {
                cores: request.cores,
                memory_mib: request.memory_mib,
                disk_mib: request.disk_mib,
                remaining_s: request.remaining_s,
                resource_type: check::name("resource_type", &request.resource_type)?.into(),
                tags,
                label: check::name("label", &request.label)?.into(),
                owner: check::name("owner", &request.owner)?.into(),
            },
            task: (request.task_id != 0).then_some(TaskId(request.task_id)),
            session: self.number,
            request: request.request_id as u32,
            worker: self.worker.clone(),
            wait: Duration::from_millis(u64::from(request.wait_ms)).min(WAIT_MAX),
        })
    }

    /// Whether the caller may take jobs of the queues that he names.
    fn may_take(&self, request: &v1::LeaseRequest) -> Result<(), Fault> {
        let (guard, who) = (&self.api.guard, &self.who);
        guard.still_welcome(who)?;
        match request.queues.iter().find(|queue| !who.may_work(queue)) {
            None => Ok(()),
            Some(queue) => {
                let text = format!("user {} may not take jobs of the queue {queue:?}", who.user);
                Err(guard.forbid(who, "queue", text))
            }
        }
    }

    /// Leases in the background, so that what was leased is given back if nobody takes the answer.
    fn lease(&self, request: v1::LeaseRequest) -> Result<Leasing, Fault> {
        let too_many = |_| Fault {
            retry_after_ms: 1_000,
            ..Fault::new(Code::Busy, format!("more than {LEASINGS_MAX} lease requests replace each other"))
        };
        let place = self.leasings.clone().try_acquire_owned().map_err(too_many)?;
        let (send, answer) = oneshot::channel();
        let cancel = Arc::new(Cancel::default());
        let (session, cancelled) = (self.clone(), cancel.clone());
        tokio::spawn(async move {
            let (_place, _turn) = (place, session.one_lease.lock().await);
            if send.is_closed() {
                return;
            }
            let (dispatcher, request_id) = (&session.api.dispatcher, request.request_id);
            let leased = match session.ask(request).await {
                Ok(ask) => dispatcher.lease(&ask, &cancelled).await,
                Err(fault) => Err(fault),
            };
            let (Leased { leases, unsettled }, fault) = match leased {
                Ok(leased) => (leased, None),
                Err(fault) => (Leased::default(), Some(fault_of(&fault))),
            };
            if let Err(reply) = send.send(v1::LeaseReply { request_id, leases, fault, unsettled }) {
                dispatcher.undelivered(session.number, &reply.leases).await;
            }
        });
        Ok(Leasing { cancel, answer, dispatcher: self.api.dispatcher.clone(), session: self.number })
    }

    fn heartbeat(&self, heartbeat: v1::Heartbeat) -> Result<Part, Fault> {
        let v1::Heartbeat { seq, jobs, attempts, phases, settled_request } = heartbeat;
        if jobs.len() != attempts.len() || (!phases.is_empty() && phases.len() != jobs.len()) {
            return Err(invalid("a heartbeat's jobs, attempts and phases differ in number"));
        }
        if jobs.len() > BEATS_MAX {
            return Err(Fault::new(Code::TooLarge, format!("at most {BEATS_MAX} jobs in one heartbeat")));
        }
        let mut reply = v1::HeartbeatReply { seq, ..v1::HeartbeatReply::default() };
        let mut by_shard: BTreeMap<u16, Vec<(u64, u32, u8)>> = BTreeMap::new();
        for (at, (&job, &attempt)) in jobs.iter().zip(&attempts).enumerate() {
            let phase = phases.get(at).copied().unwrap_or(0).min(2) as u8;
            match JobId(job).shard() {
                Some(shard) => by_shard.entry(shard.0).or_default().push((JobId(job).seq(), attempt, phase)),
                None => reply.lost.push(job),
            }
        }
        let settled = (settled_request != 0).then_some(settled_request as u32);
        if settled.is_some() {
            // A shard that is not named may hold what the session does not know of.
            for slot in &self.api.router.directory.shards {
                by_shard.entry(slot.shard).or_default();
            }
        }
        let (router, session, line) = (self.api.router.clone(), self.number, self.line.clone());
        Ok(Box::pin(async move {
            reply.settled = settled.is_some();
            let asked = by_shard.into_iter().map(|(shard, beats)| {
                let router = &router;
                async move {
                    let jobs: Vec<u64> = beats.iter().map(|b| b.0).collect();
                    (shard, jobs, router.heartbeat(shard, HeartbeatCall { session, beats, settled }).await)
                }
            });
            let mut commands = Vec::new();
            for (shard, jobs, answer) in futures::future::join_all(asked).await {
                let id = |seq: u64| moso_proto::ShardId(shard).id(seq);
                match answer {
                    None => {
                        reply.settled = false;
                        reply.unknown.extend(jobs.into_iter().map(id));
                    }
                    Some((lost, kill, settled)) => {
                        reply.settled &= settled;
                        reply.lost.extend(lost.into_iter().map(id));
                        commands.extend(kill.into_iter().map(|(seq, attempt)| tobekilled(id(seq), attempt)));
                    }
                }
            }
            if let Some(line) = line.filter(|_| reply.lost.len() + reply.unknown.len() < jobs.len()) {
                line.earn();
            }
            v1::NodeFrame { heartbeat: Some(reply), commands, ..v1::NodeFrame::default() }
        }))
    }

    fn results(&self, results: Vec<v1::JobResult>) -> Result<Part, Fault> {
        if results.len() > RESULTS_MAX {
            return Err(Fault::new(Code::TooLarge, format!("at most {RESULTS_MAX} results in one frame")));
        }
        let mut ack = v1::ResultAck::default();
        let mut by_shard: BTreeMap<u16, Vec<JobResult>> = BTreeMap::new();
        for result in results {
            let id = JobId(result.job_id);
            match (id.shard().filter(|s| usize::from(s.0) <= self.api.router.directory.shards.len()), read(result)) {
                (Some(shard), Ok(result)) => by_shard.entry(shard.0).or_default().push(result),
                (None, _) => ack.refused.push(refusal(id.0, 0, Code::NotFound, "no shard has such a number")),
                (_, Err(fault)) => ack.refused.push(refusal(id.0, 0, fault.code, &fault.message)),
            }
        }
        let (router, session) = (self.api.router.clone(), self.number);
        Ok(Box::pin(async move {
            let parts =
                by_shard.into_iter().flat_map(|(shard, results)| split(results).into_iter().map(move |r| (shard, r)));
            let sent = parts.map(|(shard, results)| {
                let router = &router;
                async move {
                    let ids: Vec<(u64, u32)> = results.iter().map(|r| (r.seq, r.attempt)).collect();
                    let command = Command::Results { session, results }.to_bytes();
                    (shard, ids, router.command(shard, command.into()).await)
                }
            });
            for (shard, ids, answer) in futures::future::join_all(sent).await {
                settle(&router.directory.counters, shard, &ids, answer, &mut ack);
            }
            v1::NodeFrame { results: Some(ack), ..v1::NodeFrame::default() }
        }))
    }
}

/// The answer of the lease request under way; never, if there is none.
async fn answer(leasing: &mut Option<Leasing>) -> v1::LeaseReply {
    match leasing {
        Some(leasing) => match (&mut leasing.answer).await {
            Ok(reply) => reply,
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
