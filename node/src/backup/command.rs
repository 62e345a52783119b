//! `moso-node restore`.

use super::restore;
use crate::config::{Cli, Config};
use crate::error::Result;
use clap::Parser;
use std::ffi::OsString;
use std::path::PathBuf;

/// The word that asks for it.
pub const NAME: &str = "restore";

/// Make this node's data folder from a backup, and end.
///
/// On every node of a new cluster, before its first start. It may have other nodes, addresses, another name and another
/// number of replicas than the one that the backup is of; the number of shards is the same. Every node restores from the same
/// backup. One that was not restored must not be started: it would be a node of another cluster.
#[derive(Debug, Parser)]
#[command(name = "moso-node restore", version)]
pub struct RestoreArgs {
    /// The backup's folder, as `moso backup create` made it.
    #[arg(long, value_name = "DIR")]
    pub backup: PathBuf,
    #[command(flatten)]
    node: Cli,
}

/// Runs the command with these arguments, the program's name first. As for `--help`, the process ends here if they are wrong.
///
/// # Errors
/// `Config`; those of [`restore::restore`].
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<()> {
    let args = RestoreArgs::parse_from(args);
    let config = Config::read(&args.node, std::env::vars())?;
    let restored = restore::restore(&config, &args.backup)?;
    println!(
        "node {} of cluster {:?}: {} shards of backup {} (cluster {:?}) restored into {}; {} live jobs, {} ended ones",
        config.node,
        config.cluster,
        restored.shards,
        args.backup.display(),
        restored.from,
        config.data.display(),
        restored.live_jobs,
        restored.ended_jobs
    );
    Ok(())
}
