//! One stream of a session to one node.

use crate::client::{Client, workers};
use crate::error::{Error, Result};
use crate::limits::FRAMES_QUEUED_MAX;
use crate::retry::{Failure, Tries};
use crate::session::NodeRef;
use moso_proto::v1::{Hello, NodeFrame, WorkerFrame};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// A node that said it stops is passed over for so long: about a restart.
const STOPPING: Duration = Duration::from_secs(10);

/// An open stream. Dropping it closes it.
pub(crate) struct Wire {
    client: Client,
    node: String,
    /// `None` once this side has said its last word.
    out: Option<mpsc::Sender<WorkerFrame>>,
    frames: Streaming<NodeFrame>,
}

impl Wire {
    /// Opens a stream to the preferred node, or else to any, within the retry budget.
    pub async fn open(client: Client, preferred: Option<NodeRef>, hello: Hello) -> Result<Self> {
        client.refresh_when_due();
        let mut tries = Tries::new(&client, None);
        tries.prefer(match preferred {
            Some(NodeRef::Index(index)) => Some(client.pool().at(index).address.to_string()),
            Some(NodeRef::Address(address)) => Some(client.pool().named(&address)?.address.to_string()),
            None => None,
        });
        loop {
            let node = tries.node();
            let address = node.address.to_string();
            let (out, queue) = mpsc::channel(FRAMES_QUEUED_MAX);
            let first = WorkerFrame { hello: Some(hello.clone()), ..WorkerFrame::default() };
            out.try_send(first).expect("the channel is new and empty");
            let deadline = client.options().call_deadline;
            let mut stub = workers(&node);
            let opened = stub.session(ReceiverStream::new(queue));
            let failure = match tokio::time::timeout(deadline, opened).await {
                Ok(Ok(response)) => {
                    client.pool().mark_up(&address);
                    return Ok(Wire {
                        client: client.clone(),
                        node: address,
                        out: Some(out),
                        frames: response.into_inner(),
                    });
                }
                Ok(Err(status)) => Failure::of(&status, &address),
                Err(_) => Failure::Transport(format!("no answer within {deadline:?}")),
            };
            tracing::debug!(node = %address, ?failure, "no session stream");
            tries.after(failure, &address).await?;
        }
    }

    /// Address of the node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Frames that can be sent without a wait.
    pub fn room(&self) -> usize {
        self.out.as_ref().map_or(0, mpsc::Sender::capacity)
    }

    /// Queues a frame; waits while the queue is full.
    pub async fn send(&mut self, frame: WorkerFrame) -> Result<()> {
        let sent = match &self.out {
            Some(out) => out.send(frame).await.is_ok(),
            None => false,
        };
        match sent {
            true => Ok(()),
            false => Err(self.broken("the stream is closed")),
        }
    }

    /// The next frame. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<NodeFrame> {
        match self.frames.message().await {
            Ok(Some(frame)) => {
                if frame.drain {
                    let now = Instant::now();
                    self.client.pool().mark_down_for(&self.node, now, STOPPING);
                }
                Ok(frame)
            }
            Ok(None) => Err(self.broken("the node closed it")),
            Err(status) => match Failure::of(&status, &self.node) {
                Failure::Final(error) => Err(error),
                _ => Err(self.broken(status.message())),
            },
        }
    }

    /// Says that no frame follows.
    pub fn close(&mut self) {
        self.out = None;
    }

    /// The stream is of no more use; the next one goes to another node.
    fn broken(&mut self, reason: &str) -> Error {
        self.out = None;
        let pool = self.client.pool();
        pool.mark_down(&self.node, Instant::now());
        Error::Disconnected { node: self.node.clone(), reason: reason.to_owned() }
    }
}
