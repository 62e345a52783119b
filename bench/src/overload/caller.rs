//! A submitter's connection: HTTP/2 without a client around it, so that one process can have ten thousand.

use anyhow::{Context, Result};
use bytes::{Buf, Bytes};
use h2::client::{ResponseFuture, SendRequest};
use moso_bench::raw;
use moso_client::proto::META_RETRY_AFTER;
use moso_client::v1::{JobSpec, SubmitRequest, TaskSpec};
use prost::Message;
use rand::RngCore;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// Time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest wait for an answer.
pub const ANSWER: Duration = Duration::from_secs(30);

/// Bytes of a submission's id: six of Unix time in ms, then random ones.
const ID_BYTES: usize = 16;

/// How a submission was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is recorded.
    Carried,
    /// It was refused, and told when to come back.
    Later,
    /// It was refused without that.
    Refused,
    /// The connection broke, or nothing came.
    Lost,
}

/// What is submitted.
#[derive(Clone, Debug)]
pub struct Ask {
    request: SubmitRequest,
}

impl Ask {
    /// Submissions of so many jobs with so many bytes.
    pub fn new(queue: &str, jobs: u32, body: usize) -> Ask {
        let task = TaskSpec {
            queue: queue.to_owned(),
            owner: "overload".to_owned(),
            priority: 1_000,
            body_type: "bench".to_owned(),
            ..TaskSpec::default()
        };
        let job = JobSpec { body: vec![b'x'; body].into(), ..JobSpec::default() };
        Ask { request: SubmitRequest { task: Some(task), jobs: vec![job; jobs as usize], ..SubmitRequest::default() } }
    }

    /// Another one, as a message of a call.
    pub fn next(&mut self) -> Bytes {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let mut id = [0; ID_BYTES];
        rand::rng().fill_bytes(&mut id);
        id[..6].copy_from_slice(&now.to_be_bytes()[2..]);
        self.request.submission_id = id.to_vec().into();
        raw::message(&self.request.encode_to_vec()).into()
    }
}

/// Connects, from an address of this machine.
pub async fn dial(node: SocketAddr, from: IpAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4().context("socket")?;
    socket.bind(SocketAddr::new(from, 0)).context("source address")?;
    let stream = tokio::time::timeout(CONNECT, socket.connect(node)).await.context("connecting")??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// An open connection.
pub struct Caller {
    send: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Caller {
    /// Opens one; `window`: bytes of an answer that it takes.
    pub async fn open(node: SocketAddr, from: IpAddr, window: u32) -> Result<Caller> {
        let stream = dial(node, from).await?;
        let mut client = h2::client::Builder::new();
        client.initial_window_size(window).max_send_buffer_size(64 << 10);
        let shaken = tokio::time::timeout(CONNECT, client.handshake(stream)).await;
        let (send, connection) = shaken.context("no answer to the greeting")??;
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok(Caller { send, connection })
    }

    /// Whether it is of no more use.
    pub fn is_broken(&self) -> bool {
        self.connection.is_finished()
    }

    /// Begins a call, and does not wait for its answer.
    pub fn call(&mut self, path: &str, message: Bytes) -> Result<ResponseFuture> {
        let request = http::Request::builder()
            .method("POST")
            .uri(format!("http://node{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (response, mut body) = self.send.send_request(request, false)?;
        body.send_data(message, true)?;
        Ok(response)
    }

    /// Begins a submission.
    pub fn submit(&mut self, ask: &mut Ask) -> Result<ResponseFuture> {
        self.call("/moso.v1.Jobs/Submit", ask.next())
    }

    /// Waits until the node takes another call.
    pub async fn ready(&mut self) -> bool {
        let ready = std::future::poll_fn(|context| self.send.poll_ready(context));
        matches!(tokio::time::timeout(ANSWER, ready).await, Ok(Ok(())))
    }
}

/// Waits for the answer of a submission.
pub async fn answer(response: ResponseFuture) -> Answer {
    tokio::time::timeout(ANSWER, read(response)).await.ok().and_then(Result::ok).unwrap_or(Answer::Lost)
}

async fn read(response: ResponseFuture) -> Result<Answer> {
    let response = response.await?;
    if response.headers().contains_key("grpc-status") {
        return Ok(verdict(response.headers()));
    }
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let bytes = data?.remaining();
        body.flow_control().release_capacity(bytes)?;
    }
    Ok(body.trailers().await?.map_or(Answer::Lost, |trailers| verdict(&trailers)))
}

fn verdict(fields: &http::HeaderMap) -> Answer {
    match fields.get("grpc-status").map(|status| status.as_bytes()) {
        Some(b"0") => Answer::Carried,
        _ if fields.contains_key(META_RETRY_AFTER) => Answer::Later,
        _ => Answer::Refused,
    }
}
