//! A submitter: it submits, abandons calls and repeats them under the same id, and repeats what was acknowledged.

use super::history::{SubmissionId, What};
use super::load::{Load, Phase};
use moso_client::{Error, Submission};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A call is abandoned this often, within this time; and then this often never repeated.
const ABANDON: f64 = 0.08;
const ABANDON_MS: f64 = 30.0;
const FORGET: f64 = 0.15;
/// What was acknowledged is submitted again this often.
const AGAIN: f64 = 0.05;
/// Between two submissions, while the cluster's word on what is ready may be old.
const PACE: Duration = Duration::from_millis(40);
/// Between two looks at a full queue.
const FULL_WAIT: Duration = Duration::from_millis(20);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// Tries in all; a call takes some seconds before it gives up.
const TRIES_MAX: u32 = 200;

/// How a try ended.
enum Try {
    Acknowledged,
    Refused,
    Unknown,
}

/// Submits until the load ends, and brings what it has begun to an end.
pub(super) async fn run(load: Arc<Load>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    while load.phase() == Phase::Load {
        if load.is_full() {
            tokio::time::sleep(FULL_WAIT).await;
            continue;
        }
        let (submission, jobs) = load.draw_submission(&mut rng);
        submit(&load, submission, jobs, &mut rng).await;
        tokio::time::sleep(PACE.mul_f64(rng.random_range(0.5..1.5))).await;
    }
}

async fn submit(load: &Load, submission: Submission, jobs: u32, rng: &mut StdRng) {
    let id = SubmissionId(submission.id());
    for _ in 0..TRIES_MAX {
        load.history.add(What::SubmitInvoke { submission: id, jobs });
        let abandoned = rng.random_bool(ABANDON);
        let outcome = match abandoned {
            true => {
                let patience = Duration::from_secs_f64(rng.random_range(0.0..ABANDON_MS) / 1e3);
                let answer = tokio::time::timeout(patience, load.client.submit(submission.clone())).await;
                answer.map_or_else(|_| unknown(load, id, "abandoned".to_owned()), |answer| take(load, id, answer))
            }
            false => take(load, id, load.client.submit(submission.clone()).await),
        };
        match outcome {
            Try::Acknowledged if rng.random_bool(AGAIN) => {}
            Try::Acknowledged | Try::Refused => return,
            Try::Unknown if abandoned && rng.random_bool(FORGET) => return,
            Try::Unknown => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn take(load: &Load, id: SubmissionId, answer: moso_client::Result<moso_client::v1::SubmitReply>) -> Try {
    match answer {
        Ok(reply) => {
            load.counters.submits.fetch_add(1, Relaxed);
            load.history.add(What::SubmitOk {
                submission: id,
                task: reply.task_id,
                first_job: reply.first_job_id,
                jobs: reply.jobs,
                repeated: reply.repeated,
            });
            Try::Acknowledged
        }
        Err(Error::Refused { code, message }) => {
            tracing::debug!(%id, %code, message, "a submission is refused");
            load.history.add(What::SubmitFail { submission: id, code: code.name().to_owned() });
            Try::Refused
        }
        Err(error) => {
            if let Error::Defect { message, .. } = &error {
                load.problem(format!("a submission was answered with a defect: {message}"));
            }
            unknown(load, id, error.to_string())
        }
    }
}

fn unknown(load: &Load, submission: SubmissionId, reason: String) -> Try {
    load.history.add(What::SubmitUnknown { submission, reason });
    Try::Unknown
}
