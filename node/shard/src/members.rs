//! From the members that a group has to those that it should have: what its leader does next. Level-triggered: called again
//! and again, by whichever replica leads, it ends with the wanted members whatever was lost on the way.
//!
//! A new member learns first. When all that should vote are near, one joint change lets them vote and takes the vote from
//! the others, so that no moment has fewer voters than both configurations promise. A joint state is left at once.

use crate::limits::PROMOTE_LAG_MAX;
use crate::output::PeerProgress;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};
use std::collections::BTreeSet;

/// The members that a group should have, by replica id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Replicas that vote.
    pub voters: BTreeSet<u64>,
    /// Replicas that only learn.
    pub learners: BTreeSet<u64>,
}

/// What the leader does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The group has the members that it should have.
    Done,
    /// Somebody must catch up or come back first.
    Wait(&'static str),
    /// To be proposed.
    Change(ConfChangeV2),
    /// The leader itself is to go: this voter, which stays, leads first.
    GiveAway(u64),
}

/// What replica `own`, which leads, does next. `progress` is that of the other members.
pub fn next(own: u64, now: &ConfState, wanted: &Members, progress: &[PeerProgress]) -> Step {
    if !now.voters_outgoing.is_empty() {
        return Step::Change(ConfChangeV2::default());
    }
    let voters: BTreeSet<u64> = now.voters.iter().copied().collect();
    let learners: BTreeSet<u64> = now.learners.iter().copied().collect();
    let is_member = |peer: &&u64| voters.contains(peer) || learners.contains(peer);
    if let Some(&missing) = wanted.voters.iter().chain(&wanted.learners).find(|peer| !is_member(peer)) {
        return change([(missing, ConfChangeType::AddLearnerNode)]);
    }
    let promoted: Vec<u64> = wanted.voters.difference(&voters).copied().collect();
    // In a small shard even a replica that has nothing yet lacks but little.
    let is_near = |p: &PeerProgress| p.active && p.matched > 0 && p.lag <= PROMOTE_LAG_MAX;
    let near = |peer: u64| progress.iter().any(|p| p.peer == peer && is_near(p));
    if !promoted.iter().all(|&peer| near(peer)) {
        return Step::Wait("a new replica catches up");
    }
    let leaving: Vec<u64> = voters.difference(&wanted.voters).copied().collect();
    if leaving.contains(&own) {
        return hand_over(&voters, wanted, &promoted, progress);
    }
    if !promoted.is_empty() || !leaving.is_empty() {
        if !has_quorum(own, &wanted.voters, progress) {
            return Step::Wait("too few of the replicas that should vote can be reached");
        }
        let gone = |peer| match wanted.learners.contains(&peer) {
            true => (peer, ConfChangeType::AddLearnerNode),
            false => (peer, ConfChangeType::RemoveNode),
        };
        let promotes = promoted.into_iter().map(|peer| (peer, ConfChangeType::AddNode));
        return change(promotes.chain(leaving.into_iter().map(gone)));
    }
    match learners.difference(&wanted.learners).next() {
        Some(&learner) => change([(learner, ConfChangeType::RemoveNode)]),
        None => Step::Done,
    }
}

/// The leader is not to vote any more: a voter that stays must lead before it can be removed. If none votes yet, those that
/// should do so first.
fn hand_over(voters: &BTreeSet<u64>, wanted: &Members, promoted: &[u64], progress: &[PeerProgress]) -> Step {
    let stays = progress.iter().filter(|p| voters.contains(&p.peer) && wanted.voters.contains(&p.peer) && p.active);
    match stays.min_by_key(|p| p.lag) {
        Some(heir) => Step::GiveAway(heir.peer),
        None if !promoted.is_empty() => change(promoted.iter().map(|&peer| (peer, ConfChangeType::AddNode))),
        None => Step::Wait("no replica that stays can be reached"),
    }
}

/// Whether a majority of these voters is heard of: a configuration that could not decide anything is never entered.
fn has_quorum(own: u64, voters: &BTreeSet<u64>, progress: &[PeerProgress]) -> bool {
    let heard = progress.iter().filter(|p| p.active && voters.contains(&p.peer)).count();
    heard + usize::from(voters.contains(&own)) > voters.len() / 2
}

/// One change alone needs no joint state.
fn change(changes: impl IntoIterator<Item = (u64, ConfChangeType)>) -> Step {
    let single = |(peer, kind)| {
        let mut single = ConfChangeSingle { node_id: peer, ..ConfChangeSingle::default() };
        single.set_change_type(kind);
        single
    };
    let singles: Vec<ConfChangeSingle> = changes.into_iter().map(single).collect();
    let mut change = ConfChangeV2::default();
    if singles.len() > 1 {
        change.set_transition(ConfChangeTransition::Explicit);
    }
    change.set_changes(singles.into());
    Step::Change(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(voters: &[u64], learners: &[u64]) -> ConfState {
        ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() }
    }

    fn wanted(voters: &[u64]) -> Members {
        Members { voters: voters.iter().copied().collect(), learners: BTreeSet::new() }
    }

    fn near(peers: &[u64]) -> Vec<PeerProgress> {
        peers.iter().map(|&peer| PeerProgress { peer, matched: 9, lag: 0, active: true }).collect()
    }

    fn changes(step: Step) -> Vec<(u64, ConfChangeType)> {
        let Step::Change(change) = step else { panic!("{step:?}") };
        change.changes.iter().map(|single| (single.node_id, single.get_change_type())).collect()
    }

    #[test]
    fn a_replica_moves_by_learning_first() {
        use ConfChangeType::*;
        let to = wanted(&[1, 2, 4]);
        let step = next(1, &state(&[1, 2, 3], &[]), &to, &near(&[2, 3]));
        assert_eq!(changes(step), [(4, AddLearnerNode)]);
        let far = [near(&[2, 3]), vec![PeerProgress { peer: 4, matched: 0, lag: 1 << 40, active: true }]].concat();
        assert!(matches!(next(1, &state(&[1, 2, 3], &[4]), &to, &far), Step::Wait(_)));
        let step = next(1, &state(&[1, 2, 3], &[4]), &to, &near(&[2, 3, 4]));
        assert_eq!(changes(step), [(4, AddNode), (3, RemoveNode)]);
        let joint = ConfState { voters_outgoing: vec![1, 2, 3], ..state(&[1, 2, 4], &[]) };
        assert_eq!(next(1, &joint, &to, &near(&[2, 3, 4])), Step::Change(ConfChangeV2::default()));
        assert_eq!(next(1, &state(&[1, 2, 4], &[]), &to, &near(&[2, 4])), Step::Done);
    }

    #[test]
    fn a_replica_without_state_gets_no_vote_however_short_the_log() {
        let empty = PeerProgress { peer: 4, matched: 0, lag: 13, active: true };
        let progress = [near(&[2, 3]), vec![empty]].concat();
        let step = next(1, &state(&[1, 2, 3], &[4]), &wanted(&[1, 2, 4]), &progress);
        assert!(matches!(step, Step::Wait(_)), "{step:?}");
    }

    #[test]
    fn a_leader_that_goes_hands_over_to_one_that_stays() {
        assert_eq!(next(1, &state(&[1, 2, 3], &[]), &wanted(&[2, 3]), &near(&[2, 3])), Step::GiveAway(2));
        let step = next(1, &state(&[1], &[5]), &wanted(&[5]), &near(&[5]));
        assert_eq!(changes(step), [(5, ConfChangeType::AddNode)], "nobody else votes: the new one does first");
        assert_eq!(next(1, &state(&[1, 5], &[]), &wanted(&[5]), &near(&[5])), Step::GiveAway(5));
    }

    #[test]
    fn a_configuration_that_could_not_decide_is_not_entered() {
        let silent = PeerProgress { peer: 4, matched: 9, lag: 0, active: false };
        let progress = [near(&[2]), vec![silent]].concat();
        let step = next(1, &state(&[1, 2, 3, 4], &[]), &wanted(&[1, 3, 4]), &progress);
        assert!(matches!(step, Step::Wait(_)), "{step:?}");
    }

    #[test]
    fn a_learner_that_nobody_wants_goes() {
        let step = next(1, &state(&[1, 2, 3], &[4]), &wanted(&[1, 2, 3]), &near(&[2, 3, 4]));
        assert_eq!(changes(step), [(4, ConfChangeType::RemoveNode)]);
    }
}
