//! What all connections of a node share.

use super::PeerHandler;
use super::counts::Counters;
use super::frame::{Greeting, PROTOCOL};
use crate::limits::{PEER_HEARD_WITHIN, PEER_REFUSALS_LOGGED_MAX};
use crate::store::{Seen, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// What all connections of a node share.
pub(super) struct Shared {
    pub(super) handler: Arc<dyn PeerHandler>,
    pub(super) counts: Counters,
    cluster: String,
    node: u32,
    store: StoreId,
    seen: Arc<Seen>,
    started: Instant,
    /// When each known node was last heard from: ms since the start and 1; 0: never.
    heard: BTreeMap<u32, AtomicU64>,
    /// Refusals logged already.
    logged: Mutex<BTreeSet<String>>,
}

impl Shared {
    pub(super) fn new(
        cluster: String,
        node: u32,
        store: StoreId,
        seen: Arc<Seen>,
        handler: Arc<dyn PeerHandler>,
        peers: impl Iterator<Item = u32>,
    ) -> Shared {
        Shared {
            handler,
            counts: Counters::default(),
            cluster,
            node,
            store,
            seen,
            started: Instant::now(),
            heard: peers.map(|node| (node, AtomicU64::new(0))).collect(),
            logged: Mutex::default(),
        }
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = u32> {
        self.heard.keys().copied()
    }

    pub(super) fn greeting(&self, to: u32) -> Greeting {
        Greeting { protocol: PROTOCOL, cluster: self.cluster.clone(), node: self.node, store: self.store, to }
    }

    /// Whether the other side is a node of this cluster that means this node, and the one it was before. `Err` says why
    /// not.
    pub(super) async fn check(&self, greeting: &Greeting) -> Result<(), String> {
        let Greeting { protocol, cluster, node, store, to } = greeting;
        if *protocol != PROTOCOL {
            return Err(format!("node {node} speaks protocol {protocol}, node {} speaks {PROTOCOL}", self.node));
        }
        if *cluster != self.cluster {
            return Err(format!("node {node} is of cluster {cluster:?}, node {} of {:?}", self.node, self.cluster));
        }
        if *to != self.node {
            return Err(format!("node {node} means node {to}, this is node {}", self.node));
        }
        if !self.heard.contains_key(node) {
            return Err(format!("node {node} is no member that node {} knows", self.node));
        }
        let (seen, node, store) = (self.seen.clone(), *node, *store);
        // The first meeting waits for the disk.
        let met = tokio::task::spawn_blocking(move || seen.meet(node, store)).await;
        match met {
            Ok(met) => met.map_err(|error| error.to_string()),
            Err(_) => Err("the node is being shut down".to_owned()),
        }
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
        if let Some(heard) = self.heard.get(&node) {
            heard.store(self.now_ms(), Relaxed);
        }
    }

    pub(super) fn heard_lately(&self, node: u32) -> bool {
        let heard = self.heard.get(&node).map_or(0, |heard| heard.load(Relaxed));
        heard != 0 && self.now_ms() - heard < PEER_HEARD_WITHIN.as_millis() as u64
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }
}
