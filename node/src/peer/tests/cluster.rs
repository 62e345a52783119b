//! Nodes of a test, on real sockets.

use crate::peer::{Answer, PeerConfig, PeerHandler, Peers};
use crate::store::{DataFolder, Seen, StoreId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, mpsc};

pub(super) const CLUSTER: &str = "grid";

/// A call that is answered with its own kind as status and its body in reverse.
pub(super) const REVERSE: u8 = 0;
/// A call that is never answered.
pub(super) const HANG: u8 = 9;
/// As that, and may take only half of the room.
pub(super) const HANG_LOW: u8 = 8;

/// What a handler was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Raft(u32, Vec<(u16, Bytes)>),
    Hints(u32, Bytes),
    Lost(u32),
}

pub(super) struct Recorder {
    events: mpsc::UnboundedSender<Event>,
    /// Calls that were begun.
    pub(super) begun: Semaphore,
}

impl PeerHandler for Recorder {
    fn raft(&self, from: u32, messages: Vec<(u16, Bytes)>) {
        let _ = self.events.send(Event::Raft(from, messages));
    }

    fn calls_percent(&self, kind: u8, _body: &Bytes) -> usize {
        if kind == HANG_LOW { 50 } else { 100 }
    }

    fn call(&self, _from: u32, _shard: u16, kind: u8, body: Bytes) -> Answer {
        self.begun.add_permits(1);
        Box::pin(async move {
            if [HANG, HANG_LOW].contains(&kind) {
                Notify::new().notified().await;
            }
            (kind, body.iter().rev().copied().collect())
        })
    }

    fn hints(&self, from: u32, body: Bytes) {
        let _ = self.events.send(Event::Hints(from, body));
    }

    fn connection_lost(&self, node: u32) {
        let _ = self.events.send(Event::Lost(node));
    }
}

pub(super) struct TestNode {
    pub(super) peers: Peers,
    pub(super) recorder: Arc<Recorder>,
    events: Mutex<mpsc::UnboundedReceiver<Event>>,
    _folder: TempDir,
}

impl TestNode {
    /// Hands a message over and lets it leave.
    pub(super) fn send(&self, to: u32, shard: u16, message: Bytes) -> bool {
        let sent = self.peers.send_raft(to, shard, message);
        self.peers.flush();
        sent
    }

    pub(super) async fn next(&self) -> Event {
        let next = std::future::poll_fn(|context| self.events.lock().unwrap().poll_recv(context));
        next.await.expect("the recorder lives as long as the node")
    }
}

pub(super) fn seen() -> (TempDir, Arc<Seen>) {
    let dir = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(dir.path(), CLUSTER, 1).unwrap();
    let seen = Arc::new(folder.seen().unwrap());
    (dir, seen)
}

pub(super) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A node with store id 100 + its number.
pub(super) fn start(node: u32, listen: TcpListener, peers: &[(u32, SocketAddr)]) -> TestNode {
    start_as(CLUSTER, node, StoreId(100 + u128::from(node)), listen, peers)
}

pub(super) fn start_as(
    cluster: &str,
    node: u32,
    store: StoreId,
    listen: TcpListener,
    peers: &[(u32, SocketAddr)],
) -> TestNode {
    let (folder, seen) = seen();
    let (events, receiver) = mpsc::unbounded_channel();
    let recorder = Arc::new(Recorder { events, begun: Semaphore::new(0) });
    let peers: BTreeMap<_, _> = peers.iter().map(|(node, address)| (*node, address.to_string())).collect();
    let config = PeerConfig { cluster: cluster.to_owned(), node, store, seen, level: 2, listen, tls: None, peers };
    TestNode { peers: Peers::start(config, recorder.clone()), recorder, events: Mutex::new(receiver), _folder: folder }
}

/// Nodes 1 and 2, connected both ways.
pub(super) async fn pair() -> (TestNode, TestNode) {
    let ((one, at_one), (two, at_two)) = (listen().await, listen().await);
    let one = start(1, one, &[(2, at_two)]);
    let two = start(2, two, &[(1, at_one)]);
    until(|| connected(&one, 2) && connected(&two, 1)).await;
    (one, two)
}

/// An own connection stands, whatever was heard.
pub(super) fn connected(node: &TestNode, to: u32) -> bool {
    node.peers.links.load()[&to].is_connected()
}

/// Waits for a condition; the runner's time-out ends a test in which it never comes.
pub(super) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
