//! Bodies of requests: bounded in size and time, inflated if they are gzip whatever the head says, and read as JSON or as a
//! form.

use super::args::Args;
use super::limits::{BODY_BYTES_MAX, LARGE_BODIES_MAX, SMALL_BODY_BYTES};
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt as _;
use serde_json::{Map, Value};
use std::io::Read as _;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Arguments of one form or query.
const PAIRS_MAX: usize = 10_000;

/// Why a body was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadBody {
    /// HTTP status.
    pub code: StatusCode,
    /// For people.
    pub message: String,
}

impl BadBody {
    fn new(code: StatusCode, message: impl Into<String>) -> Self {
        BadBody { code, message: format!("ERROR : {}", message.into()) }
    }

    /// As PanDA answers what never reaches a method.
    pub fn respond(self) -> Response {
        super::reply::text(self.code, self.message)
    }
}

/// Reads bodies; the large ones a few at a time.
pub struct Reader {
    large: Semaphore,
    time: Duration,
}

impl Reader {
    /// Each body has so long to arrive.
    pub fn new(time: Duration) -> Self {
        Reader { large: Semaphore::new(LARGE_BODIES_MAX), time }
    }

    /// The arguments of a request that has a body.
    pub async fn args(&self, headers: &HeaderMap, body: Body) -> Result<Args, BadBody> {
        let slow = |_| BadBody::new(StatusCode::REQUEST_TIMEOUT, format!("the body took more than {:?}", self.time));
        tokio::time::timeout(self.time, self.read(headers, body)).await.map_err(slow)?
    }

    async fn read(&self, headers: &HeaderMap, mut body: Body) -> Result<Args, BadBody> {
        let too_large =
            || BadBody::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {BODY_BYTES_MAX} bytes"));
        let told = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if told.is_some_and(|length| length > BODY_BYTES_MAX) {
            return Err(too_large());
        }
        let mut bytes = BytesMut::new();
        let mut place = None;
        while let Some(frame) = body.frame().await {
            let broken = |error| BadBody::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"));
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            if bytes.len() + data.len() > BODY_BYTES_MAX {
                return Err(too_large());
            }
            if place.is_none() && bytes.len() + data.len() > SMALL_BODY_BYTES {
                place = Some(self.large.acquire().await.expect("never closed"));
            }
            bytes.extend_from_slice(&data);
        }
        if bytes.starts_with(&[0x1f, 0x8b]) && place.is_none() && bytes.len() > SMALL_BODY_BYTES / 32 {
            place = Some(self.large.acquire().await.expect("never closed"));
        }
        let args = parse(headers, inflate(bytes.freeze())?);
        drop(place);
        args
    }
}

/// The bytes themselves, or what they are the gzip of.
fn inflate(bytes: Bytes) -> Result<Bytes, BadBody> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len().saturating_mul(3).min(BODY_BYTES_MAX));
    let mut from = MultiGzDecoder::new(&*bytes).take(BODY_BYTES_MAX as u64 + 1);
    from.read_to_end(&mut out)
        .map_err(|error| BadBody::new(StatusCode::BAD_REQUEST, format!("the body is not gzip: {error}")))?;
    if out.len() > BODY_BYTES_MAX {
        let message = format!("a body inflates to at most {BODY_BYTES_MAX} bytes");
        return Err(BadBody::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Ok(out.into())
}

fn parse(headers: &HeaderMap, bytes: Bytes) -> Result<Args, BadBody> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_form = kind.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded");
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Args { texts: is_form, ..Args::default() });
    }
    if is_form {
        return pairs(&bytes);
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(Args { map, texts: false }),
        Ok(_) => Err(BadBody::new(StatusCode::BAD_REQUEST, "the body is JSON, but not an object")),
        Err(error) => Err(BadBody::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}"))),
    }
}

/// The arguments of a query.
pub fn query(text: &str) -> Result<Args, BadBody> {
    pairs(text.as_bytes())
}

/// A key that comes again makes a list.
fn pairs(bytes: &[u8]) -> Result<Args, BadBody> {
    let mut map = Map::new();
    for (count, (key, value)) in form_urlencoded::parse(bytes).enumerate() {
        if count == PAIRS_MAX {
            return Err(BadBody::new(StatusCode::BAD_REQUEST, format!("more than {PAIRS_MAX} arguments")));
        }
        let value = Value::String(value.into_owned());
        match map.entry(key.into_owned()) {
            serde_json::map::Entry::Vacant(entry) => drop(entry.insert(value)),
            serde_json::map::Entry::Occupied(mut entry) => match entry.get_mut() {
                Value::Array(list) => list.push(value),
                one => *one = Value::Array(vec![one.take(), value]),
            },
        }
    }
    Ok(Args { map, texts: true })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write as _;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    async fn read(kind: &str, body: impl Into<Body>) -> Result<Args, BadBody> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
        Reader::new(Duration::from_secs(60)).args(&headers, body.into()).await
    }

    #[tokio::test]
    async fn a_body_is_json_or_a_form_and_perhaps_gzip() {
        for body in [br#"{"a": 1}"#.to_vec(), gzip(br#"{"a": 1}"#)] {
            let args = read("application/json", body).await.unwrap();
            assert_eq!((args.map["a"].as_i64(), args.texts), (Some(1), false));
        }
        let args = read("application/x-www-form-urlencoded", "a=1&b=x+y&b=%2F").await.unwrap();
        assert_eq!(args.map["b"], serde_json::json!(["x y", "/"]));
        assert!(args.texts && args.map["a"] == "1");
        assert!(read("application/json", "").await.unwrap().map.is_empty());
    }

    #[tokio::test]
    async fn what_is_wrong_is_refused_and_nothing_large_is_made_of_it() {
        let code = |result: Result<Args, BadBody>| result.unwrap_err().code;
        assert_eq!(code(read("application/json", "{").await), StatusCode::BAD_REQUEST);
        assert_eq!(code(read("application/json", "[1]").await), StatusCode::BAD_REQUEST);
        assert_eq!(code(read("application/json", vec![0x1f, 0x8b, 1, 2]).await), StatusCode::BAD_REQUEST);
        let half = gzip(&[b' '; 100_000]);
        assert_eq!(code(read("application/json", half[..half.len() / 2].to_vec()).await), StatusCode::BAD_REQUEST);
        let bomb = gzip(&vec![b' '; BODY_BYTES_MAX + 1]);
        assert_eq!(code(read("application/json", bomb).await), StatusCode::PAYLOAD_TOO_LARGE);
        let deep = "[".repeat(100_000);
        assert_eq!(code(read("application/json", deep).await), StatusCode::BAD_REQUEST);
        assert_eq!(code(read("application/json", vec![b' '; BODY_BYTES_MAX + 1]).await), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_body_that_stops_coming_is_cut_off() {
        let stream = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
        let body = Body::from_stream(futures::StreamExt::chain(stream, futures::stream::pending()));
        let refused = Reader::new(Duration::from_millis(20)).args(&HeaderMap::new(), body).await.unwrap_err();
        assert_eq!(refused.code, StatusCode::REQUEST_TIMEOUT);
        assert!(refused.message.contains("more than 20ms"), "{}", refused.message);
    }
}
