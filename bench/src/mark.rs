//! The generator's mark in a job's body: which run made it, which record of the workload, and when it was due. So a
//! worker needs no table to know what a leased job is.

use bytes::{BufMut, Bytes, BytesMut};
use rand::{RngCore, SeedableRng, rngs::StdRng};

/// Bytes of a mark.
pub const MARK_BYTES: usize = 24;
const MAGIC: u32 = 0x6d6f_736f;

/// A mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Random number of the run.
    pub run: u32,
    /// Number of the record in the workload, or of the batch.
    pub record: u32,
    /// When the submission was due, µs since the run began.
    pub intended_us: u64,
}

impl Mark {
    fn put(self, position: u32, body: &mut BytesMut) {
        body.put_u32_le(MAGIC);
        body.put_u32_le(self.run);
        body.put_u32_le(self.record);
        body.put_u32_le(position);
        body.put_u64_le(self.intended_us);
    }

    /// Reads the mark of a body; `None` if the body was not made here.
    pub fn of(body: &[u8]) -> Option<Mark> {
        let word = |at: usize| word(body, at);
        if word(0)? != MAGIC {
            return None;
        }
        Some(Mark { run: word(4)?, record: word(8)?, intended_us: u64::from(word(16)?) | (u64::from(word(20)?) << 32) })
    }
}

/// Which of the bodies with the same mark this is, for servers that give jobs no number of their own.
#[cfg(any(test, feature = "peers"))]
pub fn position(body: &[u8]) -> Option<u32> {
    word(body, 12)
}

fn word(body: &[u8], at: usize) -> Option<u32> {
    let bytes = body.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// Makes bodies: a mark, then bytes that do not compress, so that the disk figures are honest.
#[derive(Debug)]
pub struct Bodies {
    noise: Vec<u8>,
    bytes: usize,
}

impl Bodies {
    /// Bodies of `bytes` bytes (at least [`MARK_BYTES`]).
    pub fn new(seed: u64, bytes: usize) -> Bodies {
        // Twice the window, so that each body can start at another place.
        let mut noise = vec![0; 2 * bytes.max(64 * 1024)];
        StdRng::seed_from_u64(seed).fill_bytes(&mut noise);
        Bodies { noise, bytes }
    }

    /// `count` bodies with the same mark and their positions, slices of one buffer.
    pub fn make(&self, mark: Mark, count: u32) -> Vec<Bytes> {
        let mut buffer = BytesMut::with_capacity(self.bytes * count as usize);
        let window = self.noise.len() / 2;
        for position in 0..count {
            mark.put(position, &mut buffer);
            let start = (mark.record as usize).wrapping_mul(8_191).wrapping_add(position as usize * 977) % window;
            buffer.put_slice(&self.noise[start..start + self.bytes - MARK_BYTES]);
        }
        let buffer = buffer.freeze();
        (0..count as usize).map(|n| buffer.slice(n * self.bytes..(n + 1) * self.bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back() {
        let mark = Mark { run: 7, record: u32::MAX, intended_us: 1 << 40 | 5 };
        let bodies = Bodies::new(1, 100).make(mark, 3);
        assert_eq!(bodies.len(), 3);
        for (number, body) in bodies.iter().enumerate() {
            assert_eq!((body.len(), Mark::of(body)), (100, Some(mark)));
            assert_eq!(position(body), Some(number as u32));
        }
        assert_ne!(bodies[0], bodies[1]);
        assert_eq!(Mark::of(&bodies[0][..23]), None);
        assert_eq!(Mark::of(b"{\"argv\":[\"true\"],\"x\":0000000}"), None);
    }

    #[test]
    fn the_smallest_body_is_a_mark() {
        let mark = Mark { run: 1, record: 2, intended_us: 3 };
        let bodies = Bodies::new(1, MARK_BYTES).make(mark, 1);
        assert_eq!(Mark::of(&bodies[0]), Some(mark));
    }
}
