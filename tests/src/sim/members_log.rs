//! The members that a shard's group had, entry by entry, as the first replica to apply each change said; all others must
//! agree with it, also after a crash.

use super::watch::{Check, Violation};
use moso_shard::{ConfState, FOUNDING};
use std::collections::{BTreeMap, BTreeSet};

/// A group's configuration, whatever the order of its lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Who votes.
    pub voters: BTreeSet<u64>,
    /// Who voted before, in a joint state.
    pub outgoing: BTreeSet<u64>,
    /// Who only learns.
    pub learners: BTreeSet<u64>,
    /// Who only learns once the joint state is left.
    pub learners_next: BTreeSet<u64>,
}

impl From<&ConfState> for Configuration {
    fn from(state: &ConfState) -> Configuration {
        let set = |ids: &[u64]| ids.iter().copied().collect();
        Configuration {
            voters: set(&state.voters),
            outgoing: set(&state.voters_outgoing),
            learners: set(&state.learners),
            learners_next: set(&state.learners_next),
        }
    }
}

impl Configuration {
    /// Whether the replica is a member in any way.
    pub fn names(&self, peer: u64) -> bool {
        [&self.voters, &self.outgoing, &self.learners, &self.learners_next].iter().any(|ids| ids.contains(&peer))
    }
}

/// The members that a group had.
#[derive(Default)]
pub struct MembersLog {
    /// Entries that changed them, and the members since then, once a replica has said so.
    changes: BTreeMap<u64, Option<Configuration>>,
}

impl MembersLog {
    /// The group was made with these.
    pub fn found(&mut self, members: &ConfState) {
        self.changes.insert(FOUNDING.index, Some(members.into()));
    }

    /// A change was committed.
    pub fn changed(&mut self, index: u64) {
        self.changes.insert(index, None);
    }

    /// A replica that has applied the log to `index`, and no further, has these members.
    pub fn agree(&mut self, index: u64, members: &ConfState) -> Check {
        let members = Configuration::from(members);
        let Some((since, known)) = self.changes.range_mut(..=index).next_back() else {
            let joining = index == 0 && members == Configuration::default();
            return if joining {
                Ok(())
            } else {
                Violation::new("members before the founding", format!("{members:?}"))
            };
        };
        match known {
            Some(known) if *known != members => Violation::new(
                "replicas agree on the members",
                format!("since entry {since} they are {known:?}, a replica at {index} says {members:?}"),
            ),
            Some(_) => Ok(()),
            None => {
                *known = Some(members);
                Ok(())
            }
        }
    }

    /// The newest members known.
    pub fn newest(&self) -> Configuration {
        self.changes.values().rev().flatten().next().cloned().unwrap_or_default()
    }

    /// Entry that made the newest voters what they are: a learner that came later, for the next wish, changes no majority.
    pub fn voters_since(&self) -> u64 {
        let newest = self.newest();
        let known = self.changes.iter().rev().filter_map(|(index, members)| Some((*index, members.as_ref()?)));
        let same =
            known.take_while(|(_, members)| (&members.voters, &members.outgoing) == (&newest.voters, &newest.outgoing));
        same.last().map_or(0, |(index, _)| index)
    }

    /// The entry is the newest change, and nobody has told of it yet.
    pub fn is_news(&self, change: u64) -> bool {
        self.changes.last_key_value().is_some_and(|(index, members)| *index == change && members.is_none())
    }

    /// Entry of the last change up to this one.
    pub fn change_before(&self, index: u64) -> u64 {
        self.changes.range(..=index).next_back().map_or(0, |(index, _)| *index)
    }
}
