//! Where the entries of each shard are, in memory.

use super::LogState;
use raft::eraftpb::HardState;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::sync::Arc;

/// Where an entry's value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Segment.
    pub segment: u64,
    /// Offset in it.
    pub at: u64,
    /// Bytes of the value.
    pub bytes: u32,
    /// Term of the entry.
    pub term: u64,
}

/// What the log holds of a shard.
#[derive(Debug, Default)]
pub struct ShardIndex {
    /// As last written.
    pub hard_state: HardState,
    /// Index and term of the last entry that was cut off.
    pub cut: (u64, u64),
    /// The entries behind it, without gap.
    entries: VecDeque<Place>,
}

impl ShardIndex {
    /// Index of the last entry.
    pub fn last(&self) -> u64 {
        self.cut.0 + self.entries.len() as u64
    }

    /// The entry at an index that is held.
    pub fn place(&self, index: u64) -> Option<&Place> {
        self.entries.get(index.checked_sub(self.cut.0 + 1)? as usize)
    }

    /// As the owner sees it.
    pub fn state(&self) -> LogState {
        LogState {
            hard_state: self.hard_state.clone(),
            first_index: self.cut.0 + 1,
            last_index: self.last(),
            truncated: self.cut,
        }
    }
}

/// A file that holds entries, or may get some.
pub struct Segment {
    /// Open for reading and writing.
    pub file: Arc<File>,
    /// Number of the file, for its name.
    pub slot: u32,
    /// Where its last batch ends.
    pub end: u64,
    /// Bytes of entries that are still needed.
    pub live: u64,
}

/// Shards and segments.
#[derive(Default)]
pub struct Index {
    /// Shards of which anything was ever written.
    pub shards: BTreeMap<u16, ShardIndex>,
    /// Segments in use, by number.
    pub segments: BTreeMap<u64, Segment>,
}

impl Index {
    fn release(&mut self, place: &Place) {
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.live -= u64::from(place.bytes);
        }
    }

    fn release_all(&mut self, places: impl IntoIterator<Item = Place>) {
        places.into_iter().for_each(|place| self.release(&place));
    }

    /// Drops the entries from this index on.
    pub fn drop_from(&mut self, shard: u16, from: u64) {
        let held = self.shards.entry(shard).or_default();
        let keep = from.saturating_sub(held.cut.0 + 1).min(held.entries.len() as u64) as usize;
        let dropped = held.entries.split_off(keep);
        self.release_all(dropped);
    }

    /// Adds an entry behind the last.
    pub fn push(&mut self, shard: u16, place: Place) {
        self.shards.entry(shard).or_default().entries.push_back(place);
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.live += u64::from(place.bytes);
        }
    }

    /// An entry was copied.
    pub fn relocate(&mut self, shard: u16, index: u64, to: Place) {
        let Some(held) = self.shards.get_mut(&shard) else { return };
        let first = held.cut.0 + 1;
        let Some(place) = index.checked_sub(first).and_then(|at| held.entries.get_mut(at as usize)) else { return };
        let old = std::mem::replace(place, to);
        self.release(&old);
        if let Some(segment) = self.segments.get_mut(&to.segment) {
            segment.live += u64::from(to.bytes);
        }
    }

    /// Cuts off the entries up to and with this index.
    pub fn cut(&mut self, shard: u16, index: u64, term: u64) {
        let held = self.shards.entry(shard).or_default();
        if index <= held.cut.0 {
            return;
        }
        let count = (index - held.cut.0).min(held.entries.len() as u64) as usize;
        let gone: Vec<Place> = held.entries.drain(..count).collect();
        held.cut = (index, term);
        self.release_all(gone);
    }

    /// Forgets a shard.
    pub fn remove(&mut self, shard: u16) {
        if let Some(held) = self.shards.remove(&shard) {
            self.release_all(held.entries);
        }
    }

    /// The entries that lie in these segments: shard, index, place.
    pub fn entries_in(&self, segments: &BTreeSet<u64>) -> Vec<(u16, u64, Place)> {
        let of_shard = |(&shard, held): (&u16, &ShardIndex)| {
            let first = held.cut.0 + 1;
            let numbered = held.entries.iter().zip(first..).filter(|(place, _)| segments.contains(&place.segment));
            numbered.map(|(place, index)| (shard, index, *place)).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(of_shard).collect()
    }
}
