//! What clients did and what they were told, in the order in which it happened: the only thing the checker believes.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The id that a client picked for a submission. 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SubmissionId(pub [u8; 16]);

impl fmt::Display for SubmissionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for SubmissionId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match u128::from_str_radix(text, 16) {
            Ok(number) if text.len() == 32 && !text.starts_with('+') => Ok(SubmissionId(number.to_be_bytes())),
            _ => Err(format!("{text:?} is not a submission id of 32 hex digits")),
        }
    }
}

impl From<SubmissionId> for String {
    fn from(id: SubmissionId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for SubmissionId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A lease as a worker was given it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leased {
    /// The job.
    pub job: u64,
    /// Its attempt.
    pub attempt: u32,
    /// Its task.
    pub task: u64,
    /// Position in its task.
    pub index: u32,
    /// The submission that its body names.
    pub submission: SubmissionId,
    /// Lease time, ms.
    pub ttl_ms: u32,
}

/// What a worker says of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Success: ends the job.
    Finished,
    /// Failure with further attempts: the job runs again.
    Failed,
    /// Given back unrun: the job runs again.
    Released,
}

/// What happened. An operation has one `*_invoke`, and later at most one of: `*_ok`, answered; `*_fail`, refused for
/// good, without effect; `*_unknown`, given up by the client, and whether it took effect is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum What {
    /// A submission is sent, for the first time or again.
    SubmitInvoke { submission: SubmissionId, jobs: u32 },
    /// It is recorded; its jobs have consecutive ids.
    SubmitOk { submission: SubmissionId, task: u64, first_job: u64, jobs: u32, repeated: bool },
    /// It is refused.
    SubmitFail { submission: SubmissionId, code: String },
    /// The call was abandoned or got no answer.
    SubmitUnknown { submission: SubmissionId, reason: String },
    /// A session asks for jobs. Requests rise within a session.
    LeaseInvoke { session: u64, request: u64 },
    /// The answer; no jobs: there was nothing.
    LeaseOk { session: u64, request: u64, leases: Vec<Leased> },
    /// No answer will be read any more.
    LeaseUnknown { session: u64, request: u64 },
    /// A session says what it holds: jobs and attempts.
    BeatInvoke { session: u64, seq: u64, held: Vec<(u64, u32)> },
    /// What of it is lost, and for what no leader answered. The rest is kept.
    BeatOk { session: u64, seq: u64, lost: Vec<u64>, unknown: Vec<u64> },
    /// A session reports the end of an attempt. Sent again by itself until it is answered.
    ResultInvoke { session: u64, job: u64, attempt: u32, outcome: Outcome },
    /// It is accepted.
    ResultOk { session: u64, job: u64, attempt: u32, outcome: Outcome },
    /// It is refused.
    ResultFail { session: u64, job: u64, attempt: u32, code: String },
    /// No answer will be read any more.
    ResultUnknown { session: u64, job: u64, attempt: u32 },
    /// A worker dies without a word; what it has under way is unknown.
    WorkerDied { session: u64 },
    /// A fault begins.
    FaultBegin { fault: u32, kind: String, detail: String },
    /// Its cause is gone; nodes that it ended are being started.
    FaultHealed { fault: u32 },
    /// All nodes are ready and all shards have leaders again.
    FaultOver { fault: u32 },
    /// A task that the cluster shows in the end, with the number of its jobs that it counts as finished.
    FoundTask { task: u64, submission: Option<SubmissionId>, first_job: u64, jobs: u32, finished: u32 },
    /// A job that the cluster shows in the end, with the attempt and session that it records.
    FoundJob { job: u64, task: u64, state: String, attempt: u32, session: u64 },
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Monotonic, since the run began.
    pub ns: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// Reads a history that was written before.
///
/// # Errors
/// When the file cannot be read, with the line that is no event.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut events = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let at = || format!("{}, line {}", path.display(), number + 1);
        events.push(serde_json::from_str(&line.with_context(at)?).with_context(at)?);
    }
    Ok(events)
}

/// The recorder. Times rise from event to event, over all threads.
pub struct History {
    started: Instant,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    events: Vec<Event>,
    file: Option<BufWriter<File>>,
    /// The first failure to write; told in the end.
    failed: Option<std::io::Error>,
}

impl History {
    /// An empty history that begins now, also written to `path` as one line of JSON per event.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(path: Option<&Path>) -> Result<History> {
        let file = match path {
            Some(path) => {
                let file = File::create(path);
                Some(BufWriter::new(file.with_context(|| format!("{} cannot be written", path.display()))?))
            }
            None => None,
        };
        Ok(History { started: Instant::now(), log: Mutex::new(Log { file, ..Log::default() }) })
    }

    /// Adds what happens now. Gives the time, ns since the run began.
    pub fn add(&self, what: What) -> u64 {
        let mut log = self.log();
        // Read under the lock, so that the order of events is the order of their times.
        let ns = self.started.elapsed().as_nanos() as u64;
        let event = Event { ns, what };
        log.write(&event);
        log.events.push(event);
        ns
    }

    /// Time since it began, ns.
    pub fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Ends it and gives the events.
    ///
    /// # Errors
    /// When the file could not be written in full.
    pub fn finish(&self) -> Result<Vec<Event>> {
        let mut log = self.log();
        if let Some(mut file) = log.file.take()
            && let Err(error) = file.flush()
        {
            log.failed.get_or_insert(error);
        }
        match log.failed.take() {
            Some(error) => Err(error).context("the history file cannot be written"),
            None => Ok(std::mem::take(&mut log.events)),
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn write(&mut self, event: &Event) {
        let Some(file) = &mut self.file else { return };
        let line = serde_json::to_string(event).expect("strings and numbers are JSON");
        if let Err(error) = writeln!(file, "{line}") {
            self.failed.get_or_insert(error);
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back_from_their_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let history = History::new(Some(&path)).unwrap();
        let submission = SubmissionId([7; 16]);
        history.add(What::SubmitInvoke { submission, jobs: 3 });
        let lease = Leased { job: 1 << 40, attempt: 2, task: 9, index: 0, submission, ttl_ms: 15_000 };
        history.add(What::LeaseOk { session: u64::MAX, request: 1, leases: vec![lease] });
        history.add(What::ResultInvoke { session: 1, job: 2, attempt: 3, outcome: Outcome::Finished });
        let events = history.finish().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(read(&path).unwrap(), events);
        assert!(events.is_sorted_by_key(|event| event.ns));
        std::fs::write(&path, text.clone() + "nonsense\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 4"));
        assert!(text.contains("\"op\":\"submit_invoke\"") && text.contains("\"submission\":\"0707"), "{text}");
    }

    #[test]
    fn a_submission_id_is_32_hex_digits() {
        let id = SubmissionId(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("12".parse::<SubmissionId>().is_err());
        assert!("+1234567890123456789012345678901".parse::<SubmissionId>().is_err());
    }
}
