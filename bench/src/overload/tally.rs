//! What became of the submissions of a crowd.

use super::caller::Answer;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Longest time told apart, µs: ten minutes.
const LONGEST_US: u64 = 600_000_000;

/// Percentiles of a latency, ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// How many were measured.
    pub count: u64,
    /// Median.
    pub p50_ms: f64,
    /// 99 of 100 are no slower.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

/// Latencies.
pub struct Times(Mutex<Histogram<u64>>);

impl Default for Times {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_US, 3);
        Times(Mutex::new(histogram.expect("1 µs to ten minutes at 3 digits is a valid range")))
    }
}

impl Times {
    /// Records one.
    pub fn record(&self, took: Duration) {
        let us = (took.as_micros() as u64).clamp(1, LONGEST_US);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(us);
    }

    /// What was recorded.
    pub fn spread(&self) -> Spread {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ms = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1_000.0;
        match times.is_empty() {
            true => Spread::default(),
            false => Spread { count: times.len(), p50_ms: ms(0.5), p99_ms: ms(0.99), max_ms: ms(1.0) },
        }
    }
}

/// Counters of a crowd.
#[derive(Default)]
pub struct Tally {
    /// Submissions sent.
    pub offered: AtomicU64,
    /// Recorded ones.
    pub carried: AtomicU64,
    /// Refused ones that were told when to come back.
    pub later: AtomicU64,
    /// Refused ones that were not.
    pub refused: AtomicU64,
    /// Those without an answer.
    pub lost: AtomicU64,
    /// Times that a connection could not be made.
    pub unconnected: AtomicU64,
    /// Connections open now, of all kinds.
    pub open: AtomicU64,
    /// Connections that a node ended.
    pub ended: AtomicU64,
    /// From sent to answered.
    pub times: Times,
}

impl Tally {
    /// Counts an answer.
    pub fn answered(&self, answer: Answer, took: Duration) {
        let counter = match answer {
            Answer::Carried => &self.carried,
            Answer::Later => &self.later,
            Answer::Refused => &self.refused,
            Answer::Lost => &self.lost,
        };
        counter.fetch_add(1, Relaxed);
        if answer != Answer::Lost {
            self.times.record(took);
        }
    }
}

/// One more, for as long as this is kept.
pub struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    /// Counts.
    pub fn new(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Relaxed);
        Counted(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
