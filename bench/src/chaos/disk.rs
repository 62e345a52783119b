//! A small disk for one node: a tmpfs over its data folder, which can be filled up.

use super::tools::quiet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes written at once.
const CHUNK_BYTES: usize = 1 << 20;
const BALLAST: &str = "ballast";

/// A mounted folder, unmounted when dropped.
#[derive(Debug)]
pub(super) struct SmallDisk {
    /// The node whose data is on it.
    pub node: u32,
    folder: PathBuf,
}

impl SmallDisk {
    /// Makes the folder and mounts so many MiB there.
    ///
    /// # Errors
    /// What the system says.
    pub fn mount(node: u32, folder: PathBuf, mib: u64) -> Result<SmallDisk, String> {
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        mount(&folder, mib)?;
        Ok(SmallDisk { node, folder })
    }

    /// Writes until there is no room left; may be repeated when the node has made some. Gives the bytes written.
    ///
    /// # Errors
    /// What the system says, other than that the disk is full.
    pub fn fill(&self) -> std::io::Result<u64> {
        let mut ballast = File::options().create(true).append(true).open(self.folder.join(BALLAST))?;
        let zeros = vec![0; CHUNK_BYTES];
        let mut written = 0;
        // The last page counts: a node needs little.
        let mut step = CHUNK_BYTES;
        while step > 0 {
            match ballast.write(&zeros[..step]) {
                Ok(bytes) => written += bytes as u64,
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => step /= 4,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// What the system says.
    pub fn empty(&self) -> std::io::Result<()> {
        match std::fs::remove_file(self.folder.join(BALLAST)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(why) = unmount(&self.folder) {
            eprintln!("{} is still mounted: {why}", self.folder.display());
        }
    }
}

/// Mounts a tmpfs of so many MiB.
pub(super) fn mount(folder: &Path, mib: u64) -> Result<(), String> {
    let size = format!("size={mib}m");
    quiet(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "moso-chaos"]).arg(folder))
}

/// Unmounts it; if a process still has files there, as soon as it ends.
pub(super) fn unmount(folder: &Path) -> Result<(), String> {
    let plain = quiet(Command::new("umount").arg(folder));
    plain.or_else(|_| quiet(Command::new("umount").arg("--lazy").arg(folder)))
}
