use super::{Salvage, write_down};
use crate::config::Config;
use crate::error::Error;
use crate::offline::tests::{ENTRIES, folder, plant};
use crate::open::peer_of;
use crate::store::{LogOptions, RaftLog, SegmentLog, SharedOptions, SharedRocks, log_dir, replica_dir};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a start makes of the replica of shard 1: its applied index; `None`: it was set aside.
fn start(data: &Path) -> Result<(Option<u64>, Vec<u16>), Error> {
    let config = Config { node: 1, cluster: "grid".into(), ..Config::default() };
    let shared = SharedRocks::new(&SharedOptions::default())?;
    let log = Arc::new(SegmentLog::open(&log_dir(data), &LogOptions::default())?);
    let mut salvage = Salvage::new(&config, data, &shared, &log)?;
    let opened = salvage.open(1, peer_of(1), None)?;
    let applied = opened.map(|(store, _group)| store.applied().map_or(0, |(applied, _)| applied.index));
    Ok((applied, if applied.is_none() { vec![1] } else { vec![] }))
}

fn node() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = folder(dir.path(), 1, ENTRIES);
    (dir, path)
}

fn files(data: &Path) -> Vec<PathBuf> {
    let dir = replica_dir(data, 1, peer_of(1));
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = {
            let e = entry.unwrap();
            (e.path(), to.join(e.file_name()))
        };
        if path.is_dir() { copy(&path, &to) } else { assert!(fs::copy(&path, &to).is_ok()) }
    }
}

fn aside(data: &Path) -> usize {
    let names = fs::read_dir(data.join("shards")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("damaged-1-")).count()
}

#[test]
fn a_damaged_replica_is_set_aside_and_never_opened_again() {
    let (_dir, data) = node();
    assert_eq!(start(&data).unwrap(), (Some(ENTRIES), vec![]));
    plant(&data, 1, |batch| batch.put_job(3, b"nonsense"));
    assert_eq!(start(&data).unwrap(), (None, vec![1]));
    assert!(!replica_dir(&data, 1, peer_of(1)).exists() && aside(&data) == 1);
    assert_eq!(start(&data).unwrap(), (None, vec![1]));
    // Not even if its folder comes back.
    let healthy = tempfile::tempdir().unwrap();
    let other = folder(healthy.path(), 1, ENTRIES);
    copy(&replica_dir(&other, 1, peer_of(1)), &replica_dir(&data, 1, peer_of(1)));
    assert_eq!(start(&data).unwrap(), (None, vec![1]));
    assert_eq!(aside(&data), 2);
}

#[test]
fn a_flipped_bit_in_any_file_loses_no_applied_entry_silently() {
    let (dir, data) = node();
    let (mut whole, mut set_aside) = (0, 0);
    for (number, file) in files(&data).into_iter().enumerate() {
        let bytes = fs::read(&file).unwrap();
        for at in (0..bytes.len()).step_by(bytes.len().div_ceil(16).max(1)) {
            let image = dir.path().join(format!("image-{number}-{at}"));
            copy(&data, &image);
            let mut bad = bytes.clone();
            bad[at] ^= 0x08;
            fs::write(image.join(file.strip_prefix(&data).unwrap()), bad).unwrap();
            match start(&image) {
                Ok((Some(applied), _)) => {
                    assert_eq!(applied, ENTRIES, "byte {at} of {}", file.display());
                    whole += 1;
                }
                Ok((None, missing)) => {
                    assert_eq!((missing, aside(&image)), (vec![1], 1));
                    set_aside += 1;
                }
                Err(error) => {
                    assert!(matches!(error, Error::Folder { .. }), "byte {at} of {}: {error}", file.display())
                }
            }
            fs::remove_dir_all(&image).unwrap();
        }
    }
    assert!(whole > 0 && set_aside > 10, "{whole} {set_aside}");
}

#[test]
fn a_state_behind_the_cut_of_its_log_is_set_aside() {
    let (dir, data) = node();
    let earlier = folder(&dir.path().join("earlier"), 1, 10);
    let log = SegmentLog::open(&log_dir(&data), &LogOptions::default()).unwrap();
    log.truncate_prefix(1, 20, 3).unwrap();
    log.append(&[]).unwrap();
    drop(log);
    let place = replica_dir(&data, 1, peer_of(1));
    fs::remove_dir_all(&place).unwrap();
    copy(&replica_dir(&earlier, 1, peer_of(1)), &place);
    assert_eq!(start(&data).unwrap(), (None, vec![1]));
}

#[test]
fn a_log_behind_its_state_keeps_the_node_from_starting() {
    let (dir, data) = node();
    let earlier = folder(&dir.path().join("earlier"), 1, 10);
    let mut segments: Vec<_> = fs::read_dir(log_dir(&earlier)).unwrap().map(|e| e.unwrap().path()).collect();
    segments.sort();
    let last = segments.pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    fs::remove_dir_all(log_dir(&data)).unwrap();
    copy(&log_dir(&earlier), &log_dir(&data));
    fs::write(log_dir(&data).join(last.file_name().unwrap()), &bytes[..bytes.len() - 60]).unwrap();
    let error = start(&data).unwrap_err().to_string();
    assert!(error.contains("the log ends at 59") && error.contains("under a new number"), "{error}");
    assert_eq!(aside(&data), 0);
}

#[test]
fn damage_found_while_it_runs_is_written_down() {
    let (_dir, data) = node();
    write_down(&data, 1, &Error::damaged(1, "log entry", 3, "its own"));
    assert_eq!(start(&data).unwrap().0, Some(ENTRIES));
    write_down(&data, 1, &Error::damaged(1, super::STATE_STORE, 0, "a block"));
    assert_eq!(start(&data).unwrap(), (None, vec![1]));
    assert_eq!(aside(&data), 1);
    let list = data.join("DAMAGED");
    let mut bytes = fs::read(&list).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&list, bytes).unwrap();
    let error = start(&data).unwrap_err().to_string();
    assert!(error.contains("DAMAGED is damaged"), "{error}");
}
