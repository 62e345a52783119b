//! A caller that the node knows, and his rights.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Queues whose jobs a worker may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Queues {
    /// None: not a worker.
    #[default]
    None,
    /// These.
    Named(BTreeSet<Arc<str>>),
    /// All.
    All,
}

impl Queues {
    /// Whether this queue is among them.
    pub fn have(&self, queue: &str) -> bool {
        match self {
            Queues::None => false,
            Queues::Named(names) => names.contains(queue),
            Queues::All => true,
        }
    }
}

/// A caller and his rights (PanDA's: the owner of a job, the production role of its group, the operator).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    /// His name: what he submits has this owner, and the status log says so. Empty: nobody asked who he is.
    pub user: Arc<str>,
    /// Groups for which he may submit.
    pub groups: BTreeSet<Arc<str>>,
    /// Groups whose jobs he may steer (PanDA's production role).
    pub production: BTreeSet<Arc<str>>,
    /// May submit.
    pub submitter: bool,
    /// Queues whose jobs he may take.
    pub worker: Queues,
    /// May do all of it, and change the cluster.
    pub operator: bool,
}

impl Principal {
    /// On a port where nobody is asked who he is: he may do everything, under any name.
    pub fn anyone() -> Self {
        Principal { submitter: true, worker: Queues::All, operator: true, ..Principal::default() }
    }

    /// Whether he is taken at his word: no name was found out.
    pub fn is_anyone(&self) -> bool {
        self.user.is_empty()
    }

    /// Whether he may submit jobs of this owner and group.
    pub fn may_submit(&self, owner: &str, group: &str) -> bool {
        let in_group = group.is_empty() || self.groups.contains(group) || self.production.contains(group);
        self.operator || self.submitter && *self.user == *owner && in_group
    }

    /// Whether he may kill, hold, release or retry a job of this owner and group, and read its secrets.
    pub fn may_steer(&self, owner: &str, group: &str) -> bool {
        self.operator || *self.user == *owner || !group.is_empty() && self.production.contains(group)
    }

    /// Whether he may take jobs of this queue.
    pub fn may_work(&self, queue: &str) -> bool {
        self.operator || self.worker.have(queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Principal {
        Principal { user: name.into(), submitter: true, ..Principal::default() }
    }

    #[test]
    fn owners_steer_their_own_jobs_only() {
        let anna = user("anna");
        assert!(anna.may_submit("anna", "") && anna.may_steer("anna", "higgs"));
        assert!(!anna.may_submit("bob", "") && !anna.may_steer("bob", "") && !anna.may_submit("anna", "higgs"));
        assert!(!anna.may_work("CERN"));
    }

    #[test]
    fn the_production_role_is_for_its_group_only() {
        let mut carol = user("carol");
        carol.production.insert("higgs".into());
        assert!(carol.may_steer("bob", "higgs") && carol.may_submit("carol", "higgs"));
        assert!(!carol.may_steer("bob", "") && !carol.may_steer("bob", "top"));
    }

    #[test]
    fn workers_take_from_their_queues_only() {
        let mut pilot = Principal { user: "pilot".into(), ..Principal::default() };
        pilot.worker = Queues::Named(["CERN".into()].into());
        assert!(pilot.may_work("CERN") && !pilot.may_work("BNL") && !pilot.may_submit("pilot", ""));
    }
}
