//! Requests for pages that no browser makes.

use super::client::{Script, Seen, play};
use super::victim::Prey;
use anyhow::Result;
use std::sync::Arc;
use std::time::Instant;

const WIDTH: usize = 8;
const MANY: usize = 200;

async fn say(prey: &Prey, width: usize, first: Vec<u8>, flood: Vec<u8>, until: Instant) -> Result<Seen> {
    play(&prey.http, width, Script { first, flood, ..Script::default() }, until).await
}

pub(super) async fn slow_head(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let first = b"GET /healthz HTTP/1.1\r\nHost: node\r\nX: ".to_vec();
    play(&prey.http, MANY, Script { first, slowly: true, ..Script::default() }, until).await
}

pub(super) async fn huge_head_lines(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    say(&prey, WIDTH, b"GET / HTTP/1.1\r\n".to_vec(), b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(100), until)
        .await
}

pub(super) async fn huge_body(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let head = b"POST /metrics HTTP/1.1\r\nHost: node\r\nContent-Length: 99999999999\r\n\r\n".to_vec();
    say(&prey, WIDTH, head, vec![7; 65_536], until).await
}

pub(super) async fn pipeline(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    say(&prey, WIDTH, Vec::new(), b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n".repeat(200), until).await
}

pub(super) async fn bad_paths(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let paths = ["/../../etc/passwd", "/%00%ff", "*", "http://other/", "/v1/cluster?x=%zz", "//", ""];
    let requests = paths.iter().flat_map(|path| format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").into_bytes());
    say(&prey, WIDTH, requests.collect(), Vec::new(), until).await
}

pub(super) async fn metrics_flood(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let pages = b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\nGET /v1/cluster HTTP/1.1\r\nHost: node\r\n\r\n".repeat(20);
    say(&prey, WIDTH, Vec::new(), pages, until).await
}

pub(super) async fn many_silent(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    play(&prey.http, 600, Script { stays: true, ..Script::default() }, until).await
}
