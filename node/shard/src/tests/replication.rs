use super::cluster::{Cluster, config};
use crate::limits::ENTRY_BYTES_MAX;
use crate::{Entry, Error, Message, MessageType, Pending, ReplicaConfig};

#[test]
fn a_command_is_committed_on_all_in_order() {
    let mut cluster = Cluster::led_by_1();
    let positions: Vec<_> = ["a", "b", "c"].iter().map(|command| cluster.propose(1, command)).collect();
    assert_eq!(positions.iter().map(|position| position.index).collect::<Vec<_>>(), [2, 3, 4]);
    cluster.settle();
    cluster.tick(4);
    for peer in 1..=3 {
        assert_eq!(cluster.node(peer).commands(), ["a", "b", "c"]);
        let applied: Vec<_> = cluster.node(peer).committed.iter().map(|committed| committed.position).collect();
        assert_eq!(applied, positions);
    }
}

#[test]
fn nothing_is_committed_before_a_majority_has_it_on_disk() {
    let mut cluster = Cluster::led_by_1();
    (2..=3).for_each(|peer| cluster.node(peer).writes_at_once = false);
    cluster.propose(1, "a");
    cluster.settle();
    cluster.tick(4);
    assert_eq!(cluster.replica(1).persisted_index(), 2);
    assert_eq!(cluster.replica(1).committed_index(), 1);
    cluster.write_all(3);
    cluster.settle();
    assert_eq!(cluster.replica(1).committed_index(), 2);
    assert_eq!(cluster.node(1).commands(), ["a"]);
}

#[test]
fn a_follower_acknowledges_only_what_is_on_disk() {
    let mut cluster = Cluster::led_by_1();
    cluster.node(2).writes_at_once = false;
    cluster.propose(1, "a");
    cluster.turn(1);
    let before = cluster.network.len();
    let position = cluster.network.iter().position(|message| message.to == 2).unwrap();
    let append = cluster.network.remove(position).unwrap();
    cluster.replica(2).step(append.clone()).unwrap();
    cluster.turn(2);
    assert_eq!(cluster.network.len(), before - 1, "no acknowledgement yet");
    // The same append again: the entry is in memory, but no more on disk than before.
    cluster.replica(2).step(append).unwrap();
    cluster.turn(2);
    assert_eq!(cluster.network.len(), before - 1);
    assert_eq!(cluster.replica(2).appends_in_flight(), 2);
    assert!(!cluster.node(2).writes[1].must_sync());
    cluster.write_one(2);
    assert_eq!(cluster.network.len(), before);
    let acknowledgement = cluster.network.back().unwrap();
    assert_eq!(acknowledgement.get_msg_type(), MessageType::MsgAppendResponse);
    assert_eq!((acknowledgement.from, acknowledgement.index), (2, 2));
}

#[test]
fn a_leader_does_not_count_itself_before_its_own_write() {
    let mut cluster = Cluster::led_by_1();
    cluster.cut.insert(3);
    cluster.node(1).writes_at_once = false;
    cluster.propose(1, "a");
    cluster.settle();
    // Replica 2 has it on disk; with the leader it would be a majority.
    assert_eq!(cluster.replica(2).persisted_index(), 2);
    assert_eq!(cluster.replica(1).committed_index(), 1);
    cluster.write_all(1);
    cluster.settle();
    assert_eq!(cluster.replica(1).committed_index(), 2);
}

#[test]
fn a_leader_applies_only_what_it_has_on_disk_itself() {
    let mut cluster = Cluster::led_by_1();
    cluster.node(1).writes_at_once = false;
    cluster.propose(1, "a");
    cluster.settle();
    assert_eq!(cluster.replica(1).committed_index(), 2);
    assert!(cluster.node(1).commands().is_empty());
    cluster.write_all(1);
    cluster.settle();
    assert_eq!(cluster.node(1).commands(), ["a"]);
}

#[test]
fn several_appends_are_in_flight_and_persisted_in_order() {
    let mut cluster = Cluster::led_by_1();
    cluster.node(1).writes_at_once = false;
    for command in ["a", "b", "c"] {
        cluster.propose(1, command);
        cluster.turn(1);
    }
    let numbers: Vec<u64> = cluster.node(1).writes.iter().map(|append| append.number).collect();
    assert!(numbers.is_sorted() && numbers.len() == 3);
    cluster.settle();
    cluster.write_one(1);
    cluster.settle();
    assert_eq!(cluster.node(1).commands(), ["a"]);
    // One report may stand for several writes.
    let node = cluster.node(1);
    let last = node.writes.pop_back().unwrap();
    let middle = node.writes.pop_back().unwrap();
    [&middle, &last].iter().for_each(|append| node.reader.disk.lock().unwrap().write(append));
    node.replica.persisted(last.number);
    cluster.settle();
    assert_eq!(cluster.node(1).commands(), ["a", "b", "c"]);
    assert_eq!(cluster.replica(1).appends_in_flight(), 0);
}

/// Replica 1 leads in term 1, replica 3 in term 2, replica 1 again in term 3; the first write of replica 2 ends last.
#[test]
fn entries_replaced_while_in_flight_count_only_as_last_written() {
    let mut cluster = Cluster::with(5, config);
    cluster.elect(1);
    cluster.node(2).writes_at_once = false;
    let mut numbers = Vec::new();
    for (from, term, terms) in [(1, 1, &[1, 1][..]), (3, 2, &[2]), (1, 3, &[1, 1])] {
        let mut append = Message { from, to: 2, term, index: 1, log_term: 1, commit: 1, ..Message::default() };
        append.set_msg_type(MessageType::MsgAppend);
        let entries = terms.iter().zip(2..).map(|(term, index)| Entry { term: *term, index, ..Entry::default() });
        append.set_entries(entries.collect::<Vec<_>>().into());
        cluster.replica(2).step(append).unwrap();
        cluster.turn(2);
        numbers.push(cluster.node(2).writes.back().unwrap().number);
    }
    // Entry 3 of term 1 is on disk, but the next write in flight takes it away again.
    for number in &numbers[..2] {
        cluster.replica(2).persisted(*number);
        cluster.turn(2);
        assert_eq!(cluster.replica(2).persisted_index(), 1);
    }
    cluster.replica(2).persisted(numbers[2]);
    assert_eq!(cluster.replica(2).persisted_index(), 3);
}

#[test]
fn a_commit_index_alone_is_not_written() {
    let mut cluster = Cluster::led_by_1();
    cluster.propose(1, "a");
    cluster.settle();
    (1..=3).for_each(|peer| cluster.node(peer).writes_at_once = false);
    cluster.tick(9);
    assert_eq!(cluster.replica(3).committed_index(), 2);
    for peer in 1..=3 {
        assert!(cluster.node(peer).writes.is_empty());
    }
}

#[test]
fn replies_go_to_the_proposals_that_won() {
    let mut cluster = Cluster::led_by_1();
    let mut pending = Pending::new(8);
    pending.push(cluster.propose(1, "a"), "a");
    cluster.settle();
    // The leader is cut off with "b"; replica 2 puts another entry in its place.
    cluster.cut.insert(1);
    pending.push(cluster.propose(1, "b"), "b");
    cluster.tick(25);
    cluster.propose(2, "c");
    cluster.settle();
    cluster.cut.clear();
    cluster.tick(25);
    let replies: Vec<_> =
        cluster.node(1).committed.iter().filter_map(|committed| pending.take(committed.position)).collect();
    assert_eq!(cluster.node(1).commands(), ["a", "c"]);
    assert_eq!(replies, ["a"]);
    assert_eq!(pending.take_aborted(), ["b"]);
}

#[test]
fn proposals_are_bounded() {
    let mut cluster = Cluster::led_by_1();
    let large = vec![1; ENTRY_BYTES_MAX];
    assert!(matches!(cluster.replica(1).propose("".into()), Err(Error::EntrySize { .. })));
    let too_large = vec![1; ENTRY_BYTES_MAX + 1];
    assert!(matches!(cluster.replica(1).propose(too_large.into()), Err(Error::EntrySize { .. })));
    assert!(matches!(cluster.replica(2).propose("a".into()), Err(Error::NotLeader { leader: Some(1), .. })));
    cluster.cut.insert(1);
    let taken = (0..100).take_while(|_| cluster.replica(1).propose(large.clone().into()).is_ok()).count();
    assert_eq!(taken, config(1).uncommitted_bytes_max / ENTRY_BYTES_MAX);
    assert!(matches!(cluster.replica(1).propose(large.into()), Err(Error::Busy { .. })));
}

#[test]
fn a_follower_that_lags_is_served_from_disk_in_bounded_messages() {
    let small = |peer| ReplicaConfig { cache_bytes_max: 4096, append_bytes_max: 2000, ..config(peer) };
    let mut cluster = Cluster::with(3, small);
    cluster.elect(1);
    cluster.cut.insert(3);
    for _ in 0..100 {
        cluster.propose(1, &"x".repeat(300));
        cluster.settle();
    }
    assert!(cluster.replica(1).cached_bytes() <= 4096);
    assert_eq!(*cluster.node(1).reader.reads.lock().unwrap(), 0);
    let lag = cluster.replica(1).progress();
    assert_eq!((lag[0].peer, lag[0].lag, lag[1].peer, lag[1].lag), (2, 0, 3, 100));
    cluster.cut.clear();
    let mut largest = 0;
    for _ in 0..40 {
        for peer in 1..=3 {
            cluster.replica(peer).tick();
            cluster.turn(peer);
        }
        while !cluster.network.is_empty() {
            let bytes = |message: &crate::Message| message.entries.iter().map(|entry| entry.data.len()).sum();
            largest = cluster.network.iter().map(bytes).max().unwrap_or(0).max(largest);
            cluster.deliver_one();
        }
    }
    assert_eq!(cluster.node(3).commands().len(), 100);
    assert!((1500..=2000).contains(&largest), "{largest}");
    assert!(*cluster.node(1).reader.reads.lock().unwrap() > 0);
    assert!(cluster.replica(3).cached_bytes() <= 4096);
}

#[test]
fn entries_stay_cached_until_persisted_and_applied() {
    let mut cluster = Cluster::with(1, |peer| ReplicaConfig { cache_bytes_max: 1, ..config(peer) });
    cluster.elect(1);
    let node = cluster.node(1);
    (node.writes_at_once, node.applies_at_once) = (false, false);
    cluster.propose(1, &"x".repeat(1000));
    cluster.settle();
    assert!(cluster.replica(1).cached_bytes() > 1000);
    cluster.write_all(1);
    cluster.settle();
    assert!(cluster.replica(1).cached_bytes() > 1000);
    cluster.replica(1).applied(2);
    assert_eq!(cluster.replica(1).cached_bytes(), 0);
}

#[test]
fn the_log_is_cut_below_what_is_durably_applied() {
    let mut cluster = Cluster::led_by_1();
    for command in ["a", "b", "c"] {
        cluster.propose(1, command);
    }
    cluster.settle();
    cluster.replica(1).truncate_to(3, 4);
    assert_eq!(cluster.replica(1).first_index(), 4);
    cluster.replica(1).truncate_to(2, 4);
    assert_eq!(cluster.replica(1).first_index(), 4);
    cluster.propose(1, "d");
    cluster.tick(4);
    assert_eq!(cluster.node(2).commands(), ["a", "b", "c", "d"]);
}

#[test]
#[should_panic(expected = "needed to restore")]
fn the_log_is_not_cut_above_what_is_durably_applied() {
    let mut cluster = Cluster::led_by_1();
    cluster.propose(1, "a");
    cluster.settle();
    cluster.replica(1).truncate_to(2, 1);
}

#[test]
#[should_panic(expected = "cannot be applied")]
fn nothing_is_applied_that_was_not_handed_out() {
    let mut cluster = Cluster::led_by_1();
    cluster.replica(1).applied(2);
}
