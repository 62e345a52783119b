//! Replicas whose state is damaged: the node starts without them and serves the others.
//!
//! Only a replica's own state is given up so. Damage of the log concerns all replicas of the node, and of the meta group
//! the node itself: then it does not start.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::group::Group;
use crate::open::{found, open_group, open_store, replicas_on_disk};
use crate::store::{DamagedReplicas, SegmentLog, SharedRocks, StateStore, replica_dir};
use moso_proto::shards::node_of;
use moso_shard::ConfState;
use std::collections::BTreeMap;
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

    /// Opens a replica; with `founders`, one with which its shard is made. `None`: its state is damaged, now or since an earlier start. It is set
    /// aside and never opened again under its id.
    ///
    /// # Errors
    /// `Folder` if the log lost what the replica promised; what else keeps a node from starting.
    pub fn open(
        &mut self,
        shard: u16,
        peer: u64,
        founders: Option<&ConfState>,
    ) -> Result<Option<(Arc<StateStore>, Group)>> {
        if self.damaged.contains(shard, peer) {
            self.damaged.move_aside(shard, peer)?;
            tracing::error!(shard, "its replica here was set aside as damaged: it must be replaced by a new one");
            return Ok(None);
        }
        match self.try_open(shard, peer, founders) {
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

    fn try_open(&self, shard: u16, peer: u64, founders: Option<&ConfState>) -> Result<(Arc<StateStore>, Group)> {
        let store = open_store(self.data, shard, peer, self.log, self.shared)?;
        if let Some(members) = founders {
            found(shard, &store, self.log, members)?;
        }
        let group = open_group(self.config, shard, peer, store.clone(), self.log)?;
        Ok((store, group))
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
    let here = |key: &&(u16, u64)| key.0 == *shard && node_of(key.1) == node;
    let peer = |found: BTreeMap<(u16, u64), _>| found.keys().filter(here).map(|key| key.1).max();
    let written = replicas_on_disk(data).and_then(|found| match peer(found) {
        Some(peer) => DamagedReplicas::load(data)?.write_down(*shard, peer, error),
        None => Ok(()),
    });
    if let Err(failed) = written {
        tracing::error!(shard, %failed, "the damaged replica cannot be written down");
    }
}

#[cfg(test)]
mod tests;
