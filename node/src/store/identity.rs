//! Whose data folder this is, and whom the node has met: an identity is never used twice.

use crate::error::{Error, Result};
use moso_proto::shards::FOUNDING_INCARNATION;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;

/// The folder format written. Others are refused.
pub const FOLDER_FORMAT: u32 = 4;

const IDENTITY: &str = "IDENTITY";
const SEEN: &str = "SEEN";
const REPLICAS: &str = "REPLICAS";
const LOCK: &str = "LOCK";
/// In a folder that is being filled from a backup.
const RESTORING: &str = "RESTORING";

/// Random number of a data folder, drawn when it is made. A node that lost its folder comes back with another one, and is
/// not taken for the node that promised things before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreId(pub u128);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for StoreId {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match u128::from_str_radix(text, 16) {
            Ok(number) if text.len() == 32 => Ok(StoreId(number)),
            _ => Err(format!("{text:?} is not a store id of 32 hexadecimal digits")),
        }
    }
}

impl TryFrom<String> for StoreId {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<StoreId> for String {
    fn from(id: StoreId) -> String {
        id.to_string()
    }
}

/// Whose data folder it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Format of the folder.
    pub format: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// Number of the node.
    pub node: u32,
    /// Number of the folder.
    pub store: StoreId,
}

/// A data folder that this process owns until it is dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    identity: Identity,
    _lock: File,
}

impl DataFolder {
    /// Takes the folder for this node; an empty or missing one is made.
    ///
    /// # Errors
    /// `Folder` if it is another's, in use, half made, damaged or not writable; `NewerFormat`.
    pub fn open(path: &Path, cluster: &str, node: u32) -> Result<DataFolder> {
        fs::create_dir_all(path).map_err(|error| refuse(path, format!("cannot be made: {error}")))?;
        let lock = lock(path)?;
        let expected = |identity: &Identity| identity.cluster == cluster && identity.node == node;
        let identity = match read_sealed::<Identity>(path, IDENTITY)? {
            Some(identity) if expected(&identity) => identity,
            Some(identity) => {
                let owner = format!("node {} of cluster {:?}", identity.node, identity.cluster);
                return Err(refuse(path, format!("belongs to {owner}, not to node {node} of cluster {cluster:?}")));
            }
            None => {
                check_empty(path)?;
                let store = StoreId(rand::random());
                let identity = Identity { format: FOLDER_FORMAT, cluster: cluster.to_owned(), node, store };
                write_sealed(path, IDENTITY, &identity)?;
                identity
            }
        };
        Ok(DataFolder { path: path.to_owned(), identity, _lock: lock })
    }

    /// The identity of a stopped node's folder, which is locked until the file given with it is dropped, so that no node
    /// starts on it meanwhile. Nothing is changed.
    ///
    /// # Errors
    /// `Folder` if a node runs on it, or it is no data folder, or damaged; `NewerFormat`.
    pub fn look(path: &Path) -> Result<(Identity, Option<File>)> {
        let lock = match File::open(path.join(LOCK)) {
            Ok(file) => match file.try_lock() {
                Ok(()) => Some(file),
                Err(TryLockError::WouldBlock) => {
                    return Err(refuse(path, "a node runs on it: stop the node, then look at its folder".to_owned()));
                }
                Err(TryLockError::Error(error)) => return Err(refuse(path, format!("cannot be locked: {error}"))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(refuse(path, format!("cannot be read: {error}"))),
        };
        let missing = || refuse(path, format!("holds no {IDENTITY}: it is no data folder of a node, or lost a part"));
        let identity = read_sealed::<Identity>(path, IDENTITY)?.ok_or_else(missing)?;
        read_sealed::<SeenFile>(path, SEEN)?;
        Ok((identity, lock))
    }

    /// Makes a folder whose content `fill` brings, all or nothing: until all is on disk it is no node's, and refused.
    ///
    /// # Errors
    /// `Folder` if it is not empty, in use or not writable; `Io`; those of `fill`.
    pub fn fill(path: &Path, cluster: &str, node: u32, fill: impl FnOnce(&Path) -> Result<()>) -> Result<DataFolder> {
        fs::create_dir_all(path).map_err(|error| refuse(path, format!("cannot be made: {error}")))?;
        let lock = lock(path)?;
        if let Some(Identity { cluster, node, .. }) = read_sealed::<Identity>(path, IDENTITY)? {
            let reason = format!("holds node {node} of cluster {cluster:?}: name an empty or new folder");
            return Err(refuse(path, reason));
        }
        check_empty(path)?;
        let io = |error| Error::io(format!("writing {RESTORING} in {}", path.display()), error);
        File::create(path.join(RESTORING)).and_then(|file| file.sync_all()).map_err(io)?;
        sync_folder(path).map_err(io)?;
        fill(path)?;
        sync_folder(path).map_err(io)?;
        let identity =
            Identity { format: FOLDER_FORMAT, cluster: cluster.to_owned(), node, store: StoreId(rand::random()) };
        write_sealed(path, IDENTITY, &identity)?;
        // With an identity it means nothing any more.
        let _ = fs::remove_file(path.join(RESTORING));
        Ok(DataFolder { path: path.to_owned(), identity, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The incarnations that were here; those with which a cluster is made count as such.
    ///
    /// # Errors
    /// `Folder` if the file is damaged; `NewerFormat`.
    pub fn incarnations(&self) -> Result<Incarnations> {
        let stored = read_sealed::<IncarnationsFile>(&self.path, REPLICAS)?;
        let highest = stored.map_or(FOUNDING_INCARNATION, |file| file.highest);
        Ok(Incarnations { folder: self.path.clone(), highest: Mutex::new(highest) })
    }

    /// The store ids of the nodes met so far.
    ///
    /// # Errors
    /// `Folder` if the file is damaged; `NewerFormat`.
    pub fn seen(&self) -> Result<Seen> {
        let stored = read_sealed::<SeenFile>(&self.path, SEEN)?;
        let stores = stored.map_or_else(BTreeMap::new, |file| file.stores);
        Ok(Seen { folder: self.path.clone(), stores: Mutex::new(stores) })
    }
}

/// The incarnations of the replicas that were ever here. They rise with time over the whole cluster, so what is not above
/// the highest was here before, or never will be: the table that names it is an old one. Kept on disk.
#[derive(Debug)]
pub struct Incarnations {
    folder: PathBuf,
    highest: Mutex<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IncarnationsFile {
    format: u32,
    highest: u32,
}

impl Incarnations {
    /// Whether a replica of this incarnation was never here. It counts as having been here from now on.
    ///
    /// # Errors
    /// `Io` if that cannot be written; then it must not come.
    pub fn is_new(&self, incarnation: u32) -> Result<bool> {
        let mut highest = self.highest.lock().expect("no thread panics while it holds this lock");
        if incarnation <= *highest {
            return Ok(false);
        }
        write_sealed(&self.folder, REPLICAS, &IncarnationsFile { format: FOLDER_FORMAT, highest: incarnation })?;
        *highest = incarnation;
        Ok(true)
    }
}

/// The store id under which each other node was first met. Kept on disk.
#[derive(Debug)]
pub struct Seen {
    folder: PathBuf,
    stores: Mutex<BTreeMap<u32, StoreId>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeenFile {
    format: u32,
    stores: BTreeMap<u32, StoreId>,
}

impl Seen {
    /// Whether `node` has the store id under which it was first met. The first meeting is written to disk, which takes a
    /// few milliseconds.
    ///
    /// # Errors
    /// `Folder` if the node has another store id: its data was lost or exchanged. `Io` if the meeting cannot be
    /// written; then the node is not met.
    pub fn meet(&self, node: u32, store: StoreId) -> Result<()> {
        let mut stores = self.stores.lock().expect("no thread panics while it holds this lock");
        match stores.get(&node) {
            Some(known) if *known == store => Ok(()),
            Some(known) => {
                let reason = format!(
                    "node {node} has store {store}, but was first met with {known}: it lost its data folder and must come \
                     back under a new number"
                );
                Err(refuse(&self.folder, reason))
            }
            None => {
                let mut file = SeenFile { format: FOLDER_FORMAT, stores: stores.clone() };
                file.stores.insert(node, store);
                write_sealed(&self.folder, SEEN, &file)?;
                *stores = file.stores;
                Ok(())
            }
        }
    }
}

fn refuse(path: &Path, reason: String) -> Error {
    Error::Folder { path: path.to_owned(), reason }
}

fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK));
    let file = file.map_err(|error| refuse(path, format!("is not writable: {error}")))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(refuse(path, "is in use by another process".to_owned())),
        Err(TryLockError::Error(error)) => Err(refuse(path, format!("cannot be locked: {error}"))),
    }
}

/// A folder without identity must hold nothing but the node's configuration and what a crash in the middle of making it
/// leaves.
fn check_empty(path: &Path) -> Result<()> {
    if path.join(RESTORING).exists() {
        let reason = "a restore into it did not end: remove all that is in it, and restore again";
        return Err(refuse(path, reason.to_owned()));
    }
    let unreadable = |error: io::Error| refuse(path, format!("cannot be read: {error}"));
    let making = format!("{IDENTITY}.new");
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let name = name.to_string_lossy();
        if ![LOCK, "lost+found", &making].contains(&&*name) && !name.ends_with(".toml") {
            let reason = format!("holds {name:?} but no {IDENTITY}: it is no data folder, or lost a part");
            return Err(refuse(path, reason));
        }
    }
    Ok(())
}

/// A file's content beside its checksum.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    crc32c: u32,
    content: serde_json::Value,
}

/// The content of a sealed file; `None`: there is no such file.
pub(super) fn read_sealed<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>> {
    let damaged = |reason: String| {
        refuse(
            folder,
            format!(
                "{name} is damaged ({reason}), so nobody knows what this node promised: keep the folder, and bring the \
                 node back with an empty folder under a new number"
            ),
        )
    };
    let bytes = match fs::read(folder.join(name)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refuse(folder, format!("{name} cannot be read: {error}"))),
    };
    let sealed: Sealed = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if crc32c::crc32c(sealed.content.to_string().as_bytes()) != sealed.crc32c {
        return Err(damaged("wrong checksum".to_owned()));
    }
    // Before the fields are looked at: a newer format may have others.
    let format = sealed.content.get("format").and_then(serde_json::Value::as_u64);
    match format.and_then(|format| u32::try_from(format).ok()) {
        Some(format) if format > FOLDER_FORMAT => Err(Error::NewerFormat {
            what: format!("{name} in {}", folder.display()),
            found: format,
            known: FOLDER_FORMAT,
        }),
        Some(format) if format < FOLDER_FORMAT => Err(refuse(
            folder,
            format!(
                "{name} has format {format} of an earlier version, this one reads only {FOLDER_FORMAT}: start the version that wrote it, or name an empty folder"
            ),
        )),
        Some(_) => serde_json::from_value(sealed.content).map(Some).map_err(|error| damaged(error.to_string())),
        None => Err(damaged("no format".to_owned())),
    }
}

/// Replaces the file at once and for good: written aside, synced, renamed, the folder synced.
pub(super) fn write_sealed(folder: &Path, name: &str, content: &impl Serialize) -> Result<()> {
    let content = serde_json::to_value(content).expect("numbers, strings and maps are JSON");
    let sealed = Sealed { crc32c: crc32c::crc32c(content.to_string().as_bytes()), content };
    let mut bytes = serde_json::to_vec_pretty(&sealed).expect("numbers, strings and maps are JSON");
    bytes.push(b'\n');
    let write = || -> io::Result<()> {
        let aside = folder.join(format!("{name}.new"));
        let mut file = File::create(&aside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&aside, folder.join(name))?;
        sync_folder(folder)
    };
    write().map_err(|error| Error::io(format!("writing {} in {}", name, folder.display()), error))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
