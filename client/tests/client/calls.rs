//! Single calls: which failures are repeated, where, and as what.

use crate::node::{Node, describe, options, status, within};
use futures::StreamExt;
use moso_client::proto::object::Queue;
use moso_client::v1::{TaskSpec, TaskView};
use moso_client::{Client, ClientOptions, Code, Error, Submission};
use std::time::Duration;
use tokio::net::TcpListener;

fn submission() -> Submission {
    Submission::new(TaskSpec::default()).array(3)
}

#[tokio::test]
async fn a_submission_goes_to_the_leader_of_its_shard() {
    let (a, b) = (Node::start().await, Node::start().await);
    describe(&[&a, &b], 1);
    let client = Client::connect([a.address.clone()]).await.unwrap();
    assert_eq!(client.addresses(), [a.address.clone(), b.address.clone()]);
    for _ in 0..4 {
        within(client.submit(submission())).await.unwrap();
    }
    assert_eq!((a.submissions().len(), b.submissions().len()), (0, 4));
}

#[tokio::test]
async fn a_repeat_follows_the_hint_and_keeps_the_submission_id() {
    let (a, b) = (Node::start().await, Node::start().await);
    describe(&[&a, &b], 0);
    let client = Client::connect([a.address.clone()]).await.unwrap();
    a.refuse(status(Code::NotLeader, None, Some(&b.address)));
    b.refuse(status(Code::Busy, Some(1), None));
    let wanted = submission();
    let id = wanted.id();
    let reply = within(client.submit(wanted)).await.unwrap();
    // The hint is remembered: the last try goes to b as well.
    assert!(reply.repeated);
    assert_eq!((a.submissions().len(), b.submissions().len()), (1, 2));
    let seen = [a.submissions(), b.submissions()].concat();
    assert!(seen.iter().all(|request| request.submission_id[..] == id));
}

#[tokio::test]
async fn submissions_made_together_share_a_stream_and_are_told_apart() {
    let node = Node::start().await;
    let client = Client::connect([node.address.clone()]).await.unwrap();
    let submit = |jobs| {
        let client = client.clone();
        async move { client.submit(Submission::new(TaskSpec::default()).array(jobs)).await }
    };
    let replies = within(futures::future::join_all((1..=500).map(submit))).await;
    let jobs: Vec<u32> = replies.into_iter().map(|reply| reply.unwrap().jobs).collect();
    assert_eq!(jobs, Vec::from_iter(1..=500));
    // One that is dropped, answered or not, is nothing to the others.
    drop(tokio::time::timeout(Duration::ZERO, submit(7)).await);
    assert_eq!(within(submit(8)).await.unwrap().jobs, 8);
    let large = Submission::new(TaskSpec::default()).job(vec![0; 100_000]).job(vec![1]);
    assert_eq!(within(client.submit(large)).await.unwrap().jobs, 2);
    assert_eq!(node.submission_streams(), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_is_opened_again_and_the_submission_repeated() {
    let node = Node::start().await;
    let client = Client::connect([node.address.clone()]).await.unwrap();
    within(client.submit(submission())).await.unwrap();
    node.refuse(tonic::Status::aborted("the stream breaks"));
    let reply = within(client.submit(submission())).await.unwrap();
    assert!(reply.repeated, "it is not known whether the first try had an effect");
    assert_eq!((node.submissions().len(), node.submission_streams()), (3, 2));
}

#[tokio::test]
async fn a_refusal_is_final() {
    let node = Node::start().await;
    let client = Client::connect([node.address.clone()]).await.unwrap();
    node.refuse(status(Code::Conflict, None, None));
    let error = within(client.submit(submission())).await.unwrap_err();
    assert!(matches!(error, Error::Refused { code: Code::Conflict, .. }));
    assert_eq!(node.submissions().len(), 1);
}

#[tokio::test]
async fn a_wait_beyond_the_budget_is_the_callers() {
    let node = Node::start().await;
    let options = ClientOptions { retry_budget: Duration::from_secs(5), ..options() };
    let client = Client::connect_with([node.address.clone()], options).await.unwrap();
    node.refuse(status(Code::Busy, Some(3_600_000), None));
    let error = within(client.submit(submission())).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Busy));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    assert_eq!(node.submissions().len(), 1);
}

#[tokio::test]
async fn a_dead_node_is_passed_over() {
    let (dead, live) = (Node::start().await, Node::start().await);
    describe(&[&dead, &live], 0);
    let client = Client::connect([live.address.clone()]).await.unwrap();
    drop(dead);
    let reply = within(client.submit(submission())).await.unwrap();
    assert_eq!((reply.jobs, live.submissions().len()), (3, 1));
}

#[tokio::test]
async fn without_any_node_it_says_so() {
    // Bound and dropped: nobody listens there now.
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let options = ClientOptions { retry_budget: Duration::ZERO, ..options() };
    let result = within(Client::connect_with([address.clone()], options)).await;
    let Err(Error::Unreachable { addresses, .. }) = result else {
        panic!("connected to nobody");
    };
    assert_eq!(addresses, address);
}

#[tokio::test]
async fn a_broken_watch_goes_on_until_the_task_has_ended() {
    let node = Node::start().await;
    let view = |state: &str| Ok(TaskView { state: state.into(), ..TaskView::default() });
    node.watch(vec![view("ready"), Err(status(Code::NotLeader, None, None))]);
    node.watch(vec![view("running")]);
    node.watch(vec![view("running"), view("done"), view("never asked for")]);
    let client = Client::connect([node.address.clone()]).await.unwrap();
    let views: Vec<_> = within(client.watch_task(17).collect()).await;
    let states: Vec<_> = views.into_iter().map(|view| view.unwrap().state).collect();
    assert_eq!(states, ["ready", "running", "running", "done"]);

    let views: Vec<_> = within(client.watch_task(17).collect()).await;
    assert_eq!(views.len(), 1);
    assert_eq!(views[0].as_ref().unwrap_err().code(), Some(Code::NotFound));
}

#[tokio::test]
async fn objects_carry_their_author_and_expectation() {
    let node = Node::start().await;
    let client = Client::connect_with([node.address.clone()], options()).await.unwrap();
    let queue = Queue::default();
    let stored = client.put_object("queue", "CERN", &queue, Some(0)).await.unwrap();
    assert_eq!(serde_json::from_str::<Queue>(&stored.json).unwrap(), queue);
    let seen = node.objects();
    assert_eq!(seen[0].expected_version, Some(0));
    assert_eq!(seen[0].author, "tester");
}
