//! Commands and records of the meta group.

use super::{Sample, Value, unknown};
use moso_proto::object::{Node, ShardTable};
use moso_queue::meta::{AuditWord, MetaCommand, MetaMachine, MetaView};

const NOW_MS: u64 = 1_700_000_000_000;

fn node(number: u32) -> (u32, Node) {
    let at = |port: u32| format!("127.0.0.1:{}", port + number);
    (number, Node { api: at(7400), peer: at(7500), http: at(7600), zone: format!("rack-{number}"), drain: number == 3 })
}

fn put(kind: &str, name: &str, json: &str, expected_version: Option<u64>) -> MetaCommand {
    MetaCommand::Put {
        kind: kind.to_owned(),
        name: name.to_owned(),
        json: json.to_owned(),
        expected_version,
        author: "ops".to_owned(),
    }
}

fn commands() -> Vec<(&'static str, MetaCommand)> {
    let shards = ShardTable { replicas: vec![vec![1, 2, 3], vec![2, 3, 1]], ..ShardTable::default() };
    let bootstrap =
        MetaCommand::Bootstrap { cluster: "sample".to_owned(), nodes: vec![node(1), node(2), node(3)], shards };
    let queue = r#"{"state":"brokeroff","reason":"downtime","until_ms":1,"lease_ttl_ms":60000,"heartbeat_ms":15000,"max_running":7,"max_memory_mib":8,"max_wall_time_s":9,"tags":["gpu"]}"#;
    let timeouts = r#"{"rows":[{"state":"sent","label":"managed","queue":"EXAMPLE","limit_s":600,"since":"change","action":"fail","code":102}]}"#;
    vec![
        ("command-bootstrap", bootstrap),
        ("command-put_queue", put("queue", "EXAMPLE", queue, None)),
        ("command-put_share", put("share", "Analysis", r#"{"target":0.25}"#, Some(0))),
        ("command-put_user", put("user", "ada", r#"{"max_running":100,"banned":true}"#, None)),
        ("command-put_timeouts", put("timeouts", "default", timeouts, None)),
        ("command-put_setting", put("setting", "sloppy_dispatch_percent", r#"{"value":11}"#, None)),
        (
            "command-delete",
            MetaCommand::Delete {
                kind: "share".to_owned(),
                name: "Analysis".to_owned(),
                expected_version: None,
                author: "ops".to_owned(),
            },
        ),
    ]
}

/// Of callers that the nodes know.
fn audited_commands() -> Vec<(&'static str, MetaCommand)> {
    let word = |action: &str, target: &str, outcome: &str| AuditWord {
        actor: "olga".to_owned(),
        action: action.to_owned(),
        target: target.to_owned(),
        outcome: outcome.to_owned(),
        node: 2,
    };
    let change = |json: Option<&str>, version| MetaCommand::Change {
        word: word(if json.is_some() { "put" } else { "delete" }, "share User", ""),
        kind: "share".to_owned(),
        name: "User".to_owned(),
        json: json.map(str::to_owned),
        expected_version: version,
    };
    let words =
        vec![word("kill", "task 7", "3 of 4 changed, 3 of others"), word("refused", "backup shard 1", "forbidden")];
    vec![
        ("command-change", change(Some(r#"{"target":3.0}"#), None)),
        ("command-change_delete", change(None, Some(99))),
        ("command-audit", MetaCommand::Audit { words }),
    ]
}

/// A machine that has applied these.
fn machine(commands: Vec<(&'static str, MetaCommand)>) -> MetaMachine {
    let mut machine = MetaMachine::new();
    for (number, (_, command)) in (0..).zip(commands) {
        machine.apply(NOW_MS + number, &command.encode()).expect("a command that was just encoded");
    }
    machine
}

/// Records as one file: length of the key, two bytes, the key; length of the value, four bytes, the value.
pub(crate) fn join_records(records: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        out.extend((key.len() as u16).to_le_bytes());
        out.extend(key);
        out.extend((value.len() as u32).to_le_bytes());
        out.extend(value);
    }
    out
}

/// The records of such a file, as far as they are whole.
pub(crate) fn split_records(mut bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    fn part<'a>(bytes: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
        let (length, rest) = bytes.split_at_checked(width)?;
        let length = length.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let (part, rest) = rest.split_at_checked(length)?;
        *bytes = rest;
        Some(part)
    }
    let mut records = Vec::new();
    while let Some(key) = part(&mut bytes, 2) {
        let Some(value) = part(&mut bytes, 4) else { break };
        records.push((key.to_vec(), value.to_vec()));
    }
    records
}

pub(super) fn all() -> Vec<Sample> {
    let both = || [commands(), audited_commands()].concat();
    let mut all: Vec<Sample> =
        both().iter().map(|(name, command)| Sample::new("meta", name, command.encode())).collect();
    all.push(Sample::new("meta", "records", join_records(&machine(commands()).encode_records())));
    all.push(Sample::new("meta", "records-audited", join_records(&machine(both()).encode_records())));
    all
}

pub(super) fn read(what: &str, bytes: &[u8]) -> Result<Value, String> {
    match what {
        "command" => {
            let command = MetaCommand::decode(bytes).map_err(|error| error.to_string())?;
            Ok(Value::new(&command, command.encode()))
        }
        "records" => {
            let records = split_records(bytes);
            let machine = MetaMachine::load(records.into_iter()).map_err(|error| error.to_string())?;
            let view = MetaView::new(&machine).map_err(|error| error.to_string())?;
            let again = join_records(&machine.encode_records());
            Ok(Value::new(&(machine, view), again))
        }
        _ => Err(unknown(what)),
    }
}
