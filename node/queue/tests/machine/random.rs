//! Random runs on two machines, one of which is made anew from its records every now and then. Both must answer the
//! same, ask for the same, and stay equal; what the leader needs to know must have been said.

use crate::store::{SHARD, Store};
use crate::strategies::{Op, op};
use moso_proto::JobState;
use moso_queue::command::{Command, EntryBuilder, Reply, ResultStatus};
use moso_queue::job::{EndedJob, Job};
use moso_queue::task::{EndedTask, Task};
use moso_queue::{ClassId, Effects, Machine, check};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// One entry: time passed, whether the second machine is loaded anew before it, and what happens in it.
type Step = (u64, bool, Vec<Op>);

fn step() -> impl Strategy<Value = Step> {
    (0..1_500u64, proptest::bool::weighted(0.3), vec(op(), 1..4))
}

/// What a leader was told: it sees nothing else of what becomes ready or due.
#[derive(Default)]
struct Told {
    jobs: BTreeMap<u64, (ClassId, i32)>,
    arrays: BTreeSet<u64>,
    timers: BTreeSet<(u64, u64)>,
}

impl Told {
    fn hear(&mut self, effects: &Effects) {
        self.jobs.extend(effects.ready.iter().map(|&(seq, class, priority)| (seq, (class, priority))));
        self.arrays.extend(&effects.ready_arrays);
        self.timers.extend(&effects.timers);
    }

    /// Nothing that is ready or waits for a time is forgotten.
    fn check(&mut self, machine: &Machine) {
        for job in machine.jobs().from(0) {
            match job.state {
                JobState::Activated => {
                    assert_eq!(self.jobs.get(&job.seq), Some(&(job.class, job.priority)), "not told: {job:?}");
                }
                JobState::Defined => {
                    assert!(self.timers.contains(&(job.ready_ms, job.seq)), "no timer: {job:?}");
                    self.jobs.remove(&job.seq);
                }
                _ => drop(self.jobs.remove(&job.seq)),
            }
        }
        for task in machine.tasks_from(0) {
            match task.rest_state {
                JobState::Activated => {
                    assert!(task.rest.is_empty() || self.arrays.contains(&task.seq), "not told: {task:?}");
                }
                state => {
                    let waits = state == JobState::Defined && !task.rest.is_empty();
                    assert!(!waits || self.timers.contains(&(task.not_before_ms, task.seq)), "no timer: {task:?}");
                    self.arrays.remove(&task.seq);
                }
            }
            let expires = task.expires_at_ms > 0;
            assert!(!expires || self.timers.contains(&(task.expires_at_ms, task.seq)), "no timer: {task:?}");
        }
    }
}

/// Attempts rise by one with each lease.
fn check_attempts(attempts: &mut BTreeMap<u64, u32>, replies: &[Reply]) {
    for reply in replies {
        let Reply::Leased(jobs) = reply else { continue };
        for &(seq, attempt) in jobs {
            let last = attempts.entry(seq).or_default();
            assert_eq!(attempt, *last + 1, "attempt of job {seq}");
            *last = attempt;
        }
    }
}

/// A result that changed something came from the session that holds or held the job, for its current attempt. The
/// first result of an entry is compared with the state before it.
fn check_fence(machine: &Machine, command: &Command, reply: &Reply) {
    let (Command::Results { session, results }, Reply::Results(statuses)) = (command, reply) else { return };
    if let (Some(result), Some(ResultStatus::Accepted)) = (results.first(), statuses.first()) {
        let job = machine.job(result.seq).expect("an accepted result is of a live job");
        assert!(
            result.attempt > 0 && (job.attempt, job.session) == (result.attempt, *session),
            "{result:?} on {job:?}"
        );
    }
}

/// What was asked for, in words that can be compared.
fn wanted(effects: &Effects) -> String {
    format!(
        "{:?}",
        (
            (&effects.bodies, &effects.bodies_dropped, &effects.changes, &effects.ended_jobs, &effects.ended_tasks),
            (&effects.submissions, effects.submissions_below, &effects.ready, &effects.ready_arrays),
            (&effects.timers, &effects.leased, effects.unready, &effects.signals),
        )
    )
}

/// Stored records read back and written again are the same bytes.
fn check_records(store: &Store) {
    for (&seq, record) in &store.jobs {
        let (job, worker) = Job::decode(seq, record.clone()).unwrap();
        let mut again = Vec::new();
        job.encode(&worker, &mut again);
        assert_eq!(again, *record);
    }
    for (&seq, record) in &store.tasks {
        let mut again = Vec::new();
        Task::decode(seq, record.clone()).unwrap().encode(&mut again);
        assert_eq!(again, *record);
    }
    for (&seq, record) in &store.ended_jobs {
        // Appended behind something else, as callers may.
        let mut again = vec![1, 2, 3];
        EndedJob::decode(seq, record.clone()).unwrap().encode(&mut again);
        assert_eq!(again[3..], *record);
    }
    for (&seq, record) in &store.ended_tasks {
        let mut again = Vec::new();
        EndedTask::decode(seq, record.clone()).unwrap().encode(&mut again);
        assert_eq!(again, *record);
    }
}

/// Runs the steps; returns what is stored at the end, for other tests to damage.
pub fn run(steps: &[Step]) -> Store {
    let (mut machine, mut loaded) = (Machine::new(SHARD), Machine::new(SHARD));
    let (mut store, mut loaded_store) = (Store::default(), Store::default());
    store.write(&machine, &Effects::default());
    loaded_store.write(&loaded, &Effects::default());
    let (mut told, mut attempts, mut now_ms) = (Told::default(), BTreeMap::new(), 0);
    for (passed, load, ops) in steps {
        now_ms += passed;
        if *load {
            loaded = loaded_store.load();
        }
        // The commands of an entry are made before it is applied, so later ones may miss.
        let commands: Vec<Command> = ops.iter().map(|op| op.command(&machine)).collect();
        let mut entry = EntryBuilder::default();
        commands.iter().for_each(|command| entry.push_command(command));
        let entry = entry.finish(now_ms);
        let (mut effects, mut replies) = (Effects::default(), Vec::new());
        let before = store.load();
        machine.apply(entry.clone(), &mut effects, &mut replies).unwrap();
        store.write(&machine, &effects);
        let (mut other_effects, mut other_replies) = (Effects::default(), Vec::new());
        loaded.apply(entry, &mut other_effects, &mut other_replies).unwrap();
        loaded_store.write(&loaded, &other_effects);
        assert_eq!(replies, other_replies);
        assert_eq!(wanted(&effects), wanted(&other_effects));
        assert_eq!(machine.digest(), loaded.digest());
        assert_eq!(check::check(&machine), Ok(()));
        assert_eq!(check::check(&loaded), Ok(()));
        told.hear(&effects);
        told.check(&machine);
        check_attempts(&mut attempts, &replies);
        check_fence(&before, &commands[0], &replies[0]);
    }
    store.check_bodies(&machine);
    check_records(&store);
    let ended = store.ended_jobs.len() as u64;
    assert!(ended <= machine.ended_jobs(), "array jobs never made have no record");
    store
}

/// Steps of a run.
pub fn steps(len: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..len)
}

proptest! {
    #![proptest_config(crate::cases(600))]

    #[test]
    fn a_machine_loaded_from_its_records_goes_on_the_same(steps in steps(80)) {
        run(&steps);
    }
}
