//! Calls that no client makes.

use super::client::{Counts, Script, Seen, at_api};
use super::victim::Prey;
use anyhow::{Context, Result};
use moso_bench::raw::{self, END_HEADERS, INITIAL_WINDOW_SIZE, kind};
use moso_client::v1::{Heartbeat, Hello, JobResult, Outcome, WorkerFrame};
use moso_client::{Session, SessionOptions, Turn};
use prost::Message;
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

const WIDTH: usize = 8;
const MANY: usize = 200;
const SUBMIT: &str = "/moso.v1.Jobs/Submit";
const SESSION: &str = "/moso.v1.Workers/Session";
const MIB: usize = 1 << 20;

/// A connection's whole life: calls with these messages.
fn calls(path: &str, messages: &[Vec<u8>]) -> Script {
    let mut first = raw::hello(&[]);
    for (message, number) in messages.iter().zip(0..) {
        raw::call(&mut first, 1 + 2 * number, path, message, true);
    }
    Script { first, ..Script::default() }
}

/// The bytes of a call's body as they are.
fn body(path: &str, content_type: &str, bytes: &[u8]) -> Script {
    let mut first = raw::hello(&[]);
    raw::frame(&mut first, kind::HEADERS, END_HEADERS, 1, &raw::call_head(path, content_type));
    for part in bytes.chunks(16_384) {
        raw::frame(&mut first, kind::DATA, 0, 1, part);
    }
    Script { first, ..Script::default() }
}

pub(super) async fn length_of_4_gib(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let bytes = [&[0, 0xff, 0xff, 0xff, 0xff][..], &[7; 50_000]].concat();
    at_api(&prey, WIDTH, body(SUBMIT, "application/grpc", &bytes), until).await
}

/// The flag says compressed: what is small here would be large there.
pub(super) async fn compressed_bomb(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let bytes = [&[1, 0, 0, 0x10, 0][..], &[0; 4_096]].concat();
    at_api(&prey, WIDTH, body(SUBMIT, "application/grpc", &bytes), until).await
}

pub(super) async fn wrong_content_type(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    at_api(&prey, WIDTH, body(SUBMIT, "text/html", &raw::message(&[])), until).await
}

pub(super) async fn unknown_method(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    at_api(&prey, WIDTH, calls("/moso.v1.Jobs/Erase", &vec![vec![]; 100]), until).await
}

pub(super) async fn deep_nesting(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    // Groups of an unknown field, one in the other, a hundred thousand deep.
    let message = [[0xf3, 0x07].repeat(100_000), [0xf4, 0x07].repeat(100_000)].concat();
    at_api(&prey, WIDTH, calls(SUBMIT, &[message]), until).await
}

/// Two bytes an empty job, and as many as a message takes.
pub(super) async fn huge_lists(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    at_api(&prey, 4, calls(SUBMIT, &[[26, 0].repeat(3 * MIB)]), until).await
}

pub(super) async fn invalid_utf8(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    // task.queue
    at_api(&prey, WIDTH, calls(SUBMIT, &vec![vec![18, 4, 18, 2, 0xff, 0xfe]; 100]), until).await
}

/// Valid messages of random fields, to every method.
pub(super) async fn random_fields(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    const METHODS: [&str; 17] = [
        "Jobs/Submit",
        "Jobs/SubmitStream",
        "Jobs/GetJob",
        "Jobs/ListJobs",
        "Jobs/GetTask",
        "Jobs/ListTasks",
        "Jobs/WatchTask",
        "Jobs/Explain",
        "Jobs/Act",
        "Workers/Session",
        "Admin/PutObject",
        "Admin/GetObject",
        "Admin/ListObjects",
        "Admin/DeleteObject",
        "Admin/History",
        "Admin/Cluster",
        "Backups/Backup",
    ];
    let mut rng = SmallRng::seed_from_u64(rand::random());
    let mut first = raw::hello(&[]);
    for number in 0..200 {
        let path = format!("/moso.v1.{}", METHODS[rng.next_u32() as usize % METHODS.len()]);
        raw::call(&mut first, 1 + 2 * number, &path, &crate::fuzz::random_message(&mut rng, 4), true);
    }
    at_api(&prey, 4, Script { first, ..Script::default() }, until).await
}

pub(super) async fn half_call(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let mut script = body(SUBMIT, "application/grpc", &raw::message(&[7; 10_000])[..5_000]);
    script.stays = true;
    at_api(&prey, MANY, script, until).await
}

/// Asks for lists and takes no byte of them.
pub(super) async fn unread_lists(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let mut script = calls("/moso.v1.Jobs/ListJobs", &vec![vec![]; 200]);
    let head = raw::hello(&[]).len();
    script.first.splice(..head, raw::hello(&[(INITIAL_WINDOW_SIZE, 0)]));
    script.stays = true;
    at_api(&prey, 50, script, until).await
}

pub(super) async fn silent_sessions(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let mut first = raw::hello(&[]);
    let head = raw::call_head(SESSION, "application/grpc");
    (0..100).for_each(|call| raw::frame(&mut first, kind::HEADERS, END_HEADERS, 1 + 2 * call, &head));
    at_api(&prey, 50, Script { first, stays: true, ..Script::default() }, until).await
}

/// Heartbeats without end in sessions that take no answer.
pub(super) async fn unread_sessions(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let hello = Hello { session: rand::random::<u64>() | 1, worker: "attack".into(), key: 0 };
    let mut first = raw::hello(&[(INITIAL_WINDOW_SIZE, 0)]);
    let frame = WorkerFrame { hello: Some(hello), ..WorkerFrame::default() };
    raw::call(&mut first, 1, SESSION, &frame.encode_to_vec(), false);
    let jobs: Vec<u64> = (0..500).map(|job| 1 << 40 | job).collect();
    let beat = Heartbeat { attempts: vec![1; jobs.len()], jobs, ..Heartbeat::default() };
    let frame = WorkerFrame { heartbeat: Some(beat), ..WorkerFrame::default() };
    let mut flood = Vec::new();
    raw::frame(&mut flood, kind::DATA, 0, 1, &raw::message(&frame.encode_to_vec()));
    at_api(&prey, 50, Script { first, flood, ..Script::default() }, until).await
}

/// Says that the bystander's jobs are its own, and that they have ended.
pub(super) async fn forged_jobs(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let counts = Counts::default();
    while Instant::now() < until {
        let options = SessionOptions { worker: "thief".into(), node: None };
        let mut session = prey.client.session(options).await.context("session")?;
        counts.connected();
        for _ in 0..20 {
            let taken = forge(&prey, &mut session).await?;
            anyhow::ensure!(taken == 0, "{taken} forged results were accepted");
            counts.sent.fetch_add(1, Relaxed);
            counts.answered.fetch_add(1, Relaxed);
        }
        let _ = session.close().await;
        counts.close();
    }
    Ok(counts.seen())
}

pub(super) async fn forge(prey: &Prey, session: &mut Session) -> Result<usize> {
    let jobs = prey.jobs();
    let heartbeat = Heartbeat {
        jobs: jobs.iter().map(|job| job.0).collect(),
        attempts: jobs.iter().map(|job| job.1).collect(),
        ..Heartbeat::default()
    };
    session.turn(Turn { heartbeat: Some(heartbeat), ..Turn::default() }).await.context("heartbeat")?;
    let result = |&(job_id, attempt): &(u64, u32)| JobResult {
        job_id,
        attempt,
        outcome: Outcome::Finished.into(),
        ..JobResult::default()
    };
    let ack = session.report(jobs.iter().map(result).collect()).await.context("results")?;
    Ok(ack.accepted.len())
}
