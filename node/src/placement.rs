//! Follows the cluster's objects: whom this node talks to, which replicas live here; and, on the node that leads the meta
//! group, where replicas should be.
//!
//! The table is changed by compare-and-swap on its version, so that two that think they lead do no harm.

use crate::directory::Directory;
use crate::resident::Residents;
use crate::router::Router;
use moso_proto::object::{Setting, ShardTable, kind};
use moso_proto::{level, setting};
use moso_queue::meta::placement::{self, Change};
use moso_queue::meta::{MetaCommand, MetaView, SHARDS_NAME};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// How often the table is looked at when nothing changes.
const INTERVAL: Duration = Duration::from_millis(500);
/// Rounds for which a node must be up before it gets replicas: one that comes and goes gets none.
const UP_ROUNDS: u32 = 6;
/// Rounds for which a replica must be missing before it is replaced.
const LOST_ROUNDS: u32 = 10;
/// Author of the changes made here.
const AUTHOR: &str = "placement";

/// Runs until the node stops. An error ends the node.
pub async fn run(residents: Arc<Residents>, router: Arc<Router>, failed: watch::Sender<bool>) {
    let directory = residents.directory.clone();
    let mut controller = Controller { router: router.clone(), up: BTreeMap::new() };
    let mut repair = Repair { router: router.clone(), node: directory.node, lost: BTreeMap::new() };
    loop {
        let view = directory.meta.load_full();
        if !router.peers.use_level(view.level()) {
            let (level, known) = (view.level(), router.peers.own_level());
            tracing::error!(
                level,
                known,
                "the cluster uses features that this version does not know: start a newer one"
            );
            let _ = failed.send(true);
            return;
        }
        meet(&residents, &router, &view);
        let (following, seen) = (residents.clone(), view.clone());
        let followed = tokio::task::spawn_blocking(move || following.follow(&seen)).await;
        match followed {
            Ok(Ok(lost)) => {
                repair.round(&view, &lost).await;
                directory.damaged.store(Arc::new(lost));
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the replicas here cannot be what the cluster wants: this node ends");
                let _ = failed.send(true);
                return;
            }
            Err(_) => {}
        }
        if directory.meta_leader.load(Ordering::Relaxed) == directory.node {
            controller.round(&directory, &view).await;
        } else {
            controller.up.clear();
        }
        let _ = tokio::time::timeout(INTERVAL, directory.meta_changed.notified()).await;
    }
}

/// Talks to the nodes that the cluster has. Before this node knows the cluster, to those of its configuration; an address in
/// the configuration is this node's own way to another one.
fn meet(residents: &Residents, router: &Router, view: &MetaView) {
    let config = &residents.config;
    let configured: BTreeMap<u32, String> = config.members.iter().map(|m| (m.node, m.peer.clone())).collect();
    let mut peers = match view.version() {
        0 => configured,
        _ => {
            let address = |(&id, node): (&u32, &moso_proto::object::Node)| {
                (id, configured.get(&id).cloned().unwrap_or_else(|| node.peer.clone()))
            };
            view.nodes().iter().map(address).collect()
        }
    };
    peers.remove(&config.node);
    residents.directory.set_others(peers.keys().copied());
    router.peers.set(&peers);
}

/// Has replicas that were damaged or lost here replaced by new ones.
struct Repair {
    router: Arc<Router>,
    node: u32,
    /// Rounds for which a shard's replica was missing. This node may only not know yet that it was moved away.
    lost: BTreeMap<u16, u32>,
}

impl Repair {
    async fn round(&mut self, view: &MetaView, lost: &[u16]) {
        self.lost.retain(|shard, _| lost.contains(shard));
        metrics::gauge!("moso_replicas_missing").set(lost.len() as f64);
        let mut due = None;
        for &shard in lost {
            let rounds = self.lost.entry(shard).or_default();
            *rounds += 1;
            if *rounds >= LOST_ROUNDS {
                due = due.or(Some(shard));
            }
        }
        let (Some(shard), Some(version)) = (due, view.shards_version()) else { return };
        self.lost.insert(shard, 0);
        let mut table = view.shards().clone();
        match table.replace(shard, Some(self.node), Some(self.node)) {
            Ok(()) => {
                tracing::warn!(shard, "the replica here is damaged or lost: it is replaced by a new one");
                put_table(&self.router, &table, version).await;
            }
            Err(reason) => {
                tracing::warn!(shard, reason, "the replica here is damaged or lost, and cannot be replaced yet")
            }
        }
    }
}

/// Decides where replicas should be.
struct Controller {
    router: Arc<Router>,
    /// Rounds for which each node was up.
    up: BTreeMap<u32, u32>,
}

impl Controller {
    async fn round(&mut self, directory: &Directory, view: &MetaView) {
        if view.version() == 0 {
            return;
        }
        for &node in view.nodes().keys() {
            let up = node == directory.node || self.router.peers.is_connected(node);
            let rounds = self.up.entry(node).or_default();
            *rounds = if up { rounds.saturating_add(1) } else { 0 };
        }
        self.up.retain(|node, _| view.node(*node).is_some());
        self.raise_level(directory, view).await;
        let Some(version) = view.shards_version() else { return };
        let mut table = view.shards().clone();
        if self.settle(directory, version, &mut table) || self.plan(directory, view, &mut table) {
            put_table(&self.router, &table, version).await;
        }
    }

    /// Once every node of the cluster knows a higher feature level, the cluster goes there.
    async fn raise_level(&self, directory: &Directory, view: &MetaView) {
        let peers = &self.router.peers;
        let known = |&node: &u32| match node == directory.node {
            true => peers.own_level(),
            false if peers.is_connected(node) => peers.level_of(node).unwrap_or(level::FIRST),
            false => level::FIRST,
        };
        let all = view.nodes().keys().map(known).min().unwrap_or(level::FIRST);
        if all <= view.level() {
            return;
        }
        tracing::info!(from = view.level(), to = all, "all nodes know a higher feature level");
        let json = serde_json::to_string(&Setting { value: u64::from(all) }).expect("a number is JSON");
        put(&self.router, kind::SETTING, setting::FEATURE_LEVEL.name, json, None).await;
    }

    /// Shards that have the replicas that they should have.
    fn settle(&self, directory: &Directory, version: u64, table: &mut ShardTable) -> bool {
        let mut settled: BTreeMap<u16, u64> = BTreeMap::new();
        for slot in directory.led_here() {
            settled.insert(slot.shard, slot.status.load().settled);
        }
        for hints in directory.hints.load().values() {
            for shard in &hints.load().shards {
                let known = settled.entry(shard.status.shard).or_default();
                *known = shard.status.settled.max(*known);
            }
        }
        let done: Vec<u16> =
            table.changing().filter(|shard| settled.get(shard).is_some_and(|at| *at >= version)).collect();
        done.iter().for_each(|shard| table.settle(*shard));
        !done.is_empty()
    }

    fn plan(&self, directory: &Directory, view: &MetaView, table: &mut ShardTable) -> bool {
        if table.changing().count() as u64 >= view.setting(&setting::MOVES_MAX) {
            return false;
        }
        let steady = self.up.iter().filter(|(_, rounds)| **rounds >= UP_ROUNDS).map(|(node, _)| *node);
        let up: BTreeSet<u32> = steady.filter(|&node| !directory.is_draining(node)).collect();
        let Some(change) = placement::next(view, &up) else { return false };
        tracing::info!(?change, "placement");
        let made = match change {
            Change::Replace { shard, from, to } => table.replace(shard, from, to),
            Change::Prefer { shard, node } => table.prefer(shard, node),
        };
        made.inspect_err(|error| tracing::warn!(error, "a planned change cannot be made")).is_ok()
    }
}

/// Writes the table, if nobody has changed it since.
async fn put_table(router: &Router, table: &ShardTable, version: u64) {
    let json = serde_json::to_string(table).expect("numbers and lists are JSON");
    put(router, kind::SHARDS, SHARDS_NAME, json, Some(version)).await;
}

async fn put(router: &Router, kind: &str, name: &str, json: String, expected_version: Option<u64>) {
    let command =
        MetaCommand::Put { kind: kind.into(), name: name.into(), json, expected_version, author: AUTHOR.into() };
    if let Err(fault) = router.meta_command(command.encode().into()).await {
        tracing::info!(kind, name, error = %fault.message, "a change was not taken");
    }
}
