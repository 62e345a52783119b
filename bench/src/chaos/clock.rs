//! Wall clocks of the nodes that can be set: libfaketime is loaded into each node and reads an offset from a file.
//! Monotonic time is left alone.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Set clocks.
#[derive(Debug)]
pub(super) struct Clocks {
    library: PathBuf,
    folder: PathBuf,
}

impl Clocks {
    /// True clocks for nodes 1 to `nodes`; their offsets are kept in `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(library: PathBuf, folder: &Path, nodes: u32) -> Result<Clocks> {
        let clocks = Clocks { library, folder: folder.to_owned() };
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
            // Shared memory would outlive a killed node.
            ("FAKETIME_DISABLE_SHM", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    fn file(&self, node: u32) -> PathBuf {
        self.folder.join(format!("clock-{node}"))
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
