//! The meta group's core: the replica and the machine of the operator's objects. As [`crate::core`], but changes are
//! rare, so each is an entry of its own:
//!
//! ```text
//! entry    time ms u64 LE | encoded MetaCommand
//! ```

use crate::core::CoreOutput;
use crate::output::{Payload, Position};
use crate::pending::Pending;
use crate::prepared::Prepared;
use crate::replica::Replica;
use crate::{ConfState, Error};
use moso_queue::meta::{MetaMachine, MetaReply};
use std::collections::VecDeque;

/// Answers owed at a time: operators, not jobs.
const PROPOSALS_MAX: usize = 256;

/// What becomes of a change that was asked for.
#[derive(Debug)]
pub enum MetaAnswer {
    /// Applied.
    Reply(MetaReply),
    /// The leadership was lost: the outcome is not known. Repeating is safe with an expected version.
    Unknown,
}

/// What a turn asks of the owner beside the replica's output.
pub struct MetaOutput<T> {
    /// The replica's part; its `answers` and `signals` stay empty.
    pub replica: CoreOutput<std::convert::Infallible>,
    /// Answers.
    pub answers: Vec<(T, MetaAnswer)>,
}

impl<T> Default for MetaOutput<T> {
    fn default() -> Self {
        MetaOutput { replica: CoreOutput::default(), answers: Vec::new() }
    }
}

/// The meta group on this node. `T` is whoever waits for an answer.
pub struct MetaCore<T> {
    replica: Replica,
    machine: MetaMachine,
    pending: Pending<T>,
    applied: Position,
    prepared: Prepared<MetaMachine>,
    conf_state: Option<ConfState>,
    unwritten: bool,
    reads: VecDeque<(u64, u64)>,
    next_context: u64,
    stamp_ms: u64,
}

impl<T> MetaCore<T> {
    /// Joins a replica and the machine loaded from its state.
    pub fn new(replica: Replica, machine: MetaMachine, applied: Position) -> Self {
        MetaCore {
            replica,
            machine,
            pending: Pending::new(PROPOSALS_MAX),
            applied,
            prepared: Prepared::none(),
            conf_state: None,
            unwritten: false,
            reads: VecDeque::new(),
            next_context: 2,
            stamp_ms: 0,
        }
    }

    /// The replica.
    pub fn replica(&mut self) -> &mut Replica {
        &mut self.replica
    }
    /// The replica.
    pub fn replica_ref(&self) -> &Replica {
        &self.replica
    }
    /// The applied objects.
    pub fn machine(&self) -> &MetaMachine {
        &self.machine
    }
    /// It leads and has applied all that was committed before its term.
    pub fn serves(&self) -> bool {
        self.replica.serving_term().is_some()
    }

    /// As [`crate::core::Core::prepare`].
    #[must_use]
    pub fn prepare(&mut self, machine: MetaMachine, at: Position) -> bool {
        self.prepared.put(&mut self.replica, machine, at)
    }

    /// As [`crate::core::Core::unprepare`].
    #[must_use]
    pub fn unprepare(&mut self) -> bool {
        self.prepared.forget(&mut self.replica)
    }

    /// Takes the records changed since the last call, with the position and configuration for the same batch.
    #[allow(clippy::type_complexity)]
    pub fn unwritten(&mut self) -> Option<(Vec<(Vec<u8>, Option<Vec<u8>>)>, Position, Option<ConfState>)> {
        if !std::mem::take(&mut self.unwritten) {
            return None;
        }
        Some((self.machine.take_dirty(), self.applied, self.conf_state.take()))
    }

    /// Proposes an encoded command. `Err`: it does not lead, or too much is waiting.
    pub fn command(&mut self, command: &[u8], wall_ms: u64, owed: T) -> Result<(), T> {
        if !self.serves() || !self.pending.has_room() {
            return Err(owed);
        }
        self.stamp_ms = self.stamp_ms.max(wall_ms);
        let mut entry = Vec::with_capacity(command.len() + 8);
        entry.extend_from_slice(&self.stamp_ms.to_le_bytes());
        entry.extend_from_slice(command);
        match self.replica.propose(entry.into()) {
            Ok(position) => {
                self.pending.push(position, owed);
                Ok(())
            }
            Err(_) => Err(owed),
        }
    }

    /// As [`crate::core::Core::read`].
    pub fn read(&mut self) -> Option<u64> {
        let context = self.next_context;
        self.serves().then_some(())?;
        self.replica.read_index(context).ok()?;
        self.next_context += 2;
        Some(context)
    }

    /// Does what there is to do. Returns whether objects changed.
    ///
    /// # Errors
    /// The replica is damaged or its log cannot be read: the node stops.
    pub fn turn(&mut self, out: &mut MetaOutput<T>) -> Result<bool, Error> {
        let mut changed = false;
        while let Some(output) = self.replica.take_output()? {
            out.replica.messages.extend(output.messages);
            out.replica.appends.extend(output.append);
            if let Some(at) = output.restore {
                self.machine = self.prepared.take(at);
                (self.unwritten, self.conf_state, self.applied) = (false, None, at);
                out.replica.restored = Some(at);
                changed = true;
            }
            for committed in output.committed {
                changed |= self.apply(committed.position, committed.payload, out)?;
            }
            self.replica.applied(output.committed_to);
            self.pending.abort_to(output.committed_to);
            self.reads.extend(output.reads.iter().map(|read| (read.context, read.index)));
            if let Some(role) = output.role_change {
                self.pending.abort_all();
                self.reads.clear();
                out.replica.role = Some(role);
            }
        }
        let applied = self.replica.applied_index();
        self.reads.retain(|&(context, index)| {
            if index <= applied {
                out.replica.reads.push(context);
            }
            index > applied
        });
        out.answers.extend(self.pending.take_aborted().into_iter().map(|owed| (owed, MetaAnswer::Unknown)));
        Ok(changed)
    }

    fn apply(&mut self, position: Position, payload: Payload, out: &mut MetaOutput<T>) -> Result<bool, Error> {
        let (shard, peer) = (self.replica.shard(), self.replica.peer());
        self.applied = position;
        self.unwritten = true;
        let entry = match payload {
            Payload::Configuration(conf_state) => {
                self.conf_state = Some(*conf_state);
                return Ok(false);
            }
            Payload::Command(entry) => entry,
        };
        let damaged = |reason: String| Error::Damaged { shard, peer, reason };
        let (time, command) = entry.split_first_chunk::<8>().ok_or_else(|| damaged("a short meta entry".into()))?;
        let reply =
            self.machine.apply(u64::from_le_bytes(*time), command).map_err(|error| damaged(error.to_string()))?;
        if let Some(owed) = self.pending.take(position) {
            out.answers.push((owed, MetaAnswer::Reply(reply)));
        }
        Ok(true)
    }
}
