use crate::limits::PEER_BATCH_MESSAGES_MAX;
use crate::peer::frame::{Frame, FrameReader, Greeting, PROTOCOL, ReadError};
use crate::store::StoreId;
use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;

fn greeting() -> Greeting {
    Greeting { protocol: PROTOCOL, cluster: "grid".to_owned(), node: 1, store: StoreId(u128::MAX - 1), to: 2, level: 3 }
}

fn all() -> Vec<Frame> {
    let body = Bytes::from_static(b"body");
    vec![
        Frame::Hello(greeting()),
        Frame::Ack(greeting()),
        Frame::Refused("because".to_owned()),
        Frame::Raft(vec![]),
        Frame::Raft(vec![(1, body.clone()), (4095, Bytes::new()), (2, vec![3; 100_000].into())]),
        Frame::Call { id: u64::MAX, shard: 7, kind: 3, body: body.clone() },
        Frame::Answer { id: 1, status: 255, body: body.clone() },
        Frame::Hints(body),
        Frame::Ping,
        Frame::Pong,
    ]
}

#[tokio::test]
async fn frames_come_back_however_they_are_cut() {
    let mut bytes = BytesMut::new();
    all().iter().for_each(|frame| frame.encode(&mut bytes));
    for piece in [1, 7, 64, bytes.len()] {
        let (mut writer, reader) = tokio::io::duplex(piece);
        let bytes = bytes.clone();
        let sender = tokio::spawn(async move { writer.write_all(&bytes).await.unwrap() });
        let mut reader = FrameReader::new(reader);
        reader.trust();
        for expected in all() {
            assert_eq!(reader.next().await.unwrap(), expected);
        }
        assert!(matches!(reader.next().await, Err(ReadError::Closed)));
        sender.await.unwrap();
    }
}

#[tokio::test]
async fn every_changed_or_missing_byte_is_noticed() {
    for frame in all().into_iter().filter(|frame| !matches!(frame, Frame::Raft(messages) if messages.len() > 2)) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(FrameReader::new(&damaged[..]).next().await.is_err(), "{frame:?}, byte {at}");
            assert!(FrameReader::new(&bytes[..at]).next().await.is_err(), "{frame:?} cut at {at}");
        }
    }
}

#[tokio::test]
async fn what_a_later_version_adds_to_a_greeting_is_ignored() {
    let mut bytes = BytesMut::new();
    Frame::Hello(greeting()).encode(&mut bytes);
    bytes.extend_from_slice(b"more");
    let length = bytes.len() - 8;
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    let crc = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(FrameReader::new(&bytes[..]).next().await.unwrap(), Frame::Hello(greeting()));
}

#[tokio::test]
async fn a_greeting_without_a_level_is_of_the_first() {
    let mut bytes = BytesMut::new();
    Frame::Hello(greeting()).encode(&mut bytes);
    bytes.truncate(bytes.len() - 4);
    let length = bytes.len() - 8;
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    let crc = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    let first = Greeting { level: 1, ..greeting() };
    assert_eq!(FrameReader::new(&bytes[..]).next().await.unwrap(), Frame::Hello(first));
}

#[tokio::test]
async fn a_frame_has_only_so_many_messages() {
    for (messages, good) in [(PEER_BATCH_MESSAGES_MAX, true), (PEER_BATCH_MESSAGES_MAX + 1, false)] {
        let mut bytes = BytesMut::new();
        Frame::Raft(vec![(1, Bytes::new()); messages]).encode(&mut bytes);
        let mut reader = FrameReader::new(&bytes[..]);
        reader.trust();
        assert_eq!(reader.next().await.is_ok(), good);
    }
}
