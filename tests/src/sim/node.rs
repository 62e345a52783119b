//! A simulated node: its disk and clocks, which survive, and its process, which does not. The process is a reactor with
//! all shards and a log writer, as in the node.

use super::env::{EPOCH_MS, Env};
use super::event::{Answer, Ask, Event, Request, Work};
use super::folders::Folders;
use super::group::{Around, Born, Copy, Group, Held, send_answer};
use super::log::{Disk, Key, LogWriter};
use super::manager::{Manager, open};
use super::network::client_delay;
use super::trace::Note;
use super::watch::{Check, Violation, Watch};
use bytes::Bytes;
use moso_shard::{ConfState, FOUNDING, Message, wire};
use rand::Rng;
use rand::seq::IteratorRandom;
use std::collections::{BTreeMap, VecDeque};

/// Where monotonic clocks start, ms.
const MONO_START_MS: u64 = 1_000_000;
/// Longer pauses count as time in which a leader hears nobody; shorter ones it does not notice.
const PAUSE_COUNTED_MS: u64 = 700;
/// Messages taken in one run of a reactor.
const MESSAGES_PER_RUN: usize = 64;
/// Messages that wait at a reactor; more are dropped.
const MESSAGES_MAX: usize = 4_096;

/// A node's process.
struct Process {
    groups: BTreeMap<u16, Group>,
    writer: LogWriter,
    messages: VecDeque<(u16, Message)>,
    persisted: Vec<(Key, u64)>,
    flushed: Vec<(Key, u64)>,
    copies: Vec<(u16, Copy)>,
    held: Vec<(u16, Held)>,
    work: VecDeque<Work>,
    unreachable: Vec<usize>,
    next_tick_ms: u64,
    /// When it is next looked which replicas should be here.
    manage_ms: u64,
    /// When the reactor runs next, true time.
    planned_ms: u64,
}

/// A node.
pub struct Node {
    node: usize,
    disk: Disk,
    replicas: BTreeMap<u16, Born>,
    /// The newest replica that ever was on this disk, of each shard.
    newest: BTreeMap<u16, u64>,
    /// Counts the disks that the node had.
    disk_number: u32,
    process: Option<Process>,
    incarnation: u32,
    started_ms: u64,
    drift_ppm: i64,
    wall_offset_ms: i64,
    paused_until_ms: Option<u64>,
    paused_since_ms: u64,
}

impl Node {
    /// A node that was never started.
    pub fn new(env: &mut Env, node: usize) -> Node {
        let mut replicas = BTreeMap::new();
        for shard in 1..=env.plan.shards {
            let founders = env.meta.founders(shard);
            let members = ConfState { voters: founders.iter().copied().collect(), ..ConfState::default() };
            if let Some(peer) = founders.iter().find(|peer| super::node_of(**peer) == node) {
                replicas.insert(shard, Born::new(*peer, Some(members), 1));
            }
        }
        let drift = env.plan.drift_ppm;
        Node {
            node,
            disk: Disk::default(),
            newest: replicas.iter().map(|(shard, born)| (*shard, born.peer)).collect(),
            replicas,
            disk_number: 1,
            process: None,
            incarnation: 0,
            started_ms: 0,
            drift_ppm: env.rng.random_range(-drift..=drift),
            wall_offset_ms: 0,
            paused_until_ms: None,
            paused_since_ms: 0,
        }
    }

    /// The process runs, perhaps paused.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// The process is stopped by a signal.
    pub fn is_paused(&self) -> bool {
        self.paused_until_ms.is_some()
    }

    /// The disk.
    pub fn disk(&mut self) -> &mut Disk {
        &mut self.disk
    }

    /// A shard's state folders with all that its replica has applied, if the process runs.
    pub fn written_state(&mut self, shard: u16) -> Option<&mut Folders> {
        let born = self.replicas.get_mut(&shard)?;
        let group = self.process.as_mut().and_then(|process| process.groups.get_mut(&shard));
        if let Some(group) = group {
            group.write_out(&mut born.folders);
        }
        Some(&mut born.folders)
    }

    /// A shard's replica, while the process runs.
    pub fn group(&self, shard: u16) -> Option<&Group> {
        self.process.as_ref()?.groups.get(&shard)
    }

    /// The replicas on its disk.
    pub fn replicas(&self) -> Vec<Key> {
        self.replicas.iter().map(|(shard, born)| (*shard, born.peer)).collect()
    }

    /// Whether there is, or is about to go, a replica of the shard.
    pub fn has_replica(&self, shard: u16) -> bool {
        self.replicas.contains_key(&shard)
    }

    /// Index up to which its disk says, after a crash now, that the log is committed; 0 for a replica without state.
    pub fn known_committed(&mut self, key: Key) -> u64 {
        let Some(born) = self.replicas.get_mut(&key.0).filter(|born| born.peer == key.1) else { return 0 };
        let (committed, cut) = self.disk.with(key, |log| (log.committed(), log.truncated().index));
        let founding = born.founding.as_ref().map_or(0, |_| FOUNDING.index);
        committed.max(cut).max(founding).max(born.folders.store().durable().applied.index)
    }

    /// Which disk it has.
    pub fn disk_number(&self) -> u32 {
        self.disk_number
    }

    /// The disk of a crashed node is lost; it gets another, empty one.
    pub fn wipe(&mut self, watch: &mut Watch) {
        self.replicas().into_iter().for_each(|key| watch.lost(key));
        self.replicas.clear();
        self.newest.clear();
        self.disk = Disk::default();
        self.disk_number += 1;
    }

    /// Something that is on the disk of a crashed node is not what was written.
    pub fn spoil(&mut self, env: &mut Env, shard: u16, log: bool) -> bool {
        let Some(born) = self.replicas.get_mut(&shard).filter(|born| !born.refused) else { return false };
        // Of the state that counts: others are thrown away unseen.
        born.folders.recover(self.disk.durable((shard, born.peer)).truncated.index);
        born.hurt = match log {
            true => self.disk.spoil((shard, born.peer), &mut env.rng),
            false => born.folders.store().spoil(&mut env.rng),
        };
        born.hurt
    }

    /// What a starting node reads of what members there should be may be old.
    fn forget_views(&self, env: &mut Env) {
        for shard in 1..=env.plan.shards {
            let newest = env.meta.newest(shard).version;
            if newest > 1 && !env.calm && env.once_in(4) {
                let version = env.within((1, newest));
                env.meta.forget(self.node, shard, version);
                let (node, view) = (self.node, env.meta.truth(shard));
                let delay_ms = super::meta::delay(env);
                env.after(delay_ms, Event::Learn { node, shard, view });
            }
        }
    }

    /// Moves the wall clock.
    pub fn set_wall_offset(&mut self, ms: i64) {
        self.wall_offset_ms = ms;
    }

    fn mono_ms(&self, now_ms: u64) -> u64 {
        let passed = (now_ms - self.started_ms) as i64;
        let drifted = passed + passed * self.drift_ppm / 1_000_000;
        MONO_START_MS + drifted.max(0) as u64
    }

    fn wall_ms(&self, now_ms: u64) -> u64 {
        ((EPOCH_MS + now_ms) as i64 + self.wall_offset_ms) as u64
    }

    /// Starts the process on what is on disk.
    pub fn start(&mut self, env: &mut Env, watch: &mut Watch) -> Check {
        self.incarnation += 1;
        self.started_ms = env.now_ms;
        self.forget_views(env);
        let mut groups = BTreeMap::new();
        let mut writer = LogWriter::default();
        let (mono_ms, wall_ms) = (self.mono_ms(env.now_ms), self.wall_ms(env.now_ms));
        for (&shard, born) in &mut self.replicas {
            let mut around = Around {
                mono_ms,
                wall_ms,
                env,
                watch,
                disk: &mut self.disk,
                writer: &mut writer,
                node: self.node,
                incarnation: self.incarnation,
            };
            if let Some(group) = open(&mut around, shard, born)? {
                groups.insert(shard, group);
            }
        }
        let offset_ms = env.within((0, env.plan.tick_ms));
        self.process = Some(Process {
            groups,
            writer,
            messages: VecDeque::new(),
            persisted: Vec::new(),
            flushed: Vec::new(),
            copies: Vec::new(),
            held: Vec::new(),
            work: VecDeque::new(),
            unreachable: Vec::new(),
            next_tick_ms: MONO_START_MS + offset_ms,
            manage_ms: MONO_START_MS,
            planned_ms: u64::MAX,
        });
        self.plan_run(env, offset_ms);
        Ok(())
    }

    /// Ends the process at once. What was not synced or flushed is lost.
    pub fn crash(&mut self, env: &mut Env) -> Check {
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        self.paused_until_ms = None;
        let (survived, lost) = process.writer.crash(env, &mut self.disk)?;
        self.replicas.values_mut().for_each(|born| born.folders.crash());
        env.note(Note::Crash { node: self.node, survived, lost });
        Ok(())
    }

    /// Stops the process by a signal.
    pub fn pause(&mut self, env: &mut Env, ms: u64) {
        if self.process.is_some() && self.paused_until_ms.is_none() {
            self.paused_since_ms = env.now_ms;
            self.paused_until_ms = Some(env.now_ms + ms);
        }
    }

    /// Lets the process go on.
    pub fn resume(&mut self, env: &mut Env, watch: &mut Watch) {
        if self.paused_until_ms.take().is_none() {
            return;
        }
        let paused_ms = env.now_ms - self.paused_since_ms;
        if paused_ms > PAUSE_COUNTED_MS {
            watch.paused(self.node, paused_ms);
        }
        if let Some(process) = &mut self.process {
            process.planned_ms = u64::MAX;
        }
        self.plan_run(env, 0);
    }

    /// Lets the reactor run in so long, unless it runs before.
    fn plan_run(&mut self, env: &mut Env, delay_ms: u64) {
        let Some(process) = &mut self.process else {
            return;
        };
        let planned_ms = env.now_ms + delay_ms;
        if planned_ms < process.planned_ms {
            process.planned_ms = planned_ms;
            let event = Event::Reactor { node: self.node, incarnation: self.incarnation, planned_ms };
            env.after(delay_ms, event);
        }
    }

    fn wake(&mut self, env: &mut Env) {
        let span = env.plan.reaction_ms;
        let delay_ms = env.within(span);
        self.plan_run(env, delay_ms);
    }

    /// A message of Raft arrives.
    pub fn message(&mut self, env: &mut Env, shard: u16, bytes: Bytes) -> Check {
        let Ok(message) = wire::decode_message(bytes) else {
            return Violation::new("messages decode", format!("node {}", self.node));
        };
        if let Some(process) = &mut self.process
            && process.messages.len() < MESSAGES_MAX
        {
            process.messages.push_back((shard, message));
            self.wake(env);
        }
        Ok(())
    }

    /// A node cannot be reached from here.
    pub fn unreachable(&mut self, env: &mut Env, node: usize) {
        if let Some(process) = &mut self.process {
            process.unreachable.push(node);
            self.wake(env);
        }
    }

    /// A write of the log has ended.
    pub fn synced(&mut self, env: &mut Env, incarnation: u32) -> Check {
        if incarnation != self.incarnation {
            return Ok(());
        }
        if let Some(until_ms) = self.paused_until_ms {
            let node = self.node;
            let delay_ms = until_ms.saturating_sub(env.now_ms) + 1;
            env.after(delay_ms, Event::Synced { node, incarnation });
            return Ok(());
        }
        if std::mem::take(&mut self.disk.fails) {
            // Law 1: a write that fails ends the process.
            env.cover.count("faults: sync failed");
            self.crash(env)?;
            let delay_ms = env.within((100, 3_000));
            env.after(delay_ms, Event::Mend(super::event::Mend::Start(self.node)));
            return Ok(());
        }
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        let numbers = process.writer.synced(env, &mut self.disk, self.node, incarnation)?;
        process.persisted.extend(numbers);
        self.wake(env);
        Ok(())
    }

    /// A flush of a replica's state has ended.
    pub fn flushed(&mut self, env: &mut Env, incarnation: u32, key: Key, folder: u64, upto: u64) {
        if incarnation != self.incarnation || self.process.is_none() {
            return;
        }
        let Some(born) = self.replicas.get_mut(&key.0).filter(|born| born.peer == key.1) else {
            return;
        };
        if born.folders.used() != folder {
            return;
        }
        let index = born.folders.store().flush(upto);
        let node = self.node;
        env.note(Note::Flushed { node, shard: key.0, index });
        if let Some(process) = &mut self.process {
            process.flushed.push((key, index));
        }
        self.wake(env);
    }

    /// The node of a leader has read what members the shard should have.
    pub fn learned(&mut self, shard: u16, term: u64) {
        let process = self.process.as_mut();
        if let Some(group) = process.and_then(|process| process.groups.get_mut(&shard)) {
            group.learned_in(term);
        }
    }

    /// A copy of a leader's state arrives.
    pub fn copy(&mut self, env: &mut Env, shard: u16, copy: Copy) {
        if let Some(process) = &mut self.process {
            process.copies.push((shard, copy));
            self.wake(env);
        }
    }

    /// A follower says that it holds a copy.
    pub fn held(&mut self, env: &mut Env, shard: u16, held: Held) {
        if let Some(process) = &mut self.process {
            process.held.push((shard, held));
            self.wake(env);
        }
    }

    /// A leader's word how far all replicas of a shard are.
    pub fn matched(&mut self, shard: u16, matched: u64) {
        let process = self.process.as_mut();
        if let Some(group) = process.and_then(|process| process.groups.get_mut(&shard)) {
            group.told_matched(matched);
        }
    }

    /// A client's request arrives: a thread of the node looks at it, and hands it to the reactor, soon or late.
    pub fn request(&mut self, env: &mut Env, request: Request) -> Check {
        if self.is_paused() {
            // Nobody accepts it; the client will give up.
            return Ok(());
        }
        let Some(process) = &mut self.process else {
            send_answer(env, self.node, request.client, request.id, Answer::Down);
            return Ok(());
        };
        let Some(group) = process.groups.get_mut(&request.shard) else {
            let (wish, _) = env.meta.view(self.node, request.shard);
            let member = wish.members.voters.iter().copied().choose(&mut env.rng).map(super::node_of);
            send_answer(env, self.node, request.client, request.id, Answer::NotLeader(member));
            return Ok(());
        };
        let popped = group.prepare(env, &request)?;
        if matches!(request.ask, Ask::Lease { .. }) && popped.is_empty() && group.core().serves() {
            let none = moso_queue::command::Reply::Leased(Vec::new());
            let answer = Answer::Reply(none);
            send_answer(env, self.node, request.client, request.id, answer);
            return Ok(());
        }
        let delay_ms = if !env.calm && env.once_in(50) { env.within((1, 3_000)) } else { 0 };
        let event = Event::Work { node: self.node, incarnation: self.incarnation, work: Work { request, popped } };
        env.after(delay_ms, event);
        Ok(())
    }

    /// A prepared request reaches the reactor.
    pub fn work(&mut self, env: &mut Env, incarnation: u32, work: Work) {
        if incarnation != self.incarnation {
            return;
        }
        if let Some(process) = &mut self.process {
            process.work.push_back(work);
            self.wake(env);
        }
    }

    /// Hands a shard's leadership to another node.
    pub fn transfer(&mut self, env: &mut Env, watch: &mut Watch, shard: u16, to: usize) -> bool {
        let process = self.process.as_mut();
        let group = process.and_then(|process| process.groups.get_mut(&shard));
        let begun = group.is_some_and(|group| group.transfer(to));
        if begun {
            watch.disturbed(env.now_ms);
            self.wake(env);
        }
        begun
    }

    /// The reactor runs: takes mail and requests, ticks, lets its shards take their turns.
    pub fn run(&mut self, env: &mut Env, watch: &mut Watch, incarnation: u32, planned_ms: u64) -> Check {
        if incarnation != self.incarnation || self.is_paused() {
            return Ok(());
        }
        let (mono_ms, wall_ms) = (self.mono_ms(env.now_ms), self.wall_ms(env.now_ms));
        let Some(process) = self.process.as_mut() else {
            return Ok(());
        };
        if process.planned_ms != planned_ms {
            return Ok(());
        }
        process.planned_ms = u64::MAX;
        let mut around = Around {
            env,
            watch,
            disk: &mut self.disk,
            writer: &mut process.writer,
            node: self.node,
            incarnation,
            mono_ms,
            wall_ms,
        };
        let mut inbox = Inbox {
            messages: &mut process.messages,
            persisted: &mut process.persisted,
            flushed: &mut process.flushed,
            copies: &mut process.copies,
            held: &mut process.held,
            work: &mut process.work,
            unreachable: &mut process.unreachable,
        };
        inbox.take(&mut around, &mut process.groups, &mut self.replicas)?;
        if mono_ms >= process.manage_ms {
            process.manage_ms = mono_ms + around.env.within((500, 1_500));
            let mut manager = Manager {
                replicas: &mut self.replicas,
                newest: &mut self.newest,
                disk_number: self.disk_number,
                groups: &mut process.groups,
            };
            manager.manage(&mut around)?;
        }
        let ticks = mono_ms >= process.next_tick_ms;
        if ticks {
            process.next_tick_ms = mono_ms + around.env.plan.tick_ms;
        }
        for (shard, group) in &mut process.groups {
            let born = self.replicas.get_mut(shard).expect("it runs");
            if ticks {
                group.tick(&mut around, &mut born.folders)?;
            }
            group.turn(&mut around, &mut born.folders)?;
        }
        let (messages, next_tick_ms) = (&process.messages, process.next_tick_ms);
        let sleep_ms = if messages.is_empty() {
            // A fast clock is early by less than this.
            next_tick_ms.saturating_sub(mono_ms) + 1
        } else {
            0
        };
        self.plan_run(env, sleep_ms);
        Ok(())
    }
}

/// What waits at a reactor.
struct Inbox<'a> {
    messages: &'a mut VecDeque<(u16, Message)>,
    persisted: &'a mut Vec<(Key, u64)>,
    flushed: &'a mut Vec<(Key, u64)>,
    copies: &'a mut Vec<(u16, Copy)>,
    held: &'a mut Vec<(u16, Held)>,
    work: &'a mut VecDeque<Work>,
    unreachable: &'a mut Vec<usize>,
}

impl Inbox<'_> {
    fn take(
        &mut self,
        around: &mut Around<'_>,
        groups: &mut BTreeMap<u16, Group>,
        replicas: &mut BTreeMap<u16, Born>,
    ) -> Check {
        for (key, number) in self.persisted.drain(..) {
            if let Some(group) = groups.get_mut(&key.0).filter(|group| group.key() == key) {
                let born = replicas.get_mut(&key.0).expect("it runs");
                group.persisted(around.disk, &mut born.folders, number)?;
            }
        }
        // Copies come beside the messages, before or after them.
        let copies_first = around.env.once_in(2);
        if copies_first {
            self.take_copies(around, groups, replicas)?;
        }
        let taken = self.messages.len().min(MESSAGES_PER_RUN);
        for (shard, message) in self.messages.drain(..taken) {
            if let Some(group) = groups.get_mut(&shard) {
                group.step(around.env, around.node, message)?;
            }
        }
        if !copies_first {
            self.take_copies(around, groups, replicas)?;
        }
        for (key, durable) in self.flushed.drain(..) {
            if let Some(group) = groups.get_mut(&key.0).filter(|group| group.key() == key)
                && let Some(matched) = group.flushed(around, durable)
            {
                tell_matched(around.env, around.node, key.0, matched);
            }
        }
        for node in self.unreachable.drain(..) {
            groups.values_mut().for_each(|group| group.report_unreachable(node));
        }
        for work in self.work.drain(..) {
            if let Some(group) = groups.get_mut(&work.request.shard) {
                group.take(around, work)?;
            }
        }
        Ok(())
    }

    fn take_copies(
        &mut self,
        around: &mut Around<'_>,
        groups: &mut BTreeMap<u16, Group>,
        replicas: &mut BTreeMap<u16, Born>,
    ) -> Check {
        for (shard, copy) in self.copies.drain(..) {
            if let Some(group) = groups.get_mut(&shard) {
                let born = replicas.get_mut(&shard).expect("it runs");
                group.receive(around, &mut born.folders, &copy)?;
            }
        }
        for (shard, held) in self.held.drain(..) {
            if let Some(group) = groups.get_mut(&shard) {
                group.held(around.env, around.node, held);
            }
        }
        Ok(())
    }
}

/// Tells all other nodes how far the replicas of a shard are.
fn tell_matched(env: &mut Env, node: usize, shard: u16, matched: u64) {
    for to in (0..env.plan.nodes).filter(|to| *to != node) {
        if env.net.passes(node, to)
            && let Some(delay_ms) = client_delay(env, to)
        {
            env.after(delay_ms, Event::Matched { to, shard, matched });
        }
    }
}
