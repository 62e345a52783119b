//! A look at every file of a stopped node's log, which goes on where [`super::SegmentLog::open`] gives up: what is there,
//! what is needed, and every place that is damaged.

use super::format::{HEAD_BYTES, Head, Item};
use super::recover::{batch_behind, end_of, slots};
use super::segments::slot_path;
use super::tail;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a file of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The segment written last: its number.
    Newest(u64),
    /// An older segment that holds entries which are needed: its number.
    Needed(u64),
    /// Kept to be used again, or never used.
    Free,
    /// Both copies of its head are damaged, so nobody knows.
    Unknown,
}

/// A file of the log.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub part: Use,
    /// Whole batches in it.
    pub batches: usize,
    /// Where the last of them ends, bytes.
    pub end: u64,
    /// Whether an incomplete write follows: what a crash in the middle of one leaves. It was never acknowledged.
    pub torn: bool,
    /// Damaged places: byte, and what is wrong there.
    pub damage: Vec<(u64, String)>,
}

/// Looks at all files; also numbers of segments that are needed and not there.
///
/// # Errors
/// `Io` if a file cannot be read.
pub fn survey(dir: &Path) -> Result<(Vec<Surveyed>, Vec<u64>)> {
    let mut files = Vec::new();
    let mut newest: Option<(u64, BTreeMap<u64, u64>)> = None;
    for slot in slots(dir)? {
        let path = slot_path(dir, slot);
        let bytes = std::fs::read(&path).map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
        let (file, head) = look(path, &bytes);
        // One whose first batch was never completed was not begun.
        if let Some(head) = head.filter(|_| file.end > HEAD_BYTES)
            && newest.as_ref().is_none_or(|(number, _)| *number < head.number)
        {
            newest = Some((head.number, named(&head, &bytes)));
        }
        files.push((file, head));
    }
    let Some((number, mut needed)) = newest else { return Ok((files.into_iter().map(|(f, _)| f).collect(), vec![])) };
    let all = files.into_iter().map(|(file, head)| placed(file, head, number, &mut needed)).collect();
    Ok((all, needed.into_keys().collect()))
}

/// What one file says of itself.
fn look(path: PathBuf, bytes: &[u8]) -> (Surveyed, Option<Head>) {
    let mut file = Surveyed { path, part: Use::Free, batches: 0, end: 0, torn: false, damage: Vec::new() };
    let Some(head) = Head::decode(bytes) else {
        if !Head::is_blank(bytes) {
            file.part = Use::Unknown;
            file.damage.push((0, "both copies of the head are damaged".into()));
        }
        return (file, None);
    };
    if !Head::is_twice(bytes) {
        file.damage.push((0, "one of the two copies of the head is damaged".into()));
    }
    let mut at = HEAD_BYTES;
    while let Some((_, next)) = head.batch(bytes, at) {
        (at, file.batches) = (next, file.batches + 1);
    }
    file.end = end_of(&head, bytes).1;
    file.torn = head.begins(bytes, file.end);
    if let Some(later) = batch_behind(&head, bytes, file.end) {
        file.damage.push((file.end, format!("a batch has a wrong checksum, and a whole one follows at byte {later}")));
        file.torn = false;
    } else if tail::is_one_bit_off(&head, bytes, file.end) {
        file.damage.push((file.end, "the last batch is whole but for one bit".into()));
        file.torn = false;
    }
    (file, Some(head))
}

/// The older segments that the first batch names, with their ends.
fn named(head: &Head, bytes: &[u8]) -> BTreeMap<u64, u64> {
    let mut ends = BTreeMap::new();
    let mut items = head.batch(bytes, HEAD_BYTES).map_or(&[][..], |(items, _)| items);
    while let Some((_, item)) = Item::decode(&mut items) {
        if let Item::Segment(number, end) = item {
            ends.insert(number, end);
        }
    }
    ends
}

/// The file with its part in the log; what is damaged in one that is free harms nobody.
fn placed(mut file: Surveyed, head: Option<Head>, newest: u64, needed: &mut BTreeMap<u64, u64>) -> Surveyed {
    let Some(head) = head else { return file };
    match needed.remove(&head.number) {
        _ if head.number == newest => file.part = Use::Newest(newest),
        Some(end) => {
            file.part = Use::Needed(head.number);
            file.torn = false;
            if file.end < end {
                file.damage.push((file.end, format!("the segment must reach to byte {end}")));
            }
        }
        // A newer one than the newest was begun and never completed; unless its only batch is damaged.
        None if head.number > newest => {}
        None => {
            file.damage.clear();
            file.torn = false;
        }
    }
    file
}
