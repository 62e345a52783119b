//! Thousands of connections: submitters that wait for their answers and some that do not, none of which waits when it is told
//! to, clients that do not read, and clients that send half a call.

use super::caller::{Ask, Caller, answer, dial};
use super::tally::{Counted, Tally};
use anyhow::Result;
use bytes::Bytes;
use moso_bench::raw;
use rand::Rng;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Submissions under way of a connection that does not wait for answers; more are not sent.
const OPEN_MAX: usize = 16;
/// Connections of one source address: a system has about 28,000 ports for it.
const PER_ADDRESS: usize = 8_000;
/// Connections being made at a time, as the queue of a listening socket has its end.
const CONNECTING: usize = 256;
/// Pause before a connection that failed or was ended is made again.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes of answers that a usual client takes.
const WINDOW: u32 = 64 << 10;

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Sends at its times, whatever was answered.
    Open,
    /// Sends at its times, once the last was answered.
    Closed,
    /// Sends as soon as the last was answered.
    Eager,
    /// Asks, and takes no byte of an answer.
    Unread,
    /// Begins a call and does not end it.
    Half,
}

/// What a crowd does.
#[derive(Clone)]
pub struct Plan {
    /// The nodes.
    pub nodes: Vec<SocketAddr>,
    /// What is submitted.
    pub ask: Ask,
    /// Connections, by manner.
    pub members: Vec<(Manner, usize)>,
    /// Submissions a second of all that send at their times.
    pub rate: f64,
}

struct Shared {
    plan: Plan,
    tally: Arc<Tally>,
    connecting: Semaphore,
    /// Between two submissions of a connection.
    interval: Duration,
    stop: AtomicBool,
}

/// The connections. Dropping it ends them.
pub struct Crowd {
    shared: Arc<Shared>,
    members: JoinSet<()>,
}

impl Crowd {
    /// Lets them loose.
    pub fn start(plan: Plan, tally: Arc<Tally>) -> Crowd {
        let timed = |manner: &Manner| matches!(manner, Manner::Open | Manner::Closed);
        let senders: usize = plan.members.iter().filter(|(manner, _)| timed(manner)).map(|(_, count)| count).sum();
        let interval = Duration::from_secs_f64(senders.max(1) as f64 / plan.rate.max(1e-3));
        let connecting = Semaphore::new(CONNECTING);
        let members: Vec<Manner> =
            plan.members.iter().flat_map(|&(manner, count)| std::iter::repeat_n(manner, count)).collect();
        let shared = Arc::new(Shared { plan, tally, connecting, interval, stop: AtomicBool::new(false) });
        let mut crowd = Crowd { shared: shared.clone(), members: JoinSet::new() };
        for (index, manner) in members.into_iter().enumerate() {
            crowd.members.spawn(member(shared.clone(), index, manner));
        }
        crowd
    }

    /// Ends them, and waits for it.
    pub async fn stop(mut self) {
        self.shared.stop.store(true, Relaxed);
        self.members.shutdown().await;
    }
}

async fn member(shared: Arc<Shared>, index: usize, manner: Manner) {
    let node = shared.plan.nodes[index % shared.plan.nodes.len()];
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1 + (index / PER_ADDRESS) as u8));
    let mut ask = shared.plan.ask.clone();
    while !shared.stop.load(Relaxed) {
        let connected = match manner {
            Manner::Open => open(&shared, node, from, &mut ask).await,
            Manner::Closed => closed(&shared, node, from, &mut ask, true).await,
            Manner::Eager => closed(&shared, node, from, &mut ask, false).await,
            Manner::Unread => unread(&shared, node, from).await,
            Manner::Half => half(&shared, node, from, &mut ask).await,
        };
        let counter = if connected.is_ok() { &shared.tally.ended } else { &shared.tally.unconnected };
        counter.fetch_add(1, Relaxed);
        let pause = AGAIN.mul_f64(rand::rng().random_range(0.5..1.5));
        tokio::time::sleep(pause).await;
    }
}

impl Shared {
    async fn connect(&self, node: SocketAddr, from: IpAddr, window: u32) -> Result<Caller> {
        let _turn = self.connecting.acquire().await?;
        Caller::open(node, from, window).await
    }

    /// When a connection sends first: not all at once.
    fn first(&self) -> tokio::time::Instant {
        tokio::time::Instant::now() + self.interval.mul_f64(rand::rng().random_range(0.0..1.0))
    }
}

async fn open(shared: &Arc<Shared>, node: SocketAddr, from: IpAddr, ask: &mut Ask) -> Result<()> {
    let mut caller = shared.connect(node, from, WINDOW).await?;
    let _open = Counted::new(&shared.tally.open);
    let under_way = Arc::new(AtomicU64::new(0));
    let mut answers = JoinSet::new();
    let mut due = shared.first();
    while !caller.is_broken() {
        tokio::time::sleep_until(due).await;
        // A generator that is behind does not make up for it.
        due = (due + shared.interval).max(tokio::time::Instant::now());
        while answers.try_join_next().is_some() {}
        if under_way.load(Relaxed) >= OPEN_MAX as u64 {
            continue;
        }
        shared.tally.offered.fetch_add(1, Relaxed);
        let Ok(response) = caller.submit(ask) else {
            shared.tally.lost.fetch_add(1, Relaxed);
            break;
        };
        let (tally, under_way, sent) = (shared.tally.clone(), under_way.clone(), Instant::now());
        under_way.fetch_add(1, Relaxed);
        answers.spawn(async move {
            tally.answered(answer(response).await, sent.elapsed());
            under_way.fetch_sub(1, Relaxed);
        });
    }
    Ok(())
}

async fn closed(shared: &Shared, node: SocketAddr, from: IpAddr, ask: &mut Ask, timed: bool) -> Result<()> {
    let mut caller = shared.connect(node, from, WINDOW).await?;
    let _open = Counted::new(&shared.tally.open);
    let mut due = shared.first();
    while !caller.is_broken() && caller.ready().await {
        if timed {
            tokio::time::sleep_until(due).await;
            due = (due + shared.interval).max(tokio::time::Instant::now());
        }
        let sent = Instant::now();
        shared.tally.offered.fetch_add(1, Relaxed);
        match caller.submit(ask) {
            Ok(response) => shared.tally.answered(answer(response).await, sent.elapsed()),
            Err(_) => drop(shared.tally.lost.fetch_add(1, Relaxed)),
        }
    }
    Ok(())
}

/// Asks for lists and takes no byte of them, until the node has had enough.
async fn unread(shared: &Shared, node: SocketAddr, from: IpAddr) -> Result<()> {
    const LISTS: usize = 8;
    let mut caller = shared.connect(node, from, 0).await?;
    let _open = Counted::new(&shared.tally.open);
    let mut responses = Vec::new();
    for _ in 0..LISTS {
        if caller.ready().await
            && let Ok(response) = caller.call("/moso.v1.Jobs/ListJobs", Bytes::from(raw::message(&[])))
        {
            responses.push(response);
        }
    }
    while !caller.is_broken() {
        tokio::time::sleep(AGAIN).await;
    }
    drop(responses);
    Ok(())
}

/// Sends the half of a submission, until the node has had enough.
async fn half(shared: &Shared, node: SocketAddr, from: IpAddr, ask: &mut Ask) -> Result<()> {
    let turn = shared.connecting.acquire().await?;
    let mut stream = dial(node, from).await?;
    drop(turn);
    let _open = Counted::new(&shared.tally.open);
    let mut bytes = raw::hello(&[]);
    let message = ask.next();
    let head = raw::call_head("/moso.v1.Jobs/Submit", "application/grpc");
    raw::frame(&mut bytes, raw::kind::HEADERS, raw::END_HEADERS, 1, &head);
    raw::head_of_frame(&mut bytes, message.len() as u32, raw::kind::DATA, raw::END_STREAM, 1);
    bytes.extend_from_slice(&message[..message.len() / 2]);
    stream.write_all(&bytes).await?;
    let mut answers = [0; 4_096];
    while stream.read(&mut answers).await? > 0 {}
    Ok(())
}
