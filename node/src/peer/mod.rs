//! From node to node: Raft messages, calls and hints, over one TCP connection in each direction.
//!
//! A node dials every other node. On the connection it dialled it sends messages, calls and hints, and receives the answers
//! to its calls; the other direction has the other node's connection. A message may be lost at any moment, silently:
//! Raft repeats what matters, and a call has a time-out. Both sides show certificates
//! that name them, unless the node was started without; then the lines are not encrypted, and belong on one machine.

mod counts;
#[doc(hidden)]
pub mod frame;
mod link;
mod listener;
mod shared;

#[cfg(test)]
mod tests;

pub use counts::PeerCounts;

use crate::store::{Seen, StoreId};
use crate::tls::Tls;
use arc_swap::ArcSwap;
use bytes::Bytes;
use link::Link;
use shared::Shared;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Status of an answer: done. The handler's other statuses are its own, but for the two below.
pub const ANSWER_OK: u8 = 0;
/// Status of an answer: the body would not fit in a frame.
pub const ANSWER_TOO_LARGE: u8 = 254;
/// Status of an answer: too many calls are running; retry later.
pub const ANSWER_BUSY: u8 = 255;

/// Who this node is and whom it talks to.
pub struct PeerConfig {
    /// Name of the cluster; others are refused.
    pub cluster: String,
    /// This node's number.
    pub node: u32,
    /// This node's store id.
    pub store: StoreId,
    /// The store ids of the others.
    pub seen: Arc<Seen>,
    /// Highest feature level that this node knows.
    pub level: u32,
    /// Where the others connect to.
    pub listen: TcpListener,
    /// Certificates; `None`: the lines are not encrypted, and nodes are taken at their word.
    pub tls: Option<Arc<Tls>>,
    /// host:port of every other node; nobody else is let in. An entry for this node is ignored.
    pub peers: BTreeMap<u32, String>,
}

/// What a handler returns for a call: status and body.
pub type Answer = Pin<Box<dyn Future<Output = (u8, Bytes)> + Send>>;

/// What this node does with what arrives. All but the future of [`PeerHandler::call`] must return without waiting: the
/// connection stands still meanwhile.
pub trait PeerHandler: Send + Sync {
    /// Raft messages (shard, message) of one frame, in the order in which they were sent. A message is a slice of the
    /// receive buffer, and keeps up to 64 KiB of neighbours in memory while it is held.
    fn raft(&self, from: u32, messages: Vec<(u16, Bytes)>);
    /// A call. The future is dropped when the connection is lost.
    fn call(&self, from: u32, shard: u16, kind: u8, body: Bytes) -> Answer;
    /// Part of the calls under way, asked of a node and asked by one, that may be taken when this call comes, percent: room
    /// is kept for calls that matter more.
    fn calls_percent(&self, _kind: u8, _body: &Bytes) -> usize {
        100
    }
    /// Hints about the other node's shards.
    fn hints(&self, from: u32, body: Bytes);
    /// The connection to `node` was lost, and all that waited to be sent.
    fn connection_lost(&self, node: u32);
}

/// Why a call brought no result.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CallError {
    /// No connection, or it was lost: whether the call took effect is then not known.
    #[error("the node cannot be reached")]
    Unreachable,
    /// Too much waits for the node, here or there. The call did nothing: retry later.
    #[error("too much waits for the node")]
    Busy,
    /// No answer in time. Whether the call took effect is not known.
    #[error("no answer in time")]
    Timeout,
    /// The call or its answer is larger than a frame. The caller must change it.
    #[error("larger than a frame")]
    TooLarge,
    /// The node answered with another status than [`ANSWER_OK`].
    #[error("answered with status {status}")]
    Refused {
        /// The handler's status.
        status: u8,
        /// The handler's body.
        body: Bytes,
    },
}

/// What dials and listens.
struct Tasks {
    _listener: JoinSet<()>,
    /// By node.
    links: BTreeMap<u32, JoinSet<()>>,
}

/// A handle on the other nodes. Dropping the last one closes all connections.
#[derive(Clone)]
pub struct Peers {
    links: Arc<ArcSwap<BTreeMap<u32, Arc<Link>>>>,
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    tasks: Arc<Mutex<Tasks>>,
}

impl Peers {
    /// Starts to listen and to dial. Must be called within a tokio runtime, which runs the connections.
    pub fn start(config: PeerConfig, handler: Arc<dyn PeerHandler>) -> Peers {
        let PeerConfig { cluster, node, store, seen, level, listen, tls, mut peers } = config;
        peers.remove(&node);
        let shared = Arc::new(Shared::new(cluster, node, store, seen, level, tls, handler));
        let mut listener = JoinSet::new();
        listener.spawn(listener::run(shared.clone(), listen));
        let tasks = Tasks { _listener: listener, links: BTreeMap::new() };
        let links = Arc::new(ArcSwap::from_pointee(BTreeMap::new()));
        let runtime = tokio::runtime::Handle::current();
        let started = Peers { links, shared, runtime, tasks: Arc::new(Mutex::new(tasks)) };
        started.set(&peers);
        started
    }

    /// The other nodes are these from now on, at these addresses: who is not named is hung up on and not let in again.
    pub fn set(&self, peers: &BTreeMap<u32, String>) {
        let mut tasks = self.tasks.lock().expect("no thread panics while it holds this lock");
        let before = self.links.load_full();
        let same = |(node, address): (&u32, &String)| before.get(node).is_some_and(|link| link.address() == address);
        if before.len() == peers.len() && peers.iter().all(same) {
            return;
        }
        self.shared.set_peers(peers.keys().copied());
        let mut links = BTreeMap::new();
        for (&node, address) in peers {
            let link = match before.get(&node).filter(|link| link.address() == address) {
                Some(link) => link.clone(),
                None => {
                    let link = Arc::new(Link::new(node, address.clone(), self.shared.clone()));
                    let mut task = JoinSet::new();
                    task.spawn_on(link.clone().run(), &self.runtime);
                    tasks.links.insert(node, task);
                    link
                }
            };
            links.insert(node, link);
        }
        tasks.links.retain(|node, _| links.contains_key(node));
        self.links.store(Arc::new(links));
    }

    /// The other nodes.
    pub fn others(&self) -> Vec<u32> {
        self.links.load().keys().copied().collect()
    }

    /// Hands over a Raft message, from any thread and without waiting; it leaves with the next [`Peers::flush`]. `false`: it was dropped, because the node is not
    /// connected, too much waits for it, or the message is larger than a frame; Raft should be told.
    pub fn send_raft(&self, to: u32, shard: u16, message: Bytes) -> bool {
        let sent = self.links.load().get(&to).is_some_and(|link| link.send_raft(shard, message));
        if !sent {
            self.shared.counts.messages_dropped();
        }
        sent
    }

    /// Writes the messages handed over to the sockets, without waiting: to be called once all of a turn are.
    pub fn flush(&self) {
        self.links.load().values().for_each(|link| link.flush());
    }

    /// Hands over hints, as [`Peers::send_raft`] does a message; they are dropped silently.
    pub fn send_hints(&self, to: u32, body: Bytes) {
        if let Some(link) = self.links.load().get(&to) {
            link.send_hints(body);
        }
    }

    /// Asks another node and waits for its answer, at most `timeout`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        to: u32,
        shard: u16,
        kind: u8,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let link = self.links.load().get(&to).cloned().ok_or(CallError::Unreachable)?;
        let answer = tokio::time::timeout(timeout, link.call(shard, kind, body)).await;
        match answer.map_err(|_| CallError::Timeout)?? {
            (ANSWER_OK, body) => Ok(body),
            (ANSWER_BUSY, _) => Err(CallError::Busy),
            (ANSWER_TOO_LARGE, _) => Err(CallError::TooLarge),
            (status, body) => Err(CallError::Refused { status, body }),
        }
    }

    /// The node is connected, or was heard from within [`crate::limits::PEER_HEARD_WITHIN`].
    pub fn is_up(&self, node: u32) -> bool {
        self.links.load().get(&node).is_some_and(|link| link.is_connected()) || self.shared.heard_lately(node)
    }

    /// Whether what is sent to a node now would leave at once.
    pub fn is_connected(&self, node: u32) -> bool {
        self.links.load().get(&node).is_some_and(|link| link.is_connected())
    }

    /// The cluster is at this feature level: nodes that do not know it are not let in. `false`: this node does not know it
    /// either, and must end.
    #[must_use]
    pub fn use_level(&self, level: u32) -> bool {
        self.shared.level_used.fetch_max(level, Ordering::Relaxed);
        level <= self.shared.level
    }

    /// Highest feature level that this node knows.
    pub fn own_level(&self) -> u32 {
        self.shared.level
    }

    /// Highest feature level that a node said it knows; `None`: not met since the start.
    pub fn level_of(&self, node: u32) -> Option<u32> {
        self.shared.level_of(node)
    }

    /// What happened on all connections since the start.
    pub fn counts(&self) -> PeerCounts {
        self.shared.counts.read()
    }
}
