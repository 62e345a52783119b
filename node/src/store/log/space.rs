//! Writing where the disk may be full: what found no space is written again, the same bytes at the same place, once there
//! is some. Until the write is complete and synced nobody was told of it, and a part of it reads as an incomplete batch.

use crate::error::{Error, Result};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Who can make room on a full disk.
pub trait Relief: Send + Sync {
    /// A write found the disk full, for the `tries`-th time. Returns once there may be space; `false`: there will be
    /// none. May take long: it is called on the thread that writes the log.
    fn disk_is_full(&self, tries: u32) -> bool;
}

/// The log's way to the disk.
#[derive(Default)]
pub struct Space {
    relief: Option<Arc<dyn Relief>>,
    /// Bytes that may still be written.
    #[cfg(test)]
    left: std::sync::Mutex<Option<u64>>,
}

impl Space {
    /// Asks `relief` for space.
    pub fn new(relief: Arc<dyn Relief>) -> Self {
        Space {
            relief: Some(relief),
            #[cfg(test)]
            left: std::sync::Mutex::default(),
        }
    }

    /// Does `write`, again and again while the disk is full and somebody makes room.
    ///
    /// # Errors
    /// `Fatal` for what is not a full disk, or stays full.
    pub fn retrying<T>(&self, what: &'static str, mut write: impl FnMut() -> io::Result<T>) -> Result<T> {
        for tries in 1.. {
            match write() {
                Ok(done) => return Ok(done),
                Err(error) if !is_full(&error) => return Err(Error::fatal(what, error)),
                Err(error) => {
                    tracing::warn!(%error, what, tries, "the disk is full");
                    if !self.relief.as_ref().is_some_and(|relief| relief.disk_is_full(tries)) {
                        let reason = format!("{error}; free space, then start the node again: nothing is lost");
                        return Err(Error::fatal(what, reason));
                    }
                }
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// Writes all of `bytes` at `at`, waiting for space.
    ///
    /// # Errors
    /// As [`Space::retrying`].
    pub fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> Result<()> {
        self.retrying("writing the Raft log", || self.write_once(file, bytes, at))
    }

    #[cfg(not(test))]
    fn write_once(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    #[cfg(test)]
    fn write_once(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut left = self.left.lock().unwrap();
        let fits = left.map_or(bytes.len(), |left| bytes.len().min(left as usize));
        file.write_all_at(&bytes[..fits], at)?;
        *left = left.map(|left| left - fits as u64);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// From now on so many bytes can be written; `None`: any number.
    #[cfg(test)]
    pub fn leave(&self, bytes: Option<u64>) {
        *self.left.lock().unwrap() = bytes;
    }
}

/// Whether the disk, or the user's part of it, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
