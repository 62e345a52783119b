//! Files that may change while the node runs.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// How often files are looked at: a new certificate need not be in use in the same second.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What tells one content of a file from another: when it was written, its length and its place on the disk.
type Stamp = Option<(SystemTime, u64, u64)>;

/// Some files, and how they looked when they were last read.
#[derive(Debug)]
pub struct Watched {
    files: Vec<PathBuf>,
    seen: Mutex<Vec<Stamp>>,
}

impl Watched {
    /// Watches these files; they count as read now.
    pub fn new<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        let files: Vec<PathBuf> = files.into_iter().cloned().collect();
        let seen = Mutex::new(stamps(&files));
        Watched { files, seen }
    }

    /// Whether one of them has changed since it was asked last. To be asked before they are read.
    pub fn changed(&self) -> bool {
        let now = stamps(&self.files);
        let mut seen = self.seen.lock().expect("no thread panics while it holds this lock");
        let changed = *seen != now;
        *seen = now;
        changed
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let stamp = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len(), meta.ino()))
    };
    files.iter().map(|path| stamp(path)).collect()
}
