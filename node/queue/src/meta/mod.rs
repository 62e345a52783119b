//! The meta group's state machine: the operator's objects (queues, shares, users, time-outs, settings, nodes and the
//! shard table), each with a version, an author and its last changes.
//!
//! A change travels as a [`MetaCommand`] through the log of group 0; every replica applies it with
//! [`MetaMachine::apply`], stores what [`MetaMachine::take_dirty`] returns together with the applied index, and makes
//! a [`MetaView`] from which the rest of the node reads. Nothing here reads a clock, draws a number or touches a disk.

pub mod audit;
mod check;
pub mod command;
pub mod limits;
pub mod machine;
pub mod placement;
#[cfg(test)]
mod tests;
pub mod view;

pub use audit::{AuditEntry, AuditWord};
pub use command::MetaCommand;
pub use machine::{MetaMachine, MetaReply};
pub use view::{MetaView, QueueEntry, ShareEntry, UserEntry};

use serde::{Deserialize, Serialize};

/// The share of jobs that name none; made by the bootstrap and never deleted.
pub const SHARE_UNDEFINED: &str = "Undefined";
/// Name of the one object of kind `timeouts`.
pub const TIMEOUTS_NAME: &str = "default";
/// Name of the one object of kind `shards`.
pub const SHARDS_NAME: &str = "table";
/// Name of the user whose limits hold for all users without an object of their own.
pub const USER_DEFAULT: &str = "*";

/// One object at one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// One of [`moso_proto::object::kind::ALL`].
    pub kind: String,
    /// Unique within the kind.
    pub name: String,
    /// Number of the change that made it: one counter for all objects, from 1 upward.
    pub version: u64,
    /// Canonical JSON of the typed object; empty: this change deleted it.
    pub json: String,
    /// Who made the change.
    pub author: String,
    /// When, Unix ms by the leader's clock.
    pub time_ms: u64,
    /// Number of a queue, share or user (from 1 upward, never used twice, also not by an object that is deleted and
    /// made again); the node number of a node; 0 for the other kinds.
    pub id: u32,
}

/// What stops a replica of the meta group. None of these can be caused by a client: commands are made by nodes and
/// records by this module. The replica must not go on, since its state would differ from the others'.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// A log command this program cannot read. The operator must run a program at least as new as the one that
    /// wrote it.
    #[error("meta command cannot be read: {0}")]
    Command(String),
    /// A stored record is damaged or of a newer format. The operator must restore the replica from another node.
    #[error("meta record {key} cannot be read: {error}")]
    Record {
        /// Key of the record, hexadecimal.
        key: String,
        /// What is wrong with it.
        error: String,
    },
}
