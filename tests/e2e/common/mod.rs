//! A cluster of real processes, and what the tests do with it.

// Each test program uses a part.
#![allow(dead_code, unused_imports)]

mod cluster;
pub mod load;
mod program;

pub use cluster::Cluster;
pub use program::{Program, Run, program, run};

use moso_client::v1::{
    ErrorPair, Heartbeat, JobResult, JobSpec, JobView, Lease, Outcome, RetryPolicy, TaskSpec, TaskView,
};
use moso_client::{Code, Error, Session, Turn};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest wait for anything that must happen: a loaded machine of two cores makes it in a tenth of this.
pub const DEADLINE: Duration = Duration::from_secs(90);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);
/// A worker that gets nothing for so long while it waits gets nothing: a job that is ready wakes it at once.
pub const NOTHING: Duration = Duration::from_millis(1_500);

/// Waits until `look` gives something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// The answer of a page, head and all.
pub async fn http(address: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Unix time, ms.
pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("the clock is after 1970").as_millis() as u64
}

/// A task of a queue with bodies that nobody reads.
pub fn task(queue: &str) -> TaskSpec {
    TaskSpec {
        queue: queue.into(),
        owner: "ann".into(),
        priority: 1_000,
        body_type: "test".into(),
        ..TaskSpec::default()
    }
}

/// So many attempts, with this wait before the second.
pub fn retry(max_attempts: u32, backoff_initial_ms: u32) -> Option<RetryPolicy> {
    Some(RetryPolicy { max_attempts, backoff_initial_ms, ..RetryPolicy::default() })
}

/// A job that depends on others of its submission.
pub fn after(parents: &[u32]) -> JobSpec {
    JobSpec { depends_on: parents.to_vec(), ..JobSpec::default() }
}

/// The result of a leased job.
pub fn result(lease: &Lease, outcome: Outcome) -> JobResult {
    JobResult { job_id: lease.job_id, attempt: lease.attempt, outcome: outcome.into(), ..JobResult::default() }
}

/// A failure with an error.
pub fn failure(lease: &Lease, code: i32, text: &str) -> JobResult {
    let error = ErrorPair { source: "exe".into(), code, text: text.into() };
    JobResult { exit_code: code, errors: vec![error], ..result(lease, Outcome::Failed) }
}

/// A heartbeat that says of all leases that they run.
pub fn running(leases: &[Lease]) -> Turn {
    let heartbeat = Heartbeat {
        jobs: leases.iter().map(|l| l.job_id).collect(),
        attempts: leases.iter().map(|l| l.attempt).collect(),
        phases: vec![2; leases.len()],
        ..Heartbeat::default()
    };
    Turn { heartbeat: Some(heartbeat), ..Turn::default() }
}

/// Leases exactly so many jobs.
pub async fn take(session: &mut Session, queue: &str, jobs: usize) -> Vec<Lease> {
    let mut leases = Vec::new();
    let started = Instant::now();
    while leases.len() < jobs {
        let left = (jobs - leases.len()) as u32;
        match session.lease(&[queue], left, Duration::from_secs(5)).await {
            Ok(more) => leases.extend(more),
            // The node does not know the new queue yet.
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        assert!(started.elapsed() < DEADLINE, "only {} of {jobs} jobs came", leases.len());
    }
    leases
}

/// Leases one job.
pub async fn take_one(session: &mut Session, queue: &str) -> Lease {
    take(session, queue, 1).await.remove(0)
}

/// Fails if a job of the queue can be leased.
#[track_caller]
pub fn takes_nothing(session: &mut Session, queue: &str) -> impl Future<Output = ()> {
    let at = std::panic::Location::caller();
    async move {
        let leases = session.lease(&[queue], 1, NOTHING).await;
        assert!(leases.as_ref().is_ok_and(Vec::is_empty), "{at}: {leases:?}");
    }
}

/// Reports, and fails if anything is refused.
pub async fn report(session: &mut Session, results: Vec<JobResult>) {
    let jobs = results.len();
    let ack = session.report(results).await.unwrap();
    assert!(ack.refused.is_empty(), "{:?}", ack.refused);
    assert_eq!(ack.accepted.len(), jobs);
}

/// Reports one result that must be refused, and gives the code.
pub async fn refused(session: &mut Session, result: JobResult) -> Code {
    let ack = session.report(vec![result]).await.unwrap();
    assert!(ack.accepted.is_empty(), "accepted");
    ack.refused[0].code.parse().expect("a refusal has a code")
}

/// The code and the message of a call that the cluster must refuse.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(result: moso_client::Result<T>) -> (Code, String) {
    match result {
        Err(Error::Refused { code, message }) => (code, message),
        other => panic!("not refused: {other:?}"),
    }
}

/// States of the job's log, in order.
pub fn logged(job: &JobView) -> Vec<&str> {
    job.log.iter().map(|row| row.state.as_str()).collect()
}

/// How many jobs of the task are in each state.
pub fn counts(task: &TaskView) -> BTreeMap<&str, u32> {
    task.counts.iter().filter(|c| c.jobs > 0).map(|c| (c.state.as_str(), c.jobs)).collect()
}
