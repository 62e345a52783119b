//! Who ended how often: the generator's own account of every job, kept by job id. A byte or two per job, in chunks by
//! shard and sequence number, since ids of a shard are nearly consecutive.

use moso_proto::{Code, JobId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

const CHUNK_BITS: u32 = 14;
/// Shards the books are split into, so that two threads seldom wait for each other.
const SPLIT: usize = 64;

const SUBMITTED: u8 = 1;
const FINISHED: u8 = 2;
const FAILED: u8 = 4;
/// The cluster said that the job has ended, but the answer to the report itself never came.
const ENDED_UNSEEN: u8 = 8;
const ENDED: u8 = FINISHED | FAILED | ENDED_UNSEEN;

/// How a report ended a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Success.
    Finished,
    /// Failure without another attempt.
    Failed,
}

/// The account.
#[derive(Debug)]
pub struct Books {
    parts: Vec<Mutex<BTreeMap<u64, Box<[u8]>>>>,
    submitted: AtomicU64,
    leases: AtomicU64,
    ended: AtomicU64,
    doubled: AtomicU64,
    stale: AtomicU64,
    refused: AtomicU64,
}

/// The account at the end of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Jobs whose submission was acknowledged.
    pub submitted: u64,
    /// Leases received.
    pub leases: u64,
    /// Jobs whose success was accepted.
    pub finished: u64,
    /// Jobs whose failure was accepted.
    pub failed: u64,
    /// Submitted jobs whose end was never acknowledged.
    pub lost: u64,
    /// Ends accepted for a job that had an accepted end already.
    pub doubled: u64,
    /// Jobs that ended but whose submission was never acknowledged.
    pub unasked: u64,
    /// Results refused because the attempt or the session was no longer the job's.
    pub stale: u64,
    /// Results refused for another reason.
    pub refused: u64,
}

impl Balance {
    /// Jobs that ended.
    pub fn ended(&self) -> u64 {
        self.submitted + self.unasked - self.lost
    }
}

impl Books {
    /// Empty books.
    pub fn new() -> Books {
        Books {
            parts: (0..SPLIT).map(|_| Mutex::default()).collect(),
            submitted: AtomicU64::new(0),
            leases: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            doubled: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// A submission of `jobs` jobs from id `first` on was acknowledged. Repeats are counted once.
    pub fn submitted(&self, first: u64, jobs: u32) {
        let mut new = 0;
        for job in first..first + u64::from(jobs) {
            new += u64::from(self.mark(job, SUBMITTED) & SUBMITTED == 0);
        }
        self.submitted.fetch_add(new, Relaxed);
    }

    /// Leases were received.
    pub fn leased(&self, jobs: u64) {
        self.leases.fetch_add(jobs, Relaxed);
    }

    /// The end of a job was accepted. The caller passes on one acknowledgement per report: a repeat of the same
    /// report is not a second end.
    pub fn accepted(&self, job: u64, ending: Ending) {
        let flag = match ending {
            Ending::Finished => FINISHED,
            Ending::Failed => FAILED,
        };
        let before = self.mark(job, flag);
        if before & (FINISHED | FAILED) != 0 {
            self.doubled.fetch_add(1, Relaxed);
        } else if before & ENDED == 0 {
            self.ended.fetch_add(1, Relaxed);
        }
    }

    /// A report was refused for good. Returns whether the job has ended all the same.
    pub fn refused(&self, job: u64, code: &str) -> bool {
        match code.parse() {
            Ok(Code::AlreadyEnded) => {
                if self.mark(job, ENDED_UNSEEN) & ENDED == 0 {
                    self.ended.fetch_add(1, Relaxed);
                }
                self.stale.fetch_add(1, Relaxed);
                true
            }
            Ok(Code::StaleAttempt | Code::ForeignLease) => {
                self.stale.fetch_add(1, Relaxed);
                false
            }
            _ => {
                self.refused.fetch_add(1, Relaxed);
                false
            }
        }
    }

    /// Jobs whose submission was acknowledged.
    pub fn submitted_count(&self) -> u64 {
        self.submitted.load(Relaxed)
    }

    /// Jobs that ended.
    pub fn ended_count(&self) -> u64 {
        self.ended.load(Relaxed)
    }

    /// A number that rises with everything that happens: while it stands still, nothing does.
    pub fn progress(&self) -> u64 {
        let counters = [&self.submitted, &self.leases, &self.ended, &self.stale];
        counters.iter().map(|c| c.load(Relaxed)).sum()
    }

    /// Reads every account. Meant for the end of a run.
    pub fn balance(&self) -> Balance {
        let mut balance = Balance {
            leases: self.leases.load(Relaxed),
            doubled: self.doubled.load(Relaxed),
            stale: self.stale.load(Relaxed),
            refused: self.refused.load(Relaxed),
            ..Balance::default()
        };
        for part in &self.parts {
            for flags in lock(part).values().flat_map(|chunk| chunk.iter()) {
                let submitted = flags & SUBMITTED != 0;
                let ended = flags & ENDED != 0;
                balance.submitted += u64::from(submitted);
                balance.finished += u64::from(flags & FINISHED != 0);
                balance.failed += u64::from(flags & FAILED != 0);
                balance.lost += u64::from(submitted && !ended);
                balance.unasked += u64::from(!submitted && ended);
            }
        }
        balance
    }

    /// Sets a flag of a job and returns what was set before.
    fn mark(&self, job: u64, flag: u8) -> u8 {
        let shard = JobId(job).shard().map_or(0, |s| usize::from(s.0));
        let mut part = lock(&self.parts[shard % SPLIT]);
        let chunk = part.entry(job >> CHUNK_BITS).or_insert_with(|| vec![0; 1 << CHUNK_BITS].into_boxed_slice());
        let entry = &mut chunk[(job & ((1 << CHUNK_BITS) - 1)) as usize];
        let before = *entry;
        *entry |= flag;
        before
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A flag is set in one step: a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moso_proto::ShardId;

    fn id(shard: u16, seq: u64) -> u64 {
        ShardId(shard).id(seq)
    }

    #[test]
    fn a_clean_run_balances() {
        let books = Books::new();
        for shard in [1, 2, 65, 4095] {
            // Over the border of a chunk.
            let first = id(shard, (1 << CHUNK_BITS) - 50);
            books.submitted(first, 100);
            books.submitted(first, 100);
            for job in first..first + 100 {
                books.leased(1);
                let ending = if job % 10 == 0 { Ending::Failed } else { Ending::Finished };
                books.accepted(job, ending);
            }
        }
        let balance = books.balance();
        assert_eq!((balance.submitted, balance.ended()), (400, 400));
        assert_eq!(balance.finished + balance.failed, 400);
        assert_eq!((balance.lost, balance.doubled, balance.unasked), (0, 0, 0));
        assert_eq!((books.submitted_count(), books.ended_count()), (400, 400));
    }

    #[test]
    fn a_lost_and_a_doubled_job_are_seen() {
        let books = Books::new();
        books.submitted(id(1, 1), 3);
        books.accepted(id(1, 1), Ending::Finished);
        books.accepted(id(1, 2), Ending::Finished);
        books.accepted(id(1, 2), Ending::Finished);
        let balance = books.balance();
        assert_eq!((balance.lost, balance.doubled), (1, 1));
        assert_eq!(books.ended_count(), 2);
    }

    #[test]
    fn an_end_before_the_answer_to_its_submission_counts_once() {
        let books = Books::new();
        books.accepted(id(3, 9), Ending::Finished);
        assert_eq!(books.balance().unasked, 1);
        books.submitted(id(3, 9), 1);
        let balance = books.balance();
        assert_eq!((balance.unasked, balance.lost, balance.ended()), (0, 0, 1));
    }

    #[test]
    fn a_stale_result_ends_nothing_but_already_ended_does() {
        let books = Books::new();
        books.submitted(id(1, 1), 2);
        assert!(!books.refused(id(1, 1), "stale_attempt"));
        assert!(books.refused(id(1, 2), "already_ended"));
        assert!(!books.refused(id(1, 1), "nonsense"));
        let balance = books.balance();
        assert_eq!((balance.lost, balance.stale, balance.refused), (1, 2, 1));
        assert_eq!(books.ended_count(), 1);
        // The accepted report whose answer was late is still the first.
        books.accepted(id(1, 2), Ending::Finished);
        assert_eq!((books.balance().doubled, books.ended_count()), (0, 1));
    }
}
