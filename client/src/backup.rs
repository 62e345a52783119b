//! Copies of shards' states, for a backup.

use crate::client::{Client, backups};
use crate::error::{Error, Result};
use crate::retry::Failure;
use bytes::Bytes;
use moso_proto::backup::check_files;
use moso_proto::v1::{BackupHead, BackupPart, BackupRequest, backup_part::Part};
use std::time::Duration;
use tonic::Streaming;

/// Time for the first part: the leader flushes the state and loads all of it once more.
const HEAD_TIME: Duration = Duration::from_secs(900);
/// Time for each further part of at most 1 MiB, at the leader's limited rate.
const PART_TIME: Duration = Duration::from_secs(60);

impl Client {
    /// Asks the leader of a shard for a copy of its state; shard 0 is the meta group. All that was acknowledged before the
    /// call is in it. The leader makes it before its first part comes: that may take minutes for a large shard.
    ///
    /// # Errors
    /// As of any call; an error that may be gone later is repeated here only until the copy begins.
    pub async fn backup(&self, shard: u16) -> Result<ShardCopy> {
        let request = BackupRequest { shard: shard.into() };
        let stream = self.call(Some(shard), request, |node, call| async move { backups(&node).backup(call).await });
        let mut stream = stream.await?;
        let part = next(&mut stream, shard, HEAD_TIME).await?;
        let Some(Part::Head(head)) = part.and_then(|part| part.part) else {
            return Err(defect(shard, "it does not begin with its head"));
        };
        let files = head.files.iter().map(|file| (&*file.name, file.bytes));
        check_files(files).map_err(|error| defect(shard, &error))?;
        Ok(ShardCopy { shard, stream, head, file: 0, at: 0 })
    }
}

/// A copy of a shard's state as it comes: its files one after the other. Dropped, it is given up, and the leader removes it.
pub struct ShardCopy {
    shard: u16,
    stream: Streaming<BackupPart>,
    head: BackupHead,
    /// Where the next part must be.
    file: usize,
    at: u64,
}

impl ShardCopy {
    /// What it is. The files' names stay in one folder, rise, and are at most
    /// [`FILES_MAX`](moso_proto::backup::FILES_MAX).
    pub fn head(&self) -> &BackupHead {
        &self.head
    }

    /// The next bytes, with the place of their file in the head; they follow what came before of it. `None` once every file
    /// is complete.
    ///
    /// # Errors
    /// The copy ended early or is not what was announced: of no use, ask for another one.
    pub async fn next(&mut self) -> Result<Option<(usize, Bytes)>> {
        while self.head.files.get(self.file).is_some_and(|file| self.at == file.bytes) {
            (self.file, self.at) = (self.file + 1, 0);
        }
        let part = next(&mut self.stream, self.shard, PART_TIME).await?;
        let Some(file) = self.head.files.get(self.file) else {
            return match part {
                None => Ok(None),
                Some(_) => Err(defect(self.shard, "more comes than was announced")),
            };
        };
        let Some(Part::Chunk(chunk)) = part.and_then(|part| part.part) else {
            return Err(defect(self.shard, &format!("it ends within {}", file.name)));
        };
        let bytes = chunk.data.len() as u64;
        if (chunk.file as usize, chunk.at) != (self.file, self.at) || bytes == 0 || bytes > file.bytes - self.at {
            return Err(defect(self.shard, &format!("{} does not come in order", file.name)));
        }
        if crc32c::crc32c(&chunk.data) != chunk.crc32c {
            return Err(defect(self.shard, &format!("{} has a wrong checksum at {}", file.name, self.at)));
        }
        self.at += bytes;
        Ok(Some((self.file, chunk.data)))
    }
}

async fn next(stream: &mut Streaming<BackupPart>, shard: u16, time: Duration) -> Result<Option<BackupPart>> {
    let reason = match tokio::time::timeout(time, stream.message()).await {
        Ok(Ok(part)) => return Ok(part),
        Ok(Err(status)) => match Failure::of(&status, "the leader") {
            Failure::Final(error) | Failure::Later(error) | Failure::Moved { error, .. } => return Err(error),
            Failure::Transport(reason) => reason,
        },
        Err(_) => format!("nothing came for {} s", time.as_secs()),
    };
    Err(Error::Unreachable { addresses: format!("the leader of shard {shard}"), reason })
}

fn defect(shard: u16, what: &str) -> Error {
    Error::Defect { node: "the leader".into(), message: format!("the copy of shard {shard}: {what}") }
}
