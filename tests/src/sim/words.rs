//! Events in words, for people who look for the cause of a failure.

use super::trace::Note;
use super::{incarnation_of, node_of};
use moso_shard::MessageType;

/// A replica: its node, and its how manieth of it.
fn name(peer: u64) -> String {
    if peer == 0 { "nobody".into() } else { format!("{}.{}", node_of(peer), incarnation_of(peer)) }
}

/// Whether it says little about how a failure came about.
pub fn is_small(note: &Note) -> bool {
    use MessageType::{MsgHeartbeat, MsgHeartbeatResponse};
    match note {
        Note::Got { kind, taken, .. } => *taken && matches!(kind, MsgHeartbeat | MsgHeartbeatResponse),
        Note::Lost { .. } | Note::Applied { .. } | Note::Asked { .. } | Note::Answered { .. } => true,
        _ => false,
    }
}

/// An event in words.
pub fn words(note: &Note) -> String {
    match note {
        Note::Start { node, shard, applied, last } => {
            format!("node {node} opens shard {shard}: applied {applied}, log to {last}")
        }
        Note::Crash { node, survived, lost } => {
            format!("node {node} crashes: {survived} writes under way survive, {lost} are lost")
        }
        Note::Fault(what) => format!("! {what}"),
        Note::Lost { from, to, shard } => format!("shard {shard}: a message from node {from} to {to} is lost"),
        Note::Got { node, shard, kind, from, term, index, commit, entries, reject, taken } => format!(
            "node {node} shard {shard} {} {kind:?}{} from {}: term {term}, index {index}, {entries} entries, commit {commit}",
            if *taken { "takes" } else { "refuses" },
            if *reject { " (no)" } else { "" },
            name(*from)
        ),
        Note::Append { node, shard, number, first, entries, term } => {
            format!("node {node} shard {shard} writes append {number}: {entries} entries from {first}, term {term}")
        }
        Note::Synced { node, tasks } => format!("node {node}: {tasks} appends are on disk"),
        Note::Flushed { node, shard, index } => format!("node {node} shard {shard}: the state is on disk to {index}"),
        Note::Cut { node, shard, index } => format!("node {node} shard {shard}: the log is cut at {index}"),
        Note::Copy { node, shard, what, peer, index } => {
            format!("node {node} shard {shard}: a copy of the state at {index} {what} {}", name(*peer))
        }
        Note::Role { node, shard, term, .. } => format!("node {node} leads shard {shard} in term {term}"),
        Note::Serves { node, shard, term } => format!("node {node} serves shard {shard} in term {term}"),
        Note::Applied { node, shard, index, digest } => {
            format!("node {node} shard {shard} has applied {index}: {digest:x}")
        }
        Note::Committed { shard, index, term, command, reply } => {
            format!("shard {shard} entry {index} of term {term}: {command}; {reply}")
        }
        Note::Asked { client, request, node, shard, what } => {
            format!("client {client} asks node {node} for a {what} of shard {shard}: request {request}")
        }
        Note::Answered { client, request, answer } => format!("client {client}, request {request}: {answer}"),
        Note::Client { client, what, n } => format!("client {client} {what} {n}"),
    }
}
