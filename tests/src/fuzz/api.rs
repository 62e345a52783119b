//! What clients and workers send, and what nodes answer.

use super::input::Input;
use super::reached::{self, reached, result};
use super::{seeds_of, wellformed};
use crate::samples::{self, MESSAGES, Sample};
use bytes::Bytes;
use moso_node::api::selector::{Of, read_cursor, scope, write_cursor};
use moso_node::api::{check, frames};
use moso_node::limits::RESULTS_BYTES_MAX;
use moso_node::request::Fault;
use moso_proto::shape::{Shape, too_long};
use moso_proto::{JobState, ShardId, v1};
use moso_queue::command::{Command, EntryBuilder, Reply};
use moso_queue::meta::{MetaCommand, MetaMachine, MetaReply, MetaView};
use moso_queue::{Effects, Machine, check as invariants};
use prost::Message as _;
use rand::{RngCore, SeedableRng};
use std::sync::LazyLock;

/// Shards of the cluster that is asked.
const SHARDS: u16 = 6;

fn fault<T>(outcome: Result<T, Fault>) -> Option<T> {
    result(outcome.map_err(|fault| {
        assert!(!fault.message.is_empty(), "a refusal says why");
        // Not what it is about.
        fault.message.split('"').next().unwrap_or_default().to_owned()
    }))
}

/// Applies a command to an empty shard; its reply.
fn apply(bytes: &[u8]) -> Reply {
    let mut builder = EntryBuilder::default();
    builder.push(bytes);
    let (mut machine, mut replies) = (Machine::new(ShardId(1)), Vec::new());
    machine
        .apply(builder.finish(1_700_000_000_000), &mut Effects::default(), &mut replies)
        .expect("what the API accepts is a command that replicas read");
    assert_eq!(invariants::check(&machine), Ok(()));
    replies.remove(0)
}

/// A submission. What passes the checks is a command that every replica reads as the same.
pub(super) fn submit(data: &[u8]) {
    let Some(request) = result(v1::SubmitRequest::decode(data)) else { return };
    submit_of(request);
}

fn submit_of(request: v1::SubmitRequest) {
    let Some(submit) = fault(check::submit(request, 3, 2, 64 * 1024)) else { return };
    let bytes = check::encode(&submit);
    let Ok(Command::Submit(read)) = Command::decode(Bytes::copy_from_slice(&bytes)) else {
        panic!("a submission that was checked is not read as one");
    };
    let content = read.content;
    assert_eq!(moso_queue::command::Submit { content: submit.content, ..*read }, submit);
    assert_ne!(content, submit.content, "the fingerprint is written");
    match apply(&bytes) {
        Reply::Refused(refusal) => reached::text(refusal.message),
        _ => reached("made"),
    }
}

pub(super) fn submit_seeds() -> Vec<Vec<u8>> {
    named("api/SubmitRequest")
}

fn named(name: &str) -> Vec<Vec<u8>> {
    let all = samples::all().into_iter();
    all.filter(|sample| sample.name.starts_with(name)).map(|sample| sample.bytes).collect()
}

/// A worker's frame. The results that pass are commands of a bounded size, and none is lost.
pub(super) fn worker(data: &[u8]) {
    let Some(frame) = result(v1::WorkerFrame::decode(data)) else { return };
    worker_of(frame);
}

fn worker_of(frame: v1::WorkerFrame) {
    reached((frame.hello.is_some(), frame.lease.is_some(), frame.heartbeat.is_some()).cmp(&(true, true, true)) as i8);
    if let Some(lease) = &frame.lease {
        lease.tags.iter().for_each(|tag| _ = fault(check::name("a tag", tag)));
        _ = fault(check::name("owner", &lease.owner));
    }
    let results: Vec<_> = frame.results.into_iter().filter_map(|result| fault(frames::read(result))).collect();
    let read = results.len();
    let parts = frames::split(results);
    assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), read, "no result is lost");
    for results in parts {
        assert!(!results.is_empty());
        let command = Command::Results { session: 7, results };
        let bytes = command.to_bytes();
        assert!(bytes.len() <= 2 * RESULTS_BYTES_MAX, "{} bytes of results in one command", bytes.len());
        assert_eq!(Command::decode(bytes.clone().into()), Ok(command));
        assert!(matches!(apply(&bytes), Reply::Results(_) | Reply::Refused(_)));
    }
    reached(read.min(4));
}

pub(super) fn worker_seeds() -> Vec<Vec<u8>> {
    named("api/WorkerFrame")
}

fn meta() -> MetaView {
    let mut machine = MetaMachine::new();
    for sample in samples::all().into_iter().filter(|sample| sample.name.starts_with("meta/command-")) {
        machine.apply(1, &sample.bytes).expect("a sample that is read");
    }
    MetaView::new(&machine).expect("objects that were just made")
}

/// A listing or an action: its selector and its cursor.
pub(super) fn select(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    let (selector, cursor) = if kind.is_multiple_of(2) {
        let Some(request) = result(v1::ListRequest::decode(bytes)) else { return };
        (request.selector.unwrap_or_default(), request.cursor)
    } else {
        let Some(request) = result(v1::ActRequest::decode(bytes)) else { return };
        (request.selector.unwrap_or_default(), String::new())
    };
    select_of(&selector, &cursor);
}

fn select_of(selector: &v1::Selector, cursor: &str) {
    if let Some((shard, from)) = fault(read_cursor(cursor)) {
        let text = write_cursor(shard, from);
        assert_eq!(read_cursor(&text).ok(), Some((shard, from)), "{text:?} is another place");
    }
    static META: LazyLock<MetaView> = LazyLock::new(meta);
    for of in [Of::Jobs, Of::Tasks] {
        let Some(scope) = fault(scope(selector, of, &META, SHARDS)) else { continue };
        assert!(scope.filters.keys().all(|shard| (1..=SHARDS).contains(shard)), "only shards that there are");
        let ids: usize = scope.filters.values().map(|filter| filter.jobs.len() + filter.tasks.len()).sum();
        assert!(ids <= selector.jobs.len() + selector.tasks.len());
        let states = |filter: &moso_node::query::Filter| filter.states.iter().all(|s| JobState::ALL.contains(s));
        assert!(scope.filters.values().all(states));
        reached(scope.filters.len());
    }
}

pub(super) fn select_seeds() -> Vec<Vec<u8>> {
    let tagged = |kind: u8, seeds: Vec<Vec<u8>>| {
        seeds.into_iter().map(move |seed| [&[kind], seed.as_slice()].concat()).collect::<Vec<_>>()
    };
    let queue = v1::Selector { queue: "EXAMPLE".into(), states: vec!["failed".into()], ..Default::default() };
    let list = v1::ListRequest { selector: Some(queue), cursor: "2.e.19000.7".into(), limit: 7 };
    let mut seeds = [tagged(0, named("api/ListRequest")), tagged(1, named("api/ActRequest"))].concat();
    seeds.extend(tagged(0, vec![list.encode_to_vec()]));
    seeds
}

/// Any message: the first byte says which. What was read is written and read as the same.
pub(super) fn message(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    let message = &MESSAGES[usize::from(kind) % MESSAGES.len()];
    reached(message.name);
    let Some(value) = result((message.read)(bytes)) else { return };
    let again = (message.read)(value.bytes.as_deref().unwrap_or_default()).expect("what was written is read");
    assert_eq!(again.bytes, value.bytes, "{} comes back as another one", message.name);
    assert!(again.text == value.text || again.text.contains("NaN"), "{} comes back as another one", message.name);
    if message.name == "NodeFrame" {
        merge(bytes);
    }
}

/// Two parts of a frame to a worker lose nothing when they are put together.
fn merge(bytes: &[u8]) {
    let part = v1::NodeFrame::decode(bytes).expect("it was just read");
    let mut out = part.clone();
    frames::merge(&mut out, part.clone());
    assert_eq!(out.commands.len(), 2 * part.commands.len());
    let accepted = |frame: &v1::NodeFrame| frame.results.as_ref().map_or(0, |results| results.accepted.len());
    assert_eq!(accepted(&out), 2 * accepted(&part));
    assert_eq!(out.lease, part.lease, "leases stay");
}

pub(super) fn message_seeds() -> Vec<Vec<u8>> {
    let tagged = |(kind, sample): (usize, Vec<u8>)| [&[kind as u8], sample.as_slice()].concat();
    let all: Vec<Sample> = samples::all().into_iter().filter(|sample| sample.kind() == "api").collect();
    assert_eq!(all.len(), MESSAGES.len(), "samples stand in the order of the messages");
    seeds_of(&["api"]).into_iter().enumerate().map(tagged).collect()
}

/// A call with a valid message of any contents: the first byte says which.
pub(super) fn call(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 7 {
        0 => {
            let request = wellformed::submit(&mut input);
            shape(&request, &[request.jobs.len()]);
            submit_of(request);
        }
        1 => {
            let frame = wellformed::submit_frame(&mut input);
            let jobs =
                frame.submissions.iter().filter_map(|one| one.request.as_ref()).map(|request| request.jobs.len());
            shape(&frame, &[frame.submissions.len(), jobs.sum()]);
            frame.submissions.into_iter().filter_map(|one| one.request).for_each(submit_of);
        }
        2 => {
            let frame = wellformed::worker_frame(&mut input);
            shape(&frame, &[frame.results.len()]);
            worker_of(frame);
        }
        3 => {
            let request = wellformed::list(&mut input);
            shape(&request, &[]);
            select_of(&request.selector.unwrap_or_default(), &request.cursor);
        }
        4 => {
            let request = wellformed::act(&mut input);
            shape(&request, &[]);
            select_of(&request.selector.unwrap_or_default(), "");
        }
        _ => put(wellformed::object(&mut input)),
    }
}

/// What is said of a message before it is read is so.
fn shape<M: Shape + prost::Message>(message: &M, lists: &[usize]) {
    let fits = lists.iter().zip(M::LISTS).all(|(items, list)| *items <= list.max);
    assert!(fits, "a message made of an input is small");
    assert_eq!(too_long::<M>(&message.encode_to_vec()), None, "what fits is taken for too long");
}

/// A change of an object. What is taken can be read by every node; what is refused changes nothing.
fn put(request: v1::PutObjectRequest) {
    let v1::PutObjectRequest { kind, name, json, expected_version, author } = request;
    static MACHINE: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| named("meta/command-"));
    let mut machine = MetaMachine::new();
    MACHINE.iter().for_each(|command| drop(machine.apply(1, command).expect("a sample that is read")));
    if fault(check::name("name", &name)).is_none() || fault(check::name("author", &author)).is_none() {
        return;
    }
    let before = machine.version();
    let put = MetaCommand::Put { kind, name, json, expected_version, author };
    match machine.apply(2, &put.encode()).expect("a command that was just made is read") {
        MetaReply::Ok(object) => reached(object.kind),
        MetaReply::Refused { code, message } => {
            assert!(!message.is_empty(), "a refusal says why");
            assert_eq!(machine.version(), before, "a refused change changed something");
            reached(code);
        }
    }
    assert!(MetaView::new(&machine).is_ok(), "an object that was taken cannot be read");
}

pub(super) fn call_seeds() -> Vec<Vec<u8>> {
    // Bytes that mean little make messages all the same.
    let mut rng = rand::rngs::SmallRng::seed_from_u64(7);
    let seed = |number: u8| {
        let mut bytes = vec![0; 400];
        rng.fill_bytes(&mut bytes);
        // Small numbers choose small lists and usual texts more often.
        bytes.iter_mut().step_by(3).for_each(|byte| *byte %= 12);
        bytes[0] = number;
        bytes
    };
    (0..7).cycle().take(70).map(seed).collect()
}
