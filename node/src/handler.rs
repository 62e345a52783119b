//! What other nodes send: Raft messages to the reactors, calls to the leaders here, hints to the directory.

use crate::dispatch::Dispatcher;
use crate::hints::{self, HintFrame};
use crate::identity::Guard;
use crate::lease_ask::LeaseAsk;
use crate::panda::sandbox::Sandboxes;
use crate::peer::PeerHandler;
use crate::query;
use crate::reactor::{Mailbox, reactor_of};
use crate::request::Fault;
use crate::router::{FAULT, HeartbeatCall, OK, Router, call, pack, unpack};
use crate::sessions::Sessions;
use crate::snapshot::receiver::Receiver;
use bytes::Bytes;
use moso_proto::{Code, v1};
use moso_queue::Command;
use moso_queue::command::{JobResult, is_submission};
use moso_shard::wire;
use prost::Message as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use tokio::sync::oneshot;

/// Messages up to this size are copied out of the read buffer.
const COPY_BYTES_MAX: usize = 32 << 10;

/// What calls need; made after the peers, which need the handler.
pub struct Served {
    /// To the shards here.
    pub router: Arc<Router>,
    /// Lease requests.
    pub dispatcher: Arc<Dispatcher>,
    /// Copies of shards' states.
    pub receiver: Arc<Receiver>,
    /// Who was rejected elsewhere.
    pub guard: Arc<Guard>,
    /// Sandboxes of PanDA's clients.
    pub sandboxes: Arc<Sandboxes>,
}

/// Takes what other nodes send.
pub struct Handler {
    /// The reactors' mailboxes.
    pub mailboxes: Vec<Arc<Mailbox>>,
    /// Worker sessions here.
    pub sessions: Arc<Sessions>,
    /// Set once the node is put together; until then calls are answered with "not the leader".
    pub served: Arc<OnceLock<Served>>,
}

impl PeerHandler for Handler {
    fn raft(&self, from: u32, messages: Vec<(u16, Bytes)>) {
        let mut woken = vec![false; self.mailboxes.len()];
        for (shard, bytes) in messages {
            // A small message kept in the log's cache would keep the whole read buffer that it is a slice of: measured,
            // that cost a fifth of the node's time in fresh pages.
            let bytes = if bytes.len() <= COPY_BYTES_MAX { Bytes::copy_from_slice(&bytes) } else { bytes };
            let Ok(message) = wire::decode_message(bytes) else {
                metrics::counter!("moso_raft_messages_malformed_total").increment(1);
                continue;
            };
            // A node speaks for its own replicas only.
            if crate::group::node_of(message.from) != from {
                metrics::counter!("moso_raft_messages_refused_total").increment(1);
                continue;
            }
            let reactor = reactor_of(shard, self.mailboxes.len());
            self.mailboxes[reactor].message(shard, message);
            woken[reactor] = true;
        }
        for (mailbox, _) in self.mailboxes.iter().zip(woken).filter(|(_, woken)| *woken) {
            mailbox.wake();
        }
    }

    fn call(&self, _from: u32, shard: u16, kind: u8, body: Bytes) -> Pin<Box<dyn Future<Output = (u8, Bytes)> + Send>> {
        let served = self.served.clone();
        Box::pin(async move {
            let result = match served.get() {
                Some(served) => answer(served, shard, kind, body).await,
                None => Err(Fault::not_leader(shard)),
            };
            match result {
                Ok(body) => (OK, body),
                Err(fault) => (FAULT, pack(&fault)),
            }
        })
    }

    /// As in a shard's inbox: a submission that waits for its shard must not keep a running job's heartbeat or result.
    fn calls_percent(&self, kind: u8, body: &Bytes) -> usize {
        match kind {
            call::COMMAND if is_submission(body) => 50,
            call::LEASE => 70,
            call::QUERY | call::META_QUERY => 85,
            _ => 100,
        }
    }

    fn hints(&self, from: u32, body: Bytes) {
        match HintFrame::decode(&body) {
            Some(HintFrame::Hints(told)) => {
                if let Some(served) = self.served.get() {
                    hints::receive(&served.router.directory, from, *told);
                }
            }
            Some(HintFrame::Words(words)) => words.iter().for_each(|word| {
                self.sessions.tell(word);
            }),
            Some(HintFrame::Rejected(rows)) => {
                if let Some(served) = self.served.get() {
                    served.guard.rejections().heard(from, rows);
                }
            }
            Some(HintFrame::Live(jobs)) => {
                if let Some(served) = self.served.get() {
                    served.router.directory.live.heard(from, jobs);
                }
            }
            None => metrics::counter!("moso_hints_malformed_total").increment(1),
        }
    }

    fn connection_lost(&self, node: u32) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.unreachable(node));
    }
}

/// Leases in a task of its own: this future is dropped when the connection is lost, and what was leased is given back.
async fn lease(served: &Served, shard: u16, ask: LeaseAsk) -> Result<Bytes, Fault> {
    let (send, answer) = oneshot::channel();
    let (dispatcher, session) = (served.dispatcher.clone(), ask.session);
    tokio::spawn(async move {
        let leased = dispatcher.lease_here(shard, ask).await;
        if let Err(Ok(leases)) = send.send(leased) {
            dispatcher.undelivered(session, &leases).await;
        }
    });
    let leases = answer.await.unwrap_or_else(|_| Err(Fault::not_leader(shard)))?;
    let reply = v1::LeaseReply { leases, ..v1::LeaseReply::default() };
    Ok(reply.encode_to_vec().into())
}

/// Copies wait for the disk.
async fn copy(served: &Served, shard: u16, kind: u8, body: Bytes) -> Result<Bytes, Fault> {
    let (receiver, directory) = (served.receiver.clone(), served.router.directory.clone());
    let work = move || match kind {
        call::SNAPSHOT_OFFER => {
            let local = match shard {
                0 => crate::open::peer_of(directory.node),
                _ => directory.shard(shard).map_or(0, |slot| slot.local.load(Ordering::Acquire)),
            };
            Ok(pack(&receiver.offer(shard, local, unpack(&body)?)?))
        }
        call::SNAPSHOT_CHUNK => {
            let short = || Fault::new(Code::Internal, "a part of a copy that ends too early");
            let (&length, rest) = body.split_first().ok_or_else(short)?;
            let (head, bytes) = rest.split_at_checked(usize::from(length)).ok_or_else(short)?;
            receiver.chunk(shard, unpack(head)?, bytes)?;
            Ok(Bytes::new())
        }
        _ => {
            receiver.done(shard, &unpack(&body)?)?;
            Ok(Bytes::new())
        }
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(Fault::not_leader(shard)))
}

/// What a result may be is checked before it is proposed: what another node sends must not stop this shard at apply.
fn one_result(body: Bytes) -> Result<JobResult, Fault> {
    match Command::decode(body) {
        Ok(Command::Results { session: 0, mut results }) if results.len() == 1 => Ok(results.remove(0)),
        _ => Err(Fault::new(Code::Internal, "another node sent a result that cannot be read")),
    }
}

async fn answer(served: &Served, shard: u16, kind: u8, body: Bytes) -> Result<Bytes, Fault> {
    let router = &served.router;
    match kind {
        call::COMMAND => {
            // Decoded before it is proposed: what another node sends must not stop this shard at apply.
            Command::decode(body.clone())
                .map_err(|e| Fault::new(Code::Internal, format!("another node's command: {e}")))?;
            Ok(pack(&router.command_here(shard, body).await?))
        }
        call::LEASE => lease(served, shard, unpack(&body)?).await,
        call::RESULT => Ok(pack(&router.result_here(shard, one_result(body)?).await?)),
        call::SANDBOX_PUT | call::SANDBOX_GET => served.sandboxes.answer(kind, body).await,
        call::HEARTBEAT => {
            let call: HeartbeatCall = unpack(&body)?;
            Ok(pack(&router.heartbeat_here(shard, call).await))
        }
        call::QUERY => query::run(router, shard, unpack(&body)?).await,
        call::SNAPSHOT_OFFER | call::SNAPSHOT_CHUNK | call::SNAPSHOT_DONE => copy(served, shard, kind, body).await,
        call::META_COMMAND => Ok(pack(&router.meta_command_here(body).await?)),
        call::META_QUERY => Ok(pack(&query::run_meta(router, unpack(&body)?).await?)),
        other => Err(Fault::new(Code::Internal, format!("another node sent a call of unknown kind {other}"))),
    }
}
