//! A node's Raft log: what is on disk, and what is being written.

use super::event::Event;
use super::trace::Note;
use super::watch::{Check, Violation};
use super::{env::Env, network};
use crate::ensure_that;
use bytes::Bytes;
use moso_shard::{Append, Durable, Entry, FOUNDING, HardState, LogReader, Message, MessageType, Position, wire};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedMutRandom, IteratorRandom};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::sync::{Arc, Mutex};

/// A replica's log: shard, and replica id.
pub type Key = (u16, u64);

/// A replica's log on disk.
#[derive(Clone, Debug, Default)]
pub struct ShardLog {
    hard_state: HardState,
    entries: BTreeMap<u64, Bytes>,
    truncated: Position,
    /// Checksums of entries that were damaged, as they were written.
    sums: BTreeMap<u64, u64>,
    /// A cut that is written with the next append: until then a crash brings back what was cut off.
    cut: Option<Position>,
}

impl ShardLog {
    /// Index of the last entry; where the log was cut if there is none.
    pub fn last_index(&self) -> u64 {
        let last = self.entries.keys().next_back();
        last.copied().unwrap_or(0).max(self.truncated().index)
    }

    /// Flips a bit of an entry.
    pub fn spoil(&mut self, rng: &mut SmallRng) -> bool {
        let Some((&index, bytes)) = self.entries.iter_mut().choose(rng) else { return false };
        self.sums.entry(index).or_insert(sum(bytes));
        flip(bytes, rng);
        true
    }

    /// What is read is what was written.
    pub fn is_sound(&self) -> bool {
        self.sums.iter().all(|(index, written)| self.entries.get(index).is_none_or(|bytes| sum(bytes) == *written))
    }

    /// Index up to which the log itself says that it is committed.
    pub fn committed(&self) -> u64 {
        self.hard_state.commit
    }

    /// Nothing of what was cut off is left.
    pub fn is_tidy(&self) -> bool {
        self.cut.is_some() || self.entries.keys().next().is_none_or(|first| *first > self.truncated.index)
    }

    /// Where the log was cut.
    pub fn truncated(&self) -> Position {
        self.cut.unwrap_or(self.truncated)
    }

    /// The entry at `index`, read through the encoding used on disk.
    pub fn entry(&self, index: u64) -> Option<Entry> {
        let bytes = self.entries.get(&index).filter(|_| index > self.truncated().index)?.clone();
        Some(wire::decode_entry(index, bytes).expect("entries are read as they were written"))
    }

    /// Term, vote and commit index never go back; entries follow each other.
    fn write(&mut self, append: &Append) -> Check {
        if let Some(new) = &append.hard_state {
            let old = &self.hard_state;
            let voted_again = new.term == old.term && old.vote != 0 && new.vote != old.vote;
            if new.term < old.term || voted_again || new.commit < old.commit {
                return Violation::new("I12 hard state", format!("{old:?} became {new:?}"));
            }
            let mut bytes = Vec::new();
            wire::encode_hard_state(new, &mut bytes);
            self.hard_state = wire::decode_hard_state(&bytes).expect("just encoded");
        }
        if let Some(at) = append.restart {
            self.entries.clear();
            (self.truncated, self.cut) = (at, None);
        }
        if let Some(first) = append.entries.first() {
            let (from, last) = (self.truncated().index.max(FOUNDING.index), self.last_index().max(FOUNDING.index));
            ensure_that!(
                "the log has no gap",
                first.index > from && first.index <= last + 1,
                "entry {} is written to a log that was cut at {from} and ends at {last}",
                first.index
            );
            self.entries.split_off(&first.index);
        }
        for entry in &append.entries {
            let mut bytes = Vec::with_capacity(entry.data.len() + 64);
            wire::encode_entry(entry, &mut bytes);
            self.entries.insert(entry.index, bytes.into());
        }
        Ok(())
    }

    fn write_cut(&mut self) {
        if let Some(to) = self.cut.take() {
            self.entries = self.entries.split_off(&(to.index + 1));
            self.truncated = to;
        }
    }
}

/// Reads what is on disk, and nothing else: a replica may ask only for what was reported persisted.
struct Reader(Arc<Mutex<ShardLog>>);

impl LogReader for Reader {
    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let log = self.0.lock().expect("one thread");
        let mut bytes = 0;
        let mut entries = Vec::new();
        for index in low..high {
            let entry = log.entry(index).ok_or(io::ErrorKind::NotFound)?;
            bytes += entry.data.len() as u64;
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> io::Result<u64> {
        let log = self.0.lock().expect("one thread");
        let entry = log.entry(index).ok_or(io::ErrorKind::NotFound)?;
        Ok(entry.term)
    }
}

/// The disk of a node, as far as logs go. Survives crashes.
#[derive(Default)]
pub struct Disk {
    logs: BTreeMap<Key, Arc<Mutex<ShardLog>>>,
    /// A fault makes it slow: one write takes this long.
    pub slow_ms: Option<(u64, u64)>,
    /// The next sync fails.
    pub fails: bool,
}

impl Disk {
    fn log(&mut self, key: Key) -> &Arc<Mutex<ShardLog>> {
        self.logs.entry(key).or_default()
    }

    /// Calls `f` with a replica's log.
    pub fn with<R>(&mut self, key: Key, f: impl FnOnce(&ShardLog) -> R) -> R {
        f(&self.log(key).lock().expect("one thread"))
    }

    /// Flips a bit of an entry of a replica's log.
    pub fn spoil(&mut self, key: Key, rng: &mut SmallRng) -> bool {
        self.log(key).lock().expect("one thread").spoil(rng)
    }

    /// Reads a replica's log.
    pub fn reader(&mut self, key: Key) -> Box<dyn LogReader> {
        Box::new(Reader(self.log(key).clone()))
    }

    /// The term of an entry on disk.
    pub fn term(&self, key: Key, index: u64) -> Option<u64> {
        let log = self.logs.get(&key)?.lock().expect("one thread");
        log.entry(index).map(|entry| entry.term)
    }

    /// What a replica finds; its configuration and applied index lie in the state.
    pub fn durable(&mut self, key: Key) -> Durable {
        self.with(key, |log| Durable {
            hard_state: log.hard_state.clone(),
            truncated: log.truncated(),
            last_index: log.last_index(),
            ..Durable::default()
        })
    }

    /// Forgets a prefix of the log.
    pub fn truncate(&mut self, key: Key, to: Position) {
        self.log(key).lock().expect("one thread").cut = Some(to);
    }

    /// Forgets a replica's log.
    pub fn remove(&mut self, key: Key) {
        self.logs.remove(&key);
    }

    /// Forgets cuts that were not written.
    fn crash(&mut self) {
        self.logs.values().for_each(|log| log.lock().expect("one thread").cut = None);
    }

    fn write(&mut self, task: &LogTask) -> Check {
        let log = self.log(task.key).clone();
        log.lock().expect("one thread").write(&task.append)
    }

    fn write_cuts(&mut self) {
        self.logs.values().for_each(|log| log.lock().expect("one thread").write_cut());
    }

    /// Law 1: what a message promises is on disk when it leaves.
    pub fn check_promise(&mut self, key: Key, message: &Message) -> Check {
        use MessageType::*;
        let kind = message.get_msg_type();
        if matches!(kind, MsgRequestPreVote | MsgRequestPreVoteResponse) {
            return Ok(());
        }
        self.with(key, |log| {
            let state = &log.hard_state;
            let term = state.term >= message.term;
            let vote = kind != MsgRequestVoteResponse
                || message.reject
                || state.term > message.term
                || state.vote == message.to;
            // In a later term the entries may have been replaced in the same write, as if the message were slow.
            let entries = kind != MsgAppendResponse
                || message.reject
                || state.term > message.term
                || message.index <= log.last_index();
            if term && vote && entries {
                return Ok(());
            }
            let last = log.last_index();
            Violation::new(
                "L1 promise before sync",
                format!("shard {}: {message:?} leaves, but on disk are {state:?} and entries to {last}", key.0),
            )
        })
    }
}

/// A checksum, as the disk keeps it.
pub fn sum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Flips a bit.
pub fn flip(bytes: &mut Bytes, rng: &mut SmallRng) {
    let mut copy = bytes.to_vec();
    if let Some(byte) = copy.choose_mut(rng) {
        *byte ^= 1 << rng.random_range(0..8);
    }
    *bytes = copy.into();
}

/// An append of a replica.
pub struct LogTask {
    /// Whose.
    pub key: Key,
    /// What to write, and what may leave afterwards.
    pub append: Append,
}

/// The log writer of a node's process: one write at a time, for all shards.
#[derive(Default)]
pub struct LogWriter {
    waiting: VecDeque<LogTask>,
    writing: Vec<LogTask>,
}

impl LogWriter {
    /// Hands an append over.
    pub fn hand(&mut self, env: &mut Env, disk: &Disk, node: usize, incarnation: u32, task: LogTask) {
        self.waiting.push_back(task);
        if self.writing.is_empty() {
            self.start(env, disk, node, incarnation);
        }
    }

    fn start(&mut self, env: &mut Env, disk: &Disk, node: usize, incarnation: u32) {
        self.writing.extend(self.waiting.drain(..));
        if self.writing.is_empty() {
            return;
        }
        let span = env.plan.sync_ms;
        let must_sync = self.writing.iter().any(|task| task.append.must_sync());
        let delay_ms = match disk.slow_ms {
            _ if !must_sync => 0,
            _ if env.calm => env.within((0, 1)),
            Some(span) => env.within(span),
            None => env.within(span),
        };
        env.after(delay_ms, Event::Synced { node, incarnation });
    }

    /// The write has ended: what it holds is on disk, promises leave. Returns the numbers to report.
    pub fn synced(
        &mut self,
        env: &mut Env,
        disk: &mut Disk,
        node: usize,
        incarnation: u32,
    ) -> Result<Vec<(Key, u64)>, Violation> {
        let tasks = std::mem::take(&mut self.writing);
        env.note(Note::Synced { node, tasks: tasks.len() });
        for task in &tasks {
            disk.write(task)?;
        }
        disk.write_cuts();
        let mut persisted = Vec::new();
        for task in tasks {
            for message in &task.append.messages {
                disk.check_promise(task.key, message)?;
                let to = super::node_of(message.to);
                network::send(env, node, to, task.key.0, message)?;
            }
            persisted.push((task.key, task.append.number));
        }
        self.start(env, disk, node, incarnation);
        Ok(persisted)
    }

    /// Drops what is to be written for a replica that is removed.
    pub fn forget(&mut self, key: Key) {
        self.waiting.retain(|task| task.key != key);
        self.writing.retain(|task| task.key != key);
    }

    /// The process ends in the middle of a write: of what was not synced at least four fifths are lost, from the tail.
    /// What was not yet handed to the disk is lost entirely. Returns the writes that survived and those lost.
    pub fn crash(self, env: &mut Env, disk: &mut Disk) -> Result<(usize, usize), Violation> {
        let all = self.writing.len();
        let survive = if env.chance(0.3) {
            let most = all.div_ceil(5) as u64;
            env.within((0, most)) as usize
        } else {
            0
        };
        if survive > 0 && survive < all {
            env.cover.count("log writes torn");
        }
        for task in self.writing.iter().take(survive) {
            disk.write(task)?;
        }
        for task in self.writing.iter().skip(survive).chain(&self.waiting) {
            if task.append.restart.is_some() {
                env.cover.count("snapshots: restore lost in a crash");
            }
        }
        disk.crash();
        Ok((survive, all - survive + self.waiting.len()))
    }
}
