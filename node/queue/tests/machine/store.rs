//! What a node's disk holds of a shard: filled from effects as the node does it, read back into a new machine.

use bytes::Bytes;
use moso_proto::ShardId;
use moso_queue::job::EndedJob;
use moso_queue::machine::MetaRecord;
use moso_queue::task::EndedTask;
use moso_queue::{Effects, Machine};
use std::collections::{BTreeMap, BTreeSet};

/// The shard of all tests.
pub const SHARD: ShardId = ShardId(1);

/// Stored records by kind.
#[derive(Clone, Default)]
pub struct Store {
    pub meta: Bytes,
    pub classes: BTreeMap<u32, Bytes>,
    pub tasks: BTreeMap<u64, Bytes>,
    pub jobs: BTreeMap<u64, Bytes>,
    pub bodies: BTreeMap<u64, Bytes>,
    pub submissions: BTreeMap<[u8; 16], [u8; 16]>,
    pub ended_jobs: BTreeMap<u64, Bytes>,
    pub ended_tasks: BTreeMap<u64, Bytes>,
}

fn put<K: Ord>(records: &mut BTreeMap<K, Bytes>, key: K, encode: impl FnOnce(&mut Vec<u8>) -> bool) {
    let mut buffer = Vec::new();
    if encode(&mut buffer) {
        records.insert(key, buffer.into());
    } else {
        records.remove(&key);
    }
}

impl Store {
    /// Writes what applying one or more entries asked for.
    pub fn write(&mut self, machine: &Machine, effects: &Effects) {
        for &seq in &effects.jobs {
            put(&mut self.jobs, seq, |out| machine.encode_job(seq, out));
        }
        for &seq in &effects.tasks {
            put(&mut self.tasks, seq, |out| machine.encode_task(seq, out));
        }
        for &id in &effects.classes {
            put(&mut self.classes, id.0, |out| machine.encode_class(id, out));
        }
        self.bodies.extend(effects.bodies.iter().cloned());
        effects.bodies_dropped.iter().for_each(|seq| drop(self.bodies.remove(seq)));
        for (seq, time, record) in &effects.ended_jobs {
            let ended = EndedJob::decode(*seq, record.clone().into()).unwrap();
            assert!(ended.job.state.is_final() && ended.ended_ms == *time);
            assert!(self.ended_jobs.insert(*seq, record.clone().into()).is_none(), "job {seq} ended twice");
        }
        for (seq, time, record) in &effects.ended_tasks {
            let ended = EndedTask::decode(*seq, record.clone().into()).unwrap();
            assert!(ended.task.state().is_final() && ended.task.ended_ms == *time);
            assert!(self.ended_tasks.insert(*seq, record.clone().into()).is_none(), "task {seq} ended twice");
        }
        self.submissions.extend(effects.submissions.iter().copied());
        if let Some(below) = effects.submissions_below {
            self.submissions = self.submissions.split_off(&below);
        }
        self.meta = machine.meta_record().encode().into();
    }

    /// A machine made from the records.
    pub fn load(&self) -> Machine {
        let mut machine = Machine::load(SHARD, MetaRecord::decode(self.meta.clone()).unwrap());
        for (&id, record) in &self.classes {
            machine.load_class(id, record.clone()).unwrap();
        }
        for (&seq, record) in &self.tasks {
            machine.load_task(seq, record.clone(), || self.bodies.get(&seq).cloned()).unwrap();
        }
        for (&seq, record) in &self.jobs {
            machine.load_job(seq, record.clone()).unwrap();
        }
        for (&submission, &record) in &self.submissions {
            machine.load_submission(submission, record);
        }
        machine
    }

    /// Every live job has its body, and nothing else has one: what is never deleted fills the disk.
    pub fn check_bodies(&self, machine: &Machine) {
        let mut needed = BTreeSet::new();
        for task in machine.tasks_from(0) {
            if task.array || task.deps.is_some() {
                needed.insert(task.seq);
            }
            if !task.array {
                let end = task.first() + u64::from(task.jobs);
                needed.extend(machine.jobs().from(task.first()).map(|j| j.seq).take_while(|&seq| seq < end));
            }
        }
        assert_eq!(self.bodies.keys().copied().collect::<BTreeSet<_>>(), needed, "bodies kept");
    }
}
