//! Replicas whose state is damaged: the node starts without them and serves the others.
//!
//! Only a replica's own state is given up so. Damage of the log concerns all replicas of the node, and of the meta group
//! the node itself: then it does not start.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::group::Group;
use crate::open::{open_group, open_store, peer_of};
use crate::store::{DamagedReplicas, RaftLog, SegmentLog, SharedRocks, StateStore, replica_dir};
use std::path::Path;
use std::sync::Arc;

/// What a replica's damage is called where RocksDB found it.
pub const STATE_STORE: &str = "state store";
/// What it is called where its log contradicts itself or its state.
const REPLICA: &str = "replica";

/// Opens the replicas of a node's data shards.
pub struct Salvage<'a> {
    config: &'a Config,
    data: &'a Path,
    shared: &'a SharedRocks,
    log: &'a Arc<SegmentLog>,
    damaged: DamagedReplicas,
}

impl<'a> Salvage<'a> {
    /// For the folder in `data`.
    ///
    /// # Errors
    /// `Folder` if the list of damaged replicas is damaged; `NewerFormat`.
    pub fn new(config: &'a Config, data: &'a Path, shared: &'a SharedRocks, log: &'a Arc<SegmentLog>) -> Result<Self> {
        Ok(Salvage { config, data, shared, log, damaged: DamagedReplicas::load(data)? })
    }

    /// Opens the replica of a shard on `nodes`. `None`: its state is damaged, now or since an earlier start. It is set
    /// aside and never opened again under its id.
    ///
    /// # Errors
    /// `Folder` if the log lost what the replica promised; what else keeps a node from starting.
    pub fn open(&mut self, shard: u16, nodes: &[u32]) -> Result<Option<(Arc<StateStore>, Group)>> {
        let peer = peer_of(self.config.node);
        if self.damaged.contains(shard, peer) {
            self.damaged.move_aside(shard, peer)?;
            tracing::error!(shard, "its replica here was set aside as damaged: it must be replaced by a new one");
            return Ok(None);
        }
        let opened = open_store(self.data, self.config, shard, self.shared)
            .and_then(|store| not_behind(&store, shard, self.log).map(|()| store))
            .and_then(|store| {
                let group = open_group(self.config, shard, nodes, store.clone(), self.log)?;
                Ok((store, group))
            });
        match opened {
            Ok(opened) => Ok(Some(opened)),
            Err(error @ Error::Damaged { what: REPLICA, .. }) => Err(whole_node(self.data, &error)),
            Err(error @ Error::Damaged { .. }) => {
                tracing::error!(
                    shard, %error, folder = %replica_dir(self.data, shard, peer).display(),
                    "the replica's state is damaged: it is set aside, the node starts without it; replace it by a new one"
                );
                self.damaged.set_aside(shard, peer, &error)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Shards whose replica here was set aside and not replaced.
    pub fn missing(&self) -> Vec<u16> {
        let peer = peer_of(self.config.node);
        self.damaged.replicas().iter().filter(|replica| replica.peer == peer).map(|replica| replica.shard).collect()
    }
}

/// A state that has not applied what was cut off the log lost what it once had.
fn not_behind(store: &StateStore, shard: u16, log: &SegmentLog) -> Result<()> {
    let (cut, applied) = (log.load(shard)?.truncated.0, store.applied().map_or(0, |(applied, _)| applied.index));
    match cut > applied {
        true => {
            let reason = format!("it has applied {applied}, but the log was cut at {cut} once more was on disk");
            Err(Error::damaged(shard, STATE_STORE, applied, reason))
        }
        false => Ok(()),
    }
}

/// Damage that no replica of the node can be trusted after.
pub fn whole_node(data: &Path, error: &Error) -> Error {
    let reason = format!(
        "{error}. What this node promised is lost, so it must not start again: keep the folder, `moso-node verify` lists \
         the damage, and bring the node back with an empty folder under a new number"
    );
    Error::Folder { path: data.to_owned(), reason }
}

/// Writes down a replica whose state was found damaged while the node ran: the node ends, and starts without it.
pub fn write_down(data: &Path, node: u32, error: &Error) {
    let Error::Damaged { shard, what: STATE_STORE, .. } = error else { return };
    if *shard == 0 {
        return;
    }
    let written = DamagedReplicas::load(data).and_then(|mut damaged| damaged.write_down(*shard, peer_of(node), error));
    if let Err(failed) = written {
        tracing::error!(shard, %failed, "the damaged replica cannot be written down");
    }
}

#[cfg(test)]
mod tests;
