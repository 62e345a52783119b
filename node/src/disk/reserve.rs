//! A file that takes space while all is well, to be given up when the disk is full: a log that must grow by a little for
//! the node to end what is under way can.

use crate::error::{Error, Result};
use nix::fcntl::posix_fallocate;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Its name in the data folder.
pub const RESERVE: &str = "RESERVE";
/// What the system counts files in, bytes.
const BLOCK: u64 = 512;

/// The reserve of a data folder.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// Of so many bytes; nothing is made yet.
    pub fn new(folder: &Path, bytes: u64) -> Self {
        Reserve { path: folder.join(RESERVE), bytes }
    }

    /// Whether it is there, with all its blocks.
    ///
    /// # Errors
    /// `Io`.
    pub fn is_made(&self) -> Result<bool> {
        match fs::metadata(&self.path) {
            Ok(file) => Ok(file.len() >= self.bytes && file.blocks() * BLOCK >= self.bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.error("looking at", error)),
        }
    }

    /// Makes it. What was made of it is removed again if there is no space.
    ///
    /// # Errors
    /// `Io`.
    pub fn make(&self) -> Result<()> {
        if self.is_made()? {
            return Ok(());
        }
        let make = || -> io::Result<()> {
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(&self.path)?;
            posix_fallocate(&file, 0, self.bytes as i64)?;
            file.sync_all()
        };
        if let Err(error) = make() {
            let _ = fs::remove_file(&self.path);
            return Err(self.error("making", error));
        }
        Ok(())
    }

    /// Removes it; whether that made room.
    ///
    /// # Errors
    /// `Io`.
    pub fn give_up(&self) -> Result<bool> {
        match fs::remove_file(&self.path) {
            Ok(()) => {
                let folder = self.path.parent().unwrap_or(Path::new("."));
                // Only then are its blocks free, on some file systems.
                File::open(folder)
                    .and_then(|folder| folder.sync_all())
                    .map_err(|error| self.error("removing", error))?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.error("removing", error)),
        }
    }

    fn error(&self, what: &str, error: io::Error) -> Error {
        Error::io(format!("{what} the reserve for a full disk, {}", self.path.display()), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn it_takes_space_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(dir.path(), 3 << 20);
        assert!(!reserve.is_made().unwrap() && !reserve.give_up().unwrap());
        reserve.make().unwrap();
        let file = fs::metadata(dir.path().join(RESERVE)).unwrap();
        assert!(file.len() == 3 << 20 && file.blocks() * BLOCK >= 3 << 20, "{} blocks", file.blocks());
        assert!(Reserve::new(dir.path(), 3 << 20).is_made().unwrap());
        // A file of holes is none.
        let larger = Reserve::new(dir.path(), 5 << 20);
        File::options().write(true).open(dir.path().join(RESERVE)).unwrap().set_len(5 << 20).unwrap();
        assert!(!larger.is_made().unwrap());
        larger.make().unwrap();
        assert!(larger.is_made().unwrap() && larger.give_up().unwrap() && !larger.is_made().unwrap());
        assert!(!dir.path().join(RESERVE).exists());
    }

    #[test]
    fn what_stands_in_its_place_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = File::create(dir.path().join("file")).unwrap();
        file.write_all(b"x").unwrap();
        let error = Reserve::new(&dir.path().join("file"), 1).make().unwrap_err().to_string();
        assert!(error.contains("RESERVE"), "{error}");
    }
}
