//! What reactors and the log writer send to other nodes and to workers.

use crate::hints::{HintFrame, WorkerWord};
use crate::peer::Peers;
use crate::sessions::Sessions;
use moso_proto::ShardId;
use moso_queue::effect::Signal;
use moso_shard::{Message, wire};
use std::sync::Arc;

/// Words to workers in one frame.
const WORDS_MAX: usize = 4_096;

/// To other nodes and to workers. Never blocks: what does not fit is dropped, and Raft or the next heartbeat repeats it.
#[derive(Clone)]
pub struct Outbound {
    peers: Arc<Peers>,
    sessions: Arc<Sessions>,
}

impl Outbound {
    /// Sends through `peers`; words to workers also to all other nodes, where their sessions may be.
    pub fn new(peers: Arc<Peers>, sessions: Arc<Sessions>) -> Self {
        Outbound { peers, sessions }
    }

    /// Lets the messages of all shards leave.
    pub fn flush(&self) {
        self.peers.flush();
    }

    /// Gathers a shard's messages for [`Outbound::flush`]; returns the replicas for which one was dropped, so that Raft can be told.
    pub fn raft(&self, shard: u16, messages: impl Iterator<Item = Message>) -> Vec<u64> {
        let mut unreached = Vec::new();
        for message in messages {
            let to = crate::group::node_of(message.to);
            let mut bytes = Vec::new();
            match wire::encode_message(&message, &mut bytes) {
                Ok(()) if self.peers.send_raft(to, shard, bytes.into()) => {}
                Ok(()) => unreached.push(message.to),
                Err(error) => tracing::error!(shard, %error, "a message could not be encoded"),
            }
        }
        unreached
    }

    /// Tells workers about their jobs.
    pub fn words(&self, shard: u16, signals: impl Iterator<Item = Signal>) {
        let words: Vec<WorkerWord> = signals
            .map(|s| WorkerWord { session: s.session, job: ShardId(shard).id(s.seq), attempt: s.attempt, gone: s.gone })
            .filter(|word| !self.sessions.tell(word))
            .collect();
        for words in words.chunks(WORDS_MAX) {
            let frame = HintFrame::Words(words.to_vec()).encode();
            for to in self.peers.others() {
                self.peers.send_hints(to, frame.clone());
            }
        }
    }
}
