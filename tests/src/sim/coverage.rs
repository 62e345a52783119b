//! What simulations reached: a run that reaches nothing proves nothing.

use super::rules;
use moso_proto::JobState;
use moso_proto::state::STATES;
use std::collections::BTreeMap;
use std::fmt;

/// Counts of what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<&'static str, u64>,
    transitions: BTreeMap<(u8, u8), u64>,
}

impl Coverage {
    /// Once more.
    pub fn count(&mut self, what: &'static str) {
        self.count_n(what, 1);
    }

    /// So many times more.
    pub fn count_n(&mut self, what: &'static str, n: u64) {
        *self.counts.entry(what).or_default() += n;
    }

    /// A job changed its state; `None`: it was made.
    pub fn transition(&mut self, from: Option<JobState>, to: JobState) {
        let from = from.map_or(0, |state| state as u8);
        *self.transitions.entry((from, to as u8)).or_default() += 1;
    }

    /// How often something happened.
    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// Jobs that came to be in a state.
    pub fn entered(&self, state: JobState) -> u64 {
        self.transitions.iter().filter(|((_, to), _)| *to == state as u8).map(|(_, n)| n).sum()
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Coverage) {
        for (what, n) in &other.counts {
            self.count_n(what, *n);
        }
        for (transition, n) in &other.transitions {
            *self.transitions.entry(*transition).or_default() += n;
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, n) in &self.counts {
            writeln!(f, "{n:>10}  {what}")?;
        }
        writeln!(f, "transitions of jobs:")?;
        for ((from, to), n) in &self.transitions {
            let name = |number: u8| JobState::from_number(number).map_or("-", JobState::name);
            writeln!(f, "{n:>10}  {} > {}", name(*from), name(*to))?;
        }
        let entered = |state: &JobState| self.entered(*state) > 0;
        let reached = JobState::ALL.iter().filter(|state| entered(state)).count();
        let missing: Vec<&str> =
            JobState::ALL.iter().filter(|state| !entered(state)).map(|state| state.name()).collect();
        writeln!(f, "{reached} of {} states reached; not {}", STATES - 1, missing.join(", "))?;
        let possible = rules::possible();
        let made = |(from, to): &(Option<JobState>, JobState)| {
            self.transitions.contains_key(&(from.map_or(0, |state| state as u8), *to as u8))
        };
        let name =
            |(from, to): &(Option<JobState>, JobState)| format!("{} > {}", from.map_or("-", JobState::name), to.name());
        let missing: Vec<String> = possible.iter().filter(|pair| !made(pair)).map(name).collect();
        let reached = possible.len() - missing.len();
        writeln!(f, "{reached} of {} changes of state that the rules allow; not {}", possible.len(), missing.join(", "))
    }
}
