//! A node played by the test: it answers from a script and hands out its side of worker sessions.

use futures::stream::BoxStream;
use moso_client::ClientOptions;
use moso_client::proto::view::{Cluster, NodeView, ShardView};
use moso_client::proto::{Code, META_CODE, META_LEADER, META_RETRY_AFTER};
use moso_client::v1::admin_server::{Admin, AdminServer};
use moso_client::v1::jobs_server::{Jobs, JobsServer};
use moso_client::v1::workers_server::{Workers, WorkersServer};
use moso_client::v1::*;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;

/// What the node has seen and will answer.
#[derive(Default)]
struct Script {
    cluster: Cluster,
    submissions: Vec<SubmitRequest>,
    /// Answers to submissions; when empty, a task is made.
    refusals: VecDeque<Status>,
    /// Views of each watch; a watch ends after its views.
    watches: VecDeque<Vec<Result<TaskView, Status>>>,
    objects: Vec<PutObjectRequest>,
    /// Streams of submissions that were opened.
    streams: usize,
}

impl Script {
    fn submit(&mut self, request: SubmitRequest) -> Result<SubmitReply, Status> {
        let repeated = self.submissions.iter().any(|s| s.submission_id == request.submission_id);
        let jobs = request.array.max(request.jobs.len() as u32);
        self.submissions.push(request);
        match self.refusals.pop_front() {
            Some(status) => Err(status),
            None => Ok(SubmitReply { task_id: 17, first_job_id: 18, jobs, repeated }),
        }
    }
}

/// What a stream says in place of a status.
fn fault(status: &Status) -> Fault {
    let meta = |key| status.metadata().get(key).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    Fault {
        code: meta(META_CODE),
        message: status.message().to_owned(),
        retry_after_ms: meta(META_RETRY_AFTER).parse().unwrap_or(0),
        leader: meta(META_LEADER),
    }
}

/// One node. It stops taking connections when dropped.
pub struct Node {
    pub address: String,
    script: Arc<Mutex<Script>>,
    sessions: mpsc::Receiver<Peer>,
    server: JoinHandle<()>,
}

/// The node's side of one session stream. Dropping it breaks the stream.
pub struct Peer {
    frames: Streaming<WorkerFrame>,
    out: mpsc::Sender<Result<NodeFrame, Status>>,
}

struct Service {
    script: Arc<Mutex<Script>>,
    sessions: mpsc::Sender<Peer>,
}

impl Node {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let script = Arc::<Mutex<Script>>::default();
        let (sender, sessions) = mpsc::channel(16);
        let service = Arc::new(Service { script: script.clone(), sessions: sender });
        let server = tonic::transport::Server::builder()
            .add_service(AdminServer::from_arc(service.clone()))
            .add_service(JobsServer::from_arc(service.clone()))
            .add_service(WorkersServer::from_arc(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let node = Node { address, script, sessions, server: tokio::spawn(async move { server.await.unwrap() }) };
        describe(&[&node], 0);
        node
    }

    /// The next session stream that a client opens here.
    pub async fn accept(&mut self) -> Peer {
        within(self.sessions.recv()).await.unwrap()
    }

    pub fn refuse(&self, status: Status) {
        self.script.lock().unwrap().refusals.push_back(status);
    }

    pub fn watch(&self, views: Vec<Result<TaskView, Status>>) {
        self.script.lock().unwrap().watches.push_back(views);
    }

    pub fn submissions(&self) -> Vec<SubmitRequest> {
        self.script.lock().unwrap().submissions.clone()
    }

    pub fn submission_streams(&self) -> usize {
        self.script.lock().unwrap().streams
    }

    pub fn objects(&self) -> Vec<PutObjectRequest> {
        self.script.lock().unwrap().objects.clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Tells each node that these are the cluster, with one shard led by the node at this place.
pub fn describe(nodes: &[&Node], leader: usize) {
    let view = |(id, node): (usize, &&Node)| NodeView {
        id: id as u32 + 1,
        api: node.address.clone(),
        up: true,
        ..NodeView::default()
    };
    let cluster = Cluster {
        cluster: "played".into(),
        nodes: nodes.iter().enumerate().map(view).collect(),
        shards: vec![ShardView { shard: 1, leader: leader as u32 + 1, ..ShardView::default() }],
        ..Cluster::default()
    };
    for node in nodes {
        node.script.lock().unwrap().cluster = cluster.clone();
    }
}

/// Options under which a failing test does not take long.
pub fn options() -> ClientOptions {
    ClientOptions { author: "tester".into(), ..ClientOptions::default() }
}

/// Fails a test that hangs.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("the test hangs")
}

/// A status as a node makes it.
pub fn status(code: Code, retry_after_ms: Option<u64>, leader: Option<&str>) -> Status {
    let mut status = Status::unavailable("as the test wants it");
    let meta = status.metadata_mut();
    meta.insert(META_CODE, code.name().parse().unwrap());
    if let Some(ms) = retry_after_ms {
        meta.insert(META_RETRY_AFTER, ms.into());
    }
    if let Some(leader) = leader {
        meta.insert(META_LEADER, leader.parse().unwrap());
    }
    status
}

/// A lease of one of the queue's jobs.
pub fn lease(job_id: u64, ttl_ms: u32, heartbeat_ms: u32) -> Lease {
    Lease {
        job_id,
        attempt: 1,
        ttl_ms,
        heartbeat_ms,
        body: format!("body {job_id}").into(),
        queue: "q".into(),
        ..Lease::default()
    }
}

impl Peer {
    /// The worker's next frame.
    pub async fn recv(&mut self) -> WorkerFrame {
        within(self.frames.message()).await.unwrap().unwrap()
    }

    /// The next frame that satisfies the condition; others are passed over.
    pub async fn recv_when(&mut self, wanted: impl Fn(&WorkerFrame) -> bool) -> WorkerFrame {
        loop {
            let frame = self.recv().await;
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// Waits until the worker closes its side; gives its last frame.
    pub async fn recv_last(&mut self) -> Option<WorkerFrame> {
        let mut last = None;
        while let Ok(Some(frame)) = within(self.frames.message()).await {
            last = Some(frame);
        }
        last
    }

    pub async fn send(&self, frame: NodeFrame) {
        self.out.send(Ok(frame)).await.unwrap();
    }

    /// Takes the greeting and the first request for jobs, and answers with leases.
    pub async fn give(&mut self, leases: Vec<Lease>) -> WorkerFrame {
        let frame = self.recv_when(|frame| frame.lease.is_some()).await;
        self.send(leases_for(&frame, leases)).await;
        frame
    }

    /// Acknowledges everything until the worker has left; gives all results in order.
    pub async fn accept_until_drained(mut self) -> Vec<JobResult> {
        let mut results = Vec::new();
        loop {
            let frame = self.recv().await;
            if frame.drained {
                return results;
            }
            let answer = NodeFrame {
                lease: frame
                    .lease
                    .as_ref()
                    .map(|request| LeaseReply { request_id: request.request_id, ..LeaseReply::default() }),
                results: ack(frame.results.iter().map(|r| r.job_id)),
                ..NodeFrame::default()
            };
            results.extend(frame.results);
            // A request that asks for jobs stays open, as in a real node.
            if frame.lease.is_none_or(|request| request.max_jobs == 0) || answer.results.is_some() {
                self.send(answer).await;
            }
        }
    }
}

pub fn leases_for(frame: &WorkerFrame, leases: Vec<Lease>) -> NodeFrame {
    NodeFrame {
        lease: Some(LeaseReply {
            request_id: frame.lease.as_ref().unwrap().request_id,
            leases,
            ..LeaseReply::default()
        }),
        ..NodeFrame::default()
    }
}

pub fn ack(jobs: impl Iterator<Item = u64>) -> Option<ResultAck> {
    let accepted: Vec<u64> = jobs.collect();
    (!accepted.is_empty()).then(|| ResultAck { accepted, ..ResultAck::default() })
}

#[tonic::async_trait]
impl Workers for Service {
    type SessionStream = ReceiverStream<Result<NodeFrame, Status>>;

    async fn session(&self, call: Request<Streaming<WorkerFrame>>) -> Answer<Self::SessionStream> {
        let (out, frames) = mpsc::channel(16);
        let peer = Peer { frames: call.into_inner(), out };
        self.sessions.send(peer).await.unwrap();
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}

#[tonic::async_trait]
impl Jobs for Service {
    type WatchTaskStream = BoxStream<'static, Result<TaskView, Status>>;

    type SubmitStreamStream = ReceiverStream<Result<SubmitAnswers, Status>>;

    async fn submit(&self, call: Request<SubmitRequest>) -> Answer<SubmitReply> {
        self.script.lock().unwrap().submit(call.into_inner()).map(Response::new)
    }

    async fn submit_stream(&self, call: Request<Streaming<SubmitFrame>>) -> Answer<Self::SubmitStreamStream> {
        let (script, mut frames) = (self.script.clone(), call.into_inner());
        script.lock().unwrap().streams += 1;
        let (out, answers) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frames.message().await {
                let mut answers = Vec::new();
                for one in frame.submissions {
                    let answer = script.lock().unwrap().submit(one.request.unwrap());
                    if matches!(&answer, Err(status) if status.code() == tonic::Code::Aborted) {
                        // The stream breaks before the answer.
                        return;
                    }
                    let (reply, fault) = match answer {
                        Ok(reply) => (Some(reply), None),
                        Err(status) => (None, Some(fault(&status))),
                    };
                    answers.push(SubmitAnswer { number: one.number, reply, fault });
                }
                // In no order that the client could rely on.
                answers.reverse();
                if out.send(Ok(SubmitAnswers { answers })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn watch_task(&self, _: Request<TaskRequest>) -> Answer<Self::WatchTaskStream> {
        let views = self.script.lock().unwrap().watches.pop_front();
        let views = views.ok_or_else(|| status(Code::NotFound, None, None))?;
        Ok(Response::new(Box::pin(futures::stream::iter(views))))
    }

    async fn get_job(&self, call: Request<JobRequest>) -> Answer<JobView> {
        Ok(Response::new(JobView { job_id: call.into_inner().job_id, ..JobView::default() }))
    }

    async fn list_jobs(&self, _: Request<ListRequest>) -> Answer<JobList> {
        Err(Status::unimplemented("not played"))
    }

    async fn get_task(&self, _: Request<TaskRequest>) -> Answer<TaskView> {
        Err(Status::unimplemented("not played"))
    }

    async fn list_tasks(&self, _: Request<ListRequest>) -> Answer<TaskList> {
        Err(Status::unimplemented("not played"))
    }

    async fn explain(&self, _: Request<JobRequest>) -> Answer<Explanation> {
        Err(Status::unimplemented("not played"))
    }

    async fn act(&self, _: Request<ActRequest>) -> Answer<ActReply> {
        Err(Status::unimplemented("not played"))
    }
}

#[tonic::async_trait]
impl Admin for Service {
    async fn put_object(&self, call: Request<PutObjectRequest>) -> Answer<Object> {
        let request = call.into_inner();
        let mut script = self.script.lock().unwrap();
        script.objects.push(request.clone());
        Ok(Response::new(Object {
            kind: request.kind,
            name: request.name,
            json: request.json,
            version: script.objects.len() as u64,
            ..Object::default()
        }))
    }

    async fn get_object(&self, _: Request<ObjectKey>) -> Answer<Object> {
        Err(Status::unimplemented("not played"))
    }

    async fn list_objects(&self, _: Request<ObjectKey>) -> Answer<ObjectList> {
        Err(Status::unimplemented("not played"))
    }

    async fn delete_object(&self, _: Request<PutObjectRequest>) -> Answer<Object> {
        Err(Status::unimplemented("not played"))
    }

    async fn history(&self, _: Request<ObjectKey>) -> Answer<ObjectList> {
        Err(Status::unimplemented("not played"))
    }

    async fn audit(&self, _: Request<AuditRequest>) -> Answer<AuditList> {
        Err(Status::unimplemented("not played"))
    }

    async fn cluster(&self, _: Request<ClusterRequest>) -> Answer<ClusterReply> {
        let cluster = self.script.lock().unwrap().cluster.clone();
        Ok(Response::new(ClusterReply { json: serde_json::to_string(&cluster).unwrap() }))
    }
}
