//! What a caller may act on: looked up where the jobs are, before a command is made of them.

use super::targets::{self, Asked};
use super::{Filter, Targets};
use crate::identity::Principal;
use moso_queue::Machine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A caller's rights over jobs, as they go between nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Right {
    user: Arc<str>,
    production: BTreeSet<Arc<str>>,
    operator: bool,
    /// The code with which jobs are to be killed, if they are.
    kill: Option<u8>,
}

/// What of the targets a caller may act on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RightfulTargets {
    /// These.
    pub targets: Targets,
    /// How many of them are not his own.
    pub foreign: u64,
    /// How many are left out because he may not, with the number of one of them.
    pub forbidden: u64,
    /// One of those left out.
    pub example: u64,
}

impl Right {
    /// Of this caller, who kills with this code, if he does.
    pub fn new(who: &Principal, kill: Option<u8>) -> Self {
        Right { user: who.user.clone(), production: who.production.clone(), operator: who.operator, kill }
    }

    fn principal(&self) -> Principal {
        Principal {
            user: self.user.clone(),
            production: self.production.clone(),
            operator: self.operator,
            ..Principal::default()
        }
    }

    /// Finds targets as [`targets::find`] does.
    pub(super) fn targets(&self, machine: &Machine, filter: &Filter, from: u64, limit: usize) -> RightfulTargets {
        let who = self.principal();
        let mut rightful = RightfulTargets::default();
        let (mut foreign, mut forbidden, mut example) = (0, 0, 0);
        let mut may = |Asked { class, id, jobs }: Asked<'_>| {
            let allowed = match self.kill {
                Some(code) => who.may_kill(&class.owner, &class.group, &class.label, code),
                None => who.may_steer(&class.owner, &class.group),
            };
            if !allowed {
                forbidden += u64::from(jobs);
                example = id;
            } else if class.owner != who.user {
                foreign += u64::from(jobs);
            }
            allowed
        };
        rightful.targets = targets::find(machine, filter, from, limit, &mut may);
        RightfulTargets { foreign, forbidden, example, ..rightful }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moso_proto::ShardId;
    use moso_queue::ClassKey;
    use moso_queue::command::{Command, EntryBuilder, Submit, SubmitJob};
    use moso_queue::effect::Effects;

    const NOW: u64 = 1_800_000_000_000;

    /// Two jobs and an array of five of each of these owners and groups.
    fn machine(owners: &[(&str, &str)]) -> Machine {
        let mut machine = Machine::new(ShardId(1));
        for (n, (owner, group)) in owners.iter().enumerate() {
            for array in [0, 5] {
                let mut submission = [n as u8; 16];
                submission[..6].copy_from_slice(&NOW.to_be_bytes()[2..]);
                submission[7] = array as u8;
                let (owner, group, label) = ((*owner).into(), (*group).into(), "user".into());
                let submit = Submit {
                    submission,
                    class: ClassKey { queue: 1, cores: 1, owner, group, label, ..ClassKey::default() },
                    jobs: vec![SubmitJob::default(); if array == 0 { 2 } else { 0 }],
                    array,
                    ..Submit::default()
                };
                let mut entry = EntryBuilder::default();
                entry.push_command(&Command::Submit(Box::new(submit)));
                machine.apply(entry.finish(NOW), &mut Effects::default(), &mut Vec::new()).unwrap();
            }
        }
        machine
    }

    /// Jobs found, of these foreign, and forbidden.
    fn found(machine: &Machine, who: &Principal, filter: &Filter, kill: Option<u8>) -> (u64, u64, u64) {
        let right = Right::new(who, kill).targets(machine, filter, 0, 1_000);
        let rests: u64 = right.targets.rests.iter().map(|(_, jobs)| u64::from(*jobs)).sum();
        (right.targets.jobs.len() as u64 + rests, right.foreign, right.forbidden)
    }

    #[test]
    fn jobs_of_others_are_left_out_and_counted() {
        let machine = machine(&[("anna", ""), ("bob", "higgs"), ("bob", "")]);
        let all = Filter::default();
        let anna = Principal { user: "anna".into(), ..Principal::default() };
        assert_eq!(found(&machine, &anna, &all, None), (7, 0, 14));
        let carol = Principal { user: "carol".into(), production: ["higgs".into()].into(), ..Principal::default() };
        assert_eq!(found(&machine, &carol, &all, Some(9)), (7, 7, 14));
        assert_eq!(found(&machine, &carol, &all, Some(3)), (0, 0, 21), "not with a code of the owner's");
        let operator = Principal { user: "olga".into(), operator: true, ..Principal::default() };
        assert_eq!(found(&machine, &operator, &all, Some(3)), (21, 21, 0));
    }

    #[test]
    fn jobs_named_one_by_one_are_no_way_around() {
        let machine = machine(&[("anna", ""), ("bob", "")]);
        let anna = Principal { user: "anna".into(), ..Principal::default() };
        let tasks: Vec<u64> = machine.tasks_from(0).map(|task| task.seq).collect();
        // A job, and one of an array that is not made yet.
        let named =
            |tasks: &[u64]| Filter { by_id: true, jobs: tasks.iter().map(|t| t + 1).collect(), ..Filter::default() };
        assert_eq!(found(&machine, &anna, &named(&tasks[..2]), None), (2, 0, 0));
        assert_eq!(found(&machine, &anna, &named(&tasks[2..]), None), (0, 0, 2));
        let arrays = Filter { by_id: true, tasks: tasks.clone(), ..Filter::default() };
        assert_eq!(found(&machine, &anna, &arrays, None), (7, 0, 7));
    }
}
