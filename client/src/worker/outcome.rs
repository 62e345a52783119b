//! How a job ended on a worker.

use crate::limits::{ERROR_TEXT_BYTES_MAX, ERRORS_MAX, OUTPUT_BYTES_MAX};
use bytes::Bytes;
use moso_proto::v1::{ErrorPair, JobResult, Outcome};
use std::time::Duration;

/// How a job ended, and what is to be remembered of it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobOutcome {
    result: JobResult,
}

impl JobOutcome {
    fn new(outcome: Outcome) -> Self {
        JobOutcome { result: JobResult { outcome: outcome.into(), ..JobResult::default() } }
    }

    /// Success.
    pub fn finished() -> Self {
        Self::new(Outcome::Finished)
    }

    /// Failure; repeated while the task's attempts remain. `source` names the part that failed (`exe`, `worker`, …),
    /// `code` is its own code.
    pub fn failed(source: impl Into<String>, code: i32, text: impl Into<String>) -> Self {
        Self::new(Outcome::Failed).error(source, code, text)
    }

    /// Given back unrun: the attempt is not charged.
    pub fn released() -> Self {
        Self::new(Outcome::Released)
    }

    /// Ended because it was told to ([`Job::stopped`](crate::Job::stopped)). Where nobody killed the job (a lease lost
    /// from sight, a worker that leaves) it is given back instead.
    pub fn cancelled() -> Self {
        Self::new(Outcome::Cancelled)
    }

    /// Adds an error. At most 16 are kept, each text cut at 1 KiB.
    pub fn error(mut self, source: impl Into<String>, code: i32, text: impl Into<String>) -> Self {
        if self.result.errors.len() < ERRORS_MAX {
            let mut text = text.into();
            text.truncate(text.floor_char_boundary(ERROR_TEXT_BYTES_MAX));
            self.result.errors.push(ErrorPair { source: source.into(), code, text });
        }
        self
    }

    /// What the job printed. The last 4 KiB are kept.
    pub fn output(mut self, output: impl Into<Bytes>) -> Self {
        let output = output.into();
        self.result.output = output.slice(output.len().saturating_sub(OUTPUT_BYTES_MAX)..);
        self
    }

    /// Exit code of the job's process.
    pub fn exit_code(mut self, code: i32) -> Self {
        self.result.exit_code = code;
        self
    }

    /// CPU time used and the largest memory held, in KiB.
    pub fn usage(mut self, cpu: Duration, memory_peak_kib: u64) -> Self {
        self.result.cpu_ms = cpu.as_millis() as u64;
        self.result.memory_peak_kib = memory_peak_kib;
        self
    }

    /// Makes a failure final: no further attempt.
    pub fn no_retry(mut self) -> Self {
        self.result.no_retry = true;
        self
    }

    /// What was decided.
    pub fn outcome(&self) -> Outcome {
        self.result.outcome()
    }

    /// The result so far: without job, attempt and start.
    pub fn result(&self) -> &JobResult {
        &self.result
    }

    pub(crate) fn into_result(self, job_id: u64, attempt: u32, started_ms: u64) -> JobResult {
        JobResult { job_id, attempt, started_ms, ..self.result }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_errors_are_bounded() {
        let long = "é".repeat(OUTPUT_BYTES_MAX);
        let mut outcome = JobOutcome::failed("exe", 1, long.clone()).output(long);
        for code in 0..100 {
            outcome = outcome.error("exe", code, "again");
        }
        let result = outcome.into_result(1, 2, 3);
        assert_eq!(result.output.len(), OUTPUT_BYTES_MAX);
        assert_eq!(result.errors.len(), ERRORS_MAX);
        assert!(result.errors[0].text.len() <= ERROR_TEXT_BYTES_MAX);
        assert_eq!((result.job_id, result.attempt, result.started_ms), (1, 2, 3));
    }
}
