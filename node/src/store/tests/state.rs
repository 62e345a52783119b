use crate::error::Error;
use crate::store::keys;
use crate::store::state::{Applied, EndedJob, StateStore};
use crate::store::{SharedOptions, SharedRocks};
use bytes::Bytes;
use raft::eraftpb::ConfState;
use std::fs;
use std::path::Path;

const SHARD: u16 = 3;

fn shared() -> SharedRocks {
    SharedRocks::new(&SharedOptions { write_buffer_bytes: 1 << 20, ..SharedOptions::default() }).unwrap()
}

fn open(dir: &Path, shared: &SharedRocks) -> StateStore {
    StateStore::open(dir, SHARD, shared).unwrap()
}

fn at(index: u64) -> Applied {
    Applied { index, term: 1 }
}

fn conf(voters: &[u64]) -> ConfState {
    ConfState { voters: voters.to_vec(), ..ConfState::default() }
}

/// Copies a folder of files: what a crash leaves of an open database.
pub(super) fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match fs::copy(entry.path(), to.join(entry.file_name())) {
            // A file that RocksDB deleted in between: it was not needed any more.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
}

fn jobs(store: &StateStore) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    store
        .for_each_job(|seq, bytes| {
            found.push((seq, bytes.to_vec()));
            Ok(())
        })
        .unwrap();
    found
}

#[test]
fn records_of_each_kind_come_back_and_go() {
    let (dir, shared) = (tempfile::tempdir().unwrap(), shared());
    let store = open(&dir.path().join("3-1"), &shared);
    assert_eq!(store.applied(), None);
    let mut batch = store.writer();
    assert!(batch.is_empty());
    for seq in [1, 2, 1 << 39] {
        batch.put_job(seq, b"job");
        batch.put_body(seq, format!("body {seq}").as_bytes());
    }
    batch.put_task(9, b"task");
    batch.put_task(10, b"task");
    batch.put_class(5, b"class");
    batch.put_class(6, b"class");
    batch.put_meta(1, b"meta");
    for first in 0..5 {
        batch.put_dedup(&[first; 16], &[first]);
    }
    store.commit(batch, at(1), Some(&conf(&[1, 2, 3]))).unwrap();
    let mut batch = store.writer();
    batch.delete_job(2);
    batch.delete_body(2);
    batch.delete_task(9);
    batch.delete_class(5);
    batch.delete_dedup_below(&[2; 16]);
    store.commit(batch, at(2), None).unwrap();
    let mut batch = store.writer();
    batch.delete_dedup_below(&[1; 16]);
    batch.delete_dedup_below(&[3; 16]);
    store.commit(batch, at(3), None).unwrap();
    drop(store);

    let store = open(&dir.path().join("3-1"), &shared);
    assert_eq!(store.applied(), Some((at(3), conf(&[1, 2, 3]))));
    assert_eq!(jobs(&store), [(1, b"job".to_vec()), (1 << 39, b"job".to_vec())]);
    let (mut tasks, mut classes, mut submissions) = (vec![], vec![], vec![]);
    store
        .for_each_task(|seq, _| {
            tasks.push(seq);
            Ok(())
        })
        .unwrap();
    store
        .for_each_class(|id, _| {
            classes.push(id);
            Ok(())
        })
        .unwrap();
    store
        .for_each_dedup(|id, bytes| {
            submissions.push((id, bytes.to_vec()));
            Ok(())
        })
        .unwrap();
    assert_eq!((tasks, classes), (vec![10], vec![6]));
    assert_eq!(submissions, [([3; 16], vec![3]), ([4; 16], vec![4])]);
    assert_eq!(store.meta(1).unwrap(), Some(Bytes::from_static(b"meta")));
    assert_eq!(store.meta(2).unwrap(), None);
    assert_eq!(store.body(1).unwrap(), Some(Bytes::from_static(b"body 1")));
    let bodies = store.bodies(&[1 << 39, 2, 1]).unwrap();
    assert_eq!(bodies, [Some(format!("body {}", 1u64 << 39).into()), None, Some("body 1".into())]);
    assert!(matches!(store.bodies(&[0; 5_000]), Err(Error::Contract { .. })));
}

#[test]
fn a_walk_ends_with_the_first_error() {
    let (dir, shared) = (tempfile::tempdir().unwrap(), shared());
    let store = open(dir.path(), &shared);
    let mut batch = store.writer();
    (0..5).for_each(|seq| batch.put_job(seq, b""));
    store.commit(batch, at(1), Some(&conf(&[1]))).unwrap();
    let mut met = 0;
    let stop = |_: u64, _: &[u8]| {
        met += 1;
        Err(Error::damaged(SHARD, "job record", 0, "test"))
    };
    assert!(matches!(store.for_each_job(stop), Err(Error::Damaged { .. })));
    assert_eq!(met, 1);
}

#[test]
fn commits_do_not_go_back_and_begin_with_a_configuration() {
    let (dir, shared) = (tempfile::tempdir().unwrap(), shared());
    let store = open(dir.path(), &shared);
    assert!(matches!(store.commit(store.writer(), at(1), None), Err(Error::Contract { .. })));
    store.commit(store.writer(), at(5), Some(&conf(&[1]))).unwrap();
    assert!(matches!(store.commit(store.writer(), at(4), None), Err(Error::Contract { .. })));
    store.commit(store.writer(), at(6), Some(&conf(&[1, 2]))).unwrap();
    store.commit(store.writer(), at(7), None).unwrap();
    assert_eq!(store.applied(), Some((at(7), conf(&[1, 2]))));
}

#[test]
fn only_what_is_flushed_counts_as_durable() {
    let (dir, shared) = (tempfile::tempdir().unwrap(), shared());
    let store = open(dir.path(), &shared);
    assert_eq!(store.durable_applied().unwrap(), None);
    let mut batch = store.writer();
    batch.put_job(1, &[0; 1000]);
    batch.put_body(1, &[0; 100_000]);
    store.commit(batch, at(1), Some(&conf(&[1]))).unwrap();
    assert_eq!(store.durable_applied().unwrap(), None);
    let before = store.unflushed_bytes().unwrap();
    assert!(before > 100_000 && shared.memtable_bytes() > 100_000);
    store.flush().unwrap();
    assert!(store.unflushed_bytes().unwrap() < before);
    assert_eq!(store.durable_applied().unwrap(), Some(at(1)));
    store.commit(store.writer(), at(2), None).unwrap();
    assert_eq!(store.durable_applied().unwrap(), Some(at(1)));
    // A commit while the flush runs must not count.
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| store.flush());
        store.commit(store.writer(), at(3), None).unwrap();
        flush.join().unwrap().unwrap();
    });
    let durable = store.durable_applied().unwrap().unwrap();
    assert!(durable == at(2) || durable == at(3));
    store.flush().unwrap();
    assert_eq!(store.durable_applied().unwrap(), Some(at(3)));
}

/// Entry `index` stores job, body, archive and status rows in all column families, and replaces job 0.
fn apply(store: &StateStore, index: u64) {
    let mut batch = store.writer();
    batch.put_job(0, &index.to_be_bytes());
    batch.put_job(index, &[index as u8; 300]);
    batch.put_body(index, &vec![index as u8; 20 << 10]);
    batch.put_history(1, index, index, 0, b"row");
    batch.put_ended_job(1, index, b"ended");
    if index > 10 {
        batch.delete_job(index - 10);
    }
    store.commit(batch, at(index), (index == 1).then(|| conf(&[1])).as_ref()).unwrap();
}

/// The store holds what the entries up to its applied index make, nothing more and nothing less.
fn check_prefix(store: &StateStore) -> u64 {
    let applied = store.applied().map_or(0, |(applied, _)| applied.index);
    let expected: Vec<_> =
        (applied.saturating_sub(9).max(1)..=applied).map(|index| (index, vec![index as u8; 300])).collect();
    let mut found = jobs(store);
    if applied > 0 {
        assert_eq!(found.remove(0), (0, applied.to_be_bytes().to_vec()));
    }
    assert_eq!(found, expected);
    let ended: Vec<u64> = store.scan_ended_jobs(None, usize::MAX).unwrap().iter().map(|job| job.seq).collect();
    assert_eq!(ended, (1..=applied).collect::<Vec<_>>());
    for index in 1..=applied + 1 {
        assert_eq!(store.body(index).unwrap().is_some(), index <= applied, "body {index}");
        assert_eq!(store.history(index, 0..=9, 9).unwrap().len(), usize::from(index <= applied), "row {index}");
    }
    applied
}

#[test]
fn a_crash_image_is_a_prefix_that_knows_its_length() {
    let (dir, shared) = (tempfile::tempdir().unwrap(), shared());
    let live = dir.path().join("live");
    let store = open(&live, &shared);
    let mut durable = 0;
    for round in 0..8 {
        // 20 KiB bodies against memtables of 1 MiB: some rounds are flushed by RocksDB itself, in the background.
        for index in 1..=40 {
            apply(&store, round * 40 + index);
        }
        if round % 3 == 1 {
            store.flush().unwrap();
            assert_eq!(store.durable_applied().unwrap(), Some(at(round * 40 + 40)));
        }
        let at_least = store.durable_applied().unwrap().map_or(0, |applied| applied.index);
        let image = dir.path().join(format!("image-{round}"));
        // The manifest is copied after the tables it names only if no flush ends in between; then RocksDB refuses to open
        // the copy, as it is no image of one moment. Try again.
        let crashed = loop {
            let _ = fs::remove_dir_all(&image);
            copy_files(&live, &image);
            if let Ok(store) = StateStore::open(&image, SHARD, &shared) {
                break store;
            }
        };
        let found = check_prefix(&crashed);
        assert!(found >= at_least && found <= round * 40 + 40, "{found} of at least {at_least}");
        durable = durable.max(found);
    }
    assert!(durable >= 240, "the explicit flushes reach 320, RocksDB's own some more: {durable}");
    assert_eq!(check_prefix(&store), 320);
}

#[test]
fn the_archive_is_read_by_day_and_dropped_by_day() {
    let (dir, shared) = (tempfile::tempdir().unwrap(), shared());
    let store = open(dir.path(), &shared);
    let mut batch = store.writer();
    for day in [100, 101, 103, u16::MAX] {
        for seq in [1, 7] {
            batch.put_ended_job(day, u64::from(day) * 10 + seq, &day.to_be_bytes());
            batch.put_ended_task(day, u64::from(day) * 10 + seq + 1, b"task");
            for n in 0..3 {
                batch.put_history(day, seq, 50, n, b"row");
            }
        }
    }
    store.commit(batch, at(1), Some(&conf(&[1]))).unwrap();
    store.flush().unwrap();

    assert_eq!(store.ended_job(1011, 0..=u16::MAX).unwrap(), Some((101, Bytes::copy_from_slice(&[0, 101]))));
    assert_eq!(store.ended_job(1011, 102..=u16::MAX).unwrap(), None);
    assert_eq!(store.ended_job(1012, 0..=u16::MAX).unwrap(), None);
    assert_eq!(store.ended_task(1012, 101..=101).unwrap(), Some((101, Bytes::from_static(b"task"))));
    let rows = store.history(7, 101..=103, 100).unwrap();
    let places: Vec<_> = rows.iter().map(|row| (row.day, row.index, row.n)).collect();
    assert_eq!(places, [(101, 50, 0), (101, 50, 1), (101, 50, 2), (103, 50, 0), (103, 50, 1), (103, 50, 2)]);
    assert_eq!(store.history(7, 0..=u16::MAX, 4).unwrap().len(), 4);

    let mut walked = Vec::new();
    let mut after = None;
    loop {
        let page = store.scan_ended_jobs(after, 3).unwrap();
        let Some(EndedJob { day, seq, .. }) = page.last() else {
            break;
        };
        after = Some((*day, *seq));
        walked.extend(page.into_iter().map(|job| (job.day, job.seq)));
    }
    let max = u64::from(u16::MAX) * 10;
    let of = |day: u16| (day, u64::from(day) * 10);
    let expected: Vec<_> = [of(100), of(101), of(103), (u16::MAX, max)]
        .into_iter()
        .flat_map(|(day, base)| [(day, base + 1), (day, base + 7)])
        .collect();
    assert_eq!(walked, expected);

    store.drop_ended_before(103).unwrap();
    assert_eq!(store.scan_ended_jobs(None, 100).unwrap().first().map(|job| job.day), Some(103));
    assert_eq!(store.ended_job(1011, 0..=u16::MAX).unwrap(), None);
    assert_eq!(store.ended_task(1038, 0..=u16::MAX).unwrap().map(|(day, _)| day), Some(103));
    assert_eq!(store.history(7, 0..=u16::MAX, 100).unwrap().len(), 6);
}

#[test]
fn where_no_day_is_to_be_dropped_nothing_is_written() {
    let (dir, shared) = (tempfile::tempdir().unwrap(), shared());
    let store = open(dir.path(), &shared);
    for (index, day) in [(1, 103u16), (2, 104), (3, 105)] {
        let mut batch = store.writer();
        batch.put_ended_job(day, index, b"job");
        batch.put_history(day, index, index, 0, b"row");
        store.commit(batch, at(index), (index == 1).then(|| conf(&[1])).as_ref()).unwrap();
        store.drop_ended_before(103).unwrap();
        store.flush().unwrap();
    }
    drop(store);
    // A deletion would make its table begin at the first key.
    let first_days = || {
        let names = ["default", "hot", "body", "hist", "arch"];
        let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), dir.path(), names).unwrap();
        let mut files = db.live_files().unwrap();
        files.retain(|file| ["hist", "arch"].contains(&file.column_family_name.as_str()));
        files.iter().map(|file| file.start_key.as_ref().map(|key| [key[0], key[1]])).collect::<Vec<_>>()
    };
    let days = first_days();
    assert!(!days.is_empty() && days.iter().all(|day| *day >= Some(103u16.to_be_bytes())), "{days:?}");
    let store = open(dir.path(), &shared);
    store.drop_ended_before(105).unwrap();
    assert_eq!(store.scan_ended_jobs(None, 10).unwrap().iter().map(|job| job.day).collect::<Vec<_>>(), [105]);
    store.drop_ended_before(106).unwrap();
    assert!(store.scan_ended_jobs(None, 10).unwrap().is_empty());
}

#[test]
fn a_newer_format_and_damage_are_refused() {
    let (dir, shared) = (tempfile::tempdir().unwrap(), shared());
    let edit = |key: &[u8], value: Option<&[u8]>| {
        let names = ["default", "hot", "body", "hist", "arch"];
        let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), dir.path(), names).unwrap();
        let hot = db.cf_handle("hot").unwrap();
        match value {
            Some(value) => db.put_cf(hot, key, value).unwrap(),
            None => db.delete_cf(hot, key).unwrap(),
        }
    };
    let store = open(dir.path(), &shared);
    store.commit(store.writer(), at(1), Some(&conf(&[1]))).unwrap();
    drop(store);
    edit(&keys::FORMAT, Some(&2u32.to_be_bytes()));
    assert!(matches!(StateStore::open(dir.path(), SHARD, &shared), Err(Error::NewerFormat { found: 2, .. })));
    edit(&keys::FORMAT, None);
    assert!(matches!(StateStore::open(dir.path(), SHARD, &shared), Err(Error::Damaged { .. })));
    edit(&keys::FORMAT, Some(&1u32.to_be_bytes()));
    edit(&keys::CONF_STATE, Some(b"?"));
    assert!(matches!(StateStore::open(dir.path(), SHARD, &shared), Err(Error::Damaged { .. })));
    edit(&keys::CONF_STATE, None);
    assert!(matches!(StateStore::open(dir.path(), SHARD, &shared), Err(Error::Damaged { .. })));
}
