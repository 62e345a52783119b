//! The disk under a node's data folder: is there space, and does it answer?
//!
//! ```text
//! space.rs    how much is free: enough, low, full      reserve.rs  the file that is given up when it is full
//! pulse.rs    how long the log's write has been going  watch.rs    the threads that look
//! ```
//!
//! A disk that fills up is no disaster if it is noticed in time. Low: submissions are refused, leaderships go to other
//! nodes, all else goes on. Full: the reserve is given up, so that what is under way can be written. Space again: all of
//! it is taken back. A disk that hangs must not lead: other nodes' disks work.

mod pulse;
mod reserve;
mod space;
pub mod watch;

pub use pulse::{Pulse, Verdict};
pub use reserve::Reserve;
pub use space::{Level, Limits};

use crate::error::{Error, Result};
use crate::store::Relief;
use crate::usage;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// How long a write waits for space once the reserve is used up, tries: a minute, in which leaderships have gone and the
/// operator may have freed some.
const TRIES_MAX: u32 = 120;
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(500);
/// A leader that could not hand its leadership over by so long after its disk was found stuck steps down, ms.
const STEP_DOWN_AFTER_MS: u64 = 3_000;

/// The disk of a node, as its threads see it.
///
/// Invariant: `level` is [`Level::Full`] while the reserve is given up.
pub struct Disk {
    node: u32,
    folder: PathBuf,
    limits: Limits,
    level: AtomicU8,
    stuck: AtomicBool,
    stopping: AtomicBool,
    reserve: Mutex<Reserve>,
    /// Of the log's writes.
    pub pulse: Pulse,
}

impl Disk {
    /// Looks at the disk of a node's data folder and makes the reserve. `need` bytes must be free for a start.
    ///
    /// # Errors
    /// `Folder` if there is not that much, even without the reserve; `Io` if the reserve cannot be made for another
    /// reason.
    pub fn open(node: u32, folder: &Path, limits: Limits, stuck_ms: u64, need: u64) -> Result<Disk> {
        let reserve = Reserve::new(folder, limits.reserve);
        let held = reserve.is_made()?;
        if held && usage::disk_free_bytes(folder) < need {
            reserve.give_up()?;
        }
        let free = usage::disk_free_bytes(folder);
        if free < need {
            let (free, need) = (free >> 20, need >> 20);
            let reason = format!(
                "{free} MiB of its disk are free, a node needs {need} MiB to start: free some, then start it again; \
                 nothing is lost"
            );
            return Err(Error::Folder { path: folder.to_owned(), reason });
        }
        let disk = Disk {
            node,
            folder: folder.to_owned(),
            limits,
            level: AtomicU8::new(Level::Full as u8),
            stuck: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            reserve: Mutex::new(reserve),
            pulse: Pulse::new(stuck_ms),
        };
        disk.set(disk.limits.level(Level::Enough, free));
        disk.take_back_reserve();
        Ok(disk)
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The node.
    pub fn node(&self) -> u32 {
        self.node
    }

    /// How full it is.
    pub fn level(&self) -> Level {
        Level::from_number(self.level.load(Ordering::Relaxed))
    }

    /// It does not answer.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// This node's replicas should not lead: others can.
    pub fn is_unwilling(&self) -> bool {
        self.level() != Level::Enough || self.is_stuck()
    }

    /// This node's replicas must not lead, whether others are ready or not.
    pub fn must_not_lead(&self, now_ms: u64) -> bool {
        self.is_stuck() && self.pulse.stuck_for(now_ms) >= STEP_DOWN_AFTER_MS
    }

    /// Why submissions are refused, and what to do; `None`: they are not.
    pub fn refusal(&self) -> Option<String> {
        let (node, folder) = (self.node, self.folder.display());
        let low = self.limits.low >> 20;
        match self.level() {
            Level::Enough => None,
            Level::Low => Some(format!(
                "the disk of node {node} is nearly full; come back later. Its operator must free space for {folder}, \
                 {low} MiB at least"
            )),
            Level::Full => Some(format!(
                "the disk of node {node} is full; come back later. Its operator must free space for {folder}, {} MiB at \
                 least",
                (self.limits.low + self.limits.reserve) >> 20
            )),
        }
    }

    /// Looks how much is free, and acts.
    pub fn check_space(&self) {
        let free = usage::disk_free_bytes(&self.folder);
        let (before, after) = (self.level(), self.limits.level(self.level(), free));
        let changed = self.level.compare_exchange(before as u8, after as u8, Ordering::Relaxed, Ordering::Relaxed);
        // A write may have found it full meanwhile: that holds.
        if before == after || changed.is_err() {
            return;
        }
        let free_mib = free >> 20;
        match after {
            Level::Full => {
                self.found_full();
            }
            Level::Low => tracing::warn!(
                free_mib,
                folder = %self.folder.display(),
                "the disk is nearly full: submissions are refused and leaderships given away; free space"
            ),
            Level::Enough => {
                self.take_back_reserve();
                if self.level() == Level::Enough {
                    tracing::info!(free_mib, "the disk has space again: submissions are taken");
                }
            }
        }
    }

    /// A write found the disk full, or it is about to: the reserve is given up. Returns whether that made room.
    pub fn found_full(&self) -> bool {
        let reserve = self.reserve();
        // Under the lock, so that no check makes the reserve meanwhile.
        self.set(Level::Full);
        match reserve.give_up() {
            Ok(false) => false,
            Ok(true) => {
                tracing::error!(
                    folder = %self.folder.display(),
                    reserve_mib = self.limits.reserve >> 20,
                    "the disk is full: the reserve is given up, submissions are refused and leaderships given away; \
                     free space"
                );
                true
            }
            Err(error) => {
                tracing::error!(%error, "the reserve of a full disk cannot be given up");
                false
            }
        }
    }

    /// RocksDB found no space. It says so for some seconds after there is some again.
    pub fn store_found_full(&self) {
        if usage::disk_free_bytes(&self.folder) < self.limits.low {
            self.found_full();
        }
    }

    fn take_back_reserve(&self) {
        let reserve = self.reserve();
        if self.level() == Level::Full {
            return;
        }
        if let Err(error) = reserve.make() {
            self.set(Level::Full);
            tracing::warn!(%error, "the reserve for a full disk cannot be made: submissions are refused");
        }
    }

    /// Does `write` again, about every second, while the disk is full: the log holds what it writes. Gives up when the
    /// node stops.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn while_full<T>(&self, mut write: impl FnMut() -> Result<T>) -> Result<T> {
        let mut told = false;
        loop {
            match write() {
                Err(error) if error.is_no_space() && !self.stopping.load(Ordering::Relaxed) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!(%error, "the disk is full: this is done again until there is space");
                    }
                    self.store_found_full();
                    std::thread::sleep(2 * TRY_EVERY);
                }
                result => return result,
            }
        }
    }

    /// The node stops: nobody waits for space any more.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Looks whether the log's write hangs, and says so; `false`: it does for so long that the process must end.
    pub fn check_pulse(&self, now_ms: u64) -> bool {
        let verdict = self.pulse.verdict(now_ms);
        let stuck = verdict != Verdict::Answers;
        let ms = self.pulse.stuck_for(now_ms);
        if self.stuck.swap(stuck, Ordering::Relaxed) != stuck {
            match stuck {
                true => tracing::error!(
                    ms,
                    folder = %self.folder.display(),
                    "the disk does not answer: a write of the log hangs; leaderships are given up"
                ),
                false => tracing::info!("the disk answers again"),
            }
        }
        verdict != Verdict::Hopeless
    }

    fn set(&self, level: Level) {
        self.level.store(level as u8, Ordering::Relaxed);
    }

    fn reserve(&self) -> MutexGuard<'_, Reserve> {
        self.reserve.lock().expect("no thread panics while it holds this lock")
    }
}

impl Relief for Disk {
    fn disk_is_full(&self, tries: u32) -> bool {
        // It answers, even if not as one would like.
        self.pulse.pause();
        if self.found_full() {
            return true;
        }
        std::thread::sleep(TRY_EVERY);
        tries <= TRIES_MAX && !self.stopping.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
