use super::cluster::*;
use crate::limits::{PEER_FRAME_BYTES_MAX, PEER_STRANGERS_MAX};
use crate::peer::frame::{Frame, FrameReader, Greeting, PROTOCOL};
use crate::store::StoreId;
use bytes::{Bytes, BytesMut};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn hello(node: u32) -> Greeting {
    Greeting {
        protocol: PROTOCOL,
        cluster: CLUSTER.to_owned(),
        node,
        store: StoreId(100 + u128::from(node)),
        to: 1,
        level: 2,
    }
}

fn encoded(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    out
}

/// Sends bytes and reads until the other side closes.
async fn say(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is as good an end as a close.
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

/// Says hello as node 2 and gets an ack; then sends bytes and reads until the other side closes.
async fn say_as_node(address: SocketAddr, bytes: &[u8]) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    writer.write_all(&encoded(&Frame::Hello(hello(2)))).await.unwrap();
    let mut reader = FrameReader::new(reader);
    assert!(matches!(reader.next().await, Ok(Frame::Ack(greeting)) if greeting.node == 1 && greeting.to == 2));
    writer.write_all(bytes).await.unwrap();
    while reader.next().await.is_ok() {}
}

/// Node 1, connected with node 3, and knowing of a node 2 that the test plays.
async fn node() -> (TestNode, TestNode, SocketAddr) {
    let ((one, at_one), (three, at_three), (_, nowhere)) = (listen().await, listen().await, listen().await);
    let one = start(1, one, &[(2, nowhere), (3, at_three)]);
    let three = start(3, three, &[(1, at_one)]);
    until(|| connected(&one, 3) && connected(&three, 1)).await;
    (one, three, at_one)
}

async fn still_talk(one: &TestNode, three: &TestNode) {
    let long = Duration::from_secs(60);
    assert_eq!(three.peers.call(1, 5, REVERSE, Bytes::from_static(b"abc"), long).await.unwrap(), "cba");
    assert!(three.send(1, 5, Bytes::from_static(b"m")));
    assert_eq!(one.next().await, Event::Raft(3, vec![(5, Bytes::from_static(b"m"))]));
    assert_eq!((one.peers.counts().connected, one.peers.counts().accepted), (1, 1));
}

#[tokio::test]
async fn bytes_of_strangers_close_only_their_own_connection() {
    let (one, three, address) = node().await;
    let tls_hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0xa5; 506]].concat();
    let mut wrong_checksum = encoded(&Frame::Hello(hello(2)));
    wrong_checksum[4] ^= 1;
    let mut too_long = encoded(&Frame::Hello(hello(2)));
    too_long.extend_from_slice(&[0; 5000]);
    too_long[..4].copy_from_slice(&5000u32.to_le_bytes());
    let cut = encoded(&Frame::Hello(hello(2)));
    let mut long_name = hello(2);
    long_name.cluster = "x".repeat(64);
    let mut long_name = encoded(&Frame::Hello(long_name));
    long_name[8 + 1 + 26] = 65;
    let strangers: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
        &tls_hello,
        &[0; 64],
        &[0xff; 64],
        &wrong_checksum,
        &too_long,
        &long_name,
        &encoded(&Frame::Ping),
    ];
    for (number, bytes) in strangers.iter().enumerate() {
        assert!(say(address, bytes).await.is_empty(), "nothing is said to stranger {number}");
        assert_eq!(one.peers.counts().malformed, number as u64 + 1);
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&cut[..cut.len() - 1]).await.unwrap();
    drop(stream);
    until(|| one.peers.counts().malformed == strangers.len() as u64 + 1).await;
    still_talk(&one, &three).await;
}

#[tokio::test]
async fn those_who_are_not_expected_are_told_why() {
    let (one, three, address) = node().await;
    assert!(one.peers.use_level(2));
    let wrong = [
        (Greeting { cluster: "other".to_owned(), ..hello(2) }, "is of cluster \"other\""),
        (Greeting { protocol: 9, ..hello(2) }, "speaks protocol 9"),
        (Greeting { to: 4, ..hello(2) }, "means node 4, this is node 1"),
        (Greeting { level: 1, ..hello(2) }, "the cluster uses level 2: start a newer version there"),
        (hello(4), "node 4 is no member"),
        (hello(1), "node 1 is no member"),
        (Greeting { store: StoreId(1), ..hello(3) }, "was first met with"),
    ];
    for (greeting, reason) in wrong {
        let answer = say(address, &encoded(&Frame::Hello(greeting))).await;
        match FrameReader::new(&answer[..]).next().await {
            Ok(Frame::Refused(text)) => assert!(text.contains(reason), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(one.peers.counts().refused, 7);
    assert_eq!(one.peers.counts().malformed, 0);
    still_talk(&one, &three).await;
}

#[tokio::test]
async fn a_node_that_sends_nonsense_loses_only_its_own_connection() {
    let (one, three, address) = node().await;
    let length = |bytes: u32| [&bytes.to_le_bytes()[..], &[0; 60]].concat();
    let mut beyond = BytesMut::new();
    Frame::Raft(vec![(1, Bytes::from_static(b"message"))]).encode(&mut beyond);
    // The message claims to be longer than its frame; the checksum is right.
    beyond[8 + 1 + 2] = 200;
    let crc = crc32c::crc32c(&beyond[8..]);
    beyond[4..8].copy_from_slice(&crc.to_le_bytes());
    let nonsense: [&[u8]; 7] = [
        &length(PEER_FRAME_BYTES_MAX as u32 + 1),
        &length(u32::MAX),
        &length(0),
        &beyond,
        &encoded(&Frame::Hello(hello(2))),
        &encoded(&Frame::Answer { id: 1, status: 0, body: Bytes::new() }),
        &encoded(&Frame::Refused(String::new())),
    ];
    for (number, bytes) in nonsense.iter().enumerate() {
        say_as_node(address, bytes).await;
        assert_eq!(one.peers.counts().malformed, number as u64 + 1);
    }
    assert_eq!(one.peers.counts().accepted, 1 + nonsense.len() as u64);
    assert!(three.send(1, 5, Bytes::from_static(b"m")));
    assert_eq!(one.next().await, Event::Raft(3, vec![(5, Bytes::from_static(b"m"))]));
}

#[tokio::test]
async fn a_node_that_dials_again_replaces_its_last_connection() {
    let (one, _three, address) = node().await;
    let first = tokio::spawn(say_as_node(address, &[]));
    until(|| one.peers.counts().accepted == 2).await;
    let second = tokio::spawn(say_as_node(address, &[]));
    first.await.unwrap();
    assert_eq!((one.peers.counts().accepted, one.peers.counts().malformed), (3, 0));
    second.abort();
}

#[tokio::test]
async fn a_length_alone_takes_no_memory() {
    let (mut far, near) = tokio::io::duplex(1 << 20);
    let mut reader = FrameReader::new(near);
    reader.trust();
    far.write_all(&(PEER_FRAME_BYTES_MAX as u32).to_le_bytes()).await.unwrap();
    far.write_all(&[7; 100_000]).await.unwrap();
    assert!(futures::FutureExt::now_or_never(reader.next()).is_none());
    assert!(reader.capacity() <= 4 * 100_000, "{} bytes are held for 100,004", reader.capacity());
}

#[tokio::test]
async fn a_node_is_let_in_however_many_strangers_stay_silent() {
    let (one, _three, address) = node().await;
    let mut silent = Vec::new();
    while one.peers.counts().turned_away < 10 {
        silent.push(TcpStream::connect(address).await.unwrap());
        tokio::task::yield_now().await;
    }
    let known = tokio::spawn(say_as_node(address, &[]));
    until(|| one.peers.counts().accepted == 2).await;
    known.abort();
}

#[tokio::test]
async fn only_so_many_may_stay_silent() {
    let (one, three, address) = node().await;
    let mut silent = Vec::new();
    while one.peers.counts().turned_away == 0 {
        silent.push(TcpStream::connect(address).await.unwrap());
        tokio::task::yield_now().await;
        assert!(silent.len() < 10 * PEER_STRANGERS_MAX);
    }
    assert!(silent.len() > PEER_STRANGERS_MAX);
    still_talk(&one, &three).await;
    // After the time to say who they are, none is left.
    for stream in &mut silent {
        let _ = stream.read(&mut [0]).await;
    }
    assert!(one.peers.counts().refused as usize >= PEER_STRANGERS_MAX);
}
