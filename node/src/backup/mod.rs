//! Backups: a shard's state for an operator, and a new cluster's data folders made of such states.
//!
//! ```text
//! serve.rs    the leader: checkpoint (hard links), digest, the files in parts at a limited rate
//! restore.rs  offline, on each node of a new cluster: copy and compare, open, read every record, compare the digest,
//!             replace the members, begin the log anew behind the state; the identity comes last
//! ```
//!
//! Each shard is taken at an index of its own. A task lives in one shard, so each task, its jobs and its counts are of one
//! moment; two tasks may be of moments that are as far apart as the backup took. The meta group is taken last: jobs name
//! queues, shares and users by numbers that are never used twice, and so every number in a job is known to it. Taken first, it
//! would lack a queue made meanwhile, and give its number to another one after the restore.

pub mod command;
pub mod restore;
pub mod serve;

use crate::error::Error;
use crate::open::load_machine;
use crate::store::StateStore;
use moso_queue::meta::MetaMachine;

/// What a state holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Fingerprint.
    pub digest: u64,
    /// Live jobs.
    pub live_jobs: u64,
    /// Live tasks.
    pub tasks: u64,
    /// Jobs ended since the shard was made.
    pub ended_jobs: u64,
    /// Objects of the meta group.
    pub objects: u64,
}

/// Loads a state's machine and looks at it. Takes as long as a start of the replica, and as much memory.
///
/// # Errors
/// `Damaged`, `Read`.
pub fn figures(shard: u16, store: &StateStore) -> Result<Figures, Error> {
    if shard == 0 {
        let machine = MetaMachine::load(store.records()?.into_iter())?;
        return Ok(Figures {
            digest: machine.digest(),
            live_jobs: 0,
            tasks: 0,
            ended_jobs: 0,
            objects: machine.objects(),
        });
    }
    let machine = load_machine(shard, store)?;
    Ok(Figures {
        digest: machine.digest(),
        live_jobs: machine.live(),
        tasks: machine.tasks_from(0).count() as u64,
        ended_jobs: machine.ended_jobs(),
        objects: 0,
    })
}
