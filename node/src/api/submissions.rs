//! Submissions on a stream: each is answered as by a call of its own, what is answered at the same time goes back in one
//! frame.

use super::caller::over_now;
use super::frames::fault_of;
use super::jobs::JobsApi;
use super::{invalid, status};
use crate::identity::Principal;
use crate::limits::{SLOW_MAX, SUBMISSIONS_MAX};
use crate::request::Fault;
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use moso_proto::v1;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// Submissions of a stream under way; more are told to come back. A shard without leader holds its own for as long as it
/// is waited for, and must not keep the others; no stream has more than half of the node's places.
const UNDER_WAY_MAX: usize = SUBMISSIONS_MAX / 2;
/// Submissions in one frame.
const FRAME_SUBMISSIONS_MAX: usize = 4_096;
/// Answers that wait for the client to read earlier ones, beyond which nothing more is read from it.
const ANSWERS_MAX: usize = 4_096;
/// Frames of answers waiting to be sent.
pub const SEND_QUEUE: usize = 16;

type Answers = mpsc::Sender<Result<v1::SubmitAnswers, Status>>;

/// Answers until the client has said all, or is gone, or does not read what it is told, or the node stops: then what was read
/// is answered, and the client goes on at another node.
pub async fn serve(
    api: JobsApi,
    who: Arc<Principal>,
    mut inbound: Streaming<v1::SubmitFrame>,
    send: Answers,
    mut stopping: watch::Receiver<bool>,
) {
    let mut under_way = FuturesUnordered::new();
    let mut reading = true;
    let mut out = v1::SubmitAnswers::default();
    // Since when answers wait.
    let mut since = Instant::now();
    loop {
        let waiting = !out.answers.is_empty();
        if !waiting {
            since = Instant::now();
        }
        tokio::select! {
            // What is under way comes to its end by itself, or is repeated.
            () = send.closed() => return,
            () = stops(&mut stopping), if reading => reading = false,
            frame = inbound.message(), if reading && out.answers.len() < ANSWERS_MAX => match frame {
                Ok(Some(frame)) if frame.submissions.len() > FRAME_SUBMISSIONS_MAX => {
                    let fault = invalid(format!("at most {FRAME_SUBMISSIONS_MAX} submissions in one frame"));
                    let _ = send.try_send(Err(status(fault, &api.meta())));
                    return;
                }
                // Whoever opens a new stream shows that he still may.
                Ok(Some(_)) if api.still_welcome(&who).is_err() => {
                    let _ = send.try_send(Err(status(over_now(), &api.meta())));
                    return;
                }
                Ok(Some(frame)) => for submission in frame.submissions {
                    match under_way.len() < UNDER_WAY_MAX {
                        true => under_way.push(answer(&api, &who, submission)),
                        false => out.answers.push(refused(&api, submission.number, api.full("submissions"))),
                    }
                },
                Ok(None) => reading = false,
                Err(status) => {
                    // Why nothing more is read: what was to be read took too long, or too much.
                    let _ = send.try_send(Err(status));
                    reading = false;
                }
            },
            Some(answer) = under_way.next() => out.answers.push(answer),
            room = send.reserve(), if waiting => match room {
                Ok(room) => room.send(Ok(std::mem::take(&mut out))),
                Err(_) => return,
            },
            () = tokio::time::sleep_until(since + SLOW_MAX), if waiting => return api.slow_reader(),
        }
        while let Some(Some(answer)) = under_way.next().now_or_never() {
            out.answers.push(answer);
        }
        if !out.answers.is_empty() && send.capacity() > 0 {
            let _ = send.try_send(Ok(std::mem::take(&mut out)));
        }
        if !reading && under_way.is_empty() && out.answers.is_empty() {
            return;
        }
    }
}

async fn stops(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

async fn answer(api: &JobsApi, who: &Principal, submission: v1::NumberedSubmission) -> v1::SubmitAnswer {
    let number = submission.number;
    match api.submit_request(who, submission.request.unwrap_or_default()).await {
        Ok(reply) => v1::SubmitAnswer { number, reply: Some(reply), fault: None },
        Err(fault) => refused(api, number, fault),
    }
}

fn refused(api: &JobsApi, number: u64, fault: Fault) -> v1::SubmitAnswer {
    let leader = api.meta().node(fault.leader).map(|node| node.api.clone()).unwrap_or_default();
    v1::SubmitAnswer { number, reply: None, fault: Some(v1::Fault { leader, ..fault_of(&fault) }) }
}
