//! The bytes of a segment.
//!
//! ```text
//! head    two copies, in different pages: magic 8 | number u64 | salt u64 | crc32c u32
//! batch   marker u32 | length u32 | crc32c u32 of the items | crc32c u32 of the length | items | zeros up to a multiple of 16
//!
//! items   kind u8 | shard u16 | …
//!         1 hard state   term u64 | vote u64 | commit u64
//!         2 cut          index u64 | term u64
//!         3 entry        index u64 | length u32 | value (value.rs); what stood at and behind the index is dropped
//!         4 dropped      index u64: the entries from here on
//!         5 removed      the shard
//!         6 moved        as 3, copied from an older segment: nothing is dropped
//!         7 shard        index u64: the last entry. Only in the first batch of a segment: shards not named are gone
//!         8 segment      number u64 | end u64, for shard 0: an older segment that holds entries still needed
//! ```
//!
//! A batch is one write with one sync, so it is there as a whole or it was never acknowledged. Its checksums cover the
//! segment's salt and its place: what an earlier use of the file left behind never passes for a batch, nor does what a
//! user sent; and a length is believed only with its checksum, so that looking for a batch costs nothing where there is
//! none.

use crate::store::keys::{be_u32, be_u64};
use bytes::BufMut;

/// Bytes of the head: the first batch begins behind it.
pub const HEAD_BYTES: u64 = 8_192;
/// Where the second copy of the head lies.
const HEAD_COPY_AT: usize = 4_096;
/// Bytes of a batch's head, and what batches are aligned to.
pub const BATCH_HEAD_BYTES: usize = 16;

/// The format written. Others are refused.
pub const FORMAT: u8 = 1;

/// The last byte is the format.
const MAGIC: [u8; 8] = *b"mosolog\x01";
const MARKER: u32 = 0x9d0c_a7e5;
const HEAD_USED: usize = 28;

const _: () = assert!(MAGIC[7] == FORMAT);

/// Who a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number, rising by one with each segment that is begun.
    pub number: u64,
    /// Drawn anew with each.
    pub salt: u64,
}

impl Head {
    /// The head's block.
    pub fn encode(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(HEAD_USED);
        head.put_slice(&MAGIC);
        head.put_u64(self.number);
        head.put_u64(self.salt);
        head.put_u32(crc32c::crc32c(&head));
        let mut block = vec![0; HEAD_BYTES as usize];
        block[..HEAD_USED].copy_from_slice(&head);
        block[HEAD_COPY_AT..][..HEAD_USED].copy_from_slice(&head);
        block
    }

    /// The head of a file; `None`: it was never begun, or both copies are damaged.
    pub fn decode(file: &[u8]) -> Option<Head> {
        [0, HEAD_COPY_AT].into_iter().find_map(|at| {
            let head = file.get(at..at + HEAD_USED)?;
            let good = head[..8] == MAGIC && crc32c::crc32c(&head[..24]) == be_u32(&head[24..]);
            good.then(|| Head { number: be_u64(&head[8..16]), salt: be_u64(&head[16..24]) })
        })
    }

    /// The format of a file without a head that this version reads, if a newer version began it.
    pub fn newer_format(file: &[u8]) -> Option<u8> {
        [0, HEAD_COPY_AT].into_iter().find_map(|at| {
            let (name, format) = file.get(at..at + MAGIC.len())?.split_at(MAGIC.len() - 1);
            (name == &MAGIC[..MAGIC.len() - 1] && format[0] > FORMAT).then_some(format[0])
        })
    }

    /// Whether a file without a head was never begun: nothing but zeros.
    pub fn is_blank(file: &[u8]) -> bool {
        file.iter().take(HEAD_BYTES as usize).all(|byte| *byte == 0)
    }

    /// Whether both copies of a file's head are whole.
    pub fn is_twice(file: &[u8]) -> bool {
        let copies = [file.get(..HEAD_USED), file.get(HEAD_COPY_AT..HEAD_COPY_AT + HEAD_USED)];
        copies.into_iter().all(|copy| copy.is_some_and(|copy| Head::decode(copy).is_some()))
    }

    /// The checksum of items at a place.
    pub fn crc(&self, at: u64, items: &[u8]) -> u32 {
        let mut place = [0; 24];
        place[..8].copy_from_slice(&self.number.to_be_bytes());
        place[8..16].copy_from_slice(&self.salt.to_be_bytes());
        place[16..].copy_from_slice(&at.to_be_bytes());
        crc32c::crc32c_append(crc32c::crc32c(&place), items)
    }

    /// Completes a batch: `batch` has room for its head, then items.
    pub fn seal(&self, at: u64, batch: &mut Vec<u8>) {
        let length = (batch.len() - BATCH_HEAD_BYTES) as u32;
        let crc = self.crc(at, &batch[BATCH_HEAD_BYTES..]);
        batch[..4].copy_from_slice(&MARKER.to_be_bytes());
        batch[4..8].copy_from_slice(&length.to_be_bytes());
        let length_crc = self.crc(at, &length.to_be_bytes());
        batch[8..12].copy_from_slice(&crc.to_be_bytes());
        batch[12..16].copy_from_slice(&length_crc.to_be_bytes());
        batch.resize(batch.len().next_multiple_of(BATCH_HEAD_BYTES), 0);
    }

    /// Bytes of the items behind a batch's head at `at`; `None`: it is no head of this segment.
    pub fn length(&self, head: &[u8], at: u64) -> Option<usize> {
        let good = be_u32(&head[..4]) == MARKER && self.crc(at, &head[4..8]) == be_u32(&head[12..16]);
        good.then(|| be_u32(&head[4..8]) as usize)
    }

    /// Whether a batch was begun at `at`, whole or not.
    pub fn begins(&self, file: &[u8], at: u64) -> bool {
        let head = file.get(at as usize..).and_then(|rest| rest.get(..BATCH_HEAD_BYTES));
        head.is_some_and(|head| self.length(head, at).is_some())
    }

    /// The items of the batch that begins at `at`, and where the next one begins; `None`: there is no whole batch.
    pub fn batch<'a>(&self, file: &'a [u8], at: u64) -> Option<(&'a [u8], u64)> {
        let from = usize::try_from(at).ok()?;
        let head = file.get(from..from.checked_add(BATCH_HEAD_BYTES)?)?;
        let length = self.length(head, at)?;
        let begin = from + BATCH_HEAD_BYTES;
        let items = file.get(begin..begin.checked_add(length)?)?;
        let next = (begin + items.len()).next_multiple_of(BATCH_HEAD_BYTES);
        (self.crc(at, items) == be_u32(&head[8..12])).then_some((items, next as u64))
    }
}

/// One item of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// Term, vote, commit.
    HardState(u64, u64, u64),
    /// Index and term of the last entry that was cut off.
    Cut(u64, u64),
    /// Index and value.
    Entry(u64, &'a [u8]),
    /// The entries from here on are dropped.
    Dropped(u64),
    /// The shard is removed.
    Removed,
    /// Index and value.
    Moved(u64, &'a [u8]),
    /// The shard's last entry.
    Shard(u64),
    /// Number and end of an older segment.
    Segment(u64, u64),
}

impl Item<'_> {
    /// Bytes beside an entry's value.
    pub const OVERHEAD: usize = 15;

    /// Appends the item.
    pub fn encode(&self, shard: u16, out: &mut Vec<u8>) {
        let (kind, numbers, value): (u8, &[u64], _) = match self {
            Item::HardState(term, vote, commit) => (1, &[*term, *vote, *commit], None),
            Item::Cut(index, term) => (2, &[*index, *term], None),
            Item::Entry(index, value) => (3, &[*index], Some(value)),
            Item::Dropped(index) => (4, &[*index], None),
            Item::Removed => (5, &[], None),
            Item::Moved(index, value) => (6, &[*index], Some(value)),
            Item::Shard(last) => (7, &[*last], None),
            Item::Segment(number, end) => (8, &[*number, *end], None),
        };
        out.put_u8(kind);
        out.put_u16(shard);
        numbers.iter().for_each(|number| out.put_u64(*number));
        if let Some(value) = value {
            out.put_u32(value.len() as u32);
            out.put_slice(value);
        }
    }

    /// Takes the first item off; with its shard. `None`: these are no items.
    pub fn decode<'a>(rest: &mut &'a [u8]) -> Option<(u16, Item<'a>)> {
        fn bytes<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
            let (taken, left) = rest.split_at_checked(count)?;
            *rest = left;
            Some(taken)
        }
        let number = |rest: &mut &'a [u8]| Some(be_u64(bytes(rest, 8)?));
        let value = |rest: &mut &'a [u8]| {
            let length = be_u32(bytes(rest, 4)?);
            bytes(rest, length as usize)
        };
        let head = bytes(rest, 3)?;
        let item = match head[0] {
            1 => Item::HardState(number(rest)?, number(rest)?, number(rest)?),
            2 => Item::Cut(number(rest)?, number(rest)?),
            3 => Item::Entry(number(rest)?, value(rest)?),
            4 => Item::Dropped(number(rest)?),
            5 => Item::Removed,
            6 => Item::Moved(number(rest)?, value(rest)?),
            7 => Item::Shard(number(rest)?),
            8 => Item::Segment(number(rest)?, number(rest)?),
            _ => return None,
        };
        Some((u16::from_be_bytes([head[1], head[2]]), item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head { number: 7, salt: 0x0123_4567_89ab_cdef };

    #[test]
    fn a_head_survives_in_either_copy() {
        let block = HEAD.encode();
        assert_eq!(Head::decode(&block), Some(HEAD));
        for damaged in [0..HEAD_COPY_AT, HEAD_COPY_AT..block.len()] {
            let mut block = block.clone();
            block[damaged].fill(0xff);
            assert_eq!(Head::decode(&block), Some(HEAD));
        }
        assert_eq!(Head::decode(&block[HEAD_COPY_AT + 1..]), None);
        assert_eq!(Head::decode(&[]), None);
    }

    #[test]
    fn a_batch_is_read_only_where_it_was_written() {
        let mut batch = vec![0; BATCH_HEAD_BYTES];
        let items = [
            (1, Item::HardState(1, 2, 3)),
            (2, Item::Cut(4, 5)),
            (3, Item::Entry(6, b"value")),
            (4, Item::Dropped(7)),
            (5, Item::Removed),
            (6, Item::Moved(8, b"")),
            (7, Item::Shard(9)),
            (0, Item::Segment(10, 11)),
        ];
        items.iter().for_each(|(shard, item)| item.encode(*shard, &mut batch));
        HEAD.seal(32, &mut batch);
        let mut file = vec![0; 32];
        file.extend(&batch);
        let (mut read, next) = HEAD.batch(&file, 32).unwrap();
        assert_eq!(next, file.len() as u64);
        let mut found = Vec::new();
        while !read.is_empty() {
            found.push(Item::decode(&mut read).unwrap());
        }
        assert_eq!(found, items);
        let other = Head { salt: 1, ..HEAD };
        assert_eq!(other.batch(&file, 32), None, "another use of the file");
        assert_eq!(HEAD.batch(&file[16..], 16), None, "another place");
        for at in 32..file.len() {
            let mut file = file.clone();
            file[at] ^= 0x40;
            // The zeros behind the items are nobody's.
            let padding = at >= 32 + BATCH_HEAD_BYTES + (batch.len() - BATCH_HEAD_BYTES) - 15;
            assert!(HEAD.batch(&file, 32).is_none() || padding, "{at}");
        }
        for length in 0..batch.len() {
            let _ = HEAD.batch(&file[..32 + length], 32);
            let _ = Item::decode(&mut &batch[length..]);
        }
    }
}
