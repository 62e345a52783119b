//! Hints between nodes: what is ready where, and how much runs. May be lost or late at any moment without harm: they
//! only say where to ask first. Sent every 100 ms, and at once when a queue that was empty has work.

use crate::directory::{Directory, ShardStatus, Usage};
use crate::identity::Guard;
use crate::live::ByUser;
use crate::peer::Peers;
use bytes::Bytes;
use moso_proto::view::{NodeView, Rejected};
use moso_queue::share::{ShareOrder, ShareUse};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How often hints are sent at least.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often at most.
const SPACING: Duration = Duration::from_millis(2);
/// How often the use of resources is sent and summed, which is as large as there are users; its figures are made every
/// 200 ms.
const USAGE_EVERY: Duration = Duration::from_millis(100);
/// How often the node's own figures are read from the system and sent.
const FIGURES_EVERY: Duration = Duration::from_millis(500);

/// How often the calls that were rejected are told.
const REJECTED_EVERY: Duration = Duration::from_secs(3);

/// A queue's ready jobs in one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueHint {
    /// Queue.
    pub queue: u32,
    /// Jobs ready.
    pub ready: u64,
    /// Highest priority.
    pub top_priority: i32,
}

/// A shard led by the sender.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShardHint {
    /// Its figures.
    pub status: ShardStatus,
    /// Queues with work.
    pub queues: Vec<QueueHint>,
}

/// A word for a worker whose session may be at the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerWord {
    /// Session.
    pub session: u64,
    /// Job id.
    pub job: u64,
    /// Attempt.
    pub attempt: u32,
    /// The lease is gone already.
    pub gone: bool,
}

/// One message of hints.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeHints {
    /// Shards led by the sender.
    pub shards: Vec<ShardHint>,
    /// Use of resources by the shards it leads; absent in most messages.
    pub usage: Option<Usage>,
    /// The node's own figures, [`NodeView`] as JSON, which may have fields that not every version knows; absent in most
    /// messages.
    pub node: Option<String>,
    /// The sender stops, or its disk is full or hangs: it wants no leadership.
    pub draining: bool,
    /// Unix time by the sender's system, ms.
    pub system_ms: u64,
}

impl NodeHints {
    /// The node's own figures, as last said.
    pub fn node_view(&self) -> Option<NodeView> {
        serde_json::from_str(self.node.as_deref()?).ok()
    }
}

/// What goes between nodes in a hint frame.
#[derive(Debug, Serialize, Deserialize)]
pub enum HintFrame {
    /// Hints.
    Hints(Box<NodeHints>),
    /// Words for workers.
    Words(Vec<WorkerWord>),
    /// Calls that the sender rejected, the most frequent.
    Rejected(Vec<Rejected>),
    /// Live jobs of users that have a cap on them, in the shards that the sender leads.
    Live(ByUser),
}

impl HintFrame {
    /// The frame's bytes.
    pub fn encode(&self) -> Bytes {
        postcard::to_stdvec(self).expect("numbers and texts encode into memory").into()
    }

    /// Reads a frame; `None`: malformed, or of another version, and ignored.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Takes in another node's hints: wakes waiting workers, keeps what was said.
pub fn receive(directory: &Directory, from: u32, mut hints: NodeHints) {
    let others = directory.hints.load();
    let Some(slot) = others.get(&from) else { return };
    let before = slot.load();
    hints.usage = hints.usage.or_else(|| before.usage.clone());
    hints.node = hints.node.or_else(|| before.node.clone());
    for shard in &hints.shards {
        if let Some(slot) = directory.shard(shard.status.shard) {
            slot.matched.fetch_max(shard.status.matched, Ordering::Relaxed);
            // Shards without a replica here learn their leader so.
            if slot.inbox.load().is_none() {
                slot.leader.store(from, Ordering::Relaxed);
            }
        }
        for queue in &shard.queues {
            directory.waiting.wake(queue.queue);
        }
    }
    directory.time_told(from, hints.system_ms);
    slot.store(Arc::new(hints));
}

/// What this node has to say.
fn collect(directory: &Directory, usage: bool, node: Option<NodeView>) -> NodeHints {
    let shards = directory
        .led_here()
        .map(|slot| {
            let queues = slot.index.load().as_ref().map(|index| {
                let queues = index.summaries().into_iter();
                queues
                    .map(|(queue, s)| QueueHint { queue, ready: s.ready, top_priority: s.top_priority })
                    .collect::<Vec<_>>()
            });
            ShardHint { status: **slot.status.load(), queues: queues.unwrap_or_default() }
        })
        .collect();
    let draining = directory.is_draining(directory.node);
    let node = node.map(|view| serde_json::to_string(&view).expect("numbers, texts and lists are JSON"));
    NodeHints { shards, usage: usage.then(|| own_usage(directory)), node, draining, system_ms: directory.system_ms() }
}

fn own_usage(directory: &Directory) -> Usage {
    let mut sum = Usage::default();
    directory.led_here().for_each(|slot| sum.add(&slot.usage.load()));
    sum
}

/// Sums what all nodes said, and sorts the shares.
fn total(directory: &Directory, peers: &Peers) {
    let mut sum = own_usage(directory);
    for (&node, hints) in directory.hints.load().iter() {
        // What a silent node led is led by others by now, and counted there.
        if let Some(usage) = &hints.load().usage
            && peers.is_up(node)
        {
            sum.add(usage);
        }
    }
    directory.live.add_told(&mut sum.user_live, |node| peers.is_up(node));
    let meta = directory.meta.load();
    let shares: Vec<ShareUse> = meta
        .shares()
        .map(|share| ShareUse {
            id: share.id,
            name: share.name.as_str().into(),
            target: share.target,
            running_cores: sum.share_cores.get(&share.id).copied().unwrap_or(0),
        })
        .collect();
    directory.order.store(Arc::new(ShareOrder::new(&shares)));
    directory.usage.store(Arc::new(sum));
}

/// Goes by what most nodes that are up say the time is.
fn agree_on_time(directory: &Directory, peers: &Peers) {
    let told = directory.times_told();
    let others = told.into_iter().filter(|(node, _)| peers.is_up(*node)).map(|(_, base)| base);
    let off = directory.clock.agree(others.chain([directory.clock.system_base_ms()]).collect());
    metrics::gauge!("moso_clock_off_ms").set(off as f64);
}

/// Whether `every` has passed since the last time that it had.
fn due(last: &mut Option<Instant>, every: Duration) -> bool {
    let now = Instant::now();
    let due = last.is_none_or(|last| now >= last + every);
    if due {
        *last = Some(now);
    }
    due
}

/// Tells the others which calls this node rejects, until it stops.
pub async fn tell_rejected(directory: Arc<Directory>, peers: Arc<Peers>, guard: Arc<Guard>) {
    let mut told = Vec::new();
    loop {
        tokio::time::sleep(REJECTED_EVERY).await;
        let rows = guard.rejections().top(directory.node);
        // A node that comes later hears of it with the next one.
        if rows == told {
            continue;
        }
        let frame = HintFrame::Rejected(rows.clone()).encode();
        for &to in directory.hints.load().keys() {
            peers.send_hints(to, frame.clone());
        }
        told = rows;
    }
}

/// Tells the others of live jobs of users that have a cap on them; once more when there are none any more.
fn tell_live(directory: &Directory, peers: &Peers, told: &mut bool) {
    let jobs = own_usage(directory).user_live;
    if jobs.is_empty() && !*told {
        return;
    }
    *told = !jobs.is_empty();
    let frame = HintFrame::Live(jobs).encode();
    directory.hints.load().keys().for_each(|&to| peers.send_hints(to, frame.clone()));
}

/// Sends hints until the node stops.
pub async fn run(directory: Arc<Directory>, peers: Arc<Peers>, node: impl Fn() -> NodeView) {
    let (mut summed, mut figured, mut told_live) = (None, None, false);
    loop {
        // Hints go out every few ms while much happens: the rest keeps its own pace.
        let with_usage = due(&mut summed, USAGE_EVERY);
        if with_usage {
            total(&directory, &peers);
            agree_on_time(&directory, &peers);
            tell_live(&directory, &peers, &mut told_live);
        }
        let figures = due(&mut figured, FIGURES_EVERY).then(&node);
        let hints = collect(&directory, with_usage, figures);
        let frame = HintFrame::Hints(Box::new(hints)).encode();
        for &to in directory.hints.load().keys() {
            peers.send_hints(to, frame.clone());
        }
        tokio::time::sleep(SPACING).await;
        let _ = tokio::time::timeout(INTERVAL, directory.hint_now.notified()).await;
    }
}
