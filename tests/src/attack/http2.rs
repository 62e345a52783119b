//! Frames that no client sends.

use super::client::{Script, Seen, at_api};
use super::victim::Prey;
use anyhow::Result;
use moso_bench::raw::{self, END_HEADERS, END_STREAM, kind};
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use std::sync::Arc;
use std::time::Instant;

/// Connections at a time.
const WIDTH: usize = 8;
/// Connections of attacks that only stay.
const MANY: usize = 200;
/// Frames of one write.
const FRAMES: usize = 200;
const SUBMIT: &str = "/moso.v1.Jobs/Submit";

async fn after_hello(prey: &Prey, flood: Vec<u8>, until: Instant) -> Result<Seen> {
    at_api(prey, WIDTH, Script { first: raw::hello(&[]), flood, ..Script::default() }, until).await
}

fn frames(each: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    (0..FRAMES).for_each(|_| each(&mut out));
    out
}

/// A flood of frames that each begin a call; and where their numbers stand.
fn calls(each: impl Fn(&mut Vec<u8>, u32)) -> Script {
    let (mut flood, mut number_at) = (Vec::new(), Vec::new());
    for call in 0..FRAMES as u32 {
        let begin = flood.len();
        each(&mut flood, 1 + 2 * call);
        // Of each frame of the call.
        let mut at = begin;
        while at < flood.len() {
            let length = u32::from_be_bytes([0, flood[at], flood[at + 1], flood[at + 2]]) as usize;
            number_at.push(at + 5);
            at += 9 + length;
        }
    }
    Script { first: raw::hello(&[]), flood, number_at, ..Script::default() }
}

pub(super) async fn no_preface(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let mut noise = vec![0; 4_096];
    SmallRng::seed_from_u64(1).fill_bytes(&mut noise);
    at_api(&prey, WIDTH, Script { first: noise, ..Script::default() }, until).await
}

pub(super) async fn silence(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let script = Script { first: raw::PREFACE[..10].to_vec(), stays: true, ..Script::default() };
    at_api(&prey, MANY, script, until).await
}

pub(super) async fn settings_flood(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let settings = frames(|out| raw::frame(out, kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]));
    after_hello(&prey, settings, until).await
}

pub(super) async fn ping_flood(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    after_hello(&prey, frames(|out| raw::frame(out, kind::PING, 0, 0, &[1; 8])), until).await
}

pub(super) async fn rapid_reset(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let head = raw::call_head(SUBMIT, "application/grpc");
    // Two frames of each call: so half of the numbers are passed over, which the protocol allows.
    let script = calls(|out, stream| {
        raw::frame(out, kind::HEADERS, END_HEADERS, stream, &head);
        raw::frame(out, kind::RST_STREAM, 0, stream, &8u32.to_be_bytes());
    });
    at_api(&prey, WIDTH, script, until).await
}

pub(super) async fn continuation_flood(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let mut first = raw::hello(&[]);
    raw::frame(&mut first, kind::HEADERS, 0, 1, &raw::call_head(SUBMIT, "application/grpc"));
    let mut block = Vec::new();
    raw::field(&mut block, "x", &"y".repeat(100));
    let flood = frames(|out| raw::frame(out, kind::CONTINUATION, 0, 1, &block));
    at_api(&prey, WIDTH, Script { first, flood, ..Script::default() }, until).await
}

pub(super) async fn huge_head(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let mut block = raw::call_head(SUBMIT, "application/grpc");
    raw::field(&mut block, "x", &"y".repeat(15_000));
    at_api(&prey, WIDTH, calls(|out, stream| raw::frame(out, kind::HEADERS, END_HEADERS, stream, &block)), until).await
}

/// A field of 4 KiB is put into the table once, and named thousands of times by one byte each.
pub(super) async fn head_bomb(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let mut block = raw::call_head(SUBMIT, "application/grpc");
    let mut named = Vec::new();
    raw::field(&mut named, "x", &"y".repeat(4_000));
    named[0] = 0x40;
    block.extend_from_slice(&named);
    block.extend_from_slice(&[0x80 | 62; 8_000]);
    at_api(&prey, WIDTH, calls(|out, stream| raw::frame(out, kind::HEADERS, END_HEADERS, stream, &block)), until).await
}

pub(super) async fn window_overflow(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    after_hello(&prey, frames(|out| raw::frame(out, kind::WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes())), until)
        .await
}

pub(super) async fn goaway_spam(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    after_hello(&prey, frames(|out| raw::frame(out, kind::GOAWAY, 0, 0, &[0; 8])), until).await
}

pub(super) async fn empty_data_flood(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let mut first = raw::hello(&[]);
    raw::frame(&mut first, kind::HEADERS, END_HEADERS, 1, &raw::call_head(SUBMIT, "application/grpc"));
    let flood = frames(|out| raw::frame(out, kind::DATA, 0, 1, &[]));
    at_api(&prey, WIDTH, Script { first, flood, ..Script::default() }, until).await
}

/// As many calls as go, none of which ends.
pub(super) async fn stream_flood(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let head = raw::call_head(SUBMIT, "application/grpc");
    at_api(&prey, WIDTH, calls(|out, stream| raw::frame(out, kind::HEADERS, END_HEADERS, stream, &head)), until).await
}

pub(super) async fn random_frames(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let mut rng = SmallRng::seed_from_u64(rand::random());
    let mut first = raw::hello(&[]);
    for _ in 0..FRAMES {
        let mut payload = vec![0; (rng.next_u32() % 300) as usize];
        rng.fill_bytes(&mut payload);
        let (kind, flags, stream) = (rng.next_u32() as u8 % 12, rng.next_u32() as u8, rng.next_u32() % 16);
        raw::frame(&mut first, kind, flags, stream, &payload);
    }
    at_api(&prey, WIDTH, Script { first, ..Script::default() }, until).await
}

pub(super) async fn slow_frames(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let mut first = raw::hello(&[]);
    raw::call(&mut first, 1, SUBMIT, &[0; 1_000], true);
    at_api(&prey, MANY, Script { first, slowly: true, ..Script::default() }, until).await
}

pub(super) async fn churn(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let mut first = raw::hello(&[]);
    raw::frame(&mut first, kind::HEADERS, END_HEADERS | END_STREAM, 1, &raw::call_head("/x/Y", "application/grpc"));
    super::client::churn(&prey.api, 32, &first, until).await
}
