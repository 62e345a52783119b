//! Wall clocks of the nodes that can be set: libfaketime is loaded into each node and reads an offset from a file.
//! Monotonic time is left alone.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Where the library keeps memory that the threads of a process share; a process that is killed leaves it behind.
const SHARED_MEMORY: &str = "/dev/shm";

/// Set clocks. Dropping it removes what killed nodes left in shared memory.
#[derive(Debug)]
pub(crate) struct Clocks {
    library: PathBuf,
    folder: PathBuf,
    pids: Mutex<BTreeSet<u32>>,
}

impl Clocks {
    /// True clocks for nodes 1 to `nodes`; their offsets are kept in `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(library: PathBuf, folder: &Path, nodes: u32) -> Result<Clocks> {
        let clocks = Clocks { library, folder: folder.to_owned(), pids: Mutex::default() };
        (1..=nodes).try_for_each(|node| clocks.set(node, 0))?;
        Ok(clocks)
    }

    /// Sets a node's clock so many seconds off; it notices within a second.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self, node: u32, offset_s: i64) -> Result<()> {
        let path = self.file(node);
        let new = path.with_extension("new");
        // Renamed, so that no half-written offset is read.
        let written = std::fs::write(&new, format!("{offset_s:+}\n")).and_then(|()| std::fs::rename(&new, &path));
        written.with_context(|| format!("{} cannot be written", path.display()))
    }

    /// What a node's environment must say.
    pub fn env(&self, node: u32) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file(node))),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// A node runs as this process.
    pub fn saw(&self, pid: u32) {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
    }

    fn file(&self, node: u32) -> PathBuf {
        self.folder.join(format!("clock-{node}"))
    }
}

impl Drop for Clocks {
    fn drop(&mut self) {
        for pid in std::mem::take(&mut *self.pids.lock().unwrap_or_else(PoisonError::into_inner)) {
            // Most are not there: a node that ends well removes its own.
            for name in [format!("faketime_shm_{pid}"), format!("sem.faketime_sem_{pid}")] {
                let _ = std::fs::remove_file(Path::new(SHARED_MEMORY).join(name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_written_with_their_sign() {
        let folder = tempfile::tempdir().unwrap();
        let clocks = Clocks::new("/lib/fake.so".into(), folder.path(), 2).unwrap();
        let read = |node| std::fs::read_to_string(folder.path().join(format!("clock-{node}"))).unwrap();
        assert_eq!(read(2), "+0\n");
        clocks.set(1, -3_600).unwrap();
        assert_eq!((read(1), read(2)), ("-3600\n".to_owned(), "+0\n".to_owned()));
        clocks.set(1, 3_600).unwrap();
        assert_eq!(read(1), "+3600\n");
        let file = folder.path().join("clock-1").display().to_string();
        assert!(clocks.env(1).contains(&("FAKETIME_TIMESTAMP_FILE".to_owned(), file)));
    }
}
