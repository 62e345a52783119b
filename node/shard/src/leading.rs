//! What only the leader of a shard keeps, in memory: the ready index, leases, timers, arrays to feed, and cursors of
//! its periodic work. Built anew from the machine when a leadership begins, dropped when it ends.

use crate::leases::{ExpiryPolicy, LeaseTable};
use crate::limits::{ARRAY_FEED_LOW, ARRAY_FEED_MAX, INDEX_REBUILD_STALE_MIN, PHASES_MAX};
use crate::settlements::Settlements;
use moso_proto::JobState;
use moso_queue::ready::Popped;
use moso_queue::{Effects, Machine, ReadyIndex};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An array whose jobs are filed in the index piece by piece.
#[derive(Debug)]
struct Feed {
    /// Positions below were filed.
    next: u32,
    /// Filed and not yet seen again.
    outstanding: u32,
}

/// The leader's volatile state.
pub struct Leading {
    /// Ready jobs; shared with the threads that answer lease requests.
    pub index: Arc<ReadyIndex>,
    /// Leases.
    pub leases: LeaseTable,
    /// Wall-clock times at which jobs and tasks are to be woken.
    timers: BTreeMap<u64, Vec<u64>>,
    feeds: BTreeMap<u64, Feed>,
    /// Phases that workers reported, not yet proposed.
    pub phases: Vec<(u64, u32, u8)>,
    /// What sessions said they hold, not yet compared.
    pub settlements: Settlements,
    /// Where the walk for time-outs goes on.
    pub sweep_from: u64,
    /// When the periodic work was last done.
    pub second_ms: u64,
    /// When submissions were last pruned.
    pub pruned_ms: u64,
    stale: u64,
}

impl Leading {
    /// Begins a leadership.
    pub fn new(machine: &mut Machine, now_ms: u64, policy: ExpiryPolicy) -> Self {
        let leases = LeaseTable::new(machine, now_ms, policy);
        let mut leading = Leading {
            index: Arc::new(ReadyIndex::default()),
            leases,
            timers: BTreeMap::new(),
            feeds: BTreeMap::new(),
            phases: Vec::new(),
            settlements: Settlements::default(),
            sweep_from: 0,
            second_ms: now_ms,
            pruned_ms: now_ms,
            stale: 0,
        };
        for job in machine.jobs().from(0).filter(|j| j.state == JobState::Defined) {
            leading.timer(job.ready_ms, job.seq);
        }
        // Times that have passed are filed as well: the wake-up may have been lost with the last leadership.
        for task in machine.tasks_from(0) {
            if task.rest_state == JobState::Defined {
                leading.timer(task.not_before_ms, task.seq);
            }
            if task.expires_at_ms > 0 {
                leading.timer(task.expires_at_ms, task.seq);
            }
        }
        leading.fill_index(machine);
        leading
    }

    fn fill_index(&mut self, machine: &Machine) {
        for job in machine.jobs().from(0).filter(|j| j.state == JobState::Activated && !j.reserved) {
            self.index.push(job.seq, job.class, &machine.classes().get(job.class).key, job.priority);
        }
        self.feeds.clear();
        for task in machine.tasks_from(0).filter(|t| t.array && t.rest_state == JobState::Activated) {
            self.feeds.insert(task.seq, Feed { next: 0, outstanding: 0 });
        }
        self.feed(machine);
    }

    /// Replaces an index that holds more stale entries than live ones.
    pub fn rebuild_if_stale(&mut self, machine: &Machine) {
        if self.stale < INDEX_REBUILD_STALE_MIN {
            return;
        }
        let filed: u64 = self.index.summaries().iter().map(|(_, summary)| summary.ready).sum();
        if self.stale < filed / 2 {
            return;
        }
        self.stale = 0;
        self.index.close();
        self.index = Arc::new(ReadyIndex::default());
        self.fill_index(machine);
    }

    fn timer(&mut self, time_ms: u64, seq: u64) {
        self.timers.entry(time_ms).or_default().push(seq);
    }

    /// Takes up what applying an entry brought.
    pub fn take_effects(&mut self, machine: &mut Machine, effects: &Effects, now_ms: u64, policy: ExpiryPolicy) {
        for &(seq, class, priority) in &effects.ready {
            // It may have been leased or ended by a later command of the same turn.
            if machine
                .job(seq)
                .is_some_and(|j| j.state == JobState::Activated && j.class == class && j.priority == priority)
            {
                self.index.push(seq, class, &machine.classes().get(class).key, priority);
            }
        }
        for &task in &effects.ready_arrays {
            self.feeds.insert(task, Feed { next: 0, outstanding: 0 });
        }
        for &(time, seq) in &effects.timers {
            self.timer(time, seq);
        }
        for &seq in &effects.leased {
            self.leases.leased(machine, seq, now_ms, policy);
        }
        self.stale += effects.unready;
        if !effects.ready_arrays.is_empty() {
            self.feed(machine);
        }
    }

    /// Files more jobs of arrays whose filed ones have run low.
    pub fn feed(&mut self, machine: &Machine) {
        let index = &self.index;
        self.feeds.retain(|&seq, feed| {
            let Some(task) = machine.task(seq).filter(|t| t.rest_state == JobState::Activated) else {
                return false;
            };
            if feed.outstanding > ARRAY_FEED_LOW {
                return true;
            }
            let key = &machine.classes().get(task.class).key;
            for &(start, end) in &task.rest {
                if end <= feed.next {
                    continue;
                }
                for position in start.max(feed.next)..end {
                    if feed.outstanding >= ARRAY_FEED_MAX {
                        return true;
                    }
                    index.push(task.first() + u64::from(position), task.class, key, task.priority);
                    feed.outstanding += 1;
                    feed.next = position + 1;
                }
            }
            // All is filed; entries that come back go straight to the index.
            false
        });
    }

    /// Checks a job taken from the index against the table, and reserves it.
    pub fn claim(&mut self, machine: &mut Machine, popped: &Popped) -> bool {
        // An action may have made the job meanwhile: it counts as seen all the same, or the feed would dry up.
        if !self.feeds.is_empty()
            && let Some(feed) = machine.task_of(popped.seq).and_then(|task| self.feeds.get_mut(&task.seq))
        {
            feed.outstanding = feed.outstanding.saturating_sub(1);
        }
        let good = reserve(machine, popped);
        if !good {
            self.stale = self.stale.saturating_sub(1);
        }
        good
    }

    /// Gives a job that was taken from the index, but not claimed, back to the head of its class.
    pub fn put_back(&self, machine: &Machine, popped: &Popped) {
        if let Some(class) = machine.classes().find(popped.class) {
            self.index.put_back(popped.seq, popped.class, &class.key, popped.priority);
        }
    }

    /// Remembers a phase that a worker reported; `false`: there is no room.
    pub fn phase(&mut self, seq: u64, attempt: u32, phase: u8) -> bool {
        let room = self.phases.len() < PHASES_MAX;
        if room {
            self.phases.push((seq, attempt, phase));
        }
        room
    }

    /// Jobs and tasks whose time has come by `wall_ms`.
    pub fn due(&mut self, wall_ms: u64, max: usize) -> Vec<u64> {
        let mut out = Vec::new();
        while let Some(mut timer) = self.timers.first_entry().filter(|t| *t.key() <= wall_ms) {
            let jobs = timer.get_mut();
            while out.len() < max {
                let Some(seq) = jobs.pop() else { break };
                out.push(seq);
            }
            if !jobs.is_empty() {
                break;
            }
            timer.remove();
        }
        out
    }

    /// Estimated bytes held, the index aside.
    pub fn memory_bytes(&self) -> usize {
        self.leases.memory_bytes()
            + self.settlements.memory_bytes()
            + self.timers.len() * 64
            + self.phases.capacity() * 16
    }
}

/// Whether the entry is a ready job as it was filed. Reserves it, if it has a record.
fn reserve(machine: &mut Machine, popped: &Popped) -> bool {
    if let Some(job) = machine.jobs_volatile().get_mut(popped.seq) {
        let good = job.state == JobState::Activated
            && !job.reserved
            && job.class == popped.class
            && job.priority == popped.priority;
        job.reserved |= good;
        return good;
    }
    let Some(task) = machine.task_of(popped.seq).filter(|t| t.array) else {
        return false;
    };
    // Filed anew under its new priority, if that has changed.
    task.position(popped.seq).is_some_and(|position| task.is_unmade(position))
        && task.rest_state == JobState::Activated
        && task.class == popped.class
        && task.priority == popped.priority
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.index.close();
    }
}
