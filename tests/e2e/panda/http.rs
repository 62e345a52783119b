//! Calls as PanDA's programs make them.

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use std::io::Write as _;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Status.
    pub code: u16,
    /// Body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// A pair of a body in the old form.
    pub fn pair(&self, key: &str) -> Option<String> {
        form_urlencoded::parse(self.body.as_bytes()).find(|(k, _)| k == key).map(|(_, value)| value.into_owned())
    }
}

/// The gzip of bytes.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// Sends a request as it stands and reads the answer; `None`: the server hung up.
pub async fn raw(address: &str, head: &str, body: &[u8]) -> Option<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(body).await;
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let code = head.split(' ').nth(1)?.parse().ok()?;
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        Some(Answer { code, body: if chunked { unchunked(body) } else { body.to_owned() } })
    };
    tokio::time::timeout(ANSWER, exchange).await.expect("an answer comes in time")
}

fn unchunked(mut text: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        out += &rest[..size];
        text = rest[size..].trim_start_matches("\r\n");
    }
    out
}

/// One request with these further lines of its head.
pub async fn request(address: &str, verb: &str, path: &str, lines: &[&str], body: &[u8]) -> Answer {
    let mut head = format!("{verb} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for line in lines {
        head += &format!("{line}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    raw(address, &head, body).await.unwrap_or_else(|| panic!("{verb} {path}: the server hung up"))
}

/// POST of a file as the part `file` of a form, by one with this bearer token; empty: nobody says who.
pub async fn upload(address: &str, path: &str, name: &str, bytes: &[u8], token: &str) -> Answer {
    let head = format!("--b7f\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n");
    let body = [head.as_bytes(), bytes, b"\r\n--b7f--\r\n"].concat();
    let authorization = format!("Authorization: Bearer {token}");
    let mut lines = vec!["Content-Type: multipart/form-data; boundary=b7f", "Accept: application/json"];
    if !token.is_empty() {
        lines.push(&authorization);
    }
    request(address, "POST", path, &lines, &body).await
}

/// GET of the present API.
pub async fn get(address: &str, path: &str) -> Answer {
    request(address, "GET", path, &["Accept: application/json"], b"").await
}

/// POST of JSON.
pub async fn post(address: &str, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    request(address, "POST", path, &["Content-Type: application/json"], body.as_bytes()).await
}

/// POST of JSON as pilots send it: gzip that nobody announces.
pub async fn post_gzip(address: &str, path: &str, body: &Value) -> Answer {
    let body = gzip(body.to_string().as_bytes());
    request(address, "POST", path, &["Content-Type: application/json"], &body).await
}

/// POST of a form whose answer is to be JSON, as the `curl` of a pilot sends it.
pub async fn post_form(address: &str, path: &str, body: &Value) -> Answer {
    let mut form = form_urlencoded::Serializer::new(String::new());
    for (key, value) in body.as_object().unwrap() {
        form.append_pair(key, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    let body = form.finish();
    let lines = ["Content-Type: application/x-www-form-urlencoded", "Accept: application/json"];
    request(address, "POST", path, &lines, body.as_bytes()).await
}
