//! What no node says to another.

use super::client::{Script, Seen, churn as connect_and_go, play};
use super::victim::Prey;
use anyhow::Result;
use bytes::BytesMut;
use moso_node::limits::PEER_FRAME_BYTES_MAX;
use moso_node::peer::frame::{Frame, Greeting, PROTOCOL};
use moso_node::store::StoreId;
use moso_proto::level::LEVEL;
use std::sync::Arc;
use std::time::Instant;

const WIDTH: usize = 8;
const MANY: usize = 200;

async fn say(prey: &Prey, width: usize, first: Vec<u8>, until: Instant) -> Result<Seen> {
    play(&prey.peer, width, Script { first, ..Script::default() }, until).await
}

/// What a node of the cluster would say, as far as a stranger knows.
fn greeting(prey: &Prey) -> Greeting {
    Greeting {
        protocol: PROTOCOL,
        cluster: prey.cluster.clone(),
        node: prey.other,
        store: StoreId(1),
        to: prey.node,
        level: LEVEL,
    }
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    out.to_vec()
}

pub(super) async fn wrong_magic(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    say(&prey, WIDTH, b"GET / HTTP/1.1\r\nHost: node\r\n\r\n".to_vec(), until).await
}

pub(super) async fn other_cluster(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let hello = Greeting { cluster: "another".into(), ..greeting(&prey) };
    say(&prey, WIDTH, encoded(&Frame::Hello(hello)), until).await
}

pub(super) async fn forged_store(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    say(&prey, WIDTH, encoded(&Frame::Hello(greeting(&prey))), until).await
}

/// The greeting of another node, as it was heard on the line: where lines are not encrypted it lets its sender in.
pub(super) async fn replayed_greeting(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let Some(store) = prey.other_store else { return Ok(Seen::default()) };
    let hello = Greeting { store: StoreId(store), ..greeting(&prey) };
    let mut first = encoded(&Frame::Hello(hello));
    // Then the head of the largest frame there is, and little of it.
    first.extend_from_slice(&(PEER_FRAME_BYTES_MAX as u32).to_le_bytes());
    first.extend_from_slice(&[0; 1_000]);
    play(&prey.peer, 1, Script { first, stays: true, ..Script::default() }, until).await
}

pub(super) async fn huge_length(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let mut first = u32::MAX.to_le_bytes().to_vec();
    first.resize(60_000, 0);
    say(&prey, WIDTH, first, until).await
}

pub(super) async fn unknown_kind(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let mut first = encoded(&Frame::Ping);
    first[8] = 200;
    let crc = crc32c::crc32c(&first[8..]);
    first[4..8].copy_from_slice(&crc.to_le_bytes());
    say(&prey, WIDTH, first, until).await
}

/// Many who say nothing.
pub(super) async fn stranger_flood(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    play(&prey.peer, MANY, Script { stays: true, ..Script::default() }, until).await
}

pub(super) async fn slow_greeting(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let first = encoded(&Frame::Hello(greeting(&prey)));
    play(&prey.peer, MANY, Script { first, slowly: true, ..Script::default() }, until).await
}

pub(super) async fn churn(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    connect_and_go(&prey.peer, 32, &[0; 3], until).await
}
