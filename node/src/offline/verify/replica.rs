//! One replica's state: its blocks, its records, its place in the log, and the machine that they make.

use super::archive;
use crate::error::Error;
use crate::offline::finding::{Remedy, Report};
use crate::offline::folder::ReplicaFolder;
use crate::offline::replay::{AnyMachine, reaches};
use crate::store::{Applied, RaftLog, SegmentLog, SharedRocks, StateStore};
use moso_queue::Machine;
use moso_queue::meta::MetaView;
use std::collections::BTreeSet;

/// Records of one kind that are named one by one.
const NAMED_MAX: usize = 5;

/// A replica's digest at a position that it has applied, or that its log leads to.
pub struct Verified {
    /// Position.
    pub at: Applied,
    /// Digest there.
    pub digest: u64,
}

/// Verifies a replica; its digests where it stands and at those goals that its log reaches.
pub fn verify(
    replica: &ReplicaFolder,
    shared: &SharedRocks,
    log: Option<&SegmentLog>,
    goals: &[Applied],
    report: &mut Report<'_>,
) -> Vec<Verified> {
    let shard = replica.shard;
    let place = format!("shard {shard}");
    let remedy = Remedy::ReplaceReplica(shard);
    let store = match StateStore::open_read_only(&replica.path, shard, shared) {
        Ok(store) => store,
        Err(error) => {
            report.finding(place, error, remedy);
            return Vec::new();
        }
    };
    let damaged = store.damaged_blocks();
    for block in &damaged {
        report.finding(&place, block, remedy);
    }
    let applied = store.applied().map(|(applied, _)| applied).unwrap_or_default();
    let members_ok = store.applied().is_none_or(|(_, conf)| {
        [&conf.voters, &conf.learners, &conf.voters_outgoing].iter().any(|ids| ids.contains(&replica.peer))
    });
    if !members_ok {
        report.finding(&place, format_args!("replica {} is not in its configuration", replica.peer), remedy);
    }
    if let Some(log) = log {
        against_log(shard, log, applied, report);
    }
    let machine = match AnyMachine::load(shard, &store) {
        Ok(machine) => machine,
        Err(error) => {
            // A damaged block was named already, with its file.
            if damaged.is_empty() {
                report.finding(&place, error, remedy);
            }
            return Vec::new();
        }
    };
    let digest = machine.digest();
    let counted = match &machine {
        AnyMachine::Meta(machine) => match MetaView::new(machine) {
            Ok(_) => format!("version {}", machine.version()),
            Err(error) => {
                report.finding(&place, error, remedy);
                return Vec::new();
            }
        },
        AnyMachine::Shard(machine) => verify_machine(&store, machine, damaged.is_empty(), report),
    };
    let reach = log.and_then(|log| log.load(shard).ok());
    let reach = reach.map_or("unreadable".into(), |l| format!("{}..{}", l.first_index, l.last_index + 1));
    report.note(format_args!(
        "shard {shard}: replica {}, applied {} (term {}), log {reach}, {counted}, digest {digest:016x}",
        replica.peer, applied.index, applied.term
    ));
    let mut verified = vec![Verified { at: applied, digest }];
    if let Some(log) = log {
        follow(shard, machine, log, applied, goals, &mut verified, report);
    }
    verified
}

/// The log must hold what the state has not applied, and reach as far as it has.
fn against_log(shard: u16, log: &SegmentLog, applied: Applied, report: &mut Report<'_>) {
    let Ok(held) = log.load(shard) else { return };
    let place = format!("shard {shard}, index {}", applied.index);
    let (cut, last) = (held.truncated.0, held.last_index);
    if cut > applied.index {
        let what = format!("the log was cut at {cut}, but the state has applied only {}", applied.index);
        report.finding(place, what, Remedy::ReplaceReplica(shard));
    } else if applied.index > last {
        let what = format!("the state has applied {}, but the log ends at {last}: its tail is lost", applied.index);
        report.finding(place, what, Remedy::ReplaceNode);
    } else if log.term(shard, applied.index).is_ok_and(|term| term != applied.term) {
        let what = format!("applied in term {}, but the log's entry has another term", applied.term);
        report.finding(place, what, Remedy::ReplaceReplica(shard));
    }
}

/// Invariants, bodies and archive; figures for people. What rests on blocks that cannot be read is not looked at.
fn verify_machine(store: &StateStore, machine: &Machine, whole: bool, report: &mut Report<'_>) -> String {
    let shard = machine.shard().0;
    let remedy = Remedy::ReplaceReplica(shard);
    if let Err(what) = moso_queue::check::check(machine) {
        report.finding(format_args!("shard {shard}"), what, remedy);
    }
    let mut archived = 0;
    if whole {
        for result in [verify_bodies(store, machine, report), archive::verify(store, machine, report, &mut archived)] {
            if let Err(error) = result {
                report.finding(format_args!("shard {shard}"), error, remedy);
            }
        }
    }
    format!("{} jobs live, {archived} jobs archived", machine.live())
}

/// A live job has its body, an array's jobs share one under their task's number, as do the dependencies of a task; and
/// there are no others.
fn verify_bodies(store: &StateStore, machine: &Machine, report: &mut Report<'_>) -> Result<(), Error> {
    let shard = machine.shard().0;
    let of_array = |task: u64| machine.task(task).is_some_and(|task| task.array);
    let mut missing: BTreeSet<u64> =
        machine.jobs().from(0).filter(|job| !of_array(job.task)).map(|job| job.seq).collect();
    missing.extend(machine.tasks_from(0).filter(|task| task.array || task.deps.is_some()).map(|task| task.seq));
    let mut orphans = BTreeSet::new();
    store.for_each_body(|seq, _| {
        if !missing.remove(&seq) {
            orphans.insert(seq);
        }
        Ok(())
    })?;
    for (what, which) in [("lives without its body", missing), ("has ended, but its body is there", orphans)] {
        name_some(shard, &which, what, report);
    }
    Ok(())
}

/// Names the first of some jobs or tasks, and says how many there are.
pub fn name_some(shard: u16, which: &BTreeSet<u64>, what: &str, report: &mut Report<'_>) {
    for seq in which.iter().take(NAMED_MAX) {
        report.finding(format_args!("shard {shard}, job or task {seq}"), what, Remedy::ReplaceReplica(shard));
    }
    if which.len() > NAMED_MAX {
        report.note(format_args!("shard {shard}: and {} more like this", which.len() - NAMED_MAX));
    }
}

/// Applies the log in memory up to where other replicas stand.
fn follow(
    shard: u16,
    mut machine: AnyMachine,
    log: &SegmentLog,
    applied: Applied,
    goals: &[Applied],
    verified: &mut Vec<Verified>,
    report: &mut Report<'_>,
) {
    let mut at = applied;
    for &goal in goals.iter().filter(|goal| goal.index > applied.index) {
        if !reaches(log, shard, at, goal) {
            continue;
        }
        if let Err(error) = machine.apply_log(shard, log, at.index, goal.index) {
            return report.finding(format_args!("log of shard {shard}"), error, Remedy::ReplaceNode);
        }
        at = goal;
        verified.push(Verified { at, digest: machine.digest() });
    }
}
