//! What goes over a worker's stream: results read, acknowledgements put together, frames merged.

use super::invalid;
use crate::directory::Counters;
use crate::hints::WorkerWord;
use crate::limits::RESULTS_BYTES_MAX;
use crate::request::Fault;
use crate::sessions::Push;
use moso_proto::{Code, JobId, v1};
use moso_queue::command::{JobResult, Outcome, Reply, ResultStatus};
use moso_queue::job::Report;
use moso_queue::limits::{ERRORS_MAX, OUTPUT_BYTES_MAX, TEXT_BYTES_MAX};

/// Cuts results so that each part makes a command of a bounded size.
pub fn split(results: Vec<JobResult>) -> Vec<Vec<JobResult>> {
    let size = |r: &JobResult| {
        let report = r.report.as_ref();
        64 + report.map_or(0, |r| {
            r.output.len() + r.details.len() + r.errors.iter().map(|(a, _, b)| a.len() + b.len() + 8).sum::<usize>()
        })
    };
    let mut parts: Vec<Vec<JobResult>> = Vec::new();
    let mut bytes = 0;
    for result in results {
        let more = size(&result);
        match parts.last_mut().filter(|_| bytes + more <= RESULTS_BYTES_MAX) {
            Some(part) => {
                part.push(result);
                bytes += more;
            }
            None => {
                parts.push(vec![result]);
                bytes = more;
            }
        }
    }
    parts
}

/// Writes what became of a shard's results into the acknowledgement.
pub fn settle(
    counters: &Counters,
    shard: u16,
    ids: &[(u64, u32)],
    answer: Result<Reply, Fault>,
    ack: &mut v1::ResultAck,
) {
    let id = |seq: u64| moso_proto::ShardId(shard).id(seq);
    match answer {
        Ok(Reply::Results(statuses)) => {
            let before = ack.accepted.len();
            for (&(seq, attempt), result) in ids.iter().zip(statuses) {
                match result {
                    ResultStatus::Accepted => ack.accepted.push(id(seq)),
                    ResultStatus::Refused(code) => {
                        Counters::add(&counters.refused, 1);
                        ack.refused.push(refusal(id(seq), attempt, code, "nothing was changed"));
                    }
                }
            }
            Counters::add(&counters.accepted, (ack.accepted.len() - before) as u64);
        }
        Ok(other) => {
            tracing::error!(shard, ?other, "results were answered with something else");
            ack.retry.extend(ids.iter().map(|(seq, _)| id(*seq)));
        }
        Err(fault) if fault.code.is_retryable() => ack.retry.extend(ids.iter().map(|(seq, _)| id(*seq))),
        Err(fault) => {
            ack.refused.extend(ids.iter().map(|&(seq, attempt)| refusal(id(seq), attempt, fault.code, &fault.message)))
        }
    }
}

/// Reads a worker's result.
pub fn read(result: v1::JobResult) -> Result<JobResult, Fault> {
    let outcome = match (v1::Outcome::try_from(result.outcome), result.no_retry) {
        (Ok(v1::Outcome::Finished), _) => Outcome::Finished,
        (Ok(v1::Outcome::Failed), false) => Outcome::Failed,
        (Ok(v1::Outcome::Failed), true) => Outcome::FailedForGood,
        (Ok(v1::Outcome::Released), _) => Outcome::Released,
        (Ok(v1::Outcome::Cancelled), _) => Outcome::Cancelled,
        _ => return Err(invalid("the outcome is not one of finished, failed, released, cancelled")),
    };
    if result.output.len() > OUTPUT_BYTES_MAX || result.errors.len() > ERRORS_MAX {
        return Err(Fault::new(
            Code::TooLarge,
            format!("a result has at most {OUTPUT_BYTES_MAX} bytes of output and {ERRORS_MAX} errors"),
        ));
    }
    let report = Report {
        exit_code: result.exit_code,
        errors: result
            .errors
            .into_iter()
            .map(|e| {
                let text = moso_queue::codec::cut(&e.text, TEXT_BYTES_MAX);
                (moso_queue::codec::cut(&e.source, 64).into(), e.code, text.into())
            })
            .collect(),
        output: result.output,
        cpu_ms: result.cpu_ms,
        memory_peak_kib: result.memory_peak_kib,
        started_ms: result.started_ms,
        details: bytes::Bytes::new(),
    };
    let empty = report == Report::default();
    Ok(JobResult {
        seq: JobId(result.job_id).seq(),
        attempt: result.attempt,
        outcome,
        report: (!empty).then(|| Box::new(report)),
    })
}

/// A refusal of one result.
pub fn refusal(job_id: u64, attempt: u32, code: Code, message: &str) -> v1::Refusal {
    v1::Refusal { job_id, attempt, code: code.name().into(), message: message.into() }
}

/// A fault as a worker sees it.
pub fn fault_of(fault: &Fault) -> v1::Fault {
    v1::Fault {
        code: fault.code.name().into(),
        message: fault.message.clone(),
        retry_after_ms: fault.retry_after_ms,
        leader: String::new(),
    }
}

/// The word that a job is to be killed.
pub fn tobekilled(job_id: u64, attempt: u32) -> v1::JobCommand {
    v1::JobCommand { job_id, attempt, command: v1::CommandKind::Tobekilled as i32 }
}

/// Adds a part to the frame that goes out.
pub fn merge(out: &mut v1::NodeFrame, part: v1::NodeFrame) {
    out.commands.extend(part.commands);
    // What a part says of leases is the empty end of an earlier request: it must not take the place of leases.
    if out.lease.is_none() {
        out.lease = part.lease;
    }
    match (&mut out.results, part.results) {
        (Some(all), Some(more)) => {
            all.accepted.extend(more.accepted);
            all.refused.extend(more.refused);
            all.retry.extend(more.retry);
        }
        (all @ None, more) => *all = more,
        (Some(_), None) => {}
    }
    match (&mut out.heartbeat, part.heartbeat) {
        (Some(all), Some(more)) => {
            all.seq = all.seq.max(more.seq);
            all.lost.extend(more.lost);
            all.unknown.extend(more.unknown);
        }
        (all @ None, more) => *all = more,
        (Some(_), None) => {}
    }
}

/// Adds what was pushed to the frame that goes out.
pub fn push_into(out: &mut v1::NodeFrame, push: Push) {
    match push {
        Push::Word(WorkerWord { job, attempt, gone: false, .. }) => out.commands.push(tobekilled(job, attempt)),
        Push::Word(WorkerWord { job, .. }) => out.heartbeat.get_or_insert_default().lost.push(job),
        Push::Drain => out.drain = true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(request_id: u64, jobs: &[u64]) -> v1::NodeFrame {
        let leases = jobs.iter().map(|&job_id| v1::Lease { job_id, ..v1::Lease::default() }).collect();
        let lease = v1::LeaseReply { request_id, leases, ..v1::LeaseReply::default() };
        v1::NodeFrame { lease: Some(lease), ..v1::NodeFrame::default() }
    }

    #[test]
    fn the_end_of_an_earlier_request_does_not_take_the_place_of_leases() {
        let mut out = lease(2, &[7]);
        merge(&mut out, lease(1, &[]));
        assert_eq!(out, lease(2, &[7]));
        let mut out = v1::NodeFrame::default();
        merge(&mut out, lease(1, &[]));
        assert_eq!(out, lease(1, &[]));
    }

    #[test]
    fn accepted_results_are_counted_once() {
        let (counters, mut ack) = (Counters::default(), v1::ResultAck::default());
        for shard in [1, 2] {
            let statuses = vec![ResultStatus::Accepted, ResultStatus::Refused(Code::StaleAttempt)];
            settle(&counters, shard, &[(1, 1), (2, 1)], Ok(Reply::Results(statuses)), &mut ack);
        }
        settle(&counters, 3, &[(1, 1)], Err(Fault::not_leader(3)), &mut ack);
        let counted = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!((counted(&counters.accepted), counted(&counters.refused)), (2, 2));
        assert_eq!((ack.accepted.len(), ack.refused.len(), ack.retry.len()), (2, 2, 1));
    }

    #[test]
    fn results_are_split_by_bytes_and_none_is_lost() {
        let result = |seq: u64, bytes: usize| JobResult {
            seq,
            attempt: 1,
            outcome: Outcome::Finished,
            report: Some(Box::new(Report { output: vec![0; bytes].into(), ..Report::default() })),
        };
        let parts = split((0..1_000).map(|seq| result(seq, 4_096)).collect());
        assert!(parts.len() > 3 && parts.iter().all(|part| part.len() * 4_096 <= RESULTS_BYTES_MAX));
        assert!(parts.concat().iter().map(|r| r.seq).eq(0..1_000));
        assert_eq!(split(vec![result(1, RESULTS_BYTES_MAX + 1)]).len(), 1);
        assert!(split(Vec::new()).is_empty());
    }
}
