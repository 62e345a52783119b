//! Stand-ins for crossbeam's queue and skip list: each operation is a single step.

use shuttle::sync::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

pub(crate) struct SegQueue<T>(Mutex<VecDeque<T>>);

impl<T> SegQueue<T> {
    pub(crate) fn new() -> Self {
        SegQueue(Mutex::new(VecDeque::new()))
    }

    pub(crate) fn push(&self, value: T) {
        self.0.lock().expect("a step does not panic").push_back(value);
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.0.lock().expect("a step does not panic").pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().expect("a step does not panic").is_empty()
    }
}

/// Each value with a number of its own, by which it is known when it is removed.
type Nodes<K, V> = BTreeMap<K, (u64, V)>;

pub(crate) struct SkipMap<K, V>(Mutex<(u64, Nodes<K, V>)>);

impl<K: Ord + Clone, V: Clone> SkipMap<K, V> {
    pub(crate) fn new() -> Self {
        SkipMap(Mutex::new((0, BTreeMap::new())))
    }

    pub(crate) fn get(&self, key: &K) -> Option<Entry<'_, K, V>> {
        let map = self.0.lock().expect("a step does not panic");
        map.1.get(key).map(|(node, value)| Entry { map: self, key: key.clone(), node: *node, value: value.clone() })
    }

    pub(crate) fn insert(&self, key: K, value: V) -> Entry<'_, K, V> {
        let mut map = self.0.lock().expect("a step does not panic");
        map.0 += 1;
        let node = map.0;
        map.1.insert(key.clone(), (node, value.clone()));
        Entry { map: self, key, node, value }
    }

    /// In order; what is put in or taken out meanwhile may or may not be seen.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Entry<'_, K, V>> {
        let mut last: Option<K> = None;
        std::iter::from_fn(move || {
            let map = self.0.lock().expect("a step does not panic");
            let from = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let (key, (node, value)) = map.1.range((from, Bound::Unbounded)).next()?;
            let entry = Entry { map: self, key: key.clone(), node: *node, value: value.clone() };
            last = Some(entry.key.clone());
            Some(entry)
        })
    }
}

pub(crate) struct Entry<'a, K, V> {
    map: &'a SkipMap<K, V>,
    key: K,
    node: u64,
    value: V,
}

impl<K: Ord, V> Entry<'_, K, V> {
    pub(crate) fn key(&self) -> &K {
        &self.key
    }

    pub(crate) fn value(&self) -> &V {
        &self.value
    }

    pub(crate) fn remove(&self) -> bool {
        let mut map = self.map.0.lock().expect("a step does not panic");
        let same = map.1.get(&self.key).is_some_and(|(node, _)| *node == self.node);
        if same {
            map.1.remove(&self.key);
        }
        same
    }
}
