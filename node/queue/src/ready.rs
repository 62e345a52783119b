//! The leader's index of ready jobs: queue -> share -> priority -> class -> FIFO. Lock-free: one writer, the shard's
//! reactor, pushes; any number of threads pop at the same time.
//!
//! The index is volatile and only proposes. Whoever pops a job owns that entry; the reactor checks it against the
//! table (still ready, same class and priority, not reserved) and the log decides. Entries of jobs that were held,
//! killed or re-prioritised stay behind as stale ones and are thrown away when popped; the reactor counts them and
//! builds the index anew when they are many. A lost leadership drops the whole index.
//!
//! Within a shard the order is strict by (share rank, priority) and FIFO within a class; classes of equal priority
//! take turns by the age of their first job. Each entry costs about 8 bytes.
//!
//! Why no entry is lost or seen twice, though nothing is locked:
//! - an entry lives in one `SegQueue`, which gives it to one popper;
//! - a popper may hold an older list of lanes, levels or classes: what it finds there is real, what it misses stays;
//! - only [`ReadyIndex::tidy`] takes classes and levels out, and only the writer calls it: one that the writer finds
//!   empty stays empty, since nobody else fills it;
//! - counters are raised before the entry is filed and lowered after it was taken, so they may say too much for a
//!   moment, never too little: whoever is woken by a push finds it, or, if one that goes by age took it, leaves with
//!   nothing beside another that is counted.

use super::class::{ClassId, ClassKey};
use super::sync::{ArcSwap, AtomicBool, AtomicI64, AtomicU64, Ordering, SegQueue, SkipMap};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Jobs of one class taken in a row before the next class of equal priority has its turn.
const TURN_JOBS: usize = 8;

/// A job taken from the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Popped {
    /// Job.
    pub seq: u64,
    /// Class it was filed under.
    pub class: ClassId,
    /// Priority it was filed under.
    pub priority: i32,
}

/// What a pop looks for.
pub struct Wanted<'a> {
    /// The worker fits this class, and the class may run.
    pub fits: &'a dyn Fn(&ClassKey) -> bool,
    /// Rank of a share; lower first.
    pub rank: &'a dyn Fn(u32) -> u32,
    /// Oldest job first, whatever its share and priority.
    pub by_age: bool,
    /// Most jobs to take.
    pub max: usize,
}

/// What a queue has ready, for the hints between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries, stale ones included.
    pub ready: u64,
    /// Highest priority.
    pub top_priority: i32,
}

struct Class {
    id: ClassId,
    key: Arc<ClassKey>,
    priority: i32,
    fifo: SegQueue<u64>,
    /// Entries that came back after a dropped proposal; taken first.
    returned: SegQueue<u64>,
    len: AtomicI64,
    /// About the number of the first job: the last one taken. Orders classes by age.
    head: AtomicU64,
}

impl Class {
    fn pop(&self) -> Option<u64> {
        let seq = self.returned.pop().or_else(|| self.fifo.pop())?;
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.head.store(seq, Ordering::Relaxed);
        Some(seq)
    }

    /// It may have entries: cheap, for poppers.
    fn has(&self) -> bool {
        self.len.load(Ordering::Relaxed) > 0
    }

    /// It has none; lasting when the writer asks.
    fn is_empty(&self) -> bool {
        self.fifo.is_empty() && self.returned.is_empty()
    }
}

#[derive(Default)]
struct Level {
    /// By number.
    classes: ArcSwap<Vec<Arc<Class>>>,
}

struct Lane {
    share: u32,
    levels: SkipMap<Reverse<i32>, Arc<Level>>,
}

#[derive(Default)]
struct Queue {
    lanes: ArcSwap<Vec<Arc<Lane>>>,
    len: AtomicI64,
}

/// The ready jobs of one shard.
#[derive(Default)]
pub struct ReadyIndex {
    queues: ArcSwap<BTreeMap<u32, Arc<Queue>>>,
    closed: AtomicBool,
}

impl ReadyIndex {
    fn queue(&self, id: u32) -> Option<Arc<Queue>> {
        self.queues.load().get(&id).cloned()
    }

    /// Files a job. Only the shard's reactor may call this.
    pub fn push(&self, seq: u64, class: ClassId, key: &Arc<ClassKey>, priority: i32) {
        self.file(seq, class, key, priority, false);
    }

    /// Puts a job back at the head of its class. Only the shard's reactor may call this.
    pub fn put_back(&self, seq: u64, class: ClassId, key: &Arc<ClassKey>, priority: i32) {
        self.file(seq, class, key, priority, true);
    }

    fn file(&self, seq: u64, id: ClassId, key: &Arc<ClassKey>, priority: i32, at_head: bool) {
        let queue = match self.queue(key.queue) {
            Some(queue) => queue,
            None => {
                let queue = Arc::new(Queue::default());
                let mut queues = BTreeMap::clone(&self.queues.load());
                queues.insert(key.queue, queue.clone());
                self.queues.store(Arc::new(queues));
                queue
            }
        };
        let lane = queue.lane(key.share);
        let level = match lane.levels.get(&Reverse(priority)) {
            Some(entry) => entry.value().clone(),
            None => lane.levels.insert(Reverse(priority), Arc::new(Level::default())).value().clone(),
        };
        let class = level.class(id, key, priority);
        queue.len.fetch_add(1, Ordering::Relaxed);
        if class.len.fetch_add(1, Ordering::Relaxed) <= 0 {
            class.head.store(seq, Ordering::Relaxed);
        }
        if at_head {
            class.returned.push(seq);
        } else {
            class.fifo.push(seq);
        }
    }

    /// Takes up to `wanted.max` jobs of a queue, best first, and appends them to `out`. Any thread.
    pub fn pop(&self, queue: u32, wanted: &Wanted<'_>, out: &mut Vec<Popped>) {
        let Some(queue) = self.queue(queue) else { return };
        if self.closed.load(Ordering::Acquire) || queue.len.load(Ordering::Relaxed) <= 0 {
            return;
        }
        let before = out.len();
        let mut lanes: Vec<Arc<Lane>> = queue.lanes.load().to_vec();
        if lanes.len() > 1 {
            lanes.sort_by_key(|lane| (wanted.rank)(lane.share));
        }
        if wanted.by_age {
            pop_by_age(&lanes, wanted, out, before);
        }
        'lanes: for lane in &lanes {
            for level in lane.levels.iter() {
                level.value().pop(wanted, out, before);
                if out.len() - before >= wanted.max {
                    break 'lanes;
                }
            }
        }
        queue.len.fetch_sub((out.len() - before) as i64, Ordering::Relaxed);
    }

    /// What a queue has ready.
    pub fn summary(&self, queue: u32) -> Summary {
        self.queue(queue).map(|q| q.summary()).unwrap_or_default()
    }

    /// All queues that have something ready.
    pub fn summaries(&self) -> Vec<(u32, Summary)> {
        let queues = self.queues.load();
        queues.iter().map(|(&id, queue)| (id, queue.summary())).filter(|(_, s)| s.ready > 0).collect()
    }

    /// Drops empty classes and priorities, so that a walk meets few. Only the shard's reactor may call this.
    pub fn tidy(&self) {
        for queue in self.queues.load().values() {
            for lane in queue.lanes.load().iter() {
                for level in lane.levels.iter() {
                    if level.value().drop_empty() {
                        level.remove();
                    }
                }
            }
        }
    }

    /// No more pops: the leadership is lost.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

impl Queue {
    fn lane(&self, share: u32) -> Arc<Lane> {
        let lanes = self.lanes.load();
        if let Some(lane) = lanes.iter().find(|l| l.share == share) {
            return lane.clone();
        }
        let lane = Arc::new(Lane { share, levels: SkipMap::new() });
        let mut lanes = Vec::clone(&lanes);
        lanes.push(lane.clone());
        self.lanes.store(Arc::new(lanes));
        lane
    }

    fn summary(&self) -> Summary {
        let ready = self.len.load(Ordering::Relaxed).max(0) as u64;
        if ready == 0 {
            return Summary::default();
        }
        let top = |lane: &Arc<Lane>| {
            let mut levels = lane.levels.iter();
            levels.find(|l| l.value().classes.load().iter().any(|c| c.has())).map(|l| l.key().0)
        };
        Summary { ready, top_priority: self.lanes.load().iter().filter_map(top).max().unwrap_or(0) }
    }
}

impl Level {
    fn class(&self, id: ClassId, key: &Arc<ClassKey>, priority: i32) -> Arc<Class> {
        let classes = self.classes.load();
        let at = classes.partition_point(|c| c.id < id);
        // A number may be used again for other needs once its class is gone: the key decides.
        let mut same = classes[at..].iter().take_while(|c| c.id == id);
        if let Some(class) = same.find(|c| Arc::ptr_eq(&c.key, key) || c.key == *key) {
            return class.clone();
        }
        let class = Arc::new(Class {
            id,
            key: key.clone(),
            priority,
            fifo: SegQueue::new(),
            returned: SegQueue::new(),
            len: AtomicI64::new(0),
            head: AtomicU64::new(0),
        });
        let mut classes = Vec::clone(&classes);
        classes.insert(at, class.clone());
        self.classes.store(Arc::new(classes));
        class
    }

    /// Drops empty classes; `true`: none is left.
    fn drop_empty(&self) -> bool {
        let classes = self.classes.load();
        let left: Vec<Arc<Class>> = classes.iter().filter(|c| !c.is_empty()).cloned().collect();
        if !left.is_empty() && left.len() < classes.len() {
            self.classes.store(Arc::new(left));
            return false;
        }
        left.is_empty()
    }

    fn pop(&self, wanted: &Wanted<'_>, out: &mut Vec<Popped>, before: usize) {
        let classes = self.classes.load();
        let mut fitting: Vec<&Arc<Class>> = classes.iter().filter(|c| c.has() && (wanted.fits)(&c.key)).collect();
        while out.len() - before < wanted.max {
            let Some((at, class)) =
                fitting.iter().enumerate().min_by_key(|(_, c)| c.head.load(Ordering::Relaxed)).map(|(i, c)| (i, *c))
            else {
                return;
            };
            let room = wanted.max - (out.len() - before);
            let turn = if fitting.len() == 1 { room } else { room.min(TURN_JOBS) };
            let popped = class.take(turn, out);
            if popped < turn || !class.has() {
                fitting.swap_remove(at);
            }
        }
    }
}

impl Class {
    fn take(&self, max: usize, out: &mut Vec<Popped>) -> usize {
        let before = out.len();
        while out.len() - before < max {
            let Some(seq) = self.pop() else { break };
            out.push(Popped { seq, class: self.id, priority: self.priority });
        }
        out.len() - before
    }
}

/// Takes from the classes with the oldest first jobs, over all shares and priorities.
fn pop_by_age(lanes: &[Arc<Lane>], wanted: &Wanted<'_>, out: &mut Vec<Popped>, before: usize) {
    let mut classes: Vec<Arc<Class>> = Vec::new();
    for lane in lanes {
        for level in lane.levels.iter() {
            let found = level.value().classes.load();
            classes.extend(found.iter().filter(|c| c.has() && (wanted.fits)(&c.key)).cloned());
        }
    }
    while out.len() - before < wanted.max && !classes.is_empty() {
        let (at, class) =
            classes.iter().enumerate().min_by_key(|(_, c)| c.head.load(Ordering::Relaxed)).expect("there is a class");
        let room = wanted.max - (out.len() - before);
        let turn = if classes.len() == 1 { room } else { room.min(TURN_JOBS) };
        if class.take(turn, out) < turn || !class.has() {
            classes.swap_remove(at);
        }
    }
}

// The path is named because the models include this file from another folder.
#[cfg(test)]
#[path = "ready/tests.rs"]
mod tests;
