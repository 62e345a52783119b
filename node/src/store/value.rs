//! The bytes of what the stores write themselves. Everything starts with [`VERSION`] and carries a checksum over its key
//! as well: RocksDB guards its blocks, this guards the way from and to them, and finds a value under a wrong key. An
//! entry's key is its name: shard and index.
//!
//! ```text
//! entry       version u8 | type u8 | term u64 | crc32c u32 | context length u16 | context | payload
//! position    version u8 | crc32c u32 | index u64 | term u64
//! conf state  version u8 | crc32c u32 | auto_leave u8 | voters | learners | voters_outgoing | learners_next
//!             each of the four: number u16 | ids, u64 each
//! ```

use super::keys::{be_u32, be_u64};
use crate::limits::{CONF_MEMBERS_MAX, ENTRY_CONTEXT_BYTES_MAX};
use bytes::{BufMut, Bytes};
use raft::eraftpb::{ConfState, Entry, EntryType};

/// The version written. Others are refused.
pub const VERSION: u8 = 1;

const ENTRY_HEAD_BYTES: usize = 16;
const ENTRY_KEY_BYTES: usize = 11;
const ENTRY_KEY_KIND: u8 = 2;
const HEAD_BYTES: usize = 5;

/// What is wrong with stored bytes.
pub type Decoded<T> = Result<T, &'static str>;

/// The name of an entry: what its checksum covers beside its value.
pub fn entry_key(shard: u16, index: u64) -> [u8; ENTRY_KEY_BYTES] {
    let mut key = [ENTRY_KEY_KIND; ENTRY_KEY_BYTES];
    key[..2].copy_from_slice(&shard.to_be_bytes());
    key[3..].copy_from_slice(&index.to_be_bytes());
    key
}

/// `Err` says why an entry cannot be stored.
pub fn check_entry(entry: &Entry) -> Result<(), &'static str> {
    let kind = entry.get_entry_type();
    if kind == EntryType::EntryNormal && !entry.context.is_empty() {
        return Err("a normal entry has a context");
    }
    if entry.context.len() > ENTRY_CONTEXT_BYTES_MAX {
        return Err("the context is too large");
    }
    Ok(())
}

/// Replaces `out` by the value of an entry. `Err` says why it cannot be stored.
pub fn encode_entry(key: &[u8], entry: &Entry, out: &mut Vec<u8>) -> Result<(), &'static str> {
    check_entry(entry)?;
    out.clear();
    out.reserve(ENTRY_HEAD_BYTES + entry.context.len() + entry.data.len());
    out.put_u8(VERSION);
    out.put_u8(entry.get_entry_type() as u8);
    out.put_u64(entry.term);
    out.put_u32(0);
    out.put_u16(entry.context.len() as u16);
    out.put_slice(&entry.context);
    out.put_slice(&entry.data);
    let crc = entry_crc(key, out);
    out[10..14].copy_from_slice(&crc.to_be_bytes());
    Ok(())
}

/// The term in the value of an entry, which was checked as part of a larger one; 0 if it is too short for one.
pub fn entry_term(value: &[u8]) -> u64 {
    value.get(2..10).map_or(0, be_u64)
}

/// Whether the value of an entry is as it was written.
pub fn is_whole(key: &[u8], value: &[u8]) -> bool {
    value.len() >= ENTRY_HEAD_BYTES && entry_crc(key, value) == be_u32(&value[10..14])
}

/// Reads the entry at `index`.
pub fn decode_entry(key: &[u8], index: u64, bytes: Bytes) -> Decoded<Entry> {
    if bytes.first().is_some_and(|version| *version != VERSION) {
        return Err("unknown version");
    }
    if bytes.len() < ENTRY_HEAD_BYTES {
        return Err("too short");
    }
    if entry_crc(key, &bytes) != be_u32(&bytes[10..14]) {
        return Err("wrong checksum");
    }
    let entry_type = match bytes[1] {
        0 => EntryType::EntryNormal,
        1 => EntryType::EntryConfChange,
        2 => EntryType::EntryConfChangeV2,
        _ => return Err("unknown entry type"),
    };
    let data_at = ENTRY_HEAD_BYTES + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if data_at > bytes.len() {
        return Err("context beyond the end");
    }
    Ok(Entry {
        entry_type,
        term: be_u64(&bytes[2..10]),
        index,
        context: bytes.slice(ENTRY_HEAD_BYTES..data_at),
        data: bytes.slice(data_at..),
        ..Entry::default()
    })
}

fn entry_crc(key: &[u8], value: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &value[..10]);
    crc32c::crc32c_append(crc, &value[14..])
}

/// The value of an index and its term.
pub fn encode_position(key: &[u8], index: u64, term: u64) -> Vec<u8> {
    let mut out = start(2 * 8);
    out.put_u64(index);
    out.put_u64(term);
    seal(key, out)
}

/// Reads an index and its term.
pub fn decode_position(key: &[u8], bytes: &[u8]) -> Decoded<(u64, u64)> {
    let body: &[u8; 16] = open(key, bytes)?.try_into().map_err(|_| "wrong length")?;
    Ok((be_u64(&body[..8]), be_u64(&body[8..])))
}

/// The value of a configuration; `Err` if it has too many members.
pub fn encode_conf_state(key: &[u8], conf_state: &ConfState) -> Result<Vec<u8>, &'static str> {
    let lists = [&conf_state.voters, &conf_state.learners, &conf_state.voters_outgoing, &conf_state.learners_next];
    let mut out = start(64);
    out.put_u8(u8::from(conf_state.auto_leave));
    for ids in lists {
        if ids.len() > CONF_MEMBERS_MAX {
            return Err("the configuration has too many members");
        }
        out.put_u16(ids.len() as u16);
        ids.iter().for_each(|id| out.put_u64(*id));
    }
    Ok(seal(key, out))
}

/// Reads a configuration.
pub fn decode_conf_state(key: &[u8], bytes: &[u8]) -> Decoded<ConfState> {
    let mut rest = open(key, bytes)?;
    let auto_leave = match take(&mut rest, 1)? {
        [0] => false,
        [1] => true,
        _ => return Err("auto_leave is neither 0 nor 1"),
    };
    let mut list = || -> Decoded<Vec<u64>> {
        let number = take(&mut rest, 2)?;
        let number = usize::from(u16::from_be_bytes([number[0], number[1]]));
        Ok(take(&mut rest, number * 8)?.chunks_exact(8).map(be_u64).collect())
    };
    let conf_state = ConfState {
        voters: list()?,
        learners: list()?,
        voters_outgoing: list()?,
        learners_next: list()?,
        auto_leave,
        ..ConfState::default()
    };
    if rest.is_empty() { Ok(conf_state) } else { Err("longer than it should be") }
}

fn start(body_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + body_bytes);
    out.put_u8(VERSION);
    out.put_u32(0);
    out
}

fn seal(key: &[u8], mut out: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &out[HEAD_BYTES..]);
    out[1..HEAD_BYTES].copy_from_slice(&crc.to_be_bytes());
    out
}

fn open<'a>(key: &[u8], bytes: &'a [u8]) -> Decoded<&'a [u8]> {
    let Some((head, body)) = bytes.split_at_checked(HEAD_BYTES) else {
        return Err("too short");
    };
    if head[0] != VERSION {
        return Err("unknown version");
    }
    if crc32c::crc32c_append(crc32c::crc32c(key), body) != be_u32(&head[1..]) {
        return Err("wrong checksum");
    }
    Ok(body)
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Decoded<&'a [u8]> {
    let Some((taken, left)) = rest.split_at_checked(bytes) else {
        return Err("too short");
    };
    *rest = left;
    Ok(taken)
}
