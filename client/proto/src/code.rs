//! Error codes of the API: what went wrong, and whether the same call may succeed later.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a call or one of its items was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Code {
    /// A field is malformed or out of its range; the message names it. The caller must change the call.
    Invalid = 1,
    /// No such queue, job, task, object or shard.
    NotFound = 2,
    /// A limit of size or number; the message gives limit and unit.
    TooLarge = 3,
    /// The submission id is known with other content.
    Conflict = 4,
    /// The submission id is older than the window in which repeats are recognised: pick a new one.
    SubmissionExpired = 5,
    /// The result carries an attempt that is no longer current.
    StaleAttempt = 6,
    /// The lease is another session's.
    ForeignLease = 7,
    /// The job has ended.
    AlreadyEnded = 8,
    /// The job's state does not allow it.
    WrongState = 9,
    /// The queue or node takes no new work now. Retry later.
    Unavailable = 10,
    /// Full: retry after the time given.
    Busy = 11,
    /// This node does not lead the shard, or the leader changed while the call was in flight. Whether it took effect
    /// is not known; repeating it is safe.
    NotLeader = 12,
    /// No answer in time. Whether it took effect is not known; repeating it is safe.
    Timeout = 13,
    /// The object changed since it was read: read it again.
    VersionMismatch = 14,
    /// The caller may not do this.
    Forbidden = 15,
    /// A defect of moso, or damaged data: the operator must look at the node's log.
    Internal = 16,
    /// The caller did not show who he is, or what he showed is not taken: the message says why.
    Unauthenticated = 17,
}

impl Code {
    const ALL: [Code; 17] = [
        Code::Invalid,
        Code::NotFound,
        Code::TooLarge,
        Code::Conflict,
        Code::SubmissionExpired,
        Code::StaleAttempt,
        Code::ForeignLease,
        Code::AlreadyEnded,
        Code::WrongState,
        Code::Unavailable,
        Code::Busy,
        Code::NotLeader,
        Code::Timeout,
        Code::VersionMismatch,
        Code::Forbidden,
        Code::Internal,
        Code::Unauthenticated,
    ];

    /// Name used in metadata and messages.
    pub fn name(self) -> &'static str {
        match self {
            Code::Invalid => "invalid",
            Code::NotFound => "not_found",
            Code::TooLarge => "too_large",
            Code::Conflict => "conflict",
            Code::SubmissionExpired => "submission_expired",
            Code::StaleAttempt => "stale_attempt",
            Code::ForeignLease => "foreign_lease",
            Code::AlreadyEnded => "already_ended",
            Code::WrongState => "wrong_state",
            Code::Unavailable => "unavailable",
            Code::Busy => "busy",
            Code::NotLeader => "not_leader",
            Code::Timeout => "timeout",
            Code::VersionMismatch => "version_mismatch",
            Code::Forbidden => "forbidden",
            Code::Internal => "internal",
            Code::Unauthenticated => "unauthenticated",
        }
    }

    /// The same call may succeed later, unchanged.
    pub fn is_retryable(self) -> bool {
        matches!(self, Code::Unavailable | Code::Busy | Code::NotLeader | Code::Timeout)
    }

    /// The code with this stored number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Code {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|c| c.name() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_come_back() {
        for code in Code::ALL {
            assert_eq!(Code::from_number(code as u8), Some(code));
            assert_eq!(code.name().parse(), Ok(code));
        }
        assert_eq!(Code::from_number(0), None);
    }
}
