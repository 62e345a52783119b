//! What a node stores: values, keys, and folders of damaged segments of the log.

use super::input::{Input, put_piece};
use super::reached::{self, reached, result};
use super::seeds_of;
use crate::samples::{self, write_folder};
use moso_node::error::Error;
use moso_node::store::keys::{self, EndedKind};
use moso_node::store::log::format::{BATCH_HEAD_BYTES, HEAD_BYTES, Head, Item};
use moso_node::store::{LogOptions, RaftLog, SegmentLog, ShardAppend, value};
use moso_shard::{Entry, HardState};
use std::path::Path;

/// Shards that a damaged log may hold, and that are read.
const SHARDS_READ: u16 = 16;
/// Files of a folder.
const FILES_MAX: usize = 6;
/// Bytes of a file.
const FILE_BYTES_MAX: usize = 32 * 1024;

/// A stored value: the first byte says of which kind. Its checksum is made right, since a wrong one hides all the rest.
/// There is one encoding of each value.
pub(super) fn value(data: &[u8]) {
    let Some((&kind, body)) = data.split_first() else { return };
    let (what, key, crc_at): (_, &[u8], _) = match kind % 3 {
        0 => ("entry", &value::entry_key(7, 1_001), 10),
        1 => ("position", &keys::APPLIED, 1),
        _ => ("conf_state", &keys::CONF_STATE, 1),
    };
    reached(what);
    let mut bytes = body.to_vec();
    if bytes.len() >= crc_at + 4 {
        let mut crc = crc32c::crc32c(key);
        // The version stands before the checksum: an entry's covers it, the others' do not.
        if what == "entry" {
            crc = crc32c::crc32c_append(crc, &bytes[..crc_at]);
        }
        crc = crc32c::crc32c_append(crc, &bytes[crc_at + 4..]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_be_bytes());
    }
    if let Some(again) = result(samples::read(&format!("store/{what}"), &bytes)).and_then(|value| value.bytes) {
        assert_eq!(again, bytes, "{what} is written as other bytes");
    }
}

pub(super) fn value_seeds() -> Vec<Vec<u8>> {
    let kinds = ["entry", "position", "conf_state"];
    let tagged = |sample: samples::Sample| {
        let kind = kinds.iter().position(|kind| sample.name.starts_with(&format!("store/{kind}")));
        [&[kind.expect("all values are listed") as u8], sample.bytes.as_slice()].concat()
    };
    samples::all().into_iter().filter(|sample| sample.kind() == "store").map(tagged).collect()
}

/// A key of the status log or of the archive: what it names makes the same key.
pub(super) fn key(data: &[u8]) {
    if let Some((index, n)) = keys::history_row(data) {
        reached("row");
        let (day, seq) = (u16::from_be_bytes([data[0], data[1]]), keys::be_u64(&data[2..10]));
        assert_eq!(keys::history_key(day, seq, index, n), data);
    }
    if let Some((day, kind, seq)) = keys::ended_parts(data) {
        reached(kind as u8);
        assert_eq!(keys::ended_key(day, kind, seq), data);
    }
    reached(data.len());
}

pub(super) fn key_seeds() -> Vec<Vec<u8>> {
    vec![
        keys::history_key(19_000, 7, 1_001, 2).to_vec(),
        keys::ended_key(19_000, EndedKind::Job, 7).to_vec(),
        keys::ended_key(19_000, EndedKind::Task, u64::MAX).to_vec(),
    ]
}

/// Builds a folder from a script. A file is a list of steps: batches sealed rightly around any items, and damage.
fn build(input: &mut Input<'_>) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    while !input.is_empty() && files.len() < FILES_MAX {
        let head = Head { number: u64::from(input.u8() % 16), salt: u64::from(input.u8()) };
        let mut file = head.encode();
        for _ in 0..input.u8() % 16 {
            match input.u8() % 8 {
                0..=4 => {
                    let mut batch = vec![0; BATCH_HEAD_BYTES];
                    batch.extend_from_slice(input.piece());
                    head.seal(file.len() as u64, &mut batch);
                    file.extend(batch);
                }
                5 => file.extend_from_slice(input.piece()),
                6 => file.truncate(usize::from(input.u16())),
                _ => {
                    let (at, with) = (usize::from(input.u16()), input.u8());
                    let length = file.len().max(1);
                    if let Some(byte) = file.get_mut(at % length) {
                        *byte ^= with;
                    }
                }
            }
            file.truncate(FILE_BYTES_MAX);
        }
        files.push(file);
    }
    files
}

/// Shard, last index, and of each entry index, term and bytes.
type Held = (u16, u64, Vec<(u64, u64, usize)>);

/// What the log holds of each shard, by the reads that a replica makes.
fn read_all(log: &SegmentLog) -> Vec<Held> {
    let mut all = Vec::new();
    for shard in 0..SHARDS_READ {
        let state = log.load(shard).expect("the index is in memory");
        assert!(state.first_index == state.truncated.0 + 1 && state.first_index <= state.last_index + 1, "{state:?}");
        let mut held = Vec::new();
        if state.first_index <= state.last_index {
            // A value that a defect sealed may be damaged; then the entry is, and nothing else.
            if let Some(entries) = result(log.entries(shard, state.first_index, state.last_index + 1, u64::MAX)) {
                assert_eq!(entries.len() as u64, state.last_index + 1 - state.first_index);
                held.extend(entries.iter().map(|entry| (entry.index, entry.term, entry.data.len())));
            }
        }
        all.push((shard, state.last_index, held));
    }
    all
}

fn open(dir: &Path) -> Result<SegmentLog, Error> {
    SegmentLog::open(dir, &LogOptions { segment_bytes: FILE_BYTES_MAX })
}

/// A folder of segments as a crash, a bad disk or a defect leaves them. It is refused, or read; what is read is there
/// again after more was written and the log was opened anew.
pub(super) fn segments(data: &[u8]) {
    let dir = tempfile::tempdir_in(shared_memory()).expect("a folder for the test");
    let files = build(&mut Input(data));
    write_folder(dir.path(), &files).expect("files of the test");
    let log = match open(dir.path()) {
        Ok(log) => log,
        Err(error) => {
            let text = error.to_string();
            let known = matches!(error, Error::Folder { .. } | Error::Damaged { .. } | Error::NewerFormat { .. });
            assert!(known, "{text}");
            reached::text(text.rsplit_once("seg:").map_or(text.as_str(), |(_, why)| why));
            return;
        }
    };
    let before = read_all(&log);
    before.iter().filter(|(_, last, _)| *last > 0).for_each(|(shard, _, held)| reached(shard + held.len() as u16 % 8));
    let state = log.load(1).expect("the index is in memory");
    let index = state.last_index + 1;
    let entry = Entry { term: state.hard_state.term, index, data: vec![7; 100].into(), ..Entry::default() };
    let hard_state = HardState { commit: 1, ..state.hard_state };
    let append = ShardAppend { shard: 1, entries: &[entry], hard_state: Some(&hard_state), ..ShardAppend::default() };
    if let Err(error) = log.append(&[append]) {
        assert!(index >= u64::MAX >> 1 && matches!(error, Error::Contract { .. }), "{error}");
        return;
    }
    drop(log);
    let again = read_all(&open(dir.path()).expect("a log that was open opens again"));
    for ((shard, last, held), (_, last_again, held_again)) in before.iter().zip(&again) {
        assert_eq!(*last + u64::from(*shard == 1), *last_again, "shard {shard}");
        // One damaged entry hides the others of its shard.
        assert!(held_again.starts_with(held), "shard {shard}: {held:?} became {held_again:?}");
    }
}

/// Files in memory, where there are such: a log syncs each write.
pub(super) fn shared_memory() -> std::path::PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() }
}

pub(super) fn segment_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    // What the log itself writes, taken apart again.
    let whole = seeds_of(&["log"]).concat();
    let head = Head::decode(&whole).expect("a sample with a head");
    let mut batches = Vec::new();
    let mut at = HEAD_BYTES;
    while let Some((items, next)) = head.batch(&whole, at) {
        batches.push(items.to_vec());
        at = next;
    }
    let file = |number: u8, batches: &[Vec<u8>]| {
        let mut out = vec![number, 1, batches.len() as u8];
        for batch in batches {
            out.push(0);
            put_piece(&mut out, batch);
        }
        out
    };
    seeds.push(file(1, &batches));
    // A second segment that names the first.
    let end = whole.len() as u64;
    let items = |items: &[(u16, Item<'_>)]| {
        let mut out = Vec::new();
        items.iter().for_each(|(shard, item)| item.encode(*shard, &mut out));
        out
    };
    let mut stored = Vec::new();
    let entry = Entry { term: 5, index: 1_003, ..Entry::default() };
    value::encode_entry(&value::entry_key(7, 1_003), &entry, &mut stored).expect("an entry that may be stored");
    let named = items(&[
        (0, Item::Segment(1, end)),
        (7, Item::Shard(1_002)),
        (7, Item::Cut(1_000, 4)),
        (7, Item::Entry(1_003, &stored)),
    ]);
    seeds.push([file(1, &batches), file(2, &[named])].concat());
    let mut damaged = file(1, &batches);
    damaged[2] += 3;
    damaged.extend([7, 0, 33, 0xff, 6, 0, 33, 5, 4, 0, 1, 2, 3, 4]);
    seeds.push(damaged);
    seeds
}
