//! The leader's side: makes a copy of a shard's state and streams it to whoever asked.

use super::{Figures, figures};
use crate::api::caller::caller;
use crate::api::status;
use crate::clock::Clock;
use crate::error::Error;
use crate::identity::Guard;
use crate::reactor::{Mailbox, reactor_of};
use crate::request::{Fault, MetaRequest};
use crate::router::{QUERY_TIMEOUT, Router, in_time};
use crate::store::state::{Checkpoint, StateStore};
use crate::store::{self, SharedRocks};
use moso_proto::Code;
use moso_proto::v1::{self, backup_part::Part, backups_server::Backups};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Backups of shards that a node makes at a time: each loads a shard's machine once more.
const BACKUPS_MAX: usize = 2;
/// Bytes of a part.
const PART_BYTES: usize = 1 << 20;
/// Parts that wait to be sent: the disk is read while the line is busy.
const PARTS_WAITING: usize = 2;
/// Who does not take a part within this time gets no more.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);

type Parts = mpsc::Sender<Result<v1::BackupPart, Status>>;

/// Makes backups of the shards led here.
pub struct BackupSource {
    /// To the shards.
    pub router: Arc<Router>,
    /// The reactors' mailboxes.
    pub mailboxes: Vec<Arc<Mailbox>>,
    /// Data folder.
    pub data: PathBuf,
    /// RocksDB's memory and threads.
    pub shared: Arc<SharedRocks>,
    /// Time.
    pub clock: Clock,
    /// Who may.
    pub guard: Arc<Guard>,
    /// What a copy may take of disk and line, MiB/s.
    pub mib_per_s: u64,
}

/// The service.
#[derive(Clone)]
pub struct BackupsApi {
    source: Arc<BackupSource>,
    permits: Arc<Semaphore>,
}

/// A copy's folder, removed when nobody needs it any more: then, however that ends, or by the next start.
struct Outgoing {
    dir: PathBuf,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.dir.display(), %error, "a copy is left for the next start to remove");
        }
    }
}

impl BackupsApi {
    /// Serves what `source` makes.
    pub fn new(source: BackupSource) -> Self {
        BackupsApi { source: Arc::new(source), permits: Arc::new(Semaphore::new(BACKUPS_MAX)) }
    }

    /// Begins a copy; its parts come through the receiver.
    async fn begin(&self, shard: u32) -> Result<mpsc::Receiver<Result<v1::BackupPart, Status>>, Fault> {
        let shard = self.source.led_here(shard)?;
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| Fault {
            retry_after_ms: 2_000,
            ..Fault::new(Code::Busy, format!("this node makes {BACKUPS_MAX} copies for backups already"))
        })?;
        let store = self.source.confirmed(shard).await?;
        let dir = store::outgoing_dir(&self.source.data).join(format!("backup-{shard}-{:016x}", rand::random::<u64>()));
        let outgoing = Outgoing { dir, _permit: permit };
        let (send, receive) = mpsc::channel(PARTS_WAITING);
        let source = self.source.clone();
        tokio::spawn(async move {
            let start = Instant::now();
            let run = source.run(shard, store, outgoing, &send);
            let result = tokio::select! {
                result = run => result,
                // Whatever is under way on a thread of its own removes the folder when it ends.
                () = send.closed() => Err(went_away()),
            };
            match result {
                Ok(bytes) => tracing::info!(shard, bytes, took = ?start.elapsed(), "gave a copy for a backup"),
                Err(fault) => {
                    tracing::warn!(shard, error = %fault.message, "a copy for a backup was not given");
                    let status = status(fault, &source.router.directory.meta.load());
                    let _ = tokio::time::timeout(TAKEN_WITHIN, send.send(Err(status))).await;
                }
            }
        });
        Ok(receive)
    }
}

#[tonic::async_trait]
impl Backups for BackupsApi {
    type BackupStream = ReceiverStream<Result<v1::BackupPart, Status>>;

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let who = caller(&request)?;
        let shard = request.into_inner().shard;
        let guard = &self.source.guard;
        if !who.operator {
            guard.tried(&who, &format!("backup shard {shard}"));
        }
        let begun = match who.operator {
            true => {
                guard.did(&who.user, "backup", format!("shard {shard}"), "asked".to_owned());
                self.begin(shard).await
            }
            false => Err(guard.forbid(&who, "not an operator", "only operators may copy the cluster's state")),
        };
        match begun {
            Ok(parts) => Ok(Response::new(ReceiverStream::new(parts))),
            Err(fault) => Err(status(fault, &self.source.router.directory.meta.load())),
        }
    }
}

impl BackupSource {
    /// The shard's number, if this node leads it; else the fault names the leader.
    fn led_here(&self, shard: u32) -> Result<u16, Fault> {
        let directory = &self.router.directory;
        let missing = || Fault::new(Code::NotFound, format!("there is no shard {shard}"));
        let number = u16::try_from(shard).map_err(|_| missing())?;
        let leader = match number {
            0 => directory.meta_leader.load(Ordering::Relaxed),
            _ => directory.shard(number).ok_or_else(missing)?.leader(),
        };
        match leader == directory.node {
            true => Ok(number),
            false => Err(Fault { leader, ..Fault::not_leader(number) }),
        }
    }

    /// The shard's store, which holds all that was acknowledged before: a quorum has confirmed that this node leads, and a
    /// reactor writes before it serves a read.
    async fn confirmed(&self, shard: u16) -> Result<Arc<StateStore>, Fault> {
        if shard > 0 {
            return crate::query::on_reactor(&self.router, shard, |snapshot| snapshot.store.clone()).await;
        }
        let (send, made) = oneshot::channel();
        let query = Box::new(move |machine: Option<&moso_queue::meta::MetaMachine>| {
            let _ = send.send(machine.map(|machine| machine.version() > 0));
        });
        self.router.meta_request(MetaRequest::Query(query))?;
        match in_time(made, QUERY_TIMEOUT, 0).await? {
            Some(true) => {}
            Some(false) => return Err(Fault::new(Code::Unavailable, "the cluster is not made yet")),
            None => return Err(Fault::not_leader(0)),
        }
        let (send, store) = oneshot::channel();
        self.mailboxes[reactor_of(0, self.mailboxes.len())].task(Box::new(move |reactor| {
            let _ = send.send(reactor.meta.as_ref().map(|meta| meta.store().clone()));
        }));
        in_time(store, QUERY_TIMEOUT, 0).await?.ok_or_else(|| Fault::not_leader(0))
    }

    /// Makes the copy and sends it; returns the bytes of its files.
    async fn run(&self, shard: u16, store: Arc<StateStore>, outgoing: Outgoing, send: &Parts) -> Result<u64, Fault> {
        let (shared, time_ms) = (self.shared.clone(), self.clock.wall_ms());
        let made = on_disk(move || {
            let checkpoint = store.checkpoint(&outgoing.dir, &shared)?;
            // Who ends the replica waits for this.
            drop(store);
            let copy = StateStore::open_copy(&outgoing.dir, shard, &shared)?;
            let figures = figures(shard, &copy)?;
            Ok((outgoing, checkpoint, figures))
        });
        let (_outgoing, checkpoint, figures) = made.await?;
        give(send, Part::Head(self.head(&checkpoint, figures, time_ms))).await?;
        let mut pace = Pace { start: Instant::now(), bytes: 0, bytes_per_s: self.mib_per_s.max(1) << 20 };
        for (number, (name, bytes)) in checkpoint.files.iter().enumerate() {
            let path = checkpoint.dir.join(name);
            let what = format!("reading {}", path.display());
            let file = on_disk(move || File::open(path).map_err(|error| Error::io(what, error))).await?;
            send_file(number as u32, Arc::new(file), *bytes, send, &mut pace).await?;
        }
        Ok(pace.bytes)
    }

    fn head(&self, checkpoint: &Checkpoint, figures: Figures, time_ms: u64) -> v1::BackupHead {
        let Figures { digest, live_jobs, tasks, ended_jobs, objects } = figures;
        let file = |(name, bytes): &(String, u64)| v1::BackupFile { name: name.clone(), bytes: *bytes };
        v1::BackupHead {
            cluster: self.router.directory.cluster.clone(),
            shards: self.router.directory.shards.len() as u32,
            index: checkpoint.applied.index,
            term: checkpoint.applied.term,
            digest,
            live_jobs,
            tasks,
            ended_jobs,
            objects,
            time_ms,
            files: checkpoint.files.iter().map(file).collect(),
        }
    }
}

/// Keeps a stream at its rate.
struct Pace {
    start: Instant,
    bytes: u64,
    bytes_per_s: u64,
}

impl Pace {
    /// So much was sent: waits until that is not too soon.
    async fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
        metrics::counter!("moso_backup_bytes_sent_total").increment(bytes);
        let least = Duration::from_secs_f64(self.bytes as f64 / self.bytes_per_s as f64);
        tokio::time::sleep_until(self.start + least).await;
    }
}

async fn send_file(number: u32, file: Arc<File>, bytes: u64, send: &Parts, pace: &mut Pace) -> Result<(), Fault> {
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(PART_BYTES as u64);
        let source = file.clone();
        let data = on_disk(move || {
            let mut data = vec![0; length as usize];
            source.read_exact_at(&mut data, at).map_err(|error| Error::io("reading a copy for a backup", error))?;
            Ok(data)
        });
        let data = data.await?;
        let crc32c = crc32c::crc32c(&data);
        give(send, Part::Chunk(v1::BackupChunk { file: number, at, data: data.into(), crc32c })).await?;
        at += length;
        pace.sent(length).await;
    }
    Ok(())
}

async fn give(send: &Parts, part: Part) -> Result<(), Fault> {
    let part = v1::BackupPart { part: Some(part) };
    match tokio::time::timeout(TAKEN_WITHIN, send.send(Ok(part))).await {
        Ok(sent) => sent.map_err(|_| went_away()),
        Err(_) => Err(Fault::new(Code::Timeout, format!("a part was not taken within {} s", TAKEN_WITHIN.as_secs()))),
    }
}

fn went_away() -> Fault {
    Fault::new(Code::Timeout, "who asked for it has gone away")
}

/// Runs what waits for the disk.
async fn on_disk<T: Send + 'static>(f: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Fault> {
    let result = tokio::task::spawn_blocking(f).await;
    let result = result.map_err(|_| Fault::new(Code::Internal, "a thread of the backup ended: see the node's log"))?;
    result.map_err(Error::into_fault)
}
