//! What the rest of a node reads of the meta group: typed, immutable, made anew after a change.

use super::{MetaError, MetaMachine, Object, SHARDS_NAME, SHARE_UNDEFINED, TIMEOUTS_NAME, USER_DEFAULT, check};
use moso_proto::ShardId;
use moso_proto::object::{Node, Queue, QueueState, Setting, ShardTable, Share, Timeouts, User, kind};
use moso_proto::setting::{self, Schema};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A queue with its number.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueEntry {
    /// Number, never used twice.
    pub id: u32,
    /// Name.
    pub name: String,
    /// The operator's words.
    pub queue: Queue,
}

impl QueueEntry {
    /// What the queue does at `now_ms`: its state, or online once `until_ms` has passed.
    pub fn state_at(&self, now_ms: u64) -> QueueState {
        let until_ms = self.queue.until_ms;
        if until_ms > 0 && until_ms <= now_ms { QueueState::Online } else { self.queue.state }
    }

    /// It takes submissions at `now_ms`.
    pub fn takes_jobs(&self, now_ms: u64) -> bool {
        !matches!(self.state_at(now_ms), QueueState::Offline | QueueState::Brokeroff)
    }

    /// It gives leases at `now_ms`. A queue in test gives test jobs only, which the caller sees by its state.
    pub fn gives_leases(&self, now_ms: u64) -> bool {
        !matches!(self.state_at(now_ms), QueueState::Offline | QueueState::Paused)
    }
}

/// A share with its number.
#[derive(Clone, Debug, PartialEq)]
pub struct ShareEntry {
    /// Number, never used twice.
    pub id: u32,
    /// Name.
    pub name: String,
    /// Target, relative to the other shares' targets.
    pub target: f64,
}

/// A user with an object of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct UserEntry {
    /// Number, never used twice.
    pub id: u32,
    /// Name; `*` for the limits of all others.
    pub name: String,
    /// The limits.
    pub user: User,
}

/// All objects, typed. Look-ups cost one search in a sorted map; making a view costs some µs per object.
#[derive(Clone, Debug, Default)]
pub struct MetaView {
    version: u64,
    cluster: String,
    queues: BTreeMap<String, QueueEntry>,
    queue_names: BTreeMap<u32, String>,
    shares: BTreeMap<String, ShareEntry>,
    share_names: BTreeMap<u32, String>,
    users: BTreeMap<String, UserEntry>,
    user_default: User,
    timeouts: Timeouts,
    settings: BTreeMap<String, u64>,
    nodes: BTreeMap<u32, Node>,
    shards: ShardTable,
    shards_version: Option<u64>,
    debug: BTreeMap<u64, String>,
    queue_data: BTreeMap<String, Map<String, Value>>,
}

impl MetaView {
    /// The view of the machine's present state.
    ///
    /// # Errors
    /// [`MetaError::Record`] if an object that was loaded from disk is not of its kind.
    pub fn new(machine: &MetaMachine) -> Result<MetaView, MetaError> {
        let mut view =
            MetaView { version: machine.version(), cluster: machine.cluster().to_owned(), ..MetaView::default() };
        for object in machine.list(kind::QUEUE) {
            view.add_queue(object)?;
        }
        for object in machine.list(kind::SHARE) {
            view.add_share(object)?;
        }
        for object in machine.list(kind::USER) {
            view.add_user(object)?;
        }
        for object in machine.list(kind::SETTING) {
            let setting: Setting = typed(object)?;
            view.settings.insert(object.name.clone(), setting.value);
        }
        for object in machine.list(kind::NODE) {
            view.nodes.insert(object.id, typed(object)?);
        }
        if let Some(object) = machine.get(kind::TIMEOUTS, TIMEOUTS_NAME) {
            view.timeouts = typed(object)?;
        }
        for object in machine.list(kind::PANDA_DEBUG) {
            let command: Value = typed(object)?;
            if let (Ok(job), Some(command)) = (object.name.parse(), command["command"].as_str()) {
                view.debug.insert(job, command.to_owned());
            }
        }
        for object in machine.list(kind::PANDA_QUEUE) {
            view.queue_data.insert(object.name.clone(), typed(object)?);
        }
        if let Some(object) = machine.get(kind::SHARDS, SHARDS_NAME) {
            view.shards = typed(object)?;
            view.shards_version = Some(object.version);
        }
        Ok(view)
    }

    fn add_queue(&mut self, object: &Object) -> Result<(), MetaError> {
        let entry = QueueEntry { id: object.id, name: object.name.clone(), queue: typed(object)? };
        self.queue_names.insert(entry.id, entry.name.clone());
        self.queues.insert(entry.name.clone(), entry);
        Ok(())
    }

    fn add_share(&mut self, object: &Object) -> Result<(), MetaError> {
        let share: Share = typed(object)?;
        let entry = ShareEntry { id: object.id, name: object.name.clone(), target: share.target };
        self.share_names.insert(entry.id, entry.name.clone());
        self.shares.insert(entry.name.clone(), entry);
        Ok(())
    }

    fn add_user(&mut self, object: &Object) -> Result<(), MetaError> {
        let entry = UserEntry { id: object.id, name: object.name.clone(), user: typed(object)? };
        if entry.name == USER_DEFAULT {
            self.user_default = entry.user.clone();
        }
        self.users.insert(entry.name.clone(), entry);
        Ok(())
    }

    /// Version of the last change it shows.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Name of the cluster; empty before it is made.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The queue of this name.
    pub fn queue(&self, name: &str) -> Option<&QueueEntry> {
        self.queues.get(name)
    }

    /// The queue of this number; `None` once it is deleted.
    pub fn queue_by_id(&self, id: u32) -> Option<&QueueEntry> {
        self.queues.get(self.queue_names.get(&id)?)
    }

    /// All queues by name.
    pub fn queues(&self) -> impl ExactSizeIterator<Item = &QueueEntry> {
        self.queues.values()
    }

    /// The share of this name; an empty name means "Undefined".
    pub fn share(&self, name: &str) -> Option<&ShareEntry> {
        let name = if name.is_empty() { SHARE_UNDEFINED } else { name };
        self.shares.get(name)
    }

    /// The share of this number; `None` once it is deleted.
    pub fn share_by_id(&self, id: u32) -> Option<&ShareEntry> {
        self.shares.get(self.share_names.get(&id)?)
    }

    /// All shares by name.
    pub fn shares(&self) -> impl ExactSizeIterator<Item = &ShareEntry> {
        self.shares.values()
    }

    /// Limits of a user: their own, or those of `*`, or none.
    pub fn user(&self, name: &str) -> &User {
        self.users.get(name).map_or(&self.user_default, |entry| &entry.user)
    }

    /// All users with an object of their own, by name.
    pub fn users(&self) -> impl ExactSizeIterator<Item = &UserEntry> {
        self.users.values()
    }

    /// The command that the pilot of a job is to get.
    pub fn debug_command(&self, job: u64) -> Option<&str> {
        self.debug.get(&job).map(String::as_str)
    }

    /// What the operator says to pilots of a queue, in the words of PanDA's queue data.
    pub fn queue_data(&self, queue: &str) -> Option<&Map<String, Value>> {
        self.queue_data.get(queue)
    }

    /// The time-out table.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Value of a setting, in its unit; the default if none is set.
    pub fn setting(&self, schema: &Schema) -> u64 {
        self.settings.get(schema.name).copied().unwrap_or(schema.default)
    }

    /// The feature level that the cluster is at ([`moso_proto::level`]).
    pub fn level(&self) -> u32 {
        self.setting(&setting::FEATURE_LEVEL) as u32
    }

    /// The node of this number.
    pub fn node(&self, number: u32) -> Option<&Node> {
        self.nodes.get(&number)
    }

    /// All nodes by number.
    pub fn nodes(&self) -> &BTreeMap<u32, Node> {
        &self.nodes
    }

    /// Which nodes hold which shard; empty before the cluster is made.
    pub fn shards(&self) -> &ShardTable {
        &self.shards
    }

    /// Version of the shard table; `None` before the cluster is made.
    pub fn shards_version(&self) -> Option<u64> {
        self.shards_version
    }

    /// Nodes that hold a shard, the preferred leader first; empty for a shard that does not exist.
    pub fn replicas(&self, shard: ShardId) -> &[u32] {
        usize::from(shard.0)
            .checked_sub(1)
            .and_then(|position| self.shards.replicas.get(position))
            .map_or(&[], Vec::as_slice)
    }
}

fn typed<T: DeserializeOwned>(object: &Object) -> Result<T, MetaError> {
    check::parse(&object.kind, &object.json)
        .map_err(|e| MetaError::Record { key: format!("{}/{}", object.kind, object.name), error: e.to_string() })
}
