//! A backup's objects become those of a new cluster.

use super::{AUTHOR_MOSO, Key, MetaMachine, check, check_bootstrap, kind};
use crate::meta::SHARDS_NAME;
use moso_proto::object::{Node, ShardTable};

impl MetaMachine {
    /// Gives the objects to another cluster: its name, its nodes and its table take the place of those here; queues, shares,
    /// users, time-outs and settings stay as they are, with their numbers, versions and history. No node was ever removed
    /// from it, and all its replicas are those with which it is made. `time_ms` is when the backup was made: all nodes of the
    /// new cluster must give the same arguments, and then hold the same records.
    ///
    /// # Errors
    /// Why not, for people: the old cluster was never made, has another number of shards, or the new one cannot be. Nothing
    /// was changed.
    pub fn refound(
        &mut self,
        time_ms: u64,
        cluster: &str,
        nodes: &[(u32, Node)],
        shards: &ShardTable,
    ) -> Result<(), String> {
        if self.counters.cluster.is_empty() {
            return Err("there are no objects: the cluster was never made".to_owned());
        }
        // Nothing that the old replicas' ids could be taken for.
        let table = ShardTable { replicas: shards.replicas.clone(), ..ShardTable::default() };
        check_bootstrap(cluster, nodes, &table).map_err(|refusal| refusal.message)?;
        let had = self.table().replicas.len();
        if had != table.replicas.len() {
            return Err(format!(
                "it is of {had} shards, not of {}: the number of shards never changes",
                table.replicas.len()
            ));
        }
        let last = self.history.values().next_back().map_or(0, |change| change.time_ms);
        let time_ms = time_ms.max(last);
        self.counters.cluster = cluster.to_owned();
        self.counters.gone_nodes.clear();
        let gone: Vec<(String, u32)> = self
            .list(kind::NODE)
            .filter(|old| !nodes.iter().any(|(node, _)| *node == old.id))
            .map(|old| (old.name.clone(), old.id))
            .collect();
        let mut record = |key: Key, json: String, id: u32| self.record(time_ms, key, json, AUTHOR_MOSO.to_owned(), id);
        for (name, id) in gone {
            record((kind::NODE.to_owned(), name), String::new(), id);
        }
        for (number, node) in nodes {
            record((kind::NODE.to_owned(), number.to_string()), check::to_json(node), *number);
        }
        record((kind::SHARDS.to_owned(), SHARDS_NAME.to_owned()), check::to_json(&table), 0);
        Ok(())
    }

    /// A fingerprint of the state: equal on replicas with equal applied index.
    pub fn digest(&self) -> u64 {
        let add = |sum: u64, (key, value): (Vec<u8>, Vec<u8>)| {
            sum.wrapping_add(crate::machine::fingerprint(crate::machine::fingerprint(0, &key), &value))
        };
        self.encode_records().into_iter().fold(0, add)
    }

    /// Live objects of all kinds.
    pub fn objects(&self) -> u64 {
        self.objects.len() as u64
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::meta::{MetaCommand, MetaReply, MetaView};
    use moso_proto::object::{Queue, User};

    fn node(number: u32) -> (u32, Node) {
        let at = |what: &str| format!("{what}{number}:1");
        (number, Node { api: at("a"), peer: at("p"), http: at("h"), zone: String::new(), drain: false })
    }

    fn run(machine: &mut MetaMachine, command: MetaCommand) {
        let reply = machine.apply(5_000, &command.encode()).unwrap();
        assert!(matches!(reply, MetaReply::Ok(_)), "{reply:?}");
    }

    fn put(kind: &str, name: &str, json: String) -> MetaCommand {
        MetaCommand::Put { kind: kind.into(), name: name.into(), json, expected_version: None, author: "ann".into() }
    }

    fn table(nodes: &[u32]) -> ShardTable {
        ShardTable { replicas: vec![nodes.to_vec(), nodes.to_vec()], ..ShardTable::default() }
    }

    /// A cluster of three nodes and two shards; node 3 came later and node 4 has left, a queue was deleted.
    fn old() -> MetaMachine {
        let mut machine = MetaMachine::new();
        let nodes = vec![node(1), node(2), node(4)];
        run(&mut machine, MetaCommand::Bootstrap { cluster: "old".into(), nodes, shards: table(&[1]) });
        run(&mut machine, put(kind::NODE, "3", check::to_json(&node(3).1)));
        let delete = |kind: &str, name: &str| MetaCommand::Delete {
            kind: kind.into(),
            name: name.into(),
            expected_version: None,
            author: "ann".into(),
        };
        run(&mut machine, delete(kind::NODE, "4"));
        run(&mut machine, put(kind::QUEUE, "gone", check::to_json(&Queue::default())));
        run(&mut machine, put(kind::QUEUE, "stays", check::to_json(&Queue::default())));
        run(&mut machine, delete(kind::QUEUE, "gone"));
        run(&mut machine, put(kind::USER, "alice", check::to_json(&User::default())));
        let mut moved = table(&[1]);
        moved.replace(1, Some(1), Some(3)).unwrap();
        run(&mut machine, put(kind::SHARDS, SHARDS_NAME, check::to_json(&moved)));
        machine
    }

    fn copy(machine: &MetaMachine) -> MetaMachine {
        MetaMachine::load(machine.encode_records().into_iter()).unwrap()
    }

    #[test]
    fn objects_stay_and_the_nodes_are_those_of_the_new_cluster() {
        let old = old();
        let mut new = copy(&old);
        new.refound(9_000, "new", &[node(1), node(4), node(7)], &table(&[4, 7])).unwrap();
        let view = MetaView::new(&new).unwrap();
        assert_eq!((new.cluster(), view.nodes().keys().copied().collect::<Vec<_>>()), ("new", vec![1, 4, 7]));
        assert_eq!(view.shards(), &table(&[4, 7]), "no incarnations, nothing leaves");
        for (kind, name) in [(kind::QUEUE, "stays"), (kind::USER, "alice"), (kind::SHARE, "Undefined")] {
            assert_eq!(new.get(kind, name), old.get(kind, name));
            assert_eq!(new.history(kind, name), old.history(kind, name));
        }
        assert!(new.version() > old.version());
        assert_eq!(new.get(kind::NODE, "7").map(|object| (object.id, object.time_ms)), Some((7, 9_000)));
        // Numbers go on where they were.
        run(&mut new, put(kind::QUEUE, "later", check::to_json(&Queue::default())));
        assert_eq!(new.get(kind::QUEUE, "later").unwrap().id, 3);
    }

    #[test]
    fn what_is_written_is_what_is_held_and_the_same_everywhere() {
        let old = old();
        let mut records: std::collections::BTreeMap<_, _> = old.encode_records().into_iter().collect();
        let [mut one, mut two] = [copy(&old), copy(&old)];
        assert_eq!(one.digest(), old.digest());
        for machine in [&mut one, &mut two] {
            machine.refound(9_000, "new", &[node(1), node(4)], &table(&[4, 1])).unwrap();
        }
        assert_eq!(one.encode_records(), two.encode_records());
        assert!(one.digest() == two.digest() && one.digest() != old.digest());
        for (key, value) in one.take_dirty() {
            match value {
                Some(value) => drop(records.insert(key, value)),
                None => drop(records.remove(&key)),
            }
        }
        let held: std::collections::BTreeMap<_, _> = one.encode_records().into_iter().collect();
        assert_eq!(records, held);
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let old = old();
        let mut new = copy(&old);
        let three = ShardTable { replicas: vec![vec![1]; 3], ..ShardTable::default() };
        let error = new.refound(1, "new", &[node(1)], &three).unwrap_err();
        assert!(error.contains("2 shards, not of 3"), "{error}");
        assert!(new.refound(1, "new", &[node(1)], &table(&[2])).unwrap_err().contains("no node 2"));
        assert!(new.refound(1, "", &[node(1)], &table(&[1])).unwrap_err().contains("name"));
        assert_eq!(new.encode_records(), old.encode_records());
        assert!(MetaMachine::new().refound(1, "new", &[node(1)], &table(&[1])).unwrap_err().contains("never made"));
    }
}
