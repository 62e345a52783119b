//! Messages between replicas, and what a replica keeps on disk.

use super::{Sample, Value, unknown};
use bytes::Bytes;
use moso_shard::{ConfState, Entry, EntryType, Error, HardState, Message, MessageType, wire};

/// The messages that replicas exchange.
const KINDS: [(&str, MessageType); 9] = [
    ("append", MessageType::MsgAppend),
    ("append_response", MessageType::MsgAppendResponse),
    ("vote", MessageType::MsgRequestVote),
    ("vote_response", MessageType::MsgRequestVoteResponse),
    ("pre_vote", MessageType::MsgRequestPreVote),
    ("pre_vote_response", MessageType::MsgRequestPreVoteResponse),
    ("heartbeat", MessageType::MsgHeartbeat),
    ("heartbeat_response", MessageType::MsgHeartbeatResponse),
    ("timeout_now", MessageType::MsgTimeoutNow),
];

fn entry(index: u64, kind: EntryType, data: &'static [u8]) -> Entry {
    Entry { term: 5, index, entry_type: kind, data: Bytes::from_static(data), ..Entry::default() }
}

fn message(kind: MessageType) -> Message {
    let mut message = Message {
        from: 0x2_0001,
        to: 0x1_0001,
        term: 6,
        log_term: 5,
        index: 1_000,
        commit: 998,
        commit_term: 4,
        reject_hint: 7,
        reject: kind == MessageType::MsgAppendResponse,
        ..Message::default()
    };
    message.set_msg_type(kind);
    message.context = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 1]);
    if kind == MessageType::MsgAppend {
        let change = entry(1_002, EntryType::EntryConfChangeV2, b"\x08\x01");
        message.set_entries(vec![entry(1_001, EntryType::EntryNormal, b"payload"), change].into());
    }
    message
}

fn conf_state() -> ConfState {
    ConfState {
        voters: vec![0x1_0001, 0x2_0001, 0x3_0001],
        learners: vec![0x4_0002],
        voters_outgoing: vec![0x1_0001],
        learners_next: vec![0x5_0001],
        auto_leave: true,
        ..ConfState::default()
    }
}

pub(super) fn all() -> Vec<Sample> {
    let mut all = Vec::new();
    for (name, kind) in KINDS {
        let mut bytes = Vec::new();
        wire::encode_message(&message(kind), &mut bytes).expect("a message that replicas exchange");
        all.push(Sample::new("raft", &format!("message-{name}"), bytes));
    }
    let mut bytes = Vec::new();
    wire::encode_entry(&entry(1_001, EntryType::EntryNormal, b"payload"), &mut bytes);
    all.push(Sample::new("raft", "entry", bytes));
    let mut bytes = Vec::new();
    wire::encode_hard_state(&HardState { term: 6, vote: 0x1_0001, commit: 998, ..HardState::default() }, &mut bytes);
    all.push(Sample::new("raft", "hard_state", bytes));
    let mut bytes = Vec::new();
    wire::encode_conf_state(&conf_state(), &mut bytes);
    all.push(Sample::new("raft", "conf_state", bytes));
    all
}

pub(super) fn read(what: &str, bytes: &[u8]) -> Result<Value, String> {
    match what {
        "message" | "entry" | "hard_state" | "conf_state" => read_known(what, bytes).map_err(|error| error.to_string()),
        _ => Err(unknown(what)),
    }
}

fn read_known(what: &str, bytes: &[u8]) -> Result<Value, Error> {
    let mut again = Vec::new();
    Ok(match what {
        "message" => {
            let message = wire::decode_message(Bytes::copy_from_slice(bytes))?;
            wire::encode_message(&message, &mut again)?;
            Value::new(&message, again)
        }
        "entry" => {
            let entry = wire::decode_entry(1_001, Bytes::copy_from_slice(bytes))?;
            wire::encode_entry(&entry, &mut again);
            Value::new(&entry, again)
        }
        "hard_state" => {
            let state = wire::decode_hard_state(bytes)?;
            wire::encode_hard_state(&state, &mut again);
            Value::new(&state, again)
        }
        _ => {
            let state = wire::decode_conf_state(bytes)?;
            wire::encode_conf_state(&state, &mut again);
            Value::new(&state, again)
        }
    })
}
