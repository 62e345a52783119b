//! The meta group's replicated state: objects, their numbers and their history.

use super::audit::{AuditEntry, AuditLog};
use super::{MetaCommand, MetaError, Object, SHARDS_NAME, SHARE_UNDEFINED, TIMEOUTS_NAME, check, limits};
use moso_proto::object::{Node, ObjectError, Setting, ShardTable, Share, Timeouts, kind};
use moso_proto::shards::{FOUNDING_INCARNATION, node_of};
use moso_proto::{Code, setting};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, VecDeque};

mod audited;
mod refound;

/// Format of the stored records.
const RECORD_VERSION: u8 = 1;
/// First byte of a record's key.
mod tag {
    pub const COUNTERS: u8 = b'c';
    pub const OBJECT: u8 = b'o';
    pub const CHANGE: u8 = b'h';
    pub const AUDIT: u8 = b'a';
}
/// Author of what the bootstrap makes.
const AUTHOR_MOSO: &str = "moso";

/// Answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaReply {
    /// The object as the command left it; after a delete its JSON is empty. A bootstrap answers with the shard table.
    Ok(Object),
    /// Nothing was changed.
    Refused {
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        message: String,
    },
}

/// A record that changed: its key, and its value unless it was removed.
pub type DirtyRecord = (Vec<u8>, Option<Vec<u8>>);

struct Refusal {
    code: Code,
    message: String,
}

impl Refusal {
    fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > limits::MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(limits::MESSAGE_BYTES_MAX));
            message.push('…');
        }
        Refusal { code, message }
    }
}

impl From<ObjectError> for Refusal {
    fn from(error: ObjectError) -> Self {
        Refusal::new(Code::Invalid, error.to_string())
    }
}

/// What must survive the objects themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counters {
    /// Empty until the bootstrap.
    cluster: String,
    /// Last version given.
    version: u64,
    /// Last numbers given.
    queue: u32,
    share: u32,
    user: u32,
    /// Nodes that were removed: their numbers are not given again.
    gone_nodes: Vec<u32>,
}

/// Kind and name.
type Key = (String, String);

/// The state machine. A pure function of the commands applied, in their order, with their times.
///
/// Invariants: versions rise by one with each change; a number is given once; an object's last change is in the
/// history unless [`limits::HISTORY_BYTES_MAX`] pushed it out; replicas that applied the same commands hold the same
/// records.
#[derive(Debug, Default)]
pub struct MetaMachine {
    counters: Counters,
    objects: BTreeMap<Key, Object>,
    objects_bytes: usize,
    /// Changes of all objects by version.
    history: BTreeMap<u64, Object>,
    history_bytes: usize,
    /// Versions in `history` of each object, rising; also of deleted ones.
    versions: BTreeMap<Key, VecDeque<u64>>,
    audit: AuditLog,
    dirty: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl MetaMachine {
    /// The state before the first command.
    pub fn new() -> Self {
        Self::default()
    }

    /// Restores the state from all records ever returned by [`Self::take_dirty`] and not removed since, in any order.
    ///
    /// # Errors
    /// [`MetaError::Record`] for a record that this program did not write.
    pub fn load(records: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<MetaMachine, MetaError> {
        let mut machine = MetaMachine::new();
        let mut audit: Vec<AuditEntry> = Vec::new();
        for (key, value) in records {
            match key.first() {
                Some(&tag::COUNTERS) => machine.counters = decode_record(&key, &value)?,
                Some(&tag::OBJECT) => {
                    let object: Object = decode_record(&key, &value)?;
                    machine.objects_bytes += object.json.len();
                    machine.objects.insert(key_of(&object), object);
                }
                Some(&tag::CHANGE) => {
                    let change: Object = decode_record(&key, &value)?;
                    machine.history_bytes += change_bytes(&change);
                    machine.history.insert(change.version, change);
                }
                Some(&tag::AUDIT) => audit.push(decode_record(&key, &value)?),
                _ => return Err(record_error(&key, "unknown key")),
            }
        }
        machine.audit = AuditLog::load(audit);
        for (version, change) in &machine.history {
            let versions = machine.versions.entry(key_of(change)).or_default();
            versions.push_back(*version);
        }
        Ok(machine)
    }

    /// Applies one command of the log. `time_ms` is the leader's stamp of the entry.
    ///
    /// # Errors
    /// [`MetaError::Command`] if the command cannot be read; then nothing was changed and the replica must stop.
    pub fn apply(&mut self, time_ms: u64, command: &[u8]) -> Result<MetaReply, MetaError> {
        let result = match MetaCommand::decode(command)? {
            MetaCommand::Put { kind, name, json, expected_version, author } => {
                self.put(time_ms, (kind, name), &json, expected_version, author)
            }
            MetaCommand::Delete { kind, name, expected_version, author } => {
                self.delete(time_ms, (kind, name), expected_version, author)
            }
            MetaCommand::Bootstrap { cluster, nodes, shards } => self.bootstrap(time_ms, cluster, &nodes, &shards),
            MetaCommand::Change { word, kind, name, json, expected_version } => {
                self.change(time_ms, word, (kind, name), json, expected_version)
            }
            MetaCommand::Audit { words } => self.write_down(time_ms, words),
        };
        Ok(match result {
            Ok(object) => MetaReply::Ok(object),
            Err(Refusal { code, message }) => MetaReply::Refused { code, message },
        })
    }

    /// The records changed since the last call, by key; the value is `None` for a removed one. They go to disk in
    /// the same batch as the applied index.
    pub fn take_dirty(&mut self) -> Vec<DirtyRecord> {
        std::mem::take(&mut self.dirty).into_iter().collect()
    }

    /// All records of the state, for a snapshot.
    pub fn encode_records(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut records = vec![(vec![tag::COUNTERS], encode_record(&self.counters))];
        let object = |o: &Object| (object_key(&o.kind, &o.name), encode_record(o));
        records.extend(self.objects.values().map(object));
        let change = |c: &Object| (change_key(c.version), encode_record(c));
        records.extend(self.history.values().map(change));
        records.extend(self.audit.iter().map(|entry| (audited::audit_key(entry.seq), encode_record(entry))));
        records
    }

    /// Name of the cluster; empty before the bootstrap.
    pub fn cluster(&self) -> &str {
        &self.counters.cluster
    }

    /// Number of changes so far, which is the version of the last one.
    pub fn version(&self) -> u64 {
        self.counters.version
    }

    /// The live object of this kind and name.
    pub fn get(&self, kind: &str, name: &str) -> Option<&Object> {
        self.objects.get(&(kind.to_owned(), name.to_owned()))
    }

    /// Live objects of a kind, by name.
    pub fn list<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Object> {
        let first = (kind.to_owned(), String::new());
        let of_kind = move |entry: &(&Key, &Object)| entry.0.0 == kind;
        self.objects.range(first..).take_while(of_kind).map(|(_, object)| object)
    }

    /// Changes of an object, newest first, at most [`limits::HISTORY_CHANGES_MAX`]; deletes have an empty JSON.
    pub fn history(&self, kind: &str, name: &str) -> Vec<&Object> {
        let key = (kind.to_owned(), name.to_owned());
        let versions = self.versions.get(&key).into_iter().flatten().rev();
        versions.filter_map(|v| self.history.get(v)).collect()
    }

    fn put(
        &mut self,
        time_ms: u64,
        key: Key,
        json: &str,
        expected: Option<u64>,
        author: String,
    ) -> Result<Object, Refusal> {
        self.check_ready(&author)?;
        let max = if key.0 == kind::SHARDS { limits::TABLE_BYTES_MAX } else { limits::JSON_BYTES_MAX };
        if json.len() > max {
            return Err(too_large("JSON of an object", max));
        }
        let json = check::canonical(&key.0, &key.1, json)?;
        if json.len() > max {
            return Err(too_large("JSON of an object", max));
        }
        if key.0 == kind::SHARDS {
            self.check_table(&check::parse(kind::SHARDS, &json)?)?;
        }
        self.check_version(&key, expected)?;
        self.check_level(&key, &json)?;
        if key.0 == kind::NODE && check::node_number(&key.1).is_some_and(|id| self.counters.gone_nodes.contains(&id)) {
            let message = format!("node {} was removed: a number is never used twice, give it another one", key.1);
            return Err(Refusal::new(Code::Invalid, message));
        }
        self.check_space(&key, json.len())?;
        let id = self.number_for(&key)?;
        Ok(self.record(time_ms, key, json, author, id))
    }

    fn delete(&mut self, time_ms: u64, key: Key, expected: Option<u64>, author: String) -> Result<Object, Refusal> {
        self.check_ready(&author)?;
        if !kind::ALL.contains(&key.0.as_str()) && !kind::PANDA.contains(&key.0.as_str()) {
            return Err(ObjectError::Kind(key.0).into());
        }
        let Some(object) = self.objects.get(&key) else {
            let message = format!("there is no {} named {:?}", key.0, key.1);
            return Err(Refusal::new(Code::NotFound, message));
        };
        let id = object.id;
        self.check_version(&key, expected)?;
        self.check_level(&key, "")?;
        self.check_unused(&key, id)?;
        if key.0 == kind::NODE {
            self.counters.gone_nodes.push(id);
        }
        Ok(self.record(time_ms, key, String::new(), author, id))
    }

    fn bootstrap(
        &mut self,
        time_ms: u64,
        cluster: String,
        nodes: &[(u32, Node)],
        shards: &ShardTable,
    ) -> Result<Object, Refusal> {
        if !self.counters.cluster.is_empty() {
            let table = self.get(kind::SHARDS, SHARDS_NAME);
            return Ok(table.cloned().expect("the bootstrap made the table"));
        }
        check_bootstrap(&cluster, nodes, shards)?;
        self.counters.cluster = cluster;
        let mut make = |kind: &str, name: &str, json: String| {
            let key = (kind.to_owned(), name.to_owned());
            // Numbers start at 1, so a new machine has enough of them.
            let id = self.number_for(&key).unwrap_or_default();
            self.record(time_ms, key, json, AUTHOR_MOSO.to_owned(), id)
        };
        for (number, node) in nodes {
            make(kind::NODE, &number.to_string(), check::to_json(node));
        }
        let timeouts = check::to_json(&Timeouts::default());
        make(kind::TIMEOUTS, TIMEOUTS_NAME, timeouts);
        let share = check::to_json(&Share::default());
        make(kind::SHARE, SHARE_UNDEFINED, share);
        Ok(make(kind::SHARDS, SHARDS_NAME, check::to_json(shards)))
    }

    /// Before the bootstrap no change is taken: numbers and nodes would be missing.
    fn check_ready(&self, author: &str) -> Result<(), Refusal> {
        if author.len() > limits::AUTHOR_BYTES_MAX {
            return Err(too_large("author", limits::AUTHOR_BYTES_MAX));
        }
        if self.counters.cluster.is_empty() {
            let message = "the cluster is not made yet";
            return Err(Refusal::new(Code::Unavailable, message));
        }
        Ok(())
    }

    fn check_version(&self, key: &Key, expected: Option<u64>) -> Result<(), Refusal> {
        let current = self.objects.get(key).map_or(0, |o| o.version);
        match expected {
            Some(version) if version != current => {
                let found = match current {
                    0 => "does not exist".to_owned(),
                    _ => format!("has version {current}"),
                };
                let message = format!("{} {:?} {found}, not version {version}", key.0, key.1);
                Err(Refusal::new(Code::VersionMismatch, message))
            }
            _ => Ok(()),
        }
    }

    /// The feature level never falls: what came with it may be in the log.
    fn check_level(&self, key: &Key, json: &str) -> Result<(), Refusal> {
        let level = |json: &str| check::parse::<Setting>(kind::SETTING, json).map_or(0, |setting| setting.value);
        let now = self.objects.get(key).filter(|_| key.0 == kind::SETTING && key.1 == setting::FEATURE_LEVEL.name);
        match now.map(|object| level(&object.json)) {
            Some(now) if level(json) < now => {
                let message = format!("the cluster is at feature level {now}, which never falls");
                Err(Refusal::new(Code::Invalid, message))
            }
            _ => Ok(()),
        }
    }

    fn check_space(&self, key: &Key, json_bytes: usize) -> Result<(), Refusal> {
        let old = self.objects.get(key);
        if old.is_none() && self.objects.len() >= limits::OBJECTS_MAX {
            let message = format!("there are {} objects already", limits::OBJECTS_MAX);
            return Err(Refusal::new(Code::TooLarge, message));
        }
        let rest = self.objects_bytes - old.map_or(0, |o| o.json.len());
        if rest + json_bytes > limits::JSON_BYTES_TOTAL_MAX {
            return Err(too_large("JSON of all", limits::JSON_BYTES_TOTAL_MAX));
        }
        Ok(())
    }

    /// The number of shards never changes, every replica is on a known node, and its id was never another one's: it has the
    /// id already, or an incarnation above all that were given.
    fn check_table(&self, table: &ShardTable) -> Result<(), Refusal> {
        let now = self.table();
        let shards = now.replicas.len();
        if table.replicas.len() != shards {
            let message = format!(
                "the cluster was made with {shards} shards; the number never changes (asked: {})",
                table.replicas.len()
            );
            return Err(Refusal::new(Code::Invalid, message));
        }
        for node in table.replicas.iter().flatten() {
            if self.get(kind::NODE, &node.to_string()).is_none() {
                let message = format!("there is no node {node}");
                return Err(Refusal::new(Code::Invalid, message));
            }
        }
        let given = now.last_incarnation.max(FOUNDING_INCARNATION);
        for shard in 1..=shards as u16 {
            let before: Vec<u64> = now.wanted(shard).into_iter().chain(now.leaving(shard).iter().copied()).collect();
            let named = table.wanted(shard).into_iter().chain(table.leaving(shard).iter().copied());
            for replica in named.filter(|replica| !before.contains(replica)) {
                let incarnation = replica as u32;
                if incarnation <= given || incarnation > table.last_incarnation {
                    let message = format!("shard {shard}: replica {replica} may have been another one before");
                    return Err(Refusal::new(Code::Invalid, message));
                }
            }
        }
        if table.last_incarnation < now.last_incarnation {
            return Err(Refusal::new(Code::Invalid, "incarnations that were given stay given"));
        }
        Ok(())
    }

    fn check_unused(&self, key: &Key, id: u32) -> Result<(), Refusal> {
        let used = match (key.0.as_str(), key.1.as_str()) {
            (kind::SHARDS, _) => Some("the shard table cannot be deleted".to_owned()),
            (kind::SHARE, SHARE_UNDEFINED) => Some(format!("jobs without a share are in {SHARE_UNDEFINED:?}")),
            (kind::NODE, _) => {
                let table = self.table();
                let holds = |shard: &u16| {
                    let leaving = table.leaving(*shard).iter().copied();
                    leaving.chain(table.wanted(*shard)).any(|replica| node_of(replica) == id)
                };
                let shard = (1..=table.replicas.len() as u16).find(holds);
                shard.map(|s| format!("node {id} holds a replica of shard {s}: drain it first"))
            }
            _ => None,
        };
        used.map_or(Ok(()), |why| Err(Refusal::new(Code::WrongState, why)))
    }

    fn table(&self) -> ShardTable {
        self.get(kind::SHARDS, SHARDS_NAME)
            .and_then(|object| check::parse(kind::SHARDS, &object.json).ok())
            .unwrap_or_default()
    }

    /// The number of the live object, or the next one for a new object.
    fn number_for(&mut self, key: &Key) -> Result<u32, Refusal> {
        if let Some(object) = self.objects.get(key) {
            return Ok(object.id);
        }
        let last = match key.0.as_str() {
            kind::QUEUE => &mut self.counters.queue,
            kind::SHARE => &mut self.counters.share,
            kind::USER => &mut self.counters.user,
            kind::NODE => return Ok(check::node_number(&key.1).unwrap_or_default()),
            _ => return Ok(0),
        };
        let next = last.checked_add(1).ok_or_else(|| {
            let message = format!("all numbers of kind {} are used", key.0);
            Refusal::new(Code::TooLarge, message)
        })?;
        *last = next;
        Ok(next)
    }

    /// Makes the change: an empty `json` deletes. Everything was checked.
    fn record(&mut self, time_ms: u64, key: Key, json: String, author: String, id: u32) -> Object {
        self.counters.version += 1;
        let object = Object {
            kind: key.0.clone(),
            name: key.1.clone(),
            version: self.counters.version,
            json,
            author,
            time_ms,
            id,
        };
        let value = (!object.json.is_empty()).then(|| encode_record(&object));
        self.dirty.insert(object_key(&key.0, &key.1), value);
        self.dirty.insert(vec![tag::COUNTERS], Some(encode_record(&self.counters)));
        self.objects_bytes += object.json.len();
        let old = if object.json.is_empty() {
            self.objects.remove(&key)
        } else {
            self.objects.insert(key.clone(), object.clone())
        };
        self.objects_bytes -= old.map_or(0, |o| o.json.len());
        // Programs change these all the time: their changes would push those of people out.
        if !kind::PANDA.contains(&object.kind.as_str()) {
            self.remember(key, object.clone());
        }
        object
    }

    fn remember(&mut self, key: Key, change: Object) {
        let bytes = encode_record(&change);
        self.dirty.insert(change_key(change.version), Some(bytes));
        self.history_bytes += change_bytes(&change);
        let versions = self.versions.entry(key).or_default();
        versions.push_back(change.version);
        let oldest = (versions.len() > limits::HISTORY_CHANGES_MAX).then(|| versions.front().copied()).flatten();
        self.history.insert(change.version, change);
        if let Some(version) = oldest {
            self.forget(version);
        }
        while self.history_bytes > limits::HISTORY_BYTES_MAX {
            let (&version, _) = self.history.first_key_value().expect("bytes are counted");
            self.forget(version);
        }
    }

    /// Drops the oldest change of an object.
    fn forget(&mut self, version: u64) {
        let change = self.history.remove(&version).expect("the change is kept");
        self.history_bytes -= change_bytes(&change);
        self.dirty.insert(change_key(version), None);
        let key = key_of(&change);
        let versions = self.versions.get_mut(&key).expect("it has a change");
        let oldest = versions.pop_front();
        debug_assert_eq!(oldest, Some(version));
        if versions.is_empty() {
            self.versions.remove(&key);
        }
    }
}

fn check_bootstrap(cluster: &str, nodes: &[(u32, Node)], shards: &ShardTable) -> Result<(), Refusal> {
    if !(1..=limits::CLUSTER_BYTES_MAX).contains(&cluster.len()) {
        let max = limits::CLUSTER_BYTES_MAX;
        let message = format!("the name of a cluster has 1 to {max} bytes");
        return Err(Refusal::new(Code::Invalid, message));
    }
    if !(1..=limits::NODES_MAX).contains(&nodes.len()) {
        let message = format!("a cluster is made of 1 to {} nodes", limits::NODES_MAX);
        return Err(Refusal::new(Code::Invalid, message));
    }
    let rising = nodes.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if nodes[0].0 == 0 || !rising {
        let message = "node numbers start at 1 and rise";
        return Err(Refusal::new(Code::Invalid, message));
    }
    for (_, node) in nodes {
        check::check_node(node)?;
    }
    check::check_shards(shards)?;
    for node in shards.replicas.iter().flatten() {
        if nodes.binary_search_by_key(node, |n| n.0).is_err() {
            let message = format!("there is no node {node}");
            return Err(Refusal::new(Code::Invalid, message));
        }
    }
    let json = check::to_json(shards);
    if json.len() > limits::TABLE_BYTES_MAX {
        return Err(too_large("the shard table", limits::TABLE_BYTES_MAX));
    }
    Ok(())
}

fn too_large(what: &str, limit: usize) -> Refusal {
    Refusal::new(Code::TooLarge, format!("{what}: at most {limit} bytes"))
}

fn key_of(object: &Object) -> Key {
    (object.kind.clone(), object.name.clone())
}

fn change_bytes(change: &Object) -> usize {
    let strings = [&change.kind, &change.name, &change.json, &change.author];
    limits::CHANGE_BYTES + strings.iter().map(|s| s.len()).sum::<usize>()
}

/// `o`, kind, a zero byte, name. Kinds and names have no zero bytes.
fn object_key(kind: &str, name: &str) -> Vec<u8> {
    [&[tag::OBJECT], kind.as_bytes(), &[0], name.as_bytes()].concat()
}

/// `h` and the version, big endian.
fn change_key(version: u64) -> Vec<u8> {
    [&[tag::CHANGE][..], &version.to_be_bytes()].concat()
}

fn encode_record(record: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(record, vec![RECORD_VERSION])
        .expect("a record of strings and numbers always encodes into a growing buffer")
}

fn decode_record<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, MetaError> {
    match value.split_first() {
        Some((&RECORD_VERSION, rest)) => postcard::from_bytes(rest).map_err(|e| record_error(key, &e.to_string())),
        Some((version, _)) => Err(record_error(key, &format!("version {version}"))),
        None => Err(record_error(key, "empty")),
    }
}

fn record_error(key: &[u8], error: &str) -> MetaError {
    MetaError::Record { key: key.iter().map(|byte| format!("{byte:02x}")).collect(), error: error.to_owned() }
}
