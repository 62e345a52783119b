//! A node's replicas come and go: what should be here is opened, what should not be and is not needed is destroyed.

use super::event::Event;
use super::group::{Around, Born, Group};
use super::meta;
use super::trace::Note;
use super::watch::{Check, Violation};
use std::collections::BTreeMap;

/// From the end of a replica to that of its last file, ms.
const DYING_MS: (u64, u64) = (0, 2_000);

/// What it takes to let a node's replicas come and go.
pub struct Manager<'a> {
    /// On the disk.
    pub replicas: &'a mut BTreeMap<u16, Born>,
    /// The newest that ever was on this disk, of each shard.
    pub newest: &'a mut BTreeMap<u16, u64>,
    /// Which disk the node has.
    pub disk_number: u32,
    /// Those that run.
    pub groups: &'a mut BTreeMap<u16, Group>,
}

impl Manager<'_> {
    /// Once a second.
    pub fn manage(&mut self, around: &mut Around<'_>) -> Check {
        for shard in 1..=around.env.plan.shards {
            let (wish, view) = around.env.meta.view(around.node, shard);
            match self.replicas.get(&shard) {
                Some(Born { dying_ms: Some(dying_ms), .. }) => {
                    if around.mono_ms >= *dying_ms {
                        self.remove(around, shard);
                    }
                }
                Some(born) => {
                    let unwanted = view.version > born.version && !wish.names(born.peer);
                    if unwanted && (born.refused || view.settled == view.version) {
                        self.destroy(around, shard)?;
                    }
                }
                None => {
                    let newest = self.newest.get(&shard).copied().unwrap_or(0);
                    let wanted = wish.of(around.node, self.disk_number).filter(|peer| *peer > newest);
                    if let Some(peer) = wanted {
                        self.join(around, shard, Born::new(peer, None, view.version))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn join(&mut self, around: &mut Around<'_>, shard: u16, mut born: Born) -> Check {
        around.env.cover.count("members: replicas joined");
        self.newest.insert(shard, born.peer);
        if let Some(group) = open(around, shard, &mut born)? {
            self.groups.insert(shard, group);
        }
        self.replicas.insert(shard, born);
        Ok(())
    }

    /// First it is written that the replica is never opened again.
    fn destroy(&mut self, around: &mut Around<'_>, shard: u16) -> Check {
        let Some(born) = self.replicas.get_mut(&shard) else { return Ok(()) };
        around.env.cover.count("members: replicas destroyed");
        around.env.note(Note::Fault(format!("{} destroys shard {shard} replica {:x}", around.node, born.peer)));
        around.watch.destroyed((shard, born.peer))?;
        born.dying_ms = Some(around.mono_ms + around.env.within(DYING_MS));
        self.groups.remove(&shard);
        around.writer.forget((shard, born.peer));
        Ok(())
    }

    fn remove(&mut self, around: &mut Around<'_>, shard: u16) {
        if let Some(born) = self.replicas.remove(&shard) {
            around.disk.remove((shard, born.peer));
        }
    }
}

/// Opens a replica, unless it is of those that are not opened any more; `None` also if it is found damaged.
pub fn open(around: &mut Around<'_>, shard: u16, born: &mut Born) -> Result<Option<Group>, Violation> {
    if born.refused || born.dying_ms.is_some() {
        // The clock began anew.
        born.dying_ms = born.dying_ms.map(|_| around.mono_ms);
        return Ok(None);
    }
    match Group::open(around, shard, born) {
        Ok(_) if born.hurt => {
            Violation::new("damage is noticed", format!("shard {shard} replica {:x} opens", born.peer))
        }
        Err(violation) if born.hurt && violation.invariant == "replica opens" => {
            around.env.cover.count("replicas found damaged");
            around.env.note(Note::Fault(violation.detail));
            born.refused = true;
            let peer = born.peer;
            around.watch.lost((shard, peer));
            let delay_ms = meta::delay(around.env);
            around.env.after(delay_ms, Event::Replace { shard, peer });
            Ok(None)
        }
        opened => opened.map(Some),
    }
}
