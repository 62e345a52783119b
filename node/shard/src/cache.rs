//! The newest entries of the log, in memory.

use crate::limits::ENTRY_OVERHEAD_BYTES;
use raft::eraftpb::Entry;
use std::collections::VecDeque;

/// The newest entries of the log, so that followers are served and entries applied without reading the disk.
///
/// Invariants: the entries are without gap and end at the log's last index, or there are none; `bytes` is their cost.
#[derive(Debug)]
pub(crate) struct EntryCache {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl EntryCache {
    pub(crate) fn new(bytes_max: usize) -> EntryCache {
        EntryCache { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Index of the oldest entry held.
    pub(crate) fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.index)
    }

    /// Appends one entry, first dropping what stands at its index and after it.
    pub(crate) fn append(&mut self, entry: Entry) {
        while self.entries.back().is_some_and(|last| last.index >= entry.index) {
            let dropped = self.entries.pop_back().expect("the last entry was just seen");
            self.bytes -= cost(&dropped);
        }
        debug_assert!(self.entries.back().is_none_or(|last| last.index + 1 == entry.index));
        self.bytes += cost(&entry);
        self.entries.push_back(entry);
    }

    /// Entries from `low`, which is held, to below `high`: at least one, then as many as fit in `bytes_max`.
    pub(crate) fn read(&self, low: u64, high: u64, bytes_max: u64) -> Vec<Entry> {
        let Some(first) = self.first() else {
            return Vec::new();
        };
        let (from, to) = ((low - first) as usize, (high - first) as usize);
        let mut bytes = 0;
        self.entries
            .range(from..to.min(self.entries.len()))
            .enumerate()
            .take_while(|(position, entry)| {
                bytes += entry.data.len() as u64;
                *position == 0 || bytes <= bytes_max
            })
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    /// Drops the oldest entries while the cache is too large, none above `index`.
    pub(crate) fn shrink_to(&mut self, index: u64) {
        while self.bytes > self.bytes_max && self.first().is_some_and(|first| first <= index) {
            self.drop_first();
        }
    }

    /// Drops all entries.
    pub(crate) fn clear(&mut self) {
        (self.entries, self.bytes) = (VecDeque::new(), 0);
    }

    /// Drops all entries at and below `index`.
    pub(crate) fn truncate_to(&mut self, index: u64) {
        while self.first().is_some_and(|first| first <= index) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(dropped) = self.entries.pop_front() {
            self.bytes -= cost(&dropped);
        }
    }
}

fn cost(entry: &Entry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, bytes: usize) -> Entry {
        Entry { index, term: 1, data: vec![7; bytes].into(), ..Entry::default() }
    }

    fn indexes(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn reads_at_least_one_and_at_most_the_bytes_asked() {
        let mut cache = EntryCache::new(1 << 20);
        (5..10).for_each(|index| cache.append(entry(index, 100)));
        assert_eq!(indexes(&cache.read(5, 10, u64::MAX)), [5, 6, 7, 8, 9]);
        assert_eq!(indexes(&cache.read(6, 9, 200)), [6, 7]);
        assert_eq!(indexes(&cache.read(6, 9, 0)), [6]);
    }

    #[test]
    fn an_append_replaces_the_tail_and_its_cost() {
        let mut cache = EntryCache::new(1 << 20);
        (5..10).for_each(|index| cache.append(entry(index, 100)));
        cache.append(entry(6, 10));
        assert_eq!(indexes(&cache.read(5, 7, u64::MAX)), [5, 6]);
        assert_eq!(cache.bytes(), 110 + 2 * ENTRY_OVERHEAD_BYTES);
    }

    #[test]
    fn shrinks_to_its_size_but_keeps_what_is_needed() {
        let mut cache = EntryCache::new(2 * (100 + ENTRY_OVERHEAD_BYTES));
        (1..=5).for_each(|index| cache.append(entry(index, 100)));
        cache.shrink_to(1);
        assert_eq!(cache.first(), Some(2));
        cache.shrink_to(5);
        assert_eq!(cache.first(), Some(4));
        cache.truncate_to(5);
        assert_eq!((cache.first(), cache.bytes()), (None, 0));
    }
}
