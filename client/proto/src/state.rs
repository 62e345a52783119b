//! Job and task states, with PanDA's names and meaning.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// State of a job. The numbers are stored: never change one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum JobState {
    /// Made, not yet set up.
    Pending = 1,
    /// Accepted; waits for its time (not-before, back-off).
    Defined = 2,
    /// Input transfer asked for.
    Assigned = 3,
    /// Parked: waits for other jobs of its task.
    Waiting = 4,
    /// Held back although ready: by a user, a cap or a paused task.
    Throttled = 5,
    /// Can be given to a worker.
    Activated = 6,
    /// Leased; no word from the worker yet.
    Sent = 7,
    /// The worker prepares it.
    Starting = 8,
    /// The worker runs it.
    Running = 9,
    /// The worker is done; its report waits to be settled.
    Holding = 10,
    /// Outputs travel to their storage.
    Transferring = 11,
    /// Outputs wait for a merge job.
    Merging = 12,
    /// Success.
    Finished = 13,
    /// Failure with at least one error.
    Failed = 14,
    /// Killed by a person.
    Cancelled = 15,
    /// Ended by the system before it ran.
    Closed = 16,
}

/// One more than the largest state number: the length of arrays indexed by state.
pub const STATES: usize = 17;

impl JobState {
    /// All states in order.
    pub const ALL: [JobState; 16] = [
        JobState::Pending,
        JobState::Defined,
        JobState::Assigned,
        JobState::Waiting,
        JobState::Throttled,
        JobState::Activated,
        JobState::Sent,
        JobState::Starting,
        JobState::Running,
        JobState::Holding,
        JobState::Transferring,
        JobState::Merging,
        JobState::Finished,
        JobState::Failed,
        JobState::Cancelled,
        JobState::Closed,
    ];

    /// Finished, failed, cancelled or closed: never changes again.
    pub fn is_final(self) -> bool {
        self >= JobState::Finished
    }

    /// A worker holds a lease on it.
    pub fn is_leased(self) -> bool {
        matches!(self, JobState::Sent | JobState::Starting | JobState::Running)
    }

    /// PanDA's name.
    pub fn name(self) -> &'static str {
        match self {
            JobState::Pending => "pending",
            JobState::Defined => "defined",
            JobState::Assigned => "assigned",
            JobState::Waiting => "waiting",
            JobState::Throttled => "throttled",
            JobState::Activated => "activated",
            JobState::Sent => "sent",
            JobState::Starting => "starting",
            JobState::Running => "running",
            JobState::Holding => "holding",
            JobState::Transferring => "transferring",
            JobState::Merging => "merging",
            JobState::Finished => "finished",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
            JobState::Closed => "closed",
        }
    }

    /// The state with this stored number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No such state name.
#[derive(Debug, thiserror::Error)]
#[error(
    "no job state is named {0:?}; there are pending, defined, assigned, waiting, throttled, activated, sent, starting, running, holding, transferring, merging, finished, failed, cancelled, closed"
)]
pub struct UnknownState(String);

impl FromStr for JobState {
    type Err = UnknownState;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|s| s.name() == text).ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// State of a task, derived from its jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// No job was leased yet.
    Ready,
    /// Some job was leased or has ended.
    Running,
    /// Ended: every job finished.
    Done,
    /// Ended: some jobs finished.
    Finished,
    /// Ended: no job finished.
    Failed,
    /// Ended: no job finished and all were killed or closed.
    Aborted,
}

impl TaskState {
    /// PanDA's name.
    pub fn name(self) -> &'static str {
        match self {
            TaskState::Ready => "ready",
            TaskState::Running => "running",
            TaskState::Done => "done",
            TaskState::Finished => "finished",
            TaskState::Failed => "failed",
            TaskState::Aborted => "aborted",
        }
    }

    /// All jobs have ended.
    pub fn is_final(self) -> bool {
        !matches!(self, TaskState::Ready | TaskState::Running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_come_back() {
        for state in JobState::ALL {
            assert_eq!(JobState::from_number(state as u8), Some(state));
            assert_eq!(state.name().parse::<JobState>().ok(), Some(state));
        }
        assert_eq!(JobState::from_number(0), None);
        assert_eq!(JobState::from_number(17), None);
        assert!("ready".parse::<JobState>().is_err());
    }
}
