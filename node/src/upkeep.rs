//! Periodic work of a reactor beside Raft: flushes of the state, cuts of the log, leaderships back to where they
//! belong.

use crate::directory::Directory;
use crate::group::{Group, node_of};
use crate::log_writer::{LogTask, LogWriter};
use crate::reactor::Mailbox;
use crate::store::log::{RaftLog, RocksLog};
use crate::store::state::StateStore;
use crossbeam::channel::{Sender, bounded};
use moso_proto::setting;
use moso_queue::meta::MetaView;
use moso_shard::core::Policy;
use moso_shard::leases::ExpiryPolicy;
use moso_shard::timeouts::TimeoutTable;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A shard's state is flushed once so many bytes were applied since the last flush: this much log is applied again
/// after a crash, about a second's work.
const FLUSH_BYTES: u64 = 24 << 20;
/// Or after this time, if anything was applied, ms.
const FLUSH_MS: u64 = 300_000;
/// Entries kept in the log beyond what every replica has, so that a short restart needs no more than the log.
const KEEP_ENTRIES: u64 = 64;
/// The log is cut when at least so many entries can go.
const CUT_ENTRIES_MIN: u64 = 256;
/// How often a leader looks whether its preferred node could lead, ms.
const BALANCE_MS: u64 = 5_000;
/// Entries that the preferred node may lack.
const BALANCE_LAG_MAX: u64 = 64;

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
    pub fn start(mailboxes: Vec<Arc<Mailbox>>) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (tasks, inbox) = bounded::<FlushTask>(4_096);
        let thread = std::thread::Builder::new().name("flusher".into()).spawn(move || {
            let _guard = crate::fault::AbortOnPanic;
            while let Ok(task) = inbox.recv() {
                let dropped = task.store.drop_ended_before(task.keep_from_day);
                let durable = dropped.and_then(|()| task.store.flush()).and_then(|()| task.store.durable_applied());
                match durable {
                    Ok(applied) => {
                        let mailbox = &mailboxes[usize::from(task.shard) % mailboxes.len()];
                        mailbox.flushed(task.shard, applied.map_or(0, |a| a.index));
                    }
                    Err(error) => {
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
    balanced_ms: u64,
}

/// A reactor's upkeep of its shards.
pub struct Upkeep {
    flusher: Flusher,
    log: Arc<RocksLog>,
    writer: LogWriter,
    shards: BTreeMap<u16, ShardUpkeep>,
    peers: Arc<crate::peer::Peers>,
}

impl Upkeep {
    /// Flushes through `flusher`, cuts `log` through `writer`.
    pub fn new(flusher: Flusher, log: Arc<RocksLog>, writer: LogWriter, peers: Arc<crate::peer::Peers>) -> Self {
        Upkeep { flusher, log, writer, shards: BTreeMap::new(), peers }
    }

    /// Called every tick for each shard.
    pub fn tick(&mut self, group: &mut Group, directory: &Directory, shard: u16, now_ms: u64) {
        let entry = self.shards.entry(shard).or_insert_with(|| ShardUpkeep {
            flushed_ms: now_ms,
            balanced_ms: now_ms,
            ..ShardUpkeep::default()
        });
        let old = group.unflushed_bytes > 0 && now_ms >= entry.flushed_ms + FLUSH_MS;
        if !entry.flushing && (group.unflushed_bytes >= FLUSH_BYTES || old) {
            let keep_from_day = keep_from_day(directory, group);
            let task = FlushTask { shard, store: group.store().clone(), keep_from_day };
            if self.flusher.tasks.try_send(task).is_ok() {
                entry.flushing = true;
                entry.flushed_ms = now_ms;
                group.unflushed_bytes = 0;
            }
        }
        if now_ms >= entry.balanced_ms + BALANCE_MS {
            entry.balanced_ms = now_ms;
            self.balance(group, directory, shard);
        }
    }

    /// The node stops: its leaderships go.
    pub fn give_away(&self, group: &mut Group) {
        crate::reactor::give_away(group.core().replica());
    }

    /// Gives the leadership to the shard's preferred node once that one is up and has the log.
    fn balance(&self, group: &mut Group, directory: &Directory, shard: u16) {
        let Some(&preferred) = directory.shard(shard).and_then(|s| s.replicas.first()) else { return };
        if preferred == directory.node || !group.core().serves() || !self.peers.is_up(preferred) {
            return;
        }
        let replica = group.core().replica();
        let ready = replica
            .progress()
            .into_iter()
            .find(|p| node_of(p.peer) == preferred && p.active && p.lag <= BALANCE_LAG_MAX);
        if let Some(peer) = ready {
            let _ = replica.transfer_leader(peer.peer);
        }
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
