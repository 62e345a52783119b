//! The connection that this node dials to another one, and what waits to be sent on it.

use super::CallError;
use super::frame::{BODY_BYTES_MAX, Frame, FrameReader, MESSAGE_HEAD_BYTES, ReadError};
use super::shared::Shared;
use crate::limits::*;
use crate::tls::{ReadSide, WriteSide};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Bytes that a waiting item costs beside its body.
const ITEM_BYTES: usize = 64;

type Waiting = oneshot::Sender<(u8, Bytes)>;

/// The connection to one node. It is dialled again and again until the link is dropped.
pub(super) struct Link {
    node: u32,
    address: String,
    shared: Arc<Shared>,
    queue: Mutex<Queue>,
    /// Held by the thread that writes.
    socket: Mutex<Socket>,
    /// The socket takes no more for now.
    blocked: AtomicBool,
    /// A write failed.
    broken: AtomicBool,
    /// Something is left to the connection's own task: to be written, or to wait for the socket.
    wake: Notify,
    calls: Mutex<HashMap<u64, Waiting>>,
    next_call: AtomicU64,
}

/// What waits to be sent.
#[derive(Default)]
struct Queue {
    /// Connected: only then anything is taken in, since old messages are of no use after a reconnect.
    open: bool,
    items: VecDeque<Item>,
    bytes: usize,
}

/// The connection, and what of it was encoded and not yet written.
#[derive(Default)]
struct Socket {
    writer: Option<WriteSide>,
    out: BytesMut,
}

enum Item {
    Raft(u16, Bytes),
    Other(Frame),
}

impl Item {
    fn bytes(&self) -> usize {
        let body = match self {
            Item::Raft(_, message) => message.len(),
            Item::Other(Frame::Call { body, .. } | Frame::Hints(body)) => body.len(),
            Item::Other(_) => 0,
        };
        ITEM_BYTES + body
    }
}

impl Link {
    pub(super) fn new(node: u32, address: String, shared: Arc<Shared>) -> Link {
        Link {
            node,
            address,
            shared,
            queue: Mutex::default(),
            socket: Mutex::default(),
            blocked: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            wake: Notify::new(),
            calls: Mutex::default(),
            next_call: AtomicU64::new(1),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn is_connected(&self) -> bool {
        self.queue().open
    }

    #[cfg(test)]
    pub(super) fn calls_waiting(&self) -> usize {
        self.calls().len()
    }

    /// Queues a message; it leaves with the next [`Link::flush`].
    pub(super) fn send_raft(&self, shard: u16, message: Bytes) -> bool {
        message.len() <= BODY_BYTES_MAX && self.push(Item::Raft(shard, message)).is_ok()
    }

    pub(super) fn send_hints(&self, body: Bytes) {
        if body.len() <= BODY_BYTES_MAX {
            // Newer ones follow in a moment.
            let _ = self.push(Item::Other(Frame::Hints(body)));
            self.wake.notify_one();
        }
    }

    /// Status and body of the answer. Dropping the future forgets the call.
    pub(super) async fn call(&self, shard: u16, kind: u8, body: Bytes) -> Result<(u8, Bytes), CallError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(CallError::TooLarge);
        }
        let id = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut calls = self.calls();
            if calls.len() * 100 >= PEER_CALLS_MAX * self.shared.handler.calls_percent(kind, &body) {
                return Err(CallError::Busy);
            }
            calls.insert(id, sender);
        }
        let _forget = Forget { link: self, id };
        self.push(Item::Other(Frame::Call { id, shard, kind, body }))?;
        self.wake.notify_one();
        // The sender is dropped when the connection is lost.
        answer.await.map_err(|_| CallError::Unreachable)
    }

    fn push(&self, item: Item) -> Result<(), CallError> {
        let mut queue = self.queue();
        if !queue.open {
            return Err(CallError::Unreachable);
        }
        let bytes = queue.bytes + item.bytes();
        if bytes > PEER_QUEUE_BYTES_MAX || queue.items.len() >= PEER_QUEUE_MESSAGES_MAX {
            return Err(CallError::Busy);
        }
        queue.bytes = bytes;
        queue.items.push_back(item);
        Ok(())
    }

    /// Writes what is queued, from any thread and without waiting: a reactor's messages leave with its turn, not when
    /// the connection's task is next run. What the socket does not take is left to that task.
    ///
    /// One thread writes at a time. Another one that comes meanwhile leaves its messages to it: whoever gives the
    /// socket back looks once more.
    pub(super) fn flush(&self) {
        while !self.queue().items.is_empty() && !self.blocked.load(Ordering::Acquire) {
            match self.socket.try_lock() {
                Ok(mut socket) => {
                    // Whoever is to be woken when the socket takes more is the connection's own task, which asks again.
                    if self.write(&mut socket, &mut Context::from_waker(Waker::noop())).is_pending() {
                        self.blocked.store(true, Ordering::Release);
                        self.wake.notify_one();
                    }
                }
                Err(TryLockError::WouldBlock) => return,
                Err(TryLockError::Poisoned(_)) => unreachable!("no thread panics while it holds this lock"),
            }
        }
    }

    /// Writes until nothing is left. Pending: the socket takes no more for now, or is broken.
    fn write(&self, socket: &mut Socket, context: &mut Context<'_>) -> Poll<()> {
        let Socket { writer: Some(writer), out } = socket else { return Poll::Ready(()) };
        loop {
            if out.is_empty() {
                empty(out);
                self.take(out);
            }
            let writer = Pin::new(&mut *writer);
            let written = match out.is_empty() {
                // What was encrypted may still wait for the socket.
                true => writer.poll_flush(context).map_ok(|()| None),
                false => writer.poll_write(context, out).map_ok(Some),
            };
            match written {
                Poll::Ready(Ok(None)) => return Poll::Ready(()),
                Poll::Ready(Ok(Some(written))) if written > 0 => out.advance(written),
                Poll::Ready(Ok(_) | Err(_)) => {
                    self.broken.store(true, Ordering::Release);
                    return Poll::Pending;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Dials, talks, and dials again.
    pub(super) async fn run(self: Arc<Self>) {
        let mut pause = PEER_BACKOFF_MIN;
        loop {
            match self.connect().await {
                Ok((reader, writer)) => {
                    let connected = Instant::now();
                    self.talk(reader, writer).await;
                    // One that is lost at once is no success.
                    if connected.elapsed() > PEER_BACKOFF_MAX {
                        pause = PEER_BACKOFF_MIN;
                    }
                }
                Err(Some(reason)) => self.shared.refused(reason),
                Err(None) => {}
            }
            // Many nodes that lost the same one must not come back in step.
            sleep(rand::random_range(pause / 2..=pause).max(PEER_BACKOFF_MIN)).await;
            pause = (pause * 2).min(PEER_BACKOFF_MAX);
        }
    }

    /// `Err` with a reason if somebody is there, but not the right one.
    async fn connect(&self) -> Result<(FrameReader<ReadSide>, WriteSide), Option<String>> {
        let stream = in_time(PEER_CONNECT_TIMEOUT, TcpStream::connect(&self.address)).await.ok_or(None)?;
        let stream = stream.map_err(|_| None)?;
        stream.set_nodelay(true).map_err(|_| None)?;
        let at = &self.address;
        let silent = || Some(format!("{at} does not say who it is"));
        let reached = in_time(PEER_GREETING_TIMEOUT, self.shared.reach(stream)).await.ok_or_else(silent)?;
        let (shown, line) = reached.map_err(|reason| Some(format!("{at}: {reason}")))?;
        if let Some(shown) = shown.filter(|shown| *shown != self.node) {
            return Err(Some(format!("{at} shows the certificate of node {shown}, not of {}", self.node)));
        }
        let (reader, mut writer) = line.into_split();
        let mut reader = FrameReader::new(reader);
        let mut hello = BytesMut::new();
        Frame::Hello(self.shared.greeting(self.node)).encode(&mut hello);
        let exchange = async {
            writer.write_all(&hello).await?;
            writer.flush().await?;
            reader.next().await
        };
        match in_time(PEER_GREETING_TIMEOUT, exchange).await.ok_or_else(silent)? {
            Ok(Frame::Ack(greeting)) if greeting.node == self.node => {
                self.shared.check(&greeting).await.map_err(Some)?;
                reader.trust();
                Ok((reader, writer))
            }
            Ok(Frame::Ack(greeting)) => Err(Some(format!("{at} is node {}, not {}", greeting.node, self.node))),
            Ok(Frame::Refused(text)) => Err(Some(format!("{at} refuses this node: {text:?}"))),
            Ok(_) => Err(Some(format!("{at} does not answer as a node"))),
            Err(ReadError::Malformed(reason)) => {
                self.shared.counts.malformed();
                Err(Some(format!("{at} sent {reason}")))
            }
            Err(ReadError::Closed) => Err(None),
        }
    }

    async fn talk(&self, reader: FrameReader<ReadSide>, writer: WriteSide) {
        *self.socket() = Socket { writer: Some(writer), out: BytesMut::new() };
        self.blocked.store(false, Ordering::Release);
        self.broken.store(false, Ordering::Release);
        self.queue().open = true;
        self.shared.hear(self.node);
        self.shared.counts.connected();
        let open = Open { link: self };
        tracing::info!(node = self.node, address = %self.address, "peer connected");
        tokio::select! {
            () = self.receive(reader) => {}
            () = self.send() => {}
        }
        tracing::info!(node = self.node, address = %self.address, "peer lost");
        drop(open);
        self.shared.handler.connection_lost(self.node);
    }

    async fn receive(&self, mut reader: FrameReader<ReadSide>) {
        loop {
            match in_time(PEER_SILENCE_MAX, reader.next()).await {
                Some(Ok(Frame::Answer { id, status, body })) => {
                    if let Some(waiting) = self.calls().remove(&id) {
                        // The caller may have gone in this moment.
                        let _ = waiting.send((status, body));
                    }
                }
                Some(Ok(Frame::Pong)) => {}
                Some(Ok(_) | Err(ReadError::Malformed(_))) => return self.shared.counts.malformed(),
                Some(Err(ReadError::Closed)) | None => return,
            }
            self.shared.hear(self.node);
        }
    }

    /// Pings, and writes what the threads that queued it did not.
    async fn send(&self) {
        let mut ping_at = Instant::now() + PEER_PING_INTERVAL;
        loop {
            if Instant::now() >= ping_at {
                // One that does not fit is missed by nobody: the connection is anything but silent.
                let _ = self.push(Item::Other(Frame::Ping));
                ping_at = Instant::now() + PEER_PING_INTERVAL;
            }
            self.flush();
            if self.broken.load(Ordering::Acquire) {
                return;
            }
            if self.blocked.load(Ordering::Acquire) {
                poll_fn(|context| self.unblock(context)).await;
                continue;
            }
            tokio::select! {
                // Whoever runs next may have something to send too.
                () = self.wake.notified() => tokio::task::yield_now().await,
                () = sleep_until(ping_at) => {}
            }
        }
    }

    /// Writes what was left. Pending until the socket has taken it all.
    fn unblock(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut socket = self.socket();
        if self.write(&mut socket, context).is_pending() && !self.broken.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.blocked.store(false, Ordering::Release);
        Poll::Ready(())
    }

    /// Moves about as much from the queue to `out` as one write should have. Messages in a row become one frame.
    fn take(&self, out: &mut BytesMut) {
        let mut taken = Vec::new();
        {
            let mut queue = self.queue();
            let mut bytes = 0;
            while bytes < PEER_WRITE_BYTES_TARGET {
                let Some(item) = queue.items.pop_front() else { break };
                queue.bytes -= item.bytes();
                bytes += item.bytes();
                taken.push(item);
            }
        }
        let mut messages = Vec::new();
        let mut bytes = 0;
        for item in taken {
            match item {
                Item::Raft(shard, message) => {
                    let more = MESSAGE_HEAD_BYTES + message.len();
                    if bytes + more > BODY_BYTES_MAX || messages.len() == PEER_BATCH_MESSAGES_MAX {
                        bytes = 0;
                        flush(&mut messages, out);
                    }
                    bytes += more;
                    messages.push((shard, message));
                }
                Item::Other(frame) => {
                    bytes = 0;
                    flush(&mut messages, out);
                    frame.encode(out);
                }
            }
        }
        flush(&mut messages, out);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no thread panics while it holds this lock")
    }

    fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().expect("no thread panics while it holds this lock")
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.calls.lock().expect("no thread panics while it holds this lock")
    }
}

/// Closes the queue when the connection ends, also when its task is ended.
struct Open<'a> {
    link: &'a Link,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        *self.link.queue() = Queue::default();
        *self.link.socket() = Socket::default();
        self.link.calls().clear();
    }
}

/// Forgets a call that got its answer or is waited for no longer.
struct Forget<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.link.calls().remove(&self.id);
    }
}

fn flush(messages: &mut Vec<(u16, Bytes)>, out: &mut BytesMut) {
    if !messages.is_empty() {
        Frame::Raft(std::mem::take(messages)).encode(out);
    }
}

/// Empties a buffer that was written; one that a large frame made large is let go.
pub(super) fn empty(out: &mut BytesMut) {
    if out.capacity() > 2 * PEER_WRITE_BYTES_TARGET {
        *out = BytesMut::new();
    } else {
        out.clear();
    }
}

/// `None` if it takes longer than `limit`.
pub(super) async fn in_time<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    timeout(limit, future).await.ok()
}
