//! What is wrong is refused with a code and a message that names it, and nothing else suffers.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Cluster, after, refusal, refused, report, result, take_one, task};
use moso_client::v1::{JobResult, JobSpec, ListRequest, Needs, Outcome, RetryPolicy, Selector, TaskSpec};
use moso_client::{Code, Submission};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Submits what must be refused.
#[track_caller]
fn bad<'a>(cluster: &'a Cluster, submission: Submission, code: Code, word: &'a str) -> impl Future<Output = ()> + 'a {
    let at = std::panic::Location::caller();
    async move {
        let (found, message) = refusal(cluster.client.submit(submission).await);
        assert_eq!(found, code, "{at}: {message}");
        assert!(message.contains(word), "{at}: {message}");
    }
}

#[tokio::test]
async fn bad_submissions_are_refused_and_named() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let one = |spec: TaskSpec| Submission::new(spec).job("x");
    bad(&cluster, one(task("none")), Code::NotFound, "none").await;
    bad(&cluster, one(TaskSpec { share: "none".into(), ..task("Q") }), Code::NotFound, "none").await;
    bad(&cluster, one(TaskSpec { priority: 10_001, ..task("Q") }), Code::Invalid, "priority").await;
    bad(&cluster, one(TaskSpec { priority: i32::MIN, ..task("Q") }), Code::Invalid, "priority").await;
    bad(&cluster, one(TaskSpec { name: "n".repeat(257), ..task("Q") }), Code::TooLarge, "256").await;
    bad(&cluster, one(TaskSpec { owner: "a\u{7}b".into(), ..task("Q") }), Code::Invalid, "owner").await;
    bad(&cluster, one(TaskSpec { expires_at_ms: 1, ..task("Q") }), Code::Invalid, "expires_at_ms").await;
    let needs = |needs| one(TaskSpec { needs: Some(needs), ..task("Q") });
    bad(&cluster, needs(Needs { cores: u32::MAX, ..Needs::default() }), Code::Invalid, "cores").await;
    bad(&cluster, needs(Needs { wall_time_s: u32::MAX, ..Needs::default() }), Code::Invalid, "wall_time_s").await;
    bad(&cluster, needs(Needs { tags: vec!["t".into(); 33], ..Needs::default() }), Code::TooLarge, "tags").await;
    let retry = |policy| one(TaskSpec { retry: Some(policy), ..task("Q") });
    bad(&cluster, retry(RetryPolicy { max_attempts: 1_001, ..Default::default() }), Code::Invalid, "max_attempts")
        .await;
    for factor in [f64::NAN, f64::INFINITY, -1.0] {
        let policy = RetryPolicy { backoff_factor: factor, ..Default::default() };
        bad(&cluster, retry(policy), Code::Invalid, "backoff_factor").await;
    }
    bad(&cluster, Submission::new(task("Q")).job(vec![0; 64 * 1024 + 1]), Code::TooLarge, "65536").await;
    bad(&cluster, Submission::new(task("Q")).array(10_000_001), Code::TooLarge, "10000000").await;
    let many = vec![JobSpec::default(); 10_001];
    bad(&cluster, Submission::new(task("Q")).jobs(many), Code::TooLarge, "10000").await;
    let big = JobSpec { body: vec![0; 60_000].into(), ..JobSpec::default() };
    bad(&cluster, Submission::new(task("Q")).jobs(vec![big; 80]), Code::TooLarge, "4194304").await;
    for jobs in [vec![after(&[0])], vec![after(&[1]), after(&[2]), after(&[0])]] {
        bad(&cluster, Submission::new(task("Q")).jobs(jobs), Code::Invalid, "circle").await;
    }
    bad(&cluster, Submission::new(task("Q")).jobs(vec![after(&[7])]), Code::Invalid, "job 7").await;
    // Zero needs are the default.
    let id = cluster.submit_one(TaskSpec { needs: Some(Needs::default()), ..task("Q") }).await;
    assert_eq!(cluster.job(id).await.needs.unwrap().cores, 1);
}

#[tokio::test]
async fn submission_ids_are_recognised_and_checked() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let first = Submission::new(task("Q")).job("one").job("two");
    let made = cluster.client.submit(first.clone()).await.unwrap();
    let again = cluster.client.submit(first.clone()).await.unwrap();
    assert!(again.repeated && !made.repeated);
    assert_eq!((again.task_id, again.first_job_id, again.jobs), (made.task_id, made.first_job_id, 2));
    let other = Submission::new(task("Q")).job("three").with_id(first.id());
    bad(&cluster, other, Code::Conflict, "other content").await;
    assert_eq!(cluster.list(Selector { queue: "Q".into(), ..Selector::default() }, 100).await.len(), 2);

    let at = |ms: u64| {
        let mut id = first.id();
        id[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        Submission::new(task("Q")).job("x").with_id(id)
    };
    let hour = 3_600_000;
    bad(&cluster, at(common::now_ms() + 2 * hour), Code::Invalid, "ahead").await;
    bad(&cluster, at((1 << 48) - 1), Code::Invalid, "ahead").await;
    bad(&cluster, at(common::now_ms() - 2 * hour), Code::SubmissionExpired, "new id").await;
    bad(&cluster, at(0), Code::SubmissionExpired, "new id").await;
    cluster.client.submit(at(common::now_ms() - hour / 4)).await.unwrap();
}

#[tokio::test]
async fn unknown_ids_and_forged_results_change_nothing() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let id = cluster.submit_one(task("Q")).await;
    // No such shard; a shard's number not yet given; the task's own number; more than an id can hold.
    for job in [0, 17, 4_095 << 40 | 5, id + 1_000_000, id - 1, u64::MAX] {
        assert_eq!(refusal(cluster.client.job(job).await).0, Code::NotFound, "job {job}");
        assert_eq!(refusal(cluster.client.explain(job).await).0, Code::NotFound, "job {job}");
    }
    for task in [0, 17, id, id + 1_000_000, u64::MAX] {
        assert_eq!(refusal(cluster.client.task(task).await).0, Code::NotFound, "task {task}");
    }
    let list = |selector, cursor: &str| {
        cluster.client.list_jobs(ListRequest { selector: Some(selector), limit: 5, cursor: cursor.into() })
    };
    let of_queue = |queue: &str| Selector { queue: queue.into(), ..Selector::default() };
    assert_eq!(refusal(list(of_queue("none"), "").await).0, Code::NotFound);
    assert_eq!(refusal(list(of_queue("Q"), "nonsense").await).0, Code::Invalid);
    let states = Selector { states: vec!["asleep".into()], ..Selector::default() };
    assert!(refusal(list(states, "").await).1.contains("asleep"));

    let (mut holder, mut other) = (cluster.session("holder").await, cluster.session("other").await);
    let lease = take_one(&mut holder, "Q").await;
    let done =
        |job_id, attempt| JobResult { job_id, attempt, outcome: Outcome::Finished.into(), ..JobResult::default() };
    assert_eq!(refused(&mut other, done(id, 1)).await, Code::ForeignLease);
    assert_eq!(refused(&mut holder, done(id, 0)).await, Code::StaleAttempt);
    assert_eq!(refused(&mut holder, done(id, 2)).await, Code::NotFound);
    for job in [0, 17, 4_095 << 40 | 5, id + 1_000_000, u64::MAX] {
        assert_eq!(refused(&mut holder, done(job, 1)).await, Code::NotFound, "job {job}");
    }
    let nothing = JobResult { outcome: 0, ..done(id, 1) };
    assert_eq!(refused(&mut holder, nothing).await, Code::Invalid);
    let long = JobResult { output: vec![b'x'; 5_000].into(), ..done(id, 1) };
    assert_eq!(refused(&mut holder, long).await, Code::TooLarge);
    assert_eq!(cluster.job(id).await.state, "sent");
    report(&mut holder, vec![result(&lease, Outcome::Finished)]).await;
    assert_eq!(cluster.job(id).await.state, "finished");
}

/// The first bytes of a TLS connection.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_on_every_port_disturbs_nobody() {
    let mut cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let record = std::fs::read_to_string(cluster.nodes.folder().join("cluster.toml")).unwrap();
    let record: toml::Table = record.parse().unwrap();
    let ports: Vec<String> = record["members"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|m| ["api", "peer", "http"].map(|key| m[key].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(ports.len(), 9);

    let stop = Arc::new(AtomicBool::new(false));
    let noise: Vec<_> = ports.iter().map(|port| tokio::spawn(make_noise(port.clone(), stop.clone()))).collect();
    let mut session = cluster.session("wn1").await;
    for round in 0..40 {
        let id = cluster.submit_one(task("Q")).await;
        let lease = take_one(&mut session, "Q").await;
        report(&mut session, vec![result(&lease, Outcome::Finished)]).await;
        assert_eq!(cluster.job(id).await.attempt, 1, "round {round}");
    }
    stop.store(true, Ordering::Relaxed);
    for sent in futures::future::join_all(noise).await {
        assert!(sent.unwrap() > 0, "a port was spared");
    }
    cluster.nodes.check().unwrap();
    assert!(cluster.client.cluster().await.unwrap().nodes.iter().all(|node| node.up));
}

/// Sends what no client sends, again and again; gives how often.
async fn make_noise(port: String, stop: Arc<AtomicBool>) -> u32 {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let huge_frame = [&preface[..], &[0xff; 64]].concat();
    let huge_length = [&u32::MAX.to_le_bytes()[..], &[0; 60]].concat();
    let request = [b"GET /".as_slice(), &[b'a'; 100_000], b" HTTP/1.1\r\n\r\n"].concat();
    let messages: [&[u8]; 8] =
        [b"", b"\0", CLIENT_HELLO, &[0xff; 4_096], &preface[..10], &huge_frame, &huge_length, &request];
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        for message in messages {
            let Ok(mut stream) = TcpStream::connect(&port).await else { continue };
            // The node may close before all is sent.
            let _ = stream.write_all(message).await;
            let mut answer = [0; 256];
            let read = stream.read(&mut answer);
            let _ = tokio::time::timeout(std::time::Duration::from_millis(20), read).await;
            sent += 1;
        }
    }
    sent
}
