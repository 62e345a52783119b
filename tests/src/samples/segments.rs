//! The values that stores write, and segments of the log.

use super::{Sample, Value, unknown};
use bytes::Bytes;
use moso_node::store::log::format::{BATCH_HEAD_BYTES, HEAD_BYTES, Head, Item};
use moso_node::store::{LogOptions, RaftLog, SegmentLog, keys, value};
use moso_shard::{ConfState, Entry, EntryType};
use std::path::Path;

const SHARD: u16 = 7;
const INDEX: u64 = 1_001;

fn entry() -> Entry {
    Entry { term: 5, index: INDEX, data: Bytes::from_static(b"payload"), ..Entry::default() }
}

fn change() -> Entry {
    let context = Bytes::from_static(b"why");
    Entry { entry_type: EntryType::EntryConfChangeV2, index: INDEX + 1, context, ..entry() }
}

fn store(entry: &Entry) -> Result<Vec<u8>, &'static str> {
    let mut bytes = Vec::new();
    value::encode_entry(&value::entry_key(SHARD, entry.index), entry, &mut bytes)?;
    Ok(bytes)
}

fn stored(entry: &Entry) -> Vec<u8> {
    store(entry).expect("an entry that may be stored")
}

fn conf_state() -> ConfState {
    ConfState {
        voters: vec![0x1_0001, 0x2_0001, 0x3_0001],
        learners: vec![0x4_0002],
        auto_leave: true,
        ..ConfState::default()
    }
}

/// A segment as the log begins and fills it: what is known of older ones, then two batches.
fn segment() -> Vec<u8> {
    let head = Head { number: 1, salt: 0x0123_4567_89ab_cdef };
    let mut file = head.encode();
    let mut add = |items: &[(u16, Item<'_>)]| {
        let mut batch = vec![0; BATCH_HEAD_BYTES];
        items.iter().for_each(|(shard, item)| item.encode(*shard, &mut batch));
        head.seal(file.len() as u64, &mut batch);
        file.extend(batch);
    };
    let (first, second) = (stored(&entry()), stored(&change()));
    add(&[
        (SHARD, Item::Shard(INDEX - 1)),
        (SHARD, Item::Cut(INDEX - 1, 4)),
        (SHARD, Item::HardState(4, 0x2_0001, INDEX - 1)),
        (8, Item::Shard(0)),
        (SHARD, Item::Entry(INDEX, &first)),
        (SHARD, Item::HardState(5, 0x1_0001, INDEX - 1)),
    ]);
    add(&[(SHARD, Item::Entry(INDEX + 1, &second)), (8, Item::HardState(1, 0, 0)), (8, Item::Removed)]);
    add(&[(SHARD, Item::Moved(INDEX, &first)), (SHARD, Item::Dropped(INDEX + 2))]);
    assert!(file.len() > HEAD_BYTES as usize, "there are batches");
    file
}

pub(super) fn all() -> Vec<Sample> {
    let conf_state = value::encode_conf_state(&keys::CONF_STATE, &conf_state()).expect("few members");
    vec![
        Sample::new("store", "entry-normal", stored(&entry())),
        Sample::new("store", "entry-change", stored(&change())),
        Sample::new("store", "position", value::encode_position(&keys::APPLIED, INDEX, 5)),
        Sample::new("store", "conf_state", conf_state),
        Sample::new("log", "segment", segment()),
    ]
}

pub(super) fn read_value(what: &str, bytes: &[u8]) -> Result<Value, String> {
    let copy = Bytes::copy_from_slice(bytes);
    Ok(match what {
        "entry" => {
            // The checksum covers the index: it is the one or the other.
            let read = |index| value::decode_entry(&value::entry_key(SHARD, index), index, copy.clone());
            let entry = read(INDEX).or_else(|_| read(INDEX + 1))?;
            // What is never written is read all the same: a normal entry with a context.
            Value { bytes: store(&entry).ok(), ..Value::read_only(&entry) }
        }
        "position" => {
            let (index, term) = value::decode_position(&keys::APPLIED, bytes)?;
            Value::new(&(index, term), value::encode_position(&keys::APPLIED, index, term))
        }
        "conf_state" => {
            let state = value::decode_conf_state(&keys::CONF_STATE, bytes)?;
            Value::new(&state, value::encode_conf_state(&keys::CONF_STATE, &state)?)
        }
        _ => return Err(unknown(what)),
    })
}

/// Opens a log of this one file.
pub(super) fn read_segment(bytes: &[u8]) -> Result<Value, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    write_folder(dir.path(), &[bytes.to_vec()]).map_err(|error| error.to_string())?;
    let read = || -> moso_node::error::Result<Value> {
        let log = SegmentLog::open(dir.path(), &LogOptions { segment_bytes: 64 << 10 })?;
        let mut text = String::new();
        for shard in 0..=16 {
            let state = log.load(shard)?;
            if state != Default::default() && state.last_index > 0 {
                let entries = match state.first_index > state.last_index {
                    true => Vec::new(),
                    false => log.entries(shard, state.first_index, state.last_index + 1, u64::MAX)?,
                };
                text += &format!("shard {shard}: {state:#?}\n{entries:#?}\n");
            }
        }
        Ok(Value { text, bytes: None })
    };
    read().map_err(|error| error.to_string().replace(&dir.path().display().to_string(), "DIR"))
}

/// Writes the files of a log: slots 0, 1, ….
///
/// # Errors
/// As the system says.
pub fn write_folder(dir: &Path, files: &[Vec<u8>]) -> std::io::Result<()> {
    files.iter().enumerate().try_for_each(|(slot, file)| std::fs::write(dir.join(format!("{slot:06}.seg")), file))
}
