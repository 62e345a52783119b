//! Reads that must see everything that was acknowledged before.

use super::{Around, Group, Owed, reply};
use crate::ensure_that;
use crate::sim::event::Answer;
use crate::sim::watch::Check;
use moso_shard::core::CoreOutput;

impl Group {
    pub(super) fn start_reads(&mut self, around: &mut Around<'_>) {
        if self.waiting_reads.is_empty() {
            return;
        }
        let reads = std::mem::take(&mut self.waiting_reads);
        match self.core.read() {
            Some(context) => drop(self.reads.insert(context, reads)),
            None => {
                let leader = self.leader();
                for (owed, _) in reads {
                    reply(around, owed, Answer::NotLeader(leader));
                }
            }
        }
    }

    /// A read sees everything that any client was told about before it was asked for.
    pub(super) fn serve_reads(&mut self, around: &mut Around<'_>, out: &mut CoreOutput<Owed>) -> Check {
        let applied = self.core.replica_ref().applied_index();
        for context in out.reads.drain(..) {
            for (owed, answered) in self.reads.remove(&context).unwrap_or_default() {
                ensure_that!(
                    "reads see what was acknowledged",
                    applied >= answered,
                    "node {} shard {}: a read is served at {applied}, entry {answered} was acknowledged before it",
                    around.node,
                    self.shard
                );
                around.env.cover.count("reads served");
                reply(around, owed, Answer::Read);
            }
        }
        Ok(())
    }

    pub(super) fn role_changed(&mut self, around: &mut Around<'_>) {
        let leader = self.leader();
        for (owed, _) in std::mem::take(&mut self.reads).into_values().flatten() {
            reply(around, owed, Answer::NotLeader(leader));
        }
    }
}
