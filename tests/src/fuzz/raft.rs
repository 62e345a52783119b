//! Raft messages: their bytes, and replicas that are sent any of them in any order.

use super::input::{Input, put_piece};
use super::reached::{reached, result};
use super::seeds_of;
use super::trio::Trio;
use crate::samples;
use bytes::Bytes;
use moso_shard::wire;

/// There is one encoding of each value: whatever can be read is written as the same bytes.
pub(super) fn wire(data: &[u8]) {
    for what in ["message", "entry", "hard_state", "conf_state"] {
        if let Some(value) = result(samples::read(&format!("raft/{what}"), data)) {
            reached(what);
            assert_eq!(value.bytes.as_deref(), Some(data), "{what} is written as other bytes");
        }
    }
}

pub(super) fn wire_seeds() -> Vec<Vec<u8>> {
    seeds_of(&["raft"])
}

/// A script for three replicas: what to do, whose turn it is, and for messages their bytes. Nothing that peers say in any
/// order makes a replica panic.
pub(super) fn step(data: &[u8]) {
    let mut input = Input(data);
    let mut trio = Trio::new();
    for _ in 0..256 {
        if input.is_empty() {
            break;
        }
        let (action, whose) = (input.u8(), input.u8());
        let at = usize::from(whose);
        reached(action % 16);
        match action % 16 {
            0..=5 => {
                let message = wire::decode_message(Bytes::copy_from_slice(input.piece()));
                if let Some(message) = result(message) {
                    trio.deliver(message);
                }
            }
            6 => (0..10).for_each(|_| trio.replica(whose).tick()),
            7 => trio.replica(whose).tick(),
            8 => drop(result(trio.replica(whose).propose(Bytes::copy_from_slice(input.piece())))),
            9 => _ = result(trio.replica(whose).read_index(u64::from(input.u16()))),
            10 => trio.writes_lag = whose.is_multiple_of(2),
            11 => trio.write_all(at),
            12 => {
                let to = u64::from(input.u8() % 4);
                _ = result(trio.replica(whose).transfer_leader(to));
            }
            13 => _ = result(trio.replica(whose).campaign()),
            14 => trio.restart(at),
            _ => (0..=whose % 8).for_each(|_| trio.deliver_one()),
        }
        trio.turn(at);
        trio.check();
    }
    (0..3).for_each(|at| trio.write_all(at));
    trio.settle();
    trio.check();
}

/// Scripts of what replicas really send: each message that two rounds of elections and appends bring, and some others.
pub(super) fn step_seeds() -> Vec<Vec<u8>> {
    let mut trio = Trio::new();
    let mut sent = Vec::new();
    for round in 0..3u8 {
        let _ = trio.replica(0).propose(Bytes::from_static(b"command"));
        let _ = trio.replica(0).read_index(u64::from(round));
        (0..10).for_each(|_| trio.replica(round).tick());
        for _ in 0..32 {
            (0..3).for_each(|at| trio.turn(at));
            let Some(message) = trio.network.front() else { break };
            let mut bytes = Vec::new();
            wire::encode_message(message, &mut bytes).expect("a message that was sent");
            sent.push(bytes);
            trio.deliver_one();
        }
    }
    let mut seeds = Vec::new();
    for messages in sent.chunks(6) {
        let mut seed = vec![6, 1, 8, 0, 3, 0, b'a', b'b', b'c'];
        for message in messages {
            seed.extend([0, 0]);
            put_piece(&mut seed, message);
        }
        seed.extend([15, 7, 10, 0, 13, 1, 15, 7, 11, 1, 14, 2, 12, 0, 2, 9, 0, 1, 0]);
        seeds.push(seed);
    }
    // Each kind of message, addressed to a member.
    for bytes in seeds_of(&["raft"]) {
        if let Ok(mut message) = wire::decode_message(bytes.into()) {
            (message.from, message.to, message.term, message.commit) = (1, 2, 2, 1);
            (message.index, message.log_term) = (1, 1);
            message.take_entries();
            let (mut bytes, mut seed) = (Vec::new(), vec![0, 1]);
            wire::encode_message(&message, &mut bytes).expect("a message that was read");
            put_piece(&mut seed, &bytes);
            seeds.push(seed);
        }
    }
    seeds
}
