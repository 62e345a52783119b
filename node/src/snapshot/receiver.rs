//! The follower's side: takes a copy's files, verifies them, opens the state in them, and gives it to the shard's reactor.
//!
//! What arrives comes from a node of this cluster, and is believed as little as anything else: names stay in the folder,
//! nothing is written beyond what was offered, checksums are compared, every record is read, and the machine must load.

use super::{COPIES_MAX, ChunkHead, Done, Offer};
use crate::error::Error;
use crate::open;
use crate::reactor::{Mailbox, reactor_of};
use crate::request::Fault;
use crate::snapshot::standby::Prepared;
use crate::store::state::StateStore;
use crate::store::{self, SharedRocks};
use moso_proto::Code;
use moso_shard::Position;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A copy of which nothing came for so long gives way to another one.
const IDLE: Duration = Duration::from_secs(10);
/// Free bytes that a copy must leave on the disk.
const FREE_BYTES_MIN: u64 = 512 << 20;

/// A copy that arrives.
struct Incoming {
    offer: Offer,
    /// The folder while it is not whole.
    part: PathBuf,
    files: Vec<Part>,
    touched: Instant,
    /// It was given to the reactor.
    prepared: bool,
}

impl Incoming {
    /// How much of each file is here.
    fn held(&self) -> Vec<u64> {
        match self.prepared {
            // The answer to the end was lost: it is asked again.
            true => self.offer.files.iter().map(|(_, bytes)| *bytes).collect(),
            false => self.files.iter().map(|part| part.held).collect(),
        }
    }
}

struct Part {
    file: File,
    held: u64,
}

/// Takes copies. Its calls wait for the disk.
pub struct Receiver {
    data: PathBuf,
    mailboxes: Vec<Arc<Mailbox>>,
    shared: Arc<SharedRocks>,
    incoming: Mutex<BTreeMap<u16, Arc<Mutex<Incoming>>>>,
}

impl Receiver {
    /// Takes copies into `data`.
    pub fn new(data: PathBuf, mailboxes: Vec<Arc<Mailbox>>, shared: Arc<SharedRocks>) -> Self {
        Receiver { data, mailboxes, shared, incoming: Mutex::default() }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u16, Arc<Mutex<Incoming>>>> {
        self.incoming.lock().expect("no thread panics while it holds this lock")
    }

    /// Takes an offer for the replica `local` of a shard; says how many bytes of each file are here.
    ///
    /// # Errors
    /// `Busy` while other copies arrive; `Invalid` for an offer that cannot be.
    pub fn offer(&self, shard: u16, local: u64, offer: Offer) -> Result<Vec<u64>, Fault> {
        if local != offer.to {
            let reason = format!("replica {} of shard {shard} is not here, or not yet", offer.to);
            return Err(Fault::new(Code::NotLeader, reason));
        }
        if !offer.is_sound() {
            return Err(Fault::new(Code::Invalid, "a copy whose files cannot be made in a folder"));
        }
        let mut all = self.all();
        all.retain(|_, copy| copy.try_lock().map_or(true, |copy| copy.touched.elapsed() < IDLE || copy.prepared));
        if let Some(copy) = all.get(&shard) {
            let mut copy = lock(copy);
            if copy.offer.id == offer.id {
                copy.touched = Instant::now();
                return Ok(copy.held());
            }
            if !copy.prepared && copy.touched.elapsed() < IDLE {
                return Err(busy(format!("another copy of shard {shard} arrives")));
            }
        }
        let arriving =
            all.iter().filter(|(other, copy)| **other != shard && !copy.try_lock().is_ok_and(|c| c.prepared));
        if arriving.count() >= COPIES_MAX {
            return Err(busy("other copies arrive".into()));
        }
        self.check_room(&offer)?;
        let copy = self.begin(shard, offer).map_err(Error::into_fault)?;
        let held = copy.held();
        all.insert(shard, Arc::new(Mutex::new(copy)));
        Ok(held)
    }

    fn check_room(&self, offer: &Offer) -> Result<(), Fault> {
        let free = crate::usage::disk_free_bytes(&self.data);
        if free < offer.bytes().saturating_add(FREE_BYTES_MIN) {
            let reason = format!("the disk has {free} bytes free, the copy has {}: make room", offer.bytes());
            return Err(busy(reason));
        }
        Ok(())
    }

    fn begin(&self, shard: u16, offer: Offer) -> Result<Incoming, Error> {
        let whole = store::copy_dir(&self.data, shard, offer.to, offer.index);
        let part = whole.with_extension(format!("{}.part", offer.index));
        let io = |error| Error::io(format!("making {}", part.display()), error);
        let _ = std::fs::remove_dir_all(&part);
        std::fs::create_dir_all(&part).map_err(io)?;
        let make = |(name, _): &(String, u64)| {
            let file = OpenOptions::new().create_new(true).read(true).write(true).open(part.join(name));
            file.map(|file| Part { file, held: 0 })
        };
        let files = offer.files.iter().map(make).collect::<std::io::Result<Vec<Part>>>().map_err(io)?;
        Ok(Incoming { offer, part, files, touched: Instant::now(), prepared: false })
    }

    fn copy(&self, shard: u16, id: u128) -> Result<Arc<Mutex<Incoming>>, Fault> {
        let copy = self.all().get(&shard).cloned();
        copy.filter(|copy| lock(copy).offer.id == id).ok_or_else(|| busy("no such copy arrives: offer it again".into()))
    }

    /// Takes a part of a file, which must follow what is here.
    ///
    /// # Errors
    /// `Busy` if the copy must be offered again; `Invalid`, `Internal`.
    pub fn chunk(&self, shard: u16, head: ChunkHead, bytes: &[u8]) -> Result<(), Fault> {
        let copy = self.copy(shard, head.id)?;
        let mut copy = lock(&copy);
        copy.touched = Instant::now();
        let most = copy.offer.files.get(head.file as usize).map(|(_, bytes)| *bytes);
        let Some((part, most)) = copy.files.get_mut(head.file as usize).zip(most) else {
            return Err(Fault::new(Code::Invalid, "a part of a file that was not offered"));
        };
        if head.at != part.held {
            return Err(busy(format!("a part at {}, but {} bytes are here", head.at, part.held)));
        }
        if bytes.len() as u64 > most - part.held {
            return Err(Fault::new(Code::Invalid, "more bytes of a file than were offered"));
        }
        part.file.write_all_at(bytes, head.at).map_err(|error| Error::io("writing a copy", error).into_fault())?;
        part.held += bytes.len() as u64;
        Ok(())
    }

    /// All is here: verifies the copy and gives it to the shard's reactor. Takes as long as reading all of it.
    ///
    /// # Errors
    /// `Busy` if the copy must be offered again; `Internal` if it is not what was sent.
    pub fn done(&self, shard: u16, done: &Done) -> Result<(), Fault> {
        let shared = self.copy(shard, done.id)?;
        let mut copy = lock(&shared);
        if copy.prepared {
            return Ok(());
        }
        copy.touched = Instant::now();
        match self.finish(shard, &mut copy, &done.checksums) {
            Ok(()) => {
                copy.prepared = true;
                copy.files.clear();
                metrics::counter!("moso_snapshots_received_total").increment(1);
                Ok(())
            }
            Err(error) => {
                let part = copy.part.clone();
                drop(copy);
                self.all().remove(&shard);
                let _ = std::fs::remove_dir_all(part);
                metrics::counter!("moso_snapshots_refused_total").increment(1);
                Err(error.into_fault())
            }
        }
    }

    fn finish(&self, shard: u16, copy: &mut Incoming, checksums: &[u32]) -> Result<(), Error> {
        let damaged = |reason: String| Error::Damaged { shard, what: "copy", at: copy.offer.index, reason };
        for (at, part) in copy.files.iter().enumerate() {
            let (name, bytes) = &copy.offer.files[at];
            if part.held != *bytes {
                return Err(damaged(format!("{name} has {} of {bytes} bytes", part.held)));
            }
            let crc = checksum(&copy.part.join(name))?;
            if checksums.get(at) != Some(&crc) {
                return Err(damaged(format!("{name} has a wrong checksum")));
            }
            part.file.sync_all().map_err(|error| Error::io(format!("syncing {name} of a copy"), error))?;
        }
        let whole = store::copy_dir(&self.data, shard, copy.offer.to, copy.offer.index);
        let _ = std::fs::remove_dir_all(&whole);
        put_in_place(&copy.part, &whole)?;
        let opened = self.open(shard, copy, &whole);
        if opened.is_err() {
            let _ = std::fs::remove_dir_all(&whole);
        }
        self.give(shard, opened?)
    }

    fn open(&self, shard: u16, copy: &Incoming, dir: &Path) -> Result<Prepared, Error> {
        let offer = &copy.offer;
        let store = StateStore::open(dir, shard, &self.shared)?;
        store.verify()?;
        let found = store.applied().map(|(applied, conf)| (applied.index, applied.term, conf));
        if found != Some((offer.index, offer.term, offer.conf_state())) {
            let reason = format!("it holds {found:?}, not what was offered");
            return Err(Error::Damaged { shard, what: "copy", at: offer.index, reason });
        }
        let at = Position { index: offer.index, term: offer.term };
        open::load(shard, Arc::new(store), at)
    }

    /// Waits until the reactor has it, or has said that it is of no use.
    fn give(&self, shard: u16, prepared: Prepared) -> Result<(), Error> {
        let mailbox = &self.mailboxes[reactor_of(shard, self.mailboxes.len())];
        let (send, taken) = oneshot::channel();
        mailbox.task(Box::new(move |reactor| {
            let _ = send.send(reactor.take_prepared(shard, prepared));
        }));
        match taken.blocking_recv() {
            Ok(true) => Ok(()),
            _ => Err(Error::Contract { shard, reason: "the replica has no use for the copy".into() }),
        }
    }
}

fn lock(copy: &Mutex<Incoming>) -> MutexGuard<'_, Incoming> {
    copy.lock().expect("no thread panics while it holds this lock")
}

fn busy(reason: String) -> Fault {
    Fault { retry_after_ms: 1_000, ..Fault::new(Code::Busy, reason) }
}

/// The folder gets its name when all in it is on disk.
fn put_in_place(part: &Path, whole: &Path) -> Result<(), Error> {
    let put = || {
        File::open(part)?.sync_all()?;
        std::fs::rename(part, whole)?;
        match whole.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    put().map_err(|error| Error::io(format!("renaming a copy to {}", whole.display()), error))
}

fn checksum(path: &Path) -> Result<u32, Error> {
    let io = |error| Error::io(format!("reading {}", path.display()), error);
    let mut file = File::open(path).map_err(io)?;
    let mut buffer = vec![0; 1 << 20];
    let mut crc = 0;
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => return Ok(crc),
            read => crc = crc32c::crc32c_append(crc, &buffer[..read]),
        }
    }
}
