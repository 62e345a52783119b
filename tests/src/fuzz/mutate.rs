//! How inputs are changed.

use rand::Rng;
use rand::rngs::SmallRng;

const BYTES: [u8; 10] = [0, 1, 2, 0x7f, 0x80, 0xff, b'0', b'.', b'"', b'\n'];
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// Changes `bytes` in one to five places; `other` is another input to take parts from. No longer than `bytes_max`.
pub(super) fn mutate(random: &mut SmallRng, bytes: &mut Vec<u8>, other: &[u8], bytes_max: usize) {
    for _ in 0..1 << random.random_range(0..3u32) {
        step(random, bytes, other);
        if random.random_bool(0.25) {
            break;
        }
    }
    bytes.truncate(bytes_max);
}

fn step(random: &mut SmallRng, bytes: &mut Vec<u8>, other: &[u8]) {
    if bytes.is_empty() {
        bytes.extend((0..random.random_range(1..32)).map(|_| random.random::<u8>()));
        return;
    }
    let at = random.random_range(0..bytes.len());
    match random.random_range(0..12) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = BYTES[random.random_range(0..BYTES.len())],
        2 => bytes[at] = random.random(),
        3 => bytes[at] = bytes[at].wrapping_add(if random.random() { 1 } else { 255 }),
        4 | 5 => write_number(random, bytes, at),
        6 => bytes.truncate(at),
        7 => drop(bytes.drain(at..(at + random.random_range(1..32)).min(bytes.len()))),
        8 => {
            let more: Vec<u8> = (0..random.random_range(1..16)).map(|_| random.random()).collect();
            bytes.splice(at..at, more);
        }
        9 => {
            // A part of itself, once more: repeated items and keys.
            let end = (at + random.random_range(1..128)).min(bytes.len());
            let part = bytes[at..end].to_vec();
            let to = random.random_range(0..=bytes.len());
            bytes.splice(to..to, part);
        }
        10 if !other.is_empty() => {
            let from = random.random_range(0..other.len());
            let end = (from + random.random_range(1..256)).min(other.len());
            if random.random() {
                bytes.splice(at..at, other[from..end].iter().copied());
            } else {
                let room = (end - from).min(bytes.len() - at);
                bytes[at..at + room].copy_from_slice(&other[from..from + room]);
            }
        }
        _ if !other.is_empty() => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[random.random_range(0..other.len())..]);
        }
        _ => bytes[at] = !bytes[at],
    }
}

/// Writes a number of some width in some order of its bytes: one at the edge of a range, or a little more or less.
fn write_number(random: &mut SmallRng, bytes: &mut [u8], at: usize) {
    let width = [1, 2, 4, 8][random.random_range(0..4)].min(bytes.len() - at);
    let place = &mut bytes[at..at + width];
    let little: bool = random.random();
    let number = if random.random() {
        NUMBERS[random.random_range(0..NUMBERS.len())]
    } else {
        let mut word = [0; 8];
        word[..width].copy_from_slice(place);
        if !little {
            word[..width].reverse();
        }
        u64::from_le_bytes(word).wrapping_add(random.random_range(0..17)).wrapping_sub(8)
    };
    place.copy_from_slice(&number.to_le_bytes()[..width]);
    if !little {
        place.reverse();
    }
}
