//! Which cluster is meant, and the file in which `moso up` says where its cluster is.

use super::exit::{NoCluster, Usage};
use anyhow::{Context, Result};
use moso_client::{Client, ClientOptions};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A person waits no longer than this for an answer.
const RETRY_BUDGET: Duration = Duration::from_secs(10);

/// Where a local cluster is.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalAddress {
    /// Process id of `moso up`.
    pub pid: u32,
    /// API addresses of its nodes.
    pub addresses: Vec<String>,
}

/// A client of the cluster named on the command line, or else of the local one.
pub async fn client(connect: &[String]) -> Result<Client> {
    // An empty MOSO_CONNECT is as none.
    let named = connect.iter().filter(|address| !address.is_empty());
    let mut addresses: Vec<String> = named.cloned().collect();
    if addresses.is_empty() {
        addresses = LocalAddress::read(&LocalAddress::path()?)?.addresses;
    }
    let options = ClientOptions { retry_budget: RETRY_BUDGET, author: author(), ..ClientOptions::default() };
    match Client::connect_with(addresses, options).await {
        Err(error @ moso_client::Error::Refused { .. }) => Err(Usage(error.to_string()).into()),
        result => Ok(result?),
    }
}

/// The user's name, as the environment has it.
pub fn author() -> String {
    std::env::var("USER").unwrap_or_default()
}

fn uid() -> Result<u32> {
    Ok(std::fs::metadata("/proc/self").context("/proc is needed")?.uid())
}

impl LocalAddress {
    /// The file of this user's local cluster.
    pub fn path() -> Result<PathBuf> {
        let folder = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_else(|| "/tmp".into());
        Ok(Path::new(&folder).join(format!("moso-{}.json", uid()?)))
    }

    /// Reads the file, if the cluster it names still runs.
    pub fn read(path: &Path) -> Result<Self> {
        let help = "start one with `moso up`, or name a node with --connect host:port";
        let meta = match std::fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(_) => return Err(NoCluster(format!("no local cluster runs; {help}")).into()),
        };
        // In /tmp anybody may make such a file, and would then see our submissions.
        if meta.uid() != uid()? || !meta.is_file() {
            return Err(NoCluster(format!("{} is not ours; {help}", path.display())).into());
        }
        let text = std::fs::read(path).with_context(|| path.display().to_string())?;
        let local: LocalAddress =
            serde_json::from_slice(&text).map_err(|_| NoCluster(format!("{} is damaged; {help}", path.display())))?;
        if !Path::new("/proc").join(local.pid.to_string()).exists() {
            return Err(NoCluster(format!("the local cluster has ended; {help}")).into());
        }
        Ok(local)
    }

    /// Writes the file, readable by this user alone.
    pub fn write(&self, path: &Path) -> Result<()> {
        let _ = std::fs::remove_file(path);
        let file = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(|| path.display().to_string())?;
        serde_json::to_writer(file, self).with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_living_cluster_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moso.json");
        assert!(LocalAddress::read(&path).unwrap_err().is::<NoCluster>());
        let local = LocalAddress { pid: std::process::id(), addresses: vec!["127.0.0.1:1".into()] };
        local.write(&path).unwrap();
        local.write(&path).unwrap();
        assert_eq!(LocalAddress::read(&path).unwrap(), local);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);

        // No process has this number: it is above the kernel's limit.
        let ended = LocalAddress { pid: u32::MAX, ..local };
        ended.write(&path).unwrap();
        let error = LocalAddress::read(&path).unwrap_err();
        assert!(error.is::<NoCluster>() && error.to_string().contains("moso up"));
        std::fs::write(&path, "{").unwrap();
        assert!(LocalAddress::read(&path).unwrap_err().is::<NoCluster>());
    }
}
