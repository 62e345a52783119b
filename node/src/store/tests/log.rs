use crate::error::Error;
use crate::store::{LogOptions, LogState, RaftLog, SegmentLog, ShardAppend};
use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};
use std::ops::Range;
use std::path::{Path, PathBuf};

pub const SEGMENT: usize = 64 << 10;

pub fn try_open(dir: &Path) -> Result<SegmentLog, Error> {
    SegmentLog::open(dir, &LogOptions { segment_bytes: SEGMENT })
}

pub fn open(dir: &Path) -> SegmentLog {
    try_open(dir).unwrap()
}

pub fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect()
}

pub fn entries(indexes: Range<u64>, term: u64) -> Vec<Entry> {
    let entry = |index| Entry { term, index, data: Bytes::from(format!("{term}/{index}")), ..Entry::default() };
    indexes.map(entry).collect()
}

pub fn append(log: &SegmentLog, shard: u16, entries: &[Entry]) -> Result<(), Error> {
    log.append(&[ShardAppend { shard, entries, ..ShardAppend::default() }])
}

pub fn terms(log: &SegmentLog, shard: u16) -> Vec<(u64, u64)> {
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
        log.append(&batch).unwrap();
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
    log.append(&batch).unwrap();
    let expected = vec![(1, 1), (2, 1), (3, 1), (4, 2), (5, 3), (6, 4), (7, 4)];
    assert_eq!(terms(&log, 1), expected);
    log.append(&[ShardAppend { shard: 1, truncate_suffix_from: Some(3), ..ShardAppend::default() }]).unwrap();
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
        assert!(matches!(log.append(&batch), Err(Error::Contract { shard: 1, .. })));
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
    assert_eq!(log.load(1).unwrap().truncated, (4, 5));
    append(&log, 2, &entries(1..2, 1)).unwrap();
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

/// Writes rounds of entries of several shards and cuts them as nodes do. Other shards write once, at different times, and
/// are never cut.
fn rounds(log: &SegmentLog, rounds: u64, mut each: impl FnMut(u64)) {
    let still = entries(1..9, 1);
    append(log, 9, &still).unwrap();
    for round in 1..=rounds {
        for shard in 1..=3 {
            let mut added = entries(3 * round - 2..3 * round + 1, round);
            added.iter_mut().for_each(|entry| entry.data = vec![shard as u8; 2_000].into());
            let hard_state = HardState { term: round, vote: 1, commit: 3 * round, ..HardState::default() };
            let append =
                ShardAppend { shard, entries: &added, hard_state: Some(&hard_state), ..ShardAppend::default() };
            log.append(&[append]).unwrap();
        }
        if round > 5 {
            (1..=3).for_each(|shard| log.truncate_prefix(shard, 3 * (round - 5), round - 5).unwrap());
        }
        if round % 40 == 0 {
            append(log, 100 + (round / 40) as u16, &entries(1..3, 1)).unwrap();
        }
        each(round);
    }
}

fn check(log: &SegmentLog, round: u64) {
    for shard in 1..=3 {
        let state = log.load(shard).unwrap();
        // The last cut goes with the next write.
        let cut = 3 * round.saturating_sub(5);
        assert!(state.truncated.0 == cut || state.truncated.0 + 3 == cut, "{state:?} after round {round}");
        assert_eq!((state.hard_state.term, state.last_index), (round, 3 * round));
        let held = log.entries(shard, state.first_index, state.last_index + 1, u64::MAX).unwrap();
        let good = |entry: &Entry| entry.term == entry.index.div_ceil(3) && entry.data == vec![shard as u8; 2_000];
        assert!(held.iter().all(good));
    }
    assert_eq!(terms(log, 9), (1..9).map(|index| (index, 1)).collect::<Vec<_>>());
}

#[test]
fn files_are_used_again_and_shards_at_rest_keep_few() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let mut most = 0;
    rounds(&log, 1_000, |_| {
        let (used, spare) = log.files();
        most = most.max(used + spare);
    });
    check(&log, 1_000);
    assert!(most <= 20, "{most} files for 18 MB of entries, of which 90 kB are needed");
    assert_eq!(files(dir.path()).len(), log.files().0 + log.files().1 + log.retired());
    let moved = (101..126).map(|shard| log.place(shard, 1).unwrap().0).filter(|segment| *segment > 230).count();
    assert!(moved > 12, "{moved} of 25 shards at rest have their entries in one of the newest files");
    drop(log);
    let log = open(dir.path());
    check(&log, 1_000);
    (101..126).for_each(|shard| assert_eq!(terms(&log, shard), [(1, 1), (2, 1)]));
}

#[test]
fn a_crash_at_any_moment_keeps_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir.path().join("log"));
    rounds(&log, 200, |round| {
        if round % 7 == 0 {
            let image = dir.path().join(format!("image-{round}"));
            super::state::copy_files(&dir.path().join("log"), &image);
            let reopened = open(&image);
            check(&reopened, round);
            // And goes on from there.
            append(&reopened, 1, &entries(3 * round + 1..3 * round + 2, round)).unwrap();
            drop(reopened);
            assert_eq!(open(&image).load(1).unwrap().last_index, 3 * round + 1);
        }
    });
}

#[test]
fn a_write_that_was_cut_short_never_happened() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir.path().join("log"));
    append(&log, 1, &entries(1..4, 1)).unwrap();
    let file = files(&dir.path().join("log")).pop().unwrap();
    let before = std::fs::read(&file).unwrap().len();
    append(&log, 1, &entries(4..8, 1)).unwrap();
    let after = std::fs::read(&file).unwrap();
    for length in (before..after.len()).step_by(7) {
        let image = dir.path().join(format!("image-{length}"));
        super::state::copy_files(&dir.path().join("log"), &image);
        let torn = image.join(file.file_name().unwrap());
        std::fs::write(&torn, &after[..length]).unwrap();
        let log = open(&image);
        // Behind its items a batch has up to 15 zeros that nobody needs.
        let last = log.load(1).unwrap().last_index;
        assert!(last == 3 || (last == 7 && length + 16 > after.len()), "{last} after {length} bytes");
        append(&log, 1, &entries(4..6, 2)).unwrap();
        drop(log);
        assert_eq!(terms(&open(&image), 1).last(), Some(&(5, 2)));
    }
}

#[test]
fn a_segment_that_was_begun_and_not_used_is_nothing() {
    let dir = tempfile::tempdir().unwrap();
    append(&open(dir.path()), 1, &entries(1..4, 1)).unwrap();
    // As a node that crashes at its first write after each of three starts.
    for _ in 0..3 {
        append(&open(dir.path()), 1, &entries(4..6, 1)).unwrap();
        // The same file each time, as it is free again.
        let newest = dir.path().join("000001.seg");
        let bytes = std::fs::read(&newest).unwrap();
        std::fs::write(&newest, &bytes[..bytes.len() - 40]).unwrap();
        assert_eq!(open(dir.path()).load(1).unwrap().last_index, 3);
    }
    append(&open(dir.path()), 1, &entries(4..5, 9)).unwrap();
    assert_eq!(terms(&open(dir.path()), 1).last(), Some(&(4, 9)));
}

#[test]
fn entries_that_were_replaced_do_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let large = |range: Range<u64>, term| {
        let mut entries = entries(range, term);
        entries.iter_mut().for_each(|entry| entry.data = vec![term as u8; 9_000].into());
        entries
    };
    // Shard 2 keeps the oldest segment, in which shard 1's replaced entries are.
    append(&log, 2, &large(1..5, 1)).unwrap();
    append(&log, 1, &entries(1..21, 1)).unwrap();
    append(&log, 1, &entries(11..13, 2)).unwrap();
    log.truncate_prefix(1, 12, 2).unwrap();
    for index in 1..40 {
        append(&log, 3, &large(index..index + 1, 1)).unwrap();
        log.truncate_prefix(3, index, 1).unwrap();
    }
    assert!(log.files().0 > 1);
    drop(log);
    let log = open(dir.path());
    assert_eq!((log.load(1).unwrap().truncated, log.load(1).unwrap().last_index), ((12, 2), 12));
    append(&log, 1, &entries(13..14, 3)).unwrap();
    drop(log);
    assert_eq!(terms(&open(dir.path()), 1), [(13, 3)]);
}

/// A flipped bit anywhere: the log does not open, or holds everything.
#[test]
fn damage_is_told_from_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir.path().join("log"));
    let written = entries(1..31, 1);
    written.iter().for_each(|entry| append(&log, 1, std::slice::from_ref(entry)).unwrap());
    let file = files(&dir.path().join("log")).pop().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let image = dir.path().join("image");
    let (mut refused, mut whole) = (0, 0);
    for at in (0..30).chain(4_090..4_130).chain(8_192..bytes.len()) {
        let _ = std::fs::remove_dir_all(&image);
        std::fs::create_dir(&image).unwrap();
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        std::fs::write(image.join(file.file_name().unwrap()), damaged).unwrap();
        match try_open(&image) {
            Ok(log) => match log.load(1).unwrap().last_index {
                30 => whole += 1,
                other => panic!("byte {at}: the log ends at {other}"),
            },
            Err(Error::Folder { reason, .. }) => {
                assert!(reason.contains("damaged at byte"), "{reason}");
                refused += 1;
            }
            Err(other) => panic!("byte {at}: {other}"),
        }
        if let Ok(log) = try_open(&image) {
            let last = log.load(1).unwrap().last_index;
            assert_eq!(log.entries(1, 1, last + 1, u64::MAX).unwrap(), written[..last as usize]);
        }
    }
    assert!(refused > 1_000 && whole >= 60, "{refused} {whole}");
}

#[test]
fn a_missing_or_damaged_older_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir.path().join("log"));
    let mut held = entries(1..31, 1);
    held.iter_mut().for_each(|entry| entry.data = vec![7; 9_000].into());
    held.iter().for_each(|entry| append(&log, 1, std::slice::from_ref(entry)).unwrap());
    assert!(log.files().0 > 3);
    let oldest = dir.path().join("log").join("000000.seg");
    let bytes = std::fs::read(&oldest).unwrap();
    let mut flipped = bytes.clone();
    flipped[20_000] ^= 1;
    let name = oldest.file_name().unwrap();
    for (content, says) in [(Some(flipped), "damaged"), (Some(bytes[..30_000].to_vec()), "damaged"), (None, "missing")]
    {
        let image = dir.path().join("image");
        super::state::copy_files(&dir.path().join("log"), &image);
        match content {
            Some(content) => std::fs::write(image.join(name), content).unwrap(),
            None => std::fs::remove_file(image.join(name)).unwrap(),
        }
        let Err(Error::Folder { reason, .. }) = try_open(&image) else { panic!("{says} is not noticed") };
        assert!(reason.contains(says), "{reason}");
        std::fs::remove_dir_all(&image).unwrap();
    }
    // Damage while it is open is found by the reader.
    let mut flipped = bytes;
    flipped[20_000] ^= 1;
    std::fs::write(&oldest, flipped).unwrap();
    let damaged = (1..31).filter(|&index| {
        let error = log.entries(1, index, index + 1, 0).err();
        assert!(matches!(error, None | Some(Error::Damaged { shard: 1, .. })), "{error:?}");
        error.is_some()
    });
    assert_eq!(damaged.count(), 1);
}

#[test]
fn many_entries_that_stay_do_not_keep_all_files() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    // One shard of ten is never cut: a segment soon holds more of it than is copied at a time.
    let mut most = 0;
    for index in 1..=1_500 {
        for shard in 1..=10 {
            let mut added = entries(index..index + 1, 1);
            added[0].data = vec![7; 600].into();
            append(&log, shard, &added).unwrap();
        }
        (2..=10).for_each(|shard| log.truncate_prefix(shard, index, 1).unwrap());
        most = most.max(log.files().0);
    }
    let needed = 1_500 * 650 / SEGMENT;
    assert!(most <= 5 * needed, "{most} files for the bytes of {needed}");
    drop(log);
    assert_eq!(terms(&open(dir.path()), 1).len(), 1_500);
}

#[test]
fn a_file_whose_head_is_damaged_is_not_taken_for_a_free_one() {
    let dir = tempfile::tempdir().unwrap();
    append(&open(dir.path()), 1, &entries(1..4, 1)).unwrap();
    let file = files(dir.path()).pop().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let mut damaged = bytes.clone();
    damaged[..8_192].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(&file, damaged).unwrap();
    assert!(matches!(try_open(dir.path()), Err(Error::Folder { .. })));
    std::fs::write(&file, bytes).unwrap();
    // One that was made and never begun is free; other files are nobody's.
    std::fs::write(dir.path().join("000007.seg"), vec![0; 100]).unwrap();
    std::fs::write(dir.path().join("9.seg"), b"what is this").unwrap();
    std::fs::write(dir.path().join("4294967295.seg"), b"or this").unwrap();
    let log = open(dir.path());
    assert_eq!((log.load(1).unwrap().last_index, log.files()), (3, (1, 1)));
}

#[test]
fn a_removed_shard_that_is_made_anew_has_nothing_of_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let mut large = entries(1..2, 1);
    large[0].data = vec![1; SEGMENT / 2].into();
    append(&log, 2, &large).unwrap();
    append(&log, 1, &entries(1..9, 1)).unwrap();
    log.truncate_prefix(1, 5, 1).unwrap();
    log.remove(1).unwrap();
    drop(log);
    // The first batch of the segment that begins now is its first append.
    append(&open(dir.path()), 1, &entries(1..2, 7)).unwrap();
    assert_eq!(terms(&open(dir.path()), 1), [(1, 7)]);
}

#[test]
fn a_batch_larger_than_a_segment_is_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1, &entries(1..2, 1)).unwrap();
    let mut large = entries(2..5, 1);
    large.iter_mut().for_each(|entry| entry.data = vec![3; SEGMENT].into());
    append(&log, 1, &large).unwrap();
    append(&log, 1, &entries(5..6, 1)).unwrap();
    drop(log);
    assert_eq!(open(dir.path()).entries(1, 2, 5, u64::MAX).unwrap(), large);
}

#[test]
fn a_write_that_fails_is_fatal() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1, &entries(1..2, 1)).unwrap();
    log.break_disk();
    assert!(append(&log, 1, &entries(2..3, 1)).unwrap_err().is_fatal());
    assert_eq!(log.load(1).unwrap().last_index, 1);
}
