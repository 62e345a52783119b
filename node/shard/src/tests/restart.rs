use super::cluster::{Cluster, Disk, config, open};
use crate::{Entry, Error, HardState, Position, Replica};

/// A disk of replica 1 of three with entries of term 1 up to `last`.
fn disk(commit: u64, applied: u64, last: u64) -> Disk {
    let mut disk = Disk::new(&[1, 2, 3]);
    disk.hard_state = HardState { term: 1, vote: 1, commit, ..HardState::default() };
    disk.applied = applied;
    for index in 1..=last {
        let data = format!("{index}").into();
        disk.entries.insert(index, Entry { index, term: 1, data, ..Entry::default() });
    }
    disk
}

fn reason(disk: Disk) -> String {
    match open(config(1), disk) {
        Err(Error::Damaged { shard, peer, reason }) => {
            assert_eq!((shard, peer), (super::cluster::SHARD, 1));
            reason
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a damaged log was opened"),
    }
}

#[test]
fn all_restart_and_go_on() {
    let mut cluster = Cluster::led_by_1();
    for command in ["a", "b"] {
        cluster.propose(1, command);
        cluster.settle();
    }
    (1..=3).for_each(|peer| cluster.restart(peer));
    cluster.tick(20);
    let leader = cluster.leaders()[0];
    assert_eq!(cluster.replica(leader).term(), 2);
    let position = cluster.propose(leader, "c");
    cluster.settle();
    cluster.tick(4);
    for peer in 1..=3 {
        assert_eq!(cluster.node(peer).committed.last().unwrap().position, position);
        assert_eq!(cluster.node(peer).disk().applied, position.index);
    }
}

#[test]
fn a_write_that_was_not_done_is_not_counted_after_a_restart() {
    let mut cluster = Cluster::led_by_1();
    cluster.cut.insert(3);
    cluster.node(2).writes_at_once = false;
    cluster.propose(1, "a");
    cluster.settle();
    cluster.restart(2);
    assert_eq!(cluster.replica(2).last_index(), 1);
    assert_eq!(cluster.replica(1).committed_index(), 1);
    cluster.tick(4);
    assert_eq!(cluster.replica(2).last_index(), 2);
    assert_eq!(cluster.replica(1).committed_index(), 2);
}

#[test]
fn the_state_may_be_ahead_of_the_commit_index_written() {
    let mut cluster = Cluster::new(3);
    cluster.nodes.insert(1, open(config(1), disk(2, 5, 7)).unwrap());
    assert_eq!((cluster.replica(1).committed_index(), cluster.replica(1).applied_index()), (5, 5));
    cluster.elect(1);
    assert_eq!(cluster.node(1).commands(), ["6", "7"]);
}

#[test]
fn what_was_committed_but_not_durably_applied_is_applied_again() {
    let mut cluster = Cluster::new(3);
    cluster.nodes.insert(1, open(config(1), disk(6, 3, 7)).unwrap());
    cluster.turn(1);
    assert_eq!(cluster.node(1).commands(), ["4", "5", "6"]);
}

#[test]
fn a_replica_does_not_campaign_before_it_has_caught_up() {
    let mut node = open(config(1), disk(6, 3, 7)).unwrap();
    assert!(matches!(node.replica.campaign(), Err(Error::Busy { .. })));
    (0..100).for_each(|_| node.replica.tick());
    assert_eq!(node.replica.leader(), None);
    assert_eq!(*node.reader.reads.lock().unwrap(), 0);
    let output = node.replica.take_output().unwrap().unwrap();
    assert_eq!(output.committed_to, 6);
    assert!(output.messages.is_empty());
    node.replica.applied(6);
    node.replica.tick();
    assert!(!node.replica.take_output().unwrap().unwrap().messages.is_empty());
}

#[test]
fn a_cut_log_is_opened() {
    let mut disk = disk(6, 5, 7);
    disk.entries = disk.entries.split_off(&5);
    disk.truncated = Position { term: 1, index: 4 };
    let mut node = open(config(1), disk.clone()).unwrap();
    assert_eq!((node.replica.first_index(), node.replica.last_index()), (5, 7));
    assert_eq!(node.replica.take_output().unwrap().unwrap().committed_to, 6);
    disk.applied = 3;
    assert!(reason(disk).contains("cut"));
}

#[test]
fn a_log_that_lost_its_tail_is_refused() {
    assert!(reason(disk(3, 5, 4)).contains("5 is applied"));
    assert!(reason(disk(5, 3, 4)).contains("5 is committed"));
    assert!(reason(disk(0, 1, 0)).contains("1 is applied"));
    let mut forgotten_term = disk(2, 2, 4);
    forgotten_term.entries.get_mut(&4).unwrap().term = 9;
    assert!(reason(forgotten_term).contains("term 9"));
    let mut hole = disk(2, 2, 4);
    hole.entries.remove(&4);
    let durable = disk(2, 2, 4).durable();
    let reader = open(config(1), hole).unwrap().reader;
    assert!(matches!(Replica::open(config(1), durable, Box::new(reader)), Err(Error::Damaged { .. })));
}

#[test]
fn a_replica_outside_of_the_configuration_is_refused() {
    assert!(matches!(open(config(4), disk(0, 0, 0)), Err(Error::Config { .. })));
    let bad = crate::ReplicaConfig { heartbeat_ticks: 10, ..config(1) };
    assert!(matches!(open(bad, disk(0, 0, 0)), Err(Error::Config { .. })));
}

#[test]
fn a_log_that_cannot_be_read_stops_the_replica() {
    let mut node = open(config(1), disk(6, 3, 7)).unwrap();
    *node.reader.fails.lock().unwrap() = true;
    assert!(matches!(node.replica.take_output(), Err(Error::LogRead { .. })));
    *node.reader.fails.lock().unwrap() = false;
    assert!(matches!(node.replica.take_output(), Err(Error::LogRead { .. })), "the error is final");
}

#[test]
fn a_log_with_other_entries_than_were_written_stops_the_replica() {
    for damage in [
        (|disk: &mut Disk| drop(disk.entries.remove(&4))) as fn(&mut Disk),
        |disk| disk.entries.get_mut(&5).unwrap().term = 3,
        |disk| disk.entries.get_mut(&4).unwrap().index = 9,
    ] {
        let mut node = open(config(1), disk(6, 3, 7)).unwrap();
        damage(&mut node.reader.disk.lock().unwrap());
        assert!(matches!(node.replica.take_output(), Err(Error::LogRead { .. })));
    }
}

#[test]
fn a_leader_that_cannot_read_for_a_follower_stops() {
    let mut cluster = Cluster::new(3);
    cluster.nodes.insert(1, open(config(1), disk(7, 7, 7)).unwrap());
    *cluster.node(1).reader.fails.lock().unwrap() = true;
    cluster.replica(1).campaign().unwrap();
    let stopped = (0..100).find_map(|_| {
        match cluster.replica(1).take_output() {
            Err(error) => return Some(error),
            Ok(Some(output)) => {
                cluster.network.extend(output.messages);
                if let Some(append) = output.append {
                    cluster.replica(1).persisted(append.number);
                    cluster.network.extend(append.messages);
                }
            }
            Ok(None) => {}
        }
        let message = cluster.network.pop_front()?;
        let to = message.to;
        cluster.replica(to).step(message).unwrap();
        if to != 1 {
            cluster.turn(to);
        }
        None
    });
    assert!(matches!(stopped, Some(Error::LogRead { .. })), "{stopped:?}");
}
