//! What all connections of a node share.

use super::PeerHandler;
use super::counts::Counters;
use super::frame::{Greeting, PROTOCOL};
use crate::limits::{PEER_HEARD_WITHIN, PEER_REFUSALS_LOGGED_MAX};
use crate::store::{Seen, StoreId};
use crate::tls::{Line, Tls};
use arc_swap::ArcSwap;
use moso_proto::level;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What all connections of a node share.
pub(super) struct Shared {
    pub(super) handler: Arc<dyn PeerHandler>,
    pub(super) counts: Counters,
    cluster: String,
    node: u32,
    store: StoreId,
    seen: Arc<Seen>,
    /// Highest feature level that this node knows, and the one that the cluster is at.
    pub(super) level: u32,
    pub(super) level_used: AtomicU32,
    /// What the other nodes know, as they last said.
    levels: Mutex<BTreeMap<u32, u32>>,
    tls: Option<Arc<Tls>>,
    started: Instant,
    /// When each known node was last heard from: ms since the start and 1; 0: never.
    heard: ArcSwap<BTreeMap<u32, Arc<AtomicU64>>>,
    /// What ends the connection that each node dialled.
    connections: Mutex<BTreeMap<u32, oneshot::Sender<()>>>,
    /// Refusals logged already.
    logged: Mutex<BTreeSet<String>>,
}

impl Shared {
    pub(super) fn new(
        cluster: String,
        node: u32,
        store: StoreId,
        seen: Arc<Seen>,
        level: u32,
        tls: Option<Arc<Tls>>,
        handler: Arc<dyn PeerHandler>,
    ) -> Shared {
        Shared {
            handler,
            counts: Counters::default(),
            cluster,
            node,
            store,
            seen,
            level,
            level_used: AtomicU32::new(level::FIRST),
            levels: Mutex::default(),
            tls,
            started: Instant::now(),
            heard: ArcSwap::default(),
            connections: Mutex::default(),
            logged: Mutex::default(),
        }
    }

    /// Makes a connection that was accepted one between nodes. With it the number that the other side's certificate names;
    /// `None`: nobody is asked for one.
    pub(super) async fn let_in(&self, stream: TcpStream) -> Result<(Option<u32>, Line), String> {
        match &self.tls {
            Some(tls) => tls.accept_peer(stream).await.map(|(node, line)| (Some(node), line)),
            None => Ok((None, Line::plain(stream))),
        }
    }

    /// As [`Shared::let_in`], for a connection that was dialled.
    pub(super) async fn reach(&self, stream: TcpStream) -> Result<(Option<u32>, Line), String> {
        match &self.tls {
            Some(tls) => tls.connect_peer(stream).await.map(|(node, line)| (Some(node), line)),
            None => Ok((None, Line::plain(stream))),
        }
    }

    /// Nobody else is let in; who is connected and not named is hung up on.
    pub(super) fn set_peers(&self, peers: impl Iterator<Item = u32>) {
        let before = self.heard.load();
        let heard = peers.map(|node| (node, before.get(&node).cloned().unwrap_or_default())).collect();
        self.heard.store(Arc::new(heard));
        let mut connections = self.connections();
        connections.retain(|node, _| self.knows(*node));
    }

    fn connections(&self) -> MutexGuard<'_, BTreeMap<u32, oneshot::Sender<()>>> {
        self.connections.lock().expect("no thread panics while it holds this lock")
    }

    /// A new connection of a node takes the place of its last one, which the node has given up. Told when this one has to
    /// go.
    pub(super) fn take_over(&self, node: u32) -> oneshot::Receiver<()> {
        let (own, replaced) = oneshot::channel();
        let mut connections = self.connections();
        // It may have been removed since it was greeted.
        if self.knows(node) {
            connections.insert(node, own);
        }
        replaced
    }

    pub(super) fn knows(&self, node: u32) -> bool {
        self.heard.load().contains_key(&node)
    }

    pub(super) fn greeting(&self, to: u32) -> Greeting {
        let Shared { node, store, level, .. } = *self;
        Greeting { protocol: PROTOCOL, cluster: self.cluster.clone(), node, store, to, level }
    }

    /// Whether the other side is a node of this cluster that means this node, and the one it was before. `Err` says why
    /// not.
    pub(super) async fn check(&self, greeting: &Greeting) -> Result<(), String> {
        let Greeting { protocol, cluster, node, store, to, level } = greeting;
        if *protocol != PROTOCOL {
            return Err(format!("node {node} speaks protocol {protocol}, node {} speaks {PROTOCOL}", self.node));
        }
        if *cluster != self.cluster {
            return Err(format!("node {node} is of cluster {cluster:?}, node {} of {:?}", self.node, self.cluster));
        }
        if *to != self.node {
            return Err(format!("node {node} means node {to}, this is node {}", self.node));
        }
        if !self.knows(*node) {
            return Err(format!("node {node} is no member that node {} knows", self.node));
        }
        let used = self.level_used.load(Relaxed);
        if *level < used {
            return Err(format!(
                "node {node} knows features up to level {level}, the cluster uses level {used}: start a newer version there"
            ));
        }
        self.levels.lock().expect("no thread panics while it holds this lock").insert(*node, *level);
        let (seen, node, store) = (self.seen.clone(), *node, *store);
        // The first meeting waits for the disk.
        let met = tokio::task::spawn_blocking(move || seen.meet(node, store)).await;
        match met {
            Ok(met) => met.map_err(|error| error.to_string()),
            Err(_) => Err("the node is being shut down".to_owned()),
        }
    }

    /// Highest feature level that a node said it knows; `None`: not met since the start.
    pub(super) fn level_of(&self, node: u32) -> Option<u32> {
        self.levels.lock().expect("no thread panics while it holds this lock").get(&node).copied()
    }

    /// Counts a refusal, and logs each different one once.
    pub(super) fn refused(&self, reason: String) {
        self.counts.refused();
        let mut logged = self.logged.lock().expect("no thread panics while it holds this lock");
        if logged.len() < PEER_REFUSALS_LOGGED_MAX && !logged.contains(&reason) {
            tracing::warn!(%reason, "peer refused");
            logged.insert(reason);
        }
    }

    /// `node` said something.
    pub(super) fn hear(&self, node: u32) {
        if let Some(heard) = self.heard.load().get(&node) {
            heard.store(self.now_ms(), Relaxed);
        }
    }

    pub(super) fn heard_lately(&self, node: u32) -> bool {
        let heard = self.heard.load().get(&node).map_or(0, |heard| heard.load(Relaxed));
        heard != 0 && self.now_ms() - heard < PEER_HEARD_WITHIN.as_millis() as u64
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }
}
