//! A worker that holds many jobs at once with heartbeats, each until its time is over. Jobs stand in one array; their
//! ends in one heap.

use crate::books::Ending;
use crate::mark::Mark;
use crate::roll_call::{Roll, RollCall};
use crate::run::Run;
use crate::station::{Held, RUNNING, Station, lease_request};
use anyhow::Result;
use moso_client::v1::{Heartbeat, JobResult};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use tokio::sync::watch;

/// Ends are looked for this often at most, so that those close together share a frame, µs.
const TICK_US: u64 = 2_000;
/// How often an unfinished roll call is looked at, µs.
const ROLL_TICK_US: u64 = 20_000;
/// Longest sleep, µs.
const SLEEP_US: u64 = 1_000_000;
/// Reports of one turn.
const RESULTS_MAX: usize = 1_000;
/// Reports on the way; above this the ends wait.
const UNACKED_MAX: usize = 50_000;
/// Heartbeats on the way of a flood.
const FLOOD_OPEN: usize = 4;

/// What a job does once leased: how long it runs (µs) and how it ends.
pub type Fate = Arc<dyn Fn(&Mark) -> (u64, Ending) + Send + Sync>;

/// What a holder does.
#[derive(Clone)]
pub struct Plan {
    /// Queues asked, in turn first.
    pub queues: Vec<String>,
    /// Jobs of one request.
    pub max_jobs: u32,
    /// Jobs of one heartbeat message.
    pub beat_jobs: usize,
    /// Interval of each job's heartbeats, µs; 0: what the lease says.
    pub heartbeat_us: u64,
    /// Heartbeats as fast as they are answered.
    pub flood: bool,
    /// Leases that all holders together still want; `None`: all they can get.
    pub wanted: Option<Arc<AtomicI64>>,
    /// What the jobs do.
    pub fate: Fate,
    /// Becomes true when everything is to end at once.
    pub release: watch::Receiver<bool>,
    /// Leases are confirmed once more when it says so.
    pub roll_call: Option<RollCall>,
}

struct Slot {
    held: Held,
    end_us: u64,
    ending: Ending,
}

/// The jobs held.
#[derive(Default)]
struct Jobs {
    slots: Vec<Slot>,
    position: HashMap<u64, usize>,
    ends: BinaryHeap<Reverse<(u64, u64, u32)>>,
}

impl Jobs {
    fn insert(&mut self, slot: Slot) {
        let held = slot.held;
        self.ends.push(Reverse((slot.end_us, held.job_id, held.attempt)));
        match self.position.get(&held.job_id) {
            // The cluster gave it again: the earlier attempt is over.
            Some(&at) => self.slots[at] = slot,
            None => {
                self.position.insert(held.job_id, self.slots.len());
                self.slots.push(slot);
            }
        }
    }

    fn remove(&mut self, job: u64) -> Option<Slot> {
        let at = self.position.remove(&job)?;
        let slot = self.slots.swap_remove(at);
        if let Some(moved) = self.slots.get(at) {
            self.position.insert(moved.held.job_id, at);
        }
        Some(slot)
    }

    /// The next job whose time is over.
    fn pop_due(&mut self, now_us: u64) -> Option<Slot> {
        while let Some(Reverse((end_us, job, attempt))) = self.ends.peek().copied() {
            if end_us > now_us {
                return None;
            }
            self.ends.pop();
            let current = self.position.get(&job).map(|&at| self.slots[at].held.attempt);
            if current == Some(attempt) {
                return self.remove(job);
            }
        }
        None
    }

    fn next_end_us(&self) -> u64 {
        self.ends.peek().map_or(u64::MAX, |Reverse((end_us, ..))| *end_us)
    }
}

struct Holder {
    run: Arc<Run>,
    plan: Plan,
    station: Station,
    jobs: Jobs,
    released: bool,
    /// Where the next heartbeat message begins in the array.
    cursor: usize,
    next_beat_us: u64,
    beat_interval_us: u64,
    beats_open: usize,
    request_at_us: u64,
    roll: Roll,
}

/// Leases and holds jobs until the run stops.
///
/// # Errors
/// When the session cannot go on.
pub async fn hold(run: Arc<Run>, index: usize, plan: Plan) -> Result<()> {
    let station = Station::open(run.clone(), index).await?;
    let mut holder = Holder {
        beat_interval_us: plan.heartbeat_us.max(1),
        run: run.clone(),
        plan,
        station,
        jobs: Jobs::default(),
        released: false,
        cursor: 0,
        next_beat_us: 0,
        beats_open: 0,
        request_at_us: 0,
        roll: Roll::default(),
    };
    let mut calls = holder.plan.roll_call.clone();
    loop {
        holder.speak().await?;
        let wake = run.moment(holder.wake_us());
        let mut release = holder.plan.release.clone();
        let released = holder.released;
        let frame = tokio::select! {
            frame = holder.station.frame() => Some(frame),
            () = tokio::time::sleep_until(wake) => None,
            _ = release.wait_for(|now| *now), if !released => {
                holder.released = true;
                None
            }
            () = crate::roll_call::next(&mut calls) => {
                holder.roll.call(holder.jobs.slots.iter().map(|slot| (slot.held.job_id, slot.held.attempt)));
                None
            }
            () = run.stopped() => break,
        };
        if let Some(frame) = frame {
            let event = holder.station.take(frame).await?;
            holder.take(event);
        }
    }
    run.release(holder.jobs.slots.len() as u64);
    holder.station.close().await;
    Ok(())
}

impl Holder {
    /// Says what is due: reports, a heartbeat, a request.
    async fn speak(&mut self) -> Result<()> {
        loop {
            let now_us = self.run.now_us();
            let results = self.due_results(now_us);
            let held = self.jobs.slots.iter().map(|slot| (slot.held.job_id, slot.held.attempt));
            let complete = self.station.complete_beat(held, now_us);
            self.beats_open += usize::from(complete.is_some());
            let rolled = complete.is_none().then(|| self.roll.beat(now_us)).flatten();
            let asks_roll = rolled.is_some();
            let heartbeat = complete.or(rolled).or_else(|| self.due_beat(now_us));
            let more = results.len() == RESULTS_MAX || heartbeat.is_some();
            let request = self.wants_lease(now_us).then(|| {
                let request = lease_request(&self.plan.queues, self.plan.max_jobs);
                // The first is asked first: each site gets its turn.
                self.plan.queues.rotate_left(1);
                request
            });
            if !results.is_empty() || heartbeat.is_some() || request.is_some() {
                self.station.turn(results, heartbeat, request).await?;
            }
            if asks_roll {
                self.roll.sent(self.station.heartbeat_seq());
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn due_results(&mut self, now_us: u64) -> Vec<JobResult> {
        let mut results = Vec::new();
        let room = UNACKED_MAX.saturating_sub(self.station.unacked());
        while results.len() < RESULTS_MAX.min(room) {
            let slot = if self.released {
                let last = self.jobs.slots.last().map(|slot| slot.held.job_id);
                last.and_then(|job| self.jobs.remove(job))
            } else {
                self.jobs.pop_due(now_us)
            };
            let Some(slot) = slot else { break };
            let due_us = slot.end_us.min(now_us);
            results.push(self.station.report(&slot.held, slot.ending, due_us));
        }
        results
    }

    /// The next heartbeat message, if its time has come. Messages spread over the interval.
    fn due_beat(&mut self, now_us: u64) -> Option<Heartbeat> {
        let held = self.jobs.slots.len();
        if held == 0 || self.released {
            return None;
        }
        let due = if self.plan.flood { self.beats_open < FLOOD_OPEN } else { now_us >= self.next_beat_us };
        if !due {
            return None;
        }
        if self.cursor >= held {
            self.cursor = 0;
        }
        let end = held.min(self.cursor + self.plan.beat_jobs);
        let slots = &self.jobs.slots[self.cursor..end];
        let heartbeat = Heartbeat {
            jobs: slots.iter().map(|slot| slot.held.job_id).collect(),
            attempts: slots.iter().map(|slot| slot.held.attempt).collect(),
            phases: vec![RUNNING; slots.len()],
            ..Heartbeat::default()
        };
        self.cursor = end;
        let messages = held.div_ceil(self.plan.beat_jobs) as u64;
        let step_us = self.beat_interval_us / messages;
        // After a stall messages are not sent all at once.
        self.next_beat_us = (self.next_beat_us + step_us).max(now_us.saturating_sub(step_us));
        self.beats_open += 1;
        Some(heartbeat)
    }

    fn wants_lease(&self, now_us: u64) -> bool {
        let wanted = self.plan.wanted.as_ref();
        let enough = wanted.is_some_and(|wanted| wanted.load(Relaxed) <= 0);
        !self.station.awaits_lease() && now_us >= self.request_at_us && (!enough || self.released)
    }

    fn take(&mut self, event: crate::station::Event) {
        let now_us = self.run.now_us();
        if let Some((seq, unknown)) = event.beat {
            self.beats_open = self.beats_open.saturating_sub(1);
            if let (true, Some(call)) = (self.roll.answered(seq, &unknown), &self.plan.roll_call) {
                call.done();
            }
        }
        if event.reconnected {
            // The new stream's node has heard nothing yet.
            self.beats_open = 0;
            self.next_beat_us = now_us;
        }
        for job in event.lost {
            if self.jobs.remove(job).is_some() {
                self.run.release(1);
                self.run.lose();
                if let Some(wanted) = &self.plan.wanted {
                    wanted.fetch_add(1, Relaxed);
                }
            }
        }
        let leases = event.leases.unwrap_or_default();
        if self.jobs.slots.is_empty() && !leases.is_empty() {
            self.begin_beats(now_us, leases[0].heartbeat_ms, leases.len());
        }
        if let Some(wanted) = &self.plan.wanted {
            wanted.fetch_sub(leases.len() as i64, Relaxed);
        }
        for held in leases {
            let (run_us, ending) = (self.plan.fate)(&held.mark);
            let end_us = now_us.saturating_add(run_us);
            self.jobs.insert(Slot { held, end_us, ending });
        }
    }

    /// The first jobs of an empty worker: the last of them is heard of an interval from now.
    fn begin_beats(&mut self, now_us: u64, heartbeat_ms: u32, jobs: usize) {
        if self.plan.heartbeat_us == 0 {
            self.beat_interval_us = u64::from(heartbeat_ms.max(1_000)) * 1_000;
        }
        self.next_beat_us = now_us + self.beat_interval_us / jobs.div_ceil(self.plan.beat_jobs).max(1) as u64;
    }

    fn wake_us(&self) -> u64 {
        let now_us = self.run.now_us();
        let mut wake_us = self.jobs.next_end_us().max(now_us + TICK_US);
        if !self.jobs.slots.is_empty() && !self.plan.flood {
            wake_us = wake_us.min(self.next_beat_us.max(now_us + TICK_US));
        }
        if self.roll.is_open() {
            wake_us = wake_us.min(now_us + ROLL_TICK_US);
        }
        wake_us.min(now_us + SLEEP_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(job_id: u64, attempt: u32, end_us: u64) -> Slot {
        let mark = Mark { run: 1, record: 0, intended_us: 0 };
        let held = Held { job_id, attempt, mark, heartbeat_ms: 15_000 };
        Slot { held, end_us, ending: Ending::Finished }
    }

    #[test]
    fn jobs_end_in_the_order_of_their_ends() {
        let mut jobs = Jobs::default();
        for job in 0..100u64 {
            jobs.insert(slot(job, 1, job * 37 % 100));
        }
        assert!(jobs.remove(5).is_some() && jobs.remove(5).is_none());
        let mut ends = Vec::new();
        while let Some(slot) = jobs.pop_due(49) {
            assert_ne!(slot.held.job_id, 5);
            ends.push(slot.end_us);
        }
        assert!(ends.is_sorted());
        // Ends 0..=49, but for job 5 which would have ended at 85.
        assert_eq!((ends.len(), jobs.slots.len()), (50, 49));
        assert_eq!(jobs.next_end_us(), 50);
        for (at, slot) in jobs.slots.iter().enumerate() {
            assert_eq!(jobs.position[&slot.held.job_id], at);
        }
    }

    #[test]
    fn a_job_leased_again_ends_by_its_last_lease() {
        let mut jobs = Jobs::default();
        jobs.insert(slot(1, 1, 10));
        jobs.insert(slot(1, 2, 20));
        assert!(jobs.pop_due(15).is_none());
        assert_eq!(jobs.pop_due(25).map(|s| s.held.attempt), Some(2));
        assert!(jobs.slots.is_empty() && jobs.position.is_empty());
    }
}
