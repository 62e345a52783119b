//! The state machine of a shard: `apply` takes one entry, changes the tables, and gathers effects.
//!
//! Invariants (checked by [`crate::check`]):
//! - a job ends once: its record leaves the table and exactly one archive record is written;
//! - `attempt` of a job rises by one with each lease and never falls;
//! - a leased job has one session; a result is taken only from it, and only for the current attempt;
//! - counts of tasks and classes equal a recount; every class has exactly the references that jobs and tasks hold;
//! - numbers are handed out once, rising; time never goes back.

mod act;
mod lease;
mod load;
mod results;
mod submit;

use crate::class::{ClassId, ClassTable};
use crate::command::{Command, Reply, read_entry};
use crate::effect::{Change, Effects, Signal};
use crate::error::Error;
use crate::job::{EndedJob, Job, Reason, Report};
use crate::slots::Slots;
use crate::task::{EndedTask, Task};
use bytes::Bytes;
use moso_proto::{JobState, ShardId};
use std::collections::BTreeMap;
use std::sync::Arc;

pub use load::MetaRecord;
pub use submit::submission_time_ms;

/// A submission that is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    task: u64,
    jobs: u32,
    content: u64,
}

/// A worker session that holds leases in this shard.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    name: Arc<str>,
    pub(crate) leases: u32,
}

/// The state of one shard.
pub struct Machine {
    pub(crate) shard: ShardId,
    pub(crate) now_ms: u64,
    pub(crate) next_seq: u64,
    pub(crate) ended_jobs: u64,
    pub(crate) dedup_floor_ms: u64,
    pub(crate) jobs: Slots,
    pub(crate) tasks: BTreeMap<u64, Box<Task>>,
    pub(crate) classes: ClassTable,
    pub(crate) known: BTreeMap<[u8; 16], Known>,
    pub(crate) holders: BTreeMap<u64, Holder>,
    /// Array jobs that have no record yet, over all tasks.
    pub(crate) unmade: u64,
    /// Estimated bytes of all tasks.
    pub(crate) task_bytes: usize,
}

impl Machine {
    /// An empty shard.
    pub fn new(shard: ShardId) -> Self {
        Machine {
            shard,
            now_ms: 0,
            next_seq: 1,
            ended_jobs: 0,
            dedup_floor_ms: 0,
            jobs: Slots::default(),
            tasks: BTreeMap::new(),
            classes: ClassTable::default(),
            known: BTreeMap::new(),
            holders: BTreeMap::new(),
            unmade: 0,
            task_bytes: 0,
        }
    }

    /// Applies an entry; one reply per command, in order. An error means that the entry is damaged: the node stops.
    pub fn apply(&mut self, entry: Bytes, effects: &mut Effects, replies: &mut Vec<Reply>) -> Result<(), Error> {
        let (time_ms, commands) = read_entry(entry)?;
        self.now_ms = self.now_ms.max(time_ms);
        for command in commands {
            let command = Command::decode(command)?;
            replies.push(self.apply_command(command, effects));
        }
        Ok(())
    }

    /// Applies one command at the machine's current time.
    fn apply_command(&mut self, command: Command, effects: &mut Effects) -> Reply {
        match command {
            Command::Submit(submit) => self.submit(*submit, effects),
            Command::Lease { session, worker, ttl_ms, request, jobs } => {
                self.lease((session, &worker), ttl_ms, request, &jobs, effects)
            }
            Command::Results { session, results } => self.results(session, results, effects),
            Command::Expire { jobs } => self.expire(&jobs, effects),
            Command::Unheld { session, jobs } => self.unheld(session, &jobs, effects),
            Command::Phase { jobs } => self.phase(&jobs, effects),
            Command::Wake { jobs } => self.wake(&jobs, effects),
            Command::TimeOut { jobs, fail, code } => self.time_out(&jobs, fail, code, effects),
            Command::Act { action, targets, actor } => self.act(&action, &targets, &actor, effects),
            Command::Prune { below_ms } => self.prune(below_ms, effects),
        }
    }

    /// Time of the newest entry, Unix ms.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }
    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }
    /// First number not yet handed out.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }
    /// Jobs that ended since the shard was made.
    pub fn ended_jobs(&self) -> u64 {
        self.ended_jobs
    }
    /// Jobs made and living.
    pub fn jobs(&self) -> &Slots {
        &self.jobs
    }
    /// For the leader's volatile fields only.
    pub fn jobs_volatile(&mut self) -> &mut Slots {
        &mut self.jobs
    }
    /// A live job.
    pub fn job(&self, seq: u64) -> Option<&Job> {
        self.jobs.get(seq)
    }
    /// A live task.
    pub fn task(&self, seq: u64) -> Option<&Task> {
        self.tasks.get(&seq).map(|t| &**t)
    }
    /// Live tasks from this number up.
    pub fn tasks_from(&self, seq: u64) -> impl Iterator<Item = &Task> {
        self.tasks.range(seq..).map(|(_, t)| &**t)
    }
    /// The live task that a job number belongs to.
    pub fn task_of(&self, job: u64) -> Option<&Task> {
        let (_, task) = self.tasks.range(..job).next_back()?;
        task.position(job).map(|_| &**task)
    }
    /// Classes and their counts.
    pub fn classes(&self) -> &ClassTable {
        &self.classes
    }
    /// Name of the session's worker, while it holds leases here.
    pub fn worker(&self, session: u64) -> &str {
        self.holders.get(&session).map_or("", |h| &h.name)
    }
    /// Leases that the session holds here.
    pub fn leases_of(&self, session: u64) -> u32 {
        self.holders.get(&session).map_or(0, |h| h.leases)
    }
    /// Sessions that hold leases here.
    pub fn sessions(&self) -> usize {
        self.holders.len()
    }
    /// Live jobs, those not yet made included.
    pub fn live(&self) -> u64 {
        self.jobs.len() as u64 + self.unmade
    }
    /// The oldest submission still recognised, Unix ms.
    pub fn dedup_floor_ms(&self) -> u64 {
        self.dedup_floor_ms
    }

    /// Estimated bytes held for jobs, tasks, classes and submissions.
    pub fn memory_bytes(&self) -> usize {
        self.jobs.memory_bytes()
            + self.task_bytes
            + self.tasks.len() * 40
            + self.classes.memory_bytes()
            + self.known.len() * 64
            + self.holders.len() * 96
    }

    /// An order-independent fingerprint of the replicated state: equal on replicas with equal applied index.
    pub fn digest(&self) -> u64 {
        let mut sum = crate::task::mix(self.next_seq ^ self.now_ms.rotate_left(20) ^ self.dedup_floor_ms);
        let mut buffer = Vec::with_capacity(256);
        for job in self.jobs.from(0) {
            buffer.clear();
            job.encode(self.worker(job.session), &mut buffer);
            sum = sum.wrapping_add(fingerprint(job.seq, &buffer));
        }
        for task in self.tasks.values() {
            buffer.clear();
            task.encode(&mut buffer);
            for count in task.counts {
                buffer.extend_from_slice(&count.to_le_bytes());
            }
            if let Some(deps) = &task.deps {
                deps.encode(&mut buffer);
            }
            sum = sum.wrapping_add(fingerprint(task.seq, &buffer));
        }
        for (id, class) in self.classes.iter() {
            buffer.clear();
            class.key.encode(&mut buffer);
            sum = sum.wrapping_add(fingerprint(u64::from(id.0), &buffer));
        }
        for (submission, known) in &self.known {
            sum = sum.wrapping_add(fingerprint(known.task ^ known.content ^ u64::from(known.jobs) << 40, submission));
        }
        sum.wrapping_add(self.ended_jobs)
    }

    // Transitions shared by the commands.

    /// Moves a live job to a state that is not final.
    fn set_state(&mut self, seq: u64, state: JobState, reason: Reason, effects: &mut Effects) {
        debug_assert!(!state.is_final());
        let now = self.now_ms;
        let job = self.jobs.get_mut(seq).expect("the caller holds a live job");
        let old = job.state;
        job.state = state;
        job.reason = reason;
        job.changed_ms = now;
        // An expiry that is proposed stays so while the worker only tells its phase.
        job.reserved &= old.is_leased() && state.is_leased();
        let (class, task) = (job.class, job.task);
        let counts = &mut self.classes.get_mut(class).counts;
        counts[old as usize] -= 1;
        counts[state as usize] += 1;
        let task = self.tasks.get_mut(&task).expect("a live job has a live task");
        task.counts[old as usize] -= 1;
        task.counts[state as usize] += 1;
        effects.jobs.push(seq);
        if old == JobState::Activated && !state.is_leased() {
            effects.unready += 1;
        }
    }

    /// Makes a job ready now or at `ready_ms`.
    fn make_ready(&mut self, seq: u64, ready_ms: u64, reason: Reason, effects: &mut Effects) {
        let now = self.now_ms;
        if ready_ms > now {
            self.set_state(seq, JobState::Defined, reason, effects);
            self.jobs.get_mut(seq).expect("just set").ready_ms = ready_ms;
            effects.timers.push((ready_ms, seq));
        } else {
            self.set_state(seq, JobState::Activated, Reason::None, effects);
            let job = self.jobs.get_mut(seq).expect("just set");
            job.ready_ms = now;
            effects.ready.push((seq, job.class, job.priority));
        }
    }

    /// Forgets one lease of a session.
    fn drop_holder(&mut self, session: u64) {
        if let Some(holder) = self.holders.get_mut(&session) {
            holder.leases -= 1;
            if holder.leases == 0 {
                self.holders.remove(&session);
            }
        }
    }

    /// Ends a job: one archive record, its body goes, its task is told.
    fn end_job(&mut self, seq: u64, state: JobState, reason: Reason, report: Report, effects: &mut Effects) {
        debug_assert!(state.is_final());
        let mut pending = vec![(seq, state, reason, report)];
        while let Some((seq, state, reason, report)) = pending.pop() {
            let Some(task) = self.end_one(seq, state, reason, report, effects) else { continue };
            self.after_end(task, seq, state, &mut pending, effects);
        }
    }

    /// Takes the job out of the tables and writes its archive record; returns its task.
    fn end_one(
        &mut self,
        seq: u64,
        state: JobState,
        reason: Reason,
        report: Report,
        effects: &mut Effects,
    ) -> Option<u64> {
        let mut job = self.jobs.remove(seq)?;
        let worker: Box<str> = self.worker(job.session).into();
        if job.state.is_leased() {
            self.drop_holder(job.session);
        } else if job.state == JobState::Activated {
            effects.unready += 1;
        }
        let class = self.classes.get_mut(job.class);
        class.counts[job.state as usize] -= 1;
        let key = class.key.clone();
        self.release_class(job.class, effects);
        let task = self.tasks.get_mut(&job.task).expect("a live job has a live task");
        task.counts[job.state as usize] -= 1;
        task.counts[state as usize] += 1;
        let created_ms = task.created_ms;
        if !task.array {
            effects.bodies_dropped.push(seq);
        }
        let task = task.seq;
        job.state = state;
        job.reason = reason;
        job.changed_ms = self.now_ms;
        let ended = EndedJob { job, key, created_ms, ended_ms: self.now_ms, worker, report };
        let mut record = Vec::with_capacity(256);
        ended.encode(&mut record);
        effects.ended_jobs.push((seq, self.now_ms, record));
        effects.jobs.push(seq);
        self.ended_jobs += 1;
        Some(task)
    }

    /// Consequences of a job's end within its task.
    fn after_end(
        &mut self,
        task_seq: u64,
        seq: u64,
        state: JobState,
        pending: &mut Vec<(u64, JobState, Reason, Report)>,
        effects: &mut Effects,
    ) {
        self.tell_children(task_seq, seq, state, pending, effects);
        let task = self.tasks.get(&task_seq).expect("a task lives as long as its jobs");
        // Only once, when the bound is passed: whatever still runs then is not tried again when it fails.
        if state == JobState::Failed
            && task.too_many_failed()
            && task.counts[JobState::Failed as usize] == task.max_failed + 1
        {
            let rest = self.unleased(task_seq);
            pending.extend(rest.into_iter().map(|s| (s, JobState::Closed, Reason::TooManyFailures, Report::default())));
            self.end_rest(task_seq, JobState::Closed, 0, effects);
        }
        self.settle_task(task_seq, effects);
    }

    /// Jobs that wait for the one that ended go on, or end too.
    fn tell_children(
        &mut self,
        task_seq: u64,
        seq: u64,
        state: JobState,
        pending: &mut Vec<(u64, JobState, Reason, Report)>,
        effects: &mut Effects,
    ) {
        let task = self.tasks.get(&task_seq).expect("a task lives as long as its jobs");
        let Some(deps) = &task.deps else { return };
        let position = task.position(seq).expect("the job is the task's");
        let first = task.first();
        let run = state == JobState::Finished || task.run_dependents;
        let children: Vec<u64> = deps.children(position).map(|c| first + u64::from(c)).collect();
        for child in children {
            if run {
                self.parent_met(child, effects);
            } else if self.jobs.get(child).is_some() {
                pending.push((child, JobState::Closed, Reason::ParentFailed, Report::default()));
            }
        }
    }

    /// Made jobs of a task that hold no lease.
    fn unleased(&self, task_seq: u64) -> Vec<u64> {
        let Some(task) = self.tasks.get(&task_seq) else { return Vec::new() };
        let end = task.first() + u64::from(task.jobs);
        let jobs = self.jobs.from(task.first()).take_while(|j| j.seq < end);
        jobs.filter(|j| !j.state.is_leased()).map(|j| j.seq).collect()
    }

    /// One job less to wait for.
    fn parent_met(&mut self, child: u64, effects: &mut Effects) {
        let Some(job) = self.jobs.get_mut(child) else { return };
        job.unmet = job.unmet.saturating_sub(1);
        effects.jobs.push(child);
        if job.unmet == 0 && job.state == JobState::Waiting {
            let ready_ms = job.ready_ms;
            self.make_ready(child, ready_ms, Reason::NotBefore, effects);
        }
    }

    /// Ends all jobs of an array that were never made; returns how many.
    fn end_rest(&mut self, task_seq: u64, state: JobState, code: u8, effects: &mut Effects) -> u32 {
        let now = self.now_ms;
        let Some(task) = self.tasks.get_mut(&task_seq) else { return 0 };
        let count = task.rest_len();
        if count == 0 {
            return 0;
        }
        task.counts[task.rest_state as usize] -= count;
        task.counts[state as usize] += count;
        self.classes.get_mut(task.class).counts[task.rest_state as usize] -= count;
        if task.rest_state == JobState::Activated {
            effects.unready += u64::from(count);
        }
        task.rest_end = Some(crate::task::RestEnd { state, code, time_ms: now });
        task.rest = Vec::new();
        self.unmade -= u64::from(count);
        self.ended_jobs += u64::from(count);
        effects.tasks.push(task_seq);
        count
    }

    /// Writes the task's record, or its archive record once all its jobs have ended.
    fn settle_task(&mut self, seq: u64, effects: &mut Effects) {
        effects.tasks.push(seq);
        if self.tasks.get(&seq).is_none_or(|t| t.ended() < t.jobs) {
            return;
        }
        let mut task = *self.tasks.remove(&seq).expect("just looked at");
        self.task_bytes -= task.memory_bytes();
        task.ended_ms = self.now_ms;
        let key = self.classes.get(task.class).key.clone();
        self.release_class(task.class, effects);
        // The body of an array's jobs, or the dependencies.
        if task.array || task.deps.is_some() {
            effects.bodies_dropped.push(seq);
        }
        let ended = EndedTask { task, key };
        let mut record = Vec::with_capacity(256);
        ended.encode(&mut record);
        effects.ended_tasks.push((seq, self.now_ms, record));
    }

    fn release_class(&mut self, id: ClassId, effects: &mut Effects) {
        if self.classes.release(id) {
            effects.classes.push(id);
        }
    }

    /// Rows of an attempt that ends without ending the job: the record will not hold its times any more.
    fn log_attempt(&self, job: &Job, reason: Reason, text: &str, effects: &mut Effects) {
        let worker = self.worker(job.session);
        let mut row = |time_ms, state, who: &str, reason, text: &str| {
            if time_ms > 0 {
                effects.changes.push(Change {
                    seq: job.seq,
                    time_ms,
                    state,
                    attempt: job.attempt,
                    who: who.into(),
                    reason,
                    text: text.into(),
                });
            }
        };
        row(job.ready_ms, JobState::Activated, "moso", Reason::None, "");
        row(job.leased_ms, JobState::Sent, worker, Reason::None, "");
        row(job.started_ms, JobState::Running, worker, Reason::None, "");
        row(self.now_ms, JobState::Failed, worker, reason, text);
    }

    fn signal(&self, seq: u64, gone: bool, effects: &mut Effects) {
        if let Some(job) = self.jobs.get(seq).filter(|j| j.state.is_leased()) {
            effects.signals.push(Signal { seq, attempt: job.attempt, session: job.session, gone });
        }
    }
}

/// A hash of bytes that does not depend on the machine.
pub(crate) fn fingerprint(seed: u64, bytes: &[u8]) -> u64 {
    let mut sum = crate::task::mix(seed ^ bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = crate::task::mix(sum ^ u64::from_le_bytes(word));
    }
    sum
}
