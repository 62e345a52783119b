//! The log of a stopped node: every checksum, no gap, terms that do not fall, a hard state that fits.

use crate::offline::finding::{Remedy, Report};
use crate::store::log::{Surveyed, Use, survey};
use crate::store::{RaftLog, SegmentLog, log_dir};
use moso_queue::command::{Command, read_entry};
use moso_queue::meta::MetaCommand;
use raft::eraftpb::{Entry, EntryType};
use std::path::Path;

/// Bytes of entries read at a time.
const READ_BYTES: u64 = 8 << 20;

/// Verifies the log in a data folder; the log, if it can be read.
pub fn verify(data: &Path, report: &mut Report<'_>) -> Option<SegmentLog> {
    let dir = log_dir(data);
    if !dir.exists() {
        report.finding("log", "the folder is missing", Remedy::ReplaceNode);
        return None;
    }
    let (files, missing) = match survey(&dir) {
        Ok(found) => found,
        Err(error) => {
            report.finding("log", error, Remedy::CheckDisk);
            return None;
        }
    };
    let mut told = !missing.is_empty();
    for number in missing {
        report.finding(format_args!("log, segment {number}"), "is needed and missing", Remedy::ReplaceNode);
    }
    for file in &files {
        told |= verify_file(file, report);
    }
    let used = files.iter().filter(|file| matches!(file.part, Use::Newest(_) | Use::Needed(_)));
    let (used, batches) = used.fold((0, 0), |(used, batches), file| (used + 1, batches + file.batches));
    report.note(format_args!("log: {used} segments in use, {batches} whole writes, {} free files", files.len() - used));
    match SegmentLog::open_read_only(&dir) {
        Ok(log) => {
            log.shards().into_iter().for_each(|shard| verify_shard(&log, shard, report));
            Some(log)
        }
        Err(error) => {
            if !told {
                report.finding("log", error, Remedy::ReplaceNode);
            }
            None
        }
    }
}

/// Whether anything in it is damaged so that the log cannot be read.
fn verify_file(file: &Surveyed, report: &mut Report<'_>) -> bool {
    let name = format!("log/{}", super::name(&file.path));
    let mut grave = false;
    for (at, what) in &file.damage {
        // A head has two copies.
        let copy = *at == 0 && file.part != Use::Unknown;
        grave |= !copy;
        let remedy = if copy { Remedy::CheckDisk } else { Remedy::ReplaceNode };
        report.finding(format_args!("{name} at byte {at}"), what, remedy);
    }
    if file.torn {
        report.note(format_args!(
            "{name} at byte {}: an incomplete write, as a crash leaves it; nobody was told of it",
            file.end
        ));
    }
    grave
}

fn verify_shard(log: &SegmentLog, shard: u16, report: &mut Report<'_>) {
    let held = match log.load(shard) {
        Ok(held) => held,
        Err(error) => return report.finding(format_args!("log of shard {shard}"), error, Remedy::ReplaceNode),
    };
    let place = |index: u64| format!("log of shard {shard}, index {index}");
    let mut last_term = held.truncated.1;
    let mut next = held.first_index;
    while next <= held.last_index {
        let entries = match log.entries(shard, next, held.last_index + 1, READ_BYTES) {
            Ok(entries) => entries,
            Err(error) => {
                report.finding(place(next), error, Remedy::ReplaceNode);
                return;
            }
        };
        for entry in entries {
            if entry.term < last_term {
                let what = format!("its term is {}, that of the entry before is {last_term}", entry.term);
                report.finding(place(entry.index), what, Remedy::ReplaceNode);
            }
            last_term = entry.term;
            if let Err(what) = decodes(shard, &entry) {
                report.finding(place(entry.index), what, Remedy::ReplaceNode);
            }
            next = entry.index + 1;
        }
    }
    let state = &held.hard_state;
    if state.term < last_term {
        let what = format!("the term voted in is {}, but the log ends in term {last_term}", state.term);
        report.finding(place(held.last_index), what, Remedy::ReplaceNode);
    }
    if state.commit > held.last_index {
        let what = format!("{} is committed, but the log ends here: its tail is lost", state.commit);
        report.finding(place(held.last_index), what, Remedy::ReplaceNode);
    }
}

/// What does not decode, in words.
fn decodes(shard: u16, entry: &Entry) -> std::result::Result<(), String> {
    if entry.get_entry_type() != EntryType::EntryNormal || entry.data.is_empty() {
        return Ok(());
    }
    if shard == 0 {
        let (_, command) = entry.data.split_first_chunk::<8>().ok_or("a short entry of the meta group")?;
        return MetaCommand::decode(command).map(drop).map_err(|error| error.to_string());
    }
    let all = || -> std::result::Result<(), moso_queue::Error> {
        let (_, commands) = read_entry(entry.data.clone())?;
        commands.into_iter().try_for_each(|command| Command::decode(command).map(drop))
    };
    all().map_err(|error| error.to_string())
}
