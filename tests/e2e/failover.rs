//! Nodes are killed, halted and stopped under load: whatever was acknowledged is kept, every job ends exactly once.

#![allow(clippy::unwrap_used)]

mod common;

use common::load::Load;
use common::{Cluster, DEADLINE, eventually, task};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use moso::{LocalCluster, LocalOptions};
use moso_client::{Client, ClientOptions, Code, Submission};
use std::time::Duration;

/// Jobs that run between two disturbances.
const JOBS: u64 = 500;
/// A halt longer than an election: others lead when the node goes on, and it must notice.
const HALT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_is_killed_in_turn() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster).await;
    for node in 1..=3 {
        load.progress(JOBS).await;
        cluster.nodes.kill(node).unwrap();
        // Two of three go on alone.
        load.progress(JOBS).await;
        cluster.nodes.restart(node).await.unwrap();
    }
    load.progress(JOBS).await;
    load.settle(&cluster).await;
    cluster.nodes.check().unwrap();
    cluster.nodes.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_are_killed_at_once() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster).await;
    for _ in 0..2 {
        load.progress(JOBS).await;
        for node in 1..=3 {
            cluster.nodes.kill(node).unwrap();
        }
        for node in 1..=3 {
            cluster.nodes.start_node(node).unwrap();
        }
        cluster.nodes.wait_ready().await.unwrap();
    }
    load.progress(JOBS).await;
    load.settle(&cluster).await;
    cluster.nodes.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halted_leader_does_no_harm() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster).await;
    load.progress(JOBS).await;
    for _ in 0..2 {
        let leader = cluster.busiest_leader().await;
        cluster.nodes.pause(leader).unwrap();
        tokio::time::sleep(HALT).await;
        load.progress(JOBS).await;
        cluster.nodes.resume(leader).unwrap();
        load.progress(JOBS).await;
    }
    load.settle(&cluster).await;
    cluster.nodes.check().unwrap();
    cluster.nodes.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_stopped_and_started_one_by_one() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster).await;
    for node in 1..=3 {
        load.progress(JOBS).await;
        assert!(cluster.nodes.stop_node(node).await.unwrap(), "node {node} did not end well on SIGTERM");
        load.progress(JOBS).await;
        cluster.nodes.restart(node).await.unwrap();
    }
    load.progress(JOBS).await;
    load.settle(&cluster).await;
    cluster.nodes.stop().await.unwrap();
}

/// More than a stream may have under way: what waits for a quorum must not keep the stream from being read.
const CROWD: usize = 9_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submissions_beyond_those_that_wait_for_a_quorum_are_told_to_come_back() {
    let mut cluster = Cluster::start().await;
    cluster.queue("Q").await;
    for node in 2..=3 {
        cluster.nodes.pause(node).unwrap();
    }
    let options = ClientOptions {
        call_deadline: DEADLINE,
        retry_budget: Duration::ZERO,
        discover: false,
        ..ClientOptions::default()
    };
    let alone = Client::connect_with([cluster.nodes.addrs()[0].clone()], options).await.unwrap();
    let submit = |_| alone.submit(Submission::new(task("Q")).job("x"));
    let mut asked: FuturesUnordered<_> = (0..CROWD).map(submit).collect();
    let refused = async {
        let mut refused = 0;
        while refused < 100 {
            let error = asked.next().await.expect("most of them wait").unwrap_err();
            // Others are refused for want of calls to the nodes that do not answer.
            assert_eq!(error.code(), Some(Code::Busy), "{error}");
            refused += usize::from(error.to_string().contains("too many submissions"));
        }
    };
    tokio::time::timeout(DEADLINE, refused).await.expect("the stream is read");
    drop(asked);
    for node in 2..=3 {
        cluster.nodes.resume(node).unwrap();
    }
    cluster.submit_one(task("Q")).await;
    cluster.nodes.check().unwrap();
    cluster.nodes.stop().await.unwrap();
}

/// A node may hear of the meta group's leader a moment after those of the shards.
async fn led_as_preferred(nodes: &LocalCluster) {
    eventually("the preferred nodes lead", async || (leaders(nodes).await == PREFERRED).then_some(())).await;
}

/// Election timeouts last longer than the wait for readiness here, so only the preferred nodes' own campaigns can help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_starts_has_leaders_before_election_timeouts() {
    let mut nodes = LocalCluster::start(patient()).await.unwrap();
    led_as_preferred(&nodes).await;
    for node in 1..=3 {
        nodes.kill(node).unwrap();
    }
    for node in 1..=3 {
        nodes.start_node(node).unwrap();
    }
    nodes.wait_ready().await.unwrap();
    led_as_preferred(&nodes).await;
    nodes.stop().await.unwrap();
}

/// The first replica of the meta group and of six shards.
const PREFERRED: [u32; 7] = [1, 1, 2, 3, 1, 2, 3];

/// 100 s to 200 s without a leader before an election.
fn patient() -> LocalOptions {
    LocalOptions {
        shards: PREFERRED.len() as u16 - 1,
        env: vec![("MOSO_NODE_ELECTION_TICKS".into(), "1000".into())],
        ..LocalOptions::default()
    }
}

async fn leaders(nodes: &LocalCluster) -> Vec<u32> {
    let view = Client::connect(nodes.addrs()).await.unwrap().cluster().await.unwrap();
    view.shards.iter().map(|shard| shard.leader).collect()
}
