//! `peer`: the life cycle of jobs on another server, for comparison. What a server has to do is the trait `Peer`;
//! the loops and the books are the same for all. The clients are behind the feature `peers`.

#[cfg(any(test, feature = "peers"))]
mod drive;
#[cfg(test)]
mod fake;
#[cfg(feature = "peers")]
mod nats;
#[cfg(feature = "peers")]
mod postgres;
#[cfg(feature = "peers")]
mod rabbitmq;
#[cfg(feature = "peers")]
mod redis;

use crate::args::{Common, Peer as Asked};
#[cfg(any(test, feature = "peers"))]
use crate::report::PeerServer;
use anyhow::Result;
#[cfg(any(test, feature = "peers"))]
use bytes::Bytes;
#[cfg(feature = "peers")]
use std::time::Duration;

/// A worker that is silent for so long loses its jobs: as in moso, if a queue does not say otherwise.
#[cfg(feature = "peers")]
const LEASE: Duration = Duration::from_secs(60);

/// A server that hands out jobs. It is opened with what the jobs need: tables, streams or queues.
#[cfg(any(test, feature = "peers"))]
pub trait Peer: Send + Sync {
    /// Submits on a connection of its own.
    type Submitter: Submitter;
    /// Leases and finishes on a connection of its own.
    type Worker: Worker;

    /// What it is.
    fn about(&self) -> PeerServer;

    /// Connects a submitter.
    fn submitter(&self) -> impl Future<Output = Result<Self::Submitter>> + Send;

    /// Connects a worker of a queue, which is given by number from 0.
    fn worker(&self, index: u32, queue: u32) -> impl Future<Output = Result<Self::Worker>> + Send;

    /// Jobs that the server still has.
    fn left(&self) -> impl Future<Output = Result<u64>> + Send;

    /// Removes everything that was made for the jobs.
    fn remove(&self) -> impl Future<Output = Result<()>> + Send;
}

/// Submits jobs.
#[cfg(any(test, feature = "peers"))]
pub trait Submitter: Send + 'static {
    /// Submits a batch in one go, and waits until the server has acknowledged all of it.
    fn submit(&mut self, queue: u32, bodies: &[Bytes]) -> impl Future<Output = Result<()>> + Send;
}

/// Works on jobs.
#[cfg(any(test, feature = "peers"))]
pub trait Worker: Send + 'static {
    /// What a finish needs to name a job and its attempt.
    type Receipt: Send;

    /// Leases up to `max` jobs in one go. None after a while, if there are none.
    fn lease(&mut self, max: u32) -> impl Future<Output = Result<Vec<Leased<Self::Receipt>>>> + Send;

    /// Finishes all jobs of the last lease in one go. Tells for each whether the server took it; `false`: the attempt
    /// is no longer current.
    fn finish(&mut self, jobs: Vec<Self::Receipt>) -> impl Future<Output = Result<Vec<bool>>> + Send;

    /// Leaves in good order.
    fn close(self) -> impl Future<Output = Result<()>> + Send;
}

/// A leased job.
#[cfg(any(test, feature = "peers"))]
#[derive(Debug)]
pub struct Leased<R> {
    /// As it was submitted.
    pub body: Bytes,
    /// Names it.
    pub receipt: R,
}

/// Without the clients: says how to get them.
///
/// # Errors
/// Always.
#[cfg(not(feature = "peers"))]
pub async fn command(_: &Common, asked: &Asked) -> Result<bool> {
    anyhow::bail!(
        "the clients of other servers ({:?} is asked for) are not part of this build; make one that has them:\n  \
         cargo build --release -p moso-bench --features peers",
        asked.kind
    )
}

/// Runs the command. Whether every asked job ended exactly once.
///
/// # Errors
/// When the server is not reached, refuses, or stops answering.
#[cfg(feature = "peers")]
pub async fn command(common: &Common, asked: &Asked) -> Result<bool> {
    use crate::args::Kind;
    match asked.kind {
        Kind::Postgres => drive::command(common, asked, postgres::Postgres::open(asked).await?).await,
        Kind::Nats => drive::command(common, asked, nats::Nats::open(asked).await?).await,
        Kind::Rabbitmq => drive::command(common, asked, rabbitmq::Rabbitmq::open(asked).await?).await,
        Kind::Redis => drive::command(common, asked, redis::Redis::open(asked).await?).await,
    }
}
