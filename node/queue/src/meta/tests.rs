#![allow(clippy::unwrap_used)]

use super::*;
use moso_proto::Code;
use moso_proto::object::{Node, Queue, QueueState, Setting, ShardTable, Share, Timeouts, User, kind};
use moso_proto::{ShardId, setting};
use std::collections::BTreeMap;

fn bootstrap() -> MetaCommand {
    let node = |n: u32| Node {
        api: format!("h{n}:1"),
        peer: format!("h{n}:2"),
        http: format!("h{n}:3"),
        zone: String::new(),
        drain: false,
    };
    MetaCommand::Bootstrap {
        cluster: "test".to_owned(),
        nodes: (1..=3).map(|n| (n, node(n))).collect(),
        shards: ShardTable { replicas: vec![vec![1, 2, 3], vec![2, 3, 1]], ..ShardTable::default() },
    }
}

fn put(kind: &str, name: &str, json: &str, expected_version: Option<u64>) -> MetaCommand {
    MetaCommand::Put {
        kind: kind.to_owned(),
        name: name.to_owned(),
        json: json.to_owned(),
        expected_version,
        author: "ann".to_owned(),
    }
}

fn delete(kind: &str, name: &str, expected_version: Option<u64>) -> MetaCommand {
    MetaCommand::Delete { kind: kind.to_owned(), name: name.to_owned(), expected_version, author: "bob".to_owned() }
}

fn run(machine: &mut MetaMachine, time_ms: u64, command: &MetaCommand) -> MetaReply {
    machine.apply(time_ms, &command.encode()).unwrap()
}

fn ready() -> MetaMachine {
    let mut machine = MetaMachine::new();
    assert!(matches!(run(&mut machine, 1_000, &bootstrap()), MetaReply::Ok(_)));
    machine
}

/// One line per reply: `kind/name v<version> id<id> <json>` or the code and the message.
fn line(reply: &MetaReply) -> String {
    match reply {
        MetaReply::Ok(o) => format!("{}/{} v{} id{} {}", o.kind, o.name, o.version, o.id, o.json),
        MetaReply::Refused { code, message } => format!("{code}: {message}"),
    }
}

/// Applies the commands to a new cluster and compares the replies.
fn check_replies(table: &[(MetaCommand, String)]) {
    let mut machine = ready();
    for (command, expected) in table {
        assert_eq!(&line(&run(&mut machine, 2_000, command)), expected);
    }
}

fn queue_json(state: &str) -> String {
    format!(
        r#"{{"state":"{state}","reason":"","until_ms":0,"lease_ttl_ms":60000,"heartbeat_ms":15000,"max_running":0,"max_memory_mib":0,"max_wall_time_s":0,"tags":[]}}"#
    )
}

#[test]
fn replies_to_changes_of_queues() {
    let short = |ttl: u32, beat: u32| format!(r#"{{"lease_ttl_ms":{ttl},"heartbeat_ms":{beat}}}"#);
    let (paused, online) = (queue_json("paused"), queue_json("online"));
    let queue = |name: &str, json: &str, expected| put(kind::QUEUE, name, json, expected);
    check_replies(&[
        (queue("CERN", r#"{"state":"paused"}"#, Some(0)), format!("queue/CERN v7 id1 {paused}")),
        (queue("CERN", "{}", Some(0)), r#"version_mismatch: queue "CERN" has version 7, not version 0"#.to_owned()),
        (queue("CERN", "{}", Some(7)), format!("queue/CERN v8 id1 {online}")),
        (queue("BNL", "{}", Some(3)), r#"version_mismatch: queue "BNL" does not exist, not version 3"#.to_owned()),
        (queue("BNL", "{}", None), format!("queue/BNL v9 id2 {online}")),
        (
            queue("a b", "{}", None),
            r#"invalid: queue name "a b": only letters, digits and . _ : - are allowed"#.to_owned(),
        ),
        (queue("", "{}", None), "invalid: a name has 1 to 128 bytes, not 0".to_owned()),
        (queue("X", &short(14_999, 1_000), None), "invalid: lease_ttl_ms is 15000 to 86400000, not 14999".to_owned()),
        (
            queue("X", &short(20_000, 10_001), None),
            "invalid: heartbeat_ms is 1000 to half of lease_ttl_ms (10000), not 10001".to_owned(),
        ),
    ]);
}

#[test]
fn replies_to_changes_of_other_kinds() {
    check_replies(&[
        (put(kind::SHARE, "User", r#"{"target":2.5}"#, None), r#"share/User v7 id2 {"target":2.5}"#.to_owned()),
        (
            put(kind::SHARE, "User", r#"{"target":-1}"#, None),
            "invalid: target of a share is a number from 0 to 1000000000, not -1".to_owned(),
        ),
        (
            put(kind::SETTING, "archive_days", r#"{"value":0}"#, None),
            "invalid: archive_days is 1 to 3650 days, not 0".to_owned(),
        ),
        (
            put(kind::SETTING, "archive_days", r#"{"value":9}"#, None),
            r#"setting/archive_days v8 id0 {"value":9}"#.to_owned(),
        ),
        (
            put(kind::SHARDS, "table", r#"{"replicas":[[1,2,3]]}"#, None),
            "invalid: the cluster was made with 2 shards; the number never changes (asked: 1)".to_owned(),
        ),
        (put(kind::SHARDS, "table", r#"{"replicas":[[1,2],[4]]}"#, None), "invalid: there is no node 4".to_owned()),
        (
            put(kind::SHARDS, "table", r#"{"replicas":[[1,1],[2]]}"#, None),
            "invalid: shard 1 names a node twice".to_owned(),
        ),
        (
            put(kind::NODE, "04", "{}", None),
            r#"invalid: a node is named by its number from 1 upward, not "04""#.to_owned(),
        ),
        (
            put(kind::NODE, "4", r#"{"api":"h","peer":"h:1","http":"h:1"}"#, None),
            "invalid: api is host:port of at most 300 bytes".to_owned(),
        ),
    ]);
}

#[test]
fn an_unknown_setting_is_answered_with_the_known_ones() {
    let unknown = put(kind::SETTING, "sloppy", r#"{"value":1}"#, None);
    let reply = line(&run(&mut ready(), 2_000, &unknown));
    assert!(reply.starts_with(r#"invalid: no setting is named "sloppy"; there are "#));
    assert!(setting::ALL.iter().all(|s| reply.contains(s.name)));
}

#[test]
fn replies_to_deletes() {
    let online = queue_json("online");
    check_replies(&[
        (put(kind::QUEUE, "CERN", "{}", None), format!("queue/CERN v7 id1 {online}")),
        (delete(kind::NODE, "1", None), "wrong_state: node 1 holds a replica of shard 1: drain it first".to_owned()),
        (delete(kind::SHARE, "Undefined", None), r#"wrong_state: jobs without a share are in "Undefined""#.to_owned()),
        (
            delete(kind::QUEUE, "CERN", Some(1)),
            r#"version_mismatch: queue "CERN" has version 7, not version 1"#.to_owned(),
        ),
        (delete(kind::QUEUE, "CERN", Some(7)), "queue/CERN v8 id1 ".to_owned()),
        (delete(kind::QUEUE, "CERN", None), r#"not_found: there is no queue named "CERN""#.to_owned()),
        (put(kind::QUEUE, "CERN", "{}", Some(0)), format!("queue/CERN v9 id2 {online}")),
    ]);
}

#[test]
fn malformed_json_and_unknown_kinds_are_refused_without_a_change() {
    let mut machine = ready();
    let before = machine.encode_records();
    let deep = "[".repeat(50_000);
    for (kind, name, json) in [
        (kind::QUEUE, "Q", r#"{"sate":"online"}"#),
        (kind::QUEUE, "Q", r#"{"state":"on"}"#),
        (kind::QUEUE, "Q", "{} {}"),
        (kind::QUEUE, "Q", ""),
        (kind::QUEUE, "Q", deep.as_str()),
        (kind::SHARE, "S", r#"{"target":1e999}"#),
        (kind::USER, "u\0", "{}"),
        (kind::TIMEOUTS, "other", r#"{"rows":[]}"#),
        ("quue", "Q", "{}"),
    ] {
        match run(&mut machine, 2_000, &put(kind, name, json, None)) {
            MetaReply::Refused { code, message } => {
                assert_eq!(code, Code::Invalid, "{message}");
                assert!(message.len() <= limits::MESSAGE_BYTES_MAX + 4);
            }
            MetaReply::Ok(object) => panic!("accepted {object:?}"),
        }
    }
    assert_eq!(machine.encode_records(), before);
}

#[test]
fn sizes_are_limited() {
    let mut machine = ready();
    let code = |machine: &mut MetaMachine, command: &MetaCommand| match run(machine, 1, command) {
        MetaReply::Refused { code, .. } => Some(code),
        MetaReply::Ok(_) => None,
    };
    let long = format!("{{{}}}", " ".repeat(limits::JSON_BYTES_MAX));
    assert_eq!(code(&mut machine, &put(kind::QUEUE, "Q", &long, None)), Some(Code::TooLarge));
    let name = |n: usize| "q".repeat(n);
    assert_eq!(code(&mut machine, &put(kind::QUEUE, &name(129), "{}", None)), Some(Code::Invalid));
    assert_eq!(code(&mut machine, &put(kind::QUEUE, &name(128), "{}", None)), None);
    let rows = |n: usize| {
        let row = Timeouts::default().rows[0].clone();
        serde_json::to_string(&Timeouts { rows: vec![row; n] }).unwrap()
    };
    assert_eq!(code(&mut machine, &put(kind::TIMEOUTS, "default", &rows(257), None)), Some(Code::Invalid));
    assert_eq!(code(&mut machine, &put(kind::TIMEOUTS, "default", &rows(256), None)), None);
    let author = MetaCommand::Delete {
        kind: kind::QUEUE.to_owned(),
        name: name(128),
        expected_version: None,
        author: "a".repeat(257),
    };
    assert_eq!(code(&mut machine, &author), Some(Code::TooLarge));
}

#[test]
fn the_number_of_objects_is_limited() {
    let mut machine = ready();
    let here = machine.encode_records().len() - 1 - usize::try_from(machine.version()).unwrap();
    for n in here..limits::OBJECTS_MAX {
        let reply = run(&mut machine, 1, &put(kind::USER, &format!("u{n}"), "{}", None));
        assert!(matches!(reply, MetaReply::Ok(_)), "{reply:?}");
    }
    let one_more = run(&mut machine, 1, &put(kind::USER, "one more", "{}", None));
    assert_eq!(line(&one_more), "too_large: there are 100000 objects already");
    let known = put(kind::USER, "u50000", r#"{"banned":true}"#, None);
    assert!(matches!(run(&mut machine, 1, &known), MetaReply::Ok(_)));
    run(&mut machine, 1, &delete(kind::USER, "u50000", None));
    assert!(matches!(run(&mut machine, 1, &put(kind::USER, "one more", "{}", None)), MetaReply::Ok(_)));
}

#[test]
fn the_bootstrap_happens_once() {
    let mut machine = MetaMachine::new();
    let early = run(&mut machine, 5, &put(kind::QUEUE, "Q", "{}", None));
    assert_eq!(line(&early), "unavailable: the cluster is not made yet");
    assert_eq!(machine.version(), 0);

    let first = run(&mut machine, 10, &bootstrap());
    assert_eq!(
        line(&first),
        r#"shards/table v6 id0 {"replicas":[[1,2,3],[2,3,1]],"incarnations":[],"leaving":{},"last_incarnation":0}"#
    );
    let records = machine.encode_records();
    let mut other = bootstrap();
    if let MetaCommand::Bootstrap { cluster, .. } = &mut other {
        "another".clone_into(cluster);
    }
    assert_eq!(run(&mut machine, 20, &other), first);
    assert_eq!(machine.encode_records(), records);
    assert_eq!(machine.cluster(), "test");
}

#[test]
fn a_bootstrap_with_unknown_nodes_changes_nothing() {
    let mut machine = MetaMachine::new();
    let mut command = bootstrap();
    if let MetaCommand::Bootstrap { shards, .. } = &mut command {
        shards.replicas[1][2] = 9;
    }
    let reply = run(&mut machine, 10, &command);
    assert_eq!(line(&reply), "invalid: there is no node 9");
    assert_eq!(machine.take_dirty(), Vec::new());
    assert_eq!(machine.version(), 0);
}

#[test]
fn commands_that_cannot_be_read_stop_the_replica() {
    let mut machine = ready();
    let before = machine.encode_records();
    let good = put(kind::QUEUE, "Q", "{}", None).encode();
    let mut newer = good.clone();
    newer[0] = 2;
    let mut longer = good.clone();
    longer.push(0);
    for bytes in [&[][..], &newer, &longer, &good[..good.len() - 1], &[1, 200]] {
        assert!(machine.apply(1, bytes).is_err(), "{bytes:?}");
    }
    assert_eq!(machine.encode_records(), before);
}

#[test]
fn the_history_is_newest_first_and_bounded() {
    let mut machine = ready();
    for value in 1..=150 {
        let json = format!(r#"{{"value":{value}}}"#);
        run(&mut machine, 1_000 + value, &put(kind::SETTING, "archive_days", &json, None));
    }
    run(&mut machine, 2_000, &delete(kind::SETTING, "archive_days", None));
    let history = machine.history(kind::SETTING, "archive_days");
    assert_eq!(history.len(), limits::HISTORY_CHANGES_MAX);
    assert_eq!((history[0].json.as_str(), history[0].time_ms), ("", 2_000));
    assert_eq!(history[0].author, "bob");
    assert_eq!(history[1].json, r#"{"value":150}"#);
    assert_eq!(history[99].json, r#"{"value":52}"#);
    assert!(machine.get(kind::SETTING, "archive_days").is_none());
    // The records of dropped changes go too: counters, objects, and the changes of this and of the bootstrap.
    assert_eq!(machine.encode_records().len(), 1 + 6 + limits::HISTORY_CHANGES_MAX + 6);
}

/// A mix of changes, some refused, over few names so that objects are deleted and made again.
fn churn(seed: u64, steps: u64) -> Vec<(u64, Vec<u8>)> {
    let mut state = seed | 1;
    let mut draw = move |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let mut commands = vec![(1_000, bootstrap().encode())];
    for step in 0..steps {
        let kind = [kind::QUEUE, kind::SHARE, kind::USER][draw(3) as usize];
        let name = format!("n{}", draw(4));
        let expected = [None, Some(0), Some(draw(steps))][draw(3) as usize];
        let command = match draw(3) {
            0 => delete(kind, &name, None),
            _ => put(kind, &name, "{}", expected),
        };
        commands.push((2_000 + step, command.encode()));
    }
    commands
}

#[test]
fn equal_logs_give_equal_states_and_records_load_back() {
    for seed in 1..=5 {
        let (mut one, mut two) = (MetaMachine::new(), MetaMachine::new());
        let mut disk = BTreeMap::new();
        for (step, (time_ms, command)) in churn(seed, 2_000).iter().enumerate() {
            let reply = one.apply(*time_ms, command).unwrap();
            assert_eq!(two.apply(*time_ms, command).unwrap(), reply);
            for (key, value) in one.take_dirty() {
                match value {
                    Some(value) => disk.insert(key, value),
                    None => disk.remove(&key),
                };
            }
            // Now and then one replica restarts from its disk.
            if step % 97 == 0 {
                one = MetaMachine::load(disk.clone().into_iter()).unwrap();
            }
        }
        let records: BTreeMap<_, _> = two.encode_records().into_iter().collect();
        assert_eq!(records, disk);
        assert_eq!(one.encode_records(), two.encode_records());
        for name in ["n0", "n1", "n2", "n3"] {
            assert_eq!(one.history(kind::QUEUE, name), two.history(kind::QUEUE, name));
        }
    }
}

#[test]
fn numbers_are_never_used_twice() {
    let mut machine = MetaMachine::new();
    let mut owners: BTreeMap<(String, u32), u64> = BTreeMap::new();
    let mut live: BTreeMap<(String, String), u32> = BTreeMap::new();
    for (time_ms, command) in churn(7, 3_000) {
        let MetaReply::Ok(object) = machine.apply(time_ms, &command).unwrap() else {
            continue;
        };
        if ![kind::QUEUE, kind::SHARE, kind::USER].contains(&object.kind.as_str()) {
            continue;
        }
        let key = (object.kind.clone(), object.name.clone());
        if object.json.is_empty() {
            assert_eq!(live.remove(&key), Some(object.id));
        } else if let Some(id) = live.insert(key, object.id) {
            assert_eq!(id, object.id);
        } else {
            let earlier = owners.insert((object.kind, object.id), object.version);
            assert_eq!(earlier, None, "number {} given twice", object.id);
        }
    }
    assert!(owners.len() > 100, "{}", owners.len());
}

#[test]
fn damaged_records_are_refused() {
    let records = ready().encode_records();
    type Record = (Vec<u8>, Vec<u8>);
    let load = |change: fn(&mut Record)| {
        let mut records = records.clone();
        change(&mut records[1]);
        MetaMachine::load(records.into_iter())
    };
    assert!(load(|_| ()).is_ok());
    assert!(load(|r| r.1[0] = 9).is_err());
    assert!(load(|r| r.1.truncate(5)).is_err());
    assert!(load(|r| r.1.clear()).is_err());
    assert!(load(|r| r.0[0] = b'?').is_err());
}

#[test]
fn the_view_shows_typed_objects_and_defaults() {
    let mut machine = ready();
    let queue = Queue { state: QueueState::Brokeroff, until_ms: 5_000, max_running: 7, ..Queue::default() };
    let text = serde_json::to_string(&queue).unwrap();
    run(&mut machine, 1, &put(kind::QUEUE, "CERN", &text, None));
    let text = serde_json::to_string(&Share { target: 3.0 }).unwrap();
    run(&mut machine, 1, &put(kind::SHARE, "User", &text, None));
    run(&mut machine, 1, &put(kind::USER, "*", r#"{"max_running":10000}"#, None));
    run(&mut machine, 1, &put(kind::USER, "eve", r#"{"banned":true}"#, None));
    let text = serde_json::to_string(&Setting { value: 8 }).unwrap();
    run(&mut machine, 1, &put(kind::SETTING, "archive_days", &text, None));
    let view = MetaView::new(&machine).unwrap();

    assert_eq!(view.version(), machine.version());
    assert_eq!(view.cluster(), "test");
    let cern = view.queue("CERN").unwrap();
    assert_eq!((cern.id, &cern.queue), (1, &queue));
    assert_eq!(view.queue_by_id(1), Some(cern));
    assert_eq!(view.queue_by_id(2), None);
    assert_eq!(cern.state_at(4_999), QueueState::Brokeroff);
    assert_eq!(cern.state_at(5_000), QueueState::Online);
    assert!(!cern.takes_jobs(4_999) && cern.gives_leases(4_999) && cern.takes_jobs(5_000));

    assert_eq!(view.share("").map(|s| (s.id, s.name.as_str())), Some((1, SHARE_UNDEFINED)));
    assert_eq!(view.share_by_id(2).map(|s| (s.name.as_str(), s.target)), Some(("User", 3.0)));
    assert_eq!(view.shares().len(), 2);
    let caps = |name: &str| {
        let User { max_running, banned, .. } = view.user(name);
        (*max_running, *banned)
    };
    assert_eq!((caps("ann"), caps("eve")), ((10_000, false), (0, true)));
    assert_eq!(view.setting(&setting::ARCHIVE_DAYS), 8);
    assert_eq!(view.setting(&setting::LEASE_GRACE_MS), setting::LEASE_GRACE_MS.default);
    assert_eq!(view.timeouts(), &Timeouts::default());
    assert_eq!(view.nodes().keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(view.node(2).map(|n| n.api.as_str()), Some("h2:1"));
    assert_eq!(view.replicas(ShardId(2)), [2, 3, 1]);
    assert!(view.replicas(ShardId(3)).is_empty() && view.replicas(ShardId::META).is_empty());
}

#[test]
fn a_deleted_queue_leaves_the_view_and_comes_back_under_a_new_number() {
    let mut machine = ready();
    run(&mut machine, 1, &put(kind::QUEUE, "Q", "{}", None));
    run(&mut machine, 1, &delete(kind::QUEUE, "Q", None));
    let gone = MetaView::new(&machine).unwrap();
    assert!(gone.queue("Q").is_none() && gone.queue_by_id(1).is_none());
    run(&mut machine, 1, &put(kind::QUEUE, "Q", "{}", None));
    let back = MetaView::new(&machine).unwrap();
    assert_eq!(back.queue("Q").map(|q| q.id), Some(2));
    assert!(back.queue_by_id(1).is_none());
}

#[test]
fn the_feature_level_rises_and_never_falls() {
    let mut machine = ready();
    let name = setting::FEATURE_LEVEL.name;
    let level = |machine: &MetaMachine| MetaView::new(machine).unwrap().level();
    assert_eq!(level(&machine), 1);
    for (value, after) in [(2, 2), (1, 2), (7, 7), (7, 7), (3, 7)] {
        run(&mut machine, 1, &put(kind::SETTING, name, &format!("{{\"value\":{value}}}"), None));
        assert_eq!(level(&machine), after);
    }
    let refused = run(&mut machine, 1, &delete(kind::SETTING, name, None));
    assert!(matches!(refused, MetaReply::Refused { code: Code::Invalid, .. }), "{refused:?}");
    assert_eq!(level(&machine), 7);
}
