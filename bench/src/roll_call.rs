//! A roll call: every holder has each of its leases confirmed by the job's leader once more, as fast as that is answered.

use crate::station::RUNNING;
use moso_client::v1::Heartbeat;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::watch;

/// Jobs of one message.
const BEAT_JOBS: usize = 1_000;
/// A message that is not answered for so long was lost with its stream, µs.
const LOST_US: u64 = 1_000_000;
/// After an answer that not all leaders gave, the rest is asked again so much later, µs.
const AGAIN_US: u64 = 20_000;

/// Tells holders of roll calls, and counts those that are through.
#[derive(Clone, Debug)]
pub struct RollCall {
    number: watch::Receiver<u32>,
    through: Arc<AtomicU64>,
}

impl RollCall {
    /// Calls are numbered by `number`.
    pub fn new(number: watch::Receiver<u32>) -> RollCall {
        RollCall { number, through: Arc::default() }
    }

    /// A holder is through.
    pub fn done(&self) {
        self.through.fetch_add(1, Relaxed);
    }

    /// Holders that were through, over all calls.
    pub fn through(&self) -> u64 {
        self.through.load(Relaxed)
    }
}

/// Waits for the next call; for ever if there are none.
pub async fn next(calls: &mut Option<RollCall>) {
    if let Some(call) = calls
        && call.number.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// A holder's part in a call.
#[derive(Debug, Default)]
pub struct Roll {
    open: bool,
    /// Jobs and attempts that no leader has confirmed yet.
    todo: BTreeMap<u64, u32>,
    asked: Option<Asked>,
    not_before_us: u64,
}

#[derive(Debug)]
struct Asked {
    seq: u64,
    at_us: u64,
    jobs: Vec<(u64, u32)>,
}

impl Roll {
    /// A call begins, for these jobs and attempts.
    pub fn call(&mut self, held: impl Iterator<Item = (u64, u32)>) {
        *self = Roll { open: true, todo: held.collect(), ..Roll::default() };
    }

    /// Whether a call is under way.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The next message, if it is time for one: one at a time.
    pub fn beat(&mut self, now_us: u64) -> Option<Heartbeat> {
        if let Some(asked) = self.asked.take_if(|asked| now_us > asked.at_us + LOST_US) {
            self.todo.extend(asked.jobs);
        }
        if !self.open || self.asked.is_some() || now_us < self.not_before_us {
            return None;
        }
        let mut jobs = Vec::with_capacity(BEAT_JOBS.min(self.todo.len()));
        while let Some(job) = self.todo.pop_first() {
            jobs.push(job);
            if jobs.len() == BEAT_JOBS {
                break;
            }
        }
        let heartbeat = Heartbeat {
            jobs: jobs.iter().map(|job| job.0).collect(),
            attempts: jobs.iter().map(|job| job.1).collect(),
            phases: vec![RUNNING; jobs.len()],
            ..Heartbeat::default()
        };
        self.asked = Some(Asked { seq: 0, at_us: now_us, jobs });
        Some(heartbeat)
    }

    /// The message got this number.
    pub fn sent(&mut self, seq: u64) {
        if let Some(asked) = &mut self.asked {
            asked.seq = seq;
        }
    }

    /// A message was answered, but for jobs of which no leader heard. `true`: that was the last; the call is over.
    pub fn answered(&mut self, seq: u64, unknown: &[u64]) -> bool {
        let Some(asked) = self.asked.take_if(|asked| asked.seq == seq) else { return false };
        if !unknown.is_empty() {
            self.not_before_us = asked.at_us + AGAIN_US;
            self.todo.extend(asked.jobs.into_iter().filter(|job| unknown.contains(&job.0)));
        }
        let over = self.open && self.todo.is_empty();
        self.open &= !over;
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_asked_until_a_leader_confirms_it() {
        let mut roll = Roll::default();
        assert!(roll.beat(0).is_none());
        roll.call((1..=1_500).map(|job| (job, 1)));
        assert_eq!(roll.beat(10).unwrap().jobs.len(), 1_000);
        roll.sent(7);
        assert!(roll.beat(20).is_none(), "one at a time");
        assert!(!roll.answered(6, &[]), "an answer to another");
        assert!(!roll.answered(7, &[3, 4]));
        assert!(roll.beat(30).is_none(), "not at once again");
        assert_eq!(roll.beat(AGAIN_US + 10).unwrap().jobs.len(), 502);
        roll.sent(8);
        // Its stream broke.
        assert!(roll.beat(AGAIN_US + LOST_US).is_none());
        let again = roll.beat(AGAIN_US + LOST_US + 11).unwrap();
        assert_eq!((again.jobs[0], again.jobs.len()), (3, 502));
        roll.sent(9);
        assert!(roll.answered(9, &[]));
        assert!(roll.beat(u64::MAX).is_none() && !roll.answered(9, &[]));
    }

    #[test]
    fn a_holder_of_nothing_is_through_as_well() {
        let mut roll = Roll::default();
        roll.call(std::iter::empty());
        assert!(roll.beat(1).is_some());
        roll.sent(1);
        assert!(roll.answered(1, &[]));
    }
}
