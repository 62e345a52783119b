//! A full disk, and bits that flip: what was acknowledged is there after a start, or there is no start.

use super::log::{SEGMENT, append, entries, files, open, terms, try_open};
use crate::error::Error;
use crate::store::log::{Relief, Use, survey};
use crate::store::{LogOptions, RaftLog, SegmentLog};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Gives space after so many tries, or never.
struct After(u32, AtomicU32);

impl Relief for After {
    fn disk_is_full(&self, tries: u32) -> bool {
        self.1.store(tries, Ordering::Relaxed);
        tries < self.0
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in files(from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

/// Entries 1 to 7, the last batch of one.
fn write_some(log: &SegmentLog) {
    append(log, 1, &entries(1..4, 1)).unwrap();
    append(log, 2, &entries(1..3, 1)).unwrap();
    append(log, 1, &entries(4..8, 1)).unwrap();
}

/// The zeros behind a batch are nobody's: without them it is whole, though nobody was told of it.
const PADDING: u64 = 16;

#[test]
fn a_write_that_finds_the_disk_full_at_any_byte_is_no_acknowledged_one() {
    let (mut left, mut whole) = (0, 0);
    loop {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        write_some(&log);
        log.leave_space(Some(left));
        let result = append(&log, 1, &entries(8..10, 2));
        if result.is_ok() {
            break;
        }
        let text = result.unwrap_err().to_string();
        assert!(text.contains("free space, then start the node again"), "{text}");
        // As after a crash at this moment.
        drop(log);
        let log = open(dir.path());
        match terms(&log, 1).last() {
            Some((7, 1)) => assert_eq!(whole, 0, "{left} bytes were written"),
            Some((9, 2)) => whole += 1,
            other => panic!("{left} bytes were written: the log ends at {other:?}"),
        }
        append(&log, 1, &entries(8..10, 3)).unwrap();
        drop(log);
        assert_eq!(terms(&open(dir.path()), 1).last(), Some(&(9, 3)));
        left += 1;
    }
    assert!(left > 64 && whole < PADDING, "{left}, {whole}: a batch is larger");
}

#[test]
fn what_found_no_space_is_written_at_the_same_place_once_there_is_some() {
    // Bytes that fit at first: parts of a batch, of a new segment's head, of its first batch.
    for (before, left) in [(3, 0), (3, 40), (300, 0), (300, 5_000), (300, 8_192), (300, 9_000)] {
        let dir = tempfile::tempdir().unwrap();
        let log = SegmentLog::open(dir.path(), &LogOptions { segment_bytes: 16 << 10 }).unwrap();
        let relief = Arc::new(After(3, AtomicU32::new(0)));
        let log = Arc::new(log.with_relief(relief.clone()));
        (1..=before).for_each(|at| append(&log, 1, &entries(at..at + 1, 1)).unwrap());
        log.leave_space(Some(left));
        let writer = log.clone();
        let thread = std::thread::spawn(move || {
            (before + 1..before + 200).try_for_each(|at| append(&writer, 1, &entries(at..at + 1, 1)))
        });
        while relief.1.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        log.leave_space(None);
        // It may have given up before.
        if thread.join().unwrap().is_ok() {
            drop(log);
            let log = open(dir.path());
            assert_eq!(log.load(1).unwrap().last_index, before + 199, "{before}, {left}");
        }
    }
}

#[test]
fn a_disk_that_stays_full_ends_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let relief = Arc::new(After(4, AtomicU32::new(0)));
    let log = open(dir.path()).with_relief(relief.clone());
    write_some(&log);
    log.leave_space(Some(20));
    assert!(append(&log, 1, &entries(8..9, 1)).unwrap_err().is_fatal());
    assert_eq!(relief.1.load(Ordering::Relaxed), 4);
}

/// Opens the log with one bit flipped at each place; whatever opens must hold all that was acknowledged.
fn flip_every_bit(dir: &Path, step: usize) {
    let file = files(dir).into_iter().find(|file| file.extension().is_some_and(|e| e == "seg")).unwrap();
    let good = fs::read(&file).unwrap();
    let mut refused = 0;
    for bit in (0..8 * good.len()).step_by(step) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, &bad).unwrap();
        match try_open(dir) {
            Ok(log) => assert_eq!((terms(&log, 1).len(), terms(&log, 2).len()), (7, 2), "bit {bit}"),
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                assert!(text.contains(".seg") && text.contains("under a new number"), "{text}");
                let (found, _) = survey(dir).unwrap();
                assert!(found.iter().any(|file| !file.damage.is_empty()), "bit {bit}: {error}");
            }
        }
        // Nothing was repaired by the attempt that another attempt relies on.
        fs::write(&file, &good).unwrap();
    }
    assert!(refused > 0);
}

#[test]
fn a_flipped_bit_never_loses_an_acknowledged_entry() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    write_some(&log);
    drop(log);
    flip_every_bit(dir.path(), 101);
    // After a stop in order even a byte of the last batch may go.
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    write_some(&log);
    let end = fs::metadata(&files(dir.path())[0]).unwrap().len() as usize;
    log.close().unwrap();
    drop(log);
    flip_every_bit(dir.path(), 101);
    let file = files(dir.path()).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[end - 40] ^= 0xff;
    bytes[end - 90] ^= 0xff;
    fs::write(&file, &bytes).unwrap();
    assert!(matches!(try_open(dir.path()), Err(Error::Folder { .. })));
}

#[test]
fn a_closed_log_goes_on_where_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.close().unwrap();
    write_some(&log);
    log.close().unwrap();
    drop(log);
    let log = open(dir.path());
    assert_eq!(terms(&log, 1).len(), 7);
    append(&log, 1, &entries(8..9, 1)).unwrap();
    log.close().unwrap();
    drop(log);
    assert_eq!(terms(&open(dir.path()), 1).len(), 8);
}

#[test]
fn looking_at_a_log_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    write_some(&log);
    (8..2_000).for_each(|at| append(&log, 1, &entries(at..at + 1, 1)).unwrap());
    drop(log);
    let before = tempfile::tempdir().unwrap();
    copy(dir.path(), before.path());
    let log = SegmentLog::open_read_only(dir.path()).unwrap();
    assert_eq!(log.load(1).unwrap().last_index, 1_999);
    assert!(matches!(append(&log, 1, &entries(2_000..2_001, 1)), Err(Error::Contract { .. })));
    assert!(matches!(log.remove(1), Err(Error::Contract { .. })));
    let (found, missing) = survey(dir.path()).unwrap();
    assert!(missing.is_empty() && found.iter().all(|file| file.damage.is_empty() && !file.torn), "{found:?}");
    assert_eq!(found.iter().filter(|file| matches!(file.part, Use::Newest(_))).count(), 1);
    assert!(found.iter().map(|file| file.batches).sum::<usize>() > 1_900);
    for file in files(before.path()) {
        assert_eq!(fs::read(&file).unwrap(), fs::read(dir.path().join(file.file_name().unwrap())).unwrap());
    }
    assert_eq!(files(dir.path()).len(), files(before.path()).len());
    const { assert!(SEGMENT >= 16 << 10) };
}

#[test]
fn a_missing_segment_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    (1..3_000).for_each(|at| append(&log, 1, &entries(at..at + 1, 1)).unwrap());
    drop(log);
    let mut all = files(dir.path());
    all.sort();
    fs::remove_file(&all[0]).unwrap();
    let text = try_open(dir.path()).err().unwrap().to_string();
    assert!(text.contains("segment 1 of the Raft log is missing"), "{text}");
    assert_eq!(survey(dir.path()).unwrap().1, [1]);
}
