//! What a peer's message must satisfy before Raft sees it.
//!
//! raft-rs trusts its peers: several fields, wrong, end the process. Everything here is checked against this replica's
//! log and configuration, so that a broken peer can cost a message and nothing more.

use crate::error::{Error, Result};
use crate::limits::{CONTEXT_BYTES_MAX, COUNTER_MAX, ENTRY_BYTES_MAX};
use crate::storage::{Storage, decode_change};
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};
use raft::{Raft, StateRole};

/// Whether `message` may be given to Raft.
pub(crate) fn check(raft: &Raft<Storage>, message: &Message) -> Result<()> {
    use MessageType::*;
    check_envelope(raft, message)?;
    let led = matches!(message.get_msg_type(), MsgAppend | MsgHeartbeat | MsgSnapshot);
    if led && message.term == raft.term && ![raft::INVALID_ID, message.from].contains(&raft.leader_id) {
        return Err(Error::Refused("from a second leader of one term"));
    }
    match message.get_msg_type() {
        MsgAppend => check_append(message),
        MsgAppendResponse => check_append_response(raft, message),
        MsgHeartbeat => check_heartbeat(raft, message),
        MsgSnapshot => check_snapshot(message),
        _ => Ok(()),
    }
}

fn check_envelope(raft: &Raft<Storage>, message: &Message) -> Result<()> {
    use MessageType::*;
    let sent_by_replicas = matches!(
        message.get_msg_type(),
        MsgAppend
            | MsgAppendResponse
            | MsgRequestVote
            | MsgRequestVoteResponse
            | MsgRequestPreVote
            | MsgRequestPreVoteResponse
            | MsgHeartbeat
            | MsgHeartbeatResponse
            | MsgTimeoutNow
            | MsgSnapshot
    );
    // Members may have changed since this replica last heard of it; an answer is of use from members only.
    let from_later_members =
        matches!(message.get_msg_type(), MsgAppend | MsgHeartbeat | MsgSnapshot | MsgRequestVote | MsgRequestPreVote);
    let counters = [message.index, message.log_term, message.commit, message.commit_term, message.reject_hint];
    if !sent_by_replicas {
        // Local events, forwarded proposals and reads, transfers asked for from outside.
        Err(Error::Refused("a message type that replicas do not send"))
    } else if message.to != raft.id {
        Err(Error::Refused("meant for another replica"))
    } else if message.from == raft.id || message.from == 0 {
        Err(Error::Refused("from nobody that can be"))
    } else if raft.prs().get(message.from).is_none() && !from_later_members {
        Err(Error::Refused("from a replica that is not a member"))
    } else if message.term == 0 || message.term > COUNTER_MAX || counters.iter().any(|counter| *counter > COUNTER_MAX) {
        Err(Error::Refused("a counter is out of range"))
    } else if message.context.len() > CONTEXT_BYTES_MAX {
        Err(Error::Refused("the context is too long"))
    } else if message.get_msg_type() != MsgAppend && !message.entries.is_empty() {
        Err(Error::Refused("entries outside of an append"))
    } else if message.request_snapshot != 0 || message.snapshot.is_some() != (message.get_msg_type() == MsgSnapshot) {
        Err(Error::Refused("a snapshot outside of its message, or none in it"))
    } else {
        Ok(())
    }
}

/// Entries follow each other and the position named, with terms that do not fall. raft-rs takes the term beyond its log
/// to be 0, so an append that claims term 0 would fit anywhere.
fn check_append(message: &Message) -> Result<()> {
    if (message.index == 0) != (message.log_term == 0) || message.log_term > message.term {
        return Err(Error::Refused("an append after a position that cannot be"));
    }
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in message.entries.iter() {
        if entry.index != index + 1 {
            return Err(Error::Refused("an append with a gap"));
        }
        if entry.term == 0 || entry.term < term || entry.term > message.term {
            return Err(Error::Refused("an append with a term out of order"));
        }
        check_entry(entry)?;
        (index, term) = (entry.index, entry.term);
    }
    Ok(())
}

fn check_entry(entry: &Entry) -> Result<()> {
    if entry.data.len() > ENTRY_BYTES_MAX || !entry.context.is_empty() {
        return Err(Error::Refused("an entry that is too large"));
    }
    match entry.get_entry_type() {
        EntryType::EntryNormal => Ok(()),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
            decode_change(entry).map(drop).ok_or(Error::Refused("an unreadable configuration change"))
        }
    }
}

/// A snapshot has a position that can be, of a log in which the receiver is a member, and no state: that comes beside it.
fn check_snapshot(message: &Message) -> Result<()> {
    let snapshot = message.get_snapshot();
    let metadata = snapshot.get_metadata();
    let members = metadata.get_conf_state();
    let lists = [&members.voters, &members.learners, &members.voters_outgoing];
    if metadata.index == 0 || metadata.index > COUNTER_MAX || metadata.term == 0 || metadata.term > message.term {
        Err(Error::Refused("a snapshot of a position that cannot be"))
    } else if !snapshot.data.is_empty() {
        Err(Error::Refused("a snapshot with data"))
    } else if members.voters.is_empty() || !lists.iter().any(|ids| ids.contains(&message.to)) {
        Err(Error::Refused("a snapshot of a group in which this replica is no member"))
    } else if has_repeats(members) {
        Err(Error::Refused("a snapshot with a member named twice"))
    } else {
        Ok(())
    }
}

/// Within a list, or as voter and learner at once: raft takes neither.
fn has_repeats(members: &ConfState) -> bool {
    let mut now: Vec<u64> = members.voters.iter().chain(&members.learners).copied().collect();
    let mut before = members.voters_outgoing.clone();
    let mut next = members.learners_next.clone();
    let twice = |ids: &mut Vec<u64>| {
        ids.sort_unstable();
        ids.windows(2).any(|pair| pair[0] == pair[1])
    };
    // A voter that becomes a learner is one of the outgoing ones until then.
    let strange = next.iter().any(|id| !before.contains(id) || now.contains(id));
    let learns = members.learners.iter().any(|id| before.contains(id));
    twice(&mut now) || twice(&mut before) || twice(&mut next) || strange || learns || now.contains(&0)
}

/// A leader takes a peer's word for how far it is, and the index would then be used to read the leader's log.
///
/// A peer does not reject what follows an entry that it acknowledged, so such a rejection is an old one that came late.
/// raft-rs would go back to entries that may have been cut off the log since, and never send anything again.
fn check_append_response(raft: &Raft<Storage>, message: &Message) -> Result<()> {
    if raft.state != StateRole::Leader || message.term != raft.term {
        return Ok(());
    }
    let matched = raft.prs().get(message.from).map_or(0, |progress| progress.matched);
    if !message.reject && message.index > raft.raft_log.last_index() {
        Err(Error::Refused("an acknowledgement of entries that were not sent"))
    } else if message.reject && (message.index <= matched || message.reject_hint < matched) {
        Err(Error::Refused("a rejection of what was acknowledged"))
    } else {
        Ok(())
    }
}

/// A leader names in a heartbeat only what this replica has acknowledged, thus has on disk. If it is not there, it was
/// lost after it was acknowledged.
fn check_heartbeat(raft: &Raft<Storage>, message: &Message) -> Result<()> {
    let last = raft.raft_log.last_index();
    if message.term >= raft.term && message.commit > last {
        return Err(Error::Damaged {
            shard: raft.store().shard(),
            peer: raft.id,
            reason: format!(
                "replica {} counts on entry {} here, but the log ends at {last}",
                message.from, message.commit
            ),
        });
    }
    Ok(())
}
