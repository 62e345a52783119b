//! All invariants of a shard's state, checked by walking everything. For tests, the simulator and the verification of
//! a stopped store; far too slow for the path of a job.

use crate::job::Reason;
use crate::machine::Machine;
use moso_proto::JobState;
use moso_proto::state::STATES;
use std::collections::BTreeMap;

/// The first violated invariant, in words.
pub fn check(machine: &Machine) -> Result<(), String> {
    check_jobs(machine)?;
    check_tasks(machine)?;
    check_classes(machine)?;
    check_holders(machine)
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
        if job.state.is_leased() && (job.session == 0 || job.attempt == 0 || job.ttl_ms == 0) {
            return fail("a lease without session, attempt or time");
        }
        if job.attempt > job.last_attempt.max(1) {
            return fail("more attempts than allowed");
        }
        if (job.state == JobState::Waiting) != (job.unmet > 0 && job.reason == Reason::Parents) && job.reason != Reason::Held {
            return fail("waits for nothing, or does not wait");
        }
        if job.changed_ms > machine.now_ms {
            return fail("changed in the future");
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
        if task.ended() == task.jobs {
            return fail("all its jobs have ended, but it lives");
        }
        if task.rest.iter().any(|&(a, b)| a >= b || b > task.jobs) || task.rest.windows(2).any(|w| w[0].1 >= w[1].0) {
            return fail("ranges of jobs not yet made overlap or are empty");
        }
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
