//! What a backup is: a folder with the files of each shard's state, and a list of them.
//!
//! ```text
//! DIR/
//!   shard-0/ …    the meta group's state: queues, shares, users, settings, nodes
//!   shard-S/ …    the state of shard S
//!   BACKUP.json   written last: what there must be, sealed by a checksum
//! ```
//!
//! Nothing read from such a folder is believed before [`Backup::parse`] has looked at it: names stay in their folder, numbers
//! are within bounds.

use crate::id::SHARD_MAX;
use serde::{Deserialize, Serialize};

/// Format of the list. Others are refused.
pub const FORMAT: u32 = 1;
/// Name of the list in its folder.
pub const LIST: &str = "BACKUP.json";
/// Bytes of the list: 4,096 shards of some thousand files.
pub const LIST_BYTES_MAX: usize = 256 << 20;
/// Files of a shard: RocksDB's of some 64 MiB each.
pub const FILES_MAX: usize = 100_000;
/// Bytes of a file's name.
const NAME_BYTES_MAX: usize = 64;
/// Bytes of a cluster's name.
const CLUSTER_BYTES_MAX: usize = 64;

/// A file of a shard's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupFile {
    /// Name in the shard's folder.
    pub name: String,
    /// Size, bytes.
    pub bytes: u64,
    /// Checksum of all of it.
    pub crc32c: u32,
}

/// A shard's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupShard {
    /// Number; 0: the meta group.
    pub shard: u16,
    /// Up to where the shard's log is applied in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Fingerprint of the state, 16 hexadecimal digits.
    pub digest: String,
    /// Live jobs.
    pub live_jobs: u64,
    /// Live tasks.
    pub tasks: u64,
    /// Jobs ended since the shard was made.
    pub ended_jobs: u64,
    /// Objects of the meta group.
    pub objects: u64,
    /// When it was taken, Unix ms by its leader's clock.
    pub time_ms: u64,
    /// Its files, by name.
    pub files: Vec<BackupFile>,
}

impl BackupShard {
    /// Bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The fingerprint as a number.
    pub fn digest(&self) -> Option<u64> {
        u64::from_str_radix(&self.digest, 16).ok().filter(|_| self.digest.len() == 16)
    }

    fn check(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("shard {}: {what}", self.shard));
        if self.index == 0 || self.term == 0 {
            return wrong("no index or no term");
        }
        if self.digest().is_none() {
            return wrong("the digest has not 16 hexadecimal digits");
        }
        if self.files.is_empty() {
            return wrong("no files");
        }
        check_files(self.files.iter().map(|file| (&*file.name, file.bytes))).or_else(|error| wrong(&error))
    }
}

/// A cluster's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// Number of data shards.
    pub shards: u16,
    /// When it was complete, Unix ms by the clock of the machine that it was made on.
    pub time_ms: u64,
    /// The meta group, then the shards 1, 2, ….
    pub parts: Vec<BackupShard>,
}

/// The list beside its checksum.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    crc32c: u32,
    backup: serde_json::Value,
}

impl Backup {
    /// The bytes of the list.
    pub fn seal(&self) -> Vec<u8> {
        let backup = serde_json::to_value(self).expect("numbers, strings and lists are JSON");
        let sealed = Sealed { crc32c: crc32c::crc32c(backup.to_string().as_bytes()), backup };
        let mut bytes = serde_json::to_vec_pretty(&sealed).expect("numbers, strings and lists are JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the list.
    ///
    /// # Errors
    /// What is wrong with it, for people: it is not as it was written, of another format, or names what cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Backup, String> {
        if bytes.len() > LIST_BYTES_MAX {
            return Err(format!("more than {LIST_BYTES_MAX} bytes"));
        }
        let sealed: Sealed = serde_json::from_slice(bytes).map_err(|error| format!("damaged: {error}"))?;
        if crc32c::crc32c(sealed.backup.to_string().as_bytes()) != sealed.crc32c {
            return Err("damaged: wrong checksum".to_owned());
        }
        // Before the fields are looked at: another format may have others.
        let format = sealed.backup.get("format").and_then(serde_json::Value::as_u64).unwrap_or_default();
        if format != u64::from(FORMAT) {
            return Err(format!("has format {format}, this version reads only {FORMAT}"));
        }
        let backup: Backup = serde_json::from_value(sealed.backup).map_err(|error| format!("damaged: {error}"))?;
        backup.check()?;
        Ok(backup)
    }

    fn check(&self) -> Result<(), String> {
        if !(1..=CLUSTER_BYTES_MAX).contains(&self.cluster.len()) {
            return Err(format!("the name of a cluster has 1 to {CLUSTER_BYTES_MAX} bytes"));
        }
        if !(1..=SHARD_MAX).contains(&self.shards) {
            return Err(format!("a cluster has 1 to {SHARD_MAX} shards, not {}", self.shards));
        }
        if !self.parts.iter().map(|part| part.shard).eq(0..=self.shards) {
            return Err(format!("not the meta group and each of the {} shards, once", self.shards));
        }
        self.parts.iter().try_for_each(BackupShard::check)
    }

    /// Name of the folder of a shard.
    pub fn folder(shard: u16) -> String {
        format!("shard-{shard}")
    }
}

/// Checks that files, given by name and size, may be made in one folder: names that stay in it, rising, not too many.
///
/// # Errors
/// What is wrong, for people.
pub fn check_files<'a>(files: impl Iterator<Item = (&'a str, u64)>) -> Result<(), String> {
    let (mut last, mut count, mut sum) = ("", 0, 0_u64);
    for (name, bytes) in files {
        count += 1;
        let good = (1..=NAME_BYTES_MAX).contains(&name.len())
            && !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !good {
            return Err(format!("{name:?} is no name of a file of a state"));
        }
        if count > 1 && name <= last {
            return Err(format!("{name:?} is named twice, or not in order"));
        }
        if count > FILES_MAX {
            return Err(format!("more than {FILES_MAX} files"));
        }
        sum = sum.checked_add(bytes).ok_or("more bytes than there can be")?;
        last = name;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> Backup {
        let file = |name: &str| BackupFile { name: name.into(), bytes: 5, crc32c: 7 };
        let part = |shard| BackupShard {
            shard,
            index: 9,
            term: 2,
            digest: format!("{:016x}", u64::MAX - 1),
            live_jobs: 1,
            tasks: 1,
            ended_jobs: 3,
            objects: 0,
            time_ms: 4,
            files: vec![file("000009.sst"), file("CURRENT"), file("MANIFEST-000005")],
        };
        Backup { format: FORMAT, cluster: "a".into(), shards: 2, time_ms: 5, parts: (0..3).map(part).collect() }
    }

    #[test]
    fn a_list_comes_back() {
        let backup = backup();
        assert_eq!(Backup::parse(&backup.seal()).as_ref(), Ok(&backup));
        assert_eq!(backup.parts[1].digest(), Some(u64::MAX - 1));
        assert_eq!(backup.parts[1].bytes(), 15);
    }

    #[test]
    fn any_flipped_bit_that_changes_the_list_is_found() {
        let sealed = backup().seal();
        for at in 0..sealed.len() {
            let mut bytes = sealed.clone();
            bytes[at] ^= 1;
            // Blanks between the words may be others.
            assert!(Backup::parse(&bytes).map_or(true, |read| read == backup()), "byte {at}");
        }
        assert!(Backup::parse(&sealed[..sealed.len() / 2]).is_err());
        assert!(Backup::parse(b"").is_err());
    }

    fn refused(change: impl Fn(&mut Backup)) -> String {
        let mut backup = backup();
        change(&mut backup);
        Backup::parse(&backup.seal()).unwrap_err()
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for name in ["../x", "a/b", "", ".", "..", ".hidden", "a\0b", "ä"] {
            assert!(refused(|b| b.parts[1].files[0].name = name.into()).contains("shard 1"), "{name:?}");
        }
        assert!(refused(|b| b.parts[2].files.swap(0, 1)).contains("order"));
        assert!(refused(|b| b.parts[2].files[1] = b.parts[2].files[0].clone()).contains("twice"));
        assert!(refused(|b| b.parts[0].files.iter_mut().for_each(|f| f.bytes = u64::MAX)).contains("bytes"));
        assert!(refused(|b| b.parts[0].files.clear()).contains("no files"));
        assert!(refused(|b| b.parts[0].digest.truncate(8)).contains("digest"));
        assert!(refused(|b| b.parts[0].index = 0).contains("index"));
        assert!(refused(|b| b.parts.swap(0, 1)).contains("once"));
        assert!(refused(|b| drop(b.parts.pop())).contains("once"));
        assert!(refused(|b| b.shards = 0).contains("shards"));
        assert!(refused(|b| b.format = 2).contains("format 2"));
        assert!(refused(|b| b.cluster.clear()).contains("name"));
    }
}
