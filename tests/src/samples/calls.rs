//! Bodies of the calls, answers and hints between nodes. They belong to the protocol's version: nodes that speak another
//! one do not talk to each other.

use super::records::class;
use super::{Sample, Value, unknown};
use moso_node::directory::{ShardStatus, Usage};
use moso_node::hints::{HintFrame, NodeHints, QueueHint, ShardHint, WorkerWord};
use moso_node::identity::Principal;
use moso_node::lease_ask::LeaseAsk;
use moso_node::panda::sandbox::{Given, Part, Wanted};
use moso_node::query::{Filter, From, MetaQueryCall, Page, QueryCall, Right, RightfulTargets, Targets};
use moso_node::request::Fault;
use moso_node::router::{HeartbeatAnswer, HeartbeatCall, pack, unpack};
use moso_proto::view::{NodeView, Rejected};
use moso_proto::{Code, JobState};
use moso_queue::command::{ActRefusal, Reply, ResultStatus};
use moso_queue::filter::WorkerOffer;
use moso_queue::meta::Object;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;

fn offer() -> WorkerOffer {
    let class = class();
    WorkerOffer {
        cores: class.cores,
        memory_mib: class.memory_mib,
        disk_mib: class.disk_mib,
        remaining_s: class.wall_time_s,
        resource_type: (*class.resource_type).into(),
        tags: class.tags.iter().map(|tag| (**tag).into()).collect(),
        label: "managed".into(),
        owner: "ada".into(),
    }
}

fn lease_ask() -> LeaseAsk {
    LeaseAsk {
        queue: 3,
        max: 100,
        by_age: true,
        task: Some(5),
        session: 77,
        request: 9,
        worker: "node-1/slot-3".to_owned(),
        offer: (&offer()).into(),
    }
}

fn filter() -> Filter {
    Filter {
        jobs: vec![1, 2],
        tasks: vec![5],
        by_id: true,
        queue: Some(3),
        states: vec![JobState::Activated, JobState::Failed],
        task_states: vec!["ready".to_owned()],
        owner: "ada".to_owned(),
        group: "physics".to_owned(),
        share: Some(2),
        label: "managed".to_owned(),
    }
}

fn node_hints() -> NodeHints {
    let status = ShardStatus {
        shard: 3,
        term: 6,
        commit: 1_000,
        applied: 999,
        lag: 1,
        matched: 990,
        settled: 17,
        live: 50,
        ready: 40,
        leased: 10,
        ended: 5,
        job_bytes: 4_096,
    };
    let queues = vec![QueueHint { queue: 3, ready: 40, top_priority: -7 }];
    let usage = Usage {
        queue_leased: BTreeMap::from([(3, 10)]),
        share_cores: BTreeMap::from([(2, 80)]),
        user_leased: BTreeMap::from([("ada".to_owned(), 10)]),
        ..Usage::default()
    };
    let node = NodeView {
        id: 2,
        api: "127.0.0.1:7402".to_owned(),
        up: true,
        version: "0.1.0".to_owned(),
        leaders: 2,
        rss_bytes: 1 << 30,
        ..NodeView::default()
    };
    NodeHints {
        shards: vec![ShardHint { status, queues }],
        usage: Some(usage),
        node: Some(serde_json::to_string(&node).expect("numbers, texts and lists are JSON")),
        draining: true,
        system_ms: 1_700_000_000_123,
    }
}

fn sandbox_part() -> Part {
    Part { hash: [7; 32], size: 11, at: 6, bytes: b"world".as_slice().into(), copy: 1_234 }
}

fn object() -> Object {
    Object {
        kind: "queue".to_owned(),
        name: "EXAMPLE".to_owned(),
        version: 12,
        json: "{}".to_owned(),
        author: "ops".to_owned(),
        time_ms: 1_700_000_000_000,
        id: 3,
    }
}

fn replies() -> Vec<Reply> {
    vec![
        Reply::Submitted { task: 1, jobs: 3, repeated: true },
        Reply::Leased(vec![(2, 1), (3, 4)]),
        Reply::Results(vec![ResultStatus::Accepted, ResultStatus::Refused(Code::StaleAttempt)]),
        Reply::Acted { changed: 2, refused: vec![(ActRefusal::NotHeld, 1, 4)] },
        Reply::Done,
        Reply::Refused(moso_queue::Refusal::new(Code::Busy, "come back later")),
    ]
}

fn queries() -> Vec<QueryCall> {
    let (filter, limit) = (filter(), 100);
    vec![
        QueryCall::Job { seq: 2, body: true },
        QueryCall::Task { seq: 1 },
        QueryCall::Jobs { filter: filter.clone(), from: From::Live(7), limit },
        QueryCall::Tasks { filter: filter.clone(), from: From::Ended(Some((19_000, 7))), limit },
        QueryCall::Targets { filter: filter.clone(), from: 7, limit },
        QueryCall::RightfulTargets { filter, right: right(), from: 7, limit },
    ]
}

fn meta_queries() -> Vec<MetaQueryCall> {
    let (kind, name) = ("queue".to_owned(), "EXAMPLE".to_owned());
    vec![
        MetaQueryCall::Get { kind: kind.clone(), name: name.clone() },
        MetaQueryCall::List { kind: kind.clone() },
        MetaQueryCall::History { kind, name },
        MetaQueryCall::Audit { since_ms: 1_700_000_000_000, user: "olga".to_owned(), before: 9, limit: 100 },
    ]
}

/// Of a member of a group with its production role.
fn right() -> Right {
    let carol = Principal { user: "carol".into(), production: ["higgs".into()].into(), ..Principal::default() };
    Right::new(&carol, Some(9))
}

fn hint_frames() -> [(&'static str, HintFrame); 4] {
    let word = WorkerWord { session: 77, job: 2, attempt: 1, gone: true };
    let rejected = Rejected { node: 2, reason: "expired".to_owned(), user: "ada".to_owned(), count: 7 };
    [
        ("hints", HintFrame::Hints(Box::new(node_hints()))),
        ("words", HintFrame::Words(vec![word])),
        ("rejected", HintFrame::Rejected(vec![rejected])),
        ("live", HintFrame::Live([("ada".to_owned(), 7)].into())),
    ]
}

pub(super) fn all() -> Vec<Sample> {
    fn numbered<T: Serialize>(what: &str, values: &[T]) -> Vec<Sample> {
        let of = |(number, value): (usize, &T)| Sample::new("call", &format!("{what}-{number}"), pack(value));
        values.iter().enumerate().map(of).collect()
    }
    let fault = Fault { retry_after_ms: 100, leader: 2, ..Fault::new(Code::NotLeader, "shard 3 has no leader") };
    let heartbeat = HeartbeatCall { session: 77, beats: vec![(2, 1, 2), (3, 4, 0)], settled: Some(9) };
    let answer: HeartbeatAnswer = Some((vec![2], vec![(3, 4)], true));
    let targets = Targets { jobs: vec![2], rests: vec![(5, 900)], missing: vec![8], next: Some(9) };
    let rightful = RightfulTargets { targets: targets.clone(), foreign: 1, forbidden: 2, example: 8 };
    let mut all = vec![
        Sample::new("call", "lease", pack(&lease_ask())),
        Sample::new("call", "heartbeat", pack(&heartbeat)),
        Sample::new("call", "heartbeat_answer", pack(&answer)),
        Sample::new("call", "fault", pack(&fault)),
        Sample::new("call", "page", pack(&Page { items: vec![vec![1, 2], Vec::new()], next: Some(From::Start) })),
        Sample::new("call", "targets", pack(&targets)),
        Sample::new("call", "rightful_targets", pack(&rightful)),
        Sample::new("call", "object", pack(&object())),
        Sample::new("call", "sandbox_part", pack(&sandbox_part())),
        Sample::new("call", "sandbox_wanted", pack(&Wanted { hash: [7; 32], at: 6 })),
        Sample::new("call", "sandbox_given", pack::<Given>(&(11, b"world".to_vec()))),
    ];
    all.extend(numbered("reply", &replies()));
    all.extend(numbered("query", &queries()));
    all.extend(numbered("meta_query", &meta_queries()));
    all.extend(hint_frames().iter().map(|(name, frame)| Sample::new("call", &format!("hint-{name}"), frame.encode())));
    all
}

pub(super) fn read(what: &str, bytes: &[u8]) -> Result<Value, String> {
    fn of<T: Debug + Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<Value, String> {
        let value: T = unpack(bytes).map_err(|fault| fault.message)?;
        Ok(Value::new(&value, pack(&value)))
    }
    match what {
        "lease" => of::<LeaseAsk>(bytes),
        "heartbeat" => {
            let call: HeartbeatCall = unpack(bytes).map_err(|fault| fault.message)?;
            Ok(Value::new(&(call.session, &call.beats, call.settled), pack(&call)))
        }
        "heartbeat_answer" => of::<HeartbeatAnswer>(bytes),
        "fault" => of::<Fault>(bytes),
        "page" => of::<Page>(bytes),
        "targets" => of::<Targets>(bytes),
        "rightful_targets" => of::<RightfulTargets>(bytes),
        "object" => of::<Object>(bytes),
        "sandbox_part" => of::<Part>(bytes),
        "sandbox_wanted" => of::<Wanted>(bytes),
        "sandbox_given" => of::<Given>(bytes),
        "reply" => of::<Reply>(bytes),
        "query" => of::<QueryCall>(bytes),
        "meta_query" => of::<MetaQueryCall>(bytes),
        "hint" => {
            let frame = HintFrame::decode(bytes).ok_or("another node's hints cannot be read")?;
            Ok(Value::new(&frame, frame.encode()))
        }
        _ => Err(unknown(what)),
    }
}
