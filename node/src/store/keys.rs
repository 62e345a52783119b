//! Every key of the states on disk. Numbers are big endian, so that RocksDB's order is the order of the numbers.
//!
//! ```text
//! hot    00 | kind u8           the store's own: 0 applied position, 1 configuration, 2 format
//!        01 | seq u64           live job
//!        02 | seq u64           live task
//!        03 | id u32            class
//!        04 | submission 16 B   submission that is recognised when repeated
//!        05 | kind u8           the machine's small records
//! body   seq u64                body of a live job or of an array's task
//! hist   day u16 | seq u64 | index u64 | n u32     n-th row of the status log made by the entry at index
//! arch   day u16 | kind u8 | seq u64               kind 0: ended job, 1: ended task
//! ```
//!
//! A day is the number of days since 1970-01-01, UTC, of the end of the job or of the row. It comes first, so that whole
//! days are dropped as one range.

/// The applied position.
pub const APPLIED: [u8; 2] = [PREFIX_STORE, 0];
/// The configuration at the applied position.
pub const CONF_STATE: [u8; 2] = [PREFIX_STORE, 1];
/// The format of the store.
pub const FORMAT: [u8; 2] = [PREFIX_STORE, 2];

const PREFIX_STORE: u8 = 0;
/// Prefix of live jobs.
pub const PREFIX_JOB: u8 = 1;
/// Prefix of live tasks.
pub const PREFIX_TASK: u8 = 2;
/// Prefix of classes.
pub const PREFIX_CLASS: u8 = 3;
/// Prefix of submissions.
pub const PREFIX_DEDUP: u8 = 4;
const PREFIX_META: u8 = 5;
/// Prefix of records whose keys are their machine's own.
pub const PREFIX_RECORD: u8 = 6;

/// Key of a record with a key of its own.
pub fn record_key(key: &[u8]) -> Vec<u8> {
    [&[PREFIX_RECORD], key].concat()
}

/// Key of a job or task.
pub fn seq_key(prefix: u8, seq: u64) -> [u8; 9] {
    let mut key = [prefix; 9];
    key[1..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// Key of a class.
pub fn class_key(id: u32) -> [u8; 5] {
    let mut key = [PREFIX_CLASS; 5];
    key[1..].copy_from_slice(&id.to_be_bytes());
    key
}

/// Key of a submission.
pub fn dedup_key(submission: &[u8; 16]) -> [u8; 17] {
    let mut key = [PREFIX_DEDUP; 17];
    key[1..].copy_from_slice(submission);
    key
}

/// Key of a small record of the machine.
pub fn meta_key(kind: u8) -> [u8; 2] {
    [PREFIX_META, kind]
}

/// Key of a body.
pub fn body_key(seq: u64) -> [u8; 8] {
    seq.to_be_bytes()
}

/// Bytes of a key of the status log.
pub const HISTORY_KEY_BYTES: usize = 22;

/// Key of a row of the status log.
pub fn history_key(day: u16, seq: u64, index: u64, n: u32) -> [u8; HISTORY_KEY_BYTES] {
    let mut key = [0; HISTORY_KEY_BYTES];
    key[..2].copy_from_slice(&day.to_be_bytes());
    key[2..10].copy_from_slice(&seq.to_be_bytes());
    key[10..18].copy_from_slice(&index.to_be_bytes());
    key[18..].copy_from_slice(&n.to_be_bytes());
    key
}

/// Index and number of a row, from its key.
pub fn history_row(key: &[u8]) -> Option<(u64, u32)> {
    let key: &[u8; HISTORY_KEY_BYTES] = key.try_into().ok()?;
    Some((be_u64(&key[10..18]), be_u32(&key[18..])))
}

/// What an archive key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndedKind {
    /// A job.
    Job = 0,
    /// A task.
    Task = 1,
}

/// Bytes of a key of the archive.
pub const ENDED_KEY_BYTES: usize = 11;

/// Key of an ended job or task.
pub fn ended_key(day: u16, kind: EndedKind, seq: u64) -> [u8; ENDED_KEY_BYTES] {
    let mut key = [0; ENDED_KEY_BYTES];
    key[..2].copy_from_slice(&day.to_be_bytes());
    key[2] = kind as u8;
    key[3..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// Day, kind and number of an archive key.
pub fn ended_parts(key: &[u8]) -> Option<(u16, EndedKind, u64)> {
    let key: &[u8; ENDED_KEY_BYTES] = key.try_into().ok()?;
    let kind = match key[2] {
        0 => EndedKind::Job,
        1 => EndedKind::Task,
        _ => return None,
    };
    Some((u16::from_be_bytes([key[0], key[1]]), kind, be_u64(&key[3..])))
}

/// Eight bytes as a number.
pub fn be_u64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("the caller cut eight bytes"))
}

/// Four bytes as a number.
pub fn be_u32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("the caller cut four bytes"))
}
