//! Entries: gathered, proposed, written with one sync for all shards of a node, acknowledged, applied.

use super::{Event, Simulation, Step, Thread};
use crate::scale::event::{Ns, Servers, us};
use crate::scale::model::{STEPS, UNPERSISTED_MAX};

/// Bytes of commands at which an entry is full (`ENTRY_BYTES_TARGET`).
const ENTRY_BYTES_TARGET: f64 = 262_144.0;
/// Bytes of one write (`node/src/log_writer.rs`).
const WRITE_BYTES_MAX: f64 = 8_388_608.0;

/// An entry of a shard's log.
pub struct Entry {
    shard: usize,
    leader: usize,
    term: u32,
    commands: Vec<(usize, u32)>,
    count: usize,
    acks: usize,
    committed: bool,
}

/// A node's log writer.
#[derive(Default)]
pub struct Log {
    /// Waiting for the next write, and under way.
    pending: Vec<usize>,
    writing: Vec<usize>,
    free: Ns,
    busy: Ns,
    /// Writes, each with a sync.
    pub writes: u64,
}

impl Log {
    /// CPU of the writer's own thread.
    pub fn cpu(&mut self, now: Ns, cost: Ns) -> Ns {
        self.busy += cost;
        self.free = self.free.max(now) + cost;
        self.free
    }

    /// CPU used so far.
    pub fn busy(&self) -> Ns {
        self.busy
    }
}

impl Simulation<'_> {
    /// A turn as soon as the reactor is free, if there is anything to propose and room for it.
    pub(super) fn turn_soon(&mut self, shard: usize) {
        let now = self.now();
        let state = &self.shards[shard];
        let Some(leader) = state.leader else { return };
        if state.turn || state.waiting.is_empty() || state.unpersisted >= UNPERSISTED_MAX as usize {
            return;
        }
        let term = state.term;
        let reactor = self.ring.reactor(shard);
        let free = |servers: &Servers| servers.next_free(now);
        let at = self.cores.as_ref().map_or_else(|| free(&self.nodes[leader].reactors[reactor]), free);
        self.shards[shard].turn = true;
        self.events.at(at, Event::Turn(shard, term));
    }

    pub(super) fn turn(&mut self, shard: usize, term: u32) {
        let Some(leader) = self.shards[shard].leader.filter(|_| self.shards[shard].term == term) else { return };
        let load = self.plan.load;
        let mut bytes = 0.0;
        let mut commands = Vec::new();
        while bytes < ENTRY_BYTES_TARGET
            && let Some((batch, tag)) = self.shards[shard].waiting.pop_front()
        {
            let body = if self.batches[batch].step == Step::Submit { load.body_bytes } else { 0.0 };
            bytes += load.batch * (body + self.plan.costs.wire_job_bytes);
            commands.push((batch, tag));
        }
        if commands.is_empty() {
            self.shards[shard].turn = false;
            return;
        }
        self.shards[shard].unpersisted += 1;
        let entry = self.entries.len();
        let count = commands.len();
        self.measured.entry(count);
        self.entries.push(Entry { shard, leader, term, commands, count, acks: 0, committed: false });
        let reactor = Thread::Reactor(self.ring.reactor(shard));
        let done = self.work(leader, reactor, self.plan.costs.entry_us);
        self.events.at(done, Event::Proposed(entry));
    }

    /// To the disk and to the followers at the same time.
    pub(super) fn proposed(&mut self, entry: usize) {
        let Entry { shard, leader, term, .. } = self.entries[entry];
        if !self.leads(shard, leader, term) {
            return;
        }
        self.shards[shard].turn = false;
        self.log_append(leader, entry);
        for k in 0..self.ring.copies() {
            let node = self.ring.place(shard, k);
            if node != leader && self.nodes[node].alive {
                let (arrives, fresh) = self.send(leader, node, true);
                self.events.at(arrives, Event::Append(entry, node, fresh));
            }
        }
        self.turn_soon(shard);
    }

    pub(super) fn append(&mut self, entry: usize, node: usize, fresh: bool) {
        if !self.nodes[node].alive {
            return;
        }
        self.work(node, Thread::Api, self.side_us(fresh));
        let reactor = Thread::Reactor(self.ring.reactor(self.entries[entry].shard));
        let done = self.work(node, reactor, self.plan.costs.entry_us);
        self.events.at(done, Event::Appended(entry, node));
    }

    /// Leaves an entry at a node's log writer, which takes all that waits once its last write is synced.
    pub(super) fn log_append(&mut self, node: usize, entry: usize) {
        if self.nodes[node].alive {
            self.nodes[node].log.pending.push(entry);
            self.write(node);
        }
    }

    fn write(&mut self, node: usize) {
        let log = &mut self.nodes[node].log;
        if !log.writing.is_empty() || log.pending.is_empty() {
            return;
        }
        // The log shares the disk with the states' flushes and compactions: all that a job writes is charged here.
        let command_bytes = self.plan.load.batch * self.plan.costs.disk_bytes(self.plan.load.body_bytes) / STEPS;
        let mut bytes = 0.0;
        let mut taken = 0;
        while taken < log.pending.len() && bytes < WRITE_BYTES_MAX {
            bytes += self.entries[log.pending[taken]].count as f64 * command_bytes;
            taken += 1;
        }
        log.writing = log.pending.drain(..taken).collect();
        log.writes += 1;
        let costs = self.plan.costs;
        let ready = self.work(node, Thread::Log, costs.write_us);
        let written_us = costs.sync_us + bytes / self.plan.cluster.machine.disk_bytes_per_s * 1e6;
        self.events.at(ready + us(written_us), Event::Written(node));
    }

    pub(super) fn written(&mut self, node: usize) {
        if !self.nodes[node].alive {
            return;
        }
        for entry in std::mem::take(&mut self.nodes[node].log.writing) {
            let Entry { shard, leader, term, count, .. } = self.entries[entry];
            if leader == node {
                if self.leads(shard, leader, term) {
                    self.shards[shard].unpersisted -= 1;
                    self.turn_soon(shard);
                    self.acked(entry);
                }
                continue;
            }
            if self.nodes[leader].alive {
                let (arrives, fresh) = self.send(node, leader, true);
                self.events.at(arrives, Event::Ack(entry, fresh));
            }
            let costs = self.plan.costs;
            let jobs = count as f64 * self.plan.load.batch;
            let apply = count as f64 * costs.command_us + jobs * costs.job_follower_us;
            self.work(node, Thread::Reactor(self.ring.reactor(shard)), apply);
        }
        self.write(node);
    }

    pub(super) fn ack(&mut self, entry: usize, fresh: bool) {
        let leader = self.entries[entry].leader;
        if self.nodes[leader].alive {
            let done = self.work(leader, Thread::Api, self.side_us(fresh));
            self.events.at(done, Event::Acked(entry));
        }
    }

    /// On one more disk; on a majority's, it is committed and applied.
    pub(super) fn acked(&mut self, entry: usize) {
        let majority = self.ring.copies() / 2 + 1;
        let Entry { shard, leader, term, count, .. } = self.entries[entry];
        let state = &mut self.entries[entry];
        state.acks += 1;
        if state.committed || state.acks < majority || !self.leads(shard, leader, term) {
            return;
        }
        self.entries[entry].committed = true;
        let costs = self.plan.costs;
        let jobs = count as f64 * self.plan.load.batch;
        let apply = count as f64 * costs.command_us + jobs * costs.job_leader_us;
        let done = self.work(leader, Thread::Reactor(self.ring.reactor(shard)), apply);
        self.events.at(done, Event::Applied(entry));
    }

    pub(super) fn applied(&mut self, entry: usize) {
        let Entry { shard, leader, term, .. } = self.entries[entry];
        if !self.leads(shard, leader, term) {
            return;
        }
        for (batch, tag) in std::mem::take(&mut self.entries[entry].commands) {
            self.settle(batch, tag, leader);
        }
    }

    fn leads(&self, shard: usize, node: usize, term: u32) -> bool {
        let state = &self.shards[shard];
        state.leader == Some(node) && state.term == term
    }
}
