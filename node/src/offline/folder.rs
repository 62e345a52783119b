//! A stopped node's data folder.

use crate::error::{Error, Result};
use crate::store::{DamagedReplica, DamagedReplicas, DataFolder, Identity};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A replica's folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplicaFolder {
    /// Shard; 0: the meta group.
    pub shard: u16,
    /// The replica's id.
    pub peer: u64,
    /// Where its state is.
    pub path: PathBuf,
}

/// A stopped node's data folder, kept from being started while it is looked at.
pub struct StoppedFolder {
    /// The folder.
    pub path: PathBuf,
    /// Whose it is.
    pub identity: Identity,
    /// Its replicas, by shard.
    pub replicas: Vec<ReplicaFolder>,
    /// Replicas that were found damaged and never run again.
    pub damaged: Vec<DamagedReplica>,
    /// The folders in which they were set aside.
    pub aside: Vec<PathBuf>,
    _lock: Option<File>,
}

impl StoppedFolder {
    /// Looks at the folder.
    ///
    /// # Errors
    /// `Folder` if a node runs on it, it is none, or its identity is damaged; `NewerFormat`; `Io`.
    pub fn open(path: &Path) -> Result<StoppedFolder> {
        let (identity, lock) = DataFolder::look(path)?;
        let damaged = DamagedReplicas::load(path)?.replicas().to_vec();
        let (mut replicas, mut aside) = (Vec::new(), Vec::new());
        let shards = path.join("shards");
        let io = |error| Error::io(format!("reading {}", shards.display()), error);
        if shards.exists() {
            for entry in fs::read_dir(&shards).map_err(io)? {
                let path = entry.map_err(io)?.path();
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                match name.split_once('-').map(|(shard, peer)| (shard.parse(), peer.parse())) {
                    Some((Ok(shard), Ok(peer))) => replicas.push(ReplicaFolder { shard, peer, path }),
                    _ if name.starts_with(crate::store::damaged::PREFIX) => aside.push(path),
                    _ => {}
                }
            }
        }
        replicas.sort();
        aside.sort();
        Ok(StoppedFolder { path: path.to_owned(), identity, replicas, damaged, aside, _lock: lock })
    }
}
