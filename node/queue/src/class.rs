//! Classes: jobs with equal needs, queue, share and owner. Workers are matched with classes, not with jobs, and
//! counters are kept per class, so that no sum ever scans jobs.

use crate::codec::{Get, Put};
use crate::error::Error;
use crate::limits::CLASSES_MAX;
use bytes::Bytes;
use moso_proto::JobState;
use moso_proto::state::STATES;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Number of a class within its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClassId(pub u32);

/// What makes jobs alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClassKey {
    /// Number of the queue.
    pub queue: u32,
    /// Number of the share.
    pub share: u32,
    /// User.
    pub owner: Arc<str>,
    /// Working group.
    pub group: Arc<str>,
    /// PanDA's prodSourceLabel.
    pub label: Arc<str>,
    /// At least 1.
    pub cores: u32,
    /// MiB of the whole job; 0: any.
    pub memory_mib: u32,
    /// MiB of scratch; 0: any.
    pub disk_mib: u32,
    /// Longest run time in s; 0: no limit.
    pub wall_time_s: u32,
    /// PanDA's resource type; empty: any.
    pub resource_type: Arc<str>,
    /// Tags the worker must offer, sorted.
    pub tags: Vec<Arc<str>>,
}

impl ClassKey {
    /// Appends the key.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.queue);
        out.put_u32(self.share);
        for text in [&self.owner, &self.group, &self.label, &self.resource_type] {
            out.put_str(text);
        }
        for number in [self.cores, self.memory_mib, self.disk_mib, self.wall_time_s] {
            out.put_u32(number);
        }
        out.put_u8(self.tags.len().min(255) as u8);
        for tag in self.tags.iter().take(255) {
            out.put_str(tag);
        }
    }

    /// Reads a key.
    pub fn decode(get: &mut Get) -> Result<Self, Error> {
        let (queue, share) = (get.u32()?, get.u32()?);
        let (owner, group, label, resource_type) =
            (get.str()?.into(), get.str()?.into(), get.str()?.into(), get.str()?.into());
        let (cores, memory_mib, disk_mib, wall_time_s) = (get.u32()?, get.u32()?, get.u32()?, get.u32()?);
        let tags = (0..get.u8()?).map(|_| get.str().map(Into::into)).collect::<Result<_, _>>()?;
        Ok(ClassKey {
            queue,
            share,
            owner,
            group,
            label,
            cores,
            memory_mib,
            disk_mib,
            wall_time_s,
            resource_type,
            tags,
        })
    }
}

/// A class and the count of its jobs.
#[derive(Clone, Debug)]
pub struct Class {
    /// What the jobs have in common.
    pub key: Arc<ClassKey>,
    /// Jobs and tasks that refer to it; at zero it is dropped.
    refs: u32,
    /// Live jobs by state; jobs of an array that are not yet made count as activated or throttled.
    pub counts: [u32; STATES],
}

impl Class {
    /// Jobs that hold a lease.
    pub fn leased(&self) -> u64 {
        [JobState::Sent, JobState::Starting, JobState::Running]
            .iter()
            .map(|s| u64::from(self.counts[*s as usize]))
            .sum()
    }
    /// Jobs that could be leased now.
    pub fn ready(&self) -> u64 {
        u64::from(self.counts[JobState::Activated as usize])
    }
}

/// All classes of a shard. Numbers of dropped classes are used again, lowest first, so replicas agree.
#[derive(Clone, Debug, Default)]
pub struct ClassTable {
    by_key: BTreeMap<Arc<ClassKey>, ClassId>,
    classes: Vec<Option<Class>>,
    free: BTreeSet<u32>,
}

impl ClassTable {
    /// The class's number, made if new, with one more reference; `true`: it is new and must be stored. `None`: full.
    pub fn intern(&mut self, key: ClassKey) -> Option<(ClassId, bool)> {
        if let Some(&id) = self.by_key.get(&key) {
            self.get_mut(id).refs += 1;
            return Some((id, false));
        }
        if self.by_key.len() >= CLASSES_MAX {
            return None;
        }
        let id = ClassId(self.free.pop_first().unwrap_or(self.classes.len() as u32));
        self.insert(id, key, 1);
        Some((id, true))
    }

    /// There is room for all these classes, known ones among them.
    pub fn has_room_for<'a>(&self, keys: impl Iterator<Item = &'a ClassKey>) -> bool {
        let new: BTreeSet<&ClassKey> = keys.filter(|key| !self.by_key.contains_key(*key)).collect();
        self.by_key.len() + new.len() <= CLASSES_MAX
    }

    /// One more reference.
    pub fn retain(&mut self, id: ClassId) {
        self.get_mut(id).refs += 1;
    }

    /// One reference less; `true`: it was the last, the class is gone and its record must be deleted.
    pub fn release(&mut self, id: ClassId) -> bool {
        let class = self.get_mut(id);
        class.refs -= 1;
        if class.refs > 0 {
            return false;
        }
        let class = self.classes[id.0 as usize].take().expect("a released class exists");
        debug_assert!(class.counts.iter().all(|&n| n == 0), "a class without references has no jobs");
        self.by_key.remove(&class.key);
        self.free.insert(id.0);
        true
    }

    /// Puts a stored class back, without references.
    pub fn load(&mut self, id: ClassId, bytes: Bytes) -> Result<(), Error> {
        let mut get = Get::new(bytes, "class record");
        let key = ClassKey::decode(&mut get)?;
        get.end()?;
        if id.0 as usize >= CLASSES_MAX || self.find(id).is_some() || self.by_key.contains_key(&key) {
            return Err(get.damaged());
        }
        self.insert(id, key, 0);
        self.free.remove(&id.0);
        Ok(())
    }

    fn insert(&mut self, id: ClassId, key: ClassKey, refs: u32) {
        let at = id.0 as usize;
        while self.classes.len() <= at {
            if self.classes.len() < at {
                self.free.insert(self.classes.len() as u32);
            }
            self.classes.push(None);
        }
        let key = Arc::new(key);
        self.by_key.insert(key.clone(), id);
        self.classes[at] = Some(Class { key, refs, counts: [0; STATES] });
    }

    /// The class, if it exists.
    pub fn find(&self, id: ClassId) -> Option<&Class> {
        self.classes.get(id.0 as usize)?.as_ref()
    }

    /// The class of a live job or task.
    pub fn get(&self, id: ClassId) -> &Class {
        self.find(id).expect("jobs and tasks hold a reference to their class")
    }

    /// The class of a live job or task.
    pub fn get_mut(&mut self, id: ClassId) -> &mut Class {
        self.classes[id.0 as usize].as_mut().expect("jobs and tasks hold a reference to their class")
    }

    /// All classes in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (ClassId, &Class)> {
        self.classes.iter().enumerate().filter_map(|(i, c)| Some((ClassId(i as u32), c.as_ref()?)))
    }

    /// References of a class, for the check of invariants.
    pub fn refs(&self, id: ClassId) -> u32 {
        self.find(id).map_or(0, |c| c.refs)
    }

    /// Estimated bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.classes.len() * size_of::<Class>() + self.by_key.len() * (size_of::<ClassKey>() + 160)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(owner: &str) -> ClassKey {
        ClassKey { owner: owner.into(), tags: vec!["gpu".into()], cores: 1, ..Default::default() }
    }

    #[test]
    fn equal_keys_share_a_class_and_numbers_are_used_again() {
        let mut table = ClassTable::default();
        let (a, new_a) = table.intern(key("a")).unwrap();
        let (b, _) = table.intern(key("b")).unwrap();
        let (again, new_again) = table.intern(key("a")).unwrap();
        assert_eq!((a, new_a, new_again), (again, true, false));
        assert_ne!(a, b);
        assert!(!table.release(a));
        assert!(table.release(a));
        assert!(table.find(a).is_none());
        assert_eq!(table.intern(key("c")).unwrap(), (a, true));
    }

    #[test]
    fn a_stored_class_comes_back_under_its_number() {
        let mut bytes = Vec::new();
        key("x").encode(&mut bytes);
        let mut table = ClassTable::default();
        table.load(ClassId(3), bytes.into()).unwrap();
        assert_eq!(*table.get(ClassId(3)).key, key("x"));
        assert_eq!(table.intern(key("y")).unwrap(), (ClassId(0), true));
    }
}
