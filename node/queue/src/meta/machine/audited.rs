//! Who did what, written down with the change itself or for itself.

use super::{Key, MetaMachine, Object, Refusal, check, encode_record, limits, tag};
use crate::meta::{AuditEntry, AuditWord};
use moso_proto::Code;
use moso_proto::object::{Setting, kind};
use moso_proto::setting::{self, Schema};

/// Kind of the answer to what was only written down.
const AUDIT_KIND: &str = "audit";

impl MetaMachine {
    /// What was done and tried, newest first.
    pub fn audit(&self) -> impl Iterator<Item = &AuditEntry> {
        self.audit.iter().rev()
    }

    /// Makes a change, and writes down what came of it.
    pub(super) fn change(
        &mut self,
        time_ms: u64,
        word: AuditWord,
        key: Key,
        json: Option<String>,
        expected: Option<u64>,
    ) -> Result<Object, Refusal> {
        let author = word.actor.clone();
        let result = match json {
            Some(json) => self.put(time_ms, key, &json, expected, author),
            None => self.delete(time_ms, key, expected, author),
        };
        let outcome = match &result {
            Ok(object) => format!("version {}", object.version),
            Err(refusal) => format!("{}: {}", refusal.code, refusal.message),
        };
        // Before the bootstrap nobody is known who could have asked.
        if !self.counters.cluster.is_empty() {
            self.add_audit(time_ms, AuditWord { outcome, ..word });
        }
        result
    }

    pub(super) fn write_down(&mut self, time_ms: u64, words: Vec<AuditWord>) -> Result<Object, Refusal> {
        self.check_ready("")?;
        if words.len() > limits::AUDIT_WORDS_MAX {
            let message = format!("at most {} words at once", limits::AUDIT_WORDS_MAX);
            return Err(Refusal::new(Code::TooLarge, message));
        }
        let mut last = 0;
        for word in words {
            last = self.add_audit(time_ms, word);
        }
        let kind = AUDIT_KIND.to_owned();
        let (name, json, author) = (String::new(), String::new(), String::new());
        Ok(Object { kind, name, version: last, json, author, time_ms, id: 0 })
    }

    fn add_audit(&mut self, time_ms: u64, word: AuditWord) -> u64 {
        let most = self.setting(&setting::AUDIT_ENTRIES_MAX);
        let days = self.setting(&setting::AUDIT_DAYS);
        let (entry, dropped) = self.audit.add(time_ms, word, most as usize, days);
        self.dirty.insert(audit_key(entry.seq), Some(encode_record(&entry)));
        for seq in dropped {
            self.dirty.insert(audit_key(seq), None);
        }
        entry.seq
    }

    fn setting(&self, schema: &Schema) -> u64 {
        let object = self.get(kind::SETTING, schema.name);
        let value = object.and_then(|object| check::parse::<Setting>(kind::SETTING, &object.json).ok());
        value.map_or(schema.default, |setting| setting.value)
    }
}

/// `a` and the entry's number, big endian.
pub(super) fn audit_key(seq: u64) -> Vec<u8> {
    [&[tag::AUDIT][..], &seq.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{MetaCommand, MetaReply};
    use moso_proto::object::{Node, ShardTable};

    fn word(action: &str) -> AuditWord {
        AuditWord { actor: "olga".into(), action: action.into(), target: "queue CERN".into(), ..AuditWord::default() }
    }

    fn apply(machine: &mut MetaMachine, time_ms: u64, command: MetaCommand) -> MetaReply {
        machine.apply(time_ms, &command.encode()).unwrap()
    }

    fn ready() -> MetaMachine {
        let mut machine = MetaMachine::new();
        let node =
            Node { api: "h:1".into(), peer: "h:2".into(), http: "h:3".into(), zone: String::new(), drain: false };
        let shards = ShardTable { replicas: vec![vec![1]], ..ShardTable::default() };
        apply(&mut machine, 1, MetaCommand::Bootstrap { cluster: "c".into(), nodes: vec![(1, node)], shards });
        machine
    }

    fn change(json: Option<&str>, expected_version: Option<u64>) -> MetaCommand {
        let (kind, name) = (kind::QUEUE.to_owned(), "CERN".to_owned());
        MetaCommand::Change { word: word("put"), kind, name, json: json.map(str::to_owned), expected_version }
    }

    #[test]
    fn a_change_and_who_made_it_are_one() {
        let mut machine = ready();
        let MetaReply::Ok(object) = apply(&mut machine, 5, change(Some("{}"), None)) else { panic!("refused") };
        assert_eq!(object.author, "olga");
        assert!(matches!(apply(&mut machine, 6, change(None, Some(99))), MetaReply::Refused { .. }));
        apply(&mut machine, 7, MetaCommand::Audit { words: vec![word("kill"), word("backup")] });
        let seen: Vec<_> = machine.audit().map(|e| (e.seq, e.time_ms, e.word.action.as_str())).collect();
        assert_eq!(seen, [(4, 7, "backup"), (3, 7, "kill"), (2, 6, "put"), (1, 5, "put")]);
        let outcomes: Vec<_> = machine.audit().map(|entry| entry.word.outcome.clone()).collect();
        assert_eq!(outcomes[3], format!("version {}", object.version));
        assert!(outcomes[2].starts_with("version_mismatch"), "{outcomes:?}");
        // It comes back from disk, and from a snapshot.
        let again = MetaMachine::load(machine.encode_records().into_iter()).unwrap();
        assert!(again.audit().eq(machine.audit()));
        assert_eq!(again.digest(), machine.digest());
        let dirty: Vec<_> = machine.take_dirty().into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        assert!(MetaMachine::load(dirty.into_iter()).unwrap().audit().eq(machine.audit()));
    }

    #[test]
    fn retention_is_a_setting() {
        let mut machine = ready();
        let keep = MetaCommand::Put {
            kind: kind::SETTING.into(),
            name: setting::AUDIT_ENTRIES_MAX.name.into(),
            json: r#"{"value":100}"#.into(),
            expected_version: None,
            author: "olga".into(),
        };
        apply(&mut machine, 2, keep);
        for n in 0..3 {
            apply(&mut machine, 10 + n, MetaCommand::Audit { words: vec![word("kill"); 99] });
        }
        assert_eq!((machine.audit().count(), machine.audit().next().unwrap().seq), (100, 297));
        let records = machine.encode_records().into_iter().filter(|(key, _)| key[0] == tag::AUDIT).count();
        assert_eq!(records, 100);
        let too_many = MetaCommand::Audit { words: vec![word("kill"); limits::AUDIT_WORDS_MAX + 1] };
        assert!(matches!(apply(&mut machine, 20, too_many), MetaReply::Refused { .. }));
    }
}
