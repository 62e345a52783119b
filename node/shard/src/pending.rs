//! Replies owed to those whose commands were proposed.

use crate::output::Position;
use std::collections::VecDeque;

/// Replies owed by a leader, each to whoever waits for the entry at a position of the log.
///
/// A proposal ends in one of two ways: the entry with its index and term is applied ([`take`](Pending::take)), or it is
/// given up because another entry took its index or the leadership was lost. Given up does not mean undone: the next
/// leader may still commit it. The waiting are told that the outcome is unknown, and repeat.
///
/// Invariants: indexes rise strictly; owed and aborted together are at most `max`.
#[derive(Debug)]
pub struct Pending<T> {
    owed: VecDeque<(Position, T)>,
    aborted: Vec<T>,
    max: usize,
}

impl<T> Pending<T> {
    /// Owes at most `max` replies at a time.
    pub fn new(max: usize) -> Pending<T> {
        Pending { owed: VecDeque::new(), aborted: Vec::new(), max }
    }

    /// Whether one more may be owed. Ask before proposing.
    pub fn has_room(&self) -> bool {
        self.owed.len() + self.aborted.len() < self.max
    }

    /// Replies owed.
    pub fn len(&self) -> usize {
        self.owed.len()
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Owes a reply to the command proposed at `position`. If an entry of an earlier term stood there, the leadership was
    /// lost since: what is owed from there on is aborted.
    ///
    /// # Panics
    /// If there is no room.
    pub fn push(&mut self, position: Position, reply: T) {
        assert!(self.has_room(), "{} replies are owed", self.max);
        let kept = self.owed.partition_point(|(owed, _)| owed.index < position.index);
        self.aborted.extend(self.owed.drain(kept..).map(|(_, reply)| reply));
        self.owed.push_back((position, reply));
    }

    /// The reply owed for the entry applied at `position`. What is owed for lower indexes, or for this one in another
    /// term, is aborted.
    pub fn take(&mut self, position: Position) -> Option<T> {
        self.abort_below(position.index);
        if self.owed.front()?.0.index > position.index {
            return None;
        }
        let (owed, reply) = self.owed.pop_front()?;
        if owed == position {
            return Some(reply);
        }
        self.aborted.push(reply);
        None
    }

    /// Aborts what is owed up to `index`: entries that were applied without being taken.
    pub fn abort_to(&mut self, index: u64) {
        self.abort_below(index.saturating_add(1));
    }

    /// Aborts all that is owed. Called when the leadership or the term is lost.
    pub fn abort_all(&mut self) {
        self.aborted.extend(self.owed.drain(..).map(|(_, reply)| reply));
    }

    /// Takes what was aborted, to be told that the outcome is not known.
    pub fn take_aborted(&mut self) -> Vec<T> {
        std::mem::take(&mut self.aborted)
    }

    fn abort_below(&mut self, index: u64) {
        while self.owed.front().is_some_and(|(owed, _)| owed.index < index) {
            self.aborted.extend(self.owed.pop_front().map(|(_, reply)| reply));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, index: u64) -> Position {
        Position { term, index }
    }

    #[test]
    fn a_reply_goes_to_its_entry_alone() {
        let mut pending = Pending::new(8);
        pending.push(at(2, 5), "five");
        pending.push(at(2, 6), "six");
        assert_eq!(pending.take(at(2, 4)), None);
        assert_eq!(pending.take(at(2, 5)), Some("five"));
        assert_eq!(pending.take(at(2, 5)), None);
        assert_eq!(pending.take(at(3, 6)), None);
        assert!(pending.is_empty());
        assert_eq!(pending.take_aborted(), ["six"]);
    }

    #[test]
    fn what_was_skipped_is_aborted() {
        let mut pending = Pending::new(8);
        (5..=8).for_each(|index| pending.push(at(2, index), index));
        assert_eq!(pending.take(at(2, 7)), Some(7));
        assert_eq!(pending.take_aborted(), [5, 6]);
        pending.abort_to(7);
        assert_eq!(pending.len(), 1);
        pending.abort_to(8);
        assert_eq!(pending.take_aborted(), [8]);
    }

    #[test]
    fn a_new_term_at_the_same_index_aborts_the_old() {
        let mut pending = Pending::new(8);
        (5..=7).for_each(|index| pending.push(at(2, index), index));
        pending.push(at(4, 6), 60);
        assert_eq!(pending.take_aborted(), [6, 7]);
        assert_eq!(pending.take(at(2, 5)), Some(5));
        assert_eq!(pending.take(at(4, 6)), Some(60));
    }

    #[test]
    fn owed_and_aborted_count_until_they_are_told() {
        let mut pending = Pending::new(2);
        pending.push(at(2, 5), 5);
        pending.push(at(2, 6), 6);
        pending.abort_all();
        assert!(!pending.has_room());
        assert_eq!(pending.take_aborted(), [5, 6]);
        assert!(pending.has_room());
    }
}
