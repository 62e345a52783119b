//! All invariants of a shard's state, checked by walking everything. For tests, the simulator and the verification of
//! a stopped store; far too slow for the path of a job.

use crate::job::{Job, Reason};
use crate::limits::{ATTEMPTS_MAX, DEDUP_MAX};
use crate::machine::{Machine, submission_time_ms};
use moso_proto::JobState;
use moso_proto::state::STATES;
use std::collections::BTreeMap;

/// The first violated invariant, in words.
pub fn check(machine: &Machine) -> Result<(), String> {
    check_jobs(machine)?;
    check_tasks(machine)?;
    check_dependencies(machine)?;
    check_classes(machine)?;
    check_holders(machine)?;
    check_totals(machine)
}

fn check_jobs(machine: &Machine) -> Result<(), String> {
    let mut last = 0;
    for job in machine.jobs.from(0) {
        let fail = |what: &str| Err(format!("job {}: {what}: {job:?}", job.seq));
        if job.seq <= last || job.seq >= machine.next_seq {
            return fail("number out of order or never handed out");
        }
        last = job.seq;
        if job.state.is_final() {
            return fail("an ended job is still in the table");
        }
        if machine.tasks.get(&job.task).is_none_or(|t| t.position(job.seq).is_none()) {
            return fail("its task is gone or does not know it");
        }
        if job.state.is_leased() && (job.attempt == 0 || job.ttl_ms == 0) {
            return fail("a lease without attempt or time");
        }
        if job.attempt > job.last_attempt || job.last_attempt > ATTEMPTS_MAX {
            return fail("more attempts than allowed");
        }
        let reason_fits = match job.state {
            JobState::Defined => matches!(job.reason, Reason::NotBefore | Reason::BackOff),
            JobState::Waiting => job.reason == Reason::Parents && job.unmet > 0,
            JobState::Throttled => job.reason == Reason::Held,
            _ => job.reason == Reason::None,
        };
        if !reason_fits {
            return fail("its reason does not fit its state");
        }
        if job.unmet > 0 && !matches!(job.state, JobState::Waiting | JobState::Throttled) {
            return fail("goes on before the jobs it depends on have ended");
        }
        if job.state == JobState::Activated && job.attempt >= job.last_attempt {
            return fail("is ready, but has no attempt left");
        }
        if job.changed_ms > machine.now_ms || job.leased_ms > machine.now_ms || job.started_ms > machine.now_ms {
            return fail("changed in the future");
        }
        if job.kill > 0 && !job.state.is_leased() {
            return fail("was killed while nobody holds it, but lives");
        }
    }
    Ok(())
}

fn check_tasks(machine: &Machine) -> Result<(), String> {
    for task in machine.tasks.values() {
        let fail = |what: &str| Err(format!("task {}: {what}: {task:?}", task.seq));
        let mut counts = [0u32; STATES];
        let end = task.first() + u64::from(task.jobs);
        machine.jobs.from(task.first()).take_while(|j| j.seq < end).for_each(|j| counts[j.state as usize] += 1);
        counts[task.rest_state as usize] += task.rest_len();
        let live = JobState::Finished as usize;
        if counts[..live] != task.counts[..live] {
            return fail(&format!("counts differ from a recount {counts:?}"));
        }
        if task.counts.iter().sum::<u32>() != task.jobs {
            return fail("counts do not add up to its jobs");
        }
        if end > machine.next_seq {
            return fail("its numbers were never handed out");
        }
        if !task.array && task.rest_len() > 0 {
            return fail("jobs not yet made, though it is no array");
        }
        if task.rest_end.is_some() && task.rest_len() > 0 {
            return fail("the jobs never made have ended, but some are left");
        }
        let waits = |job: &Job| !job.state.is_leased();
        if task.too_many_failed() && machine.jobs.from(task.first()).take_while(|j| j.seq < end).any(waits) {
            return fail("too many of its jobs have failed, but some wait to run");
        }
        if task.ended() == task.jobs {
            return fail("all its jobs have ended, but it lives");
        }
        if task.rest.iter().any(|&(a, b)| a >= b || b > task.jobs) || task.rest.windows(2).any(|w| w[0].1 >= w[1].0) {
            return fail("ranges of jobs not yet made overlap or are empty");
        }
    }
    Ok(())
}

/// Every job waits for exactly those of its parents that live.
fn check_dependencies(machine: &Machine) -> Result<(), String> {
    for task in machine.tasks.values() {
        let Some(deps) = &task.deps else { continue };
        let live = |position: u32| machine.jobs.get(task.first() + u64::from(position));
        if deps.is_empty() || task.array || deps.edges().iter().any(|&(a, b)| a.max(b) >= task.jobs) {
            return Err(format!("task {}: its dependencies do not fit it", task.seq));
        }
        for child in (0..task.jobs).filter_map(live) {
            let position = task.position(child.seq).expect("it was found by its position");
            let unmet = deps.parents(position).filter(|&parent| live(parent).is_some()).count();
            if unmet != child.unmet as usize {
                return Err(format!("job {}: {unmet} jobs it depends on live, {} are counted", child.seq, child.unmet));
            }
        }
    }
    match machine.jobs.from(0).find(|j| j.unmet > 0 && machine.tasks[&j.task].deps.is_none()) {
        Some(job) => Err(format!("job {}: waits in a task without dependencies", job.seq)),
        None => Ok(()),
    }
}

/// Sums that are kept instead of counted, and the memory of submissions.
fn check_totals(machine: &Machine) -> Result<(), String> {
    let unmade: u64 = machine.tasks.values().map(|t| u64::from(t.rest_len())).sum();
    if unmade != machine.unmade {
        return Err(format!("{} jobs not yet made are counted, there are {unmade}", machine.unmade));
    }
    let bytes: usize = machine.tasks.values().map(|t| t.memory_bytes()).sum();
    if bytes != machine.task_bytes {
        return Err(format!("{} bytes of tasks are counted, there are {bytes}", machine.task_bytes));
    }
    if let Some(id) = machine.known.keys().find(|id| submission_time_ms(id) < machine.dedup_floor_ms) {
        return Err(format!("submission {id:?} is remembered, though older than the floor"));
    }
    if machine.known.len() > DEDUP_MAX {
        return Err(format!("{} submissions are remembered", machine.known.len()));
    }
    Ok(())
}

fn check_classes(machine: &Machine) -> Result<(), String> {
    let mut refs: BTreeMap<u32, u32> = BTreeMap::new();
    let mut counts: BTreeMap<u32, [u32; STATES]> = BTreeMap::new();
    for job in machine.jobs.from(0) {
        *refs.entry(job.class.0).or_default() += 1;
        counts.entry(job.class.0).or_insert([0; STATES])[job.state as usize] += 1;
    }
    for task in machine.tasks.values() {
        *refs.entry(task.class.0).or_default() += 1;
        counts.entry(task.class.0).or_insert([0; STATES])[task.rest_state as usize] += task.rest_len();
    }
    for (id, class) in machine.classes.iter() {
        if refs.remove(&id.0).unwrap_or(0) != machine.classes.refs(id) {
            return Err(format!("class {}: {} references are kept, a recount differs", id.0, machine.classes.refs(id)));
        }
        if counts.remove(&id.0).unwrap_or([0; STATES]) != class.counts {
            return Err(format!("class {}: counts {:?} differ from a recount", id.0, class.counts));
        }
    }
    match refs.keys().next() {
        Some(id) => Err(format!("class {id} is used but does not exist")),
        None => Ok(()),
    }
}

fn check_holders(machine: &Machine) -> Result<(), String> {
    let mut leases: BTreeMap<u64, u32> = BTreeMap::new();
    for job in machine.jobs.from(0).filter(|j| j.state.is_leased()) {
        *leases.entry(job.session).or_default() += 1;
    }
    let kept: BTreeMap<u64, u32> = machine.holders.iter().map(|(&s, h)| (s, h.leases)).collect();
    if leases == kept { Ok(()) } else { Err(format!("sessions hold {leases:?}, but {kept:?} is kept")) }
}
