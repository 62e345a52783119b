//! What can go wrong, by who must act.

use moso_proto::Code;
use std::time::Duration;

/// Result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// A call that failed. Each variant says who must act.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The caller: the call is wrong, too large or not allowed, and stays so when repeated.
    #[error("{message} ({code})")]
    Refused {
        /// Why.
        code: Code,
        /// For people: names the field, or the limit and its unit.
        message: String,
    },
    /// Nobody: the cluster could not do it within the retry budget. The same call may succeed later; whether it took
    /// effect is not known, and repeating it is safe.
    #[error("{message} ({code}); try again later")]
    Unavailable {
        /// Why.
        code: Code,
        /// For people.
        message: String,
        /// The node's word on when; `None`: it gave none.
        retry_after: Option<Duration>,
    },
    /// The operator: no node could be reached within the retry budget. As above, repeating is safe.
    #[error("no node answers at {addresses}: {reason}")]
    Unreachable {
        /// Addresses tried.
        addresses: String,
        /// The last node's failure.
        reason: String,
    },
    /// The operator: a node reports a defect or damaged data, or answers against the protocol. See its log.
    #[error("node {node}: {message}")]
    Defect {
        /// Address of the node.
        node: String,
        /// What was seen.
        message: String,
    },
    /// The caller of a session: its stream broke. [`Session::reconnect`](crate::Session::reconnect) goes on at another
    /// node; nothing is lost.
    #[error("the stream to node {node} broke: {reason}")]
    Disconnected {
        /// Address of the node.
        node: String,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// The code, if a node gave one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Refused { code, .. } | Error::Unavailable { code, .. } => Some(*code),
            Error::Defect { .. } => Some(Code::Internal),
            Error::Unreachable { .. } | Error::Disconnected { .. } => None,
        }
    }

    /// When a later try may succeed, if a node said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The same call may succeed later, unchanged.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Error::Refused { .. } | Error::Defect { .. })
    }

    /// A field the caller gave is malformed or out of its range.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Error::Refused { code: Code::Invalid, message: message.into() }
    }
}
