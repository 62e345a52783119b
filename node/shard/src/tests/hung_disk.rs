//! A leader whose disk does not answer: others commit without it, and lead.

use super::cluster::Cluster;
use crate::Role;

#[test]
fn a_leader_whose_disk_hangs_hands_its_leadership_over() {
    let mut cluster = Cluster::led_by_1();
    cluster.node(1).writes_at_once = false;
    let position = cluster.propose(1, "a");
    cluster.settle();
    assert!(cluster.replica(1).appends_in_flight() > 0);
    assert_eq!(cluster.replica(1).committed_index(), position.index, "two of three disks are a majority");
    assert!(cluster.node(1).commands().is_empty(), "it applies nothing that it may forget");
    cluster.replica(1).transfer_leader(2).unwrap();
    cluster.settle();
    assert_eq!(cluster.leaders(), [2]);
    // While it hangs it is not elected, however it is asked.
    assert!(cluster.replica(1).campaign().is_err());
    cluster.propose(2, "b");
    cluster.settle();
    cluster.node(1).writes_at_once = true;
    cluster.write_all(1);
    cluster.settle();
    cluster.tick(10);
    assert_eq!(cluster.node(1).commands(), ["a", "b"]);
}

#[test]
fn a_leader_that_finds_nobody_steps_down_and_another_is_elected() {
    let mut cluster = Cluster::led_by_1();
    cluster.node(1).writes_at_once = false;
    cluster.propose(1, "a");
    cluster.settle();
    assert!(cluster.replica(1).step_down());
    assert!(!cluster.replica(1).step_down(), "it leads no more");
    cluster.settle();
    assert!(cluster.leaders().is_empty());
    assert_eq!(cluster.replica(1).role(), Role::Follower { term: 1, leader: None });
    cluster.tick(30);
    let leaders = cluster.leaders();
    assert!(leaders == [2] || leaders == [3], "{leaders:?}");
    cluster.node(1).writes_at_once = true;
    cluster.write_all(1);
    cluster.propose(leaders[0], "b");
    cluster.settle();
    cluster.tick(10);
    assert_eq!(cluster.node(1).commands(), ["a", "b"]);
}

#[test]
fn one_alone_does_not_step_down() {
    let mut cluster = Cluster::new(1);
    cluster.elect(1);
    assert!(!cluster.replica(1).step_down());
    assert_eq!(cluster.leaders(), [1]);
}
