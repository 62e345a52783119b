//! `moso-node dump`: the log's entries and the state's records, one line each.

mod commands;
mod line;
mod records;

use self::line::Line;
use super::folder::StoppedFolder;
use crate::error::{Error, Result};
use crate::store::{RaftLog, SegmentLog, SharedOptions, SharedRocks, log_dir};
use clap::Args;
use raft::eraftpb::{Entry, EntryType};
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;

/// What is printed.
#[derive(Clone, Debug, Default, Args)]
pub struct DumpOptions {
    /// Only this shard; 0: the meta group.
    #[arg(long, value_name = "N")]
    pub shard: Option<u16>,
    /// The log's entries; without --state, nothing else.
    #[arg(long)]
    pub log: bool,
    /// The state's records; without --log, nothing else.
    #[arg(long)]
    pub state: bool,
    /// The log's entries from this index on.
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    pub from: u64,
    /// The log's entries up to this index.
    #[arg(long, value_name = "INDEX", default_value_t = u64::MAX)]
    pub to: u64,
    /// Print JSON objects, one a line.
    #[arg(long)]
    pub json: bool,
}

impl DumpOptions {
    fn wants(&self, shard: u16) -> bool {
        self.shard.is_none_or(|wanted| wanted == shard)
    }
}

/// Where lines go.
pub struct Printer<'a> {
    out: &'a mut dyn Write,
    json: bool,
    /// Something could not be read.
    failed: bool,
}

impl Printer<'_> {
    /// Prints a line.
    ///
    /// # Errors
    /// Of printing.
    pub fn print(&mut self, line: &Line) -> io::Result<()> {
        if self.json { writeln!(self.out, "{}", line.json()) } else { writeln!(self.out, "{line}") }
    }

    /// Prints what could not be read.
    ///
    /// # Errors
    /// Of printing.
    pub fn error(&mut self, shard: u16, error: &Error) -> io::Result<()> {
        self.failed = true;
        self.print(&Line::new("error").with("shard", shard).with("message", error.to_string()))
    }
}

/// Prints the folder's content; whether all of it could be read.
///
/// # Errors
/// Of printing.
pub fn dump(path: &Path, options: &DumpOptions, out: &mut dyn Write) -> io::Result<bool> {
    let mut printer = Printer { out, json: options.json, failed: false };
    let folder = match StoppedFolder::open(path) {
        Ok(folder) => folder,
        Err(error) => {
            eprintln!("moso-node: {error}");
            return Ok(false);
        }
    };
    let both = options.log == options.state;
    if options.log || both {
        dump_log(path, options, &mut printer)?;
    }
    if options.state || both {
        dump_state(&folder, options, &mut printer)?;
    }
    Ok(!printer.failed)
}

fn dump_log(path: &Path, options: &DumpOptions, printer: &mut Printer<'_>) -> io::Result<()> {
    let log = match SegmentLog::open_read_only(&log_dir(path)) {
        Ok(log) => log,
        Err(error) => return printer.error(0, &error),
    };
    for shard in log.shards().into_iter().filter(|shard| options.wants(*shard)) {
        let held = match log.load(shard) {
            Ok(held) => held,
            Err(error) => {
                printer.error(shard, &error)?;
                continue;
            }
        };
        let state = &held.hard_state;
        let head = Line::new("log")
            .with("shard", shard)
            .with("first", held.first_index)
            .with("last", held.last_index)
            .with("cut", held.truncated.0)
            .with("cut_term", held.truncated.1)
            .with("term", state.term)
            .with("vote", state.vote)
            .with("commit", state.commit);
        printer.print(&head)?;
        let first = held.first_index.max(options.from);
        for index in first..held.last_index.min(options.to).saturating_add(1) {
            match entry(&log, shard, index) {
                Ok(entry) => printer.print(&entry_line(shard, &entry))?,
                Err(error) => printer.error(shard, &error)?,
            }
        }
    }
    Ok(())
}

fn entry(log: &SegmentLog, shard: u16, index: u64) -> Result<Entry> {
    let entries = log.entries(shard, index, index + 1, 0)?;
    entries.into_iter().next().ok_or_else(|| Error::damaged(shard, "log entry", index, "missing"))
}

fn entry_line(shard: u16, entry: &Entry) -> Line {
    let line = Line::new("entry")
        .with("shard", shard)
        .with("index", entry.index)
        .with("term", entry.term)
        .with("bytes", entry.data.len());
    match entry.get_entry_type() {
        EntryType::EntryNormal if entry.data.is_empty() => line.with("leader", "begins its term"),
        EntryType::EntryNormal => match commands::decode(shard, entry.data.clone()) {
            Ok((time_ms, commands)) => line.with("time_ms", time_ms).with("commands", commands),
            Err(error) => line.with("damaged", error),
        },
        _ => line.with("members", json!({ "change": hex(&entry.data) })),
    }
}

fn dump_state(folder: &StoppedFolder, options: &DumpOptions, printer: &mut Printer<'_>) -> io::Result<()> {
    let shared = match SharedRocks::new(&SharedOptions::default()) {
        Ok(shared) => shared,
        Err(error) => return printer.error(0, &error),
    };
    for replica in folder.replicas.iter().filter(|replica| options.wants(replica.shard)) {
        records::dump(replica, &shared, printer)?;
    }
    Ok(())
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
