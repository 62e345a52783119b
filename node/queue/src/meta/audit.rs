//! What operators did, and what others tried: kept with the objects, so that it outlives any node.

use super::limits;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What somebody did or tried, as the node that he called tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditWord {
    /// Who.
    pub actor: String,
    /// What: a verb, as `put`, `kill`, `backup`.
    pub action: String,
    /// On what.
    pub target: String,
    /// What came of it, as far as the node knows; of a change of an object the machine says it.
    pub outcome: String,
    /// The node that was called.
    pub node: u32,
}

impl AuditWord {
    /// Cuts texts that are too long: what is written down must not be refused.
    pub fn cut(mut self) -> Self {
        for text in [&mut self.actor, &mut self.action, &mut self.target, &mut self.outcome] {
            if text.len() > limits::AUDIT_TEXT_BYTES_MAX {
                text.truncate(text.floor_char_boundary(limits::AUDIT_TEXT_BYTES_MAX));
                text.push('…');
            }
        }
        self
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Counts entries, from 1.
    pub seq: u64,
    /// When, Unix ms by the leader's clock.
    pub time_ms: u64,
    /// What.
    pub word: AuditWord,
}

/// The entries that are kept, oldest first. The newest is always kept, so numbers go on.
#[derive(Debug, Default)]
pub(super) struct AuditLog {
    entries: VecDeque<AuditEntry>,
}

impl AuditLog {
    /// Of entries in any order.
    pub fn load(mut entries: Vec<AuditEntry>) -> Self {
        entries.sort_by_key(|entry| entry.seq);
        AuditLog { entries: entries.into() }
    }

    /// Adds an entry and drops those beyond the limits, whose numbers are given back.
    pub fn add(&mut self, time_ms: u64, word: AuditWord, most: usize, days: u64) -> (AuditEntry, Vec<u64>) {
        let seq = self.entries.back().map_or(0, |last| last.seq) + 1;
        let entry = AuditEntry { seq, time_ms, word: word.cut() };
        self.entries.push_back(entry.clone());
        let oldest_ms = time_ms.saturating_sub(days.saturating_mul(limits::DAY_MS));
        let mut dropped = Vec::new();
        while self.entries.len() > 1
            && self.entries.front().is_some_and(|first| self.entries.len() > most || first.time_ms < oldest_ms)
        {
            dropped.extend(self.entries.pop_front().map(|first| first.seq));
        }
        (entry, dropped)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &AuditEntry> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(actor: &str) -> AuditWord {
        AuditWord { actor: actor.into(), ..AuditWord::default() }
    }

    #[test]
    fn old_entries_go_and_numbers_rise() {
        let mut log = AuditLog::default();
        for n in 1..=5 {
            let (entry, dropped) = log.add(n, word("anna"), 3, 1);
            assert_eq!((entry.seq, dropped), (n, if n > 3 { vec![n - 3] } else { vec![] }));
        }
        // After ten days only the new one is left.
        let (entry, dropped) = log.add(10 * limits::DAY_MS, word("bob"), 3, 1);
        assert_eq!((entry.seq, dropped), (6, vec![3, 4, 5]));
        let loaded = AuditLog::load(log.iter().rev().cloned().collect());
        assert_eq!(loaded.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn long_texts_are_cut() {
        let cut = word(&"é".repeat(10_000)).cut();
        assert!(cut.actor.len() <= limits::AUDIT_TEXT_BYTES_MAX + 3 && cut.actor.ends_with('…'));
    }
}
