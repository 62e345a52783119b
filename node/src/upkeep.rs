//! Periodic work of a reactor beside Raft: flushes of the state, cuts of the log, leaderships back to where they
//! belong.

use crate::directory::Directory;
use crate::disk::Disk;
use crate::error::Error;
use crate::group::{Group, node_of};
use crate::log_writer::{LogTask, LogWriter};
use crate::meta_group::MetaGroup;
use crate::reactor::{Mailbox, reactor_of};
use crate::snapshot::sender::Sender as CopySender;
use crate::snapshot::standby::Floors;
use crate::store::log::{RaftLog, SegmentLog};
use crate::store::state::StateStore;
use crossbeam::channel::{Sender, bounded};
use moso_proto::setting;
use moso_queue::meta::MetaView;
use moso_shard::Replica;
use moso_shard::core::Policy;
use moso_shard::leases::ExpiryPolicy;
use moso_shard::members::Members;
use moso_shard::timeouts::TimeoutTable;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A shard's state is flushed once so many bytes of log were applied since the last flush: this much is kept in the log
/// for it, and applied again after a crash, about a second's work.
const FLUSH_BYTES: u64 = 24 << 20;
/// Or after this time, if anything was applied, ms.
const FLUSH_MS: u64 = 300_000;
/// Entries kept in the log beyond what every replica has, so that a short restart needs no more than the log.
const KEEP_ENTRIES: u64 = 64;
/// The log is cut when at least so many entries can go.
const CUT_ENTRIES_MIN: u64 = 256;
/// Log kept for replicas to which a copy is on its way, in times of what is kept for those that lag: as much as may come
/// while it is copied.
const COPY_KEEPS: u64 = 4;
/// How often copies are looked after, and members are brought to what they should be, ms.
const TEND_MS: u64 = 500;
/// How often a leader looks whether its preferred node could lead, ms.
const BALANCE_MS: u64 = 5_000;
/// How soon it looks again if that node lacked too much: under load a moment when it does not is soon found.
const BALANCE_AGAIN_MS: u64 = 500;
/// How often the preferred node of a shard without a leader campaigns, ms.
const CAMPAIGN_MS: u64 = 500;

/// What a flush is asked of.
struct FlushTask {
    shard: u16,
    store: Arc<StateStore>,
    /// Ended jobs of earlier days than this are dropped.
    keep_from_day: u16,
}

/// Background flushes, one thread for all shards of a node.
#[derive(Clone)]
pub struct Flusher {
    tasks: Sender<FlushTask>,
}

impl Flusher {
    /// Starts the thread. It ends when all handles are dropped.
    pub fn start(
        mailboxes: Vec<Arc<Mailbox>>,
        disk: Arc<Disk>,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (tasks, inbox) = bounded::<FlushTask>(4_096);
        let thread = std::thread::Builder::new().name("flusher".into()).spawn(move || {
            let _guard = crate::fault::AbortOnPanic;
            while let Ok(task) = inbox.recv() {
                let flush = || {
                    task.store.drop_ended_before(task.keep_from_day)?;
                    task.store.flush()?;
                    task.store.durable_applied()
                };
                match disk.while_full(flush) {
                    // The node stops: the log holds what was not flushed.
                    Err(error) if error.is_no_space() => {}
                    Ok(applied) => {
                        let mailbox = &mailboxes[reactor_of(task.shard, mailboxes.len())];
                        mailbox.flushed(task.shard, applied.map_or(0, |a| a.index));
                    }
                    Err(error) => {
                        crate::salvage::write_down(disk.folder(), disk.node(), &error);
                        tracing::error!(shard = task.shard, %error, "the state could not be flushed: this node ends");
                        std::process::abort();
                    }
                }
            }
        })?;
        Ok((Flusher { tasks }, thread))
    }
}

/// Entries of the meta group's log: it is flushed when so many have gathered, and keeps so many for replicas that lag.
const META_FLUSH_ENTRIES: u64 = 1_024;
const META_KEEP_ENTRIES: u64 = 4_096;
/// How often at most the meta group is flushed, ms.
const META_FLUSH_MS: u64 = 10_000;

#[derive(Default)]
struct ShardUpkeep {
    flushing: bool,
    flushed_ms: u64,
    /// Bytes that the flush under way covers.
    flushing_bytes: u64,
    /// Durable applied index after each of the last flushes, and the bytes of log that led to it.
    flushes: VecDeque<(u64, u64)>,
    tend_at_ms: u64,
    balance_at_ms: u64,
    campaign_at_ms: u64,
}

impl ShardUpkeep {
    /// Remembers a flush; returns from where on the log is kept at most.
    fn flush_ended(&mut self, durable: u64, keep_bytes: u64) -> Floors {
        self.flushing = false;
        self.flushes.push_back((durable, std::mem::take(&mut self.flushing_bytes)));
        if self.flushes.len() > FLUSHES_MAX
            && let Some((_, bytes)) = self.flushes.pop_front()
            && let Some(oldest) = self.flushes.front_mut()
        {
            oldest.1 += bytes;
        }
        Floors { laggards: self.floor(keep_bytes), copies: self.floor(COPY_KEEPS * keep_bytes) }
    }

    /// The lowest index with at most so many bytes of log behind it, as far as the flushes tell.
    fn floor(&self, most: u64) -> u64 {
        let mut bytes = 0;
        for (index, led_to) in self.flushes.iter().rev() {
            bytes += led_to;
            if bytes > most {
                return *index;
            }
        }
        0
    }
}

/// Flushes remembered; the oldest ones count as one.
const FLUSHES_MAX: usize = 256;

/// A reactor's upkeep of its shards.
pub struct Upkeep {
    flusher: Flusher,
    log: Arc<SegmentLog>,
    writer: LogWriter,
    shards: BTreeMap<u16, ShardUpkeep>,
    peers: Arc<crate::peer::Peers>,
    sender: Arc<CopySender>,
    /// Log kept for replicas that lag, bytes of each shard.
    keep_bytes: u64,
}

impl Upkeep {
    /// Flushes through `flusher`, cuts `log` through `writer`.
    pub fn new(
        flusher: Flusher,
        log: Arc<SegmentLog>,
        writer: LogWriter,
        peers: Arc<crate::peer::Peers>,
        sender: Arc<CopySender>,
        keep_bytes: u64,
    ) -> Self {
        Upkeep { flusher, log, writer, shards: BTreeMap::new(), peers, sender, keep_bytes }
    }

    /// The log.
    pub fn log(&self) -> &Arc<SegmentLog> {
        &self.log
    }

    /// A shard's replica is gone.
    pub fn forget(&mut self, shard: u16) {
        self.shards.remove(&shard);
    }

    /// Called every tick for each shard.
    ///
    /// # Errors
    /// The state could not be written.
    pub fn tick(&mut self, group: &mut Group, directory: &Directory, shard: u16, now_ms: u64) -> Result<(), Error> {
        let entry = self.shards.entry(shard).or_insert_with(|| ShardUpkeep {
            flushed_ms: now_ms,
            balance_at_ms: now_ms + BALANCE_MS,
            ..ShardUpkeep::default()
        });
        let old = group.unflushed_bytes() > 0 && now_ms >= entry.flushed_ms + FLUSH_MS;
        if !entry.flushing && (group.unflushed_bytes() >= FLUSH_BYTES.min(self.keep_bytes) || old) {
            match group.write_state() {
                Err(error) if error.is_no_space() => return Ok(()),
                result => result?,
            }
            let keep_from_day = keep_from_day(directory, group);
            let task = FlushTask { shard, store: group.store().clone(), keep_from_day };
            if self.flusher.tasks.try_send(task).is_ok() {
                entry.flushing = true;
                entry.flushed_ms = now_ms;
                entry.flushing_bytes = group.unflushed_bytes();
                group.flush_begun();
            }
        }
        if now_ms >= entry.tend_at_ms {
            entry.tend_at_ms = now_ms + TEND_MS;
            group.tend_copies(&self.sender);
            let meta = directory.meta.load();
            if meta.version() > 0 {
                let voters = meta.shards().wanted(shard).into_iter().collect();
                group.reconcile(&Members { voters, ..Members::default() }, meta.version());
            }
        }
        let entry = self.shards.entry(shard).or_default();
        if now_ms >= entry.balance_at_ms {
            let done = self.balance(group, directory, shard);
            let entry = self.shards.entry(shard).or_default();
            entry.balance_at_ms = now_ms + if done { BALANCE_MS } else { BALANCE_AGAIN_MS };
        }
        if let Some(preferred) = directory.shard(shard).map(|slot| slot.preferred())
            && !directory.is_draining(directory.node)
        {
            self.lead_if_nobody_does(group.core().replica(), shard, preferred, directory.node, now_ms);
        }
        Ok(())
    }

    /// The preferred node of a shard without a leader campaigns once it reaches a majority, so that a cluster that
    /// starts has leaders, where they belong, long before election timeouts run out. The others' timeouts run on.
    pub fn lead_if_nobody_does(&mut self, replica: &mut Replica, shard: u16, preferred: u32, own: u32, now_ms: u64) {
        if own != preferred || replica.leader().is_some() {
            return;
        }
        let entry = self.shards.entry(shard).or_default();
        let voters = replica.conf_state().voters;
        let up = voters.iter().filter(|&&peer| node_of(peer) == own || self.peers.is_connected(node_of(peer))).count();
        if now_ms >= entry.campaign_at_ms && up > voters.len() / 2 {
            entry.campaign_at_ms = now_ms + CAMPAIGN_MS;
            // Not now, if entries wait for the disk: a tick later then.
            let _ = replica.campaign();
        }
    }

    /// The node stops, or its disk is full or hangs: its leaderships go.
    pub fn give_away(&self, group: &mut Group, directory: &Directory, now_ms: u64) {
        crate::reactor::give_away(group.core().replica(), directory, now_ms);
    }

    /// Gives the leadership to the shard's preferred node once that one is up and has the log; `false` if it lacks too
    /// much of it at the moment.
    fn balance(&self, group: &mut Group, directory: &Directory, shard: u16) -> bool {
        let Some(preferred) = directory.shard(shard).map(|slot| slot.preferred()) else { return true };
        let able = self.peers.is_up(preferred) && !directory.is_draining(preferred);
        if preferred == directory.node || !group.core().serves() || !able {
            return true;
        }
        let replica = group.core().replica();
        let peer = replica.progress().into_iter().find(|p| node_of(p.peer) == preferred);
        peer.is_none_or(|peer| replica.transfer_leader(peer.peer).is_ok())
    }

    /// A flush has ended: the log below may go, as far as every replica has it on disk or lacks so much that it gets a copy.
    pub fn flushed(&mut self, group: &mut Group, directory: &Directory, shard: u16, durable: u64) {
        let floors =
            self.shards.get_mut(&shard).map(|entry| entry.flush_ended(durable, self.keep_bytes)).unwrap_or_default();
        let told = directory.shard(shard).map_or(0, |s| s.matched.load(Ordering::Relaxed));
        // The leader's own disk counts too: entries that it sent and has not synced may be gone after a crash.
        let cut_to = group.cut_to(floors).unwrap_or(told.max(floors.laggards));
        self.cut(group.core().replica(), shard, durable, cut_to);
    }

    /// As [`Upkeep::flushed`], for the meta group, which is small.
    pub fn meta_flushed(&mut self, meta: &mut MetaGroup, durable: u64) {
        let entry = self.shards.entry(0).or_default();
        entry.flush_ended(durable, self.keep_bytes);
        let floor = durable.saturating_sub(META_KEEP_ENTRIES);
        let cut_to = meta.cut_to(Floors { laggards: floor, copies: floor.saturating_sub(META_KEEP_ENTRIES) });
        self.cut(meta.core().replica(), 0, durable, cut_to.unwrap_or(floor));
    }

    /// Periodic work of the meta group.
    pub fn meta_tick(&mut self, meta: &mut MetaGroup, directory: &Directory, now_ms: u64) {
        let entry = self.shards.entry(0).or_default();
        if now_ms >= entry.tend_at_ms {
            entry.tend_at_ms = now_ms + TEND_MS;
            meta.tend(&self.sender, directory);
        }
        let replica = meta.core().replica();
        let entries = replica.applied_index().saturating_sub(replica.first_index());
        let due = entries >= META_FLUSH_ENTRIES && now_ms >= entry.flushed_ms + META_FLUSH_MS;
        if due && !entry.flushing {
            let task = FlushTask { shard: 0, store: meta.store().clone(), keep_from_day: 0 };
            if self.flusher.tasks.try_send(task).is_ok() {
                (entry.flushing, entry.flushed_ms) = (true, now_ms);
            }
        }
    }

    fn cut(&mut self, replica: &mut Replica, shard: u16, durable: u64, cut_to: u64) {
        // A copy that is being taken over is not on disk yet.
        if durable > replica.applied_index() {
            return;
        }
        let cut = durable.min(cut_to).saturating_sub(KEEP_ENTRIES);
        if cut < replica.first_index() + CUT_ENTRIES_MIN {
            return;
        }
        let Ok(term) = self.log.term(shard, cut) else { return };
        replica.truncate_to(cut, durable);
        self.writer.write(LogTask::Cut { shard, index: cut, term });
    }
}

/// The first day whose ended jobs are kept.
fn keep_from_day(directory: &Directory, group: &mut Group) -> u16 {
    const DAY_MS: u64 = 86_400_000;
    let days = directory.meta.load().setting(&setting::ARCHIVE_DAYS);
    (group.core().machine().now_ms() / DAY_MS).saturating_sub(days) as u16
}

/// What the meta group says about time.
pub fn policy(meta: &MetaView) -> Policy {
    Policy {
        expiry: ExpiryPolicy {
            grace_ms: meta.setting(&setting::LEASE_GRACE_MS),
            breaker_percent: meta.setting(&setting::EXPIRY_BREAKER_PERCENT),
        },
        timeouts: Arc::new(TimeoutTable::new(meta.timeouts(), |name| meta.queue(name).map(|q| q.id))),
    }
}
