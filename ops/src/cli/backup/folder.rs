//! A backup's folder on disk.

use anyhow::{Context, Result, bail};
use moso_proto::backup::{Backup, BackupFile, LIST, LIST_BYTES_MAX};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

/// Bytes read at a time.
const PART_BYTES: usize = 1 << 20;

/// Reads the list.
pub fn read(dir: &Path) -> Result<Backup> {
    let path = dir.join(LIST);
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{} is missing: this is no backup, or one that was not completed", path.display());
        }
        file => file.with_context(|| path.display().to_string())?,
    };
    let mut bytes = Vec::new();
    file.take(LIST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).with_context(|| path.display().to_string())?;
    Backup::parse(&bytes).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}

/// Writes the list, at once and for good: aside, synced, renamed, the folder synced.
pub fn write(dir: &Path, backup: &Backup) -> Result<()> {
    let aside = dir.join(format!("{LIST}.new"));
    let put = || -> std::io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(&backup.seal())?;
        file.sync_all()?;
        std::fs::rename(&aside, dir.join(LIST))
    };
    put().with_context(|| format!("writing {} in {}", LIST, dir.display()))?;
    sync(dir)?;
    match dir.canonicalize().ok().as_deref().and_then(Path::parent) {
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

/// Puts a folder's entries on disk.
pub fn sync(dir: &Path) -> Result<()> {
    let sync = File::open(dir).and_then(|dir| dir.sync_all());
    sync.with_context(|| format!("syncing {}", dir.display()))
}

/// All that is not as the list says, a line each.
pub fn verify(dir: &Path, list: &Backup) -> Vec<String> {
    let mut wrong = Vec::new();
    for part in &list.parts {
        let folder = dir.join(Backup::folder(part.shard));
        let named: BTreeSet<&str> = part.files.iter().map(|file| &*file.name).collect();
        for file in &part.files {
            let path = folder.join(&file.name);
            wrong.extend(check(&path, file).err().map(|reason| format!("{}: {reason}", path.display())));
        }
        // A folder that is missing is told by its files.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !named.contains(&*name) {
                wrong.push(format!("{}: is not in {LIST}", entry.path().display()));
            }
        }
    }
    wrong
}

fn check(path: &Path, file: &BackupFile) -> Result<(), String> {
    let io = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => "is missing".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    let found = std::fs::symlink_metadata(path).map_err(io)?;
    if !found.is_file() {
        return Err("is no file".to_owned());
    }
    if found.len() != file.bytes {
        return Err(format!("has {} bytes instead of {}", found.len(), file.bytes));
    }
    let mut source = File::open(path).map_err(io)?.take(file.bytes);
    let (mut buffer, mut crc) = (vec![0; PART_BYTES], 0);
    loop {
        match source.read(&mut buffer).map_err(io)? {
            0 => break,
            read => crc = crc32c::crc32c_append(crc, &buffer[..read]),
        }
    }
    if crc != file.crc32c {
        return Err("is damaged: wrong checksum".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use moso_proto::backup::{BackupShard, FORMAT};

    fn backup(dir: &Path) -> Backup {
        let part = |shard: u16| {
            let folder = dir.join(Backup::folder(shard));
            std::fs::create_dir_all(&folder).unwrap();
            let files = ["CURRENT", "MANIFEST-000005"].map(|name| {
                let content = format!("{name} of shard {shard}");
                std::fs::write(folder.join(name), &content).unwrap();
                let crc32c = crc32c::crc32c(content.as_bytes());
                BackupFile { name: name.into(), bytes: content.len() as u64, crc32c }
            });
            let digest = "0123456789abcdef".into();
            let (live_jobs, tasks, ended_jobs, objects) = (1, 1, 1, 0);
            let files = files.into();
            BackupShard { shard, index: 9, term: 2, digest, live_jobs, tasks, ended_jobs, objects, time_ms: 1, files }
        };
        let parts = (0..=1).map(part).collect();
        Backup { format: FORMAT, cluster: "a".into(), shards: 1, time_ms: 5, parts }
    }

    #[test]
    fn a_backup_is_read_and_verified() {
        let dir = tempfile::tempdir().unwrap();
        let backup = backup(dir.path());
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("BACKUP.json is missing"), "{error}");
        write(dir.path(), &backup).unwrap();
        assert_eq!(read(dir.path()).unwrap(), backup);
        assert_eq!(verify(dir.path(), &backup), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let backup = backup(dir.path());
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("shard-0/CURRENT"), "CURRENT of shard 1").unwrap();
        std::fs::write(at("shard-1/CURRENT"), "longer than it was when written").unwrap();
        std::fs::remove_file(at("shard-1/MANIFEST-000005")).unwrap();
        std::fs::write(at("shard-1/more"), "").unwrap();
        let wrong = verify(dir.path(), &backup);
        let told = |what: &str| wrong.iter().any(|line| line.contains(what));
        assert_eq!(wrong.len(), 4, "{wrong:?}");
        assert!(told("shard-0/CURRENT: is damaged") && told("shard-1/CURRENT: has 31 bytes"), "{wrong:?}");
        assert!(told("shard-1/MANIFEST-000005: is missing") && told("shard-1/more: is not in"), "{wrong:?}");
    }
}
