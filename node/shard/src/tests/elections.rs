use super::cluster::{Cluster, Disk, config, open};
use crate::members::Members;
use crate::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Error, Message, MessageType, Pending, Read, Role};

#[test]
fn the_shortest_timeout_is_elected_and_all_agree() {
    let mut cluster = Cluster::new(3);
    cluster.tick(9);
    assert!(cluster.leaders().is_empty());
    cluster.tick(1);
    assert_eq!(cluster.leaders(), [1]);
    assert_eq!(cluster.node(1).roles.last(), Some(&Role::Leader { term: 1 }));
    for peer in [2, 3] {
        assert_eq!(cluster.node(peer).roles.last(), Some(&Role::Follower { term: 1, leader: Some(1) }));
    }
    assert_eq!(cluster.replica(1).serving_term(), Some(1));
    assert_eq!(cluster.replica(2).serving_term(), None);
}

#[test]
fn heartbeats_keep_the_leader() {
    let mut cluster = Cluster::led_by_1();
    cluster.tick(100);
    assert_eq!((cluster.leaders(), cluster.replica(3).term()), (vec![1], 1));
    assert_eq!(cluster.replica(1).appends_in_flight(), 0);
}

#[test]
fn the_same_ticks_give_the_same_history() {
    let history = || {
        let mut cluster = Cluster::new(3);
        cluster.tick(30);
        cluster.cut.insert(1);
        cluster.tick(50);
        cluster.cut.clear();
        cluster.tick(50);
        cluster.nodes.values().map(|node| node.roles.clone()).collect::<Vec<_>>()
    };
    assert_eq!(history(), history());
}

#[test]
fn a_leader_serves_only_after_applying_an_entry_of_its_term() {
    let mut cluster = Cluster::new(3);
    cluster.node(1).applies_at_once = false;
    cluster.replica(1).campaign().unwrap();
    cluster.settle();
    assert_eq!(cluster.replica(1).role(), Role::Leader { term: 1 });
    assert_eq!(cluster.replica(1).serving_term(), None);
    cluster.replica(1).applied(1);
    assert_eq!(cluster.replica(1).serving_term(), Some(1));
}

#[test]
fn a_vote_leaves_only_after_it_is_on_disk() {
    let mut cluster = Cluster::new(3);
    cluster.cut.insert(3);
    cluster.node(2).writes_at_once = false;
    cluster.replica(1).campaign().unwrap();
    cluster.settle();
    assert!(cluster.leaders().is_empty());
    let vote = cluster.node(2).writes.back().unwrap();
    assert!(vote.must_sync());
    assert_eq!(vote.hard_state.as_ref().unwrap().vote, 1);
    assert_eq!(vote.messages[0].get_msg_type(), MessageType::MsgRequestVoteResponse);
    cluster.node(2).writes_at_once = true;
    cluster.write_all(2);
    cluster.settle();
    assert_eq!(cluster.leaders(), [1]);
}

#[test]
fn a_leader_without_quorum_steps_down_and_another_leads() {
    let mut cluster = Cluster::led_by_1();
    let mut pending = Pending::new(4);
    cluster.cut.insert(1);
    pending.push(cluster.propose(1, "lost"), "waiting");
    cluster.tick(25);
    assert_eq!(cluster.leaders(), [2]);
    assert!(matches!(cluster.node(1).roles.last(), Some(Role::Follower { leader: None, .. })));
    pending.abort_all();
    assert_eq!(pending.take_aborted(), ["waiting"]);

    let won = cluster.propose(2, "kept");
    cluster.settle();
    cluster.cut.clear();
    cluster.tick(25);
    assert_eq!(cluster.node(1).commands(), ["kept"]);
    assert_eq!(cluster.node(1).committed[0].position, won);
    assert_eq!(cluster.replica(1).leader(), Some(2));
}

#[test]
fn a_transfer_moves_the_leadership_and_refuses_proposals_meanwhile() {
    let mut cluster = Cluster::led_by_1();
    assert!(matches!(cluster.replica(1).transfer_leader(1), Err(Error::Refused(_))));
    assert!(matches!(cluster.replica(1).transfer_leader(9), Err(Error::Refused(_))));
    assert!(matches!(cluster.replica(2).transfer_leader(3), Err(Error::NotLeader { leader: Some(1), .. })));
    cluster.replica(1).transfer_leader(3).unwrap();
    assert!(cluster.replica(1).is_transferring());
    assert!(matches!(cluster.replica(1).propose("x".into()), Err(Error::Busy { .. })));
    cluster.settle();
    assert_eq!(cluster.leaders(), [3]);
    assert!(!cluster.replica(1).is_transferring());
}

#[test]
fn a_transfer_to_a_silent_peer_is_refused_or_given_up() {
    let mut cluster = Cluster::led_by_1();
    cluster.replica(1).transfer_leader(3).unwrap();
    cluster.cut.insert(3);
    cluster.tick(10);
    assert!(!cluster.replica(1).is_transferring());
    cluster.propose(1, "again");
    cluster.tick(10);
    assert!(matches!(cluster.replica(1).transfer_leader(3), Err(Error::Busy { .. })));
}

#[test]
fn a_read_waits_for_a_quorum() {
    let mut cluster = Cluster::led_by_1();
    cluster.propose(1, "a");
    cluster.settle();
    assert!(matches!(cluster.replica(2).read_index(1), Err(Error::NotLeader { .. })));
    cluster.replica(1).read_index(42).unwrap();
    cluster.turn(1);
    assert_eq!(cluster.node(1).reads, []);
    cluster.settle();
    assert_eq!(cluster.node(1).reads, [Read { context: 42, index: 2 }]);

    cluster.cut.insert(1);
    cluster.replica(1).read_index(43).unwrap();
    cluster.settle();
    assert_eq!(cluster.node(1).reads.len(), 1);
    let refused = (100..200).find_map(|context| cluster.replica(1).read_index(context).err());
    assert!(matches!(refused, Some(Error::Busy { .. })));
}

#[test]
fn a_read_before_the_first_own_entry_is_refused() {
    let mut cluster = Cluster::new(3);
    cluster.node(1).writes_at_once = false;
    cluster.replica(1).campaign().unwrap();
    while cluster.leaders().is_empty() {
        cluster.turn(1);
        cluster.write_all(1);
        cluster.deliver_one();
    }
    assert!(matches!(cluster.replica(1).read_index(1), Err(Error::Busy { .. })));
}

#[test]
fn a_replica_does_not_campaign_with_entries_that_are_not_on_disk() {
    let mut cluster = Cluster::led_by_1();
    cluster.node(2).writes_at_once = false;
    cluster.propose(1, "a");
    cluster.settle();
    cluster.cut.insert(1);
    cluster.cut.insert(3);
    cluster.tick(30);
    assert_eq!(cluster.node(2).roles.last(), Some(&Role::Follower { term: 1, leader: Some(1) }));
    assert!(matches!(cluster.replica(2).campaign(), Err(Error::Busy { .. })));
    cluster.node(2).writes_at_once = true;
    cluster.write_all(2);
    cluster.cut.remove(&3);
    cluster.tick(30);
    assert_eq!(cluster.leaders().last(), Some(&2));
}

fn change(kind: ConfChangeType, peer: u64) -> ConfChangeV2 {
    let mut single = ConfChangeSingle { node_id: peer, ..ConfChangeSingle::default() };
    single.set_change_type(kind);
    let mut change = ConfChangeV2::default();
    change.set_changes(vec![single].into());
    change
}

#[test]
fn members_are_changed_through_the_log() {
    let mut cluster = Cluster::led_by_1();
    let removal = change(ConfChangeType::RemoveNode, 3);
    assert!(matches!(cluster.replica(1).propose_change(change(ConfChangeType::RemoveNode, 1)), Err(Error::Refused(_))));
    let position = cluster.replica(1).propose_change(removal.clone()).unwrap();
    assert!(matches!(cluster.replica(1).propose_change(removal), Err(Error::Busy { .. })));
    cluster.settle();
    for peer in [1, 2] {
        assert_eq!(cluster.node(peer).committed.last().unwrap().position, position);
        assert_eq!(cluster.replica(peer).conf_state().voters.len(), 2);
    }
    cluster.cut.insert(3);
    cluster.restart(2);
    assert_eq!(cluster.replica(2).conf_state().voters.len(), 2);
    cluster.propose(1, "by two");
    cluster.tick(5);
    assert_eq!(cluster.node(1).commands(), ["by two"]);
}

#[test]
fn a_leader_removed_by_its_predecessor_steps_down() {
    let mut cluster = Cluster::led_by_1();
    // Replica 2 takes the leadership with the entry that removes it in its log, not yet committed.
    cluster.replica(1).propose_change(change(ConfChangeType::RemoveNode, 2)).unwrap();
    cluster.turn(1);
    for _ in 0..2 {
        cluster.deliver_one();
    }
    cluster.network.clear();
    cluster.cut.insert(1);
    cluster.tick(12);
    assert!(cluster.node(2).roles.contains(&Role::Leader { term: 2 }));
    assert_eq!(cluster.replica(2).conf_state().voters.len(), 2);
    assert!(matches!(cluster.replica(2).role(), Role::Follower { .. }));
    assert!(matches!(cluster.replica(2).propose("x".into()), Err(Error::NotLeader { .. })));
}

#[test]
fn one_replica_alone_leads_itself() {
    let mut cluster = Cluster::with(1, config);
    cluster.tick(10);
    assert_eq!(cluster.leaders(), [1]);
    cluster.propose(1, "a");
    cluster.replica(1).read_index(5).unwrap();
    cluster.settle();
    assert_eq!(cluster.node(1).commands(), ["a"]);
    assert_eq!(cluster.node(1).reads.len(), 1);
}

/// Otherwise a crash before the write would let it lead the same term again, with other entries under the same positions.
#[test]
fn a_single_voter_sends_nothing_before_its_own_vote_is_on_disk() {
    let mut cluster = Cluster::new(1);
    cluster.elect(1);
    cluster.nodes.insert(2, open(config(2), Disk::default()).unwrap());
    cluster.replica(1).reconcile(&Members { voters: [1].into(), learners: [2].into() });
    cluster.settle();
    let term = cluster.replica(1).term();
    cluster.restart(1);
    cluster.node(1).writes_at_once = false;
    cluster.replica(1).campaign().unwrap();
    cluster.turn(1);
    cluster.propose(1, "a");
    cluster.turn(1);
    assert_eq!(cluster.leaders(), [1]);
    let early = cluster.network.iter().find(|message| message.term > term);
    assert!(early.is_none(), "{early:?}");
    cluster.write_all(1);
    cluster.turn(1);
    assert!(cluster.network.iter().any(|message| message.to == 2 && message.term == term + 1));
}

#[test]
fn a_successor_that_is_behind_for_a_moment_campaigns_when_it_is_not() {
    let mut cluster = Cluster::led_by_1();
    cluster.node(2).writes_at_once = false;
    cluster.propose(1, "a");
    cluster.settle();
    let mut summons = Message { from: 1, to: 2, term: cluster.replica(1).term(), ..Message::default() };
    summons.set_msg_type(MessageType::MsgTimeoutNow);
    cluster.replica(2).step(summons).unwrap();
    cluster.settle();
    assert_eq!(cluster.leaders(), [1], "its entry is not on disk");
    cluster.node(2).writes_at_once = true;
    cluster.write_all(2);
    cluster.settle();
    assert_eq!(cluster.leaders(), [2], "without a tick");
}
