//! Periodic work of a reactor beside Raft: flushes of the state, cuts of the log, leaderships back to where they
//! belong.

use crate::directory::Directory;
use crate::disk::Disk;
use crate::error::Error;
use crate::group::{Group, node_of};
use crate::log_writer::{LogTask, LogWriter};
use crate::reactor::{Mailbox, reactor_of};
use crate::store::log::{RaftLog, SegmentLog};
use crate::store::state::StateStore;
use crossbeam::channel::{Sender, bounded};
use moso_proto::setting;
use moso_queue::meta::MetaView;
use moso_shard::Replica;
use moso_shard::core::Policy;
use moso_shard::leases::ExpiryPolicy;
use moso_shard::timeouts::TimeoutTable;
use std::collections::BTreeMap;
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

#[derive(Default)]
struct ShardUpkeep {
    flushing: bool,
    flushed_ms: u64,
    balance_at_ms: u64,
    campaign_at_ms: u64,
}

/// A reactor's upkeep of its shards.
pub struct Upkeep {
    flusher: Flusher,
    log: Arc<SegmentLog>,
    writer: LogWriter,
    shards: BTreeMap<u16, ShardUpkeep>,
    peers: Arc<crate::peer::Peers>,
}

impl Upkeep {
    /// Flushes through `flusher`, cuts `log` through `writer`.
    pub fn new(flusher: Flusher, log: Arc<SegmentLog>, writer: LogWriter, peers: Arc<crate::peer::Peers>) -> Self {
        Upkeep { flusher, log, writer, shards: BTreeMap::new(), peers }
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
        if !entry.flushing && (group.unflushed_bytes() >= FLUSH_BYTES || old) {
            match group.write_state() {
                Err(error) if error.is_no_space() => return Ok(()),
                result => result?,
            }
            let keep_from_day = keep_from_day(directory, group);
            let task = FlushTask { shard, store: group.store().clone(), keep_from_day };
            if self.flusher.tasks.try_send(task).is_ok() {
                entry.flushing = true;
                entry.flushed_ms = now_ms;
                group.flush_begun();
            }
        }
        if now_ms >= entry.balance_at_ms {
            let done = self.balance(group, directory, shard);
            let entry = self.shards.entry(shard).or_default();
            entry.balance_at_ms = now_ms + if done { BALANCE_MS } else { BALANCE_AGAIN_MS };
        }
        if let Some(&preferred) = directory.shard(shard).and_then(|slot| slot.replicas.first())
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
        let Some(&preferred) = directory.shard(shard).and_then(|s| s.replicas.first()) else { return true };
        let able = self.peers.is_up(preferred) && !directory.is_draining(preferred);
        if preferred == directory.node || !group.core().serves() || !able {
            return true;
        }
        let replica = group.core().replica();
        let peer = replica.progress().into_iter().find(|p| node_of(p.peer) == preferred);
        peer.is_none_or(|peer| replica.transfer_leader(peer.peer).is_ok())
    }

    /// A flush has ended: the log below may go, as far as every replica has it on disk, so that none will ever need
    /// what was cut.
    pub fn flushed(&mut self, group: &mut Group, directory: &Directory, shard: u16, durable: u64) {
        if let Some(entry) = self.shards.get_mut(&shard) {
            entry.flushing = false;
        }
        let told = directory.shard(shard).map_or(0, |s| s.matched.load(Ordering::Relaxed));
        let replica = group.core().replica();
        // The leader's own disk counts too: entries that it sent and has not synced may be gone after a crash.
        let matched = replica.matched_by_all().unwrap_or(told);
        let cut = durable.min(matched).saturating_sub(KEEP_ENTRIES);
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
