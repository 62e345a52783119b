//! Who waits for whom within a task.

use crate::codec::{Get, Put};
use crate::error::Error;
use bytes::Bytes;

/// Dependencies between the jobs of a task, by position. Made with the task and never changed, so they are stored once
/// (as the body under the task's number) and not with the task's record, which is written again whenever a job ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dependencies {
    /// (parent, child), sorted.
    edges: Vec<(u32, u32)>,
    /// (child, parent), sorted.
    reverse: Vec<(u32, u32)>,
}

/// The second numbers of the pairs that start with `first`.
fn partners(pairs: &[(u32, u32)], first: u32) -> impl Iterator<Item = u32> + '_ {
    let start = pairs.partition_point(|&(a, _)| a < first);
    pairs[start..].iter().take_while(move |&&(a, _)| a == first).map(|&(_, b)| b)
}

impl Dependencies {
    /// Takes (parent, child) pairs in any order; repeated ones count once.
    pub fn new(mut edges: Vec<(u32, u32)>) -> Self {
        edges.sort_unstable();
        edges.dedup();
        edges.shrink_to_fit();
        let mut reverse: Vec<(u32, u32)> = edges.iter().map(|&(parent, child)| (child, parent)).collect();
        reverse.sort_unstable();
        Dependencies { edges, reverse }
    }

    /// (parent, child) pairs, sorted.
    pub fn edges(&self) -> &[(u32, u32)] {
        &self.edges
    }

    /// No job waits for another.
    pub fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    /// Positions of the jobs that wait for `parent`.
    pub fn children(&self, parent: u32) -> impl Iterator<Item = u32> + '_ {
        partners(&self.edges, parent)
    }

    /// Positions of the jobs that `child` waits for.
    pub fn parents(&self, child: u32) -> impl Iterator<Item = u32> + '_ {
        partners(&self.reverse, child)
    }

    /// How many jobs each of `jobs` positions waits for. All positions must be below `jobs`.
    pub fn unmet(&self, jobs: usize) -> Vec<u32> {
        let mut unmet = vec![0u32; jobs];
        self.edges.iter().for_each(|&(_, child)| unmet[child as usize] += 1);
        unmet
    }

    /// Finds a circle by taking out jobs that wait for nothing, again and again. All positions must be below `jobs`.
    pub fn has_circle(&self, jobs: usize) -> bool {
        let mut unmet = self.unmet(jobs);
        let mut free: Vec<u32> = (0..jobs as u32).filter(|&job| unmet[job as usize] == 0).collect();
        let mut left = jobs;
        while let Some(parent) = free.pop() {
            left -= 1;
            for child in self.children(parent) {
                unmet[child as usize] -= 1;
                if unmet[child as usize] == 0 {
                    free.push(child);
                }
            }
        }
        left > 0
    }

    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_pairs(out, &self.edges);
    }

    /// Reads the stored form of a task with so many jobs.
    pub fn decode(get: &mut Get, jobs: u32) -> Result<Self, Error> {
        let edges = get_pairs(get)?;
        let sorted = edges.windows(2).all(|w| w[0] < w[1]);
        if edges.is_empty() || !sorted || edges.iter().any(|&(a, b)| a >= jobs || b >= jobs) {
            return Err(get.damaged());
        }
        Ok(Dependencies::new(edges))
    }

    /// Reads the body under a task's number.
    pub fn decode_body(bytes: Bytes, jobs: u32) -> Result<Self, Error> {
        let mut get = Get::new(bytes, "dependencies");
        let dependencies = Self::decode(&mut get, jobs)?;
        get.end()?;
        Ok(dependencies)
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + (self.edges.len() + self.reverse.len()) * 8
    }
}

/// Appends a count and pairs.
pub(crate) fn put_pairs(out: &mut Vec<u8>, pairs: &[(u32, u32)]) {
    out.put_u32(pairs.len() as u32);
    for &(a, b) in pairs {
        out.put_u32(a);
        out.put_u32(b);
    }
}

/// Reads a count and pairs.
pub(crate) fn get_pairs(get: &mut Get) -> Result<Vec<(u32, u32)>, Error> {
    let count = get.count(8)?;
    (0..count).map(|_| Ok((get.u32()?, get.u32()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_found() {
        let deps = Dependencies::new(vec![(2, 3), (0, 1), (0, 3), (0, 1)]);
        assert_eq!(deps.edges(), [(0, 1), (0, 3), (2, 3)]);
        assert_eq!(deps.children(0).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(deps.parents(3).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(deps.parents(0).count(), 0);
        assert_eq!(deps.unmet(4), [0, 1, 0, 2]);
    }

    #[test]
    fn circles_are_found() {
        assert!(!Dependencies::new(vec![(0, 1), (0, 2), (1, 3), (2, 3)]).has_circle(4));
        assert!(Dependencies::new(vec![(0, 1), (1, 2), (2, 0)]).has_circle(3));
        assert!(Dependencies::new(vec![(0, 0)]).has_circle(1));
    }

    #[test]
    fn a_stored_form_must_fit_its_task() {
        let deps = Dependencies::new(vec![(0, 1), (1, 2)]);
        let mut bytes = Vec::new();
        deps.encode(&mut bytes);
        assert_eq!(Dependencies::decode_body(bytes.clone().into(), 3), Ok(deps));
        assert!(Dependencies::decode_body(bytes.clone().into(), 2).is_err());
        bytes.pop();
        assert!(Dependencies::decode_body(bytes.into(), 3).is_err());
    }
}
