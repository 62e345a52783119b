//! The record of a run: a fingerprint of all events, and the newest ones in full.

use super::words::{is_small, words};
use moso_queue::command::Command;
use moso_shard::MessageType;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Events kept for the report of a failure.
const KEPT: usize = 400;
/// Events told in the report, small ones aside.
const TOLD: usize = 80;

/// Something that happened.
#[derive(Clone, Debug, Hash)]
#[allow(missing_docs)]
pub enum Note {
    Start {
        node: usize,
        shard: u16,
        applied: u64,
        last: u64,
    },
    Crash {
        node: usize,
        survived: usize,
        lost: usize,
    },
    Fault(String),
    Lost {
        from: usize,
        to: usize,
        shard: u16,
    },
    Got {
        node: usize,
        shard: u16,
        kind: MessageType,
        from: u64,
        term: u64,
        index: u64,
        commit: u64,
        entries: usize,
        reject: bool,
        taken: bool,
    },
    Append {
        node: usize,
        shard: u16,
        number: u64,
        first: u64,
        entries: usize,
        term: u64,
    },
    Synced {
        node: usize,
        tasks: usize,
    },
    Flushed {
        node: usize,
        shard: u16,
        index: u64,
    },
    Cut {
        node: usize,
        shard: u16,
        index: u64,
    },
    Copy {
        node: usize,
        shard: u16,
        what: &'static str,
        peer: u64,
        index: u64,
    },
    Role {
        node: usize,
        shard: u16,
        term: u64,
        leads: bool,
    },
    Serves {
        node: usize,
        shard: u16,
        term: u64,
    },
    Applied {
        node: usize,
        shard: u16,
        index: u64,
        digest: u64,
    },
    Committed {
        shard: u16,
        index: u64,
        term: u64,
        command: String,
        reply: String,
    },
    Asked {
        client: usize,
        request: u64,
        node: usize,
        shard: u16,
        what: &'static str,
    },
    Answered {
        client: usize,
        request: u64,
        answer: String,
    },
    Client {
        client: usize,
        what: &'static str,
        n: u64,
    },
}

/// A fingerprint of all events, and the newest ones.
pub struct Trace {
    hasher: DefaultHasher,
    events: u64,
    newest: VecDeque<(u64, Note)>,
    verbose: bool,
}

impl Trace {
    /// Empty; `verbose` prints each event as it happens.
    pub fn new(verbose: bool) -> Trace {
        Trace { hasher: DefaultHasher::new(), events: 0, newest: VecDeque::with_capacity(KEPT), verbose }
    }

    /// Records an event.
    pub fn add(&mut self, time_ms: u64, note: Note) {
        self.events += 1;
        time_ms.hash(&mut self.hasher);
        note.hash(&mut self.hasher);
        if self.verbose {
            println!("{}", line(time_ms, &note));
        }
        if self.newest.len() == KEPT {
            self.newest.pop_front();
        }
        self.newest.push_back((time_ms, note));
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Fingerprint of all events so far.
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// The newest events, a line each.
    pub fn tail(&self) -> String {
        let mut out = String::new();
        let telling: Vec<_> = self.newest.iter().filter(|(_, note)| !is_small(note)).collect();
        for (time_ms, note) in &telling[telling.len().saturating_sub(TOLD)..] {
            let _ = writeln!(out, "{}", line(*time_ms, note));
        }
        out
    }
}

fn line(time_ms: u64, note: &Note) -> String {
    format!("{:>10.3} s  {}", time_ms as f64 / 1e3, words(note))
}

/// Name of a command.
pub fn command_name(command: &Command) -> &'static str {
    match command {
        Command::Submit(_) => "submit",
        Command::Lease { .. } => "lease",
        Command::Results { .. } => "results",
        Command::Expire { .. } => "expire",
        Command::Unheld { .. } => "unheld",
        Command::Phase { .. } => "phase",
        Command::Wake { .. } => "wake",
        Command::TimeOut { .. } => "time out",
        Command::Act { .. } => "act",
        Command::Prune { .. } => "prune",
    }
}

/// A command in a line, without what makes it long.
pub fn command_line(command: &Command) -> String {
    match command {
        Command::Submit(submit) => format!(
            "submit {:02x?} array {} jobs {} not_before {} expires {} max_failed {}",
            &submit.submission[6..10],
            submit.array,
            submit.jobs.len(),
            submit.not_before_ms,
            submit.expires_at_ms,
            submit.max_failed
        ),
        Command::Results { session, results } => {
            let results: Vec<_> = results.iter().map(|r| (r.seq, r.attempt, r.outcome)).collect();
            format!("results session {session:x} {results:?}")
        }
        other => format!("{other:?}"),
    }
}
