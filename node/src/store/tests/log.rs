use crate::error::Error;
use crate::store::keys::{self, LogKind};
use crate::store::{LogOptions, LogState, RaftLog, RocksLog, ShardAppend};
use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};
use std::ops::Range;
use std::path::Path;

fn open(dir: &Path) -> RocksLog {
    RocksLog::open(dir, &LogOptions { write_buffer_bytes: 1 << 20 }).unwrap()
}

fn entries(indexes: Range<u64>, term: u64) -> Vec<Entry> {
    let entry = |index| Entry { term, index, data: Bytes::from(format!("{term}/{index}")), ..Entry::default() };
    indexes.map(entry).collect()
}

fn append(log: &RocksLog, shard: u16, entries: &[Entry]) -> Result<(), Error> {
    log.append(&[ShardAppend { shard, entries, ..ShardAppend::default() }], true)
}

fn terms(log: &RocksLog, shard: u16) -> Vec<(u64, u64)> {
    let state = log.load(shard).unwrap();
    if state.first_index > state.last_index {
        return Vec::new();
    }
    let held = log.entries(shard, state.first_index, state.last_index + 1, u64::MAX).unwrap();
    held.iter().map(|entry| (entry.index, entry.term)).collect()
}

#[test]
fn what_was_appended_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let hard_state = HardState { term: 3, vote: 1, commit: 2, ..HardState::default() };
    let (first, second) = (entries(1..4, 3), entries(1..2, 1));
    {
        let log = open(dir.path());
        assert_eq!(log.load(1).unwrap(), LogState { first_index: 1, ..LogState::default() });
        let batch = [
            ShardAppend { shard: 1, entries: &first, hard_state: Some(&hard_state), ..ShardAppend::default() },
            ShardAppend { shard: 4095, entries: &second, ..ShardAppend::default() },
        ];
        log.append(&batch, true).unwrap();
    }
    let log = open(dir.path());
    let state = LogState { hard_state, first_index: 1, last_index: 3, truncated: (0, 0) };
    assert_eq!(log.load(1).unwrap(), state);
    assert_eq!(log.entries(1, 1, 4, u64::MAX).unwrap(), first);
    assert_eq!(log.entries(4095, 1, 2, u64::MAX).unwrap(), second);
    assert_eq!((log.term(1, 0).unwrap(), log.term(1, 3).unwrap()), (0, 3));
    assert_eq!(log.load(2).unwrap().last_index, 0);
}

#[test]
fn appending_at_an_index_drops_all_that_stood_behind() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1, &entries(1..11, 1)).unwrap();
    append(&log, 2, &entries(1..11, 1)).unwrap();
    append(&log, 1, &entries(4..6, 2)).unwrap();
    let expected = vec![(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)];
    assert_eq!(terms(&log, 1), expected);
    assert!(matches!(log.term(1, 6), Err(Error::Contract { .. })));
    // Two turns of a shard in one write; the dropped indexes are written again.
    let (one, two) = (entries(5..9, 3), entries(6..8, 4));
    let batch = [
        ShardAppend { shard: 1, entries: &one, ..ShardAppend::default() },
        ShardAppend { shard: 1, entries: &two, ..ShardAppend::default() },
    ];
    log.append(&batch, true).unwrap();
    let expected = vec![(1, 1), (2, 1), (3, 1), (4, 2), (5, 3), (6, 4), (7, 4)];
    assert_eq!(terms(&log, 1), expected);
    log.append(&[ShardAppend { shard: 1, truncate_suffix_from: Some(3), ..ShardAppend::default() }], true).unwrap();
    assert_eq!(terms(&log, 1), expected[..2]);
    drop(log);
    let log = open(dir.path());
    assert_eq!(terms(&log, 1), expected[..2]);
    assert_eq!(terms(&log, 2).len(), 10);
}

#[test]
fn a_gap_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1, &entries(1..4, 1)).unwrap();
    log.truncate_prefix(1, 2, 1).unwrap();
    let mut gap = entries(4..6, 1);
    gap[1].index = 6;
    let mut context = entries(4..5, 1);
    context[0].context = Bytes::from_static(b"x");
    let good = entries(1..2, 1);
    for bad in [entries(5..6, 1), entries(2..3, 1), gap, context, entries(u64::MAX - 1..u64::MAX, 1)] {
        let batch = [
            ShardAppend { shard: 2, entries: &good, ..ShardAppend::default() },
            ShardAppend { shard: 1, entries: &bad, ..ShardAppend::default() },
        ];
        assert!(matches!(log.append(&batch, true), Err(Error::Contract { shard: 1, .. })));
        assert_eq!((log.load(1).unwrap().last_index, log.load(2).unwrap().last_index), (3, 0));
    }
}

#[test]
fn a_cut_log_remembers_where() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1, &entries(1..11, 5)).unwrap();
    log.truncate_prefix(1, 4, 5).unwrap();
    log.truncate_prefix(1, 3, 5).unwrap();
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.load(1).unwrap().truncated, (4, 5));
    assert_eq!(log.term(1, 4).unwrap(), 5);
    assert!(matches!(log.term(1, 3), Err(Error::Contract { .. })));
    assert!(matches!(log.entries(1, 4, 6, 100), Err(Error::Contract { .. })));
    assert_eq!(terms(&log, 1), (5..11).map(|index| (index, 5)).collect::<Vec<_>>());
    // Beyond its end, as behind a snapshot.
    log.truncate_prefix(1, 100, 6).unwrap();
    append(&log, 1, &entries(101..103, 7)).unwrap();
    drop(log);
    let log = open(dir.path());
    assert_eq!(terms(&log, 1), [(101, 7), (102, 7)]);
    assert_eq!(log.load(1).unwrap().truncated, (100, 6));
}

#[test]
fn reading_stops_at_the_bytes_but_gives_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let mut held = entries(1..6, 1);
    held.iter_mut().for_each(|entry| entry.data = vec![1; 100].into());
    append(&log, 1, &held).unwrap();
    for (bytes_max, count) in [(0, 1), (199, 1), (200, 2), (u64::MAX, 4)] {
        assert_eq!(log.entries(1, 2, 6, bytes_max).unwrap(), held[1..][..count]);
    }
    assert!(matches!(log.entries(1, 2, 7, 0), Err(Error::Contract { .. })));
}

#[test]
fn a_removed_shard_starts_anew() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1, &entries(1..6, 1)).unwrap();
    append(&log, 2, &entries(1..6, 1)).unwrap();
    log.truncate_prefix(1, 3, 1).unwrap();
    log.remove(1).unwrap();
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.load(1).unwrap(), LogState { first_index: 1, ..LogState::default() });
    assert_eq!(terms(&log, 2).len(), 5);
}

#[test]
fn damage_names_shard_and_index() {
    let dir = tempfile::tempdir().unwrap();
    append(&open(dir.path()), 7, &entries(1..6, 1)).unwrap();
    {
        let db = rocksdb::DB::open_default(dir.path()).unwrap();
        let key = keys::log_key(7, LogKind::Entry, 3);
        let mut value = db.get(key).unwrap().unwrap();
        *value.last_mut().unwrap() ^= 1;
        db.put(key, value).unwrap();
        db.delete(keys::log_key(7, LogKind::Entry, 4)).unwrap();
        // An intact value under another entry's key.
        let value = db.get(keys::log_key(7, LogKind::Entry, 1)).unwrap().unwrap();
        db.put(keys::log_key(7, LogKind::Entry, 2), value).unwrap();
    }
    let log = open(dir.path());
    for index in [2, 3, 4] {
        for error in [log.term(7, index).unwrap_err(), log.entries(7, index, 6, 0).unwrap_err()] {
            assert!(matches!(error, Error::Damaged { shard: 7, at, .. } if at == index), "{error}");
            assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::InvalidData);
        }
    }
    drop(log);
    rocksdb::DB::open_default(dir.path()).unwrap().delete(keys::log_key(7, LogKind::Entry, 1)).unwrap();
    assert!(matches!(open(dir.path()).load(7), Err(Error::Damaged { shard: 7, at: 1, .. })));
}

/// Copies the files of an open database, as a crash would leave them.
#[test]
fn a_crash_keeps_all_that_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir.path().join("log"));
    // Several memtables, so that WAL files are recycled.
    for index in 1..41 {
        let entry = Entry { term: 1, index, data: vec![index as u8; 200 << 10].into(), ..Entry::default() };
        append(&log, 1, &[entry]).unwrap();
        log.truncate_prefix(1, index.saturating_sub(10), 1).unwrap();
    }
    append(&log, 1, &entries(41..42, 2)).unwrap();
    let image = dir.path().join("image");
    super::state::copy_files(&dir.path().join("log"), &image);
    let state = open(&image).load(1).unwrap();
    assert_eq!((state.first_index, state.last_index), (31, 41));
    assert_eq!(terms(&open(&image), 1).last(), Some(&(41, 2)));
}

#[test]
fn a_write_that_fails_is_fatal() {
    let dir = tempfile::tempdir().unwrap();
    append(&open(dir.path()), 1, &entries(1..2, 1)).unwrap();
    let db = rocksdb::DB::open_for_read_only(&rocksdb::Options::default(), dir.path(), false).unwrap();
    let log = RocksLog::with_database(db);
    assert!(append(&log, 1, &entries(2..3, 1)).unwrap_err().is_fatal());
    assert_eq!(log.load(1).unwrap().last_index, 1);
}

#[test]
fn damage_in_the_newest_file_never_shows_other_entries() {
    let dir = tempfile::tempdir().unwrap();
    let written = entries(1..101, 1);
    let log = open(&dir.path().join("log"));
    written.iter().for_each(|entry| append(&log, 1, std::slice::from_ref(entry)).unwrap());
    for part in 1..10 {
        let image = dir.path().join(format!("image-{part}"));
        super::state::copy_files(&dir.path().join("log"), &image);
        let wal = std::fs::read_dir(&image).unwrap().map(|file| file.unwrap().path());
        let wal = wal.filter(|path| path.extension().is_some_and(|end| end == "log")).max().unwrap();
        let mut bytes = std::fs::read(&wal).unwrap();
        let at = bytes.len() * part / 10;
        bytes[at] ^= 0x10;
        std::fs::write(&wal, bytes).unwrap();
        // Refusing to open is as good.
        let Ok(log) = RocksLog::open(&image, &LogOptions::default()) else { continue };
        let last = log.load(1).unwrap().last_index;
        assert!(last < 100, "the entry at the damaged byte cannot be there");
        if last > 0 {
            assert_eq!(log.entries(1, 1, last + 1, u64::MAX).unwrap(), written[..last as usize]);
        }
    }
}
