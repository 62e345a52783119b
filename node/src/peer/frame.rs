//! The bytes between nodes. Numbers are little endian.
//!
//! ```text
//! frame     length u32 | crc32c u32 | kind u8 | body      length: of kind and body; checksum: over both
//!
//! hello     protocol u16 | node u32 | to u32 | store u128 | length u8 | cluster | level u32   first frame of who dials
//! ack       the same, of who was dialled                                             first frame back
//! refused   text                                                                     or this, and the end
//! raft      shard u16 | length u32 | message, repeated
//! call      id u64 | shard u16 | kind u8 | body
//! answer    id u64 | status u8 | body
//! hints     body
//! ping, pong
//! ```
//!
//! The layout of hello, ack and refused never changes, so that any two versions understand that they are different; what is
//! added to them comes at the end and is ignored by those who do not know it.

use crate::limits::{
    CLUSTER_NAME_BYTES_MAX, PEER_BATCH_MESSAGES_MAX, PEER_FRAME_BYTES_MAX, PEER_GREETING_BYTES_MAX, PEER_READ_BYTES,
};
use crate::store::StoreId;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use moso_proto::level;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Version of what follows the greeting. Only equal versions talk to each other.
pub const PROTOCOL: u16 = 1;

const HEAD_BYTES: usize = 8;
/// Bytes of a message's head within a frame of messages.
pub const MESSAGE_HEAD_BYTES: usize = 6;
/// Bytes of a body that fit in a frame beside the head of any kind.
pub const BODY_BYTES_MAX: usize = PEER_FRAME_BYTES_MAX - 16;

const HELLO: u8 = 1;
const ACK: u8 = 2;
const REFUSED: u8 = 3;
const RAFT: u8 = 4;
const CALL: u8 = 5;
const ANSWER: u8 = 6;
const HINTS: u8 = 7;
const PING: u8 = 8;
const PONG: u8 = 9;

/// Who speaks, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    pub protocol: u16,
    pub cluster: String,
    pub node: u32,
    pub store: StoreId,
    pub to: u32,
    /// Highest feature level that the node knows.
    pub level: u32,
}

/// What one frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Hello(Greeting),
    Ack(Greeting),
    Refused(String),
    Raft(Vec<(u16, Bytes)>),
    Call { id: u64, shard: u16, kind: u8, body: Bytes },
    Answer { id: u64, status: u8, body: Bytes },
    Hints(Bytes),
    Ping,
    Pong,
}

/// Why there is no next frame.
#[derive(Debug)]
pub enum ReadError {
    /// The other side closed the connection, or it broke.
    Closed,
    /// Bytes that no node sends.
    Malformed(&'static str),
}

impl From<io::Error> for ReadError {
    fn from(_: io::Error) -> Self {
        ReadError::Closed
    }
}

impl Frame {
    /// Appends the frame. Bodies must not exceed [`BODY_BYTES_MAX`], batches not a frame.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Frame::Hello(greeting) => frame(out, HELLO, |out| greeting.encode(out)),
            Frame::Ack(greeting) => frame(out, ACK, |out| greeting.encode(out)),
            Frame::Refused(text) => frame(out, REFUSED, |out| out.put_slice(text.as_bytes())),
            Frame::Raft(messages) => frame(out, RAFT, |out| {
                for (shard, message) in messages {
                    out.put_u16_le(*shard);
                    out.put_u32_le(message.len() as u32);
                    out.put_slice(message);
                }
            }),
            Frame::Call { id, shard, kind, body } => frame(out, CALL, |out| {
                out.put_u64_le(*id);
                out.put_u16_le(*shard);
                out.put_u8(*kind);
                out.put_slice(body);
            }),
            Frame::Answer { id, status, body } => frame(out, ANSWER, |out| {
                out.put_u64_le(*id);
                out.put_u8(*status);
                out.put_slice(body);
            }),
            Frame::Hints(body) => frame(out, HINTS, |out| out.put_slice(body)),
            Frame::Ping => frame(out, PING, |_| {}),
            Frame::Pong => frame(out, PONG, |_| {}),
        }
    }

    /// Reads kind and body. Bodies are slices of `bytes`.
    fn decode(mut bytes: Bytes) -> Result<Frame, &'static str> {
        const SHORT: &str = "a frame shorter than its kind";
        let kind = bytes.try_get_u8().map_err(|_| SHORT)?;
        Ok(match kind {
            HELLO => Frame::Hello(Greeting::decode(bytes)?),
            ACK => Frame::Ack(Greeting::decode(bytes)?),
            REFUSED => Frame::Refused(String::from_utf8_lossy(&bytes).into_owned()),
            RAFT => Frame::Raft(decode_messages(bytes)?),
            CALL => Frame::Call {
                id: bytes.try_get_u64_le().map_err(|_| SHORT)?,
                shard: bytes.try_get_u16_le().map_err(|_| SHORT)?,
                kind: bytes.try_get_u8().map_err(|_| SHORT)?,
                body: bytes,
            },
            ANSWER => Frame::Answer {
                id: bytes.try_get_u64_le().map_err(|_| SHORT)?,
                status: bytes.try_get_u8().map_err(|_| SHORT)?,
                body: bytes,
            },
            HINTS => Frame::Hints(bytes),
            PING if bytes.is_empty() => Frame::Ping,
            PONG if bytes.is_empty() => Frame::Pong,
            PING | PONG => return Err("a ping with a body"),
            _ => return Err("an unknown kind of frame"),
        })
    }
}

impl Greeting {
    fn encode(&self, out: &mut BytesMut) {
        debug_assert!(self.cluster.len() <= CLUSTER_NAME_BYTES_MAX);
        out.put_u16_le(self.protocol);
        out.put_u32_le(self.node);
        out.put_u32_le(self.to);
        out.put_u128_le(self.store.0);
        out.put_u8(self.cluster.len() as u8);
        out.put_slice(self.cluster.as_bytes());
        out.put_u32_le(self.level);
    }

    fn decode(mut bytes: Bytes) -> Result<Greeting, &'static str> {
        const SHORT: &str = "a greeting that is too short";
        let protocol = bytes.try_get_u16_le().map_err(|_| SHORT)?;
        let node = bytes.try_get_u32_le().map_err(|_| SHORT)?;
        let to = bytes.try_get_u32_le().map_err(|_| SHORT)?;
        let store = StoreId(bytes.try_get_u128_le().map_err(|_| SHORT)?);
        let length = usize::from(bytes.try_get_u8().map_err(|_| SHORT)?);
        let cluster = bytes.get(..length).ok_or(SHORT)?;
        if length > CLUSTER_NAME_BYTES_MAX {
            return Err("a cluster name that is too long");
        }
        let cluster = std::str::from_utf8(cluster).map_err(|_| "a cluster name that is no text")?.to_owned();
        bytes.advance(length);
        // The first version did not say.
        let level = bytes.try_get_u32_le().unwrap_or(level::FIRST);
        Ok(Greeting { protocol, cluster, node, store, to, level })
    }
}

fn frame(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0, HEAD_BYTES);
    out.put_u8(kind);
    body(out);
    let (head, rest) = out[start..].split_at_mut(HEAD_BYTES);
    debug_assert!(rest.len() <= PEER_FRAME_BYTES_MAX);
    head[..4].copy_from_slice(&(rest.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&crc32c::crc32c(rest).to_le_bytes());
}

fn decode_messages(mut bytes: Bytes) -> Result<Vec<(u16, Bytes)>, &'static str> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        if messages.len() == PEER_BATCH_MESSAGES_MAX {
            return Err("too many messages in a frame");
        }
        if bytes.len() < MESSAGE_HEAD_BYTES {
            return Err("a message that is too short");
        }
        let shard = bytes.get_u16_le();
        let length = bytes.get_u32_le() as usize;
        if length > bytes.len() {
            return Err("a message beyond its frame");
        }
        messages.push((shard, bytes.split_to(length)));
    }
    Ok(messages)
}

/// Cuts what arrives into frames.
pub struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    bytes_max: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Takes greetings only, which are small.
    pub fn new(reader: R) -> Self {
        FrameReader { reader, buffer: BytesMut::new(), bytes_max: PEER_GREETING_BYTES_MAX }
    }

    /// Takes frames of any size from now on: the other side is known.
    pub fn trust(&mut self) {
        self.bytes_max = PEER_FRAME_BYTES_MAX;
    }

    /// The next frame. May be dropped and called again without loss.
    pub async fn next(&mut self) -> Result<Frame, ReadError> {
        self.fill(HEAD_BYTES).await?;
        let length = self.head(0) as usize;
        if length == 0 || length > self.bytes_max {
            return Err(ReadError::Malformed("a length that no frame has"));
        }
        self.fill(HEAD_BYTES + length).await?;
        let crc = self.head(4);
        self.buffer.advance(HEAD_BYTES);
        let bytes = self.buffer.split_to(length).freeze();
        if crc32c::crc32c(&bytes) != crc {
            return Err(ReadError::Malformed("a wrong checksum"));
        }
        Frame::decode(bytes).map_err(ReadError::Malformed)
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    fn head(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.buffer[at..at + 4].try_into().expect("four bytes of a head that is complete"))
    }

    async fn fill(&mut self, bytes: usize) -> Result<(), ReadError> {
        while self.buffer.len() < bytes {
            // A length alone takes no memory: the buffer grows as bytes come, by as much as are here.
            let missing = (bytes - self.buffer.len()).min(self.buffer.len().max(PEER_READ_BYTES));
            self.buffer.reserve(missing.max(PEER_READ_BYTES.min(self.bytes_max)));
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Err(match self.buffer.is_empty() {
                    true => ReadError::Closed,
                    false => ReadError::Malformed("a frame that was cut short"),
                });
            }
        }
        Ok(())
    }
}
