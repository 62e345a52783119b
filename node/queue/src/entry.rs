//! A batch of commands: one Raft entry.
//!
//! ```text
//! entry    format u8 | time ms u64 | { length u32 | command }*
//! ```

use crate::codec::{Get, Put};
use crate::command::Command;
use crate::error::Error;
use crate::limits::ENTRY_COMMANDS_MAX;
use bytes::Bytes;

const FORMAT: u8 = 1;

/// Builds an entry from commands.
pub struct EntryBuilder {
    bytes: Vec<u8>,
    commands: usize,
}

const ENTRY_HEAD: usize = 9;

impl Default for EntryBuilder {
    fn default() -> Self {
        EntryBuilder { bytes: vec![0; ENTRY_HEAD], commands: 0 }
    }
}

impl EntryBuilder {
    /// Appends an encoded command.
    pub fn push(&mut self, command: &[u8]) {
        debug_assert!(self.commands < ENTRY_COMMANDS_MAX);
        if self.commands == 0 {
            self.bytes.reserve(command.len() + 4);
        }
        self.bytes.put_bytes(command);
        self.commands += 1;
    }

    /// Appends a command.
    pub fn push_command(&mut self, command: &Command) {
        let at = self.bytes.len();
        self.bytes.put_u32(0);
        command.encode(&mut self.bytes);
        let len = (self.bytes.len() - at - 4) as u32;
        self.bytes[at..at + 4].copy_from_slice(&len.to_le_bytes());
        self.commands += 1;
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Commands so far.
    pub fn commands(&self) -> usize {
        self.commands
    }

    /// Nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.commands == 0
    }

    /// The entry, stamped with the leader's time; the builder is empty again.
    pub fn finish(&mut self, time_ms: u64) -> Bytes {
        self.bytes[0] = FORMAT;
        self.bytes[1..ENTRY_HEAD].copy_from_slice(&time_ms.to_le_bytes());
        let bytes = std::mem::replace(&mut self.bytes, vec![0; ENTRY_HEAD]);
        self.commands = 0;
        bytes.into()
    }
}

/// Time and encoded commands of an entry.
pub fn read_entry(entry: Bytes) -> Result<(u64, Vec<Bytes>), Error> {
    let mut get = Get::new(entry, "log entry");
    let format = get.u8()?;
    if format != FORMAT {
        return Err(Error::NewerFormat { what: "log entry", found: format, known: FORMAT });
    }
    let time_ms = get.u64()?;
    let mut commands = Vec::new();
    while get.left() > 0 {
        commands.push(get.bytes()?);
    }
    Ok((time_ms, commands))
}
