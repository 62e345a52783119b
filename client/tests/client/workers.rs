//! The worker: heartbeats, kills, fencing, reconnects, drains.

use crate::node::{Node, ack, describe, lease, leases_for, within};
use moso_client::v1::{CommandKind, Fault, HeartbeatReply, JobCommand, LeaseReply, NodeFrame, Outcome, ResultAck};
use moso_client::{Client, Code, Error, Job, JobOutcome, Phase, Result, Stop, Worker, WorkerHandle, WorkerReport};
use std::future::Future;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Long enough that no test sees its end.
const LONG_MS: u32 = 3_600_000;

struct Running {
    handle: WorkerHandle,
    task: JoinHandle<Result<WorkerReport>>,
}

async fn start<F, Fut>(node: &Node, slots: usize, handler: F) -> Running
where
    F: Fn(Job) -> Fut + Send + 'static,
    Fut: Future<Output = JobOutcome> + Send + 'static,
{
    let client = Client::connect([node.address.clone()]).await.unwrap();
    let worker = Worker::new(&client).queue("q").slots(slots).node(node.address.as_str());
    Running { handle: worker.handle(), task: tokio::spawn(worker.run(handler)) }
}

impl Running {
    async fn report(self) -> WorkerReport {
        within(self.task).await.unwrap().unwrap()
    }
}

/// A job that runs until it is stopped, and tells the test why.
fn until_stopped(told: mpsc::Sender<(u64, Stop)>) -> impl Fn(Job) -> futures::future::BoxFuture<'static, JobOutcome> {
    move |job| {
        let told = told.clone();
        Box::pin(async move {
            let stop = job.stopped().await;
            told.send((job.id, stop)).await.unwrap();
            JobOutcome::cancelled()
        })
    }
}

#[tokio::test]
async fn a_batch_is_reported_in_one_frame_with_the_next_request() {
    let mut node = Node::start().await;
    let running = start(&node, 100, |job| async move { JobOutcome::finished().output(job.body) }).await;
    let mut peer = node.accept().await;
    let batch = (1..=100).map(|id| lease(id, LONG_MS, LONG_MS)).collect();
    let asked = peer.give(batch).await.lease.unwrap();
    assert_eq!((asked.max_jobs, asked.queues), (100, vec!["q".to_owned()]));

    let frame = peer.recv().await;
    assert_eq!(frame.results.len(), 100);
    assert_eq!(frame.lease.unwrap().max_jobs, 100);
    for result in &frame.results {
        assert_eq!(result.outcome(), Outcome::Finished);
        assert_eq!(result.output, format!("body {}", result.job_id));
        assert!(result.started_ms > 0);
    }
    peer.send(NodeFrame { results: ack(1..=100), ..NodeFrame::default() }).await;
    running.handle.drain();
    assert!(peer.accept_until_drained().await.is_empty());
    assert_eq!(running.report().await.finished, 100);
}

#[tokio::test]
async fn a_heartbeat_carries_all_jobs_with_their_phases() {
    let mut node = Node::start().await;
    let (told, mut stops) = mpsc::channel(16);
    let stopped = until_stopped(told);
    let running = start(&node, 3, move |job| {
        if job.id == 2 {
            job.set_phase(Phase::Starting);
        }
        stopped(job)
    })
    .await;
    let mut peer = node.accept().await;
    let batch = (1..=3).map(|id| lease(id, LONG_MS, 20)).collect();
    peer.give(batch).await;
    for seq in 1..=3 {
        let beat = peer.recv_when(|frame| frame.heartbeat.is_some()).await.heartbeat.unwrap();
        assert_eq!(beat.seq, seq);
        let mut rows: Vec<_> = (0..3).map(|i| (beat.jobs[i], beat.attempts[i], beat.phases[i])).collect();
        rows.sort();
        assert_eq!(rows, [(1, 1, 2), (2, 1, 1), (3, 1, 2)]);
    }
    running.handle.abort();
    let results = peer.accept_until_drained().await;
    // Nobody killed them: they are given back.
    assert_eq!(results.len(), 3);
    assert!(results.iter().all(|r| r.outcome() == Outcome::Released));
    assert_eq!(stops.recv().await.unwrap().1, Stop::Shutdown);
    assert_eq!(running.report().await.released, 3);
}

#[tokio::test]
async fn a_kill_reaches_the_closure() {
    let mut node = Node::start().await;
    let (told, mut stops) = mpsc::channel(16);
    let running = start(&node, 2, until_stopped(told)).await;
    let mut peer = node.accept().await;
    let batch = (1..=2).map(|id| lease(id, LONG_MS, LONG_MS)).collect();
    peer.give(batch).await;
    let kill = |job_id, attempt| JobCommand { job_id, attempt, command: CommandKind::Tobekilled.into() };
    // One for an attempt of the past, one that counts.
    peer.send(NodeFrame { commands: vec![kill(1, 7), kill(2, 1)], ..NodeFrame::default() }).await;
    assert_eq!(within(stops.recv()).await.unwrap(), (2, Stop::Killed));
    let frame = peer.recv_when(|frame| !frame.results.is_empty()).await;
    assert_eq!(frame.results[0].job_id, 2);
    assert_eq!(frame.results[0].outcome(), Outcome::Cancelled);
    running.handle.abort();
    peer.send(NodeFrame { results: ack([2].into_iter()), ..NodeFrame::default() }).await;
    assert_eq!(peer.accept_until_drained().await[0].job_id, 1);
    let report = running.report().await;
    assert_eq!((report.cancelled, report.released), (1, 1));
}

#[tokio::test]
async fn without_answers_to_heartbeats_jobs_are_fenced() {
    let mut node = Node::start().await;
    let (told, mut stops) = mpsc::channel(16);
    let running = start(&node, 2, until_stopped(told)).await;
    let mut peer = node.accept().await;
    peer.give(vec![lease(1, 200, 20), lease(2, LONG_MS, 20)]).await;
    assert_eq!(within(stops.recv()).await.unwrap(), (1, Stop::Fenced));
    assert!(stops.try_recv().is_err());
    running.handle.abort();
    let results = peer.accept_until_drained().await;
    assert!(results.iter().all(|r| r.outcome() == Outcome::Released));
    running.report().await;
}

#[tokio::test]
async fn a_lost_lease_stops_the_job_and_its_result_is_not_sent() {
    let mut node = Node::start().await;
    let (told, mut stops) = mpsc::channel(16);
    let running = start(&node, 1, until_stopped(told)).await;
    let mut peer = node.accept().await;
    peer.give(vec![lease(1, LONG_MS, 20)]).await;
    let beat = peer.recv_when(|frame| frame.heartbeat.is_some()).await.heartbeat.unwrap();
    peer.send(NodeFrame {
        heartbeat: Some(HeartbeatReply { seq: beat.seq, lost: vec![1], ..HeartbeatReply::default() }),
        ..NodeFrame::default()
    })
    .await;
    assert_eq!(within(stops.recv()).await.unwrap(), (1, Stop::Lost));
    // The slot is free again.
    let frame = peer.recv_when(|frame| frame.lease.is_some()).await;
    assert!(frame.results.is_empty());
    running.handle.drain();
    assert!(peer.accept_until_drained().await.is_empty());
    assert_eq!(running.report().await.lost, 1);
}

#[tokio::test]
async fn a_worker_goes_on_at_another_node() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    describe(&[&a, &b], 0);
    let (release, released) = tokio::sync::watch::channel(false);
    let running = start(&a, 2, move |job| {
        let mut released = released.clone();
        async move {
            if job.id == 2 {
                released.wait_for(|released| *released).await.unwrap();
            }
            JobOutcome::finished()
        }
    })
    .await;
    let mut peer = a.accept().await;
    let number = peer.recv().await.hello.unwrap().session;
    peer.give(vec![lease(1, LONG_MS, LONG_MS), lease(2, LONG_MS, LONG_MS)]).await;
    // Job 1 is reported, but the node fails before it answers.
    peer.recv_when(|frame| !frame.results.is_empty()).await;
    drop(peer);

    let mut peer = b.accept().await;
    assert_eq!(peer.recv().await.hello.unwrap().session, number);
    let frame = peer.recv_when(|frame| !frame.results.is_empty()).await;
    assert_eq!(frame.results[0].job_id, 1);
    let beat = match frame.heartbeat {
        Some(beat) => beat,
        None => peer.recv_when(|frame| frame.heartbeat.is_some()).await.heartbeat.unwrap(),
    };
    let mut said: Vec<_> = beat.jobs.iter().zip(&beat.attempts).collect();
    said.sort();
    assert_eq!((said, beat.settled_request), (vec![(&1, &1), (&2, &1)], 2), "the result is not acknowledged");
    let undecided = ResultAck { retry: vec![1], ..ResultAck::default() };
    peer.send(NodeFrame { results: Some(undecided), ..NodeFrame::default() }).await;
    let frame = peer.recv_when(|frame| !frame.results.is_empty()).await;
    assert_eq!(frame.results[0].job_id, 1);
    peer.send(NodeFrame { results: ack([1].into_iter()), ..NodeFrame::default() }).await;
    release.send(true).unwrap();
    running.handle.drain();
    assert_eq!(peer.accept_until_drained().await[0].job_id, 2);
    assert_eq!(running.report().await.finished, 2);
}

#[tokio::test]
async fn a_node_that_stops_is_left() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    describe(&[&a, &b], 0);
    let running = start(&a, 1, |_| async { JobOutcome::finished() }).await;
    let mut old = a.accept().await;
    let open = old.recv_when(|frame| frame.lease.is_some()).await.lease.unwrap();
    old.send(NodeFrame { drain: true, ..NodeFrame::default() }).await;
    let mut peer = b.accept().await;
    let frame = peer.recv_when(|frame| frame.lease.is_some()).await;
    assert_eq!(frame.lease.as_ref().unwrap().request_id, open.request_id + 1);
    let beat = match &frame.heartbeat {
        Some(beat) => beat.clone(),
        None => peer.recv_when(|frame| frame.heartbeat.is_some()).await.heartbeat.unwrap(),
    };
    assert_eq!((beat.jobs.len(), beat.settled_request), (0, open.request_id), "what was leased and not seen is free");
    peer.send(leases_for(&frame, vec![lease(1, LONG_MS, LONG_MS)])).await;
    running.handle.drain();
    // Depending on which came first, the job was run or given back; either way it was reported.
    assert_eq!(peer.accept_until_drained().await.len(), 1);
    running.report().await;
}

#[tokio::test]
async fn a_panic_is_a_failure_of_the_job() {
    let mut node = Node::start().await;
    let running = start(&node, 1, |_| async { panic!("as the test wants it") }).await;
    let mut peer = node.accept().await;
    peer.give(vec![lease(1, LONG_MS, LONG_MS)]).await;
    let frame = peer.recv_when(|frame| !frame.results.is_empty()).await;
    assert_eq!(frame.results[0].outcome(), Outcome::Failed);
    assert_eq!(frame.results[0].errors[0].source, "worker");
    running.handle.drain();
    peer.send(NodeFrame { results: ack([1].into_iter()), ..NodeFrame::default() }).await;
    peer.accept_until_drained().await;
    assert_eq!(running.report().await.failed, 1);
}

#[tokio::test]
async fn a_queue_that_does_not_exist_ends_the_worker() {
    let mut node = Node::start().await;
    let running = start(&node, 1, |_| async { JobOutcome::finished() }).await;
    let mut peer = node.accept().await;
    let request = peer.recv_when(|frame| frame.lease.is_some()).await.lease.unwrap();
    let fault = Fault { code: Code::NotFound.name().into(), message: "no queue is named q".into(), ..Fault::default() };
    peer.send(NodeFrame {
        lease: Some(LeaseReply { request_id: request.request_id, fault: Some(fault), ..LeaseReply::default() }),
        ..NodeFrame::default()
    })
    .await;
    let played = peer.accept_until_drained();
    let (result, _) = within(async { tokio::join!(running.task, played) }).await;
    let error = result.unwrap().unwrap_err();
    assert!(matches!(error, Error::Refused { code: Code::NotFound, .. }), "{error}");
}
