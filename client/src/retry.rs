//! Which failures are repeated, when and where.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::pool::Node;
use moso_proto::{Code, META_CODE, META_LEADER, META_RETRY_AFTER};
use rand::Rng;
use std::future::Future;
use std::time::{Duration, Instant};
use tonic::{Request, Response, Status};

/// First wait between two tries; about a leader change among healthy nodes divided by a few tries.
const BACKOFF_INITIAL: Duration = Duration::from_millis(20);
/// Longest wait that is not asked for by a node.
const BACKOFF_CEILING: Duration = Duration::from_secs(2);
/// Leader hints followed in a row without a wait: more means that the nodes disagree.
const REDIRECTS_MAX: u32 = 3;

/// Exponential back-off with jitter: each wait is a random time between half of the step and the whole step.
#[derive(Debug)]
pub(crate) struct Backoff {
    step: Duration,
}

impl Backoff {
    pub fn new() -> Self {
        Backoff { step: BACKOFF_INITIAL }
    }

    pub fn reset(&mut self) {
        self.step = BACKOFF_INITIAL;
    }

    pub fn wait(&mut self) -> Duration {
        let wait = self.step.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.step = (self.step * 2).min(BACKOFF_CEILING);
        wait
    }
}

/// What a failed try means for the next one.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No use.
    Final(Error),
    /// At this node.
    Moved { leader: String, error: Error },
    /// After a while, anywhere.
    Later(Error),
    /// At another node.
    Transport(String),
}

impl Failure {
    /// Reads a status and its metadata. A status without our code comes from the transport or from a proxy.
    pub fn of(status: &Status, node: &str) -> Self {
        let meta = |key| status.metadata().get(key).and_then(|v| v.to_str().ok());
        let message = status.message().to_owned();
        let Some(code) = meta(META_CODE).and_then(|name| name.parse::<Code>().ok()) else {
            return Self::of_foreign(status, node, message);
        };
        let retry_after = meta(META_RETRY_AFTER).and_then(|v| v.parse().ok()).map(Duration::from_millis);
        let error = by_code(code, message, retry_after, node);
        match meta(META_LEADER) {
            Some(leader) if code.is_retryable() && leader != node => {
                Failure::Moved { leader: leader.to_owned(), error }
            }
            _ if code.is_retryable() => Failure::Later(error),
            _ => Failure::Final(error),
        }
    }

    fn of_foreign(status: &Status, node: &str, message: String) -> Self {
        use tonic::Code as Grpc;
        let refused = |code| Failure::Final(Error::Refused { code, message: message.clone() });
        match status.code() {
            Grpc::InvalidArgument | Grpc::FailedPrecondition => refused(Code::Invalid),
            Grpc::NotFound => refused(Code::NotFound),
            Grpc::OutOfRange | Grpc::ResourceExhausted => refused(Code::TooLarge),
            Grpc::PermissionDenied | Grpc::Unauthenticated => refused(Code::Forbidden),
            Grpc::Unimplemented | Grpc::DataLoss => Failure::Final(Error::Defect {
                node: node.to_owned(),
                message: format!("not a moso node of this version: {message}"),
            }),
            _ => Failure::Transport(message),
        }
    }
}

/// The error of a code that a node gave.
pub(crate) fn by_code(code: Code, message: String, retry_after: Option<Duration>, node: &str) -> Error {
    match code {
        Code::Internal => Error::Defect { node: node.to_owned(), message },
        code if code.is_retryable() => Error::Unavailable { code, message, retry_after },
        code => Error::Refused { code, message },
    }
}

/// One call with its repeats.
pub(crate) struct Tries<'a> {
    client: &'a Client,
    shard: Option<u16>,
    started: Instant,
    backoff: Backoff,
    preferred: Option<String>,
    redirects: u32,
}

impl<'a> Tries<'a> {
    /// A call to the leader of `shard`, or to any node.
    pub fn new(client: &'a Client, shard: Option<u16>) -> Self {
        Tries { client, shard, started: Instant::now(), backoff: Backoff::new(), preferred: None, redirects: 0 }
    }

    /// The node for the next try.
    pub fn node(&mut self) -> Node {
        let pool = self.client.pool();
        let leader = || Some(pool.leader(self.shard?)?.to_string());
        let preferred = self.preferred.take().or_else(leader);
        pool.pick(preferred.as_deref(), Instant::now())
    }

    /// Asks this node first.
    pub fn prefer(&mut self, address: Option<String>) {
        self.preferred = address;
    }

    /// Waits until the next try, or says why there is none.
    pub async fn after(&mut self, failure: Failure, node: &str) -> Result<()> {
        let pool = self.client.pool();
        let now = Instant::now();
        let (error, wait) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Moved { leader, error } => {
                pool.set_leader(self.shard, &leader);
                self.preferred = Some(leader);
                self.redirects += 1;
                let wait = (self.redirects > REDIRECTS_MAX).then(|| self.backoff.wait());
                (error, wait.unwrap_or_default())
            }
            Failure::Later(error) => {
                pool.forget(now);
                let asked = error.retry_after().unwrap_or_default();
                (error, self.backoff.wait() + asked)
            }
            Failure::Transport(reason) => {
                pool.mark_down(node, now);
                pool.forget(now);
                let wait = (!pool.any_up(now)).then(|| self.backoff.wait());
                let error =
                    Error::Unreachable { addresses: pool.addresses().join(", "), reason: format!("{node}: {reason}") };
                (error, wait.unwrap_or_default())
            }
        };
        if self.started.elapsed() + wait >= self.client.options().retry_budget {
            return Err(error);
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

impl Client {
    /// Makes a call at the leader of `shard` (or anywhere) until it is answered for good, within the retry budget.
    /// `attempt` makes one try at a node.
    pub(crate) async fn call<Q, T, F, Fut>(&self, shard: Option<u16>, request: Q, attempt: F) -> Result<T>
    where
        Q: Clone,
        F: Fn(Node, Request<Q>) -> Fut,
        Fut: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        self.refresh_when_due();
        let mut tries = Tries::new(self, shard);
        loop {
            let node = tries.node();
            let address = node.address.clone();
            let mut call = Request::new(request.clone());
            let deadline = self.options().call_deadline;
            call.set_timeout(deadline);
            let failure = match tokio::time::timeout(deadline, attempt(node, call)).await {
                Ok(Ok(response)) => {
                    self.pool().mark_up(&address);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => Failure::of(&status, &address),
                Err(_) => Failure::Transport(format!("no answer within {deadline:?}")),
            };
            tracing::debug!(node = %address, ?failure, "a call failed");
            tries.after(failure, &address).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: Code) -> Status {
        let mut status = Status::unavailable("why");
        let meta = status.metadata_mut();
        meta.insert(META_CODE, code.name().parse().unwrap());
        status
    }

    #[test]
    fn statuses_are_told_apart() {
        let failure = Failure::of(&status(Code::Invalid), "n:1");
        assert!(matches!(failure, Failure::Final(Error::Refused { .. })));
        let failure = Failure::of(&status(Code::Internal), "n:1");
        assert!(matches!(failure, Failure::Final(Error::Defect { .. })));
        let failure = Failure::of(&Status::unavailable("connection refused"), "n:1");
        assert!(matches!(failure, Failure::Transport(_)));
        let failure = Failure::of(&Status::unimplemented("no"), "n:1");
        assert!(matches!(failure, Failure::Final(Error::Defect { .. })));
    }

    #[test]
    fn retry_after_and_leader_are_read() {
        let mut busy = status(Code::Busy);
        busy.metadata_mut().insert(META_RETRY_AFTER, "250".parse().unwrap());
        let Failure::Later(error) = Failure::of(&busy, "n:1") else {
            panic!("not later");
        };
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
        let mut moved = status(Code::NotLeader);
        moved.metadata_mut().insert(META_LEADER, "n:2".parse().unwrap());
        assert!(matches!(Failure::of(&moved, "n:1"), Failure::Moved { leader, .. } if leader == "n:2"));
        // A node that names itself does not know better than to wait.
        assert!(matches!(Failure::of(&moved, "n:2"), Failure::Later(_)));
    }

    #[test]
    fn back_off_grows_to_its_ceiling() {
        let mut backoff = Backoff::new();
        let first = backoff.wait();
        assert!(first >= BACKOFF_INITIAL / 2 && first <= BACKOFF_INITIAL);
        for _ in 0..20 {
            assert!(backoff.wait() <= BACKOFF_CEILING);
        }
        assert!(backoff.wait() >= BACKOFF_CEILING / 2);
    }
}
