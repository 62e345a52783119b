//! What a shard on its reactor remembers of copies: those it has sent for, the one that may take its state's place, and
//! the store that was replaced.

use super::sender::{News, Sender};
use crate::store::state::StateStore;
use moso_queue::Machine;
use moso_queue::meta::MetaMachine;
use moso_shard::{Append, Position, Replica};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A copy that no snapshot asked for within this time is dropped: the leader that sent it is gone.
const KEPT: Duration = Duration::from_secs(120);

/// A follower to which no copy could be brought gets none for so long: each costs a flush of the state here.
const PAUSE: Duration = Duration::from_secs(5);

/// What a copy holds.
pub enum Loaded {
    /// Of a data shard.
    Data(Box<Machine>),
    /// Of the meta group.
    Meta(Box<MetaMachine>),
}

/// A copy, ready to take a state's place.
pub struct Prepared {
    /// Its store.
    pub store: Arc<StateStore>,
    /// The machine loaded from it.
    pub machine: Loaded,
    /// Up to where the log is applied in it.
    pub at: Position,
}

/// Indexes from which on the log is kept for replicas that lack it, and no further back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floors {
    /// For replicas that lag.
    pub laggards: u64,
    /// For those that get a copy.
    pub copies: u64,
}

/// Copies of a shard.
#[derive(Default)]
pub struct Standby {
    /// Copies on their way to followers; with the index from which on they need the log.
    sending: BTreeMap<u64, Option<u64>>,
    /// When a copy for a follower failed.
    failed: BTreeMap<u64, Instant>,
    /// The store of the copy that may take this one's place.
    prepared: Option<(Arc<StateStore>, Instant)>,
    /// The store that was replaced, and the number of the append with which that is on disk.
    replaced: Option<(Arc<StateStore>, u64)>,
}

impl Standby {
    /// Sends copies to the followers that lack what was cut off. Called from time to time.
    pub fn send(&mut self, shard: u16, replica: &mut Replica, store: &Arc<StateStore>, sender: &Arc<Sender>) {
        self.failed.retain(|_, since| since.elapsed() < PAUSE);
        for peer in replica.take_snapshots_wanted().into_iter().filter(|peer| !self.failed.contains_key(peer)) {
            if let Entry::Vacant(place) = self.sending.entry(peer) {
                place.insert(None);
                sender.begin(shard, peer, store.clone());
            }
        }
    }

    /// What became of a copy.
    pub fn news(&mut self, replica: &mut Replica, news: News) {
        match news {
            News::Made(peer, index) => drop(self.sending.insert(peer, Some(index))),
            News::Failed(peer) => {
                self.sending.remove(&peer);
                self.failed.insert(peer, Instant::now());
            }
            News::Copied(copied) => {
                self.sending.remove(&copied.peer);
                replica.stage_snapshot(copied.peer, copied.at, copied.members);
            }
        }
    }

    /// The lowest index that copies under way or not yet taken over need the log from.
    pub fn needed(&self, replica: &Replica) -> Option<u64> {
        let sending = self.sending.values().flatten().copied();
        let staged = replica.progress().into_iter().filter_map(|peer| replica.staged_snapshot(peer.peer));
        sending.chain(staged).min()
    }

    /// Index up to which the log may be cut: every replica has it on disk, or lacks so much that it gets a copy instead.
    /// What copies under way need stays, within a bound too. `None` unless the replica leads.
    pub fn cut_to(&self, replica: &Replica, floors: Floors) -> Option<u64> {
        let matched = replica.matched_by_all()?;
        let needed = self.needed(replica).map_or(u64::MAX, |needed| needed.max(floors.copies));
        Some(matched.max(floors.laggards).min(needed))
    }

    /// A copy's store, kept until its snapshot comes.
    pub fn keep(&mut self, store: Arc<StateStore>) {
        if let Some((old, _)) = self.prepared.replace((store, Instant::now())) {
            remove(old);
        }
    }

    /// Whether there is a copy that nobody asked for in time.
    pub fn is_old(&self) -> bool {
        self.prepared.as_ref().is_some_and(|(_, since)| since.elapsed() > KEPT)
    }

    /// Drops the copy, which the core has given up.
    pub fn drop_copy(&mut self) {
        self.prepared.take().into_iter().for_each(|(store, _)| remove(store));
    }

    /// The copy takes the place of `store`, which is removed once that is on disk.
    pub fn swap(&mut self, store: &mut Arc<StateStore>, appends: &[Append]) {
        let (copy, _) = self.prepared.take().expect("a copy was prepared before its snapshot was taken");
        let old = std::mem::replace(store, copy);
        let number = appends.iter().rev().find(|append| append.restart.is_some()).map(|append| append.number);
        let number = number.expect("a snapshot comes with the append that begins the log anew");
        if let Some((older, _)) = self.replaced.replace((old, number)) {
            // It was replaced by a copy that is replaced now, before that was on disk: a start may still need it, and
            // will remove it.
            drop(older);
        }
    }

    /// Appends up to this number are on disk.
    pub fn persisted(&mut self, number: u64) {
        if self.replaced.as_ref().is_some_and(|(_, with)| *with <= number)
            && let Some((store, _)) = self.replaced.take()
        {
            remove(store);
        }
    }

    /// The replica is gone: so are its copies.
    pub fn clear(&mut self) {
        self.prepared.take().into_iter().for_each(|(store, _)| remove(store));
        self.replaced.take().into_iter().for_each(|(store, _)| remove(store));
    }
}

/// Removes a store's folder once nobody reads it any more. If that fails, the next start does it.
pub fn remove(store: Arc<StateStore>) {
    let wait_and_remove = move || {
        let dir = store.dir().to_owned();
        let mut store = store;
        loop {
            match Arc::try_unwrap(store) {
                Ok(last) => break drop(last),
                Err(shared) => store = shared,
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if let Err(error) = std::fs::remove_dir_all(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "a state that is not needed could not be removed");
        }
    };
    let thread = std::thread::Builder::new().name("remover".into()).spawn(wait_and_remove);
    if let Err(error) = thread {
        tracing::warn!(%error, "a state that is not needed is left for the next start");
    }
}
