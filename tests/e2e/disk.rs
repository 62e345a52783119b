//! Disks that are low, full, or do not answer: others serve, nothing is lost, and all comes back by itself.

#![allow(clippy::unwrap_used)]

mod common;

use common::load::Load;
use common::{Cluster, DEADLINE, Program, eventually, program, result, run, task};
use moso::{LocalCluster, LocalOptions};
use moso_client::proto::view::NodeView;
use moso_client::v1::Outcome;
use moso_client::{Client, ClientOptions, Code, Submission};
use nix::sys::signal::Signal;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Jobs that run between two disturbances.
const JOBS: u64 = 300;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| (format!("MOSO_NODE_{key}"), (*value).to_owned())).collect()
}

async fn node(client: &Client, id: u32) -> NodeView {
    let view = client.cluster().await.unwrap();
    view.nodes.into_iter().find(|node| node.id == id).unwrap()
}

/// A client that asks only one node, and takes no for an answer.
async fn impatient(addrs: Vec<String>) -> Client {
    let options = ClientOptions { retry_budget: Duration::ZERO, discover: false, ..ClientOptions::default() };
    Client::connect_with(addrs, options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_is_low_refuses_submissions_and_lets_jobs_end() {
    let options = LocalOptions { nodes: 1, shards: 2, ..LocalOptions::default() };
    let folder = tempfile::tempdir().unwrap();
    let options = LocalOptions { data: Some(folder.path().to_owned()), ..options };
    let mut cluster = Cluster::start_with(options.clone()).await;
    cluster.queue("Q").await;
    cluster.submit_one(task("Q")).await;
    cluster.nodes.stop().await.unwrap();
    // More than any disk has free.
    let low = LocalOptions { env: env(&[("DISK_LOW_MIB", "1048576")]), ..options };
    let mut cluster = Cluster::start_with(low).await;
    let alone = impatient(cluster.nodes.addrs()).await;
    let refused = alone.submit(Submission::new(task("Q")).job("x")).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Busy), "{refused}");
    for words in ["the disk of node 1 is nearly full", "come back later", "must free space for"] {
        assert!(refused.to_string().contains(words), "{refused}");
    }
    assert!(node(&cluster.client, 1).await.disk_low);
    let metrics = common::http(&cluster.nodes.http_addrs()[0], "/metrics").await;
    assert!(metrics.lines().any(|line| line == "moso_disk_low 1"), "{metrics}");
    assert!(common::http(&cluster.nodes.http_addrs()[0], "/readyz").await.contains("ready"));
    let mut session = cluster.session("wn").await;
    let lease = common::take_one(&mut session, "Q").await;
    common::report(&mut session, vec![result(&lease, Outcome::Finished)]).await;
    cluster.job_in(lease.job_id, "finished").await;
    cluster.nodes.check().unwrap();
    cluster.nodes.stop().await.unwrap();
}

/// A file system of its own, in memory, unmounted in the end.
struct Mount(PathBuf);

impl Mount {
    /// `None`: that is not allowed here, which is said.
    fn new(at: &Path, mib: usize) -> Option<Mount> {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={mib}m");
        let command = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        match command {
            Ok(output) if output.status.success() => Some(Mount(at.to_owned())),
            other => {
                eprintln!("skipped: a file system cannot be mounted here: {other:?}");
                None
            }
        }
    }

    /// Takes all space that is left.
    fn fill(&self, name: &str) {
        let mut file = fs::File::create(self.0.join(name)).unwrap();
        for block in [1 << 20, 4_096] {
            while file.write_all(&vec![1; block]).is_ok() {}
        }
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.0.join(name)).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_nobody_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(&folder.path().join("node-2"), 256) else { return };
    let options = LocalOptions {
        data: Some(folder.path().to_owned()),
        env: env(&[("RESERVE_MIB", "16"), ("DISK_LOW_MIB", "48"), ("LOG_SEGMENT_MIB", "1")]),
        ..LocalOptions::default()
    };
    let mut cluster = Cluster::start_with(options).await;
    cluster.queue("OTHER").await;
    let load = Load::start(&cluster).await;
    load.progress(JOBS).await;
    let reserve = mount.0.join("RESERVE");
    assert!(fs::metadata(&reserve).unwrap().len() == 16 << 20);
    mount.fill("ballast");
    eventually("the reserve is given up", async || (!reserve.exists()).then_some(())).await;
    // Nor is there anything left of it.
    mount.fill("more");
    eventually("node 2 leads nothing", async || {
        let node = node(&cluster.client, 2).await;
        (node.disk_low && node.leaders == 0).then_some(())
    })
    .await;
    load.progress(JOBS).await;
    // Not one submission finds its shard closed.
    let alone = impatient(cluster.nodes.addrs()[..1].to_vec()).await;
    eventually("submissions to all shards are taken", async || {
        let mut taken = 0;
        for _ in 0..30 {
            taken += usize::from(alone.submit(Submission::new(task("OTHER")).array(1)).await.is_ok());
        }
        (taken == 30).then_some(())
    })
    .await;
    mount.remove("ballast");
    mount.remove("more");
    if cluster.nodes.check().is_err() {
        // It waits a minute for space: a machine this slow has seen it end, as it should, and starts it again.
        let log = fs::read_to_string(cluster.nodes.log(2)).unwrap();
        assert!(log.contains("free space, then start the node again"), "{log}");
        cluster.nodes.restart(2).await.unwrap();
    }
    load.progress(JOBS).await;
    load.settle(&cluster).await;
    eventually("node 2 is whole again", async || {
        let node = node(&cluster.client, 2).await;
        (!node.disk_low && node.leaders == 2 && reserve.exists()).then_some(())
    })
    .await;
    cluster.nodes.check().unwrap();
    cluster.nodes.stop().await.unwrap();
    verified(&cluster.nodes).await;
}

/// All folders of a stopped cluster are whole, and agree.
async fn verified(nodes: &LocalCluster) {
    let folders = (1..=nodes.nodes()).map(|node| nodes.folder().join(format!("node-{node}")));
    let verified = run(Command::new(program("moso-node")).arg("verify").args(folders)).await;
    assert_eq!(verified.code, Some(0), "{}", verified.stdout);
    assert!(verified.stdout.contains("replicas agree"), "{}", verified.stdout);
}

/// A tracer that delays every sync of a process, until it is told to end.
fn slow_syncs(pid: u32) -> Option<Program> {
    if let Err(error) = std::process::Command::new("strace").arg("-V").output() {
        eprintln!("skipped: strace is not installed: {error}");
        return None;
    }
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]);
    command.args(["-e", "inject=fdatasync:delay_enter=20000000", "-p"]).arg(pid.to_string());
    Some(Program::start(&mut command))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_does_not_lead() {
    let options = LocalOptions { env: env(&[("DISK_STUCK_MS", "1000")]), ..LocalOptions::default() };
    let mut cluster = Cluster::start_with(options).await;
    let load = Load::start(&cluster).await;
    load.progress(JOBS).await;
    let Some(tracer) = slow_syncs(cluster.nodes.pid(2).unwrap()) else { return };
    eventually("node 2 leads nothing", async || {
        let view = cluster.client.cluster().await.unwrap();
        let told = view.nodes.iter().any(|node| node.id == 2 && node.disk_stuck);
        (told && view.shards.iter().all(|shard| shard.leader != 2 && shard.leader != 0)).then_some(())
    })
    .await;
    load.progress(JOBS).await;
    tracer.signal(Signal::SIGINT);
    tokio::time::timeout(DEADLINE, tracer.end()).await.unwrap();
    eventually("node 2 leads again", async || {
        let node = node(&cluster.client, 2).await;
        (!node.disk_stuck && node.leaders == 2).then_some(())
    })
    .await;
    load.progress(JOBS).await;
    load.settle(&cluster).await;
    cluster.nodes.check().unwrap();
    cluster.nodes.stop().await.unwrap();
    verified(&cluster.nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_without_a_damaged_replica_and_says_so() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster).await;
    load.progress(JOBS).await;
    assert!(cluster.nodes.stop_node(2).await.unwrap());
    let data = cluster.nodes.folder().join("node-2");
    let shards = data.join("shards");
    let names = fs::read_dir(&shards).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let replica = names.into_iter().find(|name| name.starts_with("3-")).unwrap();
    let manifest = fs::read_dir(shards.join(&replica)).unwrap().map(|entry| entry.unwrap().path());
    let manifest = manifest.into_iter().find(|path| path.to_string_lossy().contains("MANIFEST")).unwrap();
    let mut bytes = fs::read(&manifest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&manifest, bytes).unwrap();
    let found = run(Command::new(program("moso-node")).arg("verify").arg(&data)).await;
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(found.stdout.contains("replace the replica of shard 3"), "{}", found.stdout);
    cluster.nodes.restart(2).await.unwrap();
    assert!(shards.join(format!("damaged-{replica}")).exists() && !shards.join(&replica).exists());
    let metrics = common::http(&cluster.nodes.http_addrs()[1], "/metrics").await;
    assert!(metrics.lines().any(|line| line == "moso_replicas_damaged 1"), "{metrics}");
    eventually("all nodes are told", async || (node(&cluster.client, 2).await.damaged_replicas == [3]).then_some(()))
        .await;
    // Once more: it stays aside, and the others of the node serve.
    cluster.kill_and_restart(2).await;
    assert!(!shards.join(&replica).exists());
    load.progress(JOBS).await;
    eventually("node 2 leads what it can", async || (node(&cluster.client, 2).await.leaders >= 1).then_some(())).await;
    load.settle(&cluster).await;
    cluster.nodes.check().unwrap();
    cluster.nodes.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_of_a_stopped_cluster_are_verified_and_printed() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster).await;
    load.progress(JOBS).await;
    load.settle(&cluster).await;
    let data = cluster.nodes.folder().join("node-1");
    let refused = run(Command::new(program("moso-node")).arg("verify").arg(&data)).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stdout.contains("a node runs on it: stop the node"), "{refused:?}");
    // One of them as a crash leaves it.
    cluster.nodes.kill(3).unwrap();
    cluster.nodes.stop().await.unwrap();
    verified(&cluster.nodes).await;
    let dump = run(Command::new(program("moso-node")).arg("dump").arg(&data).args(["--shard", "1", "--json"])).await;
    assert_eq!(dump.code, Some(0), "{}", dump.stderr);
    let lines: Vec<serde_json::Value> = dump.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let has = |what: &str| lines.iter().any(|line| line["what"] == what && line["shard"] == 1);
    assert!(["entry", "replica", "machine", "ended_job", "ended_task"].into_iter().all(has), "{}", dump.stdout);
}
