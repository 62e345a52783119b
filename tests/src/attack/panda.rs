//! Requests that no pilot and no client of PanDA makes, at the port that serves them.

use super::client::{Script, Seen, churn as connect_and_go, play};
use super::probe::{Case, refused};
use super::victim::Prey;
use anyhow::{Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use moso_node::config::Config;
use moso_node::panda::limits::{BODY_BYTES_MAX, HEAD_TIME, Times};
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

const WIDTH: usize = 4;
const MANY: usize = 200;
const UPDATE: &str = "/api/v1/pilot/update_job";
const UPLOAD: &str = "/api/v1/file_server/upload_cache_file";
const SUBMITTED: &str = "\"success\":true";
/// What is written slowly is cut off so long after its bound at the latest.
const GRACE: Duration = Duration::from_secs(5);

/// A request of this head's lines and this body, whose length is told.
fn post(path: &str, lines: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn json(body: &[u8]) -> Vec<u8> {
    post(UPDATE, "Content-Type: application/json\r\n", body)
}

fn case(what: &'static str, request: Vec<u8>, codes: &'static [u16]) -> Case {
    Case { what, request, codes, never: SUBMITTED }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).and_then(|()| out.finish()).expect("memory takes all that is written")
}

pub(super) async fn bad_request_line(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let lines: [&[u8]; 7] = [
        b"\r\n\r\n\r\nnothing\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /api/v1/system/is_alive HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x00\x20 this is no HTTP\r\n\r\n",
        b"GET /\x00\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    let cases = lines.map(|line| case("request line", line.to_vec(), &[400, 404, 405, 505]));
    refused(&prey.panda, WIDTH * 2, cases.to_vec(), until).await
}

pub(super) async fn bad_heads(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let heads: [&[u8]; 6] = [
        b"no colon here\r\n",
        b"X\x00Y: z\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"X: a\r\n  folded\r\nContent-Length: 99999999999999999999999\r\n",
    ];
    let begin = format!("POST {UPDATE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    let request = |head: &[u8]| [begin.as_bytes(), head, b"\r\n"].concat();
    let cases = heads.map(|head| case("head", request(head), &[400, 413, 431]));
    refused(&prey.panda, WIDTH * 2, cases.to_vec(), until).await
}

/// Lines of a head without end.
pub(super) async fn head_flood(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let first = b"GET /api/v1/system/is_alive HTTP/1.1\r\n".to_vec();
    let flood = b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(100);
    let seen = play(&prey.panda, WIDTH, Script { first, flood, ..Script::default() }, until).await?;
    ensure!(seen.closed > 0, "a head without end is not cut off");
    Ok(seen)
}

pub(super) async fn told_too_large(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let head = |length: u64| {
        format!("POST {UPDATE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")
    };
    let lengths = [BODY_BYTES_MAX as u64 + 1, 1 << 40, u64::MAX];
    let cases = lengths.map(|length| case("told length", head(length).into_bytes(), &[400, 413, 431]));
    refused(&prey.panda, WIDTH, cases.to_vec(), until).await
}

/// A body in pieces that says of itself no length, and goes on.
pub(super) async fn chunked_without_end(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let first = format!("POST {UPDATE} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    let flood = [b"10000\r\n".as_slice(), &[b' '; 0x1_0000], b"\r\n"].concat();
    play(&prey.panda, WIDTH, Script { first, flood, ..Script::default() }, until).await
}

pub(super) async fn bad_chunks(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let head = format!("POST {UPDATE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
    let bodies: [&[u8]; 4] = [b"xyz\r\n", b"fffffffffffffffff\r\n", b"-5\r\n12345\r\n", b"5;a=\x00\x01\r\n1234567\r\n"];
    let cases = bodies.map(|body| case("chunks", [head.as_bytes(), body].concat(), &[400]));
    refused(&prey.panda, WIDTH, cases.to_vec(), until).await
}

/// Many bodies of which a byte comes now and then.
pub(super) async fn slow_body(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let began = Instant::now();
    let mut first = format!("POST {UPDATE} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n").into_bytes();
    // The head at once, so that the slow part is the body.
    let slow_from = first.len();
    first.resize(slow_from + 10_000, b' ');
    let script = Script { first, slow_from, slowly: true, ..Script::default() };
    let seen = play(&prey.panda, MANY, script, until).await?;
    let most = Times::of(&Config::default()).body;
    ensure!(until - began < most + GRACE || seen.closed > 0, "a slow body is not cut off after {most:?}");
    Ok(seen)
}

pub(super) async fn slow_head(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let began = Instant::now();
    let mut first = b"GET /api/v1/system/is_alive HTTP/1.1\r\nHost: x\r\nX: ".to_vec();
    first.resize(10_000, b'y');
    let seen = play(&prey.panda, MANY, Script { first, slowly: true, ..Script::default() }, until).await?;
    ensure!(until - began < HEAD_TIME + GRACE || seen.closed > 0, "a slow head is not cut off after {HEAD_TIME:?}");
    Ok(seen)
}

/// Small, and in the node's memory it would be some hundred times as large.
pub(super) async fn gzip_bomb(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let bomb = gzip(&vec![b' '; BODY_BYTES_MAX + 1]);
    let twice = [gzip(&vec![b' '; BODY_BYTES_MAX]), gzip(&vec![b' '; BODY_BYTES_MAX])].concat();
    let cases = vec![case("bomb", json(&bomb), &[413]), case("two in one", json(&twice), &[413])];
    refused(&prey.panda, WIDTH, cases, until).await
}

pub(super) async fn broken_gzip(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let good = gzip(br#"{"job_id": 1, "job_status": "running", "attempt_nr": 1}"#);
    let mut wrong_sum = good.clone();
    let last = wrong_sum.len() - 5;
    wrong_sum[last] ^= 1;
    let cases = vec![
        case("head of gzip only", json(&good[..12]), &[400]),
        case("half of a gzip", json(&good[..good.len() / 2]), &[400]),
        case("gzip with a wrong sum", json(&wrong_sum), &[400]),
        case("gzip of another method", json(&[0x1f, 0x8b, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), &[400]),
    ];
    refused(&prey.panda, WIDTH, cases, until).await
}

pub(super) async fn deep_json(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let cases = vec![
        case("lists in lists", json(&b"[".repeat(1 << 20)), &[400]),
        case("objects in objects", json(&br#"{"a":"#.repeat(200_000)), &[400]),
        case("deep, gzip", json(&gzip(&b"[".repeat(8 << 20))), &[400]),
        case("numbers", json(&[b"{\"job_id\": ".as_slice(), &[b'9'; 100_000], b"}"].concat()), &[200, 400]),
    ];
    refused(&prey.panda, WIDTH, cases, until).await
}

pub(super) async fn wrong_content_types(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let kinds = ["text/html", "multipart/form-data; boundary=b", "multipart/form-data", "application/xml", "\u{e9}"];
    let body = b"--b\r\nContent-Disposition: form-data; name=\"job_id\"\r\n\r\n1\r\n--b--\r\n";
    let with = |path, kind: &str| post(path, &format!("Content-Type: {kind}\r\n"), body);
    let mut cases: Vec<Case> =
        kinds.iter().map(|kind| case("type of a call", with(UPDATE, kind), &[200, 400])).collect();
    cases.extend(kinds.iter().map(|kind| case("type of an upload", with(UPLOAD, kind), &[200, 400])));
    refused(&prey.panda, WIDTH * 2, cases, until).await
}

pub(super) async fn many_arguments(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let form = b"job_id=1&".repeat(20_000);
    let lines = "Content-Type: application/x-www-form-urlencoded\r\n";
    let query = format!(
        "GET /api/v1/pilot/get_job_status?{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "a&".repeat(20_000)
    );
    let cases = vec![
        case("arguments of a form", post(UPDATE, lines, &form), &[400]),
        case("arguments of a query", query.into_bytes(), &[400, 414, 431]),
    ];
    refused(&prey.panda, WIDTH, cases, until).await
}

/// An upload that goes on and on.
pub(super) async fn multipart_without_end(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let mut first = format!(
        "POST {UPLOAD} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    .into_bytes();
    let part = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"jobO.x.tar.gz\"\r\n\r\n";
    first.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
    first.extend_from_slice(part);
    first.extend_from_slice(b"\r\n");
    let flood = [b"10000\r\n".as_slice(), &[7; 0x1_0000], b"\r\n"].concat();
    play(&prey.panda, WIDTH, Script { first, flood, ..Script::default() }, until).await
}

/// The head of a part that never ends, and parts without number.
pub(super) async fn multipart_of_heads(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let lines = "Content-Type: multipart/form-data; boundary=b\r\n";
    let head = [b"--b\r\n".as_slice(), &b"X: y\r\n".repeat(100_000)].concat();
    let parts = b"--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n\r\n".repeat(10_000);
    let cases = vec![
        case("head of a part", post(UPLOAD, lines, &head), &[200, 400]),
        case("parts", post(UPLOAD, lines, &parts), &[200, 400]),
    ];
    refused(&prey.panda, WIDTH, cases, until).await
}

/// Names that lead out of the folder of uploads.
pub(super) async fn upload_tricks(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let long = "x".repeat(5_000);
    let names = ["..", ".", "", "../..", "a/..", ".hidden", "a\\..\\b", "sum-1", "a b", "a%2fb", "\u{e9}", &long];
    let lines = "Content-Type: multipart/form-data; boundary=b\r\n";
    let body = |name: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\nhello\r\n--b--\r\n")
    };
    let cases = names.map(|name| case("name of an upload", post(UPLOAD, lines, body(name).as_bytes()), &[200, 400]));
    refused(&prey.panda, WIDTH * 3, cases.to_vec(), until).await
}

pub(super) async fn path_tricks(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    let paths = [
        "/cache/../../../../etc/passwd",
        "/cache/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/cache//etc/passwd",
        "/cache/%00",
        "/cache/schedconfig/../../../etc/passwd.all.json",
        "/cache/schedconfig/%2e%2e%2fx.all.json",
        "/trf/user/..%2f..%2fetc%2fpasswd",
        "/api/v1/../../etc/passwd",
        "/server/panda/../../../etc/passwd",
    ];
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").into_bytes();
    let path = |path| Case { never: "root:", ..case("path", get(path), &[400, 403, 404]) };
    refused(&prey.panda, WIDTH * 3, paths.map(path).to_vec(), until).await
}

pub(super) async fn churn(prey: Arc<Prey>, until: Instant) -> Result<Seen> {
    connect_and_go(&prey.panda, 32, format!("POST {UPDATE} HTTP/1.1\r\nHost:").as_bytes(), until).await
}
