//! Small submissions to one node share a stream: a call for each costs more than the submission itself. What is asked for
//! at the same time goes in one frame; nothing waits for company.

use crate::client::jobs;
use crate::limits::{SUBMISSIONS_FRAME_BYTES, SUBMISSIONS_FRAME_MAX, SUBMISSIONS_QUEUED_MAX};
use crate::pool::Node;
use moso_proto::v1::{Fault, NumberedSubmission, SubmitAnswer, SubmitAnswers, SubmitFrame, SubmitReply, SubmitRequest};
use moso_proto::{META_CODE, META_LEADER, META_RETRY_AFTER};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

type Told = oneshot::Sender<Result<SubmitReply, Status>>;

/// A submission, and who waits for its answer.
struct Asked {
    request: SubmitRequest,
    bytes: usize,
    told: Told,
}

/// The streams, by the node's address.
#[derive(Default)]
pub(crate) struct Submissions {
    streams: Mutex<HashMap<Arc<str>, mpsc::Sender<Asked>>>,
}

impl Submissions {
    /// Submits about so many bytes at a node. The status is as that of a call.
    pub async fn submit(
        &self,
        node: &Node,
        (request, bytes): (SubmitRequest, usize),
        deadline: Duration,
    ) -> Result<SubmitReply, Status> {
        let (told, answer) = oneshot::channel();
        let ended = || Status::unavailable("the stream of submissions has ended");
        self.stream(node, deadline).send(Asked { request, bytes, told }).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    fn stream(&self, node: &Node, deadline: Duration) -> mpsc::Sender<Asked> {
        let mut streams = self.streams.lock().expect("no code panics while it holds this lock");
        if let Some(stream) = streams.get(&node.address).filter(|stream| !stream.is_closed()) {
            return stream.clone();
        }
        let (stream, asked) = mpsc::channel(SUBMISSIONS_QUEUED_MAX);
        streams.insert(node.address.clone(), stream.clone());
        tokio::spawn(run(node.clone(), asked, deadline));
        stream
    }
}

/// Opens a stream and serves it until it ends, or until nobody can ask any more.
async fn run(node: Node, mut asked: mpsc::Receiver<Asked>, deadline: Duration) {
    let (out, frames) = mpsc::channel(1);
    let mut stub = jobs(&node);
    let opened = tokio::time::timeout(deadline, stub.submit_stream(ReceiverStream::new(frames))).await;
    let status = match opened {
        Ok(Ok(response)) => {
            let mut talk = Talk::default();
            let status = of_stream(talk.run(&mut asked, out, response.into_inner()).await);
            talk.waiting.into_values().for_each(|told| drop(told.send(Err(status.clone()))));
            status
        }
        Ok(Err(status)) => of_stream(status),
        Err(_) => Status::unavailable(format!("no answer within {deadline:?}")),
    };
    asked.close();
    while let Some(Asked { told, .. }) = asked.recv().await {
        let _ = told.send(Err(status.clone()));
    }
}

/// An open stream.
#[derive(Default)]
struct Talk {
    waiting: HashMap<u64, Told>,
    number: u64,
    /// What goes next, and its bytes.
    frame: SubmitFrame,
    bytes: usize,
}

impl Talk {
    /// Returns why it ended.
    async fn run(
        &mut self,
        asked: &mut mpsc::Receiver<Asked>,
        out: mpsc::Sender<SubmitFrame>,
        mut answers: Streaming<SubmitAnswers>,
    ) -> Status {
        let mut open = true;
        while open || !self.waiting.is_empty() {
            // A frame that waits for room takes in what comes meanwhile.
            let room = self.bytes < SUBMISSIONS_FRAME_BYTES && self.frame.submissions.len() < SUBMISSIONS_FRAME_MAX;
            tokio::select! {
                biased;
                told = answers.message() => match told {
                    Ok(Some(told)) => told.answers.into_iter().for_each(|answer| self.tell(answer)),
                    Ok(None) => return Status::unavailable("the node closed the stream of submissions"),
                    Err(status) => return status,
                },
                one = asked.recv(), if open && room => match one {
                    Some(one) => self.gather(one),
                    None => open = false,
                },
                permit = out.reserve(), if !self.frame.submissions.is_empty() => match permit {
                    Ok(permit) => {
                        permit.send(std::mem::take(&mut self.frame));
                        self.bytes = 0;
                    }
                    Err(_) => return Status::unavailable("the stream of submissions has ended"),
                },
            }
        }
        Status::cancelled("the client is gone")
    }

    fn gather(&mut self, Asked { request, bytes, told }: Asked) {
        self.number += 1;
        self.waiting.insert(self.number, told);
        self.bytes += bytes;
        self.frame.submissions.push(NumberedSubmission { number: self.number, request: Some(request) });
    }

    fn tell(&mut self, answer: SubmitAnswer) {
        // A number that nobody waits for is the node's mistake, and nobody's loss.
        let Some(told) = self.waiting.remove(&answer.number) else { return };
        let _ = told.send(match (answer.reply, answer.fault) {
            (Some(reply), None) => Ok(reply),
            (_, Some(fault)) => Err(status(fault)),
            (None, None) => Err(Status::internal("the node answered a submission with nothing")),
        });
    }
}

/// What ends a stream is no verdict on those who wait for their answers, unless the node has no such streams.
fn of_stream(status: Status) -> Status {
    match status.code() {
        Code::Unimplemented => status,
        _ => Status::unavailable(format!("the stream of submissions ended: {}", status.message())),
    }
}

/// The status of a call that was refused like that.
fn status(fault: Fault) -> Status {
    let mut status = Status::unavailable(fault.message);
    let metadata = status.metadata_mut();
    if let Ok(code) = fault.code.parse() {
        metadata.insert(META_CODE, code);
    }
    if fault.retry_after_ms > 0 {
        metadata.insert(META_RETRY_AFTER, fault.retry_after_ms.into());
    }
    if let Some(leader) = Some(&fault.leader).filter(|leader| !leader.is_empty()).and_then(|l| l.parse().ok()) {
        metadata.insert(META_LEADER, leader);
    }
    status
}
