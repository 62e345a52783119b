//! Calls that were rejected, by reason and user, for metrics and for `moso cluster`.

use moso_proto::view::Rejected;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// Pairs of reason and user that are counted; further users are counted as [`OTHERS`].
const PAIRS_MAX: usize = 200;
/// Bytes of a user's name that are shown.
const NAME_BYTES_MAX: usize = 64;
/// Users beyond those that are counted by name.
const OTHERS: &str = "(others)";

/// Rows shown of each node.
const ROWS_MAX: usize = 20;

/// Counts since the start, and what other nodes told of theirs.
#[derive(Debug, Default)]
pub struct Rejections {
    counts: Mutex<BTreeMap<(&'static str, String), u64>>,
    /// By node; nodes are those that were let in.
    others: Mutex<BTreeMap<u32, Vec<Rejected>>>,
}

impl Rejections {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(&'static str, String), u64>> {
        self.counts.lock().expect("no thread panics while it holds this lock")
    }

    /// Counts one. `reason` is one of few words; `user` is empty if nobody knows who it was.
    pub fn count(&self, reason: &'static str, user: &str) {
        let mut counts = self.lock();
        let mut name = user.to_owned();
        name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
        if counts.len() >= PAIRS_MAX && !counts.contains_key(&(reason, name.clone())) {
            name = OTHERS.to_owned();
        }
        *counts.entry((reason, name)).or_default() += 1;
    }

    /// The most frequent of this `node`.
    pub fn top(&self, node: u32) -> Vec<Rejected> {
        let mut rows = self.view(node);
        rows.truncate(ROWS_MAX);
        rows
    }

    /// Another node told its most frequent ones.
    pub fn heard(&self, from: u32, mut rows: Vec<Rejected>) {
        rows.truncate(ROWS_MAX);
        for row in &mut rows {
            row.node = from;
            for text in [&mut row.user, &mut row.reason] {
                text.truncate(text.floor_char_boundary(NAME_BYTES_MAX));
            }
        }
        self.others.lock().expect("no thread panics while it holds this lock").insert(from, rows);
    }

    /// The most frequent of this `node`, and what the `others` told.
    pub fn everywhere(&self, node: u32, others: impl Fn(u32) -> bool) -> Vec<Rejected> {
        let mut rows = self.top(node);
        let told = self.others.lock().expect("no thread panics while it holds this lock");
        rows.extend(told.iter().filter(|(from, _)| others(**from)).flat_map(|(_, rows)| rows.iter().cloned()));
        rows
    }

    /// All counts of this `node`, the largest first.
    pub fn view(&self, node: u32) -> Vec<Rejected> {
        let counts = self.lock();
        let row = |((reason, user), count): (&(&'static str, String), &u64)| Rejected {
            node,
            reason: (*reason).to_owned(),
            user: user.clone(),
            count: *count,
        };
        let mut rows: Vec<Rejected> = counts.iter().map(row).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.count));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_counted_by_name_until_they_are_too_many() {
        let rejections = Rejections::default();
        rejections.count("expired", "anna");
        rejections.count("expired", "anna");
        (0..10_000).for_each(|n| rejections.count("signature", &format!("user-{n}")));
        let rows = rejections.view(1);
        assert!(rows.len() <= PAIRS_MAX + 1, "{}", rows.len());
        assert_eq!((rows[0].user.as_str(), rows.iter().map(|r| r.count).sum::<u64>()), (OTHERS, 10_002));
        assert!(rows.iter().any(|r| (r.user.as_str(), r.count) == ("anna", 2)));
        rejections.count("expired", &"é".repeat(1_000));
    }
}
