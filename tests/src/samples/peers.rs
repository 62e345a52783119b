//! Frames between nodes.

use super::{Sample, Value};
use bytes::{Bytes, BytesMut};
use moso_node::peer::frame::{Frame, FrameReader, Greeting, PROTOCOL, ReadError};
use moso_node::store::StoreId;

fn greeting() -> Greeting {
    Greeting {
        protocol: PROTOCOL,
        cluster: "sample".to_owned(),
        node: 2,
        store: StoreId(0x0123_4567_89ab_cdef),
        to: 1,
        level: 2,
    }
}

/// Every frame, by name.
fn frames() -> Vec<(&'static str, Frame)> {
    let body = Bytes::from_static(b"body");
    vec![
        ("hello", Frame::Hello(greeting())),
        ("ack", Frame::Ack(greeting())),
        ("refused", Frame::Refused("node 2 is no member that node 1 knows".to_owned())),
        ("raft", Frame::Raft(vec![(1, Bytes::from_static(b"one")), (4_095, Bytes::new()), (1, body.clone())])),
        ("call", Frame::Call { id: 77, shard: 3, kind: 2, body: body.clone() }),
        ("answer", Frame::Answer { id: 77, status: 1, body: body.clone() }),
        ("hints", Frame::Hints(body)),
        ("ping", Frame::Ping),
        ("pong", Frame::Pong),
    ]
}

/// The bytes of a frame.
pub(crate) fn encoded(frame: &Frame) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    out.to_vec()
}

/// The frames at the front of `bytes`, and why there is no further one.
pub(crate) fn frames_of(bytes: &[u8], trusted: bool) -> (Vec<Frame>, ReadError) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    runtime.block_on(async {
        let (mut reader, mut frames) = (FrameReader::new(bytes), Vec::new());
        if trusted {
            reader.trust();
        }
        loop {
            match reader.next().await {
                Ok(frame) => frames.push(frame),
                Err(error) => return (frames, error),
            }
        }
    })
}

pub(super) fn all() -> Vec<Sample> {
    frames().iter().map(|(name, frame)| Sample::new("peer", &format!("frame-{name}"), encoded(frame))).collect()
}

pub(super) fn read(bytes: &[u8]) -> Result<Value, String> {
    match frames_of(bytes, true) {
        (frames, ReadError::Closed) => Ok(Value::new(&frames, frames.iter().flat_map(encoded).collect::<Vec<u8>>())),
        (_, error) => Err(format!("{error:?}")),
    }
}
