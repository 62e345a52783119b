//! RocksDB on a disk that is really full. Needs the right to mount a file system, else it is skipped.

use crate::store::{Applied, SharedOptions, SharedRocks, StateStore};
use raft::eraftpb::ConfState;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// RocksDB looks for space every 5 s.
const DEADLINE: Duration = Duration::from_secs(40);

/// A file system of its own, in memory, unmounted in the end.
struct Mount(PathBuf);

impl Mount {
    fn new(at: &Path, mib: usize) -> Option<Mount> {
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Mount(at.to_owned())),
            other => {
                eprintln!("skipped: a file system cannot be mounted here: {other:?}");
                None
            }
        }
    }

    /// Takes all space but so much.
    fn fill(&self, leave: usize) {
        let mut file = fs::File::create(self.0.join("ballast")).unwrap();
        let block = vec![1; MIB / 4];
        while file.write_all(&block).is_ok() {}
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(leave as u64)).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn write(store: &StateStore, index: u64) -> Result<(), crate::error::Error> {
    let mut batch = store.writer();
    let mut body = vec![0; 64 << 10];
    // So that it cannot be compressed.
    rand::fill(&mut body[..]);
    batch.put_body(index, &body);
    let conf = ConfState { voters: vec![1], ..ConfState::default() };
    store.commit(batch, Applied { index, term: 1 }, Some(&conf))
}

#[test]
fn a_state_that_finds_the_disk_full_is_whole_once_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(dir.path(), 64) else { return };
    let place = dir.path().join("state");
    let shared = SharedRocks::new(&SharedOptions::default()).unwrap();
    let store = StateStore::open(&place, 1, &shared).unwrap();
    (1..=20).for_each(|index| write(&store, index).unwrap());
    store.flush().unwrap();
    (21..=60).for_each(|index| write(&store, index).unwrap());
    mount.fill(MIB / 2);
    let error = store.flush().unwrap_err();
    assert!(error.is_no_space(), "{error}");
    // What is on disk did not move, and what is refused is said to be for want of space, not damage.
    assert_eq!(store.durable_applied().unwrap().map(|applied| applied.index), Some(20));
    let mut refused = 0;
    for _ in 0..5 {
        match write(&store, 61) {
            Ok(()) => {}
            Err(error) if error.is_no_space() => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    eprintln!("{refused} of 5 writes were refused");
    assert!(store.body(60).unwrap().is_some(), "memory still answers");
    mount.free();
    let started = Instant::now();
    loop {
        match write(&store, 62).and_then(|()| store.flush()) {
            Ok(()) => break,
            Err(error) if error.is_no_space() && started.elapsed() < DEADLINE => {
                std::thread::sleep(Duration::from_millis(200));
            }
            Err(error) => {
                let log = fs::read_to_string(place.join("LOG")).unwrap_or_default();
                panic!("{error}\n{log}");
            }
        }
    }
    assert_eq!(store.durable_applied().unwrap().map(|applied| applied.index), Some(62));
    drop(store);
    let store = StateStore::open(&place, 1, &shared).unwrap();
    assert!((1..=60).chain([62]).all(|index| store.body(index).unwrap().is_some_and(|body| body.len() == 64 << 10)));
    assert_eq!(store.applied().unwrap().0.index, 62);
    drop(store);
}
