//! A stopped replica's store, looked at without changing it: every block, every key.

use super::{ARCH, BODY, HIST, HOT, Known, StateStore, families};
use crate::error::{Error, Result};
use crate::store::keys::{self, EndedKind};
use crate::store::rocks::{SharedRocks, open_error};
use rocksdb::{DB, ReadOptions};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

impl StateStore {
    /// Opens the state of a replica of `shard` in `dir`, which must exist. Nothing is changed, and writing is refused.
    ///
    /// # Errors
    /// As [`StateStore::open`].
    pub fn open_read_only(dir: &Path, shard: u16, shared: &SharedRocks) -> Result<StateStore> {
        let db = DB::open_cf_descriptors_read_only(shared.database(), dir, families(shared), false)
            .map_err(|error| open_error(dir, shard, error))?;
        let known = Mutex::new(Known::default());
        let store = StateStore { db, dir: dir.to_owned(), shard, known };
        let applied = store.read_applied(&ReadOptions::default())?;
        if let Some(applied) = applied {
            store.check_format(true)?;
            let conf_state = store.read_conf_state()?;
            store.known().applied = Some((applied, conf_state));
        }
        Ok(store)
    }

    /// Reads every block of records and says of each damaged one which it is. Passed over are filters and properties,
    /// without which a table is as good, and blocks of which nothing is left but what was deleted.
    pub fn damaged_blocks(&self) -> BTreeSet<String> {
        let mut damaged = BTreeSet::new();
        for name in [HOT, BODY, HIST, ARCH] {
            if self.read_all(name, None, None).is_ok() {
                continue;
            }
            // The first damaged block ends a walk: file by file, more are found.
            for file in self.db.live_files().unwrap_or_default() {
                if file.column_family_name != name {
                    continue;
                }
                let bounds = (file.start_key.as_deref(), file.end_key.as_deref());
                damaged.extend(self.read_all(name, bounds.0, bounds.1).err().map(|error| error.to_string()));
            }
            if damaged.is_empty() {
                damaged.extend(self.read_all(name, None, None).err().map(|error| error.to_string()));
            }
        }
        damaged
    }

    /// Reads a family from one key up to and with another.
    fn read_all(
        &self,
        family: &str,
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> std::result::Result<(), rocksdb::Error> {
        let mut iter = self.db.raw_iterator_cf_opt(self.family(family), reading());
        match from {
            Some(from) => iter.seek(from),
            None => iter.seek_to_first(),
        }
        while let Some(key) = iter.key() {
            if to.is_some_and(|to| key > to) {
                break;
            }
            iter.next();
        }
        iter.status()
    }

    /// Passes each body's number and bytes to `f`.
    ///
    /// # Errors
    /// `Damaged`, `Read`, and those of `f`.
    pub fn for_each_body(&self, mut f: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        self.walk(BODY, "body", |key, value| {
            let seq = key.try_into().map(u64::from_be_bytes);
            f(seq.map_err(|_| Error::damaged(self.shard, "body key", 0, "wrong length"))?, value)
        })
    }

    /// Passes day, number and record of each row of the status log to `f`.
    ///
    /// # Errors
    /// As [`StateStore::for_each_body`].
    pub fn for_each_row(&self, mut f: impl FnMut(u16, u64, &[u8]) -> Result<()>) -> Result<()> {
        self.walk(HIST, "status row", |key, value| {
            if keys::history_row(key).is_none() {
                return Err(Error::damaged(self.shard, "status row", 0, "wrong key"));
            }
            f(u16::from_be_bytes([key[0], key[1]]), keys::be_u64(&key[2..10]), value)
        })
    }

    /// Passes day, kind, number and record of everything in the archive to `f`, in the order of the keys.
    ///
    /// # Errors
    /// As [`StateStore::for_each_body`].
    pub fn for_each_ended(&self, mut f: impl FnMut(u16, EndedKind, u64, &[u8]) -> Result<()>) -> Result<()> {
        self.walk(ARCH, "archived record", |key, value| {
            let parts = keys::ended_parts(key);
            let (day, kind, seq) = parts.ok_or_else(|| Error::damaged(self.shard, "archive key", 0, "wrong key"))?;
            f(day, kind, seq, value)
        })
    }

    fn walk(&self, family: &str, what: &'static str, mut f: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let mut iter = self.db.raw_iterator_cf_opt(self.family(family), reading());
        iter.seek_to_first();
        while let Some((key, value)) = iter.item() {
            f(key, value)?;
            iter.next();
        }
        iter.status().map_err(|error| self.read_error(what, 0, error))
    }
}

/// Once through, every checksum compared.
fn reading() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options.fill_cache(false);
    options.set_readahead_size(1 << 20);
    options
}
