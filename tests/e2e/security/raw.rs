//! What no honest client says: sessions under any number, old versions of TLS, plain text.

use super::Cluster;
use super::common::{DEADLINE, NOTHING};
use hyper_util::rt::TokioIo;
use moso_client::v1::workers_client::WorkersClient;
use moso_client::v1::{
    Heartbeat, HeartbeatReply, Hello, JobResult, Lease, LeaseReply, LeaseRequest, NodeFrame, ResultAck, WorkerFrame,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Uri};
use tonic::{Request, Status, Streaming};

fn config(ca: &Path, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    CertificateDer::pem_file_iter(ca).unwrap().for_each(|cert| roots.add(cert.unwrap()).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

async fn connect(config: Arc<ClientConfig>, address: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

/// The certificate that a port shows.
pub async fn certificate(ca: &Path, address: &str) -> Vec<u8> {
    let stream = connect(config(ca, b"h2"), address).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// The answer to GET, head and all.
pub async fn https(ca: &Path, address: &str, path: &str, token: Option<&str>) -> String {
    ask(ca, address, &format!("GET {path}"), "", token).await
}

/// The body of the answer to POST of JSON.
pub async fn post(ca: &Path, address: &str, path: &str, json: &str, token: Option<&str>) -> String {
    let answer = ask(ca, address, &format!("POST {path}"), json, token).await;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or(answer)
}

async fn ask(ca: &Path, address: &str, what: &str, json: &str, token: Option<&str>) -> String {
    let mut stream = connect(config(ca, b"http/1.1"), address).await.unwrap();
    let bearer = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let body = match json.len() {
        0 => String::new(),
        bytes => format!("content-type: application/json\r\ncontent-length: {bytes}\r\n"),
    };
    let request = format!("{what} HTTP/1.1\r\nhost: {address}\r\n{bearer}{body}connection: close\r\n\r\n{json}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Not every server says goodbye as TLS has it.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// What a port says to bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// A fatal alert of TLS.
    Alert(u8),
    /// A greeting of TLS.
    Hello,
    /// Nothing: the connection was closed.
    Closed,
    /// Something else.
    Other,
}

/// Sends bytes as they are.
pub async fn answer_to(address: &str, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer));
    // A connection that is closed with something unread is reset.
    let _ = read.await.expect("the port closes the connection");
    match answer.as_slice() {
        [] => Answer::Closed,
        [22, 3, ..] => Answer::Hello,
        [21, _, _, 0, 2, 2, alert, ..] => Answer::Alert(*alert),
        _ => Answer::Other,
    }
}

/// A greeting of TLS of this version at most.
pub fn client_hello(major: u8, minor: u8) -> Vec<u8> {
    let mut body = vec![major, minor];
    body.extend([7; 32]);
    // No session, two cipher suites of that time, no compression.
    body.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x13, 1, 0]);
    // Signatures (ECDSA and RSA with SHA-256), groups (P-256), points: what a client of that time would say.
    body.extend([0, 24]);
    body.extend([0, 13, 0, 6, 0, 4, 4, 3, 4, 1]);
    body.extend([0, 10, 0, 4, 0, 2, 0, 23]);
    body.extend([0, 11, 0, 2, 1, 0]);
    let mut message = vec![1, 0, 0, body.len() as u8];
    message.extend(body);
    let mut record = vec![22, 3, 1, 0, message.len() as u8];
    record.extend(message);
    record
}

/// The first word of a session.
pub fn hello(session: u64, key: u32) -> Hello {
    Hello { session, worker: "raw".into(), key }
}

/// A worker that says what it wants to.
pub struct Worker {
    out: mpsc::Sender<WorkerFrame>,
    frames: Streaming<NodeFrame>,
    requests: u64,
}

impl Worker {
    /// Opens a session at the first node.
    pub async fn open(cluster: &Cluster, token: &str, hello: Hello) -> Self {
        Self::open_at(cluster, 0, token, hello).await
    }

    /// Opens a session at a node, counted from 0.
    pub async fn open_at(cluster: &Cluster, node: usize, token: &str, hello: Hello) -> Self {
        let address = cluster.nodes.addrs()[node].clone();
        let config = config(&cluster.nodes.credentials().unwrap().ca, b"h2");
        let connector = tower::service_fn(move |_: Uri| {
            let (config, address) = (config.clone(), address.clone());
            async move { connect(config, &address).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://node").connect_with_connector(connector).await.unwrap();
        let (out, queue) = mpsc::channel(16);
        out.send(WorkerFrame { hello: Some(hello), ..WorkerFrame::default() }).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(queue));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let frames = WorkersClient::new(channel).session(request).await.unwrap().into_inner();
        Worker { out, frames, requests: 0 }
    }

    /// With which error a session ends that is not taken.
    pub async fn error(cluster: &Cluster, token: &str, hello: Hello) -> Status {
        let mut worker = Self::open(cluster, token, hello).await;
        tokio::time::timeout(DEADLINE, worker.frames.message()).await.unwrap().unwrap_err()
    }

    /// The next frame of this kind.
    pub async fn frame(&mut self, is: impl Fn(&NodeFrame) -> bool) -> NodeFrame {
        let next = async {
            loop {
                let frame = self.frames.message().await.unwrap().expect("the session goes on");
                if is(&frame) {
                    return frame;
                }
            }
        };
        tokio::time::timeout(DEADLINE, next).await.unwrap()
    }

    /// Waits until the node ends the session.
    pub async fn ends(&mut self) {
        let over = async { while let Ok(Some(_)) = self.frames.message().await {} };
        tokio::time::timeout(DEADLINE, over).await.unwrap();
    }

    async fn say(&mut self, frame: WorkerFrame) {
        self.out.send(frame).await.unwrap();
    }

    /// Asks for a job.
    pub async fn lease(&mut self, queues: &[&str]) -> LeaseReply {
        self.lease_of(queues, 0).await
    }

    /// Asks for a job of a task; 0: of any.
    pub async fn lease_of(&mut self, queues: &[&str], task_id: u64) -> LeaseReply {
        self.requests += 1;
        let lease = LeaseRequest {
            request_id: self.requests,
            queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
            max_jobs: 1,
            task_id,
            wait_ms: NOTHING.as_millis() as u32,
            ..LeaseRequest::default()
        };
        self.say(WorkerFrame { lease: Some(lease), ..WorkerFrame::default() }).await;
        self.frame(|frame| frame.lease.is_some()).await.lease.unwrap()
    }

    /// Reports a result.
    pub async fn result(&mut self, result: JobResult) -> ResultAck {
        self.say(WorkerFrame { results: vec![result], ..WorkerFrame::default() }).await;
        self.frame(|frame| frame.results.is_some()).await.results.unwrap()
    }

    /// Says that it holds a lease.
    pub async fn heartbeat(&mut self, lease: &Lease) -> HeartbeatReply {
        let heartbeat =
            Heartbeat { seq: 1, jobs: vec![lease.job_id], attempts: vec![lease.attempt], ..Heartbeat::default() };
        self.say(WorkerFrame { heartbeat: Some(heartbeat), ..WorkerFrame::default() }).await;
        self.frame(|frame| frame.heartbeat.is_some()).await.heartbeat.unwrap()
    }
}
