//! What is in the files of a log that was not open.

use super::INDEX_MAX;
use super::format::{BATCH_HEAD_BYTES, HEAD_BYTES, Head, Item};
use super::index::{Index, Place, Segment};
use crate::error::{Error, Result};
use crate::store::value;
use raft::eraftpb::HardState;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;

/// A log's content and its files.
#[derive(Default)]
pub struct Recovered {
    /// Shards, and the segments that hold their entries.
    pub index: Index,
    /// Highest number of a segment, whether it was ever used or not.
    pub highest: u64,
    /// Files that are free.
    pub spare: Vec<(u32, Arc<File>)>,
    /// First slot without a file.
    pub next_slot: u32,
}

struct Found {
    slot: u32,
    file: Arc<File>,
    head: Head,
    bytes: Vec<u8>,
}

/// What is known of a shard while the segments are read. Stale entries of older segments may be among its entries until
/// the first batch of a newer one says so.
#[derive(Default)]
struct Shard {
    hard_state: HardState,
    cut: (u64, u64),
    entries: BTreeMap<u64, Place>,
}

/// Reads the log in `dir`.
///
/// # Errors
/// As [`super::SegmentLog::open`].
pub fn recover(dir: &Path) -> Result<Recovered> {
    let mut recovered = Recovered::default();
    let mut found = BTreeMap::new();
    for slot in slots(dir)? {
        recovered.next_slot = recovered.next_slot.max(slot + 1);
        let path = super::segments::slot_path(dir, slot);
        let io = |error| Error::io(format!("reading {}", path.display()), error);
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(&path).map_err(io)?);
        let bytes = std::fs::read(&path).map_err(io)?;
        match Head::decode(&bytes) {
            Some(head) => {
                recovered.highest = recovered.highest.max(head.number);
                found.insert(head.number, Found { slot, file, head, bytes });
            }
            None => recovered.spare.push((slot, file)),
        }
    }
    let mut number = 0;
    // A segment whose first batch was never completed was never used.
    while let Some(newest) = found.last_entry() {
        let (end, whole) = end_of(newest.get());
        if !whole {
            return Err(damaged(dir, newest.get(), end));
        }
        if end > HEAD_BYTES {
            number = *newest.key();
            break;
        }
        let Found { slot, file, .. } = newest.remove();
        recovered.spare.push((slot, file));
    }
    let Some(newest) = found.get(&number) else { return Ok(recovered) };
    let mut ends = needed(dir, newest)?;
    ends.insert(number, end_of(newest).0);
    let mut shards = BTreeMap::new();
    for (&number, &end) in &ends {
        let Some(segment) = found.remove(&number) else {
            let reason = format!("segment {number} of the Raft log is missing: this node's replicas must be replaced");
            return Err(Error::Folder { path: dir.to_owned(), reason });
        };
        replay(dir, &segment, end, &mut shards)?;
        let Found { slot, file, .. } = segment;
        recovered.index.segments.insert(number, Segment { file, slot, end, live: 0 });
    }
    recovered.spare.extend(found.into_values().map(|Found { slot, file, .. }| (slot, file)));
    for (shard, held) in shards {
        file_shard(&mut recovered.index, shard, held)?;
    }
    Ok(recovered)
}

fn slots(dir: &Path) -> Result<BTreeSet<u32>> {
    let io = |error| Error::io(format!("reading {}", dir.display()), error);
    let mut slots = BTreeSet::new();
    for file in std::fs::read_dir(dir).map_err(io)? {
        let name = file.map_err(io)?.file_name();
        slots.extend(name.to_str().and_then(|name| name.strip_suffix(".seg")?.parse::<u32>().ok()));
    }
    Ok(slots)
}

/// Where the whole batches end, and whether none follows behind: then what is there was never acknowledged.
fn end_of(segment: &Found) -> (u64, bool) {
    let Found { head, bytes, .. } = segment;
    let mut end = HEAD_BYTES;
    while let Some((_, next)) = head.batch(bytes, end) {
        end = next;
    }
    let later = (end..bytes.len() as u64).step_by(BATCH_HEAD_BYTES).skip(1);
    (end, !later.into_iter().any(|at| head.batch(bytes, at).is_some()))
}

fn damaged(dir: &Path, segment: &Found, at: u64) -> Error {
    let path = super::segments::slot_path(dir, segment.slot);
    let reason = format!("the Raft log is damaged at byte {at}: this node's replicas must be replaced");
    Error::Folder { path, reason }
}

/// The older segments that the first batch of the newest names, with their ends.
fn needed(dir: &Path, newest: &Found) -> Result<BTreeMap<u64, u64>> {
    let mut ends = BTreeMap::new();
    let Some((mut items, _)) = newest.head.batch(&newest.bytes, HEAD_BYTES) else { return Ok(ends) };
    while !items.is_empty() {
        match Item::decode(&mut items) {
            Some((_, Item::Segment(number, end))) => drop(ends.insert(number, end)),
            Some(_) => {}
            None => return Err(damaged(dir, newest, HEAD_BYTES)),
        }
    }
    Ok(ends)
}

/// Does again what the batches of a segment up to `end` say.
fn replay(dir: &Path, segment: &Found, end: u64, shards: &mut BTreeMap<u16, Shard>) -> Result<()> {
    let Found { head, bytes, .. } = segment;
    let mut at = HEAD_BYTES;
    let mut named = BTreeSet::new();
    while at < end {
        let (first, start) = (at == HEAD_BYTES, at);
        let (mut items, next) = head.batch(bytes, at).ok_or_else(|| damaged(dir, segment, start))?;
        while !items.is_empty() {
            let (shard, item) = Item::decode(&mut items).ok_or_else(|| damaged(dir, segment, start))?;
            if matches!(item, Item::Segment(..)) {
                continue;
            }
            // Its own append may be of a shard that is new.
            if first {
                named.insert(shard);
            }
            let place = |value: &[u8]| Place {
                segment: head.number,
                at: offset(bytes, value),
                bytes: value.len() as u32,
                term: value::entry_term(value),
            };
            shards.entry(shard).or_default().take(item, place);
        }
        if first {
            shards.retain(|shard, _| named.contains(shard));
        }
        at = next;
    }
    match at == end {
        true => Ok(()),
        false => Err(damaged(dir, segment, end)),
    }
}

/// Where a part of a file lies in it.
fn offset(file: &[u8], part: &[u8]) -> u64 {
    (part.as_ptr() as usize - file.as_ptr() as usize) as u64
}

impl Shard {
    fn take(&mut self, item: Item<'_>, place: impl Fn(&[u8]) -> Place) {
        match item {
            Item::HardState(term, vote, commit) => {
                self.hard_state = HardState { term, vote, commit, ..HardState::default() };
            }
            Item::Cut(index, term) => {
                self.cut = (index, term);
                self.entries = self.entries.split_off(&index.saturating_add(1));
            }
            Item::Entry(index, value) => {
                self.entries.split_off(&index);
                self.entries.insert(index, place(value));
            }
            Item::Dropped(index) => drop(self.entries.split_off(&index)),
            Item::Removed => *self = Shard::default(),
            Item::Moved(index, value) => drop(self.entries.insert(index, place(value))),
            Item::Shard(last) => drop(self.entries.split_off(&last.saturating_add(1))),
            Item::Segment(..) => {}
        }
    }
}

/// Enters a shard in the index, if its entries are all there.
fn file_shard(index: &mut Index, shard: u16, held: Shard) -> Result<()> {
    let entry = index.shards.entry(shard).or_default();
    (entry.hard_state, entry.cut) = (held.hard_state, held.cut);
    if held.cut.0 > INDEX_MAX || held.entries.keys().next_back().is_some_and(|last| *last > INDEX_MAX) {
        return Err(Error::damaged(shard, "log entry", held.cut.0, "beyond the greatest index"));
    }
    for ((at, place), expected) in held.entries.into_iter().zip(held.cut.0 + 1..) {
        if at != expected {
            return Err(Error::damaged(shard, "log entry", expected, "missing"));
        }
        index.push(shard, place);
    }
    Ok(())
}
