//! Nodes come and go, and replicas move, under load: whatever was acknowledged is kept, every job ends exactly once.

#![allow(clippy::unwrap_used)]

mod common;

use common::load::Load;
use common::{Cluster, eventually};
use moso::{LocalCluster, LocalOptions};
use moso_client::proto::object::{Node, Setting, ShardTable, kind};
use moso_client::proto::shards::node_of;
use moso_client::{Client, Code};
use std::collections::BTreeSet;

/// Jobs that run between two changes.
const JOBS: u64 = 300;

async fn table(cluster: &Cluster) -> ShardTable {
    let object = cluster.client.get_object(kind::SHARDS, "table").await.unwrap();
    serde_json::from_str(&object.json).unwrap()
}

/// Nodes that hold replicas, once no shard is changing.
async fn settled_on(cluster: &Cluster, what: &str, done: impl Fn(&ShardTable) -> bool) -> BTreeSet<u32> {
    let table = eventually(what, async || {
        let table = table(cluster).await;
        (table.leaving.is_empty() && done(&table)).then_some(table)
    })
    .await;
    (1..=table.replicas.len() as u16).flat_map(|shard| table.wanted(shard)).map(node_of).collect()
}

async fn let_in(cluster: &Cluster, node: u32) {
    let object = cluster.nodes.object(node).unwrap();
    cluster.client.put_object(kind::NODE, &node.to_string(), &object, Some(0)).await.unwrap();
}

async fn drain(cluster: &Cluster, node: u32) {
    let object = cluster.client.get_object(kind::NODE, &node.to_string()).await.unwrap();
    let known: Node = serde_json::from_str(&object.json).unwrap();
    let drained = Node { drain: true, ..known };
    cluster.client.put_object(kind::NODE, &node.to_string(), &drained, Some(object.version)).await.unwrap();
}

/// A repeat, after the answer was lost with the meta group's leader, finds the node gone.
async fn remove(cluster: &Cluster, node: u32) {
    match cluster.client.delete_object(kind::NODE, &node.to_string(), None).await {
        Ok(_) => {}
        Err(error) => assert_eq!(error.code(), Some(Code::NotFound), "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_added_and_another_one_leaves() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster).await;
    load.progress(JOBS).await;
    let new = cluster.nodes.add_node().unwrap();
    let_in(&cluster, new).await;
    let even = |table: &ShardTable| table.replicas.iter().filter(|nodes| nodes.contains(&new)).count() >= 4;
    assert!(settled_on(&cluster, "the new node has its part", even).await.contains(&new));
    load.progress(JOBS).await;
    drain(&cluster, 1).await;
    let without = |table: &ShardTable| !table.replicas.iter().any(|nodes| nodes.contains(&1));
    assert!(!settled_on(&cluster, "node 1 is empty", without).await.contains(&1));
    remove(&cluster, 1).await;
    load.progress(JOBS).await;
    assert!(cluster.nodes.stop_node(1).await.unwrap(), "node 1 did not end well");
    load.progress(JOBS).await;
    let reused = cluster.client.put_object(kind::NODE, "1", &cluster.nodes.object(1).unwrap(), None).await;
    assert!(reused.unwrap_err().to_string().contains("never used twice"));
    load.settle(&cluster).await;
    cluster.nodes.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_disk_is_replaced_by_a_new_one() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster).await;
    load.progress(JOBS).await;
    cluster.nodes.kill(2).unwrap();
    std::fs::remove_dir_all(cluster.nodes.folder().join("node-2")).unwrap();
    load.progress(JOBS).await;
    let new = cluster.nodes.add_node().unwrap();
    let_in(&cluster, new).await;
    drain(&cluster, 2).await;
    let without = |table: &ShardTable| !table.replicas.iter().any(|nodes| nodes.contains(&2));
    assert_eq!(settled_on(&cluster, "node 2 is replaced", without).await, BTreeSet::from([1, 3, new]));
    remove(&cluster, 2).await;
    // The new one counts: the shards decide with it alone beside one of the others.
    cluster.nodes.kill(1).unwrap();
    load.progress(JOBS).await;
    cluster.nodes.start_node(1).unwrap();
    load.progress(JOBS).await;
    load.settle(&cluster).await;
    cluster.nodes.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_for_long_gets_copies() {
    let env = vec![("MOSO_NODE_LOG_KEEP_MIB".to_owned(), "1".to_owned())];
    let mut cluster = Cluster::start_with(LocalOptions { env, ..LocalOptions::default() }).await;
    let load = Load::start(&cluster).await;
    cluster.nodes.kill(3).unwrap();
    eventually("the log is cut beyond what node 3 has", async || {
        load.progress(JOBS).await;
        let folder = cluster.nodes.folder().join("node-1").join("log");
        // Two MiB of log for each shard have come and gone: the files are used again.
        let load = cluster.written(1).await;
        (load > 80 << 20 && std::fs::read_dir(folder).unwrap().count() < 8).then_some(())
    })
    .await;
    cluster.nodes.restart(3).await.unwrap();
    eventually("node 3 took copies", async || {
        load.progress(JOBS / 10).await;
        (cluster.metric(3, "moso_snapshots_received_total").await > 0.0).then_some(())
    })
    .await;
    cluster.nodes.kill(1).unwrap();
    load.progress(JOBS).await;
    cluster.nodes.start_node(1).unwrap();
    load.settle(&cluster).await;
    cluster.nodes.stop().await.unwrap();
}

const OLD: &str = "feature_level_max = 1\n";

async fn level(cluster: &Cluster) -> u32 {
    cluster.client.cluster().await.unwrap().feature_level
}

/// A cluster whose nodes behave as a version would that knows only the first feature level, and a client as users make it.
async fn old_cluster() -> Cluster {
    let mut nodes = LocalCluster::prepare(LocalOptions::default()).unwrap();
    for node in 1..=nodes.nodes() {
        let config = std::fs::read_to_string(nodes.config(node)).unwrap();
        std::fs::write(nodes.config(node), [OLD, &config].concat()).unwrap();
    }
    nodes.start_nodes().await.unwrap();
    let client = Client::connect(nodes.addrs()).await.unwrap();
    Cluster { nodes, client }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_are_upgraded_one_by_one_and_no_request_fails() {
    let mut cluster = old_cluster().await;
    // Each of its submissions must be answered: the client has its usual patience, and no more.
    let load = Load::start(&cluster).await;
    for node in 1..=3 {
        load.progress(JOBS).await;
        assert_eq!(level(&cluster).await, 1, "node {node} does not know more yet");
        assert!(cluster.nodes.stop_node(node).await.unwrap(), "node {node} did not end well");
        let config = std::fs::read_to_string(cluster.nodes.config(node)).unwrap();
        std::fs::write(cluster.nodes.config(node), config.strip_prefix(OLD).unwrap()).unwrap();
        cluster.nodes.restart(node).await.unwrap();
    }
    eventually("the cluster uses what all nodes know", async || (level(&cluster).await == 2).then_some(())).await;
    load.progress(JOBS).await;

    let lowered = cluster.client.put_object(kind::SETTING, "feature_level", &Setting { value: 1 }, None).await;
    assert!(lowered.unwrap_err().to_string().contains("raised by the cluster itself"));
    assert!(cluster.nodes.stop_node(3).await.unwrap(), "node 3 did not end well");
    let config = std::fs::read_to_string(cluster.nodes.config(3)).unwrap();
    std::fs::write(cluster.nodes.config(3), [OLD, &config].concat()).unwrap();
    cluster.nodes.start_node(3).unwrap();
    let ended = eventually("the old version ends", async || cluster.nodes.take_ended(3).unwrap()).await;
    assert!(!ended.success(), "{ended}");
    let said = cluster.nodes.log_tail(3);
    assert!(said.contains("features that this version does not know"), "{said}");
    load.progress(JOBS).await;
    load.settle(&cluster).await;
    cluster.nodes.stop().await.unwrap();
}
