//! The replicas that live on this node: opened when the shard table gives it one, destroyed when the table takes it away.
//!
//! What is on disk of a replica goes in an order that a crash cannot confuse: the folder of its state is renamed, so that it
//! is never opened again; the log forgets the shard; the folder is removed. A start goes on where that ended.

use crate::config::Config;
use crate::directory::{Directory, Inbox};
use crate::error::Error;
use crate::log_writer::{LogTask, LogWriter};
use crate::open;
use crate::reactor::{Mailbox, reactor_of};
use crate::store::log::{LogState, RaftLog, SegmentLog};
use crate::store::state::StateStore;
use crate::store::{self, Incarnations, SharedRocks};
use moso_proto::shards::node_of;
use moso_queue::meta::MetaView;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Ending of the folder of a replica that is being destroyed.
pub const GONE: &str = "gone";

/// Opens and destroys replicas.
pub struct Residents {
    /// Configuration.
    pub config: Config,
    /// Shared state.
    pub directory: Arc<Directory>,
    /// The reactors' mailboxes.
    pub mailboxes: Vec<Arc<Mailbox>>,
    /// The log.
    pub log: Arc<SegmentLog>,
    /// RocksDB's memory and threads.
    pub shared: Arc<SharedRocks>,
    /// Incarnations that were here.
    pub incarnations: Incarnations,
}

impl Residents {
    /// Brings the replicas here to what the table says; returns the shards whose replica should be here and is not, because
    /// it was damaged or lost: it must be replaced by a new one. Waits for the disk.
    ///
    /// # Errors
    /// A state or the log cannot be opened or written.
    pub fn follow(&self, view: &MetaView) -> Result<Vec<u16>, Error> {
        let mut lost = Vec::new();
        if view.version() == 0 {
            return Ok(lost);
        }
        let table = view.shards();
        if table.replicas.len() != self.directory.shards.len() {
            return Err(Error::Config(vec![format!(
                "shards = {}: the cluster has {}",
                self.directory.shards.len(),
                table.replicas.len()
            )]));
        }
        let mut wanted_here = Vec::new();
        for slot in &self.directory.shards {
            let shard = slot.shard;
            let nodes = &table.replicas[usize::from(shard) - 1];
            if **slot.replicas.load() != *nodes {
                slot.replicas.store(Arc::new(nodes.clone()));
            }
            let wanted = table.wanted(shard).into_iter().find(|&replica| node_of(replica) == self.config.node);
            match (slot.local.load(Ordering::Acquire), wanted) {
                (0, Some(peer)) => wanted_here.push((peer, shard)),
                (0, None) => {}
                (local, _) => {
                    // A view that is older than this replica does not know of it.
                    let known = local as u32 <= table.last_incarnation.max(moso_proto::shards::FOUNDING_INCARNATION);
                    // A new one takes its place here.
                    let replaced = wanted.is_some_and(|wanted| wanted != local);
                    let stays = wanted == Some(local) || !replaced && table.leaving(shard).contains(&local);
                    if known && !stays {
                        let mailbox = &self.mailboxes[reactor_of(shard, self.mailboxes.len())];
                        mailbox.task(Box::new(move |reactor| reactor.retire(shard, local)));
                    }
                }
            }
        }
        // In the order in which they were given, or the first would seem old beside the second.
        wanted_here.sort_unstable();
        for (peer, shard) in wanted_here {
            match self.incarnations.is_new(peer as u32)? {
                true => self.open(shard, peer)?,
                false => lost.push(shard),
            }
        }
        Ok(lost)
    }

    /// A replica that joins: empty, until its leader sends a copy.
    fn open(&self, shard: u16, peer: u64) -> Result<(), Error> {
        // Of a replica that was damaged or lost.
        if self.log.load(shard)? != LogState::none() {
            self.log.remove(shard)?;
        }
        let store = open::open_store(&self.config.data, shard, peer, &self.log, &self.shared)?;
        let group = open::open_group(&self.config, shard, peer, store.clone(), &self.log)?;
        tracing::info!(shard, peer, "a replica joins here");
        let mailbox = &self.mailboxes[reactor_of(shard, self.mailboxes.len())];
        let Some(slot) = self.directory.shard(shard) else { return Ok(()) };
        slot.store.store(Some(store));
        slot.inbox.store(Some(Arc::new(Inbox::new(crate::node::INBOX, mailbox.unparker()))));
        slot.leader.store(0, Ordering::Relaxed);
        slot.local.store(peer, Ordering::Release);
        mailbox.task(Box::new(move |reactor| reactor.add(shard, group)));
        Ok(())
    }
}

/// Removes what is on disk of a replica that has ended, and lets a new one come.
pub fn destroy(
    directory: Arc<Directory>,
    writer: LogWriter,
    log: Arc<SegmentLog>,
    (data, shard, peer): (PathBuf, u16, u64),
    store: Arc<StateStore>,
) {
    let work = move || {
        let dir = store.dir().to_owned();
        let mut store = store;
        while let Err(shared) = Arc::try_unwrap(store) {
            store = shared;
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Err(error) = rename_gone(&dir) {
            tracing::error!(shard, %error, "a replica that is gone cannot be removed: the next start does it");
            return;
        }
        writer.write(LogTask::Remove { shard });
        while log.load(shard).is_ok_and(|held| held.last_index > 0 || held.hard_state.term > 0) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Err(error) = remove_rest(&data, shard, peer, &gone_path(&dir)) {
            tracing::warn!(shard, %error, "a replica's folder is left for the next start");
        }
        tracing::info!(shard, "a replica that was here is gone");
        if let Some(slot) = directory.shard(shard) {
            slot.local.store(0, Ordering::Release);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("remover".into()).spawn(work) {
        tracing::error!(shard, %error, "a replica that is gone is left for the next start");
    }
}

/// What else there is of the replica, copies that were never taken, goes before the folder that says it is gone.
fn remove_rest(data: &Path, shard: u16, peer: u64, gone: &Path) -> Result<(), Error> {
    let io = |error| Error::io(format!("removing {}", gone.display()), error);
    for dir in open::replicas_on_disk(data)?.remove(&(shard, peer)).unwrap_or_default() {
        std::fs::remove_dir_all(dir).map_err(io)?;
    }
    std::fs::remove_dir_all(gone).map_err(io)
}

fn gone_path(dir: &Path) -> PathBuf {
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    dir.with_file_name(format!("{name}.{GONE}"))
}

fn rename_gone(dir: &Path) -> std::io::Result<()> {
    std::fs::rename(dir, gone_path(dir))?;
    match dir.parent() {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Goes on with what was being destroyed when the node ended, and empties the folder of outgoing copies.
///
/// # Errors
/// `Io`; the log cannot be written.
pub fn finish_destroying(data: &Path, log: &SegmentLog) -> Result<(), Error> {
    let outgoing = store::outgoing_dir(data);
    match std::fs::remove_dir_all(&outgoing) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(format!("emptying {}", outgoing.display()), error));
        }
        _ => {}
    }
    let dir = data.join("shards");
    let io = |error| Error::io(format!("reading {}", dir.display()), error);
    let Ok(entries) = std::fs::read_dir(&dir) else { return Ok(()) };
    for entry in entries {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(replica) = name.strip_suffix(&format!(".{GONE}")) else { continue };
        let replica = replica.split_once('.').map_or(replica, |(replica, _)| replica);
        let parsed = replica.split_once('-').and_then(|(s, p)| Some((s.parse::<u16>().ok()?, p.parse::<u64>().ok()?)));
        let Some((shard, peer)) = parsed else { continue };
        // No other replica of the shard comes here before this one is gone.
        log.remove(shard)?;
        remove_rest(data, shard, peer, &entry.path())?;
    }
    Ok(())
}
