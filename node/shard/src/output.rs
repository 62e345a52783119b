//! What a replica asks of its owner after a turn.

use crate::limits::APPEND_ENTRIES_MAX;
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType};

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The entry's term.
    pub term: u64,
    /// The entry's index, from 1.
    pub index: u64,
}

/// What a replica is in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Leads in `term`. It may serve only once [`crate::Replica::serving_term`] says so.
    Leader {
        /// The term it leads in.
        term: u64,
    },
    /// Follows, or campaigns.
    Follower {
        /// The term it is in.
        term: u64,
        /// The leader of that term, if this replica knows it.
        leader: Option<u64>,
    },
}

/// What a replica asks of its owner after a turn. Outputs are acted on in the order in which they were taken.
#[derive(Debug, Default)]
pub struct Output {
    /// To be sent at once.
    pub messages: Vec<Message>,
    /// To be written to the log, if anything.
    pub append: Option<Append>,
    /// The state is to be replaced by the copy that was announced with [`crate::Replica::expect_snapshot`], before anything
    /// else is applied. Nothing is committed until the append of the same output is on disk.
    pub restore: Option<Position>,
    /// Committed entries, to be applied in this order. Raft's own empty entries are left out.
    pub committed: Vec<Committed>,
    /// Index up to which this and all earlier outputs handed out committed entries. Once they are applied, the owner
    /// calls [`crate::Replica::applied`] with it; the index may rise without an entry in `committed`.
    pub committed_to: u64,
    /// Reads whose quorum answered: each may be served once its index is applied.
    pub reads: Vec<Read>,
    /// The replica's new role or term. Replies owed to proposals of an earlier term will never come: apply
    /// `committed` first, then abort them.
    pub role_change: Option<Role>,
}

/// A write to the log.
///
/// The log writer writes the appends of a replica in the order of their numbers, replaces the entries that stand at the
/// same indexes and drops those after them. When the write is on disk, the owner calls [`crate::Replica::persisted`],
/// and only then sends `messages`.
#[derive(Debug)]
pub struct Append {
    /// Rises with each append of this replica.
    pub number: u64,
    /// First drop the whole log: it begins anew behind this position, where a snapshot took its place.
    pub restart: Option<Position>,
    /// Entries without gap, oldest first; may be empty.
    pub entries: Vec<Entry>,
    /// Term, vote and commit index, if they must be written.
    pub hard_state: Option<HardState>,
    /// Votes and acknowledgements that hold only once this and all earlier appends are on disk.
    pub messages: Vec<Message>,
}

impl Append {
    /// Whether there is anything to write and sync. If not, `messages` only wait for the earlier appends.
    pub fn must_sync(&self) -> bool {
        !self.entries.is_empty() || self.hard_state.is_some() || self.restart.is_some()
    }
}

/// A committed entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// Where it stands in the log.
    pub position: Position,
    /// What it says.
    pub payload: Payload,
}

/// What a committed entry says.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// What was proposed.
    Command(Bytes),
    /// The group's configuration from this entry on. To be stored in one write with this entry's index as the applied
    /// index, or a crash between the two would bring back the old configuration.
    Configuration(Box<ConfState>),
}

/// A read whose quorum answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The id given to [`crate::Replica::read_index`].
    pub context: u64,
    /// The read may be served once this index is applied.
    pub index: u64,
}

/// How far a peer is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// The peer's replica id.
    pub peer: u64,
    /// Last entry known to be on its disk.
    pub matched: u64,
    /// Entries it lacks.
    pub lag: u64,
    /// Whether it was heard of since the last check of the quorum, one election timeout ago at most.
    pub active: bool,
}

/// Puts `message` in `messages`; a greater append than `bytes_max` or than `APPEND_ENTRIES_MAX` as several.
///
/// Raft joins the appends of one turn to a peer into one message, which may become as large as the window of unanswered
/// appends: more than a peer should have to buffer at once.
pub(crate) fn push_split(message: Message, bytes_max: usize, messages: &mut Vec<Message>) {
    let mut rest = message;
    if rest.get_msg_type() == MessageType::MsgAppend {
        while let Some(count) = split_point(&rest.entries, bytes_max) {
            let mut entries = rest.take_entries().into_vec();
            let tail = entries.split_off(count);
            let last = entries.last().expect("a part holds at least one entry");
            let (index, log_term) = (last.index, last.term);
            let mut part = rest.clone();
            part.set_entries(entries.into());
            messages.push(part);
            (rest.index, rest.log_term) = (index, log_term);
            rest.set_entries(tail.into());
        }
    }
    messages.push(rest);
}

/// How many entries fit in one message; `None` if all do.
fn split_point(entries: &[Entry], bytes_max: usize) -> Option<usize> {
    let mut bytes = 0;
    entries
        .iter()
        .position(|entry| {
            bytes += entry.data.len();
            bytes > bytes_max
        })
        .map(|count| count.max(1))
        .into_iter()
        .chain((entries.len() > APPEND_ENTRIES_MAX).then_some(APPEND_ENTRIES_MAX))
        .min()
        .filter(|count| *count < entries.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(sizes: &[usize]) -> Message {
        let mut message = Message { index: 10, log_term: 1, commit: 9, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        let entries = sizes.iter().enumerate().map(|(offset, bytes)| Entry {
            index: 11 + offset as u64,
            term: 2 + offset as u64,
            data: vec![1; *bytes].into(),
            ..Entry::default()
        });
        message.set_entries(entries.collect::<Vec<_>>().into());
        message
    }

    fn split(message: Message, bytes_max: usize) -> Vec<(u64, u64, usize)> {
        let mut messages = Vec::new();
        push_split(message, bytes_max, &mut messages);
        messages.iter().map(|part| (part.index, part.log_term, part.entries.len())).collect()
    }

    #[test]
    fn appends_are_split_by_bytes_and_stay_joined() {
        assert_eq!(split(append(&[10, 10, 10]), 30), [(10, 1, 3)]);
        assert_eq!(split(append(&[10, 10, 10]), 29), [(10, 1, 2), (12, 3, 1)]);
        assert_eq!(split(append(&[50, 10, 50]), 20), [(10, 1, 1), (11, 2, 1), (12, 3, 1)]);
        assert_eq!(split(append(&[]), 20), [(10, 1, 0)]);
    }

    #[test]
    fn appends_are_split_by_number() {
        let parts = split(append(&vec![0; APPEND_ENTRIES_MAX * 2 + 1]), 20);
        assert_eq!(parts.iter().map(|part| part.2).collect::<Vec<_>>(), [APPEND_ENTRIES_MAX, APPEND_ENTRIES_MAX, 1]);
    }
}
