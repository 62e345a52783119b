//! The term of every entry in the log, as runs of equal terms.

use crate::output::Position;
use std::collections::VecDeque;
use std::io;

/// The term of every entry from the truncated position to the last index.
///
/// Terms never fall along a log and change only with the leader, so a few runs say all. Raft treats a term it cannot get
/// as fatal; from memory it always can.
///
/// Invariants: `runs` is never empty; its first run starts at the truncated index; starts and terms rise strictly.
#[derive(Debug)]
pub(crate) struct Terms {
    runs: VecDeque<Position>,
    last: u64,
}

impl Terms {
    /// Finds the runs of a log whose entries are `truncated.index + 1 ..= last`, asking `term_of` for a few: for each run
    /// as many as a binary search needs.
    pub(crate) fn load(truncated: Position, last: u64, term_of: impl Fn(u64) -> io::Result<u64>) -> io::Result<Terms> {
        let mut terms = Terms::empty(truncated);
        if last <= truncated.index {
            return Ok(terms);
        }
        terms.last = last;
        let last_term = term_of(last)?;
        let mut run = truncated;
        while run.term < last_term {
            let (mut low, mut high, mut term) = (run.index + 1, last, last_term);
            while low < high {
                let middle = low + (high - low) / 2;
                let middle_term = term_of(middle)?;
                if middle_term > run.term {
                    (high, term) = (middle, middle_term);
                } else {
                    low = middle + 1;
                }
            }
            run = Position { index: high, term };
            terms.runs.push_back(run);
        }
        if run.term != last_term {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the term falls before entry {last}")));
        }
        Ok(terms)
    }

    /// A log without entries behind `truncated`.
    pub(crate) fn empty(truncated: Position) -> Terms {
        Terms { runs: VecDeque::from([truncated]), last: truncated.index }
    }

    /// The position below which the log was cut: (0, 0) if it never was.
    pub(crate) fn truncated(&self) -> Position {
        *self.runs.front().expect("the first run is the truncated position")
    }

    pub(crate) fn last(&self) -> Position {
        let term = self.runs.back().expect("the first run is the truncated position").term;
        Position { index: self.last, term }
    }

    /// The term at `index`; `None` outside of truncated index ..= last index.
    pub(crate) fn get(&self, index: u64) -> Option<u64> {
        if index < self.truncated().index || index > self.last {
            return None;
        }
        let after = self.runs.partition_point(|run| run.index <= index);
        Some(self.runs[after - 1].term)
    }

    /// Appends one entry, first dropping what stands at its index and after it.
    pub(crate) fn append(&mut self, entry: Position) {
        assert!(entry.index > self.truncated().index, "an entry below the truncated index was replaced");
        assert!(entry.index <= self.last + 1, "an append left a gap");
        while self.runs.back().is_some_and(|run| run.index >= entry.index) {
            self.runs.pop_back();
        }
        self.last = entry.index;
        if self.last().term != entry.term {
            self.runs.push_back(entry);
        }
    }

    /// Cuts the log at and below `index`, whose term stays known.
    pub(crate) fn truncate_to(&mut self, index: u64) {
        let term = self.get(index).expect("the log is cut within its range");
        while self.runs.front().is_some_and(|run| run.index <= index) {
            self.runs.pop_front();
        }
        self.runs.push_front(Position { index, term });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(index: u64, term: u64) -> Position {
        Position { index, term }
    }

    fn load(truncated: Position, terms: &[u64]) -> io::Result<Terms> {
        let last = truncated.index + terms.len() as u64;
        Terms::load(truncated, last, |index| Ok(terms[(index - truncated.index - 1) as usize]))
    }

    #[test]
    fn loads_every_run() {
        for terms in [&[1, 1, 1, 4, 4, 9][..], &[7], &[2, 3, 4, 5], &[], &[1, 9, 9, 9, 9, 9, 9]] {
            let loaded = load(position(10, 1), terms).unwrap();
            assert_eq!(loaded.get(9), None);
            assert_eq!(loaded.get(10), Some(1));
            for (offset, term) in terms.iter().enumerate() {
                assert_eq!(loaded.get(11 + offset as u64), Some(*term), "{terms:?} at {offset}");
            }
            assert_eq!(loaded.get(11 + terms.len() as u64), None);
        }
    }

    #[test]
    fn refuses_a_falling_term() {
        assert!(load(position(10, 5), &[5, 4]).is_err());
    }

    #[test]
    fn appends_replace_the_tail() {
        let mut terms = load(position(0, 0), &[1, 1, 2, 2, 3]).unwrap();
        terms.append(position(4, 5));
        assert_eq!(terms.last(), position(4, 5));
        assert_eq!(
            (1..=5).map(|index| terms.get(index)).collect::<Vec<_>>(),
            [Some(1), Some(1), Some(2), Some(5), None]
        );
        terms.append(position(1, 6));
        assert_eq!(terms.last(), position(1, 6));
        assert_eq!(terms.get(0), Some(0));
    }

    #[test]
    fn keeps_the_term_at_the_cut() {
        let mut terms = load(position(0, 0), &[1, 1, 2, 2, 3]).unwrap();
        terms.truncate_to(3);
        assert_eq!(terms.truncated(), position(3, 2));
        assert_eq!((2..=5).map(|index| terms.get(index)).collect::<Vec<_>>(), [None, Some(2), Some(2), Some(3)]);
        terms.truncate_to(5);
        assert_eq!(terms.truncated(), terms.last());
    }
}
