//! Sandboxes: uploaded files, kept on the nodes' disks under the hash of their content.
//!
//! An upload is acknowledged once a majority of the nodes that vote in the meta group have it on disk; then an object of the
//! meta group names it. Any node serves it: one that lacks it fetches it from the others and keeps it. Each voter fetches
//! what it lacks now and then, so that an upload outlives the nodes that took it. Content that no object names is deleted.

use super::limits::{LOG_BYTES_MAX, PART_BYTES, SOURCES_BYTES_MAX};
use crate::error::Error;
use crate::request::Fault;
use crate::router::{Router, call, pack, unpack};
use bytes::Bytes;
use moso_proto::Code;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Hash of a content: SHA-256.
pub type Hash = [u8; 32];

/// Content that no object names is kept so long: its upload may not be named yet.
const UNNAMED_LIFE: Duration = Duration::from_secs(3_600);
/// Most bytes of one content.
const BYTES_MAX: u64 = if SOURCES_BYTES_MAX > LOG_BYTES_MAX { SOURCES_BYTES_MAX } else { LOG_BYTES_MAX };

/// A part of a content, from another node. The parts of one copy come in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Of which content.
    pub hash: Hash,
    /// Bytes of the whole.
    pub size: u64,
    /// Where it begins.
    pub at: u64,
    /// Itself, at most [`PART_BYTES`].
    pub bytes: Bytes,
    /// Picked by the sender, so that two copies at once do not mix.
    pub copy: u64,
}

/// Asks for a part of a content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Of which content.
    pub hash: Hash,
    /// Where it begins.
    pub at: u64,
}

/// The answer to [`Wanted`]: bytes of the whole, and the part.
pub type Given = (u64, Vec<u8>);

/// The contents on this node's disk.
pub struct Sandboxes {
    folder: PathBuf,
    copies: AtomicU64,
}

/// A content that arrives; deleted unless it is finished.
pub struct Incoming {
    path: PathBuf,
    file: File,
    hash: Sha256,
    /// Bytes so far.
    pub bytes: u64,
    /// Its last bytes, at most eight: of a gzip, the checksum of what is in it.
    pub tail: Vec<u8>,
    done: bool,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Incoming {
    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(8)..]);
        self.tail.drain(..self.tail.len().saturating_sub(8));
        Ok(())
    }
}

fn failed(error: std::io::Error) -> Fault {
    Fault::new(Code::Internal, format!("a sandbox cannot be kept on this node's disk: {error}"))
}

/// As hexadecimal digits.
pub fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of these digits.
pub fn unhex(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(hash)
}

impl Sandboxes {
    /// Keeps them in `folder`; what an earlier run left unfinished is removed.
    ///
    /// # Errors
    /// `Io` if the folder cannot be made or read.
    pub fn open(folder: PathBuf) -> Result<Self, Error> {
        let io = |source| Error::Io { what: format!("the sandboxes in {}", folder.display()), source };
        fs::create_dir_all(&folder).map_err(io)?;
        for entry in fs::read_dir(&folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some() {
                fs::remove_file(&path).map_err(io)?;
            }
        }
        Ok(Sandboxes { folder, copies: AtomicU64::new(0) })
    }

    fn path(&self, hash: &Hash) -> PathBuf {
        self.folder.join(hex(hash))
    }

    /// A file for a content that arrives.
    pub fn begin(&self) -> Result<Incoming, Fault> {
        let number = self.copies.fetch_add(1, Ordering::Relaxed);
        self.incoming(self.folder.join(format!("upload-{number}.part")))
    }

    fn incoming(&self, path: PathBuf) -> Result<Incoming, Fault> {
        let file = File::create(&path).map_err(failed)?;
        Ok(Incoming { path, file, hash: Sha256::new(), bytes: 0, tail: Vec::new(), done: false })
    }

    /// Puts a content that has arrived on disk, under its hash.
    pub fn finish(&self, mut incoming: Incoming) -> Result<Hash, Fault> {
        let hash: Hash = std::mem::take(&mut incoming.hash).finalize().into();
        incoming.file.sync_all().map_err(failed)?;
        self.name(&incoming.path, &hash)?;
        incoming.done = true;
        Ok(hash)
    }

    fn name(&self, path: &Path, hash: &Hash) -> Result<(), Fault> {
        fs::rename(path, self.path(hash)).map_err(failed)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// The file of a content, if it is here.
    pub fn find(&self, hash: &Hash) -> Option<PathBuf> {
        Some(self.path(hash)).filter(|path| path.exists())
    }

    /// Answers another node.
    pub async fn answer(self: &Arc<Self>, kind: u8, body: Bytes) -> Result<Bytes, Fault> {
        let store = self.clone();
        on_disk(move || match kind {
            call::SANDBOX_PUT => store.take(&unpack(&body)?),
            _ => store.give(&unpack(&body)?),
        })
        .await
    }

    /// Takes a part; the last one makes the content whole, if its hash is right.
    fn take(&self, part: &Part) -> Result<Bytes, Fault> {
        let end = part.at.saturating_add(part.bytes.len() as u64);
        if part.size > BYTES_MAX || end > part.size || part.bytes.len() > PART_BYTES {
            return Err(Fault::new(Code::Invalid, "a part of a sandbox that is none"));
        }
        if self.find(&part.hash).is_some() {
            return Ok(Bytes::from_static(b"here"));
        }
        let path = self.folder.join(format!("{}-{}.part", hex(&part.hash), part.copy));
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(part.at == 0).open(&path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() != part.at {
            return Err(Fault::new(Code::Invalid, "a part of a sandbox that does not follow the one before"));
        }
        file.seek(SeekFrom::End(0)).and_then(|_| file.write_all(&part.bytes)).map_err(failed)?;
        if end < part.size {
            return Ok(Bytes::new());
        }
        file.sync_all().map_err(failed)?;
        if digest(&path).map_err(failed)? != part.hash {
            let _ = fs::remove_file(&path);
            return Err(Fault::new(Code::Invalid, "a sandbox arrived damaged"));
        }
        self.name(&path, &part.hash)?;
        Ok(Bytes::from_static(b"here"))
    }

    /// A part of a content that is here: its size and the bytes.
    fn give(&self, wanted: &Wanted) -> Result<Bytes, Fault> {
        let path = self.find(&wanted.hash).ok_or_else(|| Fault::new(Code::NotFound, "the sandbox is not here"))?;
        let (size, bytes) = read_part(&path, wanted.at).map_err(failed)?;
        Ok(pack(&(size, bytes)))
    }

    /// Copies a content to another node.
    async fn send(&self, router: &Router, node: u32, hash: &Hash) -> Result<(), Fault> {
        let path = self.path(hash);
        let copy = rand::random();
        let mut at = 0;
        loop {
            let from = path.clone();
            let (size, bytes) = on_disk(move || read_part(&from, at).map_err(failed)).await?;
            let next = at + bytes.len() as u64;
            let part = Part { hash: *hash, size, at, bytes: bytes.into(), copy };
            let answer = router.call(node, 0, call::SANDBOX_PUT, pack(&part)).await?;
            if &*answer == b"here" || next >= size {
                return Ok(());
            }
            at = next;
        }
    }

    /// Sees that a majority of the voters have a content that is here.
    pub async fn replicate(&self, router: &Router, hash: &Hash) -> Result<(), Fault> {
        let voters = router.directory.meta_voters.load_full();
        let own = router.directory.node;
        let needed = voters.len() / 2 + 1;
        let mut have = usize::from(voters.contains(&own));
        let sends = voters.iter().filter(|&&node| node != own).map(|&node| self.send(router, node, hash));
        let mut last = None;
        for sent in futures::future::join_all(sends).await {
            match sent {
                Ok(()) => have += 1,
                Err(fault) => last = Some(fault),
            }
        }
        if have >= needed {
            return Ok(());
        }
        let why = last.map(|fault| fault.message).unwrap_or_default();
        let message = format!("only {have} of {} nodes have the file, {needed} are needed: {why}", voters.len());
        Err(Fault { retry_after_ms: 1_000, ..Fault::new(Code::Unavailable, message) })
    }

    /// The file of a content, fetched from another node if it is not here.
    pub async fn fetch(self: &Arc<Self>, router: &Router, hash: &Hash) -> Result<PathBuf, Fault> {
        if let Some(path) = self.find(hash) {
            return Ok(path);
        }
        let mut last = Fault::new(Code::NotFound, "no node has the file");
        for node in router.peers.others() {
            match self.fetch_from(router, node, hash).await {
                Ok(()) => return Ok(self.path(hash)),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    async fn fetch_from(self: &Arc<Self>, router: &Router, node: u32, hash: &Hash) -> Result<(), Fault> {
        let mut incoming = self.begin()?;
        loop {
            let wanted = Wanted { hash: *hash, at: incoming.bytes };
            let (size, bytes): Given = unpack(&router.call(node, 0, call::SANDBOX_GET, pack(&wanted)).await?)?;
            if size > BYTES_MAX || (bytes.is_empty() && incoming.bytes < size) {
                return Err(Fault::new(Code::Internal, format!("node {node} sent no part of the file")));
            }
            incoming = on_disk(move || incoming.write(&bytes).map(|()| incoming).map_err(failed)).await?;
            if incoming.bytes >= size {
                break;
            }
        }
        if <Hash>::from(incoming.hash.clone().finalize()) != *hash {
            return Err(Fault::new(Code::Internal, format!("node {node} sent another file than it was asked for")));
        }
        let store = self.clone();
        on_disk(move || store.finish(incoming).map(drop)).await
    }

    /// Deletes what is not among `named` and not new, where `life` is how long uploads are kept.
    pub fn sweep(&self, named: &BTreeSet<Hash>, life: Duration) -> std::io::Result<()> {
        let new = UNNAMED_LIFE.min(life);
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let hash = name.to_str().and_then(unhex);
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if hash.is_none_or(|hash| !named.contains(&hash)) && age > new {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Marks a content as new, because it is to be named.
    pub fn touch(&self, hash: &Hash) {
        if let Ok(file) = OpenOptions::new().write(true).open(self.path(hash)) {
            let _ = file.set_modified(SystemTime::now());
        }
    }
}

fn digest(path: &Path) -> std::io::Result<Hash> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// Size of a file, and a part of it.
fn read_part(path: &Path, at: u64) -> std::io::Result<Given> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(PART_BYTES as u64).read_to_end(&mut bytes)?;
    Ok((size, bytes))
}

/// Runs what waits for the disk.
pub async fn on_disk<T: Send + 'static>(f: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    let gone = |_| Err(Fault::new(Code::Internal, "a sandbox could not be read or written: see the node's log"));
    tokio::task::spawn_blocking(f).await.unwrap_or_else(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Sandboxes) {
        let folder = tempfile::tempdir().unwrap();
        let store = Sandboxes::open(folder.path().join("s")).unwrap();
        (folder, store)
    }

    fn keep(store: &Sandboxes, bytes: &[u8]) -> Hash {
        let mut incoming = store.begin().unwrap();
        incoming.write(bytes).unwrap();
        store.finish(incoming).unwrap()
    }

    fn part(hash: Hash, at: u64, bytes: &[u8], size: u64) -> Part {
        Part { hash, size, at, bytes: Bytes::copy_from_slice(bytes), copy: 1 }
    }

    #[test]
    fn a_content_is_found_under_its_hash() {
        let (_folder, store) = store();
        let hash = keep(&store, b"hello");
        assert_eq!(fs::read(store.find(&hash).unwrap()).unwrap(), b"hello");
        assert_eq!(unhex(&hex(&hash)), Some(hash));
        drop(store.begin().unwrap());
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 1, "what did not arrive is gone");
        assert_eq!((unhex("x"), unhex(&"é".repeat(32))), (None, None));
    }

    #[test]
    fn parts_make_a_content_only_if_they_follow_each_other_and_are_undamaged() {
        let ((_a, from), (_b, to)) = (store(), store());
        let hash = keep(&from, b"hello world");
        assert!(to.take(&part(hash, 3, b"lo", 11)).is_err(), "the first part is missing");
        to.take(&part(hash, 0, b"hello ", 11)).unwrap();
        assert!(to.take(&part(hash, 5, b"x", 11)).is_err());
        assert!(to.take(&part(hash, 6, b"worlds", 11)).is_err(), "beyond the end");
        to.take(&part(hash, 6, b"world", 11)).unwrap();
        assert!(to.find(&hash).is_some());
        let other = keep(&from, b"other");
        assert!(to.take(&part(other, 0, b"wrong", 5)).is_err());
        assert!(to.find(&other).is_none());
        assert!(to.take(&part(other, 0, b"", u64::MAX)).is_err());
    }

    #[test]
    fn what_nobody_names_goes_when_it_is_old() {
        let (_folder, store) = store();
        let (old, named, new) = (keep(&store, b"old"), keep(&store, b"named"), keep(&store, b"new"));
        for hash in [&old, &named] {
            let file = OpenOptions::new().write(true).open(store.path(hash)).unwrap();
            file.set_modified(SystemTime::now() - 2 * UNNAMED_LIFE).unwrap();
        }
        store.sweep(&[named].into(), 9 * UNNAMED_LIFE).unwrap();
        assert_eq!([old, named, new].map(|hash| store.find(&hash).is_some()), [false, true, true]);
    }
}
