//! Folders as nodes leave them, whole and with planted damage.

mod dump;
mod planted;

use crate::group::{META_RECORD, put};
use crate::offline::{Finding, verify};
use crate::open::peer_of;
use crate::store::{
    Applied, DataFolder, LogOptions, RaftLog, SegmentLog, ShardAppend, SharedOptions, SharedRocks, StateStore, log_dir,
    replica_dir,
};
use moso_proto::ShardId;
use moso_queue::command::{Command, EntryBuilder, JobResult, Outcome, Submit, SubmitJob};
use moso_queue::{ClassKey, Effects, Machine, Unwritten};
use moso_shard::{ConfState, Position};
use raft::eraftpb::{Entry, HardState};
use std::path::{Path, PathBuf};

/// A day in 2026, ms.
const NOW_MS: u64 = 1_770_000_000_000;
const SHARD: u16 = 1;
/// Entries of the log.
pub const ENTRIES: u64 = 60;
/// The last entry that the log's hard state knows to be committed.
const TERM: u64 = 3;

/// The command of the entry at `index`: every third submits two jobs, the next leases them, the next ends the first.
fn command(index: u64) -> Command {
    let first = (index - 1) / 3 * 3 + 2;
    let session = 77;
    match index % 3 {
        1 => {
            let mut submission = [index as u8; 16];
            submission[..6].copy_from_slice(&NOW_MS.to_be_bytes()[2..]);
            let job = |n: u8| SubmitJob { body: vec![n; 400].into(), ..SubmitJob::default() };
            let class = ClassKey { queue: 1, share: 1, owner: "ann".into(), cores: 1, ..ClassKey::default() };
            Command::Submit(Box::new(Submit {
                submission,
                name: "a task".into(),
                class,
                jobs: vec![job(1), job(2)],
                ..Submit::default()
            }))
        }
        2 => Command::Lease {
            session,
            worker: "wn1".into(),
            ttl_ms: 60_000,
            request: index as u32,
            jobs: vec![first, first + 1],
        },
        _ => Command::Results {
            session,
            results: vec![JobResult { seq: first, attempt: 1, outcome: Outcome::Finished, report: None }],
        },
    }
}

fn entries() -> Vec<Entry> {
    let entry = |index| {
        let mut builder = EntryBuilder::default();
        builder.push_command(&command(index));
        Entry { term: TERM, index, data: builder.finish(NOW_MS + index), ..Entry::default() }
    };
    (1..=ENTRIES).map(entry).collect()
}

/// A node's folder whose shard 1 has applied the log up to `applied`.
pub fn folder(dir: &Path, node: u32, applied: u64) -> PathBuf {
    let path = dir.join(format!("node-{node}"));
    let _folder = DataFolder::open(&path, "grid", node).unwrap();
    let log = SegmentLog::open(&log_dir(&path), &LogOptions { segment_bytes: 16 << 10 }).unwrap();
    let hard_state = HardState { term: TERM, vote: peer_of(1), commit: ENTRIES, ..HardState::default() };
    for entry in entries() {
        let append = ShardAppend {
            shard: SHARD,
            entries: std::slice::from_ref(&entry),
            hard_state: Some(&hard_state),
            ..ShardAppend::default()
        };
        log.append(&[append]).unwrap();
    }
    log.close().unwrap();
    let store = store(&path, node);
    let mut machine = Machine::new(ShardId(SHARD));
    let mut unwritten = Unwritten::new(&machine);
    for entry in entries().into_iter().take(applied as usize) {
        let (mut effects, mut replies) = (Effects::default(), Vec::new());
        machine.apply(entry.data, &mut effects, &mut replies).unwrap();
        unwritten.take(&mut effects);
    }
    let position = Position { index: applied, term: TERM };
    let mut batch = store.writer();
    unwritten.records(&machine, |record| put(&mut batch, record, position));
    batch.put_meta(META_RECORD, &machine.meta_record().encode());
    let conf = ConfState { voters: (1..=3).map(peer_of).collect(), ..ConfState::default() };
    store.commit(batch, Applied { index: applied, term: TERM }, Some(&conf)).unwrap();
    store.flush().unwrap();
    path
}

/// The store of the folder's replica, for planting damage.
pub fn store(path: &Path, node: u32) -> StateStore {
    let shared = SharedRocks::new(&SharedOptions::default()).unwrap();
    StateStore::open(&replica_dir(path, SHARD, peer_of(node)), SHARD, &shared).unwrap()
}

/// Changes the state behind the log's back.
pub fn plant(path: &Path, node: u32, change: impl FnOnce(&mut crate::store::StateBatch<'_>)) {
    let store = store(path, node);
    let mut batch = store.writer();
    change(&mut batch);
    let (applied, _) = store.applied().unwrap();
    store.commit(batch, applied, None).unwrap();
    store.flush().unwrap();
}

/// What is found, and what was printed.
pub fn verified(folders: &[PathBuf]) -> (Vec<Finding>, String) {
    let mut out = Vec::new();
    let findings = verify::findings(folders, &mut out).unwrap();
    (findings, String::from_utf8(out).unwrap())
}
