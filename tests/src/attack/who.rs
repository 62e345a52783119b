//! Callers of a cluster with certificates who are not who they say: certificates and tokens of others, forged ones, and
//! sessions that are somebody else's.

use super::client::{Counts, Seen};
use super::forged::NO_NODE;
use super::probe::{Answer, Outcome, again, ask};
use super::secure;
use super::victim::Prey;
use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use moso::ca::Pair;
use moso_bench::raw::{self, END_HEADERS, kind};
use moso_client::v1::{Heartbeat, Hello, JobResult, NodeFrame, Outcome as End, WorkerFrame};
use moso_client::{Client, ClientOptions, Code, Error, Secret, SessionOptions, TlsOptions, Token};
use moso_node::peer::frame::{Frame, Greeting, PROTOCOL};
use moso_node::store::StoreId;
use moso_proto::level::LEVEL;
use prost::Message as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const WIDTH: usize = 4;
const SESSION: &str = "/moso.v1.Workers/Session";
/// A call is answered within this, also beside an attack.
const CALL: Duration = Duration::from_secs(20);

/// Options of a client that makes one try, showing this.
fn options(prey: &Prey, pair: Option<&Pair>, token: Option<&str>) -> ClientOptions {
    let identity = pair.map(|pair| (pair.cert.clone(), pair.key.clone()));
    ClientOptions {
        tls: Some(TlsOptions { ca: prey.ca().to_owned(), identity, server_name: None }),
        token: token.map(|token| Token::Text(Secret::new(token.to_owned()))),
        call_deadline: CALL,
        retry_budget: Duration::ZERO,
        discover: false,
        ..ClientOptions::default()
    }
}

/// Calls the node as this one, and must not be let in.
async fn stranger(prey: &Prey, what: &str, pair: Option<&Pair>, token: Option<&str>) -> Result<Outcome> {
    let client = Client::connect_with([prey.api.clone()], options(prey, pair, token)).await;
    let called = match client {
        Ok(client) => client.cluster().await.map(drop),
        Err(error) => Err(error),
    };
    match called {
        Err(Error::Unreachable { .. } | Error::Disconnected { .. }) => Ok(Outcome::Cut),
        Err(error) if error.code() == Some(Code::Unauthenticated) => Ok(Outcome::Refused),
        Err(error) if error.is_retryable() => Ok(Outcome::Unconnected),
        Err(error) => bail!("{what}: refused as it should not be: {error}"),
        Ok(()) => bail!("{what}: the node serves it"),
    }
}

async fn by_pair(prey: Arc<Prey>, what: &'static str, pair: Option<Pair>, until: Instant) -> Result<Seen> {
    let attempt = move || {
        let (prey, pair) = (prey.clone(), pair.clone());
        async move { stranger(&prey, what, pair.as_ref(), None).await }
    };
    again(WIDTH, until, attempt).await
}

pub(super) async fn nobody(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    by_pair(prey, "nobody", None, until).await
}

pub(super) async fn user_of_another_authority(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let pair = prey.forged().pairs.foreign_user.clone();
    by_pair(prey, "a user of another authority", Some(pair), until).await
}

pub(super) async fn user_of_another_cluster(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let pair = prey.forged().pairs.user_of_another_cluster.clone();
    by_pair(prey, "a user of another cluster", Some(pair), until).await
}

pub(super) async fn node_as_user(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let pair = prey.forged().pairs.other_node.clone();
    by_pair(prey, "a node as a user", Some(pair), until).await
}

/// Each of the tokens that must not be taken.
pub(super) async fn bad_tokens(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let next = Arc::new(AtomicUsize::new(0));
    let tokens = prey.forged().tokens.bad.len();
    let attempt = move || {
        let (prey, turn) = (prey.clone(), next.fetch_add(1, Relaxed) % tokens);
        async move {
            let (what, token) = &prey.forged().tokens.bad[turn];
            stranger(&prey, what, None, Some(token)).await
        }
    };
    // Each at least once.
    again(tokens, until, attempt).await
}

/// The same tokens where PanDA's programs call, and at the pages.
pub(super) async fn bad_tokens_over_http(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let next = Arc::new(AtomicUsize::new(0));
    let tokens = prey.forged().tokens.bad.len();
    let attempt = move || {
        let (prey, turn) = (prey.clone(), next.fetch_add(1, Relaxed) % (2 * tokens));
        async move {
            let (what, token) = &prey.forged().tokens.bad[turn / 2];
            // As PanDA's server does; and as others do.
            let (port, path, code) = match turn % 2 {
                0 => (&prey.panda, "/api/v1/pilot/get_job_status?job_ids=1", 403),
                _ => (&prey.http, "/metrics", 401),
            };
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n");
            let Some(line) = secure::line(&prey, port, None, b"http/1.1").await? else {
                return Ok(Outcome::Unconnected);
            };
            let answer = ask(line, request.as_bytes(), |_| false).await;
            let text = String::from_utf8_lossy(&answer.bytes);
            ensure!(text.starts_with(&format!("HTTP/1.1 {code}")), "{what} at {path}: {text:.200}");
            Ok(Outcome::Refused)
        }
    };
    again(2 * tokens, until, attempt).await
}

/// Greets at the port of the nodes, showing this, as node `node`.
async fn as_node(prey: Arc<Prey>, pair: Option<Pair>, cluster: String, node: u32, until: Instant) -> Result<Seen> {
    let mut hello = BytesMut::new();
    // The true store's id would be the last thing that a thief of a certificate lacks.
    let store = StoreId(1);
    Frame::Hello(Greeting { protocol: PROTOCOL, cluster, node, store, to: prey.node, level: LEVEL }).encode(&mut hello);
    let hello = hello.freeze();
    let attempt = move || {
        let (prey, pair, hello) = (prey.clone(), pair.clone(), hello.clone());
        async move {
            let Some(line) = secure::line(&prey, &prey.peer, pair.as_ref(), b"").await? else {
                return Ok(Outcome::Cut);
            };
            let answer = ask(line, &hello, |_| false).await;
            ensure!(answer.closed, "the node keeps a connection that it should refuse");
            refused(&answer)
        }
    };
    again(WIDTH, until, attempt).await
}

/// Only the word that refuses may have come back.
fn refused(answer: &Answer) -> Result<Outcome> {
    let mut word = BytesMut::new();
    Frame::Refused(String::new()).encode(&mut word);
    // Behind length and checksum stands what kind of frame it is.
    match (answer.bytes.get(8), word[8]) {
        (None, _) => Ok(Outcome::Cut),
        (Some(kind), refusal) if *kind == refusal => Ok(Outcome::Refused),
        _ => bail!("a stranger was let in as a node"),
    }
}

pub(super) async fn no_certificate_as_node(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let (cluster, node) = (prey.cluster.clone(), prey.other);
    as_node(prey, None, cluster, node, until).await
}

pub(super) async fn user_as_node(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let (pair, cluster, node) = (prey.forged().pairs.user.clone(), prey.cluster.clone(), prey.other);
    as_node(prey, Some(pair), cluster, node, until).await
}

pub(super) async fn node_of_another_authority(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let (pair, cluster, node) = (prey.forged().pairs.foreign_node.clone(), prey.cluster.clone(), prey.other);
    as_node(prey, Some(pair), cluster, node, until).await
}

/// The same authority made it, for a cluster of another name; it says that it is of this one.
pub(super) async fn node_of_another_cluster(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let (pair, cluster, node) = (prey.forged().pairs.node_of_another_cluster.clone(), prey.cluster.clone(), prey.other);
    as_node(prey, Some(pair), cluster, node, until).await
}

/// A true certificate of a node that no table has.
pub(super) async fn node_without_place(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let (pair, cluster) = (prey.forged().pairs.no_node.clone(), prey.cluster.clone());
    as_node(prey, Some(pair), cluster, NO_NODE, until).await
}

/// A true certificate of one node, who says he is another one.
pub(super) async fn node_under_another_number(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let (pair, cluster, node) = (prey.forged().pairs.no_node.clone(), prey.cluster.clone(), prey.other);
    as_node(prey, Some(pair), cluster, node, until).await
}

/// A stolen certificate of a node, without the disk that the node has.
pub(super) async fn node_without_its_store(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let (pair, cluster, node) = (prey.forged().pairs.other_node.clone(), prey.cluster.clone(), prey.other);
    as_node(prey, Some(pair), cluster, node, until).await
}

/// A worker of the same queue under a name of his own: heartbeats and results for the bystander's jobs.
pub(super) async fn lease_of_another(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let counts = Counts::default();
    let as_thief = options(&prey, None, Some(&prey.forged().tokens.thief));
    let client = Client::connect_with([prey.api.clone()], ClientOptions { retry_budget: CALL * 3, ..as_thief }).await?;
    loop {
        let mut session =
            client.session(SessionOptions { worker: "thief".into(), node: None }).await.context("session")?;
        counts.connected();
        for _ in 0..20 {
            let taken = super::calls::forge(&prey, &mut session).await?;
            ensure!(taken == 0, "{taken} forged results were accepted");
            counts.sent.fetch_add(1, Relaxed);
            counts.answered.fetch_add(1, Relaxed);
        }
        let _ = session.close().await;
        counts.close();
        if Instant::now() >= until {
            return Ok(counts.seen());
        }
    }
}

/// Opens the bystander's session under its own number, as views show it: with the thief's token, and with none.
pub(super) async fn session_of_another(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let &(job, attempt) = prey.jobs().first().context("the bystander has jobs")?;
    let session = prey.client.job(job).await.context("a job of the bystander")?.session;
    ensure!(session != 0, "job {job} is not leased");
    let frame = WorkerFrame {
        hello: Some(Hello { session, worker: "bystander".into(), key: 0 }),
        heartbeat: Some(Heartbeat { seq: 1, jobs: vec![job], attempts: vec![attempt], ..Heartbeat::default() }),
        results: vec![JobResult { job_id: job, attempt, outcome: End::Finished.into(), ..JobResult::default() }],
        ..WorkerFrame::default()
    };
    let turn = Arc::new(AtomicUsize::new(0));
    let attempt = move || {
        let (prey, frame, turn) = (prey.clone(), frame.clone(), turn.fetch_add(1, Relaxed));
        async move {
            let token = turn.is_multiple_of(2).then(|| prey.forged().tokens.thief.clone());
            speak(&prey, token.as_deref(), frame).await
        }
    };
    again(WIDTH, until, attempt).await
}

/// Says this frame in a session, by hand: no client lets a worker choose its session's number.
async fn speak(prey: &Prey, token: Option<&str>, frame: WorkerFrame) -> Result<Outcome> {
    let mut head = raw::call_head(SESSION, "application/grpc");
    if let Some(token) = token {
        raw::field(&mut head, "authorization", &format!("Bearer {token}"));
    }
    let mut first = raw::hello(&[]);
    raw::frame(&mut first, kind::HEADERS, END_HEADERS, 1, &head);
    raw::frame(&mut first, kind::DATA, 0, 1, &raw::message(&frame.encode_to_vec()));
    let Some(line) = secure::line(prey, &prey.api, None, b"h2").await? else { return Ok(Outcome::Unconnected) };
    // The answer's head alone ends a call that was refused.
    let over = |bytes: &[u8]| frames(bytes).iter().any(|frame| frame.results.is_some()) || ended(bytes);
    let answer = ask(line, &first, over).await;
    for frame in frames(&answer.bytes) {
        let Some(ack) = frame.results else { continue };
        ensure!(ack.accepted.is_empty(), "a result was taken from a session that is another's");
        ensure!(token.is_some(), "who says no name was served");
        return Ok(Outcome::Refused);
    }
    ensure!(ended(&answer.bytes) || answer.closed, "the node neither answers nor ends the session");
    Ok(Outcome::Cut)
}

/// The frames of HTTP/2: kind, flags and payload.
fn parts(mut bytes: &[u8]) -> Vec<(u8, u8, &[u8])> {
    let mut parts = Vec::new();
    while let Some((&[a, b, c, kind, flags, ..], rest)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let Some(payload) = rest.get(..length) else { break };
        parts.push((kind, flags, payload));
        bytes = &rest[length..];
    }
    parts
}

/// Whether the node has ended the call.
fn ended(bytes: &[u8]) -> bool {
    let ends = |kind: u8, flags: u8| match kind {
        kind::RST_STREAM | kind::GOAWAY => true,
        kind::HEADERS => flags & raw::END_STREAM != 0,
        _ => false,
    };
    parts(bytes).iter().any(|(kind, flags, _)| ends(*kind, *flags))
}

/// What the node said in the session so far.
fn frames(bytes: &[u8]) -> Vec<NodeFrame> {
    let data: Vec<u8> =
        parts(bytes).iter().filter(|part| part.0 == kind::DATA).flat_map(|part| part.2.to_vec()).collect();
    let (mut rest, mut out) = (&data[..], Vec::new());
    while let Some((&[_, a, b, c, d], more)) = rest.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some(message) = more.get(..length) else { break };
        out.extend(NodeFrame::decode(message));
        rest = &more[length..];
    }
    out
}
