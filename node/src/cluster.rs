//! The cluster as this node sees it: its own figures and what the hints of the others say.

use crate::clock::Clock;
use crate::directory::{Directory, ShardStatus};
use crate::identity::Guard;
use crate::peer::Peers;
use crate::sessions::Sessions;
use crate::usage;
use moso_proto::view::{Cluster, NodeView, QueueView, Rejected, ShardView};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Gathers the view.
pub struct ClusterInfo {
    /// Shared state.
    pub directory: Arc<Directory>,
    /// Which nodes are up.
    pub peers: Arc<Peers>,
    /// Sessions here.
    pub sessions: Arc<Sessions>,
    /// Data folder, for its free space.
    pub data: PathBuf,
    /// Who was rejected.
    pub guard: Arc<Guard>,
    /// Time since start.
    pub clock: Clock,
}

impl ClusterInfo {
    /// This node's figures.
    pub fn own(&self) -> NodeView {
        let directory = &self.directory;
        let meta = directory.meta.load();
        let node = meta.node(directory.node);
        let counters = &directory.counters;
        NodeView {
            id: directory.node,
            api: node.map(|n| n.api.clone()).unwrap_or_default(),
            http: node.map(|n| n.http.clone()).unwrap_or_default(),
            up: true,
            version: env!("CARGO_PKG_VERSION").into(),
            leaders: directory.led_here().count() as u32,
            replicas: directory.shards.iter().filter(|s| s.inbox.load().is_some()).count() as u32,
            rss_bytes: usage::rss_bytes(),
            cpu_us: usage::cpu_us(),
            written_bytes: usage::written_bytes(),
            disk_free_bytes: usage::disk_free_bytes(&self.data),
            sessions: self.sessions.len() as u64,
            heartbeats: counters.heartbeats.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            job_bytes: directory.shards.iter().map(|s| s.status.load().job_bytes).sum(),
            disk_low: directory.disk.refusal().is_some(),
            disk_stuck: directory.disk.is_stuck(),
            damaged_replicas: directory.damaged.load().to_vec(),
            uptime_s: self.clock.mono_us() / 1_000_000,
        }
    }

    /// The cluster.
    pub fn view(&self) -> Cluster {
        let directory = &self.directory;
        let meta = directory.meta.load();
        let mut statuses: BTreeMap<u16, ShardStatus> = BTreeMap::new();
        let mut queues: BTreeMap<u32, QueueView> = BTreeMap::new();
        for (&id, &leased) in &directory.usage.load().queue_leased {
            queues.entry(id).or_default().leased = leased;
        }
        for slot in directory.led_here() {
            statuses.insert(slot.shard, **slot.status.load());
            for (queue, summary) in slot.index.load().as_ref().map(|i| i.summaries()).unwrap_or_default() {
                queues.entry(queue).or_default().ready += summary.ready;
            }
        }
        for (&node, hints) in directory.hints.load().iter() {
            for shard in &hints.load().shards {
                let number = shard.status.shard;
                if directory.shard(number).is_none_or(|s| s.leader() != node) {
                    continue;
                }
                statuses.insert(number, shard.status);
                for hint in &shard.queues {
                    queues.entry(hint.queue).or_default().ready += hint.ready;
                }
            }
        }
        for (queue, waiting) in directory.waiting.waiting() {
            queues.entry(queue).or_default().waiting_workers = waiting as u64;
        }
        let queues = queues.into_iter().filter_map(|(id, view)| {
            let name = meta.queue_by_id(id)?.name.clone();
            Some(QueueView { queue: name, ..view })
        });
        Cluster {
            cluster: directory.cluster.clone(),
            feature_level: meta.level(),
            node: directory.node,
            nodes: self.nodes(),
            shards: self.shards(&statuses),
            queues: queues.collect(),
            rejected: self.rejected(),
        }
    }

    /// The most frequent rejections of each node.
    fn rejected(&self) -> Vec<Rejected> {
        let meta = self.directory.meta.load();
        self.guard.rejections().everywhere(self.directory.node, |node| meta.node(node).is_some())
    }

    fn nodes(&self) -> Vec<NodeView> {
        let meta = self.directory.meta.load();
        let view = |(&id, node): (&u32, &moso_proto::object::Node)| {
            if id == self.directory.node {
                return self.own();
            }
            let told = self.directory.hints.load().get(&id).and_then(|h| h.load().node_view()).unwrap_or_default();
            NodeView { id, api: node.api.clone(), http: node.http.clone(), up: self.peers.is_up(id), ..told }
        };
        meta.nodes().iter().map(view).collect()
    }

    fn shards(&self, statuses: &BTreeMap<u16, ShardStatus>) -> Vec<ShardView> {
        let directory = &self.directory;
        let meta_group = ShardView {
            shard: 0,
            leader: directory.meta_leader.load(Ordering::Relaxed),
            replicas: directory.meta_voters.load().to_vec(),
            ..ShardView::default()
        };
        let shards = directory.shards.iter().map(|slot| {
            let status = statuses.get(&slot.shard).copied().unwrap_or_default();
            ShardView {
                shard: slot.shard,
                replicas: slot.replicas.load().to_vec(),
                leader: slot.leader(),
                term: status.term,
                commit: status.commit,
                applied: status.applied,
                lag: status.lag,
                live: status.live,
                ready: status.ready,
                leased: status.leased,
                ended: status.ended,
            }
        });
        std::iter::once(meta_group).chain(shards).collect()
    }

    /// The node can serve: it knows the cluster's objects, and every shard has a leader.
    pub fn ready(&self) -> Result<(), String> {
        if self.directory.meta.load().version() == 0 {
            return Err("the meta group has not been formed yet".into());
        }
        match self.directory.shards.iter().find(|s| s.leader() == 0) {
            Some(slot) => Err(format!("shard {} has no leader", slot.shard)),
            None => Ok(()),
        }
    }
}
