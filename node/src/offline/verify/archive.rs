//! The archive and the status log of a replica: every record reads, under the day of its end, and each ended job has one.

use super::replica::name_some;
use crate::error::Result;
use crate::fault::damaged_record;
use crate::offline::finding::{Remedy, Report};
use crate::store::StateStore;
use crate::store::keys::EndedKind;
use crate::views::decode_change;
use bytes::Bytes;
use moso_queue::Machine;
use moso_queue::job::EndedJob;
use moso_queue::task::{EndedTask, Task};
use std::collections::BTreeSet;

const DAY_MS: u64 = 86_400_000;

/// What the archive holds.
#[derive(Default)]
struct Archive {
    /// Numbers of ended jobs, in the order of the keys.
    jobs: Vec<u64>,
    /// First number behind, jobs ended, and day of submission of each ended task, if all of its jobs left a record.
    tasks: Vec<(u64, u64, u64, u64)>,
    /// Oldest day of which anything is left: earlier ones were dropped.
    oldest: Option<u16>,
    /// Records that are filed wrongly.
    misplaced: BTreeSet<u64>,
}

/// Verifies the archive; `archived` is told the number of ended jobs.
///
/// # Errors
/// `Damaged`, `Read`.
pub fn verify(store: &StateStore, machine: &Machine, report: &mut Report<'_>, archived: &mut usize) -> Result<()> {
    let shard = machine.shard().0;
    let mut archive = read(store, machine, shard)?;
    *archived = archive.jobs.len();
    archive.jobs.sort_unstable();
    let twice: BTreeSet<u64> = archive.jobs.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0]).collect();
    name_some(shard, &twice, "has two records in the archive", report);
    let alive = archive.jobs.iter().copied().filter(|&seq| machine.job(seq).is_some()).collect();
    name_some(shard, &alive, "lives, but is in the archive", report);
    name_some(shard, &archive.misplaced, "is archived under a wrong day, or was never handed out", report);
    if archive.jobs.len() as u64 > machine.ended_jobs() {
        let what = format!("{} jobs are archived, but only {} have ended", archive.jobs.len(), machine.ended_jobs());
        report.finding(format_args!("shard {shard}"), what, Remedy::ReplaceReplica(shard));
    }
    let live = machine.tasks_from(0).filter_map(|task| expected(task, task.created_ms));
    name_some(shard, &incomplete(&archive, live), "has ended jobs without a record in the archive", report);
    let ended = archive.tasks.iter().copied();
    name_some(shard, &incomplete(&archive, ended), "has ended, but jobs of it have no record in the archive", report);
    verify_rows(store, machine, report)
}

fn read(store: &StateStore, machine: &Machine, shard: u16) -> Result<Archive> {
    let mut archive = Archive::default();
    store.for_each_ended(|day, kind, seq, bytes| {
        let bytes = Bytes::copy_from_slice(bytes);
        let damaged = |error: moso_queue::Error| damaged_record(shard, seq, &error);
        archive.oldest.get_or_insert(day);
        let ended_ms = match kind {
            EndedKind::Job => {
                archive.jobs.push(seq);
                EndedJob::decode(seq, bytes).map_err(damaged)?.ended_ms
            }
            EndedKind::Task => {
                let task = EndedTask::decode(seq, bytes).map_err(damaged)?.task;
                archive.tasks.extend(expected(&task, task.created_ms));
                task.ended_ms
            }
        };
        if ended_ms / DAY_MS != u64::from(day) || seq >= machine.next_seq() {
            archive.misplaced.insert(seq);
        }
        Ok(())
    })?;
    Ok(archive)
}

/// Task, number behind its jobs, jobs that must have a record, time of submission. `None`: jobs of an array that were
/// never made leave none.
fn expected(task: &Task, created_ms: u64) -> Option<(u64, u64, u64, u64)> {
    let behind = task.first() + u64::from(task.jobs);
    task.rest_end.is_none().then(|| (task.seq, behind, u64::from(task.ended()), created_ms))
}

/// Tasks of which fewer or more records are there than jobs have ended. Older tasks than the oldest day left may have
/// lost some with an earlier day.
fn incomplete(archive: &Archive, tasks: impl Iterator<Item = (u64, u64, u64, u64)>) -> BTreeSet<u64> {
    let oldest = archive.oldest.map_or(u64::MAX, |day| u64::from(day) * DAY_MS);
    let before = |seq: u64| archive.jobs.partition_point(|&job| job < seq) as u64;
    tasks
        .filter(|&(seq, behind, ended, created_ms)| created_ms >= oldest && before(behind) - before(seq) != ended)
        .map(|(seq, ..)| seq)
        .collect()
}

fn verify_rows(store: &StateStore, machine: &Machine, report: &mut Report<'_>) -> Result<()> {
    let shard = machine.shard().0;
    let mut misplaced = BTreeSet::new();
    store.for_each_row(|day, seq, bytes| {
        let row = decode_change(seq, Bytes::copy_from_slice(bytes)).map_err(|e| damaged_record(shard, seq, &e))?;
        if row.time_ms / DAY_MS != u64::from(day) || seq >= machine.next_seq() {
            misplaced.insert(seq);
        }
        Ok(())
    })?;
    name_some(shard, &misplaced, "has a row of its status log under a wrong day, or was never handed out", report);
    Ok(())
}
