//! The connections that other nodes dial to this one.

use super::frame::{BODY_BYTES_MAX, Frame, FrameReader, Greeting, ReadError};
use super::link::{empty, in_time};
use super::shared::Shared;
use super::{ANSWER_BUSY, ANSWER_TOO_LARGE};
use crate::limits::*;
use crate::tls::{ReadSide, WriteSide};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

/// Answers on their way to the writer. A call holds its place until its answer is in here; the rest is for pongs and
/// refusals.
const ANSWERS_MAX: usize = 2 * PEER_CALLS_MAX;

/// Lets other nodes in.
pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let mut strangers = VecDeque::new();
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        make_room(&shared, &mut strangers);
        let stranger = Arc::new(AtomicBool::new(true));
        let (shared, known) = (shared.clone(), stranger.clone());
        let connection = connections.spawn(async move {
            let greeted = greet(&shared, stream).await;
            known.store(false, Relaxed);
            if let Some((from, reader, writer)) = greeted {
                serve(&shared, from, reader, writer).await;
            }
        });
        strangers.push_back((stranger, connection));
    }
}

/// Hangs up on who has stayed silent longest, if too many do: a node says at once who it is, and is let in however many
/// others come and say nothing.
fn make_room(shared: &Shared, strangers: &mut VecDeque<(Arc<AtomicBool>, AbortHandle)>) {
    strangers.retain(|(stranger, connection)| stranger.load(Relaxed) && !connection.is_finished());
    if strangers.len() >= PEER_STRANGERS_MAX
        && let Some((_, oldest)) = strangers.pop_front()
    {
        oldest.abort();
        shared.counts.turned_away();
    }
}

type Greeted = (u32, FrameReader<ReadSide>, WriteSide);

/// Finds out who dials. `None` if it is nobody who should.
async fn greet(shared: &Shared, stream: TcpStream) -> Option<Greeted> {
    stream.set_nodelay(true).ok()?;
    let (shown, line) = match in_time(PEER_GREETING_TIMEOUT, shared.let_in(stream)).await {
        Some(Ok(let_in)) => let_in,
        Some(Err(reason)) => {
            shared.refused(reason);
            return None;
        }
        None => {
            shared.refused("a connection that shows no certificate".to_owned());
            return None;
        }
    };
    let (reader, mut writer) = line.into_split();
    let mut reader = FrameReader::new(reader);
    let greeting = match in_time(PEER_GREETING_TIMEOUT, reader.next()).await {
        Some(Ok(Frame::Hello(greeting))) => greeting,
        Some(Ok(_) | Err(ReadError::Malformed(_))) => {
            shared.counts.malformed();
            return None;
        }
        Some(Err(ReadError::Closed)) => return None,
        None => {
            shared.refused("a connection that does not say who it is".to_owned());
            return None;
        }
    };
    let Greeting { node, .. } = greeting;
    let checked = match shown {
        Some(shown) if shown != node => Err(format!("the certificate is of node {shown}, the greeting of node {node}")),
        _ => shared.check(&greeting).await,
    };
    let mut out = BytesMut::new();
    match &checked {
        Ok(()) => Frame::Ack(shared.greeting(node)).encode(&mut out),
        Err(reason) => Frame::Refused(reason.clone()).encode(&mut out),
    }
    let written = in_time(PEER_GREETING_TIMEOUT, async {
        writer.write_all(&out).await?;
        writer.flush().await
    });
    let written = written.await;
    match checked {
        Ok(()) => {
            written?.ok()?;
            reader.trust();
            Some((node, reader, writer))
        }
        Err(reason) => {
            shared.refused(reason);
            None
        }
    }
}

async fn serve(shared: &Arc<Shared>, from: u32, reader: FrameReader<ReadSide>, writer: WriteSide) {
    let replaced = shared.take_over(from);
    shared.counts.accepted();
    shared.hear(from);
    let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
    tokio::select! {
        () = receive(shared, from, reader, answers) => {}
        () = send(writer, outgoing) => {}
        // The sender is dropped by the next connection's, or when the node is no member any more.
        _ = replaced => {}
    }
}

async fn receive(shared: &Arc<Shared>, from: u32, mut reader: FrameReader<ReadSide>, answers: mpsc::Sender<Frame>) {
    let mut calls = JoinSet::new();
    loop {
        while calls.try_join_next().is_some() {}
        let frame = match in_time(PEER_SILENCE_MAX, reader.next()).await {
            Some(Ok(frame)) => frame,
            Some(Err(ReadError::Malformed(_))) => return shared.counts.malformed(),
            Some(Err(ReadError::Closed)) | None => return,
        };
        shared.hear(from);
        match frame {
            Frame::Raft(messages) => shared.handler.raft(from, messages),
            Frame::Hints(body) => shared.handler.hints(from, body),
            // One that does not fit is missed by nobody: the connection is anything but silent.
            Frame::Ping => drop(answers.try_send(Frame::Pong)),
            Frame::Call { id, kind, ref body, .. }
                if calls.len() * 100 >= PEER_CALLS_MAX * shared.handler.calls_percent(kind, body) =>
            {
                shared.counts.calls_refused();
                // If even this does not fit, the caller's time-out tells.
                drop(answers.try_send(Frame::Answer { id, status: ANSWER_BUSY, body: Bytes::new() }));
            }
            Frame::Call { id, shard, kind, body } => {
                let (answer, answers) = (shared.handler.call(from, shard, kind, body), answers.clone());
                calls.spawn(async move {
                    let frame = match answer.await {
                        (_, body) if body.len() > BODY_BYTES_MAX => {
                            Frame::Answer { id, status: ANSWER_TOO_LARGE, body: Bytes::new() }
                        }
                        (status, body) => Frame::Answer { id, status, body },
                    };
                    // Fails only when the connection is gone.
                    let _ = answers.send(frame).await;
                });
            }
            Frame::Hello(_) | Frame::Ack(_) | Frame::Refused(_) | Frame::Answer { .. } | Frame::Pong => {
                return shared.counts.malformed();
            }
        }
    }
}

async fn send(mut writer: WriteSide, mut outgoing: mpsc::Receiver<Frame>) {
    let mut out = BytesMut::new();
    while let Some(frame) = outgoing.recv().await {
        frame.encode(&mut out);
        while out.len() < PEER_WRITE_BYTES_TARGET
            && let Ok(frame) = outgoing.try_recv()
        {
            frame.encode(&mut out);
        }
        if writer.write_all(&out).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        empty(&mut out);
    }
}
