//! A shard replica's state store, with the semantics of a RocksDB whose write-ahead log is off: each batch is atomic
//! and carries its applied index, a flush makes an exact prefix of the batches durable, a crash goes back to the last
//! flush.

use super::log::{flip, sum};
use bytes::Bytes;
use moso_proto::ShardId;
use moso_queue::machine::MetaRecord;
use moso_queue::unwritten::Record;
use moso_queue::{Error, Machine, Unwritten};
use moso_shard::{ConfState, Position};
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Records of a shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    /// Live jobs.
    pub jobs: BTreeMap<u64, Bytes>,
    /// Live tasks.
    pub tasks: BTreeMap<u64, Bytes>,
    /// Classes.
    pub classes: BTreeMap<u32, Bytes>,
    /// Bodies of live jobs and arrays.
    pub bodies: BTreeMap<u64, Bytes>,
    /// Archive.
    pub ended_jobs: BTreeMap<u64, Bytes>,
    /// Archive.
    pub ended_tasks: BTreeMap<u64, Bytes>,
    /// Known submissions.
    pub known: BTreeMap<[u8; 16], [u8; 16]>,
    /// Rows of the status log: (job, index, row).
    pub changes: BTreeSet<(u64, u64, u32)>,
    /// Clock and counters.
    pub meta: Option<Bytes>,
    /// Newest entry in the records above.
    pub applied: Position,
    /// The group's members at that entry.
    pub members: ConfState,
    /// A record that was damaged: its job or task, and its checksum as it was written.
    damage: Option<(u64, u64)>,
}

enum Op {
    Job(u64, Option<Bytes>),
    Task(u64, Option<Bytes>),
    Class(u32, Option<Bytes>),
    Body(u64, Option<Bytes>),
    EndedJob(u64, Bytes),
    EndedTask(u64, Bytes),
    Known([u8; 16], [u8; 16]),
    KnownBelow([u8; 16]),
    Change(u64, u64, u32),
    Meta(Bytes),
}

struct Batch {
    ops: Vec<Op>,
    applied: Position,
    members: Option<ConfState>,
}

/// The state store of a shard replica: a folder. Survives crashes.
#[derive(Default)]
pub struct StateStore {
    durable: Records,
    batches: VecDeque<Batch>,
}

impl StateStore {
    /// A store that is the copy of another.
    pub fn of(copy: Records) -> StateStore {
        StateStore { durable: copy, batches: VecDeque::new() }
    }

    /// Writes what was applied, the applied index and a changed configuration as one batch.
    pub fn write(&mut self, machine: &Machine, unwritten: &Unwritten, applied: Position, members: Option<ConfState>) {
        let ops = ops(machine, unwritten, applied);
        self.batches.push_back(Batch { ops, applied, members });
    }

    /// Makes all batches up to this applied index durable; returns the durable applied index.
    pub fn flush(&mut self, upto: u64) -> u64 {
        let count = self.batches.partition_point(|batch| batch.applied.index <= upto);
        self.flush_oldest(count);
        self.durable.applied.index
    }

    /// Makes the oldest batches durable.
    pub fn flush_oldest(&mut self, count: usize) {
        for batch in self.batches.drain(..count) {
            batch.ops.into_iter().for_each(|op| self.durable.put(op));
            self.durable.applied = batch.applied;
            if let Some(members) = batch.members {
                self.durable.members = members;
            }
        }
    }

    /// Batches that are not durable.
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Applied index of the newest batch.
    pub fn applied(&self) -> u64 {
        let newest = self.batches.back().map(|batch| batch.applied);
        newest.unwrap_or(self.durable.applied).index
    }

    /// Forgets what was not flushed.
    pub fn crash(&mut self) {
        self.batches.clear();
    }

    /// Flips a bit of a job's or task's record.
    pub fn spoil(&mut self, rng: &mut SmallRng) -> bool {
        let Records { jobs, tasks, damage, .. } = &mut self.durable;
        let Some((&seq, record)) = jobs.iter_mut().chain(tasks).choose(rng) else { return false };
        *damage = Some((seq, sum(record)));
        flip(record, rng);
        true
    }

    /// What is durable.
    pub fn durable(&self) -> &Records {
        &self.durable
    }
}

impl Records {
    fn put(&mut self, op: Op) {
        match op {
            Op::Job(key, record) => put(&mut self.jobs, key, record),
            Op::Task(key, record) => put(&mut self.tasks, key, record),
            Op::Class(key, record) => put(&mut self.classes, key, record),
            Op::Body(key, record) => put(&mut self.bodies, key, record),
            Op::EndedJob(seq, record) => drop(self.ended_jobs.insert(seq, record)),
            Op::EndedTask(seq, record) => drop(self.ended_tasks.insert(seq, record)),
            Op::Known(id, record) => drop(self.known.insert(id, record)),
            Op::KnownBelow(id) => self.known = self.known.split_off(&id),
            Op::Change(seq, index, row) => drop(self.changes.insert((seq, index, row))),
            Op::Meta(record) => self.meta = Some(record),
        }
    }

    /// What there is of a copy that was cut off in the middle.
    pub fn part(&self) -> Records {
        let mut part = self.clone();
        let half = self.jobs.keys().nth(self.jobs.len() / 2).copied().unwrap_or(0);
        part.jobs.split_off(&half);
        part.meta = None;
        part
    }

    /// What is read is what was written.
    pub fn is_sound(&self) -> bool {
        let record = |seq| self.jobs.get(&seq).or_else(|| self.tasks.get(&seq));
        self.damage.is_none_or(|(seq, written)| record(seq).is_none_or(|record| sum(record) == written))
    }

    /// The machine that these records hold.
    ///
    /// # Errors
    /// A record is damaged, or refers to what is not there.
    pub fn load(&self, shard: ShardId) -> Result<Machine, Error> {
        let meta = match &self.meta {
            Some(record) => MetaRecord::decode(record.clone())?,
            None => MetaRecord::default(),
        };
        let mut machine = Machine::load(shard, meta);
        for (&id, record) in &self.classes {
            machine.load_class(id, record.clone())?;
        }
        for (&seq, record) in &self.tasks {
            machine.load_task(seq, record.clone(), || self.bodies.get(&seq).cloned())?;
        }
        for (&seq, record) in &self.jobs {
            machine.load_job(seq, record.clone())?;
        }
        for (&id, &record) in &self.known {
            machine.load_submission(id, record);
        }
        Ok(machine)
    }
}

fn put<K: Ord>(map: &mut BTreeMap<K, Bytes>, key: K, record: Option<Bytes>) {
    match record {
        Some(record) => drop(map.insert(key, record)),
        None => drop(map.remove(&key)),
    }
}

/// What the node's reactor writes.
fn ops(machine: &Machine, unwritten: &Unwritten, applied: Position) -> Vec<Op> {
    let mut ops = Vec::new();
    let copy = Bytes::copy_from_slice;
    unwritten.records(machine, |record| {
        ops.push(match record {
            Record::Job(seq, record) => Op::Job(seq, record.map(copy)),
            Record::Task(seq, record) => Op::Task(seq, record.map(copy)),
            Record::Class(id, record) => Op::Class(id.0, record.map(copy)),
            Record::Body(seq, body) => Op::Body(seq, body.cloned()),
            Record::Change(row, change) => Op::Change(change.seq, applied.index, row),
            Record::EndedJob(seq, _, record) => Op::EndedJob(seq, copy(record)),
            Record::EndedTask(seq, _, record) => Op::EndedTask(seq, copy(record)),
            Record::Submission(id, record) => Op::Known(*id, *record),
            Record::SubmissionsBelow(id) => Op::KnownBelow(*id),
        });
    });
    ops.push(Op::Meta(machine.meta_record().encode().into()));
    ops
}
