//! The bytes of messages between replicas, and of what a replica keeps on disk.
//!
//! A fixed layout of our own instead of protobuf: payloads are slices of the receive buffer, and no general parser reads
//! what a peer sends. Numbers are little endian. The first byte of everything is [`VERSION`].
//!
//! ```text
//! message     version u8 | kind u8 | reject u8 | context length u8 | from to term log_term index commit commit_term
//!             reject_hint, u64 each | number of entries u32 | context | entries | of a snapshot: its position
//! position    index u64 | term u64 | conf state
//! its entries kind u8 | term u64 | length u32 | payload         indexes follow the message's index, one by one
//! entry       version u8 | kind u8 | term u64 | payload         on disk; its index is in the key
//! hard state  version u8 | term u64 | vote u64 | commit u64
//! conf state  version u8 | auto_leave u8 | voters | learners | voters_outgoing | learners_next
//!             each of the four: number u16 | ids, u64 each
//! ```
//!
//! There is one encoding of each value: whatever can be decoded encodes to the same bytes.

use crate::error::{Error, Result};
use crate::limits::{APPEND_ENTRIES_MAX, CONTEXT_BYTES_MAX, ENTRY_BYTES_MAX, MEMBERS_MAX, MESSAGE_BYTES_MAX};
use crate::output::Position;
use crate::snapshots::snapshot;
use bytes::{Buf, BufMut, Bytes};
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType};

/// The version written. Others are refused.
pub const VERSION: u8 = 1;

const MESSAGE_HEADER_BYTES: usize = 4 + 8 * 8 + 4;
const ENTRY_HEADER_BYTES: usize = 1 + 8 + 4;

// The receiver's buffer holds every message that a replica sends.
const _: () = assert!(
    MESSAGE_HEADER_BYTES
        + CONTEXT_BYTES_MAX
        + APPEND_ENTRIES_MAX * ENTRY_HEADER_BYTES
        + crate::limits::APPEND_BYTES_MAX
        <= MESSAGE_BYTES_MAX
);

/// The messages that replicas exchange, with their number on the wire.
const MESSAGE_KINDS: [(u8, MessageType); 10] = [
    (1, MessageType::MsgAppend),
    (2, MessageType::MsgAppendResponse),
    (3, MessageType::MsgRequestVote),
    (4, MessageType::MsgRequestVoteResponse),
    (5, MessageType::MsgRequestPreVote),
    (6, MessageType::MsgRequestPreVoteResponse),
    (7, MessageType::MsgHeartbeat),
    (8, MessageType::MsgHeartbeatResponse),
    (9, MessageType::MsgTimeoutNow),
    (10, MessageType::MsgSnapshot),
];

/// Bytes that [`encode_message`] will append.
pub fn message_bytes(message: &Message) -> usize {
    let entries: usize = message.entries.iter().map(|entry| ENTRY_HEADER_BYTES + entry.data.len()).sum();
    let position =
        message.snapshot.as_ref().map_or(0, |snapshot| 16 + conf_state_bytes(snapshot.get_metadata().get_conf_state()));
    MESSAGE_HEADER_BYTES + message.context.len() + entries + position
}

/// Appends `message` to `out`. Fields that replicas do not use (data of snapshots, priorities, contexts of entries)
/// are not carried.
///
/// # Errors
/// `Refused` if replicas do not exchange such a message, or it exceeds a limit; nothing was written.
pub fn encode_message(message: &Message, out: &mut Vec<u8>) -> Result<()> {
    let kind = MESSAGE_KINDS.iter().find(|(_, kind)| *kind == message.get_msg_type());
    let Some((kind, _)) = kind else {
        return Err(Error::Refused("a message type that replicas do not send"));
    };
    check_encodable(message)?;
    out.reserve(message_bytes(message));
    out.put_u8(VERSION);
    out.put_u8(*kind);
    out.put_u8(u8::from(message.reject));
    out.put_u8(message.context.len() as u8);
    for number in counters(message) {
        out.put_u64_le(number);
    }
    out.put_u32_le(message.entries.len() as u32);
    out.put_slice(&message.context);
    for entry in message.entries.iter() {
        out.put_u8(entry_kind(entry.get_entry_type()));
        out.put_u64_le(entry.term);
        out.put_u32_le(entry.data.len() as u32);
        out.put_slice(&entry.data);
    }
    if let Some(snapshot) = message.snapshot.as_ref() {
        let metadata = snapshot.get_metadata();
        out.put_u64_le(metadata.index);
        out.put_u64_le(metadata.term);
        encode_conf_state(metadata.get_conf_state(), out);
    }
    Ok(())
}

/// Reads a message that fills `bytes`. Payloads are slices of it.
///
/// # Errors
/// `Malformed`.
pub fn decode_message(mut bytes: Bytes) -> Result<Message> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Error::Malformed("a message beyond the greatest size"));
    }
    read_version(&mut bytes)?;
    let kind = read_u8(&mut bytes)?;
    let kind = MESSAGE_KINDS.iter().find(|(number, _)| *number == kind);
    let Some((_, kind)) = kind else {
        return Err(Error::Malformed("an unknown message type"));
    };
    let mut message = Message::default();
    message.set_msg_type(*kind);
    message.reject = read_bool(&mut bytes)?;
    let context_bytes = usize::from(read_u8(&mut bytes)?);
    message.from = read_u64(&mut bytes)?;
    message.to = read_u64(&mut bytes)?;
    message.term = read_u64(&mut bytes)?;
    message.log_term = read_u64(&mut bytes)?;
    message.index = read_u64(&mut bytes)?;
    message.commit = read_u64(&mut bytes)?;
    message.commit_term = read_u64(&mut bytes)?;
    message.reject_hint = read_u64(&mut bytes)?;
    let count = read_u32(&mut bytes)? as usize;
    if context_bytes > CONTEXT_BYTES_MAX {
        return Err(Error::Malformed("a context beyond the greatest size"));
    }
    message.context = read_bytes(&mut bytes, context_bytes)?;
    // Checked before anything is allocated for them.
    if count > APPEND_ENTRIES_MAX || count > bytes.len() / ENTRY_HEADER_BYTES {
        return Err(Error::Malformed("more entries than the message can hold"));
    }
    let mut entries = Vec::with_capacity(count);
    for offset in 0..count as u64 {
        let index = message.index.checked_add(1 + offset).ok_or(Error::Malformed("an index beyond the last"))?;
        entries.push(read_entry(&mut bytes, index)?);
    }
    message.set_entries(entries.into());
    if *kind == MessageType::MsgSnapshot {
        let index = read_u64(&mut bytes)?;
        let at = Position { index, term: read_u64(&mut bytes)? };
        message.set_snapshot(snapshot(at, decode_conf_state(&bytes)?));
        return Ok(message);
    }
    read_end(&bytes)?;
    Ok(message)
}

/// Appends an entry as it is kept on disk to `out`. Its index is not part of it.
pub fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.reserve(2 + 8 + entry.data.len());
    out.put_u8(VERSION);
    out.put_u8(entry_kind(entry.get_entry_type()));
    out.put_u64_le(entry.term);
    out.put_slice(&entry.data);
}

/// Reads the entry at `index` from disk. Its payload is a slice of `bytes`.
///
/// # Errors
/// `Malformed`.
pub fn decode_entry(index: u64, mut bytes: Bytes) -> Result<Entry> {
    read_version(&mut bytes)?;
    let kind = read_entry_kind(&mut bytes)?;
    let term = read_u64(&mut bytes)?;
    if bytes.len() > ENTRY_BYTES_MAX {
        return Err(Error::Malformed("an entry beyond the greatest size"));
    }
    Ok(Entry { entry_type: kind, term, index, data: bytes, ..Entry::default() })
}

/// Appends a hard state to `out`.
pub fn encode_hard_state(hard_state: &HardState, out: &mut Vec<u8>) {
    out.put_u8(VERSION);
    out.put_u64_le(hard_state.term);
    out.put_u64_le(hard_state.vote);
    out.put_u64_le(hard_state.commit);
}

/// Reads a hard state that fills `bytes`.
///
/// # Errors
/// `Malformed`.
pub fn decode_hard_state(mut bytes: &[u8]) -> Result<HardState> {
    read_version(&mut bytes)?;
    let hard_state = HardState {
        term: read_u64(&mut bytes)?,
        vote: read_u64(&mut bytes)?,
        commit: read_u64(&mut bytes)?,
        ..HardState::default()
    };
    read_end(&bytes)?;
    Ok(hard_state)
}

/// Appends a configuration to `out`.
///
/// # Panics
/// If it has more members than `MEMBERS_MAX` in one of its four lists.
pub fn encode_conf_state(conf_state: &ConfState, out: &mut Vec<u8>) {
    out.put_u8(VERSION);
    out.put_u8(u8::from(conf_state.auto_leave));
    for ids in [&conf_state.voters, &conf_state.learners, &conf_state.voters_outgoing, &conf_state.learners_next] {
        assert!(ids.len() <= MEMBERS_MAX, "more members than a shard may have");
        out.put_u16_le(ids.len() as u16);
        ids.iter().for_each(|id| out.put_u64_le(*id));
    }
}

/// Reads a configuration that fills `bytes`.
///
/// # Errors
/// `Malformed`.
pub fn decode_conf_state(mut bytes: &[u8]) -> Result<ConfState> {
    read_version(&mut bytes)?;
    let conf_state = ConfState {
        auto_leave: read_bool(&mut bytes)?,
        voters: read_ids(&mut bytes)?,
        learners: read_ids(&mut bytes)?,
        voters_outgoing: read_ids(&mut bytes)?,
        learners_next: read_ids(&mut bytes)?,
        ..ConfState::default()
    };
    read_end(&bytes)?;
    Ok(conf_state)
}

/// Bytes that [`encode_conf_state`] will append.
fn conf_state_bytes(conf_state: &ConfState) -> usize {
    let lists = [&conf_state.voters, &conf_state.learners, &conf_state.voters_outgoing, &conf_state.learners_next];
    2 + lists.iter().map(|ids| 2 + 8 * ids.len()).sum::<usize>()
}

fn check_encodable(message: &Message) -> Result<()> {
    let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
    if is_snapshot != message.snapshot.is_some() {
        return Err(Error::Refused("a snapshot outside of its message, or none in it"));
    }
    let follows = |(offset, entry): (usize, &Entry)| entry.index.checked_sub(offset as u64 + 1) == Some(message.index);
    if message.context.len() > CONTEXT_BYTES_MAX
        || message.entries.len() > APPEND_ENTRIES_MAX
        || message.entries.iter().any(|entry| entry.data.len() > ENTRY_BYTES_MAX)
        || message_bytes(message) > MESSAGE_BYTES_MAX
    {
        Err(Error::Refused("a message beyond its limits"))
    } else if !message.entries.iter().enumerate().all(follows) {
        Err(Error::Refused("a message with a gap between its entries"))
    } else {
        Ok(())
    }
}

fn counters(message: &Message) -> [u64; 8] {
    [
        message.from,
        message.to,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
    ]
}

fn entry_kind(kind: EntryType) -> u8 {
    match kind {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    }
}

fn read_entry(bytes: &mut Bytes, index: u64) -> Result<Entry> {
    let kind = read_entry_kind(bytes)?;
    let term = read_u64(bytes)?;
    let length = read_u32(bytes)? as usize;
    if length > ENTRY_BYTES_MAX {
        return Err(Error::Malformed("an entry beyond the greatest size"));
    }
    let data = read_bytes(bytes, length)?;
    Ok(Entry { entry_type: kind, term, index, data, ..Entry::default() })
}

fn read_entry_kind(bytes: &mut Bytes) -> Result<EntryType> {
    match read_u8(bytes)? {
        0 => Ok(EntryType::EntryNormal),
        1 => Ok(EntryType::EntryConfChange),
        2 => Ok(EntryType::EntryConfChangeV2),
        _ => Err(Error::Malformed("an unknown entry type")),
    }
}

fn read_version(bytes: &mut impl Buf) -> Result<()> {
    if read_u8(bytes)? == VERSION { Ok(()) } else { Err(Error::Malformed("an unknown version")) }
}

fn read_ids(bytes: &mut &[u8]) -> Result<Vec<u64>> {
    let count = usize::from(bytes.try_get_u16_le().map_err(|_| SHORT)?);
    if count > MEMBERS_MAX || count > bytes.len() / 8 {
        return Err(Error::Malformed("more members than a shard may have"));
    }
    (0..count).map(|_| read_u64(bytes)).collect()
}

fn read_bool(bytes: &mut impl Buf) -> Result<bool> {
    match read_u8(bytes)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::Malformed("a flag that is neither 0 nor 1")),
    }
}

fn read_u8(bytes: &mut impl Buf) -> Result<u8> {
    bytes.try_get_u8().map_err(|_| SHORT)
}

fn read_u32(bytes: &mut impl Buf) -> Result<u32> {
    bytes.try_get_u32_le().map_err(|_| SHORT)
}

fn read_u64(bytes: &mut impl Buf) -> Result<u64> {
    bytes.try_get_u64_le().map_err(|_| SHORT)
}

fn read_bytes(bytes: &mut Bytes, length: usize) -> Result<Bytes> {
    if length > bytes.len() {
        return Err(SHORT);
    }
    Ok(bytes.split_to(length))
}

fn read_end(bytes: &impl Buf) -> Result<()> {
    if bytes.has_remaining() { Err(Error::Malformed("bytes after the end")) } else { Ok(()) }
}

const SHORT: Error = Error::Malformed("it ends too early");
