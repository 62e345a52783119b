//! A caller that the node knows, and his rights.

use moso_proto::grant::{Grants, Role};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Kill codes with which a production role ends users' jobs of its group (PanDA's): those of the system, not those of the
/// owner himself.
const PRODUCTION_KILL_CODES: [u8; 11] = [2, 4, 7, 8, 9, 10, 50, 51, 52, 91, 99];
/// The label of users' own jobs.
const LABEL_USER: &str = "user";

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

    fn add(&mut self, queues: &[String]) {
        let more = queues.iter().map(|queue| Arc::from(queue.as_str()));
        match self {
            Queues::None => *self = Queues::Named(more.collect()),
            Queues::Named(names) => names.extend(more),
            Queues::All => {}
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
    /// When it was said who he is, Unix s; 0: not told.
    pub issued_s: u64,
    /// How long that holds, Unix s; 0: as long as the connection.
    pub expires_s: u64,
}

impl Principal {
    /// On a port where nobody is asked who he is: he may do everything, under any name.
    pub fn anyone() -> Self {
        Principal { submitter: true, worker: Queues::All, operator: true, ..Principal::default() }
    }

    /// A user with what was granted to him.
    pub fn granted(grants: &Grants) -> Self {
        let mut principal = Principal { user: grants.user.as_str().into(), ..Principal::default() };
        principal.groups = grants.groups.iter().map(|group| group.as_str().into()).collect();
        for role in &grants.roles {
            match role {
                Role::Submitter => principal.submitter = true,
                Role::Operator => principal.operator = true,
                Role::Production(group) => drop(principal.production.insert(group.as_str().into())),
                Role::Worker(queues) if queues.iter().any(|queue| queue == "*") => principal.worker = Queues::All,
                Role::Worker(queues) => principal.worker.add(queues),
            }
        }
        principal
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

    /// Whether he may kill a job with this code: a production role may not end a user's own job with any.
    pub fn may_kill(&self, owner: &str, group: &str, label: &str, code: u8) -> bool {
        let own = self.operator || *self.user == *owner;
        own || self.may_steer(owner, group) && (label != LABEL_USER || PRODUCTION_KILL_CODES.contains(&code))
    }

    /// Whether he may read what a job of this owner and group was given and what it printed.
    pub fn may_read(&self, owner: &str, group: &str) -> bool {
        self.may_steer(owner, group) || !group.is_empty() && self.groups.contains(group)
    }

    /// The name that is recorded for what he does; `said` is his own word, which counts where nobody was asked.
    pub fn name_or<'a>(&'a self, said: &'a str) -> &'a str {
        if self.is_anyone() { said } else { &self.user }
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
    fn a_production_role_ends_users_own_jobs_with_some_codes_only() {
        let mut carol = user("carol");
        carol.production.insert("higgs".into());
        assert!(carol.may_kill("bob", "higgs", "user", 9) && carol.may_kill("bob", "higgs", "user", 91));
        assert!(!carol.may_kill("bob", "higgs", "user", 3) && carol.may_kill("bob", "higgs", "managed", 3));
        assert!(carol.may_kill("carol", "", "user", 3) && !carol.may_kill("bob", "", "managed", 9));
    }

    #[test]
    fn what_was_granted_is_what_he_may() {
        let roles = ["submitter", "worker:A", "worker:B,C", "production:higgs"].map(|role| role.parse().unwrap());
        let grants = Grants { user: "dan".into(), groups: vec!["top".into()], roles: roles.to_vec() };
        let dan = Principal::granted(&grants);
        assert!(dan.may_work("A") && dan.may_work("C") && !dan.may_work("D") && !dan.operator);
        assert!(dan.may_submit("dan", "top") && dan.may_submit("dan", "higgs") && !dan.may_submit("dan", "susy"));
        assert!(dan.may_read("bob", "top") && !dan.may_steer("bob", "top"));
        let all = Principal::granted(&Grants { roles: vec!["worker:*".parse().unwrap()], ..grants });
        assert!(all.may_work("D") && !all.may_submit("dan", ""));
    }

    #[test]
    fn workers_take_from_their_queues_only() {
        let mut pilot = Principal { user: "pilot".into(), ..Principal::default() };
        pilot.worker = Queues::Named(["CERN".into()].into());
        assert!(pilot.may_work("CERN") && !pilot.may_work("BNL") && !pilot.may_submit("pilot", ""));
    }
}
