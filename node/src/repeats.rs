//! Results that a worker sends again because their first acknowledgement was lost.

use crate::directory::Directory;
use bytes::Bytes;
use moso_proto::{Code, JobState};
use moso_queue::command::{Command, JobResult, Outcome, Reply, ResultStatus};
use moso_queue::job::EndedJob;

const DAY_MS: u64 = 86_400_000;

/// Turns the refusal of a job that has ended into an acceptance, if it ended by the very attempt and session that
/// reports. Runs on the leader's node, beside the archive.
pub fn recognise(directory: &Directory, shard: u16, command: &Bytes, reply: &mut Reply) {
    let Reply::Results(statuses) = reply else { return };
    if !statuses.contains(&ENDED) {
        return;
    }
    let Ok(Command::Results { session, results }) = Command::decode(command.clone()) else { return };
    for (result, status) in results.iter().zip(statuses) {
        if *status == ENDED && is_repeat(directory, shard, session, result) {
            *status = ResultStatus::Accepted;
        }
    }
}

const ENDED: ResultStatus = ResultStatus::Refused(Code::AlreadyEnded);

fn is_repeat(directory: &Directory, shard: u16, session: u64, result: &JobResult) -> bool {
    let Some(store) = directory.shard(shard).and_then(|s| s.store.load_full()) else { return false };
    let today = (directory.clock.wall_ms() / DAY_MS) as u16;
    let ended = store.ended_job(result.seq, today.saturating_sub(1)..=today).ok().flatten();
    let Some(ended) = ended.and_then(|(_, bytes)| EndedJob::decode(result.seq, bytes).ok()) else { return false };
    // A success is recorded only if the job finished: it may have been killed meanwhile.
    let recorded = (result.outcome == Outcome::Finished) == (ended.job.state == JobState::Finished);
    recorded && ended.job.attempt == result.attempt && ended.job.session == session
}
