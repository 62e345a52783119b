//! The node's one log writer: everything that reactors hand over while a sync runs goes into the next write. One sync
//! for all shards; only after it do votes and acknowledgements leave, and the replicas hear that they are on disk.
//!
//! A write or sync that fails ends the process (law 1): what the disk holds is not known any more. Only a write that finds
//! the disk full is done again: see [`crate::disk`].

use crate::clock::Clock;
use crate::disk::Disk;
use crate::outbound::Outbound;
use crate::reactor::{Mailbox, reactor_of};
use crate::store::log::{RaftLog, SegmentLog, ShardAppend};
use crossbeam::channel::{Receiver, Sender, bounded};
use moso_shard::Append;
use std::sync::Arc;
use std::time::Instant;

/// Appends waiting for the writer. Each shard has few under way, so this is never reached unless the disk hangs; then
/// reactors wait, and their leaderships go to other nodes.
const QUEUE: usize = 65_536;
/// Bytes of entries in one write: more would make the first of them wait.
const WRITE_BYTES_MAX: usize = 8 << 20;

/// What is asked of the log.
pub enum LogTask {
    /// To be written and synced.
    Append {
        /// Shard.
        shard: u16,
        /// What to write, and what may leave afterwards.
        append: Append,
    },
    /// To be cut off.
    Cut {
        /// Shard.
        shard: u16,
        /// Last entry to go.
        index: u64,
        /// Its term.
        term: u64,
    },
    /// To be forgotten: the replica is gone for good.
    Remove {
        /// Shard.
        shard: u16,
    },
}

/// Hands appends to the writer thread.
#[derive(Clone)]
pub struct LogWriter {
    tasks: Sender<LogTask>,
}

impl LogWriter {
    /// Starts the writer. It ends when all handles are dropped.
    pub fn start(
        log: Arc<SegmentLog>,
        outbound: Outbound,
        mailboxes: Vec<Arc<Mailbox>>,
        disk: Arc<Disk>,
        clock: Clock,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (tasks, inbox) = bounded(QUEUE);
        let thread = std::thread::Builder::new().name("log-writer".into()).spawn(move || {
            let _guard = crate::fault::AbortOnPanic;
            run(&log, &outbound, &mailboxes, &inbox, (&disk, clock));
        })?;
        Ok((LogWriter { tasks }, thread))
    }

    /// Hands an append over.
    pub fn write(&self, task: LogTask) {
        // The writer ends the process before it ends itself.
        let _ = self.tasks.send(task);
    }
}

fn run(
    log: &SegmentLog,
    outbound: &Outbound,
    mailboxes: &[Arc<Mailbox>],
    inbox: &Receiver<LogTask>,
    (disk, clock): (&Disk, Clock),
) {
    let write_time = metrics::histogram!("moso_stage_seconds", "stage" => "log");
    while let Ok(first) = inbox.recv() {
        let mut bytes = size(&first);
        let mut tasks = vec![first];
        while bytes < WRITE_BYTES_MAX
            && let Ok(task) = inbox.try_recv()
        {
            bytes += size(&task);
            tasks.push(task);
        }
        let start = Instant::now();
        disk.pulse.begin(clock.mono_ms());
        if let Err(error) = write(log, &tasks) {
            tracing::error!(%error, "the log could not be written: this node ends, to keep what was promised");
            std::process::abort();
        }
        disk.pulse.end();
        write_time.record(start.elapsed().as_secs_f64());
        for task in tasks {
            let LogTask::Append { shard, append } = task else { continue };
            // Votes and acknowledgements that are dropped are asked for again.
            outbound.raft(shard, append.messages.into_iter());
            mailboxes[reactor_of(shard, mailboxes.len())].persisted(shard, append.number);
        }
        outbound.flush();
    }
}

fn size(task: &LogTask) -> usize {
    match task {
        LogTask::Append { append, .. } => append.entries.iter().map(|e| e.data.len() + 64).sum(),
        LogTask::Cut { .. } | LogTask::Remove { .. } => 0,
    }
}

/// What comes after a removal may be of a new replica of the same shard.
fn write(log: &SegmentLog, tasks: &[LogTask]) -> Result<(), crate::error::Error> {
    for part in tasks.split_inclusive(|task| matches!(task, LogTask::Remove { .. })) {
        write_part(log, part)?;
    }
    Ok(())
}

fn write_part(log: &SegmentLog, tasks: &[LogTask]) -> Result<(), crate::error::Error> {
    let batch: Vec<ShardAppend<'_>> = tasks
        .iter()
        .filter_map(|task| match task {
            LogTask::Append { shard, append } if append.must_sync() => Some(ShardAppend {
                shard: *shard,
                entries: &append.entries,
                hard_state: append.hard_state.as_ref(),
                truncate_suffix_from: None,
                restart: append.restart.map(|at| (at.index, at.term)),
            }),
            _ => None,
        })
        .collect();
    if !batch.is_empty() {
        log.append(&batch)?;
    }
    for task in tasks {
        match *task {
            LogTask::Cut { shard, index, term } => log.truncate_prefix(shard, index, term)?,
            LogTask::Remove { shard } => log.remove(shard)?,
            LogTask::Append { .. } => {}
        }
    }
    Ok(())
}
