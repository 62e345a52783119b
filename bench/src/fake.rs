//! A node in memory for tests of the generator: one queue table, no replication, and faults on request.

use crate::cluster::Target;
use bytes::Bytes;
use moso_proto::v1::admin_server::{Admin, AdminServer};
use moso_proto::v1::jobs_server::{Jobs, JobsServer};
use moso_proto::v1::workers_server::{Workers, WorkersServer};
use moso_proto::v1::*;
use moso_proto::view::{Cluster, NodeView, ShardView};
use moso_proto::{ShardId, TaskId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// What the node does wrong.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    /// Breaks a stream after so many frames; 0: never.
    pub break_after: u64,
    /// Every n-th lease is given to another session as well, later; 0: never.
    pub release_each: u64,
    /// Answers every n-th result "send again" once; 0: never.
    pub retry_each: u64,
    /// Forgets every n-th accepted result; 0: never.
    pub forget_each: u64,
}

struct Job {
    task: u64,
    attempt: u32,
    session: u64,
    /// The session's request that the lease answers.
    request: u64,
    queue: String,
    ended: Option<(Outcome, u32, u64)>,
}

/// What the node knows.
#[derive(Default)]
pub struct State {
    faults: Faults,
    jobs: HashMap<u64, Job>,
    tasks: BTreeMap<u64, (TaskSpec, u64, u32, Vec<Bytes>)>,
    ready: HashMap<String, VecDeque<u64>>,
    /// Leased jobs that another session is to get as well, as if their lease had run out.
    again: VecDeque<(u64, String)>,
    seq: u64,
    /// Leases given.
    pub leases: u64,
    results: u64,
    /// Heartbeats of single jobs taken.
    pub heartbeats: u64,
    refused: u64,
}

#[derive(Clone)]
struct Fake {
    state: Arc<Mutex<State>>,
    address: String,
    started: Instant,
}

type Answer<T> = Result<Response<T>, Status>;
type Frames<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

fn absent<T>() -> Answer<T> {
    Err(Status::unimplemented("not part of the fake"))
}

impl Fake {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }
}

impl State {
    fn view(&self, task: u64) -> Option<TaskView> {
        let (spec, first, jobs, _) = self.tasks.get(&task)?;
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for job in *first..first + u64::from(*jobs) {
            let state = match self.jobs[&job].ended {
                Some((Outcome::Failed, ..)) => "failed",
                Some(_) => "finished",
                None => "activated",
            };
            *counts.entry(state).or_default() += 1;
        }
        let counts = counts.into_iter().map(|(state, jobs)| StateCount { state: state.to_owned(), jobs });
        Some(TaskView {
            task_id: task,
            queue: spec.queue.clone(),
            jobs: *jobs,
            first_job_id: *first,
            counts: counts.collect(),
            ..TaskView::default()
        })
    }

    fn submit(&mut self, request: SubmitRequest) -> SubmitReply {
        let spec = request.task.unwrap_or_default();
        let jobs = request.array.max(request.jobs.len() as u32);
        let shard = ShardId(1 + (self.seq % 3) as u16);
        let task = TaskId::new(shard, self.seq).0;
        let first = task + 1;
        self.seq += u64::from(jobs) + 1;
        for job in first..first + u64::from(jobs) {
            let entry = Job { task, attempt: 0, session: 0, request: 0, queue: spec.queue.clone(), ended: None };
            self.jobs.insert(job, entry);
            self.ready.entry(spec.queue.clone()).or_default().push_back(job);
        }
        let bodies = request.jobs.into_iter().map(|job| job.body).collect();
        self.tasks.insert(task, (spec, first, jobs, bodies));
        SubmitReply { task_id: task, first_job_id: first, jobs, repeated: false }
    }

    fn lease(&mut self, session: u64, request: &LeaseRequest) -> Option<LeaseReply> {
        let mut leases = Vec::new();
        for queue in &request.queues {
            while leases.len() < request.max_jobs as usize {
                let Some(id) = self.ready.get_mut(queue).and_then(VecDeque::pop_front) else {
                    break;
                };
                leases.extend(self.lease_job((session, request.request_id), id, queue));
            }
        }
        let other = |(id, _): &(u64, String)| self.jobs[id].session != session;
        if leases.len() < request.max_jobs as usize
            && let Some((id, queue)) = self.again.pop_front_if(|entry| other(entry))
        {
            leases.extend(self.lease_job((session, request.request_id), id, &queue));
        }
        if leases.is_empty() {
            return None;
        }
        Some(LeaseReply { request_id: request.request_id, leases, ..LeaseReply::default() })
    }

    /// Leases whose answer was lost are ready again.
    fn settle(&mut self, session: u64, beat: &Heartbeat) {
        if beat.settled_request == 0 {
            return;
        }
        let unheld = |(id, job): (&u64, &Job)| {
            let settled = job.session == session && job.request <= beat.settled_request && job.ended.is_none();
            (settled && !beat.jobs.contains(id)).then(|| (*id, job.queue.clone()))
        };
        let unheld: Vec<_> = self.jobs.iter().filter_map(unheld).collect();
        for (id, queue) in unheld {
            self.jobs.get_mut(&id).expect("just seen").session = 0;
            self.ready.entry(queue).or_default().push_back(id);
        }
    }

    fn lease_job(&mut self, (session, request): (u64, u64), id: u64, queue: &str) -> Option<Lease> {
        let job = self.jobs.get_mut(&id)?;
        if job.ended.is_some() {
            return None;
        }
        job.attempt += 1;
        (job.session, job.request) = (session, request);
        let (attempt, task) = (job.attempt, job.task);
        let (spec, first, _, bodies) = &self.tasks[&task];
        let body = bodies.get((id - first) as usize).unwrap_or(&spec.body);
        let lease = Lease {
            job_id: id,
            attempt,
            ttl_ms: 60_000,
            heartbeat_ms: 15_000,
            body: body.clone(),
            queue: queue.to_owned(),
            task_id: task,
            ..Lease::default()
        };
        self.leases += 1;
        let each = self.faults.release_each;
        if each > 0 && self.leases.is_multiple_of(each) {
            self.again.push_back((id, queue.to_owned()));
        }
        Some(lease)
    }

    fn result(&mut self, session: u64, result: &JobResult, ack: &mut ResultAck) {
        self.results += 1;
        let nth = |each: u64| each > 0 && self.results.is_multiple_of(each);
        if nth(self.faults.retry_each) {
            ack.retry.push(result.job_id);
            return;
        }
        if nth(self.faults.forget_each) {
            return;
        }
        let Some(job) = self.jobs.get_mut(&result.job_id) else {
            return;
        };
        let code = match job.ended {
            Some((_, attempt, by)) if (attempt, by) == (result.attempt, session) => "",
            Some(_) => "already_ended",
            None if job.session != session => "foreign_lease",
            None if job.attempt != result.attempt => "stale_attempt",
            None => "",
        };
        if code.is_empty() {
            job.ended = Some((result.outcome(), result.attempt, session));
            ack.accepted.push(result.job_id);
        } else {
            self.refused += 1;
            ack.refused.push(Refusal {
                job_id: result.job_id,
                attempt: result.attempt,
                code: code.to_owned(),
                message: String::new(),
            });
        }
    }
}

#[tonic::async_trait]
impl Jobs for Fake {
    async fn submit(&self, request: Request<SubmitRequest>) -> Answer<SubmitReply> {
        Ok(Response::new(self.lock().submit(request.into_inner())))
    }
    type SubmitStreamStream = ReceiverStream<Result<SubmitAnswers, Status>>;
    async fn submit_stream(&self, request: Request<Streaming<SubmitFrame>>) -> Answer<Self::SubmitStreamStream> {
        let (state, mut frames) = (self.state.clone(), request.into_inner());
        let (out, answers) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frames.message().await {
                let answer = |one: NumberedSubmission| {
                    let mut state = state.lock().expect("no test panics while it holds this");
                    let reply = one.request.map(|request| state.submit(request));
                    SubmitAnswer { number: one.number, reply, fault: None }
                };
                let answers = frame.submissions.into_iter().map(answer).collect();
                if out.send(Ok(SubmitAnswers { answers })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
    async fn get_task(&self, request: Request<TaskRequest>) -> Answer<TaskView> {
        let view = self.lock().view(request.into_inner().task_id);
        view.map(Response::new).ok_or_else(|| Status::not_found("no such task"))
    }
    async fn list_tasks(&self, request: Request<ListRequest>) -> Answer<TaskList> {
        let request = request.into_inner();
        let queue = request.selector.unwrap_or_default().queue;
        let state = self.lock();
        let after: u64 = request.cursor.parse().unwrap_or(0);
        let ids = state.tasks.range(after + 1..).filter(|(_, task)| task.0.queue == queue);
        // Small pages, so that there are several.
        let ids: Vec<u64> = ids.map(|(id, _)| *id).take(7).collect();
        let cursor = if ids.len() == 7 { ids[6].to_string() } else { String::new() };
        let tasks = ids.into_iter().filter_map(|id| state.view(id)).collect();
        Ok(Response::new(TaskList { tasks, cursor }))
    }
    async fn get_job(&self, _: Request<JobRequest>) -> Answer<JobView> {
        absent()
    }
    async fn list_jobs(&self, _: Request<ListRequest>) -> Answer<JobList> {
        absent()
    }
    type WatchTaskStream = Frames<TaskView>;
    async fn watch_task(&self, _: Request<TaskRequest>) -> Answer<Self::WatchTaskStream> {
        absent()
    }
    async fn explain(&self, _: Request<JobRequest>) -> Answer<Explanation> {
        absent()
    }
    async fn act(&self, _: Request<ActRequest>) -> Answer<ActReply> {
        absent()
    }
}

#[tonic::async_trait]
impl Admin for Fake {
    async fn put_object(&self, request: Request<PutObjectRequest>) -> Answer<Object> {
        let request = request.into_inner();
        Ok(Response::new(Object { kind: request.kind, name: request.name, json: request.json, ..Object::default() }))
    }
    async fn cluster(&self, _: Request<ClusterRequest>) -> Answer<ClusterReply> {
        let (heartbeats, refused) = {
            let state = self.lock();
            (state.heartbeats, state.refused)
        };
        let uptime = self.started.elapsed();
        let cluster = Cluster {
            feature_level: 2,
            cluster: "fake".to_owned(),
            node: 1,
            nodes: vec![NodeView {
                id: 1,
                api: self.address.clone(),
                up: true,
                cpu_us: 1 + uptime.as_micros() as u64,
                uptime_s: uptime.as_secs(),
                rss_bytes: 1 << 20,
                heartbeats,
                refused,
                ..NodeView::default()
            }],
            shards: (0..=3)
                .map(|shard| ShardView { shard, leader: 1, replicas: vec![1], ..ShardView::default() })
                .collect(),
            queues: Vec::new(),
            rejected: Vec::new(),
        };
        let json = serde_json::to_string(&cluster).expect("a view is JSON");
        Ok(Response::new(ClusterReply { json }))
    }
    async fn get_object(&self, _: Request<ObjectKey>) -> Answer<Object> {
        absent()
    }
    async fn list_objects(&self, _: Request<ObjectKey>) -> Answer<ObjectList> {
        absent()
    }
    async fn delete_object(&self, _: Request<PutObjectRequest>) -> Answer<Object> {
        absent()
    }
    async fn history(&self, _: Request<ObjectKey>) -> Answer<ObjectList> {
        absent()
    }
    async fn audit(&self, _: Request<AuditRequest>) -> Answer<AuditList> {
        absent()
    }
}

#[tonic::async_trait]
impl Workers for Fake {
    type SessionStream = Frames<NodeFrame>;
    async fn session(&self, request: Request<Streaming<WorkerFrame>>) -> Answer<Self::SessionStream> {
        let (to, frames) = mpsc::channel(64);
        tokio::spawn(self.clone().serve(request.into_inner(), to));
        Ok(Response::new(Box::pin(ReceiverStream::new(frames))))
    }
}

impl Fake {
    async fn serve(self, mut from: Streaming<WorkerFrame>, to: mpsc::Sender<Result<NodeFrame, Status>>) {
        let (mut session, mut count) = (0, 0);
        let mut open: Option<(LeaseRequest, Instant)> = None;
        loop {
            let pause = tokio::time::sleep(Duration::from_millis(1));
            let mut reply = NodeFrame::default();
            tokio::select! {
                frame = from.message() => {
                    let Ok(Some(frame)) = frame else { return };
                    count += 1;
                    if let Some(hello) = frame.hello {
                        session = hello.session;
                    }
                    if let Some(request) = frame.lease {
                        open = Some((request, Instant::now()));
                    }
                    reply = self.frame(session, &frame.results, frame.heartbeat);
                    if frame.drained {
                        return;
                    }
                }
                () = pause, if open.is_some() => {}
            }
            if let Some((request, since)) = &open {
                reply.lease = self.lock().lease(session, request);
                if reply.lease.is_none() && since.elapsed().as_millis() > request.wait_ms.into() {
                    reply.lease = Some(LeaseReply { request_id: request.request_id, ..LeaseReply::default() });
                }
                if reply.lease.is_some() {
                    open = None;
                }
            }
            let limit = self.lock().faults.break_after;
            if limit > 0 && count > limit {
                // What was done is done, but nobody hears of it.
                return;
            }
            if reply != NodeFrame::default() && to.send(Ok(reply)).await.is_err() {
                return;
            }
        }
    }

    fn frame(&self, session: u64, results: &[JobResult], beat: Option<Heartbeat>) -> NodeFrame {
        let mut state = self.lock();
        let mut ack = ResultAck::default();
        for result in results {
            state.result(session, result, &mut ack);
        }
        let heartbeat = beat.map(|beat| {
            state.heartbeats += beat.jobs.len() as u64;
            let held = |(job, attempt): (&u64, &u32)| {
                let job = &state.jobs[job];
                (job.attempt, job.session) == (*attempt, session)
            };
            let pairs = beat.jobs.iter().zip(&beat.attempts);
            let lost = pairs.filter(|pair| !held(*pair)).map(|(job, _)| *job);
            let (lost, settled) = (lost.collect(), beat.settled_request > 0);
            state.settle(session, &beat);
            HeartbeatReply { seq: beat.seq, lost, settled, ..HeartbeatReply::default() }
        });
        NodeFrame { results: Some(ack).filter(|ack| *ack != ResultAck::default()), heartbeat, ..NodeFrame::default() }
    }
}

/// Starts the node on a free port; it ends with the test's runtime.
pub async fn start(faults: Faults) -> (Target, Arc<Mutex<State>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let state = State { faults, seq: 1, ..State::default() };
    let fake = Fake { state: Arc::new(Mutex::new(state)), address: address.clone(), started: Instant::now() };
    let state = fake.state.clone();
    let server = tonic::transport::Server::builder()
        .add_service(JobsServer::new(fake.clone()))
        .add_service(WorkersServer::new(fake.clone()))
        .add_service(AdminServer::new(fake));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (Target::at(vec![address]), state)
}
