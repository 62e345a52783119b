use super::cluster::Cluster;
use crate::limits::{CONTEXT_BYTES_MAX, COUNTER_MAX, ENTRY_BYTES_MAX};
use crate::{Entry, EntryType, Error, Message, MessageType};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn message(kind: MessageType) -> Message {
    let mut message = Message { from: 1, to: 2, term: 1, ..Message::default() };
    message.set_msg_type(kind);
    message
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: "x".into(), ..Entry::default() }
}

/// An append of one entry to the logs of `Cluster::led_by_1`, as its leader would send it.
fn append(change: impl FnOnce(&mut Message)) -> Message {
    let mut message = message(MessageType::MsgAppend);
    (message.index, message.log_term) = (1, 1);
    message.set_entries(vec![entry(2, 1)].into());
    change(&mut message);
    message
}

fn assert_refused(message: Message) {
    let mut cluster = Cluster::led_by_1();
    let to = if message.to == 1 { 1 } else { 2 };
    let result = cluster.replica(to).step(message.clone());
    assert!(matches!(result, Err(Error::Refused(_))), "{result:?} to {message:?}");
    assert!(cluster.replica(to).take_output().unwrap().is_none(), "{message:?}");
}

#[test]
fn a_good_append_is_taken() {
    let mut cluster = Cluster::led_by_1();
    cluster.replica(2).step(append(|_| ())).unwrap();
    assert_eq!(cluster.replica(2).last_index(), 2);
}

#[test]
fn types_that_replicas_do_not_send_are_refused() {
    for kind in [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgPropose,
        MessageType::MsgSnapshot,
        MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus,
        MessageType::MsgCheckQuorum,
        MessageType::MsgTransferLeader,
        MessageType::MsgReadIndex,
        MessageType::MsgReadIndexResp,
    ] {
        assert_refused(message(kind));
        assert_refused(Message { from: 2, to: 1, ..message(kind) });
    }
}

#[test]
fn strangers_and_wrong_addresses_are_refused() {
    assert_refused(append(|message| message.to = 3));
    assert_refused(append(|message| message.from = 9));
    assert_refused(append(|message| message.from = 0));
    assert_refused(append(|message| message.from = 2));
}

#[test]
fn counters_out_of_range_are_refused() {
    for counter in [COUNTER_MAX + 1, u64::MAX] {
        assert_refused(append(|message| message.term = counter));
        assert_refused(append(|message| message.index = counter));
        assert_refused(append(|message| message.commit = counter));
        assert_refused(Message { reject_hint: counter, ..message(MessageType::MsgAppendResponse) });
        assert_refused(Message { commit_term: counter, ..message(MessageType::MsgRequestVote) });
    }
    assert_refused(append(|message| message.term = 0));
}

#[test]
fn appends_that_do_not_join_are_refused() {
    // A position beyond the log that claims term 0, which raft takes to match.
    let empty_after = |index, log_term| Message { index, log_term, ..message(MessageType::MsgAppend) };
    assert_refused(empty_after(9, 0));
    assert_refused(empty_after(0, 1));
    assert_refused(append(|message| message.log_term = 2));
    assert_refused(append(|message| message.set_entries(vec![entry(3, 1)].into())));
    assert_refused(append(|message| message.set_entries(vec![entry(2, 1), entry(4, 1)].into())));
    assert_refused(append(|message| message.set_entries(vec![entry(2, 2)].into())));
    assert_refused(append(|message| message.set_entries(vec![entry(2, 0)].into())));
    assert_refused(append(|message| {
        message.term = 5;
        message.set_entries(vec![entry(2, 4), entry(3, 3)].into());
    }));
}

#[test]
fn entries_that_cannot_be_are_refused() {
    let with = |change: fn(&mut Entry)| {
        append(|message| {
            let mut entry = entry(2, 1);
            change(&mut entry);
            message.set_entries(vec![entry].into());
        })
    };
    assert_refused(with(|entry| entry.data = vec![0; ENTRY_BYTES_MAX + 1].into()));
    assert_refused(with(|entry| entry.context = "x".into()));
    assert_refused(with(|entry| entry.entry_type = EntryType::EntryConfChange));
    assert_refused(with(|entry| {
        entry.entry_type = EntryType::EntryConfChangeV2;
        entry.data = vec![255; 8].into();
    }));
    assert_refused(append(|message| message.context = vec![0; CONTEXT_BYTES_MAX + 1].into()));
    assert_refused(append(|message| message.set_msg_type(MessageType::MsgHeartbeat)));
}

#[test]
fn snapshots_are_refused() {
    assert_refused(Message { from: 2, to: 1, request_snapshot: 1, ..message(MessageType::MsgAppendResponse) });
    assert_refused(append(|message| message.snapshot = Some(raft::eraftpb::Snapshot::default()).into()));
}

#[test]
fn acknowledgements_of_what_was_not_sent_are_refused() {
    assert_refused(Message { from: 2, to: 1, index: 2, ..message(MessageType::MsgAppendResponse) });
}

#[test]
fn a_heartbeat_that_counts_on_missing_entries_reveals_the_loss() {
    let mut cluster = Cluster::led_by_1();
    let result = cluster.replica(2).step(Message { commit: 2, ..message(MessageType::MsgHeartbeat) });
    assert!(matches!(result, Err(Error::Damaged { peer: 2, .. })), "{result:?}");
    assert!(cluster.replica(2).take_output().unwrap().is_none());
    cluster.replica(2).step(Message { commit: 1, ..message(MessageType::MsgHeartbeat) }).unwrap();
}

fn kind() -> impl Strategy<Value = MessageType> {
    (0..=18_i32).prop_map(|number| {
        use protobuf::ProtobufEnum;
        MessageType::from_i32(number).unwrap()
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    let counters = prop::array::uniform6(prop_oneof![8 => 0..5_u64, 1 => any::<u64>()]);
    let entries = prop::collection::vec((0..5_u64, 0..3_usize), 0..4);
    let context = prop_oneof![Just(&b""[..]), Just(&b"CampaignTransfer"[..]), Just(&[0, 0, 0, 0, 0, 0, 0, 1][..])];
    (kind(), 1..4_u64, counters, entries, any::<bool>(), context).prop_map(
        |(kind, from, counters, entries, reject, context)| {
            let [term, log_term, index, commit, commit_term, reject_hint] = counters;
            let mut message =
                Message { from, term, log_term, index, commit, commit_term, reject_hint, reject, ..Message::default() };
            message.set_msg_type(kind);
            message.context = context.into();
            let entries = entries.iter().zip(1..).map(|((term, bytes), offset)| Entry {
                index: index.wrapping_add(offset),
                term: *term,
                data: vec![b'x'; *bytes].into(),
                ..Entry::default()
            });
            message.set_entries(entries.collect::<Vec<_>>().into());
            message
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    /// Whatever peers send, in whatever order, among ticks, proposals and writes that lag: nothing panics.
    #[test]
    fn any_messages_are_survived(script in prop::collection::vec((any_message(), 1..4_u64, 0..10_u8), 1..40)) {
        let mut cluster = Cluster::led_by_1();
        for (mut message, to, action) in script {
            message.to = to;
            // Refusals are expected; a panic is not.
            let _ = cluster.replica(to).step(message);
            match action {
                0 => (0..10).for_each(|_| cluster.replica(to).tick()),
                1 => drop(cluster.replica(to).propose("y".into())),
                2 => drop(cluster.replica(to).read_index(1)),
                3 => cluster.node(to).writes_at_once = false,
                4 => cluster.write_all(to),
                5 => drop(cluster.replica(to).transfer_leader(1)),
                6 => drop(cluster.replica(to).campaign()),
                _ => {}
            }
            cluster.turn(to);
        }
    }
}
