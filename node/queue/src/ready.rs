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

use crate::class::{ClassId, ClassKey};
use arc_swap::ArcSwap;
use crossbeam::queue::SegQueue;
use crossbeam_skiplist::SkipMap;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

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

    fn has(&self) -> bool {
        self.len.load(Ordering::Relaxed) > 0
    }
}

#[derive(Default)]
struct Level {
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
        if class.len.fetch_add(1, Ordering::Relaxed) <= 0 {
            class.head.store(seq, Ordering::Relaxed);
        }
        if at_head {
            class.returned.push(seq);
        } else {
            class.fifo.push(seq);
        }
        queue.len.fetch_add(1, Ordering::Relaxed);
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

    /// Drops empty priorities, so that a walk meets none. Only the shard's reactor may call this.
    pub fn tidy(&self) {
        for queue in self.queues.load().values() {
            for lane in queue.lanes.load().iter() {
                for level in lane.levels.iter() {
                    let classes = level.value().classes.load();
                    if classes.iter().all(|c| !c.has() && c.fifo.is_empty() && c.returned.is_empty()) {
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
        // A number may be used again for other needs once its class is gone: the key decides.
        if let Some(class) = classes.iter().find(|c| c.id == id && (Arc::ptr_eq(&c.key, key) || c.key == *key)) {
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
        let mut classes: Vec<Arc<Class>> =
            classes.iter().filter(|c| c.has() || !c.fifo.is_empty() || !c.returned.is_empty()).cloned().collect();
        classes.push(class.clone());
        self.classes.store(Arc::new(classes));
        class
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
        let (at, class) = classes
            .iter()
            .enumerate()
            .min_by_key(|(_, c)| c.head.load(Ordering::Relaxed))
            .expect("there is a class");
        let room = wanted.max - (out.len() - before);
        let turn = if classes.len() == 1 { room } else { room.min(TURN_JOBS) };
        if class.take(turn, out) < turn || !class.has() {
            classes.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(queue: u32, share: u32, owner: &str) -> Arc<ClassKey> {
        Arc::new(ClassKey { queue, share, owner: owner.into(), ..Default::default() })
    }

    fn pop(index: &ReadyIndex, max: usize, by_age: bool) -> Vec<u64> {
        let mut out = Vec::new();
        let wanted = Wanted { fits: &|_| true, rank: &|share| share, by_age, max };
        index.pop(1, &wanted, &mut out);
        out.iter().map(|p| p.seq).collect()
    }

    #[test]
    fn order_is_share_then_priority_then_age() {
        let index = ReadyIndex::default();
        let (low, high) = (key(1, 2, "a"), key(1, 1, "a"));
        index.push(1, ClassId(0), &low, 900);
        index.push(2, ClassId(1), &high, 10);
        index.push(3, ClassId(1), &high, 20);
        index.push(4, ClassId(1), &high, 20);
        index.push(5, ClassId(2), &key(2, 1, "a"), 999);
        assert_eq!(index.summary(1), Summary { ready: 4, top_priority: 900 });
        assert_eq!(pop(&index, 10, false), [3, 4, 2, 1]);
        assert_eq!(index.summary(1), Summary::default());
        assert_eq!(index.summary(2).ready, 1);
    }

    #[test]
    fn by_age_the_oldest_comes_first_whatever_its_priority() {
        let index = ReadyIndex::default();
        let (a, b) = (key(1, 1, "a"), key(1, 2, "b"));
        index.push(10, ClassId(0), &a, 500);
        index.push(3, ClassId(1), &b, -5);
        assert_eq!(pop(&index, 1, true), [3]);
        assert_eq!(pop(&index, 1, false), [10]);
    }

    #[test]
    fn returned_jobs_come_first_and_unfit_classes_stay() {
        let index = ReadyIndex::default();
        let (a, b) = (key(1, 1, "a"), key(1, 1, "b"));
        for seq in 1..=3 {
            index.push(seq, ClassId(0), &a, 0);
        }
        index.push(4, ClassId(1), &b, 0);
        let mut out = Vec::new();
        let only_b = Wanted { fits: &|k| &*k.owner == "b", rank: &|_| 0, by_age: false, max: 9 };
        index.pop(1, &only_b, &mut out);
        assert_eq!(out.len(), 1);
        assert_eq!(pop(&index, 1, false), [1]);
        index.put_back(1, ClassId(0), &a, 0);
        assert_eq!(pop(&index, 9, false), [1, 2, 3]);
        index.tidy();
        index.close();
        index.push(9, ClassId(0), &a, 0);
        assert!(pop(&index, 1, false).is_empty());
    }

    #[test]
    fn classes_of_equal_priority_take_turns() {
        let index = ReadyIndex::default();
        let (a, b) = (key(1, 1, "a"), key(1, 1, "b"));
        for seq in 0..32 {
            index.push(1 + seq, ClassId(0), &a, 0);
            index.push(101 + seq, ClassId(1), &b, 0);
        }
        let first: Vec<u64> = pop(&index, 64, false);
        assert_eq!(first.len(), 64);
        assert_eq!(first[0], 1);
    }

    #[test]
    fn many_threads_take_every_job_once() {
        let index = ReadyIndex::default();
        let a = key(1, 1, "a");
        const JOBS: u64 = 20_000;
        let taken: Vec<Vec<u64>> = std::thread::scope(|scope| {
            let poppers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let mut mine = Vec::new();
                        while mine.last() != Some(&u64::MAX) {
                            mine.extend(pop(&index, 7, false));
                            if index.summary(1).ready == 0 && index.summary(2).ready > 0 {
                                mine.push(u64::MAX);
                            }
                        }
                        mine.pop();
                        mine
                    })
                })
                .collect();
            for seq in 1..=JOBS {
                index.push(seq, ClassId(0), &a, (seq % 3) as i32);
            }
            // Queue 2 tells the threads that nothing more comes.
            index.push(1, ClassId(9), &key(2, 1, "end"), 0);
            poppers.into_iter().map(|p| p.join().unwrap()).collect()
        });
        let mut all: Vec<u64> = taken.into_iter().flatten().chain(pop(&index, JOBS as usize, false)).collect();
        all.sort_unstable();
        assert_eq!(all, (1..=JOBS).collect::<Vec<_>>());
    }
}
