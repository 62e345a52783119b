//! Telling a damaged last batch from one that was never completed.
//!
//! Behind the log's end there is either nothing, or a batch whose write was cut short: some blocks of it are not there.
//! A batch that is whole but for one bit was complete once, and was perhaps acknowledged.

use super::format::{BATCH_HEAD_BYTES, Head};
use crate::store::keys::be_u32;

/// What a disk writes as a whole, bytes.
const BLOCK: usize = 512;
/// CRC-32C's polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Whether a batch would be whole at `at` if one bit of it were another. Wrong once in 2³² / bits of the batch, to the
/// safe side: the node does not start.
pub fn is_one_bit_off(head: &Head, file: &[u8], at: u64) -> bool {
    let from = at as usize;
    let Some(bytes) = file.get(from..).filter(|bytes| bytes.len() >= BATCH_HEAD_BYTES) else { return false };
    let mut batch_head: [u8; BATCH_HEAD_BYTES] = bytes[..BATCH_HEAD_BYTES].try_into().expect("as many were cut");
    for bit in 0..8 * BATCH_HEAD_BYTES {
        batch_head[bit / 8] ^= 1 << (bit % 8);
        if let Some((items, crc)) = items(head, &batch_head, bytes, at)
            && head.crc(at, items) == crc
        {
            return true;
        }
        batch_head[bit / 8] ^= 1 << (bit % 8);
    }
    let Some((items, crc)) = items(head, &batch_head, bytes, at) else { return false };
    let Some(byte) = flipped_byte(items.len(), head.crc(at, items) ^ crc) else { return false };
    // Blocks that were never written may be zeros, one bit from the right ones.
    let block = ((from + BATCH_HEAD_BYTES + byte) / BLOCK * BLOCK).saturating_sub(from + BATCH_HEAD_BYTES);
    items[block..].iter().any(|byte| *byte != 0)
}

/// The items behind a batch's head, if that is whole, and their checksum.
fn items<'a>(head: &Head, batch_head: &[u8; BATCH_HEAD_BYTES], bytes: &'a [u8], at: u64) -> Option<(&'a [u8], u32)> {
    head.length(batch_head, at)
        .and_then(|length| bytes.get(BATCH_HEAD_BYTES..BATCH_HEAD_BYTES + length))
        .map(|items| (items, be_u32(&batch_head[8..12])))
}

/// The byte of `length` ones in which one other bit changes their checksum by `syndrome`.
fn flipped_byte(length: usize, syndrome: u32) -> Option<usize> {
    // A checksum is linear: the change depends on the bit's distance from the end alone.
    let step = |crc: u32| (0..8).fold(crc, |crc, _| (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 });
    let table: Vec<u32> = (0..256).map(step).collect();
    let mut changes: [u32; 8] = std::array::from_fn(|bit| table[1 << bit]);
    for byte in (0..length).rev() {
        if changes.contains(&syndrome) {
            return Some(byte);
        }
        changes = changes.map(|crc| (crc >> 8) ^ table[(crc & 0xff) as usize]);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::log::format::{HEAD_BYTES, Item};

    const HEAD: Head = Head { number: 3, salt: 0x5eed };

    fn file(values: &[&[u8]]) -> Vec<u8> {
        let mut batch = vec![0; BATCH_HEAD_BYTES];
        values.iter().zip(1..).for_each(|(value, index)| Item::Entry(index, value).encode(1, &mut batch));
        HEAD.seal(HEAD_BYTES, &mut batch);
        let mut file = HEAD.encode();
        file.extend(batch);
        file
    }

    #[test]
    fn every_single_bit_is_found() {
        let good = file(&[b"some", &[7; 1_000]]);
        let items = 2 * Item::OVERHEAD + 1_004;
        assert!(!is_one_bit_off(&HEAD, &good[..HEAD_BYTES as usize], HEAD_BYTES), "nothing is there");
        for bit in 0..8 * (BATCH_HEAD_BYTES + items) {
            let mut bytes = good.clone();
            bytes[HEAD_BYTES as usize + bit / 8] ^= 1 << (bit % 8);
            assert!(HEAD.batch(&bytes, HEAD_BYTES).is_none() && is_one_bit_off(&HEAD, &bytes, HEAD_BYTES), "{bit}");
        }
    }

    #[test]
    fn a_write_cut_short_is_not_taken_for_damage() {
        let good = file(&[&[0x55; 3_000], &[0; 500], b"\x01"]);
        for end in (HEAD_BYTES as usize..good.len()).step_by(16) {
            assert!(!is_one_bit_off(&HEAD, &good[..end], HEAD_BYTES), "cut at {end}");
            let mut zeros = good.clone();
            zeros[end / BLOCK * BLOCK..].fill(0);
            assert!(!is_one_bit_off(&HEAD, &zeros, HEAD_BYTES), "blocks from {end} on are missing");
        }
    }
}
