//! How the replicas of a shard agree: one Raft group, without sockets, disk, clock or threads.
//!
//! A [`Replica`] is fed with messages, ticks and proposals. After each turn the owner takes its [`Output`] and does
//! what it asks, in this order:
//!
//! 1. send [`Output::messages`];
//! 2. with [`Output::restore`], replace the state by the copy that was announced;
//! 3. hand [`Output::append`] to the log writer, which writes all shards' appends in one batch with one sync, tells the
//!    replica by [`Replica::persisted`], and sends the append's messages;
//! 4. apply [`Output::committed`] to the state, and call [`Replica::applied`];
//! 5. answer [`Output::reads`], and act on [`Output::role_change`].
//!
//! What the owner may rely on:
//!
//! - An entry is handed out for applying only when a majority has it on disk, this replica included.
//! - Votes and acknowledgements leave only after what they promise is on disk.
//! - Bytes from a peer never panic and never reach Raft before [`Replica::step`] has checked them.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cache;
mod config;
pub mod core;
mod error;
mod inbound;
mod leading;
pub mod leases;
pub mod limits;
pub mod members;
pub mod meta_core;
mod output;
mod pending;
mod prepared;
mod quorum;
mod replica;
mod settlements;
mod snapshots;
mod storage;
mod terms;
pub mod timeouts;
pub mod wire;

#[cfg(test)]
mod tests;

pub use config::ReplicaConfig;
pub use error::{Error, Result};
pub use output::{Append, Committed, Output, Payload, PeerProgress, Position, Read, Role};
pub use pending::Pending;
pub use quorum::QuorumLease;
pub use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType,
};
pub use replica::Replica;
pub use storage::{Durable, FOUNDING, LogReader};
