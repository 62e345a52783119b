use super::{Disk, Level, Limits};
use crate::error::Error;
use crate::store::Relief;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

const MIB: u64 = 1 << 20;

fn open(folder: &Path, low: u64) -> Disk {
    Disk::open(7, folder, Limits { low, reserve: MIB }, 3_000, 0).unwrap()
}

fn has_reserve(folder: &Path) -> bool {
    folder.join("RESERVE").exists()
}

#[test]
fn a_full_disk_gives_up_its_reserve_and_takes_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path(), MIB);
    assert!(disk.level() == Level::Enough && has_reserve(dir.path()) && !disk.is_unwilling());
    assert_eq!(disk.refusal(), None);
    // As the log does when a write finds no space.
    assert!(disk.disk_is_full(1), "the reserve makes room");
    assert!(disk.level() == Level::Full && disk.is_unwilling() && !has_reserve(dir.path()));
    let refusal = disk.refusal().unwrap();
    assert!(refusal.contains("node 7 is full") && refusal.contains("2 MiB at least"), "{refusal}");
    disk.check_space();
    assert!(disk.level() == Level::Enough && has_reserve(dir.path()) && !disk.is_unwilling());
}

#[test]
fn a_low_disk_keeps_its_reserve() {
    let dir = tempfile::tempdir().unwrap();
    // More than any disk has free.
    let disk = open(dir.path(), 1 << 60);
    assert!(disk.level() == Level::Low && has_reserve(dir.path()) && disk.is_unwilling());
    assert!(disk.refusal().unwrap().contains("node 7 is nearly full"));
    disk.check_space();
    assert_eq!(disk.level(), Level::Low);
    // Without space for the reserve as well, it stays full.
    disk.found_full();
    disk.check_space();
    assert!(disk.level() == Level::Full && !has_reserve(dir.path()));
    drop(disk);
    assert_eq!(open(dir.path(), 1 << 60).level(), Level::Low);
}

#[test]
fn without_room_to_start_the_node_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), MIB));
    let limits = Limits { low: MIB, reserve: MIB };
    let refused = Disk::open(7, dir.path(), limits, 3_000, 1 << 60).err().unwrap();
    assert!(matches!(&refused, Error::Folder { reason, .. } if reason.contains("free some, then start it again")));
    assert!(!has_reserve(dir.path()), "it was given up for the start");
}

#[test]
fn what_finds_no_space_is_done_again_until_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path(), MIB);
    let tries = AtomicU32::new(0);
    let full = || Error::NoSpace { what: "flushing", reason: "No space left on device".into() };
    let done = disk.while_full(|| match tries.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => Err(full()),
        _ => Ok(5),
    });
    assert_eq!((done.unwrap(), tries.load(Ordering::Relaxed)), (5, 3));
    assert!(disk.while_full(|| Err::<(), _>(Error::fatal("flushing", "EIO"))).unwrap_err().is_fatal());
    disk.stop();
    assert!(disk.while_full(|| Err::<(), _>(full())).unwrap_err().is_no_space(), "a node that stops does not wait");
    disk.found_full();
    assert!(!disk.disk_is_full(9));
}

#[test]
fn a_disk_that_hangs_is_told_and_forgiven() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path(), MIB);
    disk.pulse.begin(10_000);
    assert!(disk.check_pulse(12_999) && !disk.is_stuck());
    assert!(disk.check_pulse(13_000) && disk.is_stuck() && disk.is_unwilling());
    assert!(!disk.must_not_lead(15_999) && disk.must_not_lead(16_000));
    assert!(disk.refusal().is_none(), "others lead, and take submissions");
    assert!(!disk.check_pulse(70_000));
    disk.pulse.end();
    assert!(disk.check_pulse(70_001) && !disk.is_stuck() && !disk.must_not_lead(80_000));
    // Waiting for space is no hanging.
    disk.pulse.begin(80_000);
    disk.found_full();
    disk.stop();
    disk.disk_is_full(1);
    assert!(disk.check_pulse(200_000) && !disk.is_stuck());
}
