//! A reactor: a thread that owns some shards and shares nothing but queues. Its loop takes messages, persisted
//! numbers and requests, ticks, lets each shard that has something to do take its turn, and sleeps until woken.

use crate::clock::Clock;
use crate::directory::Directory;
use crate::error::Error;
use crate::group::{Group, Surroundings};
use crate::log_writer::LogWriter;
use crate::meta_group::MetaGroup;
use crate::outbound::Outbound;
use crate::snapshot::sender::News;
use crate::snapshot::standby::{Loaded, Prepared};
use crossbeam::queue::{ArrayQueue, SegQueue};
use crossbeam::sync::{Parker, Unparker};
use moso_shard::Message;
use moso_shard::core::Policy;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Raft messages waiting at a reactor; more are dropped, and Raft sends them again.
const MESSAGES: usize = 16_384;

/// The reactor of a shard. Mixed, since a node leads every n-th shard of n nodes, and these should not be one reactor's.
/// Shard 0 is the first one's.
pub fn reactor_of(shard: u16, reactors: usize) -> usize {
    (u32::from(shard).wrapping_mul(0x9e37_79b9) >> 16) as usize % reactors
}

/// Something that only the reactor's own thread may do. It must not wait.
pub type Task = Box<dyn FnOnce(&mut Reactor) + Send>;

/// What other threads leave at a reactor.
pub struct Mailbox {
    messages: ArrayQueue<(u16, Message)>,
    /// Bounded by the appends under way.
    persisted: SegQueue<(u16, u64)>,
    /// Flushes that have ended: shard and durable applied index.
    flushed: SegQueue<(u16, u64)>,
    /// Replicas on a node that cannot be reached.
    unreachable: SegQueue<u32>,
    /// Work for the reactor's own thread: rare.
    tasks: SegQueue<Task>,
    drain: AtomicBool,
    stop: AtomicBool,
    unparker: Unparker,
}

impl Mailbox {
    /// A mailbox whose reader is woken by `unparker`.
    pub fn new(unparker: Unparker) -> Self {
        Mailbox {
            messages: ArrayQueue::new(MESSAGES),
            persisted: SegQueue::new(),
            flushed: SegQueue::new(),
            unreachable: SegQueue::new(),
            tasks: SegQueue::new(),
            drain: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            unparker,
        }
    }

    /// Leaves a message of another replica; dropped if the box is full.
    pub fn message(&self, shard: u16, message: Message) {
        if self.messages.push((shard, message)).is_err() {
            metrics::counter!("moso_raft_messages_dropped_total").increment(1);
        }
    }

    /// Wakes the reactor.
    pub fn wake(&self) {
        self.unparker.unpark();
    }

    /// An append is on disk.
    pub fn persisted(&self, shard: u16, number: u64) {
        self.persisted.push((shard, number));
        self.unparker.unpark();
    }

    /// A shard's state is on disk up to this index.
    pub fn flushed(&self, shard: u16, index: u64) {
        self.flushed.push((shard, index));
        self.unparker.unpark();
    }

    /// A node cannot be reached.
    pub fn unreachable(&self, node: u32) {
        self.unreachable.push(node);
        self.unparker.unpark();
    }

    /// Lets the reactor do something in its next turn.
    pub fn task(&self, task: Task) {
        self.tasks.push(task);
        self.unparker.unpark();
    }

    /// Asks the reactor to give its leaderships away.
    pub fn drain(&self) {
        self.drain.store(true, Ordering::Release);
        self.unparker.unpark();
    }

    /// Asks the reactor to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.unparker.unpark();
    }

    /// An unparker of the reactor, for inboxes.
    pub fn unparker(&self) -> Unparker {
        self.unparker.clone()
    }
}

/// A reactor's shards and surroundings.
pub struct Reactor {
    /// Data shards.
    pub groups: BTreeMap<u16, Group>,
    /// The meta group, on one reactor of some nodes.
    pub meta: Option<MetaGroup>,
    /// Mailbox.
    pub mailbox: Arc<Mailbox>,
    /// Sleeps until woken.
    pub parker: Parker,
    /// Shared state.
    pub directory: Arc<Directory>,
    /// To other nodes.
    pub outbound: Outbound,
    /// To the log.
    pub log: LogWriter,
    /// Data folder.
    pub data: PathBuf,
    /// Flushes and cuts.
    pub upkeep: crate::upkeep::Upkeep,
    /// Time.
    pub clock: Clock,
    /// One Raft tick, ms.
    pub tick_ms: u64,
    /// Version of the meta view that the policies were made from.
    pub policy_version: u64,
}

impl Reactor {
    /// Runs until stopped; an error means that this node must not go on.
    pub fn run(mut self) -> Result<(), Error> {
        let mut next_tick = self.clock.mono_ms();
        let mut dirty: BTreeSet<u16> = self.groups.keys().copied().collect();
        let turn_time = metrics::histogram!("moso_stage_seconds", "stage" => "turn");
        while !self.mailbox.stop.load(Ordering::Acquire) {
            let start = self.clock.mono_us();
            self.run_tasks(&mut dirty);
            self.take_mail(&mut dirty);
            self.take_requests(&mut dirty);
            let now = self.clock.mono_ms();
            if now >= next_tick {
                // One tick per turn at most: after a stall, time lost is not made up for by ticks in a row, which
                // would start elections while the leader's messages still wait in the mailbox.
                next_tick = now + self.tick_ms;
                self.tick(now)?;
                dirty.extend(self.groups.keys());
                if self.meta.is_some() {
                    dirty.insert(0);
                }
            }
            if dirty.is_empty() {
                let sleep = next_tick.saturating_sub(self.clock.mono_ms());
                self.parker.park_timeout(Duration::from_millis(sleep));
                continue;
            }
            self.turn(&mut dirty)?;
            turn_time.record((self.clock.mono_us() - start) as f64 / 1e6);
        }
        // The node flushes the stores when its reactors have ended.
        self.groups.values_mut().try_for_each(Group::write_state)
    }

    fn take_mail(&mut self, dirty: &mut BTreeSet<u16>) {
        while let Some((shard, number)) = self.mailbox.persisted.pop() {
            match (shard, self.groups.get_mut(&shard), &mut self.meta) {
                (0, _, Some(meta)) => meta.persisted(number),
                (_, Some(group), _) => group.persisted(number),
                _ => continue,
            }
            dirty.insert(shard);
        }
        for _ in 0..MESSAGES {
            let Some((shard, message)) = self.mailbox.messages.pop() else { break };
            match (shard, self.groups.get_mut(&shard), &mut self.meta) {
                (0, _, Some(meta)) => meta.step(message),
                (_, Some(group), _) => group.step(message),
                _ => continue,
            }
            dirty.insert(shard);
        }
        while let Some((shard, index)) = self.mailbox.flushed.pop() {
            if let Some(group) = self.groups.get_mut(&shard) {
                self.upkeep.flushed(group, &self.directory, shard, index);
            } else if let Some(meta) = self.meta.as_mut().filter(|_| shard == 0) {
                self.upkeep.meta_flushed(meta, index);
            }
        }
        while let Some(node) = self.mailbox.unreachable.pop() {
            for group in self.groups.values_mut() {
                report_unreachable(group.core().replica(), node);
            }
            if let Some(meta) = &mut self.meta {
                report_unreachable(meta.core().replica(), node);
            }
        }
    }

    fn take_requests(&mut self, dirty: &mut BTreeSet<u16>) {
        let around =
            Surroundings { directory: &self.directory, outbound: &self.outbound, log: &self.log, clock: self.clock };
        for (&shard, group) in &mut self.groups {
            if group.take_requests(&around) {
                dirty.insert(shard);
            }
        }
        if let Some(meta) = &mut self.meta
            && meta.take_requests(&around)
        {
            dirty.insert(0);
        }
    }

    fn tick(&mut self, now: u64) -> Result<(), Error> {
        self.refresh_policy();
        let wall = self.clock.wall_ms();
        let draining = self.mailbox.drain.load(Ordering::Acquire);
        let yields = draining || self.directory.disk.is_unwilling();
        for (&shard, group) in &mut self.groups {
            group.core().replica().tick();
            group.core().maintain(now, wall);
            if yields {
                self.upkeep.give_away(group, &self.directory, now);
            }
            if !draining {
                self.upkeep.tick(group, &self.directory, shard, now)?;
            }
        }
        if let Some(meta) = &mut self.meta {
            meta.core().replica().tick();
            self.upkeep.meta_tick(meta, &self.directory, now);
            let replica = meta.core().replica();
            let first = replica.conf_state().voters.iter().copied().map(crate::group::node_of).min();
            match first {
                _ if yields => give_away(replica, &self.directory, now),
                Some(first) => self.upkeep.lead_if_nobody_does(replica, 0, first, self.directory.node, now),
                None => {}
            }
        }
        Ok(())
    }

    fn run_tasks(&mut self, dirty: &mut BTreeSet<u16>) {
        let before = self.mailbox.tasks.len();
        for _ in 0..before {
            let Some(task) = self.mailbox.tasks.pop() else { break };
            task(self);
        }
        if before > 0 {
            dirty.extend(self.groups.keys());
            dirty.extend(self.meta.as_ref().map(|_| 0));
        }
        let gone: Vec<u16> = self.groups.iter().filter(|(_, group)| group.is_gone()).map(|(shard, _)| *shard).collect();
        for shard in gone {
            self.end(shard);
        }
    }

    /// What became of a copy that was sent to a follower.
    pub fn copy_news(&mut self, shard: u16, news: News) {
        if let Some(group) = self.groups.get_mut(&shard) {
            let (standby, replica, _) = group.standby();
            standby.news(replica, news);
        } else if let Some(meta) = self.meta.as_mut().filter(|_| shard == 0) {
            let (standby, replica) = meta.standby();
            standby.news(replica, news);
        }
    }

    /// A copy of a leader's state, ready to take the place of a replica's here; `false`: there is no use for it.
    pub fn take_prepared(&mut self, shard: u16, prepared: Prepared) -> bool {
        let Prepared { store, machine, at } = prepared;
        match (machine, self.groups.get_mut(&shard), &mut self.meta) {
            (Loaded::Data(machine), Some(group), _) => group.prepare(*machine, store, at),
            (Loaded::Meta(machine), None, Some(meta)) if shard == 0 => meta.prepare(*machine, store, at),
            _ => {
                crate::snapshot::standby::remove(store);
                false
            }
        }
    }

    /// A replica that joins.
    pub fn add(&mut self, shard: u16, group: Group) {
        self.groups.insert(shard, group);
        // The policy is given to it with the next tick.
        self.policy_version = u64::MAX;
    }

    /// A replica here is to go.
    pub fn retire(&mut self, shard: u16, peer: u64) {
        if let Some(group) = self.groups.get_mut(&shard).filter(|group| group.peer() == peer) {
            group.retire();
        }
    }

    fn end(&mut self, shard: u16) {
        let Some(group) = self.groups.remove(&shard) else { return };
        let around =
            Surroundings { directory: &self.directory, outbound: &self.outbound, log: &self.log, clock: self.clock };
        let peer = group.peer();
        let store = group.end(&around);
        self.upkeep.forget(shard);
        let replica = (self.data.clone(), shard, peer);
        crate::resident::destroy(self.directory.clone(), self.log.clone(), self.upkeep.log().clone(), replica, store);
    }

    fn refresh_policy(&mut self) {
        let meta = self.directory.meta.load();
        if meta.version() == self.policy_version {
            return;
        }
        self.policy_version = meta.version();
        let policy: Policy = crate::upkeep::policy(&meta);
        self.groups.values_mut().for_each(|group| group.core().set_policy(policy.clone()));
    }

    fn turn(&mut self, dirty: &mut BTreeSet<u16>) -> Result<(), Error> {
        let around =
            Surroundings { directory: &self.directory, outbound: &self.outbound, log: &self.log, clock: self.clock };
        for shard in std::mem::take(dirty) {
            if let Some(group) = self.groups.get_mut(&shard) {
                group.turn(&around)?;
            } else if let Some(meta) = self.meta.as_mut().filter(|_| shard == 0) {
                meta.turn(&around)?;
            }
        }
        self.outbound.flush();
        Ok(())
    }
}

/// Gives a leadership to the replica that lacks least, if one is near and not about to stop too.
/// A leader whose disk hangs, and who found nobody for long, only stops leading.
pub fn give_away(replica: &mut moso_shard::Replica, directory: &Directory, now_ms: u64) {
    if directory.disk.must_not_lead(now_ms) && replica.step_down() {
        tracing::error!(shard = replica.shard(), "the leadership is given up for a disk that hangs");
        return;
    }
    if replica.serving_term().is_none() || replica.is_transferring() {
        return;
    }
    let voters = replica.conf_state().voters;
    let able = |peer| voters.contains(&peer) && !directory.is_draining(crate::group::node_of(peer));
    let others = replica.progress().into_iter().filter(|p| p.peer != replica.peer() && p.active && able(p.peer));
    if let Some(best) = others.min_by_key(|p| p.lag) {
        let _ = replica.transfer_leader(best.peer);
    }
}

fn report_unreachable(replica: &mut moso_shard::Replica, node: u32) {
    let peers: Vec<u64> =
        replica.conf_state().voters.iter().copied().filter(|p| crate::group::node_of(*p) == node).collect();
    peers.into_iter().for_each(|peer| replica.report_unreachable(peer));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shards_that_a_node_leads_are_spread_over_its_reactors() {
        for (nodes, reactors) in [(2, 2), (3, 3), (4, 4), (4, 8), (8, 4), (8, 8), (12, 4), (16, 8)] {
            for node in 0..nodes {
                let mut led = vec![0; reactors];
                (1..=512).filter(|shard| shard % nodes == node).for_each(|shard| led[reactor_of(shard, reactors)] += 1);
                let (most, all) = (*led.iter().max().unwrap(), led.iter().sum::<usize>());
                assert!(most * reactors <= 2 * all, "{nodes} nodes, {reactors} reactors: {led:?}");
            }
            assert_eq!(reactor_of(0, reactors), 0);
        }
    }
}
