//! Turns. While the threads that serve calls are behind, connections read one after the other, so many in a tick that
//! the run queue stays short; workers that hold jobs read at once. So a heartbeat waits a few ms, however many others
//! knock, and those are still answered: with what the node can do, or with when to come back.

use super::Gate;
use crate::directory::Counters;
use crate::usage::thread_cpu_us;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::ThreadId;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How often turns are given while the node is behind,
const TICK: Duration = Duration::from_millis(2);
/// and how often it is looked whether it is.
const LOOK: Duration = Duration::from_millis(10);
/// Work between two ticks above which the node is behind: a heartbeat waits for it at each of its steps.
const BEHIND_US: u64 = 8_000;
/// Turns of a tick: at least some ms of work; at most what brings the work to [`BEHIND_US`] in any case.
const TURNS: (usize, usize) = (8, 512);
/// Ticks with less than half of that work after which it is no longer behind: half a second.
const CALM_TICKS: u32 = 250;

/// Gives turns.
pub struct Pace {
    behind: AtomicBool,
    turns: Arc<Semaphore>,
    /// Times that the node fell behind.
    falls: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { behind: AtomicBool::new(false), turns: Arc::new(Semaphore::new(0)), falls: AtomicU64::new(0) }
    }
}

impl Pace {
    /// Connections take turns.
    pub fn is_behind(&self) -> bool {
        self.behind.load(Relaxed)
    }

    /// Waits for a turn, if there are turns.
    pub async fn turn(&self) {
        if self.is_behind()
            && let Ok(turn) = self.turns.acquire().await
        {
            turn.forget();
        }
    }

    pub(super) fn turns(&self) -> Arc<Semaphore> {
        self.turns.clone()
    }

    #[cfg(test)]
    pub(super) fn begin_turns(&self) {
        self.give(true, 0);
    }

    /// Times that the node fell behind since the start.
    pub fn falls(&self) -> u64 {
        self.falls.load(Relaxed)
    }

    /// Gives turns; those left over are taken away.
    fn give(&self, behind: bool, turns: usize) {
        if behind && !self.behind.swap(behind, Relaxed) {
            self.falls.fetch_add(1, Relaxed);
        }
        self.behind.store(behind, Relaxed);
        let spare = self.turns.available_permits();
        match turns.checked_sub(spare) {
            Some(more) => self.turns.add_permits(more),
            None => drop(self.turns.forget_permits(spare - turns)),
        }
    }
}

/// How many turns there are in a tick.
#[derive(Debug)]
struct Quota {
    turns: usize,
    behind: bool,
    calm: u32,
}

impl Quota {
    fn new() -> Self {
        Quota { turns: TURNS.1, behind: false, calm: 0 }
    }

    /// So much work was done since the last tick.
    fn after(&mut self, work_us: u64) {
        let (min, max) = TURNS;
        if work_us > BEHIND_US {
            // The first time it is not known how much work a turn is.
            self.turns = if self.behind { (self.turns / 2).max(min) } else { max / 8 };
            (self.behind, self.calm) = (true, 0);
        } else {
            self.turns = (self.turns + self.turns / 8 + 1).min(max);
            self.calm = if work_us < BEHIND_US / 2 { self.calm + 1 } else { 0 };
            self.behind &= self.calm < CALM_TICKS;
        }
    }
}

/// How much work the thread that is asked has done. A task that moves between threads is told how late it was instead.
struct Work {
    thread: ThreadId,
    cpu_us: u64,
    due: Instant,
}

impl Work {
    fn begin(tick: Duration) -> Work {
        Work { thread: std::thread::current().id(), cpu_us: thread_cpu_us(), due: Instant::now() + tick }
    }

    fn done_us(&self) -> u64 {
        match self.thread == std::thread::current().id() {
            // The waiting in between costs next to nothing.
            true => thread_cpu_us().saturating_sub(self.cpu_us),
            false => self.due.elapsed().as_micros() as u64,
        }
    }
}

/// Gives turns until it is dropped. Must run among the tasks that serve.
pub async fn run(gate: Arc<Gate>, taken: impl Fn() -> u64 + Send) {
    let (mut quota, mut second) = (Quota::new(), Instant::now());
    loop {
        let tick = if quota.behind { TICK } else { LOOK };
        let work = Work::begin(tick);
        tokio::time::sleep(tick).await;
        quota.after(work.done_us());
        gate.pace.give(quota.behind, quota.turns);
        if second.elapsed() >= Duration::from_secs(1) {
            second = Instant::now();
            gate.refusals.second(taken());
        }
    }
}

/// Submissions taken so far, for [`run`].
pub fn taken(counters: &Counters) -> u64 {
    counters.submissions.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_the_work() {
        let mut quota = Quota::new();
        // Each turn is 100 µs of work, beside 2 ms of other work.
        let work = |quota: &mut Quota| quota.after(2_000 + 100 * quota.turns as u64);
        work(&mut quota);
        assert!(quota.behind);
        let mut turns = Vec::new();
        for _ in 0..100 {
            work(&mut quota);
            turns.push(quota.turns);
        }
        let mean = turns[50..].iter().sum::<usize>() / 50;
        assert!((30..=70).contains(&mean), "{turns:?}");
        assert!(quota.behind, "there is still enough to do");
        (0..CALM_TICKS).for_each(|_| quota.after(100));
        assert!(!quota.behind);
    }

    #[test]
    fn some_turns_are_given_however_much_there_is_to_do() {
        let mut quota = Quota::new();
        (0..1_000).for_each(|_| quota.after(1_000_000));
        assert_eq!((quota.turns, quota.behind), (TURNS.0, true));
    }

    #[tokio::test]
    async fn turns_are_taken_in_order_and_do_not_pile_up() {
        let pace = Pace::default();
        pace.turn().await;
        pace.give(true, 3);
        for _ in 0..3 {
            pace.turn().await;
        }
        assert!(futures::FutureExt::now_or_never(pace.turn()).is_none());
        pace.give(true, 3);
        pace.give(true, 2);
        assert_eq!(pace.turns.available_permits(), 2);
        pace.give(false, 2);
        pace.turn().await;
        assert_eq!(pace.falls(), 1);
    }
}
