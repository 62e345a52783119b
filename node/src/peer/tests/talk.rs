use super::cluster::*;
use crate::limits::{PEER_CALLS_MAX, PEER_FRAME_BYTES_MAX};
use crate::peer::CallError;
use crate::store::StoreId;
use bytes::Bytes;
use std::time::Duration;
use tokio::net::TcpListener;

const LONG: Duration = Duration::from_secs(60);

fn body(bytes: &'static [u8]) -> Bytes {
    Bytes::from_static(bytes)
}

#[tokio::test]
async fn calls_are_answered_both_ways() {
    let (one, two) = pair().await;
    assert_eq!(one.peers.call(2, 5, REVERSE, body(b"abc"), LONG).await, Ok(body(b"cba")));
    assert_eq!(two.peers.call(1, 5, REVERSE, Bytes::new(), LONG).await, Ok(Bytes::new()));
    let refused = CallError::Refused { status: 3, body: body(b"ba") };
    assert_eq!(one.peers.call(2, 5, 3, body(b"ab"), LONG).await, Err(refused));
    let large = Bytes::from(vec![7; 20 << 20]);
    assert_eq!(one.peers.call(2, 5, REVERSE, large.clone(), LONG).await, Ok(large));
    let larger = Bytes::from(vec![7; PEER_FRAME_BYTES_MAX]);
    assert_eq!(one.peers.call(2, 5, REVERSE, larger.clone(), LONG).await, Err(CallError::TooLarge));
    assert!(!one.send(2, 5, larger));
    assert_eq!(one.peers.call(3, 5, REVERSE, body(b"abc"), LONG).await, Err(CallError::Unreachable));
    assert!(one.peers.is_up(2) && !one.peers.is_up(3));
}

#[tokio::test]
async fn messages_arrive_in_order_from_any_thread() {
    const MESSAGES: u32 = 20_000;
    const THREADS: u16 = 3;
    let (one, two) = pair().await;
    // Threads that know nothing of tokio, and write one for the other.
    let senders: Vec<_> = (0..THREADS)
        .map(|thread| {
            let peers = one.peers.clone();
            std::thread::spawn(move || {
                for number in 0..MESSAGES {
                    let message = Bytes::from([&number.to_le_bytes()[..], &vec![0; number as usize % 2_000]].concat());
                    while !peers.send_raft(2, thread, message.clone()) {
                        std::thread::yield_now();
                    }
                    if number % 3 != 1 {
                        peers.flush();
                    }
                }
                peers.flush();
            })
        })
        .collect();
    let mut expected = [0; THREADS as usize];
    while expected != [MESSAGES; THREADS as usize] {
        let Event::Raft(1, messages) = two.next().await else { panic!("only messages were sent") };
        for (thread, message) in messages {
            let number = &mut expected[usize::from(thread)];
            assert_eq!(message[..4], number.to_le_bytes());
            assert_eq!(message.len(), 4 + *number as usize % 2_000);
            *number += 1;
        }
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    one.peers.send_hints(2, body(b"hint"));
    assert_eq!(two.next().await, Event::Hints(1, body(b"hint")));
}

#[tokio::test]
async fn a_call_without_answer_ends_in_time_and_is_forgotten() {
    let (one, _two) = pair().await;
    let short = Duration::from_millis(20);
    assert_eq!(one.peers.call(2, 5, HANG, body(b""), short).await, Err(CallError::Timeout));
    assert_eq!(one.peers.links.load()[&2].calls_waiting(), 0);
}

#[tokio::test]
async fn too_many_calls_are_busy_and_the_others_go_on() {
    let (one, two) = pair().await;
    let mut hanging = tokio::task::JoinSet::new();
    for _ in 0..PEER_CALLS_MAX {
        let peers = one.peers.clone();
        hanging.spawn(async move { peers.call(2, 5, HANG, Bytes::new(), LONG).await });
    }
    let begun = two.recorder.begun.acquire_many(PEER_CALLS_MAX as u32).await.unwrap();
    // Refused here, before it is sent.
    assert_eq!(one.peers.call(2, 5, REVERSE, Bytes::new(), LONG).await, Err(CallError::Busy));
    drop(begun);
    // The callers are gone, but the calls still run there: now the other side refuses.
    hanging.shutdown().await;
    assert_eq!(one.peers.call(2, 5, REVERSE, Bytes::new(), LONG).await, Err(CallError::Busy));
    assert_eq!(two.peers.counts().calls_refused, 1);
    assert!(one.send(2, 1, body(b"still")));
    assert_eq!(two.next().await, Event::Raft(1, vec![(1, body(b"still"))]));
}

#[tokio::test]
async fn calls_that_matter_more_find_room_beside_those_that_wait() {
    let (one, two) = pair().await;
    let mut hanging = tokio::task::JoinSet::new();
    for _ in 0..PEER_CALLS_MAX / 2 {
        let peers = one.peers.clone();
        hanging.spawn(async move { peers.call(2, 5, HANG_LOW, Bytes::new(), LONG).await });
    }
    let begun = two.recorder.begun.acquire_many(PEER_CALLS_MAX as u32 / 2).await.unwrap();
    assert_eq!(one.peers.call(2, 5, HANG_LOW, Bytes::new(), LONG).await, Err(CallError::Busy));
    assert_eq!(one.peers.call(2, 5, REVERSE, body(b"abc"), LONG).await, Ok(body(b"cba")));
    drop(begun);
    hanging.shutdown().await;
    // There they still run.
    assert_eq!(one.peers.call(2, 5, HANG_LOW, Bytes::new(), LONG).await, Err(CallError::Busy));
    assert_eq!(one.peers.call(2, 5, REVERSE, body(b"abc"), LONG).await, Ok(body(b"cba")));
    assert_eq!(two.peers.counts().calls_refused, 1);
}

#[tokio::test]
async fn a_node_that_comes_back_is_connected_again() {
    let ((one, at_one), (two, at_two)) = (listen().await, listen().await);
    let one = start(1, one, &[(2, at_two)]);
    let first = start(2, two, &[(1, at_one)]);
    until(|| connected(&one, 2)).await;
    let waiting = one.peers.call(2, 5, HANG, Bytes::new(), LONG);
    let stop = async {
        let _ = first.recorder.begun.acquire().await.unwrap();
        drop(first);
    };
    let (answer, ()) = tokio::join!(waiting, stop);
    assert_eq!(answer, Err(CallError::Unreachable));
    assert_eq!(one.next().await, Event::Lost(2));
    assert!(!one.send(2, 1, body(b"lost")));
    assert_eq!(one.peers.counts().messages_dropped, 1);
    let again = TcpListener::bind(at_two).await.unwrap();
    let two = start(2, again, &[(1, at_one)]);
    until(|| connected(&one, 2) && connected(&two, 1)).await;
    assert!(one.send(2, 1, body(b"new")));
    // What was handed over while there was no connection is not sent.
    assert_eq!(two.next().await, Event::Raft(1, vec![(1, body(b"new"))]));
    assert_eq!(two.peers.call(1, 5, REVERSE, body(b"abc"), LONG).await, Ok(body(b"cba")));
}

#[tokio::test]
async fn another_store_under_a_known_number_is_refused_by_both_sides() {
    let ((one, at_one), (two, at_two)) = (listen().await, listen().await);
    let one = start(1, one, &[(2, at_two)]);
    let two = start(2, two, &[(1, at_one)]);
    until(|| connected(&one, 2) && connected(&two, 1)).await;
    drop(two);
    assert_eq!(one.next().await, Event::Lost(2));
    let again = TcpListener::bind(at_two).await.unwrap();
    let lost_its_data = start_as(CLUSTER, 2, StoreId(7), again, &[(1, at_one)]);
    // It dials and is told; it is dialled and found out.
    until(|| lost_its_data.peers.counts().refused >= 2 && one.peers.counts().refused >= 4).await;
    assert!(!connected(&one, 2) && !connected(&lost_its_data, 1));
    assert_eq!((one.peers.counts().connected, one.peers.counts().accepted), (1, 1));
}

#[tokio::test]
async fn nodes_of_two_clusters_do_not_talk() {
    let ((one, at_one), (two, at_two)) = (listen().await, listen().await);
    let one = start(1, one, &[(2, at_two)]);
    let two = start_as("other", 2, StoreId(102), two, &[(1, at_one)]);
    until(|| one.peers.counts().refused >= 2 && two.peers.counts().refused >= 2).await;
    assert!(!one.peers.is_up(2) && !two.peers.is_up(1));
    assert_eq!(one.peers.counts().accepted + two.peers.counts().accepted, 0);
}

#[tokio::test]
async fn an_address_that_belongs_to_another_node_is_no_connection() {
    let ((one, at_one), (two, at_two)) = (listen().await, listen().await);
    // Node 1 looks for node 3 where node 2 is.
    let one = start(1, one, &[(3, at_two)]);
    let _two = start(2, two, &[(1, at_one)]);
    until(|| one.peers.counts().refused >= 2).await;
    assert!(!connected(&one, 3));
}
