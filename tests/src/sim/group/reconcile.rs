//! The leader's owner brings a shard's members to what they should be.

use super::{Around, Group};
use crate::sim::event::Event;
use crate::sim::meta;
use crate::sim::trace::Note;
use moso_shard::members::Step;

/// Between two steps, ms of the node's time.
const STEP_MS: (u64, u64) = (800, 1_200);

impl Group {
    /// The wish was read after this term had begun.
    pub fn learned_in(&mut self, term: u64) {
        self.fresh_term = term;
    }

    /// Once a second: the next step. A leader goes only by a wish that was read in its term: an older one may have been
    /// replaced and the newer one fulfilled, and what that removed may be gone.
    pub(super) fn reconcile(&mut self, around: &mut Around<'_>) {
        if around.mono_ms < self.reconcile_ms {
            return;
        }
        self.reconcile_ms = around.mono_ms + around.env.within(STEP_MS);
        let Some(term) = self.core.replica_ref().serving_term() else { return };
        let (node, shard) = (around.node, self.shard);
        if self.fresh_term != term {
            let delay_ms = meta::delay(around.env);
            around.env.after(delay_ms, Event::Read { node, shard, term });
            return;
        }
        let (wish, _) = around.env.meta.view(node, shard);
        let (version, members) = (wish.version, wish.members.clone());
        match self.core.replica().reconcile(&members) {
            Some(Step::Change(change)) => {
                around.env.cover.count("members: changes asked for");
                let what = format!("shard {shard} led by {node}, for wish {version}: {:?}", change.changes);
                around.env.note(Note::Fault(what));
            }
            Some(Step::GiveAway(_)) => {
                around.env.cover.count("members: leaderships given away");
                around.watch.disturbed(around.env.now_ms);
            }
            Some(Step::Wait(_)) => around.env.cover.count("members: waits"),
            Some(Step::Done) if around.env.meta.truth(shard).settled < version => {
                let delay_ms = meta::delay(around.env);
                around.env.after(delay_ms, Event::Settled { shard, version });
            }
            Some(Step::Done) | None => {}
        }
    }
}
