//! The low level session.

use crate::node::{Node, ack, describe, lease, within};
use moso_client::v1::{
    Fault, Heartbeat, HeartbeatReply, JobResult, LeaseReply, LeaseRequest, NodeFrame, Outcome, ResultAck,
};
use moso_client::{Client, Code, Error, NodeRef, SessionOptions, Turn};
use std::time::Duration;

fn finished(job_id: u64) -> JobResult {
    JobResult { job_id, attempt: 1, outcome: Outcome::Finished.into(), ..JobResult::default() }
}

fn options(node: usize) -> SessionOptions {
    SessionOptions { worker: "w".into(), node: Some(NodeRef::Index(node)) }
}

#[tokio::test]
async fn a_turn_is_one_frame_each_way() {
    let mut node = Node::start().await;
    let client = Client::connect([node.address.clone()]).await.unwrap();
    let mut session = within(client.session(options(0))).await.unwrap();
    let mut peer = node.accept().await;
    let hello = peer.recv().await.hello.unwrap();
    assert_eq!((hello.session, hello.worker), (session.number(), "w".into()));

    let turn = Turn {
        results: (0..100).map(finished).collect(),
        heartbeat: Some(Default::default()),
        complete: true,
        lease: Some(LeaseRequest::default()),
    };
    within(session.turn(turn)).await.unwrap();
    let frame = peer.recv().await;
    assert_eq!(frame.results.len(), 100);
    let beat = frame.heartbeat.as_ref().unwrap();
    assert_eq!((beat.seq, beat.settled_request), (1, 0), "no answer was lost");
    assert_eq!(frame.lease.as_ref().unwrap().request_id, 1);
    assert!(session.awaits_lease());

    let mut answer = NodeFrame { results: ack(0..100), ..NodeFrame::default() };
    answer.lease =
        Some(LeaseReply { request_id: 1, leases: vec![lease(200, 60_000, 15_000)], ..LeaseReply::default() });
    peer.send(answer).await;
    let frame = within(session.next()).await.unwrap();
    assert_eq!(frame.lease.unwrap().leases[0].job_id, 200);
    assert!(!session.awaits_lease());
    assert_eq!(session.unacked(), 0);
}

#[tokio::test]
async fn reconnecting_keeps_the_number_and_repeats_what_is_open() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    describe(&[&a, &b], 0);
    let client = Client::connect([a.address.clone()]).await.unwrap();
    let mut session = within(client.session(options(0))).await.unwrap();
    let mut peer = a.accept().await;
    let number = peer.recv().await.hello.unwrap().session;
    let turn = Turn {
        results: vec![finished(1), finished(2), finished(3)],
        lease: Some(LeaseRequest { max_jobs: 7, ..LeaseRequest::default() }),
        ..Turn::default()
    };
    within(session.turn(turn)).await.unwrap();
    peer.recv().await;
    let partial = ResultAck { accepted: vec![1], ..ResultAck::default() };
    peer.send(NodeFrame { results: Some(partial), ..NodeFrame::default() }).await;
    within(session.next()).await.unwrap();
    drop(peer);
    let error = within(session.next()).await.unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");

    within(session.reconnect()).await.unwrap();
    assert_eq!(session.node(), b.address);
    let mut peer = b.accept().await;
    assert_eq!(peer.recv().await.hello.unwrap().session, number);
    let frame = peer.recv().await;
    let mut jobs: Vec<_> = frame.results.iter().map(|r| r.job_id).collect();
    jobs.sort();
    assert_eq!(jobs, [2, 3]);
    let request = frame.lease.unwrap();
    assert_eq!((request.request_id, request.max_jobs), (2, 7));
}

#[tokio::test]
async fn after_a_lost_answer_two_heartbeats_say_all_that_is_held() {
    let mut node = Node::start().await;
    let client = Client::connect([node.address.clone()]).await.unwrap();
    let mut session = within(client.session(options(0))).await.unwrap();
    let mut peer = node.accept().await;
    let ask = || Turn { lease: Some(LeaseRequest::default()), ..Turn::default() };
    within(session.turn(ask())).await.unwrap();
    let lost = peer.recv_when(|frame| frame.lease.is_some()).await;
    // The node leases, and its answer is lost with the stream.
    drop((peer, lost));
    within(session.next()).await.unwrap_err();
    assert!(!session.settles());
    within(session.reconnect()).await.unwrap();
    let mut peer = node.accept().await;
    let beat = |complete| Turn {
        heartbeat: Some(Heartbeat { jobs: vec![9], attempts: vec![3], phases: vec![2], ..Heartbeat::default() }),
        complete,
        ..Turn::default()
    };
    within(session.turn(Turn { results: vec![finished(4)], ..beat(true) })).await.unwrap();
    let said = peer.recv_when(|frame| frame.heartbeat.is_some()).await.heartbeat.unwrap();
    assert_eq!(
        (said.jobs, said.attempts, said.phases),
        (vec![9, 4], vec![3, 1], vec![2, 0]),
        "a result may be lost too"
    );
    assert_eq!(said.settled_request, 1);
    within(session.turn(beat(false))).await.unwrap();
    let partial = peer.recv_when(|frame| frame.heartbeat.is_some()).await.heartbeat.unwrap();
    assert_eq!((partial.jobs, partial.settled_request), (vec![9], 0));
    // A shard without a leader, then twice all shards.
    for (settled, more) in [(false, true), (true, true), (true, false)] {
        let reply = HeartbeatReply { settled, ..HeartbeatReply::default() };
        peer.send(NodeFrame { heartbeat: Some(reply), ..NodeFrame::default() }).await;
        within(session.next()).await.unwrap();
        assert_eq!(session.settles(), more);
    }
    // What was lost within the cluster is said by the answer itself, and is settled by it.
    let reply = LeaseReply { request_id: 2, unsettled: true, ..LeaseReply::default() };
    peer.send(NodeFrame { lease: Some(reply), ..NodeFrame::default() }).await;
    within(session.next()).await.unwrap();
    within(session.close()).await.unwrap();
    let farewell = peer.recv_when(|frame| frame.drained).await.heartbeat.unwrap();
    assert_eq!((farewell.jobs, farewell.settled_request), (vec![4], 2));
}

#[tokio::test]
async fn a_report_is_repeated_until_it_is_decided() {
    let mut node = Node::start().await;
    let client = Client::connect([node.address.clone()]).await.unwrap();
    let mut session = within(client.session(options(0))).await.unwrap();
    let mut peer = node.accept().await;
    let played = async move {
        let frame = peer.recv_when(|frame| !frame.results.is_empty()).await;
        assert_eq!(frame.results.len(), 2);
        let undecided = ResultAck { accepted: vec![1], retry: vec![2], ..ResultAck::default() };
        peer.send(NodeFrame { results: Some(undecided), drain: true, ..NodeFrame::default() }).await;
        let frame = peer.recv().await;
        assert_eq!(frame.results, [finished(2)]);
        peer.send(NodeFrame { results: ack([2].into_iter()), ..NodeFrame::default() }).await;
        peer
    };
    let report = session.report(vec![finished(1), finished(2)]);
    let (settled, _peer) = within(async { tokio::join!(report, played) }).await;
    assert_eq!(settled.unwrap().accepted, [1, 2]);
    // What came along is kept.
    assert!(within(session.next()).await.unwrap().drain);
}

#[tokio::test]
async fn a_fault_answers_a_lease() {
    let mut node = Node::start().await;
    let client = Client::connect([node.address.clone()]).await.unwrap();
    let mut session = within(client.session(options(0))).await.unwrap();
    let mut peer = node.accept().await;
    let played = async {
        let request = peer.recv_when(|frame| frame.lease.is_some()).await.lease.unwrap();
        assert_eq!(request.wait_ms, 30_000);
        let fault =
            Fault { code: Code::NotFound.name().into(), message: "no queue is named q".into(), ..Fault::default() };
        peer.send(NodeFrame {
            lease: Some(LeaseReply { request_id: request.request_id, fault: Some(fault), ..LeaseReply::default() }),
            ..NodeFrame::default()
        })
        .await;
    };
    let lease = session.lease(&["q"], 1, Duration::from_secs(3600));
    let (leases, ()) = within(async { tokio::join!(lease, played) }).await;
    assert_eq!(leases.unwrap_err().code(), Some(Code::NotFound));
}

#[tokio::test]
async fn closing_says_farewell() {
    let mut node = Node::start().await;
    let client = Client::connect([node.address.clone()]).await.unwrap();
    let session = within(client.session(options(0))).await.unwrap();
    let mut peer = node.accept().await;
    let played = async move { peer.recv_last().await };
    let (closed, last) = within(async { tokio::join!(session.close(), played) }).await;
    closed.unwrap();
    assert!(last.unwrap().drained);
}
