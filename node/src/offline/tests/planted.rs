use super::{ENTRIES, folder, plant, store, verified};
use crate::offline::{Finding, Remedy};
use crate::open::peer_of;
use crate::store::{DataFolder, log_dir, replica_dir};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn node() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = folder(dir.path(), 1, ENTRIES);
    (dir, path)
}

/// All files below a folder with their content.
fn content(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(content(&path)) } else { drop(all.insert(path.clone(), fs::read(path).unwrap())) }
    }
    all
}

fn files(path: &Path, extension: &str) -> Vec<PathBuf> {
    content(path).into_keys().filter(|file| file.extension().is_some_and(|found| found == extension)).collect()
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

#[track_caller]
fn one(findings: &[Finding], place: &str, what: &str, remedy: Remedy) {
    let found = findings.iter().any(|f| f.place.contains(place) && f.what.contains(what) && f.remedy == remedy);
    assert!(found, "{place:?}, {what:?}, {remedy:?} is not among {findings:#?}");
}

#[test]
fn a_whole_folder_passes_and_is_not_changed() {
    let (_dir, path) = node();
    let before = content(&path);
    let (findings, printed) = verified(std::slice::from_ref(&path));
    assert!(findings.is_empty(), "{printed}");
    assert!(printed.contains("shard 1: replica"), "{printed}");
    assert!(printed.contains("applied 60 (term 3), log 1..61, 20 jobs live, 20 jobs archived, digest"), "{printed}");
    let after = content(&path);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert!(before == after, "a file was changed");
}

#[test]
fn a_flipped_bit_in_any_block_is_found() {
    let (_dir, path) = node();
    let mut looked_at = 0;
    for file in files(&path, "seg").into_iter().chain(files(&path, "sst")) {
        let good = fs::read(&file).unwrap();
        let head = if file.extension().is_some_and(|e| e == "seg") { 8_192 } else { 0 };
        // Behind the records of a table lie its filter and properties, without which it is as good.
        let end = if head == 0 { 100 } else { good.len() };
        for at in (head..end).step_by(end.div_ceil(12)) {
            // The zeros behind a write are nobody's.
            let at = at + good[at..].iter().position(|byte| *byte != 0).unwrap();
            flip(&file, at);
            let (findings, printed) = verified(std::slice::from_ref(&path));
            assert!(!findings.is_empty(), "byte {at} of {}: {printed}", file.display());
            let named = file.file_name().unwrap().to_str().unwrap();
            assert!(findings.iter().any(|f| f.to_string().contains(named)), "{named} is not named: {printed}");
            fs::write(&file, &good).unwrap();
            looked_at += 1;
        }
    }
    assert!(looked_at >= 24, "{looked_at}");
    assert!(verified(&[path]).0.is_empty());
}

#[test]
fn one_damaged_copy_of_a_head_is_told() {
    let (_dir, path) = node();
    flip(&files(&path, "seg")[0], 10);
    one(&verified(&[path]).0, "000000.seg at byte 0", "one of the two copies", Remedy::CheckDisk);
}

#[test]
fn a_log_that_lost_its_tail_is_told_from_an_incomplete_write() {
    let (_dir, path) = node();
    let last = files(&path, "seg").pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    // The mark of a stop in order, and a part of the write before it.
    fs::write(&last, &bytes[..bytes.len() - 60]).unwrap();
    let (findings, printed) = verified(std::slice::from_ref(&path));
    one(&findings, "shard 1, index 60", "the log ends at 59: its tail is lost", Remedy::ReplaceNode);
    assert!(printed.contains("an incomplete write, as a crash leaves it"), "{printed}");
    // Where the state had not applied it, and nobody knew it was committed, it is as a crash leaves it.
    let dir = tempfile::tempdir().unwrap();
    let path = folder(dir.path(), 1, ENTRIES - 5);
    let last = files(&path, "seg").pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    fs::write(&last, &bytes[..bytes.len() - 60]).unwrap();
    one(&verified(&[path]).0, "shard 1, index 59", "60 is committed", Remedy::ReplaceNode);
}

#[test]
fn bodies_are_held_against_jobs() {
    let (_dir, path) = node();
    plant(&path, 1, |batch| {
        batch.delete_body(3);
        batch.put_body(5, b"of an ended job");
    });
    let (findings, _) = verified(&[path]);
    one(&findings, "shard 1, job or task 3", "lives without its body", Remedy::ReplaceReplica(1));
    one(&findings, "shard 1, job or task 5", "has ended, but its body is there", Remedy::ReplaceReplica(1));
    assert_eq!(findings.len(), 2);
}

#[test]
fn the_archive_is_held_against_jobs_and_tasks() {
    let (_dir, path) = node();
    let mut record = None;
    store(&path, 1)
        .for_each_ended(|day, _, seq, bytes| {
            record.get_or_insert((day, seq, bytes.to_vec()));
            Ok(())
        })
        .unwrap();
    let (day, seq, bytes) = record.unwrap();
    plant(&path, 1, |batch| {
        batch.put_ended_job(day + 1, seq, &bytes);
        batch.put_ended_job(day, 3, &bytes);
        batch.put_ended_job(day, 5, b"nonsense");
    });
    one(&verified(std::slice::from_ref(&path)).0, "shard 1", "damaged", Remedy::ReplaceReplica(1));
    plant(&path, 1, |batch| batch.put_ended_job(day, 5, &bytes));
    let (findings, _) = verified(&[path]);
    let place = format!("job or task {seq}");
    one(&findings, &place, "two records", Remedy::ReplaceReplica(1));
    one(&findings, &place, "under a wrong day", Remedy::ReplaceReplica(1));
    one(&findings, "job or task 3", "lives, but is in the archive", Remedy::ReplaceReplica(1));
    one(&findings, "job or task 1", "without a record in the archive", Remedy::ReplaceReplica(1));
}

#[test]
fn a_state_that_contradicts_itself_is_found() {
    let (_dir, path) = node();
    plant(&path, 1, |batch| batch.delete_job(3));
    let (findings, _) = verified(std::slice::from_ref(&path));
    one(&findings, "shard 1", "counts", Remedy::ReplaceReplica(1));
    plant(&path, 1, |batch| batch.put_job(3, b"nonsense"));
    one(&verified(&[path]).0, "shard 1", "record 3 is damaged", Remedy::ReplaceReplica(1));
}

#[test]
fn replicas_are_compared_where_they_stand_and_where_their_logs_lead() {
    let dir = tempfile::tempdir().unwrap();
    let folders: Vec<PathBuf> = [(1, ENTRIES), (2, ENTRIES), (3, ENTRIES - 20)]
        .into_iter()
        .map(|(node, applied)| folder(dir.path(), node, applied))
        .collect();
    let (findings, printed) = verified(&folders);
    assert!(findings.is_empty(), "{printed}");
    assert!(printed.contains("shard 1: 3 replicas agree at applied index 60, term 3"), "{printed}");
    // A priority that differs breaks no invariant of one replica.
    let mut job = Vec::new();
    store(&folders[2], 3)
        .for_each_job(|seq, bytes| {
            if seq == 3 {
                job = bytes.to_vec();
            }
            Ok(())
        })
        .unwrap();
    let (mut decoded, worker) = moso_queue::Job::decode(3, job.into()).unwrap();
    decoded.priority += 1;
    let mut changed = Vec::new();
    decoded.encode(&worker, &mut changed);
    plant(&folders[2], 3, |batch| batch.put_job(3, &changed));
    assert!(verified(&folders[2..]).0.is_empty());
    let (findings, _) = verified(&folders);
    one(&findings, "shard 1, index 60, term 3", "replicas that applied the same entries differ", Remedy::Compare(1));
    assert_eq!(findings.len(), 1);
}

#[test]
fn a_folder_that_is_used_or_none_is_refused() {
    let (dir, path) = node();
    let running = DataFolder::open(&path, "grid", 1).unwrap();
    one(&verified(std::slice::from_ref(&path)).0, "folder", "a node runs on it", Remedy::AsSaid);
    drop(running);
    one(&verified(&[dir.path().to_owned()]).0, "folder", "holds no IDENTITY", Remedy::AsSaid);
    one(&verified(&[path.clone(), path.join(".")]).0, "folder", "given twice", Remedy::AsSaid);
    flip(&path.join("IDENTITY"), 40);
    one(&verified(&[path]).0, "identity", "damaged", Remedy::ReplaceNode);
}

#[test]
fn missing_parts_are_found() {
    let (_dir, path) = node();
    fs::remove_dir_all(replica_dir(&path, 1, peer_of(1))).unwrap();
    one(
        &verified(std::slice::from_ref(&path)).0,
        "shard 1",
        "its state's folder is missing",
        Remedy::ReplaceReplica(1),
    );
    fs::remove_dir_all(log_dir(&path)).unwrap();
    one(&verified(&[path]).0, "log", "missing", Remedy::ReplaceNode);
    let (_dir, path) = node();
    let sst = files(&path, "sst").remove(0);
    fs::remove_file(sst).unwrap();
    one(&verified(&[path]).0, "shard 1", "No such file", Remedy::ReplaceReplica(1));
}
