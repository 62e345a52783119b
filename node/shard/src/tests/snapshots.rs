use super::cluster::{Cluster, Disk, config, open};
use crate::members::{Members, Step};
use crate::{Durable, Error, FOUNDING, HardState, Message, MessageType, Position};

/// Replica 3 is cut off while the others go on and cut their logs.
fn laggard() -> Cluster {
    let mut cluster = Cluster::led_by_1();
    cluster.cut.insert(3);
    for command in ["a", "b", "c"] {
        cluster.propose(1, command);
        cluster.settle();
    }
    [1, 2].into_iter().for_each(|peer| cluster.cut_log(peer));
    cluster.cut.clear();
    cluster
}

fn members(voters: &[u64], learners: &[u64]) -> Members {
    Members { voters: voters.iter().copied().collect(), learners: learners.iter().copied().collect() }
}

#[test]
fn a_laggard_asks_for_a_snapshot_and_takes_it() {
    let mut cluster = laggard();
    cluster.tick(6);
    assert_eq!(cluster.replica(1).take_snapshots_wanted().into_iter().collect::<Vec<_>>(), [3]);
    assert_eq!(cluster.node(3).commands(), Vec::<String>::new());
    let at = cluster.copy_state(1, 3);
    cluster.tick(6);
    assert_eq!(cluster.node(3).commands(), ["a", "b", "c"]);
    assert_eq!(cluster.replica(3).first_index(), at.index + 1);
    cluster.propose(1, "d");
    cluster.tick(4);
    assert_eq!(cluster.node(3).commands(), ["a", "b", "c", "d"]);
    assert_eq!(cluster.replica(1).staged_snapshot(3), None, "taken over");
    cluster.restart(3);
    cluster.propose(1, "e");
    cluster.tick(4);
    assert_eq!(cluster.node(3).disk().applied, cluster.replica(1).applied_index());
}

#[test]
fn a_snapshot_without_its_copy_is_refused() {
    let mut cluster = laggard();
    cluster.copy_state(1, 3);
    cluster.replica(3).expect_snapshot(None);
    cluster.tick(6);
    assert!(cluster.node(3).commands().is_empty());
    // The leader gives up waiting, and asks for another copy.
    cluster.tick(40);
    assert_eq!(cluster.replica(1).take_snapshots_wanted().into_iter().collect::<Vec<_>>(), [3]);
}

#[test]
fn a_crash_before_the_log_was_begun_anew_leaves_the_old_replica() {
    let mut cluster = laggard();
    let before = cluster.node(3).disk();
    cluster.copy_state(1, 3);
    cluster.node(3).writes_at_once = false;
    cluster.tick(6);
    assert_eq!(cluster.replica(3).applied_index(), before.applied, "not applied before it is on disk");
    let waiting = cluster.network.iter().any(|m| m.from == 3 && m.get_msg_type() == MessageType::MsgAppendResponse);
    assert!(!waiting, "acknowledged before it is on disk");
    cluster.node(3).reader.disk.lock().unwrap().clone_from(&before);
    cluster.restart(3);
    cluster.tick(6);
    cluster.copy_state(1, 3);
    cluster.tick(40);
    cluster.copy_state(1, 3);
    cluster.tick(6);
    assert_eq!(cluster.node(3).commands(), ["a", "b", "c"]);
}

#[test]
fn a_replica_that_joins_gets_a_snapshot_then_a_vote() {
    let mut cluster = Cluster::led_by_1();
    cluster.propose(1, "a");
    cluster.settle();
    cluster.nodes.insert(4, open(config(4), Disk::default()).unwrap());
    assert!(cluster.replica(4).is_joining());
    let wanted = members(&[1, 2, 4], &[]);
    assert!(matches!(cluster.replica(1).reconcile(&wanted), Some(Step::Change(_))));
    cluster.settle();
    // The log is whole, but does not say with whom the shard was made: it must be cut for the new one.
    cluster.cut_log(1);
    cluster.tick(6);
    assert_eq!(cluster.replica(1).take_snapshots_wanted().into_iter().collect::<Vec<_>>(), [4]);
    cluster.copy_state(1, 4);
    cluster.tick(6);
    assert!(!cluster.replica(4).is_joining());
    for _ in 0..6 {
        cluster.replica(1).reconcile(&wanted);
        cluster.tick(2);
    }
    assert_eq!(cluster.replica(1).reconcile(&wanted), Some(Step::Done));
    let state = cluster.replica(1).conf_state();
    assert_eq!((state.voters.len(), state.voters_outgoing.len()), (3, 0));
    cluster.cut.insert(2);
    cluster.propose(1, "b");
    cluster.tick(4);
    assert_eq!(cluster.node(4).commands().last().unwrap(), "b");
}

#[test]
fn a_replica_that_joins_takes_no_log_from_its_beginning() {
    let mut joining = open(config(4), Disk::default()).unwrap().replica;
    let mut append = Message { from: 1, to: 4, term: 1, ..Message::default() };
    append.set_msg_type(MessageType::MsgAppend);
    assert!(matches!(joining.step(append), Err(Error::Refused(_))));
}

#[test]
fn a_leader_that_should_go_hands_over_first() {
    let mut cluster = Cluster::led_by_1();
    let wanted = members(&[2, 3], &[]);
    for _ in 0..12 {
        for peer in 1..=3 {
            cluster.replica(peer).reconcile(&wanted);
        }
        cluster.tick(2);
    }
    assert_eq!(cluster.leaders().len(), 1);
    let leader = cluster.leaders()[0];
    assert_ne!(leader, 1);
    assert_eq!(cluster.replica(leader).reconcile(&wanted), Some(Step::Done));
}

#[test]
fn a_joint_state_is_left_by_the_next_leader() {
    let mut cluster = Cluster::led_by_1();
    cluster.nodes.insert(4, open(config(4), Disk::default()).unwrap());
    let wanted = members(&[1, 2, 4], &[]);
    cluster.replica(1).reconcile(&wanted);
    cluster.settle();
    cluster.cut_log(1);
    cluster.tick(6);
    cluster.copy_state(1, 4);
    cluster.tick(6);
    cluster.replica(1).reconcile(&wanted);
    cluster.settle();
    assert!(!cluster.replica(1).conf_state().voters_outgoing.is_empty());
    cluster.cut.insert(1);
    cluster.tick(60);
    let leader = cluster.leaders().into_iter().find(|leader| *leader != 1).unwrap();
    for _ in 0..4 {
        cluster.replica(leader).reconcile(&wanted);
        cluster.tick(2);
    }
    assert!(cluster.replica(leader).conf_state().voters_outgoing.is_empty());
}

#[test]
fn a_shard_begins_behind_its_founding() {
    let members = Disk::new(&[1, 2, 3]).conf_state;
    let fresh = Durable::founding(members.clone(), Durable::default());
    assert_eq!((fresh.applied, fresh.truncated, fresh.last_index), (1, FOUNDING, 1));
    let hard_state = HardState { term: 5, vote: 2, commit: 0, ..HardState::default() };
    let grown = Durable::founding(members, Durable { hard_state, last_index: 9, ..Durable::default() });
    assert_eq!((grown.hard_state.term, grown.hard_state.vote, grown.hard_state.commit), (5, 2, 1));
    assert_eq!((grown.applied, grown.truncated, grown.last_index), (1, FOUNDING, 9));
}

/// Otherwise those that stay would wait for the votes of those that are gone, once all have restarted.
#[test]
fn members_are_settled_only_when_a_restart_does_not_bring_the_earlier_ones_back() {
    let mut cluster = Cluster::led_by_1();
    let wanted = members(&[1], &[]);
    for _ in 0..20 {
        if cluster.replica(1).reconcile(&wanted) == Some(Step::Done) {
            break;
        }
        cluster.tick(1);
    }
    assert_eq!(cluster.replica(1).reconcile(&wanted), Some(Step::Done));
    [2, 3].into_iter().for_each(|peer| drop(cluster.nodes.remove(&peer)));
    // What was not on disk of the state is applied again, as far as the log says that it is decided.
    let mut disk = cluster.node(1).disk();
    (disk.applied, disk.conf_state) = (0, Disk::new(&[1, 2, 3]).conf_state);
    cluster.nodes.insert(1, open(config(1), disk).unwrap());
    cluster.tick(30);
    assert_eq!(cluster.leaders(), [1]);
}

/// Its acknowledgement was lost, and the leader has cut off what it would send to find out.
#[test]
fn a_follower_that_has_all_answers_a_snapshot_without_a_copy() {
    let mut cluster = Cluster::led_by_1();
    cluster.propose(1, "a");
    cluster.tick(4);
    let replica = cluster.replica(3);
    let (index, term) = (replica.committed_index(), replica.term());
    let at = Position { term, index };
    let mut message = Message { from: 1, to: 3, term, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    message.set_snapshot(crate::snapshots::snapshot(at, Disk::new(&[1, 2, 3]).conf_state));
    replica.step(message).unwrap();
    cluster.turn(3);
    let answered = |m: &Message| m.get_msg_type() == MessageType::MsgAppendResponse && !m.reject && m.index == index;
    assert!(cluster.network.iter().any(answered));
    assert_eq!(cluster.node(3).commands(), ["a"]);
}

/// It may know the change from its log alone, and the others' disks may not say that it is decided.
#[test]
fn a_new_leader_finds_out_anew_whether_members_are_settled() {
    let mut cluster = Cluster::led_by_1();
    let wanted = members(&[1, 2], &[]);
    for _ in 0..20 {
        cluster.replica(1).reconcile(&wanted);
        cluster.tick(1);
    }
    assert_eq!(cluster.replica(1).reconcile(&wanted), Some(Step::Done));
    cluster.replica(1).transfer_leader(2).unwrap();
    cluster.settle();
    assert_eq!(cluster.leaders(), [2]);
    let before = cluster.replica(2).last_index();
    assert!(matches!(cluster.replica(2).reconcile(&wanted), Some(Step::Wait(_))));
    cluster.tick(4);
    assert_eq!(cluster.replica(2).reconcile(&wanted), Some(Step::Done));
    assert_eq!(cluster.replica(2).last_index(), before + 1, "one entry, and no more");
}
