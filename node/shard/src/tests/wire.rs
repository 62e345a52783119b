use crate::limits::{APPEND_ENTRIES_MAX, CONTEXT_BYTES_MAX, ENTRY_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::snapshots::snapshot;
use crate::wire::*;
use crate::{ConfState, Entry, EntryType, Error, HardState, Message, MessageType, Position};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const KINDS: [MessageType; 10] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTimeoutNow,
    MessageType::MsgSnapshot,
];

fn encoded(message: &Message) -> Bytes {
    let mut bytes = Vec::new();
    encode_message(message, &mut bytes).unwrap();
    bytes.into()
}

fn entry_type() -> impl Strategy<Value = EntryType> {
    prop_oneof![Just(EntryType::EntryNormal), Just(EntryType::EntryConfChange), Just(EntryType::EntryConfChangeV2)]
}

fn any_message() -> impl Strategy<Value = Message> {
    let counters = prop::array::uniform7(any::<u64>());
    let entries = prop::collection::vec((entry_type(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..50)), 0..5);
    let context = prop::collection::vec(any::<u8>(), 0..=CONTEXT_BYTES_MAX);
    let index = 0..u64::MAX - 10;
    (prop::sample::select(&KINDS[..]), index, counters, entries, any::<bool>(), context).prop_map(
        |(kind, index, counters, entries, reject, context)| {
            let [from, to, term, log_term, commit, commit_term, reject_hint] = counters;
            let mut message = Message {
                from,
                to,
                term,
                log_term,
                index,
                commit,
                commit_term,
                reject_hint,
                reject,
                ..Message::default()
            };
            message.set_msg_type(kind);
            let context_ids = context.len() as u64;
            message.context = context.into();
            let entries = entries.into_iter().zip(index + 1..).map(|((entry_type, term, data), index)| Entry {
                entry_type,
                term,
                index,
                data: data.into(),
                ..Entry::default()
            });
            message.set_entries(entries.collect::<Vec<_>>().into());
            if kind == MessageType::MsgSnapshot {
                let voters = (0..context_ids).map(|id| id + from % 7).collect();
                let members = ConfState { voters, auto_leave: reject, ..ConfState::default() };
                message.set_snapshot(snapshot(Position { index: commit, term }, members));
            }
            message
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn messages_come_back_as_they_were(message in any_message()) {
        let bytes = encoded(&message);
        prop_assert_eq!(bytes.len(), message_bytes(&message));
        prop_assert_eq!(decode_message(bytes).unwrap(), message);
    }

    #[test]
    fn truncated_messages_are_malformed(message in any_message(), cut in any::<prop::sample::Index>()) {
        let bytes = encoded(&message);
        let cut = cut.index(bytes.len());
        prop_assert!(matches!(decode_message(bytes.slice(..cut)), Err(Error::Malformed(_))));
    }

    /// A garbled message is refused, or is another message, whose only encoding it is.
    #[test]
    fn garbled_messages_do_no_harm(
        message in any_message(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
    ) {
        let mut bytes = encoded(&message).to_vec();
        for (position, flip) in flips {
            let position = position.index(bytes.len());
            bytes[position] ^= flip;
        }
        if let Ok(decoded) = decode_message(bytes.clone().into()) {
            prop_assert_eq!(encoded(&decoded), bytes);
        }
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_hard_state(&bytes);
        let _ = decode_conf_state(&bytes);
        let _ = decode_entry(1, bytes.clone().into());
        if let Ok(decoded) = decode_message(bytes.clone().into()) {
            prop_assert_eq!(encoded(&decoded), bytes);
        }
    }

    #[test]
    fn entries_come_back_as_they_were(
        entry_type in entry_type(), term: u64, index: u64, data in prop::collection::vec(any::<u8>(), 0..50)
    ) {
        let entry = Entry { entry_type, term, index, data: data.into(), ..Entry::default() };
        let mut bytes = Vec::new();
        encode_entry(&entry, &mut bytes);
        prop_assert_eq!(decode_entry(index, bytes.into()).unwrap(), entry);
    }

    #[test]
    fn states_come_back_as_they_were(
        hard in any::<[u64; 3]>(),
        ids in prop::array::uniform4(prop::collection::vec(any::<u64>(), 0..=16)),
        auto_leave: bool,
    ) {
        let hard_state = HardState { term: hard[0], vote: hard[1], commit: hard[2], ..HardState::default() };
        let mut bytes = Vec::new();
        encode_hard_state(&hard_state, &mut bytes);
        prop_assert_eq!(decode_hard_state(&bytes).unwrap(), hard_state);
        prop_assert!(decode_hard_state(&bytes[1..]).is_err());

        let [voters, learners, voters_outgoing, learners_next] = ids;
        let conf_state =
            ConfState { voters, learners, voters_outgoing, learners_next, auto_leave, ..ConfState::default() };
        let mut bytes = Vec::new();
        encode_conf_state(&conf_state, &mut bytes);
        prop_assert_eq!(decode_conf_state(&bytes).unwrap(), conf_state);
        bytes.push(0);
        prop_assert!(decode_conf_state(&bytes).is_err());
    }
}

/// Stored logs and rolling upgrades depend on these bytes.
#[test]
fn the_layout_is_fixed() {
    let entry = Entry { term: 0x0102, index: 7, data: "ab".into(), ..Entry::default() };
    let mut bytes = Vec::new();
    encode_entry(&entry, &mut bytes);
    assert_eq!(bytes, b"\x01\x00\x02\x01\x00\x00\x00\x00\x00\x00ab");

    let mut message = Message { from: 1, to: 2, term: 3, log_term: 4, index: 6, commit: 5, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppend);
    message.context = "c".into();
    message.set_entries(vec![entry].into());
    let mut expected = vec![1, 1, 0, 1];
    for counter in [1_u64, 2, 3, 4, 6, 5, 0, 0] {
        expected.extend(counter.to_le_bytes());
    }
    expected.extend(b"\x01\x00\x00\x00c\x00\x02\x01\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00ab");
    assert_eq!(encoded(&message), expected);
}

#[test]
fn payloads_are_slices_of_the_buffer() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    message.set_entries(vec![Entry { index: 1, data: vec![7; 1000].into(), ..Entry::default() }].into());
    let bytes = encoded(&message);
    let data = &decode_message(bytes.clone()).unwrap().entries[0].data;
    assert!(bytes.as_ptr_range().contains(&data.as_ptr()));
}

#[test]
fn what_replicas_do_not_exchange_is_not_encoded() {
    let mut bytes = Vec::new();
    for kind in [MessageType::MsgSnapshot, MessageType::MsgPropose, MessageType::MsgHup, MessageType::MsgReadIndex] {
        let mut message = Message::default();
        message.set_msg_type(kind);
        assert!(matches!(encode_message(&message, &mut bytes), Err(Error::Refused(_))));
    }
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    message.set_entries(vec![Entry { index: 2, ..Entry::default() }].into());
    assert!(matches!(encode_message(&message, &mut bytes), Err(Error::Refused(_))));
    message.set_entries(vec![Entry { index: 1, data: vec![0; ENTRY_BYTES_MAX + 1].into(), ..Entry::default() }].into());
    assert!(matches!(encode_message(&message, &mut bytes), Err(Error::Refused(_))));
    assert!(bytes.is_empty());
}

#[test]
fn counts_beyond_the_input_are_refused_before_allocating() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    let mut bytes = encoded(&message).to_vec();
    let count = bytes.len() - 4;
    bytes[count..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(decode_message(bytes.clone().into()), Err(Error::Malformed(_))));
    bytes[count..].copy_from_slice(&(APPEND_ENTRIES_MAX as u32 + 1).to_le_bytes());
    bytes.resize(bytes.len() + (APPEND_ENTRIES_MAX + 1) * 13, 0);
    assert!(matches!(decode_message(bytes.into()), Err(Error::Malformed(_))));
    assert!(matches!(decode_message(vec![1; MESSAGE_BYTES_MAX + 1].into()), Err(Error::Malformed(_))));
}
