//! The log in segments: files of a fixed size that are written one batch after the other, and used again once nothing in
//! them is needed.
//!
//! A batch is what several shards add in a turn; it is written with one call and synced before the next one is written. A
//! file that is written over needs no new block and no commit of the file system at each sync. The first batch of a segment
//! says all that is needed of the older ones: hard states, cuts, which segments still hold entries and where they end.

use super::format::{BATCH_HEAD_BYTES, HEAD_BYTES, Head, Item};
use super::index::{Index, Place, Segment};
use super::recover::{Access, Recovered, recover};
use super::space::{Relief, Space};
use super::{INDEX_MAX, LogOptions, LogState, RaftLog, ShardAppend};
use crate::error::{Error, Result};
use crate::limits::LOG_WRITE_BYTES_MAX;
use crate::store::value;
use raft::eraftpb::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Files kept for later segments, beyond those in use.
const SPARES_MAX: usize = 4;
/// Files removed after one batch.
const REMOVED_MAX: usize = 2;
/// When the entries needed fill less than half of the files in use, and these are more than so many, the oldest entries
/// are copied forward, so that shards at rest do not keep the files of the others.
const SPARSE_SEGMENTS: u64 = 8;
/// Copied forward with one batch, in parts of a segment.
const MOVED_PART: u64 = 4;

/// The Raft log of all shards of a node.
///
/// Damage is told from the end of what was written: behind an incomplete batch there is never a whole one, and an
/// incomplete one is not whole but for a bit. Only the very last batch before a crash, damaged in several places, looks
/// like one that was never completed; then the state is ahead of the log, or a peer says so.
pub struct SegmentLog {
    dir: PathBuf,
    segment_bytes: u64,
    /// Held while a batch is written.
    writer: Mutex<Writer>,
    index: Mutex<Index>,
    space: Space,
    /// A stopped node's, looked at.
    read_only: bool,
}

/// The newest segment.
struct Writer {
    head: Head,
    file: Option<Arc<File>>,
    /// Where the next batch begins.
    at: u64,
    /// Files that are free.
    spare: Vec<(u32, Arc<File>)>,
    /// Files of which nothing is needed, but which the newest segment may name: free once a newer one is on disk.
    retired: Vec<(u32, Arc<File>)>,
    next_slot: u32,
    /// Cuts to go with the next batch.
    cuts: BTreeSet<u16>,
    batch: Vec<u8>,
}

/// What a batch does to the index once it is on disk.
enum Done<'a> {
    Drop(u16, u64),
    Push(u16, Place),
    Move(u16, u64, Place),
    HardState(u16, &'a raft::eraftpb::HardState),
    Cut(u16, u64, u64),
    Remove(u16),
}

impl SegmentLog {
    /// Opens the log in `dir`, or makes it.
    ///
    /// # Errors
    /// `Folder` if a segment is missing or damaged; `Damaged` if a shard's entries are not all there; `Io`.
    pub fn open(dir: &Path, options: &LogOptions) -> Result<SegmentLog> {
        std::fs::create_dir_all(dir).map_err(|error| Error::io(format!("making {}", dir.display()), error))?;
        Ok(Self::build(dir, options, recover(dir, Access::Append)?))
    }

    /// Opens the log in `dir` without changing anything; appends are refused.
    ///
    /// # Errors
    /// As [`SegmentLog::open`].
    pub fn open_read_only(dir: &Path) -> Result<SegmentLog> {
        let log = Self::build(dir, &LogOptions::default(), recover(dir, Access::Read)?);
        Ok(SegmentLog { read_only: true, ..log })
    }

    /// Asks `relief` for space when a write finds the disk full.
    pub fn with_relief(self, relief: Arc<dyn Relief>) -> SegmentLog {
        SegmentLog { space: Space::new(relief), ..self }
    }

    /// Marks the end: the batch before the mark is known to have been complete. The owner writes nothing afterwards.
    ///
    /// # Errors
    /// `Fatal`.
    pub fn close(&self) -> Result<()> {
        let mut writer = self.writer();
        if writer.file.is_none() {
            return Ok(());
        }
        writer.batch.clear();
        writer.batch.resize(BATCH_HEAD_BYTES, 0);
        self.commit(&mut writer, Vec::new())
    }

    fn build(dir: &Path, options: &LogOptions, found: Recovered) -> SegmentLog {
        let writer = Writer {
            head: Head { number: found.highest, salt: 0 },
            // The first batch begins a segment: what an incomplete one left behind is never written over.
            file: None,
            at: 0,
            spare: found.spare,
            retired: Vec::new(),
            next_slot: found.next_slot,
            cuts: BTreeSet::new(),
            batch: Vec::new(),
        };
        SegmentLog {
            dir: dir.to_owned(),
            segment_bytes: options.segment_bytes.max(2 * HEAD_BYTES as usize) as u64,
            writer: Mutex::new(writer),
            index: Mutex::new(found.index),
            space: Space::default(),
            read_only: false,
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("no thread panics while it holds this lock")
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().expect("no thread panics while it holds this lock")
    }

    /// Shards of which anything was ever written.
    pub fn shards(&self) -> Vec<u16> {
        self.index().shards.keys().copied().collect()
    }

    /// Files in use, and free ones.
    #[cfg(test)]
    pub fn files(&self) -> (usize, usize) {
        (self.index().segments.len(), self.writer().spare.len())
    }

    /// Files that will be free.
    #[cfg(test)]
    pub fn retired(&self) -> usize {
        self.writer().retired.len()
    }

    /// Segment and offset of an entry.
    #[cfg(test)]
    pub fn place(&self, shard: u16, at: u64) -> Option<(u64, u64)> {
        let index = self.index();
        let place = index.shards.get(&shard)?.place(at)?;
        Some((place.segment, place.at))
    }

    /// From now on so many bytes can be written.
    #[cfg(test)]
    pub fn leave_space(&self, bytes: Option<u64>) {
        self.space.leave(bytes);
    }

    /// Makes every further write fail.
    #[cfg(test)]
    pub fn break_disk(&self) {
        let mut writer = self.writer();
        let path = self.dir.join("read-only");
        std::fs::write(&path, b"").unwrap();
        writer.file = Some(Arc::new(File::open(path).unwrap()));
    }

    /// Opens the file of a slot, which may not exist yet.
    fn open_slot(&self, slot: u32) -> io::Result<File> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(slot_path(&self.dir, slot))?;
        File::open(&self.dir)?.sync_all()?;
        Ok(file)
    }

    /// Begins a segment: its head, and the items that say all of the older ones. Returns what they do to the index.
    fn begin(&self, writer: &mut Writer) -> Result<Vec<Done<'static>>> {
        let (slot, file) = match writer.spare.pop() {
            Some(spare) => spare,
            None => {
                let slot = writer.next_slot;
                writer.next_slot += 1;
                let file = self.space.retrying("making a file of the Raft log", || self.open_slot(slot))?;
                (slot, Arc::new(file))
            }
        };
        writer.head = Head { number: writer.head.number + 1, salt: rand::random() };
        writer.at = HEAD_BYTES;
        self.space.write_at(&file, &writer.head.encode(), 0)?;
        let mut index = self.index();
        let segment = Segment { file: file.clone(), slot, end: HEAD_BYTES, live: 0 };
        index.segments.insert(writer.head.number, segment);
        writer.file = Some(file);
        writer.batch.clear();
        writer.batch.resize(BATCH_HEAD_BYTES, 0);
        for (&number, segment) in index.segments.iter().filter(|(_, segment)| segment.live > 0) {
            Item::Segment(number, segment.end).encode(0, &mut writer.batch);
        }
        for (&shard, held) in &index.shards {
            let state = &held.hard_state;
            Item::Shard(held.last()).encode(shard, &mut writer.batch);
            Item::Cut(held.cut.0, held.cut.1).encode(shard, &mut writer.batch);
            Item::HardState(state.term, state.vote, state.commit).encode(shard, &mut writer.batch);
        }
        writer.cuts.clear();
        Ok(self.move_forward(&index, writer))
    }

    /// Copies the entries of segments that hold few, the oldest first, if most of what the files hold is not needed any
    /// more. So the files are at most some four times as large as what is needed of them.
    fn move_forward(&self, index: &Index, writer: &mut Writer) -> Vec<Done<'static>> {
        let live: u64 = index.segments.values().map(|segment| segment.live).sum();
        let used = index.segments.len() as u64;
        if used <= SPARSE_SEGMENTS || 2 * live > used * self.segment_bytes {
            return Vec::new();
        }
        let mut room = self.segment_bytes / MOVED_PART;
        let mut sparse = BTreeSet::new();
        for (&number, segment) in index.segments.iter().filter(|(_, segment)| segment.live > 0) {
            if segment.live <= room {
                room -= segment.live;
                sparse.insert(number);
            }
        }
        let mut done = Vec::new();
        for (shard, at, place) in index.entries_in(&sparse) {
            // One that is damaged stays where it is, and is found out by its reader.
            let Ok(value) = read_value(index, shard, at, &place) else {
                tracing::error!(shard, index = at, segment = place.segment, "an entry of the log cannot be copied");
                continue;
            };
            Item::Moved(at, &value).encode(shard, &mut writer.batch);
            let end = writer.at + writer.batch.len() as u64;
            let to = Place { segment: writer.head.number, at: end - u64::from(place.bytes), ..place };
            done.push(Done::Move(shard, at, to));
        }
        done
    }

    /// Writes the gathered batch, syncs it, and lets the index know.
    fn commit(&self, writer: &mut Writer, done: Vec<Done<'_>>) -> Result<()> {
        let Writer { head, file, at, batch, spare, retired, .. } = &mut *writer;
        head.seal(*at, batch);
        let file = file.as_ref().expect("a segment is begun before a batch is gathered");
        // Written again at the same place, the same bytes, if the disk was full.
        self.space.write_at(file, batch, *at)?;
        file.sync_data().map_err(|error| Error::fatal("syncing the Raft log", error))?;
        *at += batch.len() as u64;
        if batch.capacity() as u64 > self.segment_bytes {
            *batch = Vec::new();
        }
        let mut index = self.index();
        if let Some(segment) = index.segments.get_mut(&head.number) {
            if segment.end == HEAD_BYTES {
                // The newest segment names none of these.
                spare.append(retired);
            }
            segment.end = *at;
        }
        done.into_iter().for_each(|done| done.apply(&mut index));
        // Nothing of these is needed any more: hard states and cuts are in the newest one.
        let newest = head.number;
        let unneeded = index.segments.extract_if(.., |number, segment| segment.live == 0 && *number != newest);
        retired.extend(unneeded.map(|(_, segment)| (segment.slot, segment.file)));
        drop(index);
        self.remove_files(spare);
        Ok(())
    }

    /// Removes files beyond those kept, a few at a time: each takes the disk a moment.
    fn remove_files(&self, spare: &mut Vec<(u32, Arc<File>)>) {
        let keep = spare.len().saturating_sub(REMOVED_MAX).max(SPARES_MAX).min(spare.len());
        for (slot, _) in spare.drain(keep..) {
            if let Err(error) = std::fs::remove_file(slot_path(&self.dir, slot)) {
                tracing::warn!(%error, slot, "a file of the Raft log that is not needed could not be removed");
            }
        }
    }

    /// Gathers a batch of about so many bytes; begins a segment if the newest has no room for it.
    fn gather(&self, writer: &mut Writer, bytes: usize) -> Result<Vec<Done<'static>>> {
        if self.read_only {
            return Err(Error::contract(0, "this log was opened for reading"));
        }
        let room = self.segment_bytes.saturating_sub(writer.at);
        // A segment's first batch says all of the older ones.
        let begun = writer.file.is_some() && writer.at > HEAD_BYTES;
        if !begun || (bytes + BATCH_HEAD_BYTES) as u64 > room {
            return self.begin(writer);
        }
        writer.batch.clear();
        writer.batch.resize(BATCH_HEAD_BYTES, 0);
        let index = self.index();
        for shard in std::mem::take(&mut writer.cuts) {
            if let Some(held) = index.shards.get(&shard) {
                Item::Cut(held.cut.0, held.cut.1).encode(shard, &mut writer.batch);
            }
        }
        Ok(Vec::new())
    }

    /// Checks what is to be appended; nothing is written if it is not in order. Returns its bytes, about.
    fn check(&self, batch: &[ShardAppend<'_>]) -> Result<usize> {
        let index = self.index();
        let mut last: BTreeMap<u16, u64> = BTreeMap::new();
        let mut bytes = 0;
        for append in batch {
            let held = index.shards.get(&append.shard);
            let mut cut = held.map_or(0, |held| held.cut.0);
            let last = last.entry(append.shard).or_insert_with(|| held.map_or(0, |held| held.last()));
            if let Some((index, _)) = append.restart {
                if index <= cut || index > INDEX_MAX {
                    let reason = format!("begun anew behind {index}, though cut at {cut}");
                    return Err(Error::contract(append.shard, reason));
                }
                (cut, *last) = (index, index);
            }
            *last = check_append(append, cut, *last)?;
            let values = append.entries.iter().map(|entry| entry.data.len() + entry.context.len() + 64);
            bytes += 64 + values.sum::<usize>();
        }
        if bytes > LOG_WRITE_BYTES_MAX {
            let shard = batch.first().map_or(0, |append| append.shard);
            return Err(Error::contract(shard, "more entries than one write may have"));
        }
        Ok(bytes)
    }
}

/// Index of the shard's last entry after the append.
fn check_append(append: &ShardAppend<'_>, cut: u64, mut last: u64) -> Result<u64> {
    let shard = append.shard;
    if let Some(from) = append.truncate_suffix_from {
        if from <= cut {
            return Err(Error::contract(shard, format!("entry {from} is cut off already")));
        }
        last = last.min(from - 1);
    }
    let Some(first) = append.entries.first().map(|entry| entry.index) else { return Ok(last) };
    if first <= cut || first > last + 1 || last > INDEX_MAX - append.entries.len() as u64 {
        let reason = format!("entry {first} appended to a log that holds {}..{}", cut + 1, last + 1);
        return Err(Error::contract(shard, reason));
    }
    for (entry, index) in append.entries.iter().zip(first..) {
        if entry.index != index {
            return Err(Error::contract(shard, format!("a gap before entry {}", entry.index)));
        }
        value::check_entry(entry).map_err(|reason| Error::contract(shard, format!("entry {index}: {reason}")))?;
    }
    Ok(first + append.entries.len() as u64 - 1)
}

impl Done<'_> {
    fn apply(self, index: &mut Index) {
        match self {
            Done::Drop(shard, from) => index.drop_from(shard, from),
            Done::Push(shard, place) => index.push(shard, place),
            Done::Move(shard, at, to) => index.relocate(shard, at, to),
            Done::HardState(shard, state) => index.shards.entry(shard).or_default().hard_state = state.clone(),
            Done::Cut(shard, at, term) => index.cut(shard, at, term),
            Done::Remove(shard) => index.remove(shard),
        }
    }
}

impl RaftLog for SegmentLog {
    fn append(&self, batch: &[ShardAppend<'_>]) -> Result<()> {
        let mut writer = self.writer();
        let writer = &mut *writer;
        let bytes = self.check(batch)?;
        let mut done = self.gather(writer, bytes)?;
        let mut value = Vec::new();
        for append in batch {
            let shard = append.shard;
            if let Some((index, term)) = append.restart {
                Item::Dropped(0).encode(shard, &mut writer.batch);
                Item::Cut(index, term).encode(shard, &mut writer.batch);
                done.extend([Done::Drop(shard, 0), Done::Cut(shard, index, term)]);
            }
            if let Some(from) = append.truncate_suffix_from {
                Item::Dropped(from).encode(shard, &mut writer.batch);
                done.push(Done::Drop(shard, from));
            }
            if let Some(first) = append.entries.first() {
                done.push(Done::Drop(shard, first.index));
            }
            for entry in append.entries {
                let key = value::entry_key(shard, entry.index);
                value::encode_entry(&key, entry, &mut value)
                    .map_err(|reason| Error::contract(shard, format!("entry {}: {reason}", entry.index)))?;
                Item::Entry(entry.index, &value).encode(shard, &mut writer.batch);
                let end = writer.at + writer.batch.len() as u64;
                let (at, bytes) = (end - value.len() as u64, value.len() as u32);
                done.push(Done::Push(shard, Place { segment: writer.head.number, at, bytes, term: entry.term }));
            }
            if let Some(state) = append.hard_state {
                Item::HardState(state.term, state.vote, state.commit).encode(shard, &mut writer.batch);
                done.push(Done::HardState(shard, state));
            }
        }
        self.commit(writer, done)
    }

    fn load(&self, shard: u16) -> Result<LogState> {
        let index = self.index();
        Ok(index.shards.get(&shard).map_or_else(LogState::none, |held| held.state()))
    }

    fn entries(&self, shard: u16, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>> {
        // Held while it reads, so that no file is used again meanwhile. It reads what replicas far behind need.
        let index = self.index();
        let held = index.shards.get(&shard);
        let (cut, last) = held.map_or((0, 0), |held| (held.cut.0, held.last()));
        let Some(held) = held.filter(|_| low > cut && low < high && high <= last + 1) else {
            let reason = format!("entries {low}..{high} of a log that holds {}..{}", cut + 1, last + 1);
            return Err(Error::contract(shard, reason));
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        for at in low..high {
            let entry = read(&index, shard, at, held.place(at).expect("within the bounds"))?;
            bytes += entry.data.len() as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn term(&self, shard: u16, at: u64) -> Result<u64> {
        let index = self.index();
        let held = index.shards.get(&shard);
        match held {
            Some(held) if at == held.cut.0 => Ok(held.cut.1),
            None if at == 0 => Ok(0),
            _ => held
                .and_then(|held| held.place(at))
                .map(|place| place.term)
                .ok_or_else(|| Error::contract(shard, format!("the log does not hold entry {at}"))),
        }
    }

    fn truncate_prefix(&self, shard: u16, to_index: u64, term: u64) -> Result<()> {
        if to_index > INDEX_MAX {
            return Err(Error::contract(shard, format!("{to_index} is beyond the greatest index")));
        }
        let mut writer = self.writer();
        self.index().cut(shard, to_index, term);
        writer.cuts.insert(shard);
        Ok(())
    }

    fn remove(&self, shard: u16) -> Result<()> {
        let mut writer = self.writer();
        let mut done = self.gather(&mut writer, Item::OVERHEAD)?;
        Item::Removed.encode(shard, &mut writer.batch);
        done.push(Done::Remove(shard));
        self.commit(&mut writer, done)
    }
}

fn read(index: &Index, shard: u16, at: u64, place: &Place) -> Result<Entry> {
    let key = value::entry_key(shard, at);
    let value = read_value(index, shard, at, place)?;
    value::decode_entry(&key, at, value.into()).map_err(|reason| Error::damaged(shard, "log entry", at, reason))
}

/// The entry's value, if it is whole.
fn read_value(index: &Index, shard: u16, at: u64, place: &Place) -> Result<Vec<u8>> {
    let damaged = |reason| Error::damaged(shard, "log entry", at, reason);
    let segment = index.segments.get(&place.segment).ok_or_else(|| damaged("its segment is missing"))?;
    let mut bytes = vec![0; place.bytes as usize];
    match segment.file.read_exact_at(&mut bytes, place.at) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(damaged("its segment ends before it"));
        }
        Err(error) => return Err(Error::Read { what: "the Raft log", reason: error.to_string() }),
    }
    match value::is_whole(&value::entry_key(shard, at), &bytes) {
        true => Ok(bytes),
        false => Err(damaged("wrong checksum")),
    }
}

/// The file of a slot.
pub fn slot_path(dir: &Path, slot: u32) -> PathBuf {
    dir.join(format!("{slot:06}.seg"))
}
