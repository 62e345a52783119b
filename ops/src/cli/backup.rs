//! `moso backup`: a cluster's state as a folder of files, from which `moso-node restore` makes a new cluster.

mod create;
mod folder;

use super::output::{Output, Table, fields};
use super::text;
use anyhow::{Result, bail};
use clap::Subcommand;
use moso_client::Client;
use moso_proto::backup::Backup as List;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum Backup {
    /// Back the cluster up while it works. Each shard is taken at a moment of its own, the cluster's objects last: a task with
    /// all its jobs is of one moment, and every queue, share and user that a job names is there.
    Create {
        /// New or empty folder.
        dir: PathBuf,
    },
    /// Check that a backup is complete and as it was written. Reads all of it, asks no cluster.
    Verify {
        /// Its folder.
        dir: PathBuf,
    },
    /// Show what a backup holds; asks no cluster.
    Show {
        /// Its folder.
        dir: PathBuf,
    },
}

impl Backup {
    /// Whether it speaks to a cluster.
    pub fn asks(&self) -> bool {
        matches!(self, Backup::Create { .. })
    }

    /// Runs what asks no cluster.
    pub fn run(&self, out: &Output) -> Result<()> {
        match self {
            Backup::Show { dir } => out.show(&folder::read(dir)?, show),
            Backup::Verify { dir } => {
                let list = folder::read(dir)?;
                let wrong = folder::verify(dir, &list);
                if !wrong.is_empty() {
                    bail!("{} is not as it was written:\n{}", dir.display(), wrong.join("\n"));
                }
                out.show(&list, |list| {
                    let files: usize = list.parts.iter().map(|part| part.files.len()).sum();
                    format!("{files} files, {}: complete and as written\n", text::bytes(bytes(list)))
                })
            }
            Backup::Create { .. } => unreachable!("it asks a cluster"),
        }
    }

    /// Runs it.
    pub async fn ask(self, client: &Client, out: &Output) -> Result<()> {
        match self {
            Backup::Create { dir } => out.show(&create::create(client, &dir, out).await?, show),
            other => other.run(out),
        }
    }
}

fn bytes(list: &List) -> u64 {
    list.parts.iter().map(|part| part.bytes()).sum()
}

fn show(list: &List) -> String {
    let sum = |of: fn(&moso_proto::backup::BackupShard) -> u64| list.parts.iter().map(of).sum::<u64>().to_string();
    let head = fields([
        ("cluster", list.cluster.clone()),
        ("made", text::time(list.time_ms)),
        ("shards", list.shards.to_string()),
        ("live jobs", sum(|part| part.live_jobs)),
        ("ended jobs", sum(|part| part.ended_jobs)),
        ("objects", sum(|part| part.objects)),
        ("size", text::bytes(bytes(list))),
    ]);
    let mut table =
        Table::new(["SHARD", "INDEX", "TERM", "TAKEN", "LIVE", "TASKS", "ENDED", "FILES", "SIZE", "DIGEST"]);
    for part in &list.parts {
        table.row([
            match part.shard {
                0 => "0 meta".into(),
                shard => shard.to_string(),
            },
            part.index.to_string(),
            part.term.to_string(),
            text::time(part.time_ms),
            part.live_jobs.to_string(),
            part.tasks.to_string(),
            part.ended_jobs.to_string(),
            part.files.len().to_string(),
            text::bytes(part.bytes()),
            part.digest.clone(),
        ]);
    }
    format!("{head}\n{}", table.render())
}
