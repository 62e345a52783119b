//! A node that cannot or must not run says why and ends, before it touches anything.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Cluster, Run, program, run};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// A cluster of one node in a folder.
struct Node {
    folder: tempfile::TempDir,
    config: toml::Table,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let [api, peer, http] = [0, 1, 2].map(|p: usize| ports[p].local_addr().unwrap());
        let data = folder.path().join("data");
        let text = format!(
            "cluster = \"one\"\nnode = 1\ndata = {data:?}\nshards = 2\nreplicas = 1\ninsecure = true\n\
             [[members]]\nnode = 1\napi = \"{api}\"\npeer = \"{peer}\"\nhttp = \"{http}\"\n"
        );
        Node { folder, config: text.parse().unwrap() }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn with(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.config.insert(key.into(), value.into());
        self
    }

    fn command(&self) -> Command {
        let path = self.folder.path().join("node.toml");
        fs::write(&path, self.config.to_string()).unwrap();
        let mut command = Command::new(program("moso-node"));
        command.arg("--config").arg(path);
        command
    }

    /// Starts it; it must end by itself with an error that contains `words`.
    #[track_caller]
    fn refuses<'a>(&'a self, words: &'a [&'a str]) -> impl Future<Output = ()> + 'a {
        let at = std::panic::Location::caller();
        async move { must_refuse(at, run(&mut self.command()).await, words) }
    }

    #[track_caller]
    fn check_refuses<'a>(&'a self, words: &'a [&'a str]) -> impl Future<Output = ()> + 'a {
        let at = std::panic::Location::caller();
        async move { must_refuse(at, run(self.command().arg("--check-config")).await, words) }
    }
}

fn must_refuse(at: &std::panic::Location, run: Run, words: &[&str]) {
    assert!(run.code.is_some_and(|code| code != 0), "{at}: {run:?}");
    assert!(!run.stderr.contains("panicked"), "{at}: {run:?}");
    for word in words {
        assert!(run.stderr.contains(word), "{at}: {word:?} is not said: {}", run.stderr);
    }
}

/// Runs the node until it has made its folder, and ends it well.
async fn make_folder(node: &Node) {
    let process = common::Program::start(&mut node.command());
    let http = node.config["members"][0]["http"].as_str().unwrap().to_owned();
    common::eventually("the node listens", async || tokio::net::TcpStream::connect(&http).await.ok()).await;
    process.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = process.end().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test]
async fn mistakes_in_the_configuration_are_named() {
    let good = Node::new();
    let ok = run(good.command().arg("--check-config")).await;
    assert_eq!((ok.code, ok.stdout.trim()), (Some(0), "ok"), "{ok:?}");
    assert!(!good.data().exists(), "a check makes nothing");
    Node::new().with("raft_tick_mss", 5).check_refuses(&["raft_tick_mss", "unknown"]).await;
    Node::new().with("shards", "six").check_refuses(&["shards"]).await;
    Node::new().with("shards", 0).check_refuses(&["shards", "4095"]).await;
    Node::new().with("replicas", 3).check_refuses(&["replicas"]).await;
    Node::new().with("node", 9).check_refuses(&["node", "9"]).await;
    Node::new().with("api", "0.0.0.0:7001").check_refuses(&["api", "insecure", "tls_ca"]).await;
    // Without certificates only who says so.
    let mut open = Node::new();
    open.config.remove("insecure");
    open.check_refuses(&["tls_ca", "tls_cert", "tls_key", "session_keys", "insecure = true"]).await;
    open.with("tls_ca", "/nowhere")
        .with("tls_cert", "/nowhere")
        .with("tls_key", "/k")
        .with("session_keys", "/s")
        .refuses(&["tls_ca = /nowhere"])
        .await;
    Node::new().with("tls_ca", "/nowhere").check_refuses(&["tls_ca", "insecure"]).await;
    // All mistakes at once.
    let many = Node::new().with("raft_tick_ms", -1).with("linger_us", 99_999_999).with("nonsense", true);
    many.check_refuses(&["raft_tick_ms", "linger_us", "nonsense"]).await;
    many.refuses(&["raft_tick_ms", "linger_us", "nonsense"]).await;
    let missing = run(Command::new(program("moso-node")).args(["--config", "/nowhere/node.toml"])).await;
    must_refuse(std::panic::Location::caller(), missing, &["/nowhere/node.toml"]);
    let node = Node::new();
    let mut broken = node.command();
    fs::write(node.folder.path().join("node.toml"), "cluster = = 7").unwrap();
    must_refuse(std::panic::Location::caller(), run(&mut broken).await, &["node.toml"]);
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_refused() {
    // A file in the place of a folder: this holds for the superuser too, as permissions do not.
    let node = Node::new();
    fs::write(node.folder.path().join("file"), "x").unwrap();
    let data = node.folder.path().join("file/data").display().to_string();
    node.with("data", data).refuses(&["file/data"]).await;
    let node = Node::new();
    fs::create_dir(node.data()).unwrap();
    fs::write(node.data().join("thesis.tex"), "x").unwrap();
    node.refuses(&["thesis.tex"]).await;
    assert_eq!(fs::read_dir(node.data()).unwrap().filter(|e| e.as_ref().unwrap().file_name() != "LOCK").count(), 1);

    let node = Node::new();
    make_folder(&node).await;
    let identity = node.data().join("IDENTITY");
    let good = fs::read(&identity).unwrap();
    for at in [good.len() / 3, good.len() / 2] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&identity, &bad).unwrap();
        node.refuses(&["IDENTITY", "damaged"]).await;
    }
    fs::write(&identity, &good[..good.len() / 2]).unwrap();
    node.refuses(&["IDENTITY", "damaged"]).await;
    // Half copied: all but the identity.
    fs::remove_file(&identity).unwrap();
    node.refuses(&["IDENTITY"]).await;
    assert!(!identity.exists());
    fs::write(&identity, newer(&good)).unwrap();
    node.refuses(&["format", "99"]).await;
    // Nothing was harmed.
    fs::write(&identity, &good).unwrap();
    make_folder(&node).await;

    let node = node.with("cluster", "two");
    node.refuses(&["belongs to", "one", "two"]).await;
}

/// The identity as a version to come might write it.
fn newer(identity: &[u8]) -> Vec<u8> {
    let mut sealed: serde_json::Value = serde_json::from_slice(identity).unwrap();
    sealed["content"]["format"] = 99.into();
    let content = sealed["content"].to_string();
    sealed["crc32c"] = crc32c(content.as_bytes()).into();
    sealed.to_string().into_bytes()
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[tokio::test]
async fn what_runs_is_not_disturbed() {
    let mut cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let folder = cluster.nodes.folder().to_owned();
    let own = |node: u32| -> toml::Table {
        fs::read_to_string(folder.join(format!("node-{node}.toml"))).unwrap().parse().unwrap()
    };
    let start = async |config: &toml::Table| {
        let path = folder.join("second.toml");
        fs::write(&path, config.to_string()).unwrap();
        run(Command::new(program("moso-node")).arg("--config").arg(path)).await
    };
    // The same node once more.
    must_refuse(std::panic::Location::caller(), start(&own(1)).await, &["in use"]);
    // Its ports, another folder.
    let mut ports = own(1);
    ports.insert("data".into(), folder.join("other").display().to_string().into());
    must_refuse(std::panic::Location::caller(), start(&ports).await, &["127.0.0.1:"]);
    // Another node's folder.
    cluster.nodes.stop_node(3).await.unwrap();
    let mut stolen = own(1);
    stolen.insert("data".into(), own(3)["data"].clone());
    must_refuse(std::panic::Location::caller(), start(&stolen).await, &["belongs to", "node 3"]);
    cluster.nodes.restart(3).await.unwrap();
    assert!(Path::new(own(3)["data"].as_str().unwrap()).join("IDENTITY").exists());

    cluster.nodes.check().unwrap();
    let id = cluster.submit_one(common::task("Q")).await;
    let mut session = cluster.session("wn1").await;
    let lease = common::take_one(&mut session, "Q").await;
    common::report(&mut session, vec![common::result(&lease, moso_client::v1::Outcome::Finished)]).await;
    assert_eq!(cluster.job(id).await.state, "finished");
}
