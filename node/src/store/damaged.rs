//! Replicas of this folder that were found damaged. They never run again under their ids: what they promised is not known.

use super::identity::{FOLDER_FORMAT, read_sealed, write_sealed};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// How the folders of damaged replicas begin, beside those of the others.
pub const PREFIX: &str = "damaged-";

const DAMAGED: &str = "DAMAGED";

/// A replica that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DamagedReplica {
    /// Shard.
    pub shard: u16,
    /// The replica's id.
    pub peer: u64,
    /// What was wrong.
    pub reason: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DamagedFile {
    format: u32,
    replicas: Vec<DamagedReplica>,
}

/// The replicas of a folder that were set aside. Kept on disk.
///
/// Invariant: a replica is written down before its folder is moved, so that no crash brings it back.
#[derive(Debug)]
pub struct DamagedReplicas {
    folder: PathBuf,
    replicas: Vec<DamagedReplica>,
}

impl DamagedReplicas {
    /// Those of a data folder.
    ///
    /// # Errors
    /// `Folder` if the file is damaged; `NewerFormat`.
    pub fn load(folder: &Path) -> Result<Self> {
        let stored = read_sealed::<DamagedFile>(folder, DAMAGED)?;
        Ok(DamagedReplicas { folder: folder.to_owned(), replicas: stored.map_or_else(Vec::new, |file| file.replicas) })
    }

    /// Whether a replica must not be opened.
    pub fn contains(&self, shard: u16, peer: u64) -> bool {
        self.replicas.iter().any(|replica| (replica.shard, replica.peer) == (shard, peer))
    }

    /// All of them.
    pub fn replicas(&self) -> &[DamagedReplica] {
        &self.replicas
    }

    /// Writes the replica down as damaged and moves its folder aside, for the operator to look at.
    ///
    /// # Errors
    /// `Io` if either fails: the replica must not be opened, and the node not started.
    pub fn set_aside(&mut self, shard: u16, peer: u64, reason: impl ToString) -> Result<()> {
        self.write_down(shard, peer, reason)?;
        self.move_aside(shard, peer)
    }

    /// Writes the replica down as damaged.
    ///
    /// # Errors
    /// `Io`.
    pub fn write_down(&mut self, shard: u16, peer: u64, reason: impl ToString) -> Result<()> {
        if self.contains(shard, peer) {
            return Ok(());
        }
        let mut replicas = self.replicas.clone();
        replicas.push(DamagedReplica { shard, peer, reason: reason.to_string() });
        let file = DamagedFile { format: FOLDER_FORMAT, replicas };
        write_sealed(&self.folder, DAMAGED, &file)?;
        self.replicas = file.replicas;
        Ok(())
    }

    /// Moves the folder of a replica that is written down, if a crash has kept it in its place.
    ///
    /// # Errors
    /// `Io`.
    pub fn move_aside(&self, shard: u16, peer: u64) -> Result<()> {
        for from in crate::open::replicas_on_disk(&self.folder)?.remove(&(shard, peer)).unwrap_or_default() {
            self.move_one(&from, shard, peer)?;
        }
        Ok(())
    }

    fn move_one(&self, from: &Path, shard: u16, peer: u64) -> Result<()> {
        let parent = from.parent().unwrap_or(&self.folder).to_owned();
        let to = (0..)
            .map(|n| {
                parent.join(if n == 0 {
                    format!("{PREFIX}{shard}-{peer}")
                } else {
                    format!("{PREFIX}{shard}-{peer}.{n}")
                })
            })
            .find(|to| !to.exists())
            .expect("numbers do not end");
        fs::rename(from, &to)
            .and_then(|()| File::open(&parent)?.sync_all())
            .map_err(|error| Error::io(format!("moving {} to {}", from.display(), to.display()), error))
    }
}
