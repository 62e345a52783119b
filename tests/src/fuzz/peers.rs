//! What other nodes send: frames, the bodies of calls, hints.

use super::reached::{reached, result};
use super::seeds_of;
use crate::samples::peers::{encoded, frames_of};
use crate::samples::{self, Sample};
use bytes::Bytes;
use moso_node::clock::Clock;
use moso_node::directory::{Counters, Directory, ShardSlot};
use moso_node::disk::{Disk, Limits};
use moso_node::hints::{self, HintFrame};
use moso_node::peer::frame::{Frame, ReadError};
use moso_node::sessions::Sessions;
use moso_queue::Command;
use moso_queue::meta::MetaCommand;
use std::sync::{Arc, LazyLock};

/// Kinds of bodies, by the first byte of an input.
const BODIES: [&str; 15] = [
    "lease",
    "heartbeat",
    "heartbeat_answer",
    "fault",
    "page",
    "targets",
    "object",
    "reply",
    "query",
    "meta_query",
    "hint",
    "rightful_targets",
    "sandbox_part",
    "sandbox_wanted",
    "sandbox_given",
];
/// Shards of the directory that hints come to.
const SHARDS: u16 = 4;

fn check_frame(frame: &Frame) {
    let bytes = encoded(frame);
    let (again, end) = frames_of(&bytes, true);
    assert!(matches!(end, ReadError::Closed), "an encoded frame is not read: {end:?}");
    assert_eq!(again, std::slice::from_ref(frame), "a frame comes back as another one");
    reached(bytes[8]);
}

fn check_frames(bytes: &[u8], trusted: bool) {
    let (frames, end) = frames_of(bytes, trusted);
    frames.iter().for_each(check_frame);
    match end {
        ReadError::Closed => reached("closed"),
        ReadError::Malformed(why) => reached(why),
    }
}

/// Bytes as they come from the socket of who has not said who he is.
pub(super) fn stranger(data: &[u8]) {
    check_frames(data, false);
}

/// Bytes as they come from the socket of a known node.
pub(super) fn stream(data: &[u8]) {
    check_frames(data, true);
}

pub(super) fn stream_seeds() -> Vec<Vec<u8>> {
    let mut seeds = seeds_of(&["peer"]);
    seeds.push(seeds.concat());
    seeds
}

/// One frame with a right length and a right checksum.
pub(super) fn frame(data: &[u8]) {
    let head = [(data.len() as u32).to_le_bytes(), crc32c::crc32c(data).to_le_bytes()].concat();
    check_frames(&[&head, data].concat(), true);
}

pub(super) fn frame_seeds() -> Vec<Vec<u8>> {
    seeds_of(&["peer"]).into_iter().map(|frame| frame[8..].to_vec()).collect()
}

/// The body of a call, an answer or a hint: the first byte says of which kind.
pub(super) fn call(data: &[u8]) {
    let Some((&kind, body)) = data.split_first() else { return };
    match BODIES.get(usize::from(kind)) {
        Some(what) => {
            let name = format!("call/{what}");
            let Some(value) = result(samples::read(&name, body)) else { return };
            // More than one encoding of a value may be read, but what is written is read as the same.
            let bytes = value.bytes.expect("calls are encoded in whole");
            let again = samples::read(&name, &bytes).expect("what was written is read");
            assert_eq!(again.text, value.text, "{what} comes back as another one");
            assert_eq!(again.bytes, Some(bytes), "{what} is written in two ways");
        }
        // As the handler does before it proposes what another node sent.
        None if usize::from(kind) == BODIES.len() => drop(result(Command::decode(Bytes::copy_from_slice(body)))),
        None => drop(result(MetaCommand::decode(body))),
    }
}

pub(super) fn call_seeds() -> Vec<Vec<u8>> {
    let tagged = |sample: Sample| {
        let name = sample.name.trim_start_matches("call/");
        let what = name.split_once('-').map_or(name, |(what, _)| what);
        let kind = BODIES.iter().position(|body| *body == what).expect("all bodies are listed");
        [&[kind as u8], sample.bytes.as_slice()].concat()
    };
    samples::all().into_iter().filter(|sample| sample.kind() == "call").map(tagged).collect()
}

fn directory() -> Directory {
    let directory = Directory {
        node: 1,
        cluster: "sample".to_owned(),
        shards: (1..=SHARDS).map(|shard| ShardSlot::new(shard, vec![1, 2, 3])).collect(),
        meta_leader: Default::default(),
        meta_voters: Default::default(),
        meta_inbox: None,
        meta: Default::default(),
        meta_changed: Default::default(),
        order: Default::default(),
        usage: Default::default(),
        hints: Default::default(),
        clock: Clock::default(),
        times: Default::default(),
        waiting: Default::default(),
        disk: DISK.clone(),
        damaged: Default::default(),
        draining: Default::default(),
        hint_now: Default::default(),
        live: Default::default(),
        counters: Counters::default(),
    };
    directory.set_others([2, 3].into_iter());
    directory
}

/// A disk with room.
static DISK: LazyLock<Arc<Disk>> = LazyLock::new(|| {
    let none = Limits { low: 0, reserve: 0 };
    Arc::new(
        Disk::open(1, &std::env::temp_dir().join(format!("moso-fuzz-{}", std::process::id())), none, 3_000, 0)
            .expect("a disk without a reserve"),
    )
});

/// A hint frame, and what a node does with it.
pub(super) fn hints(data: &[u8]) {
    let directory = directory();
    match HintFrame::decode(data) {
        Some(HintFrame::Hints(told)) => {
            reached("hints");
            reached(told.shards.len().min(8));
            let draining = told.draining;
            hints::receive(&directory, 2, (*told).clone());
            hints::receive(&directory, 9, *told);
            assert_eq!(directory.is_draining(2), draining);
            assert!(!directory.is_draining(9), "a node that is no member is not listened to");
            assert!(directory.shards.iter().all(|slot| [0, 2].contains(&slot.leader())), "only members lead");
        }
        Some(HintFrame::Rejected(rows)) => moso_node::identity::Rejections::default().heard(2, rows),
        Some(HintFrame::Live(jobs)) => {
            let live = moso_node::live::LiveJobs::default();
            live.heard(2, jobs.clone());
            live.heard(3, jobs);
            live.add_told(&mut std::collections::BTreeMap::new(), |_| true);
        }
        Some(HintFrame::Words(words)) => {
            reached("words");
            let sessions = Sessions::default();
            words.iter().for_each(|word| assert!(!sessions.tell(word), "there is no session"));
        }
        None => reached("neither"),
    }
}

pub(super) fn hint_seeds() -> Vec<Vec<u8>> {
    let hint = |sample: &Sample| sample.name.starts_with("call/hint-");
    samples::all().into_iter().filter(hint).map(|sample| sample.bytes).collect()
}
