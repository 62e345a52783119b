//! Copies of a replica's state: made here by hard links, sent to another node, verified there.

use super::{ARCH, Applied, BODY, HIST, HOT, Known, StateStore};
use crate::error::{Error, Result};
use crate::store::keys;
use crate::store::rocks::{SharedRocks, open_error};
use crate::store::value;
use raft::eraftpb::ConfState;
use rocksdb::checkpoint::Checkpoint as RocksCheckpoint;
use rocksdb::{DB, ReadOptions};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A copy of a state in a folder of its own. Its files never change.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder.
    pub dir: PathBuf,
    /// Up to where the log is applied in it.
    pub applied: Applied,
    /// The members there.
    pub members: ConfState,
    /// Names and bytes of its files.
    pub files: Vec<(String, u64)>,
}

impl StateStore {
    /// Flushes the state and makes a copy of it in `dir`, which must not exist, on the same file system. Writers go on
    /// meanwhile. Takes as long as a flush: keep it off the threads that own shards.
    ///
    /// # Errors
    /// `Fatal` if the flush failed; `Contract` if nothing was ever committed; `Read`, `Damaged`, `Io`.
    pub fn checkpoint(&self, dir: &Path, shared: &SharedRocks) -> Result<Checkpoint> {
        if let Some(parent) = dir.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|error| Error::io(format!("making {}", parent.display()), error))?;
        }
        RocksCheckpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(dir))
            .map_err(|error| Error::fatal("copying a shard's state", error))?;
        let db = DB::open_cf_descriptors_read_only(shared.database(), dir, super::families(shared), false)
            .map_err(|error| Error::Read { what: "a copy of a shard's state", reason: error.to_string() })?;
        let read = |key: [u8; 2]| {
            let family = db.cf_handle(HOT).expect("the copy was opened with this column family");
            db.get_cf(family, key).map_err(|error| self.read_error("copy", 0, error))
        };
        let damaged = |reason| Error::damaged(self.shard, "copy", 0, reason);
        let never = || Error::contract(self.shard, "a copy of a state to which nothing was ever committed");
        let (index, term) =
            value::decode_position(&keys::APPLIED, &read(keys::APPLIED)?.ok_or_else(never)?).map_err(damaged)?;
        let members = value::decode_conf_state(&keys::CONF_STATE, &read(keys::CONF_STATE)?.ok_or_else(never)?)
            .map_err(damaged)?;
        drop(db);
        Ok(Checkpoint { dir: dir.to_owned(), applied: Applied { index, term }, members, files: files(dir)? })
    }

    /// Opens a copy for reading. Its files stay as they are.
    ///
    /// # Errors
    /// As [`StateStore::open`]; `Contract` if nothing was ever committed.
    pub fn open_copy(dir: &Path, shard: u16, shared: &SharedRocks) -> Result<StateStore> {
        let db = DB::open_cf_descriptors_read_only(shared.database(), dir, super::families(shared), false)
            .map_err(|error| open_error(dir, shard, error))?;
        let store = StateStore { db, dir: dir.to_owned(), shard, known: Mutex::new(Known::default()) };
        let applied = store.read_applied(&ReadOptions::default())?;
        let applied =
            applied.ok_or_else(|| Error::contract(shard, "a copy of a state to which nothing was committed"))?;
        store.check_format(true)?;
        let members = store.read_conf_state()?;
        store.known().applied = Some((applied, members));
        Ok(store)
    }

    /// Reads every record, so that a block whose checksum is wrong is found now and not when it is needed.
    ///
    /// # Errors
    /// `Damaged`, `Read`.
    pub fn verify(&self) -> Result<()> {
        for name in [HOT, BODY, HIST, ARCH] {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            options.set_verify_checksums(true);
            options.set_readahead_size(2 << 20);
            let mut iter = self.db.raw_iterator_cf_opt(self.family(name), options);
            iter.seek_to_first();
            while iter.valid() {
                iter.next();
            }
            iter.status().map_err(|error| self.read_error("record", 0, error))?;
        }
        Ok(())
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

fn files(dir: &Path) -> Result<Vec<(String, u64)>> {
    let io = |error| Error::io(format!("reading {}", dir.display()), error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let metadata = entry.metadata().map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // The read-only opening leaves its own log and lock.
        if metadata.is_file() && name != "LOCK" && !name.starts_with("LOG") {
            files.push((name, metadata.len()));
        }
    }
    files.sort_unstable();
    Ok(files)
}
