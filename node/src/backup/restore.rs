//! Makes a node's data folder from a backup.

use super::figures;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::open;
use crate::store::{
    self, Applied, DataFolder, LogOptions, RaftLog, SegmentLog, ShardAppend, SharedOptions, SharedRocks, StateStore,
};
use moso_proto::backup::{Backup, BackupFile, BackupShard, LIST, LIST_BYTES_MAX};
use moso_queue::meta::MetaMachine;
use moso_shard::{ConfState, HardState};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

/// Read and written at a time, bytes.
const PART_BYTES: usize = 1 << 20;

/// What was restored into a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Name of the cluster that the backup is of.
    pub from: String,
    /// Shards here, the meta group included.
    pub shards: usize,
    /// Live jobs of these.
    pub live_jobs: u64,
    /// Ended jobs of these.
    pub ended_jobs: u64,
}

/// Makes the data folder of a node of a new cluster from the backup in `dir`: the states of the shards that the node holds by
/// its configuration, with its cluster's members, and a log that goes on behind them. All or nothing: a folder in which this
/// did not end is refused by a start.
///
/// # Errors
/// `Backup` if the backup is not what was written, or not one for this configuration; `Folder` if the data folder is not
/// new; `Damaged` if a state is; `Config`, `Io`, `Fatal`.
pub fn restore(config: &Config, dir: &Path) -> Result<Restored> {
    let backup = read(dir)?;
    check(config, &backup, dir)?;
    let table = open::shard_table(config);
    let holds = |part: &&BackupShard| match usize::from(part.shard).checked_sub(1) {
        None => true,
        Some(place) => table.replicas[place].contains(&config.node),
    };
    let parts: Vec<&BackupShard> = backup.parts.iter().filter(holds).collect();
    DataFolder::fill(&config.data, &config.cluster, config.node, |data| {
        check_room(data, &parts)?;
        let shared = SharedRocks::new(&SharedOptions::default())?;
        let mut states = Vec::new();
        for part in &parts {
            let members = match usize::from(part.shard).checked_sub(1) {
                None => open::meta_founders(config),
                Some(place) => open::founders(&table.replicas[place]),
            };
            let from = dir.join(Backup::folder(part.shard));
            let to = store::replica_dir(data, part.shard, open::peer_of(config.node));
            copy_files(&from, &to, part)?;
            let place = Place { from: &from, to: &to, shared: &shared };
            place.take_over(config, part, &backup, &members)?;
            tracing::info!(shard = part.shard, index = part.index, live = part.live_jobs, "restored");
            states.push((part.shard, part.index, hard_state(part)));
        }
        sync_folder(&data.join("shards"))?;
        begin_log(config, data, &states)
    })?;
    Ok(Restored {
        from: backup.cluster.clone(),
        shards: parts.len(),
        live_jobs: parts.iter().map(|part| part.live_jobs).sum(),
        ended_jobs: parts.iter().map(|part| part.ended_jobs).sum(),
    })
}

/// Reads the list of a backup.
///
/// # Errors
/// `Backup`.
pub fn read(dir: &Path) -> Result<Backup> {
    let path = dir.join(LIST);
    let refuse = |reason: String| Error::Backup { path: path.clone(), reason };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(refuse("is missing: this is no backup, or one that was not completed".to_owned()));
        }
        Err(error) => return Err(refuse(format!("cannot be read: {error}"))),
    };
    let mut bytes = Vec::new();
    let most = LIST_BYTES_MAX as u64 + 1;
    file.take(most).read_to_end(&mut bytes).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    Backup::parse(&bytes).map_err(refuse)
}

fn check(config: &Config, backup: &Backup, dir: &Path) -> Result<()> {
    if config.join {
        let reason = "join = true: a node that joins gets its states from the others; restore only the nodes with which the \
                      cluster is made";
        return Err(Error::Config(vec![reason.to_owned()]));
    }
    if config.shards != backup.shards {
        let reason = format!(
            "is of a cluster of {} shards, the configuration says shards = {}: the number of shards never changes",
            backup.shards, config.shards
        );
        return Err(Error::Backup { path: dir.to_owned(), reason });
    }
    Ok(())
}

/// Free bytes that a restore must leave on the disk.
const FREE_BYTES_MIN: u64 = 512 << 20;

fn check_room(data: &Path, parts: &[&BackupShard]) -> Result<()> {
    let needed = parts.iter().fold(FREE_BYTES_MIN, |sum, part| sum.saturating_add(part.bytes()));
    let free = crate::usage::disk_free_bytes(data);
    if free < needed {
        let reason = format!("its disk has {free} bytes free, {needed} are needed: make room");
        return Err(Error::Folder { path: data.to_owned(), reason });
    }
    Ok(())
}

fn hard_state(part: &BackupShard) -> HardState {
    HardState { term: part.term, commit: part.index, ..HardState::default() }
}

/// Copies a shard's files, compares them with the list, and puts them on disk.
fn copy_files(from: &Path, to: &Path, part: &BackupShard) -> Result<()> {
    fs::create_dir_all(to).map_err(|error| Error::io(format!("making {}", to.display()), error))?;
    part.files.iter().try_for_each(|file| copy_file(from, to, file))?;
    sync_folder(to)
}

fn copy_file(from: &Path, to: &Path, file: &BackupFile) -> Result<()> {
    let path = from.join(&file.name);
    let refuse = |reason: String| Error::Backup { path: path.clone(), reason };
    let write = |error| Error::io(format!("writing {}", to.join(&file.name).display()), error);
    let is_file = fs::symlink_metadata(&path).map(|found| found.is_file());
    match is_file {
        Ok(true) => {}
        Ok(false) => return Err(refuse("is no file".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(refuse("is missing".to_owned())),
        Err(error) => return Err(refuse(format!("cannot be read: {error}"))),
    }
    let mut source = File::open(&path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let target = OpenOptions::new().create_new(true).write(true).open(to.join(&file.name));
    let mut target = target.map_err(write)?;
    let (mut buffer, mut bytes, mut crc) = (vec![0; PART_BYTES], 0, 0);
    loop {
        let read = source.read(&mut buffer).map_err(|error| refuse(format!("cannot be read: {error}")))?;
        bytes += read as u64;
        if read == 0 || bytes > file.bytes {
            break;
        }
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
        target.write_all(&buffer[..read]).map_err(write)?;
    }
    if bytes != file.bytes {
        let than = if bytes > file.bytes { "more than" } else { "less than" };
        return Err(refuse(format!("has {than} the {} bytes that it had when the backup was made", file.bytes)));
    }
    if crc != file.crc32c {
        return Err(refuse("is damaged: wrong checksum. Use another copy of the backup".to_owned()));
    }
    target.sync_all().map_err(write)
}

/// Where a shard's state came from and is now.
struct Place<'a> {
    from: &'a Path,
    to: &'a Path,
    shared: &'a SharedRocks,
}

impl Place<'_> {
    fn refuse(&self, reason: String) -> Error {
        Error::Backup { path: self.from.to_owned(), reason }
    }

    /// Opens the state, finds it to be what was backed up, and gives it to its new members.
    fn take_over(&self, config: &Config, part: &BackupShard, backup: &Backup, members: &ConfState) -> Result<()> {
        let shard = part.shard;
        let store = StateStore::open(self.to, shard, self.shared)?;
        store.verify()?;
        let applied = Applied { index: part.index, term: part.term };
        let found = store.applied().map(|(applied, _)| applied);
        if found != Some(applied) {
            let reason = format!("its state is of {found:?}, not of index {} and term {}", part.index, part.term);
            return Err(self.refuse(reason));
        }
        let digest = figures(shard, &store)?.digest;
        if part.digest() != Some(digest) {
            let reason = format!("its state has digest {digest:016x}, not {} as when it was backed up", part.digest);
            return Err(self.refuse(reason));
        }
        let mut batch = store.writer();
        if shard == 0 {
            let mut machine = MetaMachine::load(store.records()?.into_iter())?;
            let new = open::bootstrap(config);
            machine
                .refound(backup.time_ms, &new.cluster, &new.nodes, &new.shards)
                .map_err(|reason| self.refuse(format!("its objects cannot be the new cluster's: {reason}")))?;
            for (key, value) in machine.take_dirty() {
                match value {
                    Some(value) => batch.put_record(&key, &value),
                    None => batch.delete_record(&key),
                }
            }
        }
        store.commit(batch, applied, Some(members))?;
        store.flush()
    }
}

/// The log of every shard begins anew behind its state, in the state's term, in which nobody has voted.
fn begin_log(config: &Config, data: &Path, states: &[(u16, u64, HardState)]) -> Result<()> {
    let options = LogOptions { segment_bytes: config.log_segment_mib << 20 };
    let log = SegmentLog::open(&store::log_dir(data), &options)?;
    let mut appends = Vec::new();
    for (shard, index, state) in states {
        let restart = Some((*index, state.term));
        appends.push(ShardAppend { shard: *shard, restart, hard_state: Some(state), ..ShardAppend::default() });
    }
    log.append(&appends)?;
    sync_folder(&store::log_dir(data))
}

fn sync_folder(dir: &Path) -> Result<()> {
    let sync = File::open(dir).and_then(|dir| dir.sync_all());
    sync.map_err(|error| Error::io(format!("syncing {}", dir.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(prepare: impl Fn(&Path)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("CURRENT"), "as it was").unwrap();
        prepare(&from);
        let file = BackupFile { name: "CURRENT".into(), bytes: 9, crc32c: crc32c::crc32c(b"as it was") };
        fs::create_dir(&to).unwrap();
        let copied = copy_file(&from, &to, &file);
        match copied {
            Ok(()) => {
                assert_eq!(fs::read(to.join("CURRENT")).unwrap(), b"as it was");
                String::new()
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("from/CURRENT"), "{text}");
                text
            }
        }
    }

    #[test]
    fn only_a_file_that_is_as_it_was_is_copied() {
        assert_eq!(copy(|_| ()), "");
        assert!(copy(|from| fs::write(from.join("CURRENT"), "as it wAs").unwrap()).contains("wrong checksum"));
        assert!(copy(|from| fs::write(from.join("CURRENT"), "as it was, and more").unwrap()).contains("more than"));
        assert!(copy(|from| fs::write(from.join("CURRENT"), "as it").unwrap()).contains("less than"));
        assert!(copy(|from| fs::remove_file(from.join("CURRENT")).unwrap()).contains("is missing"));
        let link = |from: &Path| {
            fs::rename(from.join("CURRENT"), from.join("elsewhere")).unwrap();
            std::os::unix::fs::symlink("elsewhere", from.join("CURRENT")).unwrap();
        };
        assert!(copy(link).contains("is no file"));
        let folder = |from: &Path| {
            fs::remove_file(from.join("CURRENT")).unwrap();
            fs::create_dir(from.join("CURRENT")).unwrap();
        };
        assert!(copy(folder).contains("is no file"));
    }

    #[test]
    fn a_folder_without_a_sound_list_is_no_backup() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("not completed"));
        fs::write(dir.path().join(LIST), "{").unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("damaged"));
    }
}
