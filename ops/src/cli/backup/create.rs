//! Makes a backup.

use super::folder;
use crate::cli::exit::Usage;
use crate::cli::output::Output;
use crate::cli::text;
use anyhow::{Context, Result, bail};
use moso_client::v1::BackupHead;
use moso_client::{Client, Error, ShardCopy};
use moso_proto::backup::{Backup, BackupFile, BackupShard, FORMAT};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Times that a shard's copy is begun: leaders change, nodes stop.
const TRIES: u32 = 6;
/// Wait before the next try: a leader is found within it.
const PAUSE: Duration = Duration::from_secs(3);

/// Backs the cluster up into `dir`. The list, without which it is no backup, is written last.
pub async fn create(client: &Client, dir: &Path, out: &Output) -> Result<Backup> {
    make_empty(dir)?;
    let shards = client.cluster().await?.shards.iter().map(|shard| shard.shard).max().unwrap_or(0);
    let mut cluster: Option<String> = None;
    let mut parts = Vec::new();
    // The objects last: then every number that a job has of a queue, a share or a user is known to them.
    for shard in (1..=shards).chain([0]) {
        let (name, part) = take(client, dir, shard, shards).await?;
        if cluster.get_or_insert_with(|| name.clone()) != &name {
            bail!("shard {shard} is of cluster {name:?}, the others of {:?}", cluster.unwrap_or_default());
        }
        out.note(format!("shard {shard}: {} live jobs, {}", part.live_jobs, text::bytes(part.bytes())))?;
        parts.push(part);
    }
    parts.rotate_right(1);
    let cluster = cluster.context("the cluster has no shards")?;
    let backup = Backup { format: FORMAT, cluster, shards, time_ms: text::now_ms(), parts };
    folder::write(dir, &backup)?;
    Ok(backup)
}

fn make_empty(dir: &Path) -> Result<()> {
    let what = || dir.display().to_string();
    std::fs::create_dir_all(dir).with_context(what)?;
    if std::fs::read_dir(dir).with_context(what)?.next().is_some() {
        let reason =
            format!("{} is not empty: name a new folder, or remove what a backup that was interrupted left", what());
        return Err(Usage(reason).into());
    }
    Ok(())
}

/// Takes a shard's copy, again if it breaks off: what came is removed then.
async fn take(client: &Client, dir: &Path, shard: u16, shards: u16) -> Result<(String, BackupShard)> {
    let folder = dir.join(Backup::folder(shard));
    let mut tries = 1;
    loop {
        let error = match take_once(client, &folder, shard, shards).await {
            Ok(taken) => return Ok(taken),
            Err(error) => error,
        };
        let passing = error.downcast_ref::<Error>().is_some_and(Error::is_retryable);
        if !passing || tries == TRIES {
            return Err(error.context(format!("the backup of shard {shard} was not made")));
        }
        tracing::warn!(shard, error = %format!("{error:#}"), "a copy broke off and is taken again");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        tries += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn take_once(client: &Client, folder: &Path, shard: u16, shards: u16) -> Result<(String, BackupShard)> {
    let mut copy = client.backup(shard).await?;
    let head = copy.head().clone();
    if head.shards != u32::from(shards) {
        bail!("its leader knows {} shards, the cluster has {shards}", head.shards);
    }
    std::fs::create_dir(folder).with_context(|| folder.display().to_string())?;
    let files = write_files(&mut copy, folder, &head).await?;
    folder::sync(folder)?;
    let part = BackupShard {
        shard,
        index: head.index,
        term: head.term,
        digest: format!("{:016x}", head.digest),
        live_jobs: head.live_jobs,
        tasks: head.tasks,
        ended_jobs: head.ended_jobs,
        objects: head.objects,
        time_ms: head.time_ms,
        files,
    };
    Ok((head.cluster, part))
}

/// Writes the files as they come; their names were checked by the client.
async fn write_files(copy: &mut ShardCopy, folder: &Path, head: &BackupHead) -> Result<Vec<BackupFile>> {
    let mut written = Vec::new();
    let mut next = copy.next().await?;
    for (place, file) in head.files.iter().enumerate() {
        let path = folder.join(&file.name);
        let what = || path.display().to_string();
        let mut target = OpenOptions::new().create_new(true).write(true).open(&path).with_context(what)?;
        let mut crc32c = 0;
        while let Some((_, bytes)) = next.take_if(|(of, _)| *of == place) {
            target.write_all(&bytes).with_context(what)?;
            crc32c = crc32c::crc32c_append(crc32c, &bytes);
            next = copy.next().await?;
        }
        target.sync_all().with_context(what)?;
        written.push(BackupFile { name: file.name.clone(), bytes: file.bytes, crc32c });
    }
    Ok(written)
}
