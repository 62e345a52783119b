//! What arrives as a copy is believed as little as anything else.

use super::receiver::Receiver;
use super::{ChunkHead, Done, Offer};
use crate::open;
use crate::store::log::{LogOptions, RaftLog, SegmentLog, ShardAppend};
use crate::store::state::{Applied, StateStore};
use crate::store::{self, SharedOptions, SharedRocks};
use moso_proto::Code;
use moso_shard::{ConfState, HardState};
use std::path::Path;
use std::sync::Arc;

const SHARD: u16 = 3;
const PEER: u64 = 7 << 32 | 2;

fn shared() -> Arc<SharedRocks> {
    Arc::new(SharedRocks::new(&SharedOptions::default()).unwrap())
}

fn receiver(data: &Path) -> Receiver {
    Receiver::new(data.to_owned(), Vec::new(), shared())
}

fn offer(id: u128, files: &[(&str, u64)]) -> Offer {
    let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect();
    Offer { id, to: PEER, index: 9, term: 2, members: [vec![PEER], vec![], vec![], vec![]], auto_leave: false, files }
}

fn head(id: u128, file: u32, at: u64) -> ChunkHead {
    ChunkHead { id, file, at }
}

#[test]
fn a_copy_is_resumed_where_its_files_end() {
    let data = tempfile::tempdir().unwrap();
    let receiver = receiver(data.path());
    let copy = offer(1, &[("a", 4), ("b", 2)]);
    assert_eq!(receiver.offer(SHARD, PEER, copy.clone()).unwrap(), [0, 0]);
    receiver.chunk(SHARD, head(1, 0, 0), b"abc").unwrap();
    assert_eq!(receiver.offer(SHARD, PEER, copy).unwrap(), [3, 0]);
    assert_eq!(receiver.chunk(SHARD, head(1, 0, 0), b"abc").unwrap_err().code, Code::Busy, "it is here already");
    receiver.chunk(SHARD, head(1, 0, 3), b"d").unwrap();
    let part = store::copy_dir(data.path(), SHARD, PEER, 9).with_extension("9.part");
    assert_eq!(std::fs::read(part.join("a")).unwrap(), b"abcd");
}

#[test]
fn what_was_not_offered_is_not_written() {
    let data = tempfile::tempdir().unwrap();
    let receiver = receiver(data.path());
    assert_eq!(receiver.chunk(SHARD, head(1, 0, 0), b"x").unwrap_err().code, Code::Busy, "nothing was offered");
    receiver.offer(SHARD, PEER, offer(1, &[("a", 4)])).unwrap();
    assert_eq!(receiver.chunk(SHARD, head(2, 0, 0), b"x").unwrap_err().code, Code::Busy, "another copy");
    assert_eq!(receiver.chunk(SHARD, head(1, 1, 0), b"x").unwrap_err().code, Code::Invalid, "no such file");
    assert_eq!(receiver.chunk(SHARD, head(1, 0, 0), b"abcde").unwrap_err().code, Code::Invalid, "too long");
    let elsewhere = receiver.offer(SHARD, PEER + 1, offer(2, &[]));
    assert_eq!(elsewhere.unwrap_err().code, Code::NotLeader, "another replica");
    assert_eq!(receiver.offer(SHARD, PEER, offer(3, &[("../a", 1)])).unwrap_err().code, Code::Invalid);
    assert_eq!(receiver.offer(SHARD, PEER, offer(3, &[("b", 1)])).unwrap_err().code, Code::Busy, "one at a time");
}

#[test]
fn few_copies_arrive_at_a_time() {
    let data = tempfile::tempdir().unwrap();
    let receiver = receiver(data.path());
    for shard in 1..=super::COPIES_MAX as u16 {
        receiver.offer(shard, PEER, offer(shard.into(), &[("a", 4)])).unwrap();
    }
    assert_eq!(receiver.offer(9, PEER, offer(9, &[("a", 4)])).unwrap_err().code, Code::Busy);
}

#[test]
fn a_copy_that_is_not_whole_is_refused_and_removed() {
    for (sent, checksum) in [(&b"abc"[..], crc32c::crc32c(b"abcd")), (b"abcd", 0), (b"abcd", crc32c::crc32c(b"abcd"))] {
        let data = tempfile::tempdir().unwrap();
        let receiver = receiver(data.path());
        receiver.offer(SHARD, PEER, offer(1, &[("a", 4)])).unwrap();
        receiver.chunk(SHARD, head(1, 0, 0), sent).unwrap();
        // The last one is whole, but no state.
        receiver.done(SHARD, &Done { id: 1, checksums: vec![checksum] }).unwrap_err();
        assert_eq!(std::fs::read_dir(data.path().join("shards")).unwrap().count(), 0, "{sent:?}");
    }
}

fn state_at(dir: &Path, index: u64, shared: &SharedRocks) {
    let store = StateStore::open(dir, SHARD, shared).unwrap();
    let members = ConfState { voters: vec![PEER], ..ConfState::default() };
    store.commit(store.writer(), Applied { index, term: 1 }, Some(&members)).unwrap();
    store.flush().unwrap();
}

/// A crash in the middle of a swap leaves two folders; the log says which one counts.
#[test]
fn the_log_says_which_folder_counts() {
    for (restarted, expected) in [(false, 5), (true, 20)] {
        let data = tempfile::tempdir().unwrap();
        let shared = shared();
        let log = SegmentLog::open(&store::log_dir(data.path()), &LogOptions::default()).unwrap();
        state_at(&store::replica_dir(data.path(), SHARD, PEER), 5, &shared);
        state_at(&store::copy_dir(data.path(), SHARD, PEER, 20), 20, &shared);
        log.truncate_prefix(SHARD, 3, 1).unwrap();
        let hard_state = HardState { term: 1, commit: 5, ..HardState::default() };
        let restart = restarted.then_some((20, 1));
        let append = ShardAppend { shard: SHARD, hard_state: Some(&hard_state), restart, ..ShardAppend::default() };
        log.append(&[append]).unwrap();
        drop(log);
        let log = SegmentLog::open(&store::log_dir(data.path()), &LogOptions::default()).unwrap();
        let opened = open::open_store(data.path(), SHARD, PEER, &log, &shared).unwrap();
        assert_eq!(opened.applied().unwrap().0.index, expected);
        drop(opened);
        let left = open::replicas_on_disk(data.path()).unwrap();
        assert_eq!(left[&(SHARD, PEER)].len(), 1, "the other one is removed");
    }
}

#[test]
fn a_state_that_ends_before_the_log_begins_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let shared = shared();
    let log = SegmentLog::open(&store::log_dir(data.path()), &LogOptions::default()).unwrap();
    state_at(&store::replica_dir(data.path(), SHARD, PEER), 5, &shared);
    log.truncate_prefix(SHARD, 8, 1).unwrap();
    let hard_state = HardState { term: 1, ..HardState::default() };
    log.append(&[ShardAppend { shard: SHARD, hard_state: Some(&hard_state), ..ShardAppend::default() }]).unwrap();
    let error = open::open_store(data.path(), SHARD, PEER, &log, &shared).err().unwrap();
    assert!(error.to_string().contains("cut at 8"), "{error}");
}

#[test]
fn a_destroyed_replica_is_never_opened_again() {
    let data = tempfile::tempdir().unwrap();
    let shared = shared();
    let log = SegmentLog::open(&store::log_dir(data.path()), &LogOptions::default()).unwrap();
    let dir = store::replica_dir(data.path(), SHARD, PEER);
    state_at(&dir, 5, &shared);
    state_at(&store::copy_dir(data.path(), SHARD, PEER, 20), 20, &shared);
    let hard_state = HardState { term: 4, ..HardState::default() };
    log.append(&[ShardAppend { shard: SHARD, hard_state: Some(&hard_state), ..ShardAppend::default() }]).unwrap();
    // The node ended right after the folder was renamed.
    std::fs::rename(&dir, dir.with_file_name(format!("{SHARD}-{PEER}.{}", crate::resident::GONE))).unwrap();
    crate::resident::finish_destroying(data.path(), &log).unwrap();
    assert!(open::replicas_on_disk(data.path()).unwrap().is_empty());
    assert_eq!(log.load(SHARD).unwrap().hard_state, HardState::default());
    assert_eq!(std::fs::read_dir(data.path().join("shards")).unwrap().count(), 0);
}
