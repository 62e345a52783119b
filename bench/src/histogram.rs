//! Latencies, measured from when a step should have started: a stalled cluster that delays later steps is charged for
//! the delay (no coordinated omission).

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Longest time told apart, µs: an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// A step in the life of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Submission due to submission acknowledged.
    Submit,
    /// Submission due to lease received by a worker.
    Dispatch,
    /// Report due to report acknowledged.
    Finish,
    /// Submission due to report acknowledged.
    Whole,
}

impl Step {
    /// All, in the order of a job's life.
    pub const ALL: [Step; 4] = [Step::Submit, Step::Dispatch, Step::Finish, Step::Whole];

    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Step::Submit => "submit",
            Step::Dispatch => "dispatch",
            Step::Finish => "finish",
            Step::Whole => "whole",
        }
    }
}

/// Percentiles of a step, ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// 90 of 100 are no slower.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// One histogram per step.
#[derive(Debug)]
pub struct Latencies {
    steps: [Mutex<Histogram<u64>>; 4],
}

impl Latencies {
    /// Empty ones.
    pub fn new() -> Latencies {
        let histogram = || {
            let histogram = Histogram::new_with_bounds(1, LONGEST_US, 3);
            Mutex::new(histogram.expect("1 µs to an hour at 3 digits is a valid range"))
        };
        Latencies { steps: std::array::from_fn(|_| histogram()) }
    }

    /// Records a step that was due at `intended_us` and was over at `now_us`, for `jobs` jobs.
    pub fn record(&self, step: Step, intended_us: u64, now_us: u64, jobs: u64) {
        let took_us = now_us.saturating_sub(intended_us).clamp(1, LONGEST_US);
        lock(&self.steps[step as usize]).saturating_record_n(took_us, jobs);
    }

    /// Percentiles of a step; `None` if it was never recorded.
    pub fn percentiles(&self, step: Step) -> Option<Percentiles> {
        let histogram = lock(&self.steps[step as usize]);
        let ms = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        (!histogram.is_empty()).then(|| Percentiles {
            p50: ms(0.5),
            p90: ms(0.9),
            p99: ms(0.99),
            p999: ms(0.999),
            max: histogram.max() as f64 / 1_000.0,
        })
    }

    /// Forgets everything, as after a warm-up.
    pub fn reset(&self) {
        self.steps.iter().for_each(|step| lock(step).reset());
    }

    /// Writes all steps in the text format of HdrHistogram's plotters; values in ms.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_text(&self, mut to: impl Write) -> Result<()> {
        let write = |to: &mut dyn Write| -> std::io::Result<()> {
            for step in Step::ALL {
                let histogram = lock(&self.steps[step as usize]);
                if histogram.is_empty() {
                    continue;
                }
                writeln!(to, "# {}, ms", step.name())?;
                writeln!(to, "{:>12} {:>14} {:>10} {:>14}", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
                let mut total = 0;
                for point in histogram.iter_quantiles(5) {
                    total += point.count_since_last_iteration();
                    let value = point.value_iterated_to() as f64 / 1_000.0;
                    let quantile = point.quantile_iterated_to();
                    let inverse = 1.0 / (1.0 - quantile);
                    writeln!(to, "{value:>12.3} {quantile:>14.12} {total:>10} {inverse:>14.2}")?;
                }
                writeln!(
                    to,
                    "#[Mean = {:.3}, StdDeviation = {:.3}]",
                    histogram.mean() / 1_000.0,
                    histogram.stdev() / 1_000.0
                )?;
                writeln!(to, "#[Max = {:.3}, Total count = {}]\n", histogram.max() as f64 / 1_000.0, histogram.len())?;
            }
            Ok(())
        };
        write(&mut to).context("the percentiles cannot be written")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_charged_to_all_that_were_due() {
        let latencies = Latencies::new();
        // A step is due each ms; the cluster stands still from 0 to 100 ms and answers all at once.
        for n in 0..100 {
            latencies.record(Step::Submit, n * 1_000, 100_000, 1);
        }
        let p = latencies.percentiles(Step::Submit).expect("recorded");
        assert!((50.0..=51.5).contains(&p.p50), "{p:?}");
        assert!((99.0..=101.0).contains(&p.p99), "{p:?}");
        assert!((100.0..=100.2).contains(&p.max), "{p:?}");
        assert_eq!(latencies.percentiles(Step::Finish), None);
    }

    #[test]
    fn odd_times_are_kept_in_range() {
        let latencies = Latencies::new();
        latencies.record(Step::Whole, 10, 5, 1);
        latencies.record(Step::Whole, 0, u64::MAX, 2);
        let p = latencies.percentiles(Step::Whole).expect("recorded");
        assert!(p.max >= 3_599_000.0, "{p:?}");
        latencies.reset();
        assert_eq!(latencies.percentiles(Step::Whole), None);
    }

    #[test]
    fn the_text_has_one_table_per_step() {
        let latencies = Latencies::new();
        latencies.record(Step::Submit, 0, 2_000, 10);
        latencies.record(Step::Dispatch, 0, 4_000, 10);
        let mut text = Vec::new();
        latencies.write_text(&mut text).expect("memory takes it");
        let text = String::from_utf8(text).expect("text");
        assert_eq!(text.matches("1/(1-Percentile)").count(), 2);
        assert!(text.contains("Total count = 10]"), "{text}");
    }
}
