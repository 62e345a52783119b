//! How long the stages of a command take on a shard's leader, as `/metrics` shows them.

use metrics::Histogram;
use std::collections::VecDeque;
use std::time::Instant;

/// Histograms of the stages, and what is under way.
pub struct Stages {
    /// Left in the inbox to taken out; of the first request of each turn, which waited longest.
    pub queue: Histogram,
    /// Taken from the inbox to proposed; of the first command of each entry.
    batch: Histogram,
    /// Proposed to committed and applied: the log of a majority. Of each entry; of several proposed in one turn, the
    /// last.
    quorum: Histogram,
    /// Taken from the inbox to answered: batch, quorum and the write to the store. Of each command.
    pub commit: Histogram,
    /// Applying the entries of a turn and sending what is to be sent.
    pub apply: Histogram,
    /// Writing a turn's effects to the store.
    pub state: Histogram,
    gathered: Option<Instant>,
    proposed: VecDeque<(u64, Instant)>,
}

impl Default for Stages {
    fn default() -> Self {
        let stage = |name: &'static str| metrics::histogram!("moso_stage_seconds", "stage" => name);
        Stages {
            queue: stage("queue"),
            batch: stage("batch"),
            quorum: stage("quorum"),
            commit: stage("commit"),
            apply: stage("apply"),
            state: stage("state"),
            gathered: None,
            proposed: VecDeque::new(),
        }
    }
}

impl Stages {
    /// A command was taken in, to be proposed with others.
    pub fn gather(&mut self, now: Instant) {
        self.gathered.get_or_insert(now);
    }

    /// Entries up to this index were proposed.
    pub fn proposed(&mut self, index: u64) {
        let now = Instant::now();
        if let Some(first) = self.gathered.take() {
            self.batch.record(now - first);
        }
        self.proposed.push_back((index, now));
    }

    /// Entries up to this index are applied.
    pub fn applied(&mut self, index: u64) {
        while let Some((_, since)) = self.proposed.front().filter(|(proposed, _)| *proposed <= index) {
            self.quorum.record(since.elapsed());
            self.proposed.pop_front();
        }
    }

    /// Another replica may lead: what is under way may never end.
    pub fn forget(&mut self) {
        self.gathered = None;
        self.proposed.clear();
    }
}
