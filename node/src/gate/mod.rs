//! What stands between the sockets and the services, and keeps anybody from drowning the node.
//!
//! ```text
//! door.rs      who may connect: so many in all, so many of one address; pairs each connection with its line
//! line.rs      one connection: silent, idle and slow ones are hung up on
//! call.rs      one call: admitted before its body is read, its body and its reply bounded in time and bytes
//! framing.rs   where the messages of a call begin and end
//! pace.rs      while the threads that serve are behind, connections take turns; those of workers that hold jobs do not
//! memory.rs    the bytes of calls and replies under way
//! refusals.rs  what was refused, by reason, and when to come back
//! http.rs      the server of the pages
//! ```
//!
//! Under overload submissions are refused first, then waiting leases, then reads; heartbeats and results of running jobs
//! pass as long as the node lives.

pub mod call;
pub mod door;
mod framing;
pub mod http;
pub mod line;
pub mod memory;
pub mod pace;
pub mod refusals;

pub use memory::{Held, Memory};
pub use refusals::Reason;

use crate::api::busy;
use crate::config::Config;
use crate::limits::{BASE_BYTES, CONNECTION_BYTES, SUBMISSIONS_MAX};
use crate::request::Fault;
use pace::Pace;
use refusals::Refusals;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Parts of the memory for calls, percent: what may no longer be taken once so much is in use. Submissions are refused
/// first, heartbeats and results last.
pub mod share {
    /// Listings: whoever asks for many and reads none must not keep others from submitting.
    pub const LISTS: usize = 35;
    /// Submissions.
    pub const SUBMISSIONS: usize = 50;
    /// Bodies of leased jobs.
    pub const LEASES: usize = 70;
    /// Questions, operators.
    pub const READS: usize = 85;
    /// Heartbeats and results.
    pub const RUNNING: usize = 100;
}

/// What all connections and calls of a node share.
pub struct Gate {
    /// Bytes of calls and replies under way.
    pub memory: Memory,
    /// Turns while the node is behind.
    pub pace: Pace,
    /// What was refused.
    pub refusals: Refusals,
    submissions: Arc<Semaphore>,
}

impl Gate {
    /// A gate with so much memory for calls and replies, bytes.
    pub fn new(memory_bytes: usize) -> Arc<Gate> {
        Arc::new(Gate {
            memory: Memory::new(memory_bytes),
            pace: Pace::default(),
            refusals: Refusals::default(),
            submissions: Arc::new(Semaphore::new(SUBMISSIONS_MAX)),
        })
    }

    /// A place among the submissions under way.
    ///
    /// # Errors
    /// `Busy`, with when to come back.
    pub fn submission(&self) -> Result<OwnedSemaphorePermit, Fault> {
        self.submissions.clone().try_acquire_owned().map_err(|_| self.refuse(Reason::Submissions))
    }

    /// Whether a submission would find a place now.
    fn takes_submissions(&self) -> bool {
        self.submissions.available_permits() > 0
    }

    /// Memory for `bytes` of a call, while less than `percent` of it would be in use.
    ///
    /// # Errors
    /// `Busy`, with when to come back.
    pub fn hold(&self, bytes: usize, percent: usize) -> Result<Held, Fault> {
        self.memory.try_take(bytes, percent).ok_or_else(|| self.refuse(Reason::Memory))
    }

    /// Counts a refusal; the fault that tells it to the caller.
    pub fn refuse(&self, reason: Reason) -> Fault {
        self.refusals.count(reason);
        busy(reason.text(), self.refusals.retry_after_ms())
    }
}

/// What a node with this configuration may hold in memory beside the jobs themselves, bytes: what `moso_memory_limit_bytes`
/// says.
pub fn memory_limit_bytes(config: &Config) -> u64 {
    let mib = config.state_memory_mib + config.block_cache_mib + config.api_memory_mib;
    let connections = (config.api_connections + config.http_connections) * CONNECTION_BYTES;
    ((mib << 20) + connections + BASE_BYTES) as u64
}
