//! What is in the files of a log that was not open.

use super::INDEX_MAX;
use super::format::{BATCH_HEAD_BYTES, FORMAT, HEAD_BYTES, Head, Item};
use super::index::{Index, Place, Segment};
use super::tail;
use crate::error::{Error, Result};
use crate::store::value;
use raft::eraftpb::HardState;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
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

/// What the files are opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Looking at a stopped node's log: nothing is changed.
    Read,
    /// Going on with it.
    Append,
}

/// A file with a head.
struct Found {
    slot: u32,
    file: Arc<File>,
    head: Head,
}

impl Found {
    fn bytes(&self, dir: &Path) -> Result<Vec<u8>> {
        let path = super::segments::slot_path(dir, self.slot);
        std::fs::read(&path).map_err(|error| Error::io(format!("reading {}", path.display()), error))
    }
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
pub fn recover(dir: &Path, access: Access) -> Result<Recovered> {
    let mut recovered = Recovered::default();
    let mut found = heads(dir, access, &mut recovered)?;
    let Some((number, end, bytes)) = newest(dir, access, &mut found, &mut recovered)? else { return Ok(recovered) };
    let mut ends = needed(dir, &found[&number], &bytes)?;
    ends.insert(number, end);
    drop(bytes);
    let mut shards = BTreeMap::new();
    for (&number, &end) in &ends {
        let Some(segment) = found.remove(&number) else {
            let reason = format!("segment {number} of the Raft log is missing: {WHAT_TO_DO}");
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

/// The files that were begun, by the number of the segment. The others are free.
fn heads(dir: &Path, access: Access, recovered: &mut Recovered) -> Result<BTreeMap<u64, Found>> {
    let mut found = BTreeMap::new();
    for slot in slots(dir)? {
        recovered.next_slot = recovered.next_slot.max(slot + 1);
        let path = super::segments::slot_path(dir, slot);
        let io = |error| Error::io(format!("reading {}", path.display()), error);
        let file = Arc::new(OpenOptions::new().read(true).write(access == Access::Append).open(&path).map_err(io)?);
        let mut bytes = Vec::new();
        (&*file).take(HEAD_BYTES).read_to_end(&mut bytes).map_err(io)?;
        match Head::decode(&bytes) {
            Some(head) => {
                recovered.highest = recovered.highest.max(head.number);
                found.insert(head.number, Found { slot, file, head });
            }
            None if Head::is_blank(&bytes) => recovered.spare.push((slot, file)),
            None => return Err(no_head(dir, slot, &bytes)),
        }
    }
    Ok(found)
}

/// The newest segment that was used: its number, where it ends, and its bytes. One whose first batch was never completed
/// was not, and is free. What ends the log is on disk when this returns.
fn newest(
    dir: &Path,
    access: Access,
    found: &mut BTreeMap<u64, Found>,
    recovered: &mut Recovered,
) -> Result<Option<(u64, u64, Vec<u8>)>> {
    while let Some(newest) = found.last_entry() {
        let bytes = newest.get().bytes(dir)?;
        let (last, end) = end_of(&newest.get().head, &bytes);
        if let Some(later) = batch_behind(&newest.get().head, &bytes, end) {
            tracing::error!(end, later, "a batch of the Raft log is damaged: a whole one follows");
            return Err(damaged(dir, newest.get().slot, end));
        }
        if tail::is_one_bit_off(&newest.get().head, &bytes, end) {
            tracing::error!(end, "the last batch of the Raft log is whole but for one bit");
            return Err(damaged(dir, newest.get().slot, end));
        }
        if end > HEAD_BYTES {
            if access == Access::Append {
                make_durable(newest.get(), &bytes, last, end)?;
            }
            return Ok(Some((*newest.key(), end, bytes)));
        }
        let Found { slot, file, .. } = newest.remove();
        recovered.spare.push((slot, file));
    }
    Ok(None)
}

/// The last batch may have been written and not synced: by a process that was killed before its sync, or whose sync
/// failed, after which the system takes the pages in its cache for written. Written again, its sync counts.
fn make_durable(newest: &Found, bytes: &[u8], last: u64, end: u64) -> Result<()> {
    let write = || {
        newest.file.write_all_at(&newest.head.encode(), 0)?;
        newest.file.write_all_at(&bytes[last as usize..(end as usize).min(bytes.len())], last)?;
        newest.file.sync_all()
    };
    write().map_err(|error| Error::fatal("writing the end of the Raft log again", error))
}

/// The numbers of the files.
pub fn slots(dir: &Path) -> Result<BTreeSet<u32>> {
    let io = |error| Error::io(format!("reading {}", dir.display()), error);
    let mut slots = BTreeSet::new();
    for file in std::fs::read_dir(dir).map_err(io)? {
        let path = file.map_err(io)?.path();
        let slot = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok());
        slots.extend(slot.filter(|&slot| slot < u32::MAX && super::segments::slot_path(dir, slot) == path));
    }
    Ok(slots)
}

/// Where the last whole batch begins, and where it ends.
pub fn end_of(head: &Head, bytes: &[u8]) -> (u64, u64) {
    let (mut last, mut end) = (HEAD_BYTES, HEAD_BYTES);
    while let Some((_, next)) = head.batch(bytes, end) {
        (last, end) = (end, next);
    }
    (last, end)
}

/// A whole batch behind the end: then what is there was acknowledged.
pub fn batch_behind(head: &Head, bytes: &[u8], end: u64) -> Option<u64> {
    let mut places = (end..bytes.len() as u64).step_by(BATCH_HEAD_BYTES).skip(1);
    places.find(|&at| head.batch(bytes, at).is_some())
}

/// Why a file that was begun has no head.
fn no_head(dir: &Path, slot: u32, bytes: &[u8]) -> Error {
    match Head::newer_format(bytes) {
        Some(found) => {
            let what = format!("the Raft log in {}", dir.display());
            Error::NewerFormat { what, found: found.into(), known: FORMAT.into() }
        }
        None => damaged(dir, slot, 0),
    }
}

fn damaged(dir: &Path, slot: u32, at: u64) -> Error {
    let reason = format!("the Raft log is damaged at byte {at}: {WHAT_TO_DO}");
    Error::Folder { path: super::segments::slot_path(dir, slot), reason }
}

/// All replicas of a node share the log, so none of them can be trusted.
const WHAT_TO_DO: &str = "entries that this node acknowledged are lost, so it must not start again: keep the folder, \
    `moso-node verify` lists the damage, and bring the node back with an empty folder under a new number";

/// The older segments that the first batch of the newest names, with their ends.
fn needed(dir: &Path, newest: &Found, bytes: &[u8]) -> Result<BTreeMap<u64, u64>> {
    let mut ends = BTreeMap::new();
    let Some((mut items, _)) = newest.head.batch(bytes, HEAD_BYTES) else { return Ok(ends) };
    while !items.is_empty() {
        match Item::decode(&mut items) {
            Some((_, Item::Segment(number, end))) => drop(ends.insert(number, end)),
            Some(_) => {}
            None => return Err(damaged(dir, newest.slot, HEAD_BYTES)),
        }
    }
    Ok(ends)
}

/// Does again what the batches of a segment up to `end` say.
fn replay(dir: &Path, segment: &Found, end: u64, shards: &mut BTreeMap<u16, Shard>) -> Result<()> {
    let (bytes, number) = (segment.bytes(dir)?, segment.head.number);
    let bytes = bytes.as_slice();
    let place = |value: &[u8]| Place {
        segment: number,
        at: offset(bytes, value),
        bytes: value.len() as u32,
        term: value::entry_term(value),
    };
    let mut at = HEAD_BYTES;
    while at < end {
        let start = at;
        let bad = || damaged(dir, segment.slot, start);
        let (items, next) = segment.head.batch(bytes, at).ok_or_else(bad)?;
        let items = decode(items).ok_or_else(bad)?;
        if at == HEAD_BYTES {
            let named = items.iter().filter(|(_, item)| matches!(item, Item::Shard(_))).map(|(shard, _)| *shard);
            let named: BTreeSet<u16> = named.collect();
            shards.retain(|shard, _| named.contains(shard));
        }
        for (shard, item) in items.into_iter().filter(|(_, item)| !matches!(item, Item::Segment(..))) {
            shards.entry(shard).or_default().take(item, place);
        }
        at = next;
    }
    match at == end {
        true => Ok(()),
        false => Err(damaged(dir, segment.slot, end)),
    }
}

fn decode(mut items: &[u8]) -> Option<Vec<(u16, Item<'_>)>> {
    let mut decoded = Vec::new();
    while !items.is_empty() {
        decoded.push(Item::decode(&mut items)?);
    }
    Some(decoded)
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
