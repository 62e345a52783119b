//! What applied commands changed and the store does not hold yet.
//!
//! The log holds all of it, so nothing is lost by writing late; and what is made and gone again between two writes is
//! never written at all. Most jobs of a busy queue come and go like that: of them only the archive's record is stored.

use crate::class::ClassId;
use crate::effect::{Change, Effects};
use crate::machine::Machine;
use bytes::Bytes;
use std::collections::BTreeMap;

/// One record to be written. `None`: it is deleted.
#[derive(Debug)]
pub enum Record<'a> {
    /// A live job.
    Job(u64, Option<&'a [u8]>),
    /// A live task.
    Task(u64, Option<&'a [u8]>),
    /// A class.
    Class(ClassId, Option<&'a [u8]>),
    /// A job's or an array's body, or a task's dependencies.
    Body(u64, Option<&'a Bytes>),
    /// A row of the status log, with its place among those of this write.
    Change(u32, &'a Change),
    /// An ended job: number, end time, record.
    EndedJob(u64, u64, &'a [u8]),
    /// An ended task: number, end time, record.
    EndedTask(u64, u64, &'a [u8]),
    /// A submission to remember: id, record.
    Submission(&'a [u8; 16], &'a [u8; 16]),
    /// Submissions below this one are forgotten.
    SubmissionsBelow(&'a [u8; 16]),
}

/// Changes since the last write. Records of live jobs and tasks are made from the machine when they are written.
pub struct Unwritten {
    jobs: Vec<u64>,
    tasks: Vec<u64>,
    classes: Vec<ClassId>,
    bodies: BTreeMap<u64, Bytes>,
    bodies_dropped: Vec<u64>,
    changes: Vec<Change>,
    ended_jobs: Vec<(u64, u64, Vec<u8>)>,
    ended_tasks: Vec<(u64, u64, Vec<u8>)>,
    submissions: Vec<([u8; 16], [u8; 16])>,
    submissions_below: Option<[u8; 16]>,
    /// Jobs and tasks from this number up were made after the last write: the store has nothing of them.
    stored_below: u64,
}

impl Unwritten {
    /// Nothing, for a machine that was loaded from the store.
    pub fn new(machine: &Machine) -> Self {
        Unwritten {
            jobs: Vec::new(),
            tasks: Vec::new(),
            classes: Vec::new(),
            bodies: BTreeMap::new(),
            bodies_dropped: Vec::new(),
            changes: Vec::new(),
            ended_jobs: Vec::new(),
            ended_tasks: Vec::new(),
            submissions: Vec::new(),
            submissions_below: None,
            stored_below: machine.next_seq(),
        }
    }

    /// Takes from the effects of an entry what is to be written.
    pub fn take(&mut self, effects: &mut Effects) {
        self.jobs.append(&mut effects.jobs);
        self.tasks.append(&mut effects.tasks);
        self.classes.append(&mut effects.classes);
        self.bodies.extend(effects.bodies.drain(..));
        for seq in effects.bodies_dropped.drain(..) {
            if self.bodies.remove(&seq).is_none() {
                self.bodies_dropped.push(seq);
            }
        }
        self.changes.append(&mut effects.changes);
        self.ended_jobs.append(&mut effects.ended_jobs);
        self.ended_tasks.append(&mut effects.ended_tasks);
        self.submissions.append(&mut effects.submissions);
        self.submissions_below = self.submissions_below.max(effects.submissions_below.take());
    }

    /// A body that the store does not have yet.
    pub fn body(&self, seq: u64) -> Option<&Bytes> {
        self.bodies.get(&seq)
    }

    /// Jobs that changed since the last write, in the order in which they did; they may repeat.
    pub fn jobs(&self) -> &[u64] {
        &self.jobs
    }

    /// Jobs that ended since the last write: number, end time, record.
    pub fn ended_jobs(&self) -> &[(u64, u64, Vec<u8>)] {
        &self.ended_jobs
    }

    /// Passes on what must be written so that the store holds what the machine does: each key once.
    pub fn records(&self, machine: &Machine, mut put: impl FnMut(Record<'_>)) {
        let mut buffer = Vec::new();
        for seq in unique(self.jobs.iter().copied()) {
            buffer.clear();
            let lives = machine.encode_job(seq, &mut buffer);
            if lives || seq < self.stored_below {
                put(Record::Job(seq, lives.then_some(&buffer)));
            }
        }
        for seq in unique(self.tasks.iter().copied()) {
            buffer.clear();
            let lives = machine.encode_task(seq, &mut buffer);
            if lives || seq < self.stored_below {
                put(Record::Task(seq, lives.then_some(&buffer)));
            }
        }
        for id in unique(self.classes.iter().map(|class| u64::from(class.0))) {
            let id = ClassId(id as u32);
            buffer.clear();
            let lives = machine.encode_class(id, &mut buffer);
            put(Record::Class(id, lives.then_some(&buffer)));
        }
        self.bodies.iter().for_each(|(&seq, body)| put(Record::Body(seq, Some(body))));
        self.bodies_dropped.iter().for_each(|&seq| put(Record::Body(seq, None)));
        self.changes.iter().zip(0..).for_each(|(change, n)| put(Record::Change(n, change)));
        self.ended_jobs.iter().for_each(|(seq, time, record)| put(Record::EndedJob(*seq, *time, record)));
        self.ended_tasks.iter().for_each(|(seq, time, record)| put(Record::EndedTask(*seq, *time, record)));
        self.submissions.iter().for_each(|(id, record)| put(Record::Submission(id, record)));
        if let Some(below) = &self.submissions_below {
            put(Record::SubmissionsBelow(below));
        }
    }

    /// All of it was written, as the machine is now.
    pub fn written(&mut self, machine: &Machine) {
        *self = Unwritten::new(machine);
    }
}

fn unique(numbers: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}
