//! What all threads of a node share: where shards are led, the ready indexes of those led here, the objects of the
//! meta group, the other nodes' hints. Read without locks; written by reactors and the hint task.

use crate::clock::Clock;
use crate::disk::Disk;
use crate::hints::NodeHints;
use crate::live::{ByUser, LiveJobs};
use crate::request::{MetaRequest, Request};
use crate::store::state::StateStore;
use crate::waiting::WaitRooms;
use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam::queue::SegQueue;
use crossbeam::sync::Unparker;
use moso_queue::ReadyIndex;
use moso_queue::meta::MetaView;
use moso_queue::ready::Popped;
use moso_queue::share::ShareOrder;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;
use tokio::sync::Notify;

/// Requests in the order in which they came, each with when. It takes memory as it fills: a node may have thousands of
/// shards, and most of their inboxes are empty.
struct Lane<R> {
    queue: SegQueue<(R, Instant)>,
    /// Those in it, and those about to be.
    len: AtomicUsize,
}

impl<R> Lane<R> {
    fn new() -> Self {
        Lane { queue: SegQueue::new(), len: AtomicUsize::new(0) }
    }

    /// Adds a request, unless there are `most` already.
    fn push(&self, request: R, most: usize) -> Result<(), R> {
        if self.len.fetch_add(1, Ordering::Relaxed) >= most {
            self.len.fetch_sub(1, Ordering::Relaxed);
            return Err(request);
        }
        self.queue.push((request, Instant::now()));
        Ok(())
    }

    fn pop(&self) -> Option<(R, Instant)> {
        let request = self.queue.pop()?;
        self.len.fetch_sub(1, Ordering::Relaxed);
        Some(request)
    }
}

/// Requests waiting at a shard. Full means "come back later" to the caller at once; for some it is full earlier.
pub struct Inbox<R> {
    lane: Lane<R>,
    /// Of running jobs: they wait for no others.
    urgent: Lane<R>,
    /// Of each.
    capacity: usize,
    unparker: Unparker,
}

impl<R> Inbox<R> {
    /// An inbox of this many requests, whose reader is woken by `unparker`.
    pub fn new(capacity: usize, unparker: Unparker) -> Self {
        Inbox { lane: Lane::new(), urgent: Lane::new(), capacity, unparker }
    }

    /// Leaves a request; it comes back if the inbox is full.
    pub fn send(&self, request: R) -> Result<(), R> {
        self.send_within(request, 100)
    }

    /// Leaves a request, unless the inbox is filled to `percent`: room is kept for requests that matter more.
    pub fn send_within(&self, request: R, percent: usize) -> Result<(), R> {
        self.lane.push(request, (self.capacity * percent).div_ceil(100))?;
        self.unparker.unpark();
        Ok(())
    }

    /// Leaves a request that is taken before all others.
    pub fn send_urgent(&self, request: R) -> Result<(), R> {
        self.urgent.push(request, self.capacity)?;
        self.unparker.unpark();
        Ok(())
    }

    /// Takes the oldest request, an urgent one if there is any, and when it came.
    pub fn take(&self) -> Option<(R, Instant)> {
        self.urgent.pop().or_else(|| self.lane.pop())
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.urgent.queue.is_empty() && self.lane.queue.is_empty()
    }

    /// Wakes the reader.
    pub fn wake(&self) {
        self.unparker.unpark();
    }
}

/// Use of resources by the jobs of a shard, or of all: what shares and caps are computed from.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Leased jobs by queue.
    pub queue_leased: BTreeMap<u32, u64>,
    /// Cores of leased jobs by share.
    pub share_cores: BTreeMap<u32, u64>,
    /// Leased jobs by user.
    pub user_leased: BTreeMap<String, u64>,
    /// Live jobs by user, of users that have a cap on them. Told apart: the layout of the rest is that of all versions.
    #[serde(skip)]
    pub user_live: ByUser,
}

impl Usage {
    /// Adds another shard's or node's.
    pub fn add(&mut self, other: &Usage) {
        for (&queue, n) in &other.queue_leased {
            *self.queue_leased.entry(queue).or_default() += n;
        }
        for (&share, n) in &other.share_cores {
            *self.share_cores.entry(share).or_default() += n;
        }
        for (user, n) in &other.user_leased {
            *self.user_leased.entry(user.clone()).or_default() += n;
        }
        for (user, n) in &other.user_live {
            *self.user_live.entry(user.clone()).or_default() += n;
        }
    }
}

/// Figures of a shard for the cluster view.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct ShardStatus {
    /// Shard.
    pub shard: u16,
    /// Raft term.
    pub term: u64,
    /// Committed index.
    pub commit: u64,
    /// Applied index.
    pub applied: u64,
    /// Entries the slowest replica lacks.
    pub lag: u64,
    /// Index up to which the log may be cut everywhere.
    pub matched: u64,
    /// Version of the cluster's objects at which it had the replicas that it should have.
    pub settled: u64,
    /// Live jobs.
    pub live: u64,
    /// Ready jobs.
    pub ready: u64,
    /// Leased jobs.
    pub leased: u64,
    /// Jobs ended so far.
    pub ended: u64,
    /// Bytes of jobs in memory.
    pub job_bytes: u64,
}

/// A data shard, as the node's threads see it.
pub struct ShardSlot {
    /// Number.
    pub shard: u16,
    /// Nodes with a replica; the first is the preferred leader.
    pub replicas: ArcSwap<Vec<u32>>,
    /// Id of the replica here; 0: none.
    pub local: AtomicU64,
    /// Node that leads; 0: none known.
    pub leader: AtomicU32,
    /// Ready index, while it is led here.
    pub index: ArcSwapOption<ReadyIndex>,
    /// Requests, if a replica is here.
    pub inbox: ArcSwapOption<Inbox<Request>>,
    /// Jobs taken from the index whose lease found no room in the inbox, for the reactor to file again. Bounded by the
    /// entries of the index.
    pub returned: SegQueue<Vec<Popped>>,
    /// Bodies, if a replica is here.
    pub store: ArcSwapOption<StateStore>,
    /// Use by its jobs, while it is led here.
    pub usage: ArcSwap<Usage>,
    /// Its figures, while it is led here.
    pub status: ArcSwap<ShardStatus>,
    /// Index up to which the log may be cut, as its leader says: every replica has it on disk, or gets a copy of the
    /// state.
    pub matched: AtomicU64,
}

impl ShardSlot {
    /// A shard without a replica here, yet.
    pub fn new(shard: u16, nodes: Vec<u32>) -> Self {
        ShardSlot {
            shard,
            replicas: ArcSwap::from_pointee(nodes),
            local: Default::default(),
            leader: Default::default(),
            index: Default::default(),
            inbox: Default::default(),
            returned: Default::default(),
            store: Default::default(),
            usage: Default::default(),
            status: Default::default(),
            matched: Default::default(),
        }
    }

    /// The preferred leader; 0: none.
    pub fn preferred(&self) -> u32 {
        self.replicas.load().first().copied().unwrap_or(0)
    }

    /// Node that leads; 0: none known.
    pub fn leader(&self) -> u32 {
        self.leader.load(Ordering::Relaxed)
    }
}

/// Counters of the node.
#[derive(Default)]
pub struct Counters {
    /// Heartbeats of single jobs taken.
    pub heartbeats: AtomicU64,
    /// Results refused: stale, foreign, ended.
    pub refused: AtomicU64,
    /// Requests refused because something was full.
    pub shed: AtomicU64,
    /// Leased jobs handed to workers.
    pub leased: AtomicU64,
    /// Jobs submitted through this node.
    pub submitted: AtomicU64,
    /// Submissions taken through this node.
    pub submissions: AtomicU64,
    /// Results accepted.
    pub accepted: AtomicU64,
}

impl Counters {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// Shared by all threads of a node.
pub struct Directory {
    /// This node.
    pub node: u32,
    /// Cluster name.
    pub cluster: String,
    /// Data shards 1, 2, ….
    pub shards: Vec<ShardSlot>,
    /// Node that leads the meta group; 0: none known.
    pub meta_leader: AtomicU32,
    /// Nodes that vote in it.
    pub meta_voters: ArcSwap<Vec<u32>>,
    /// Requests to the meta group, if a replica is here.
    pub meta_inbox: Option<Inbox<MetaRequest>>,
    /// The operator's objects.
    pub meta: ArcSwap<MetaView>,
    /// Told when `meta` changes.
    pub meta_changed: Notify,
    /// Order of the shares.
    pub order: ArcSwap<ShareOrder>,
    /// Use of resources over the whole cluster.
    pub usage: ArcSwap<Usage>,
    /// Caps on users' live jobs.
    pub live: LiveJobs,
    /// What the other nodes said last.
    pub hints: ArcSwap<BTreeMap<u32, Arc<ArcSwap<NodeHints>>>>,
    /// Time.
    pub clock: Clock,
    /// What each node's last word makes of this node's clock: see [`Clock::base_of_ms`].
    pub times: Mutex<BTreeMap<u32, i64>>,
    /// Lease requests that wait.
    pub waiting: WaitRooms,
    /// The disk of the data folder.
    pub disk: Arc<Disk>,
    /// Shards whose replica here was found damaged and set aside: it must be replaced by one with another id.
    pub damaged: ArcSwap<Vec<u16>>,
    /// This node stops: it wants no leadership.
    pub draining: AtomicBool,
    /// Wakes the hint task before its time.
    pub hint_now: Notify,
    /// Counters.
    pub counters: Counters,
}

impl Directory {
    /// A data shard.
    pub fn shard(&self, shard: u16) -> Option<&ShardSlot> {
        self.shards.get(usize::from(shard).checked_sub(1)?)
    }

    /// Shards led here.
    pub fn led_here(&self) -> impl Iterator<Item = &ShardSlot> {
        self.shards.iter().filter(|s| s.leader() == self.node)
    }

    /// Unix time by this node's system, ms.
    pub fn system_ms(&self) -> u64 {
        let ms = self.clock.system_base_ms() + self.clock.mono_us() as i64 / 1_000;
        u64::try_from(ms).unwrap_or(0)
    }

    fn times(&self) -> MutexGuard<'_, BTreeMap<u32, i64>> {
        self.times.lock().expect("no thread panics while it holds this lock")
    }

    /// A node said what its system takes the time to be.
    pub fn time_told(&self, node: u32, system_ms: u64) {
        self.times().insert(node, self.clock.base_of_ms(system_ms));
    }

    /// What the other nodes' words make of this node's clock.
    pub fn times_told(&self) -> Vec<(u32, i64)> {
        let others = self.hints.load();
        self.times().iter().filter(|(node, _)| others.contains_key(node)).map(|(node, base)| (*node, *base)).collect()
    }

    /// The other nodes are these from now on.
    pub fn set_others(&self, nodes: impl Iterator<Item = u32>) {
        let before = self.hints.load();
        let told = |node: u32| (node, before.get(&node).cloned().unwrap_or_default());
        let others: BTreeMap<_, _> = nodes.filter(|&node| node != self.node).map(told).collect();
        if !others.keys().eq(before.keys()) {
            self.hints.store(Arc::new(others));
        }
    }

    /// Whether a node wants no leadership, or did not when it was last heard of: it stops, or its disk is full or hangs.
    pub fn is_draining(&self, node: u32) -> bool {
        let told = || self.hints.load().get(&node).is_some_and(|hints| hints.load().draining);
        let own = || self.draining.load(Ordering::Relaxed) || self.disk.is_unwilling();
        if node == self.node { own() } else { told() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_keeps_room_for_what_matters_more() {
        let inbox = Inbox::new(8, crossbeam::sync::Parker::new().unparker().clone());
        (0..4).for_each(|n| inbox.send_within(n, 50).unwrap());
        assert_eq!(inbox.send_within(4, 50), Err(4));
        (4..8).for_each(|n| inbox.send(n).unwrap());
        assert_eq!(inbox.send(8), Err(8));
        assert_eq!(inbox.take().map(|(n, _)| n), Some(0));
        assert_eq!(inbox.send_within(8, 75), Err(8));
        assert_eq!(inbox.send(8), Ok(()));
    }

    #[test]
    fn what_is_urgent_comes_first_and_finds_room() {
        let inbox = Inbox::new(2, crossbeam::sync::Parker::new().unparker().clone());
        (0..2).for_each(|n| inbox.send(n).unwrap());
        assert_eq!(inbox.send(2), Err(2));
        (10..12).for_each(|n| inbox.send_urgent(n).unwrap());
        assert_eq!(inbox.send_urgent(12), Err(12));
        assert!(std::iter::from_fn(|| inbox.take().map(|(n, _)| n)).eq([10, 11, 0, 1]) && inbox.is_empty());
    }
}
