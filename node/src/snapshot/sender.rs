//! The leader's side: makes a copy and brings it to a follower.

use super::{CHUNK_BYTES, COPIES_MAX, ChunkHead, Done, Offer};
use crate::error::Error;
use crate::peer::{CallError, Peers};
use crate::reactor::{Mailbox, reactor_of};
use crate::request::Fault;
use crate::router::{call, pack, unpack};
use crate::store::state::{Checkpoint, StateStore};
use crate::store::{self, SharedRocks};
use bytes::Bytes;
use moso_proto::Code;
use moso_proto::shards::node_of;
use moso_shard::{ConfState, Position};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Time for the answer to an offer or a chunk.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for the answer when all is sent: the follower reads every record and loads its machine.
const DONE_TIMEOUT: Duration = Duration::from_secs(900);
/// Pause before a copy is offered again.
const PAUSE: Duration = Duration::from_millis(500);
/// A copy that gets no further for so long is given up; Raft asks for another one if it is still needed.
const STUCK: Duration = Duration::from_secs(60);

/// A copy that a follower holds.
pub struct Copied {
    /// The follower.
    pub peer: u64,
    /// Up to where the log is applied in it.
    pub at: Position,
    /// The members there.
    pub members: ConfState,
}

/// What became of a copy.
pub enum News {
    /// It was made: the log is needed from here on.
    Made(u64, u64),
    /// The follower holds it.
    Copied(Box<Copied>),
    /// It is of no use.
    Failed(u64),
}

/// Brings copies to followers, a few at a time.
pub struct Sender {
    runtime: tokio::runtime::Handle,
    peers: Arc<Peers>,
    mailboxes: Vec<Arc<Mailbox>>,
    data: PathBuf,
    shared: Arc<SharedRocks>,
    permits: Arc<Semaphore>,
    bytes_per_s: u64,
}

impl Sender {
    /// Must be called within the runtime that is to run the copies.
    pub fn new(
        peers: Arc<Peers>,
        mailboxes: Vec<Arc<Mailbox>>,
        data: PathBuf,
        shared: Arc<SharedRocks>,
        mib_per_s: u64,
    ) -> Self {
        Sender {
            runtime: tokio::runtime::Handle::current(),
            peers,
            mailboxes,
            data,
            shared,
            permits: Arc::new(Semaphore::new(COPIES_MAX)),
            bytes_per_s: mib_per_s.max(1) << 20,
        }
    }

    /// Begins a copy of a shard's state for a follower. What becomes of it is told to the shard's reactor.
    pub fn begin(self: &Arc<Self>, shard: u16, peer: u64, store: Arc<StateStore>) {
        let sender = self.clone();
        self.runtime.spawn(async move {
            let Ok(_permit) = sender.permits.clone().acquire_owned().await else { return };
            let start = Instant::now();
            let dir = store::outgoing_dir(&sender.data).join(format!("{shard}-{peer}"));
            let result = sender.run(shard, peer, store, &dir).await;
            let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dir)).await;
            let news = match result {
                Ok((copied, bytes)) => {
                    metrics::counter!("moso_snapshots_sent_total").increment(1);
                    tracing::info!(shard, peer, index = copied.at.index, bytes, took = ?start.elapsed(), "copied");
                    News::Copied(Box::new(copied))
                }
                Err(error) => {
                    metrics::counter!("moso_snapshots_failed_total").increment(1);
                    tracing::warn!(shard, peer, %error, "a copy of the state did not arrive");
                    News::Failed(peer)
                }
            };
            sender.tell(shard, news);
        });
    }

    fn tell(&self, shard: u16, news: News) {
        let mailbox = &self.mailboxes[reactor_of(shard, self.mailboxes.len())];
        mailbox.task(Box::new(move |reactor| reactor.copy_news(shard, news)));
    }

    async fn run(&self, shard: u16, peer: u64, store: Arc<StateStore>, dir: &Path) -> Result<(Copied, u64), Error> {
        let (target, shared) = (dir.to_owned(), self.shared.clone());
        let made = tokio::task::spawn_blocking(move || {
            let _ = std::fs::remove_dir_all(&target);
            store.checkpoint(&target, &shared)
        });
        let checkpoint = made.await.map_err(|_| gone("the copy's thread"))??;
        self.tell(shard, News::Made(peer, checkpoint.applied.index));
        let offer = Offer {
            id: rand::random(),
            to: peer,
            index: checkpoint.applied.index,
            term: checkpoint.applied.term,
            members: Offer::members(&checkpoint.members),
            auto_leave: checkpoint.members.auto_leave,
            files: checkpoint.files.clone(),
        };
        let mut transfer = Transfer { sender: self, shard, offer: &offer, checkpoint: &checkpoint, sent: 0 };
        let (mut best, mut since) = (0, Instant::now());
        loop {
            let error = match transfer.attempt().await {
                Ok(()) => break,
                Err(error) => error,
            };
            if transfer.sent > best {
                (best, since) = (transfer.sent, Instant::now());
            }
            if since.elapsed() > STUCK || !is_passing(&error) {
                return Err(Error::Read { what: "a copy's receiver", reason: error.to_string() });
            }
            tokio::time::sleep(PAUSE).await;
        }
        let at = Position { index: offer.index, term: offer.term };
        Ok((Copied { peer, at, members: checkpoint.members }, offer.bytes()))
    }
}

fn gone(what: &'static str) -> Error {
    Error::Read { what, reason: "it has ended".into() }
}

/// Whether the same copy may succeed later.
fn is_passing(error: &CallError) -> bool {
    match error {
        CallError::Unreachable | CallError::Busy | CallError::Timeout => true,
        CallError::TooLarge => false,
        CallError::Refused { body, .. } => {
            unpack::<Fault>(body).is_ok_and(|fault| matches!(fault.code, Code::Busy | Code::NotLeader))
        }
    }
}

struct Transfer<'a> {
    sender: &'a Sender,
    shard: u16,
    offer: &'a Offer,
    checkpoint: &'a Checkpoint,
    /// Bytes that the follower has, as far as is known.
    sent: u64,
}

impl Transfer<'_> {
    /// Offers the copy and sends what the follower lacks of it.
    async fn attempt(&mut self) -> Result<(), CallError> {
        let body = pack(self.offer);
        let answer = self.call(call::SNAPSHOT_OFFER, body, CALL_TIMEOUT).await?;
        let held: Vec<u64> = unpack(&answer).map_err(|_| CallError::Unreachable)?;
        self.sent = held.iter().sum();
        let mut checksums = Vec::with_capacity(self.offer.files.len());
        for (file, (name, bytes)) in self.offer.files.iter().enumerate() {
            let from = held.get(file).copied().unwrap_or(0).min(*bytes);
            checksums.push(self.file(file as u32, name, from).await?);
        }
        let done = Done { id: self.offer.id, checksums };
        self.call(call::SNAPSHOT_DONE, pack(&done), DONE_TIMEOUT).await?;
        Ok(())
    }

    /// Sends a file from an offset on; returns the checksum of all of it.
    async fn file(&mut self, file: u32, name: &str, from: u64) -> Result<u32, CallError> {
        let path = self.checkpoint.dir.join(name);
        let open = tokio::task::spawn_blocking(move || File::open(path)).await;
        let Ok(Ok(source)) = open else { return Err(CallError::TooLarge) };
        let source = Arc::new(source);
        let bytes = self.offer.files[file as usize].1;
        let (mut at, mut crc) = (0, 0);
        while at < bytes {
            let length = (bytes - at).min(CHUNK_BYTES as u64) as usize;
            let source = source.clone();
            let read = tokio::task::spawn_blocking(move || {
                let mut chunk = vec![0; length];
                source.read_exact_at(&mut chunk, at).map(|()| chunk)
            });
            let Ok(Ok(chunk)) = read.await else { return Err(CallError::TooLarge) };
            crc = crc32c::crc32c_append(crc, &chunk);
            let end = at + length as u64;
            if end > from {
                self.chunk(
                    ChunkHead { id: self.offer.id, file, at: at.max(from) },
                    &chunk[(from.max(at) - at) as usize..],
                )
                .await?;
            }
            at = end;
        }
        Ok(crc)
    }

    async fn chunk(&mut self, head: ChunkHead, bytes: &[u8]) -> Result<(), CallError> {
        let start = Instant::now();
        let mut body = pack(&head).to_vec();
        let head_bytes = body.len() as u8;
        body.insert(0, head_bytes);
        body.extend_from_slice(bytes);
        self.call(call::SNAPSHOT_CHUNK, body.into(), CALL_TIMEOUT).await?;
        self.sent += bytes.len() as u64;
        metrics::counter!("moso_snapshot_bytes_sent_total").increment(bytes.len() as u64);
        let least = Duration::from_secs_f64(bytes.len() as f64 / self.sender.bytes_per_s as f64);
        tokio::time::sleep_until(start + least).await;
        Ok(())
    }

    async fn call(&self, kind: u8, body: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        self.sender.peers.call(node_of(self.offer.to), self.shard, kind, body, timeout).await
    }
}
