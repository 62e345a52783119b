//! Bytes and greetings that no client of a cluster with certificates sends, at all its ports.

use super::client::{Script, Seen, play};
use super::probe::{Answer, Outcome, again, ask, connect};
use super::secure::{self, Line};
use super::victim::Prey;
use anyhow::{Result, bail, ensure};
use moso_bench::raw;
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const WIDTH: usize = 8;
const MANY: usize = 200;
/// A greeting may take so long.
const GREETING: Duration = Duration::from_secs(10);
/// It is cut off so long after that at the latest.
const GRACE: Duration = Duration::from_secs(5);

/// Kinds of TLS records.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// A greeting of TLS of this version at most; `suites` are the ciphers it knows.
fn client_hello(version: [u8; 2], suites: &[[u8; 2]]) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend([7; 32]);
    // No session; its ciphers; no compression.
    body.push(0);
    body.extend((suites.len() as u16 * 2).to_be_bytes());
    body.extend(suites.concat());
    body.extend([1, 0]);
    // Signatures (ECDSA and RSA with SHA-256), groups (P-256), points: what a client of that time would say.
    body.extend([0, 24]);
    body.extend([0, 13, 0, 6, 0, 4, 4, 3, 4, 1]);
    body.extend([0, 10, 0, 4, 0, 2, 0, 23]);
    body.extend([0, 11, 0, 2, 1, 0]);
    let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    [&[HANDSHAKE, 3, 1, 0, message.len() as u8][..], &message].concat()
}

const SUITES: [[u8; 2]; 2] = [[0xc0, 0x2b], [0xc0, 0x13]];

/// Only an alert, or nothing, may come back.
fn judge(what: &str, answer: &Answer) -> Result<Outcome> {
    match answer.bytes.first() {
        None if answer.closed => Ok(Outcome::Cut),
        Some(&ALERT) => Ok(Outcome::Refused),
        None => bail!("{what}: the node neither answers nor hangs up"),
        Some(_) => bail!("{what}: the node answers with {:02x?}", &answer.bytes[..answer.bytes.len().min(40)]),
    }
}

/// Says these words at each port in turn: nothing but an alert may come back.
async fn at_all_ports(prey: &Prey, words: Vec<(&'static str, Vec<u8>)>, until: Instant) -> Result<Seen> {
    let (ports, words, next) = (prey.ports(), Arc::new(words), Arc::new(AtomicUsize::new(0)));
    let all = ports.len() * words.len();
    let attempt = move || {
        let turn = next.fetch_add(1, Relaxed) % all;
        let (port, (what, bytes)) = (ports[turn % ports.len()].clone(), words[turn / ports.len()].clone());
        async move {
            let Some(stream) = connect(&port).await else { return Ok(Outcome::Unconnected) };
            judge(what, &ask(stream, &bytes, |_| false).await)
        }
    };
    again(all, until, attempt).await
}

pub(super) async fn plain_text(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let words = vec![
        ("plain HTTP", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("plain gRPC", [raw::hello(&[]), raw::call_head("/moso.v1.Admin/Cluster", "application/grpc")].concat()),
    ];
    at_all_ports(&prey, words, until).await
}

pub(super) async fn old_versions(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let words = vec![
        ("TLS 1.1", client_hello([3, 2], &SUITES)),
        ("TLS 1.0", client_hello([3, 1], &SUITES)),
        ("SSL 3", client_hello([3, 0], &SUITES)),
    ];
    at_all_ports(&prey, words, until).await
}

/// Ciphers without a key exchange, without encryption, for export, RC4, 3DES.
pub(super) async fn weak_ciphers(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let weak = [[0, 0x2f], [0, 1], [0, 3], [0, 5], [0, 0x0a], [0xc0, 0x11]];
    at_all_ports(&prey, vec![("weak ciphers", client_hello([3, 3], &weak))], until).await
}

pub(super) async fn broken_greetings(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let whole = client_hello([3, 3], &SUITES);
    let mut huge = whole.clone();
    huge[3..5].copy_from_slice(&[0xff, 0xff]);
    huge.resize(70_000, 0);
    let mut lengths = whole.clone();
    lengths[6..9].copy_from_slice(&[0xff, 0xff, 0xff]);
    lengths.resize(40_000, 0);
    let alerts = [ALERT, 3, 3, 0, 2, 1, 0].repeat(1_000);
    let words = vec![("a record too large", huge), ("a greeting of 16 MiB", lengths), ("alerts", alerts)];
    at_all_ports(&prey, words, until).await
}

/// Begins a greeting, and says no more.
pub(super) async fn open_greeting(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let began = Instant::now();
    let first = client_hello([3, 3], &SUITES)[..40].to_vec();
    let seen = play(&prey.api, MANY, Script { first, stays: true, ..Script::default() }, until).await?;
    ensure!(until - began < GREETING + GRACE || seen.closed > 0, "an open greeting is not cut off after {GREETING:?}");
    Ok(seen)
}

/// Greets to the half, so that the node signs, and goes.
pub(super) async fn half_greetings(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    super::client::churn(&prey.api, 32, &client_hello([3, 3], &SUITES), until).await
}

/// Whole greetings, one after the other: what a stranger can make the node compute.
pub(super) async fn greeting_churn(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let greet = move || {
        let prey = prey.clone();
        async move {
            secure::line(&prey, &prey.api, None, b"h2").await.map(|line| line.map_or(Outcome::Cut, |_| Outcome::Done))
        }
    };
    again(WIDTH, until, greet).await
}

/// Greets as is right, and then says nonsense, encrypted.
pub(super) async fn garbage_inside(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    garbage(prey, false, until).await
}

/// Greets as is right, and then writes below the encryption.
pub(super) async fn garbage_below(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    garbage(prey, true, until).await
}

async fn garbage(prey: Arc<Prey>, below: bool, until: Instant) -> Result<Seen> {
    let mut noise = vec![0; 100_000];
    SmallRng::seed_from_u64(rand::random()).fill_bytes(&mut noise);
    let (noise, next) = (Arc::new(noise), Arc::new(AtomicUsize::new(0)));
    let attempt = move || {
        let (prey, noise, turn) = (prey.clone(), noise.clone(), next.fetch_add(1, Relaxed));
        async move {
            let ports = prey.ports();
            let port = &ports[turn % ports.len()];
            let protocol: &[u8] = if *port == prey.api { b"h2" } else { b"http/1.1" };
            // At the port of the nodes as one of them, who alone gets so far.
            let pair = (*port == prey.peer).then(|| prey.forged().pairs.other_node.clone());
            let Some(line) = secure::line(&prey, port, pair.as_ref(), protocol).await? else { return Ok(Outcome::Cut) };
            said(&ask_below(line, below, &noise).await)
        }
    };
    again(WIDTH, until, attempt).await
}

async fn ask_below(line: Line, below: bool, noise: &[u8]) -> Answer {
    match below {
        true => ask(line.into_inner().0, noise, |_| false).await,
        false => ask(line, noise, |_| false).await,
    }
}

/// Whatever comes back, the connection must end.
fn said(answer: &Answer) -> Result<Outcome> {
    ensure!(answer.closed, "the node goes on with a connection on which nonsense was said");
    Ok(if answer.bytes.is_empty() { Outcome::Cut } else { Outcome::Refused })
}
