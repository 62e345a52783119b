use super::cluster::*;
use crate::limits::*;
use crate::peer::CallError;
use crate::peer::frame::{Frame, FrameReader, Greeting};
use crate::store::StoreId;
use bytes::{Bytes, BytesMut};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Lets a node in as node 2, and from then on reads nothing.
async fn deaf(listener: &TcpListener) -> (FrameReader<OwnedReadHalf>, OwnedWriteHalf) {
    let (stream, _) = listener.accept().await.unwrap();
    let (reader, mut writer) = stream.into_split();
    let mut reader = FrameReader::new(reader);
    let Ok(Frame::Hello(hello)) = reader.next().await else { panic!("a node says hello first") };
    let mut out = BytesMut::new();
    Frame::Ack(Greeting { node: 2, to: hello.node, store: StoreId(102), ..hello }).encode(&mut out);
    writer.write_all(&out).await.unwrap();
    (reader, writer)
}

/// Hands over messages of this size until one does not fit, and checks that calls do not fit either.
async fn fill(bytes: usize) -> (TestNode, usize) {
    let ((one, _), (listener, at_two)) = (listen().await, listen().await);
    let one = start(1, one, &[(2, at_two)]);
    let connection = deaf(&listener).await;
    until(|| connected(&one, 2)).await;
    let message = Bytes::from(vec![0; bytes]);
    let mut sent = 0;
    // Until the socket's buffers and the queue are full, and stay so.
    let mut refused = 0;
    while refused < 10 {
        if one.send(2, 1, message.clone()) {
            (sent, refused) = (sent + 1, 0);
        } else {
            refused += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let call = one.peers.call(2, 1, REVERSE, message, Duration::from_secs(60)).await;
    assert_eq!(call, Err(CallError::Busy));
    assert!(one.peers.counts().messages_dropped >= 10);
    drop(connection);
    (one, sent)
}

#[tokio::test]
async fn a_queue_is_full_at_its_bytes() {
    const MESSAGE: usize = 1 << 20;
    let (one, sent) = fill(MESSAGE).await;
    let waiting = PEER_QUEUE_BYTES_MAX / (MESSAGE + 64);
    // Beyond the queue: one write under way and what the sockets hold.
    assert!(sent >= waiting && sent <= waiting + 32, "{sent} of {waiting}");
    // A lost connection takes the queue with it.
    until(|| !connected(&one, 2)).await;
}

#[tokio::test]
async fn a_queue_is_full_at_its_messages() {
    let (_one, sent) = fill(2_000).await;
    assert!(sent >= PEER_QUEUE_MESSAGES_MAX, "{sent}");
    assert!(sent * 2_000 < PEER_QUEUE_BYTES_MAX, "the bytes are not what fills it: {sent}");
}

#[tokio::test]
async fn a_line_on_which_nothing_comes_back_is_given_up() {
    let ((one, _), (listener, at_two)) = (listen().await, listen().await);
    let one = start(1, one, &[(2, at_two)]);
    let connection = deaf(&listener).await;
    until(|| connected(&one, 2)).await;
    // Open, but silent: pings are not answered.
    assert_eq!(one.next().await, Event::Lost(2));
    drop(connection);
    let _again = deaf(&listener).await;
    until(|| connected(&one, 2)).await;
}
