//! The machine's stored records: written by the shell after each batch, read back at start.

use super::{Holder, Known, Machine};
use crate::class::ClassId;
use crate::codec::{Get, Put};
use crate::dependencies::Dependencies;
use crate::error::Error;
use crate::job::Job;
use crate::task::Task;
use bytes::Bytes;
use moso_proto::ShardId;

/// Clock, counters: one small record written with every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaRecord {
    /// Time of the newest entry.
    pub now_ms: u64,
    /// First number not handed out.
    pub next_seq: u64,
    /// Jobs ended so far.
    pub ended_jobs: u64,
    /// Oldest submission recognised.
    pub dedup_floor_ms: u64,
}

impl MetaRecord {
    /// The stored record.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        for number in [self.now_ms, self.next_seq, self.ended_jobs, self.dedup_floor_ms] {
            out.put_u64(number);
        }
        out
    }

    /// Reads a record.
    pub fn decode(bytes: Bytes) -> Result<Self, Error> {
        let mut get = Get::new(bytes, "shard record");
        let record =
            MetaRecord { now_ms: get.u64()?, next_seq: get.u64()?, ended_jobs: get.u64()?, dedup_floor_ms: get.u64()? };
        get.end()?;
        Ok(record)
    }
}

impl Machine {
    /// The record of clock and counters.
    pub fn meta_record(&self) -> MetaRecord {
        MetaRecord {
            now_ms: self.now_ms,
            next_seq: self.next_seq,
            ended_jobs: self.ended_jobs,
            dedup_floor_ms: self.dedup_floor_ms,
        }
    }

    /// The record of a live job; `false`: it is gone, its record must be deleted.
    pub fn encode_job(&self, seq: u64, out: &mut Vec<u8>) -> bool {
        let Some(job) = self.jobs.get(seq) else { return false };
        let holder = if job.state.is_leased() { self.worker(job.session) } else { "" };
        job.encode(holder, out);
        true
    }

    /// The record of a live task; `false`: it is gone.
    pub fn encode_task(&self, seq: u64, out: &mut Vec<u8>) -> bool {
        let Some(task) = self.tasks.get(&seq) else { return false };
        task.encode(out);
        true
    }

    /// The record of a class; `false`: it is gone.
    pub fn encode_class(&self, id: ClassId, out: &mut Vec<u8>) -> bool {
        let Some(class) = self.classes.find(id) else { return false };
        class.key.encode(out);
        true
    }

    /// Starts from stored records: first [`Machine::load_class`] for all, then tasks, jobs, submissions.
    pub fn load(shard: ShardId, record: MetaRecord) -> Self {
        let mut machine = Machine::new(shard);
        machine.now_ms = record.now_ms;
        machine.next_seq = record.next_seq.max(1);
        machine.ended_jobs = record.ended_jobs;
        machine.dedup_floor_ms = record.dedup_floor_ms;
        machine
    }

    /// Puts a class back.
    pub fn load_class(&mut self, id: u32, bytes: Bytes) -> Result<(), Error> {
        self.classes.load(ClassId(id), bytes)
    }

    /// Puts a task back; its class must be there. `body` reads the body under the task's number, and is called only if
    /// the task has dependencies, which are stored there.
    pub fn load_task(&mut self, seq: u64, bytes: Bytes, body: impl FnOnce() -> Option<Bytes>) -> Result<(), Error> {
        let mut task = Task::decode(seq, bytes)?;
        let damaged = Error::Damaged { what: "task record", at: 0 };
        let end = task.first().saturating_add(u64::from(task.jobs));
        if self.classes.find(task.class).is_none()
            || end > self.next_seq
            || self.tasks.contains_key(&seq)
            || task.ended() + task.rest_len() > task.jobs
        {
            return Err(damaged);
        }
        if let Some(deps) = &mut task.deps {
            **deps = Dependencies::decode_body(body().ok_or(damaged)?, task.jobs)?;
        }
        self.classes.retain(task.class);
        let rest = task.rest_len();
        task.counts[task.rest_state as usize] += rest;
        self.classes.get_mut(task.class).counts[task.rest_state as usize] += rest;
        self.unmade += u64::from(rest);
        self.task_bytes += task.memory_bytes();
        self.tasks.insert(seq, Box::new(task));
        Ok(())
    }

    /// Puts a job back; its class and task must be there.
    pub fn load_job(&mut self, seq: u64, bytes: Bytes) -> Result<(), Error> {
        let (job, worker) = Job::decode(seq, bytes)?;
        let damaged = Error::Damaged { what: "job record", at: 0 };
        if self.classes.find(job.class).is_none() || self.jobs.get(seq).is_some() || job.state.is_final() {
            return Err(damaged);
        }
        let task = self.tasks.get_mut(&job.task).ok_or(damaged.clone())?;
        let position = task.position(seq).ok_or(damaged.clone())?;
        if task.is_unmade(position) || task.counts.iter().sum::<u32>() >= task.jobs {
            return Err(damaged);
        }
        task.counts[job.state as usize] += 1;
        self.classes.retain(job.class);
        self.classes.get_mut(job.class).counts[job.state as usize] += 1;
        if job.state.is_leased() {
            self.holders.entry(job.session).or_insert_with(|| Holder { name: worker.into(), leases: 0 }).leases += 1;
        }
        self.jobs.insert(job);
        Ok(())
    }

    /// Puts a known submission back.
    pub fn load_submission(&mut self, submission: [u8; 16], record: [u8; 16]) {
        self.known.insert(submission, Known::decode(record));
    }
}
