//! The leases a worker holds: what its heartbeats say, what they confirm, and when a job must stop. Time is an
//! argument.

use crate::limits::HEARTBEATS_OPEN_MAX;
use crate::worker::job::{Job, Phase, Stop};
use moso_proto::v1::{CommandKind, Heartbeat, HeartbeatReply, JobCommand, Lease};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Heartbeats are not sent faster than this, whatever a lease says.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);

struct Entry {
    attempt: u32,
    ttl: Duration,
    heartbeat: Duration,
    /// When the lease was last known to hold: granted, or the sending of a heartbeat that was acknowledged.
    confirmed: Instant,
    /// The first heartbeat that carries it.
    since: u64,
    started_ms: u64,
    stop: watch::Sender<Option<Stop>>,
    phase: Arc<AtomicU8>,
}

/// What is known of a job that has ended.
pub(crate) struct Ended {
    pub started_ms: u64,
    pub stop: Option<Stop>,
}

/// What became of a lease that came in.
pub(crate) enum Taken {
    /// It is held; run the job.
    New(Job),
    /// The same attempt is held already: an answer that came twice.
    Twice,
    /// Another attempt has not ended here yet: give this one back.
    Busy,
}

/// Leases held, by job.
#[derive(Default)]
pub(crate) struct Held {
    entries: HashMap<u64, Entry>,
    /// Heartbeats without an answer: number and time of sending.
    open: VecDeque<(u64, Instant)>,
    seq: u64,
    /// No job's fence is before this; `None`: no job.
    fence: Option<Instant>,
}

impl Held {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a lease of the job is held.
    pub fn holds(&self, id: u64) -> bool {
        self.entries.contains_key(&id)
    }

    pub fn insert(&mut self, lease: Lease, now: Instant, now_ms: u64) -> Taken {
        let (id, attempt) = (lease.job_id, lease.attempt);
        match self.entries.get(&id) {
            Some(entry) if entry.attempt == attempt => return Taken::Twice,
            Some(_) => return Taken::Busy,
            None => {}
        }
        let (stop, stopped) = watch::channel(None);
        let phase = Arc::new(AtomicU8::new(Phase::Running as u8));
        let entry = Entry {
            attempt,
            ttl: Duration::from_millis(lease.ttl_ms.into()),
            heartbeat: Duration::from_millis(lease.heartbeat_ms.into()).max(HEARTBEAT_MIN),
            confirmed: now,
            since: self.seq + 1,
            started_ms: now_ms,
            stop,
            phase: phase.clone(),
        };
        let fence = entry.fence();
        self.fence = Some(self.fence.map_or(fence, |at| at.min(fence)));
        self.entries.insert(id, entry);
        Taken::New(Job::new(lease, stopped, phase))
    }

    /// The job has ended. Gives `None` when this attempt is not held.
    pub fn remove(&mut self, id: u64, attempt: u32) -> Option<Ended> {
        if self.entries.get(&id)?.attempt != attempt {
            return None;
        }
        let entry = self.entries.remove(&id)?;
        if self.entries.is_empty() {
            self.fence = None;
        }
        let stop = *entry.stop.borrow();
        Some(Ended { started_ms: entry.started_ms, stop })
    }

    /// The shortest interval that a lease asks for; `None`: no job.
    pub fn heartbeat_interval(&self) -> Option<Duration> {
        self.entries.values().map(|entry| entry.heartbeat).min()
    }

    /// The next heartbeat, with every lease but those known to be lost.
    pub fn heartbeat(&mut self, now: Instant) -> Heartbeat {
        self.seq += 1;
        if self.open.len() == HEARTBEATS_OPEN_MAX {
            self.open.pop_front();
        }
        self.open.push_back((self.seq, now));
        let mut beat = Heartbeat { seq: self.seq, ..Heartbeat::default() };
        for (id, entry) in &self.entries {
            if *entry.stop.borrow() != Some(Stop::Lost) {
                beat.jobs.push(*id);
                beat.attempts.push(entry.attempt);
                beat.phases.push(entry.phase.load(Ordering::Relaxed).into());
            }
        }
        beat
    }

    /// Takes the answer to a heartbeat: what it carried and the answer does not complain of was held when it was sent.
    pub fn answered(&mut self, reply: &HeartbeatReply) {
        if reply.seq == 0 {
            // Unasked: these leases have just ended. If an earlier attempt was meant, this one runs out and is repeated.
            for entry in reply.lost.iter().filter_map(|id| self.entries.get(id)) {
                entry.tell(Stop::Lost);
            }
            return;
        }
        let sent = self.open.iter().find(|(seq, _)| *seq == reply.seq);
        let Some((_, at)) = sent.copied() else {
            return;
        };
        self.open.retain(|(seq, _)| *seq > reply.seq);
        for id in &reply.lost {
            if let Some(entry) = self.entries.get(id)
                && entry.since <= reply.seq
            {
                entry.tell(Stop::Lost);
            }
        }
        let mut unknown: Vec<u64> = reply.unknown.clone();
        unknown.sort_unstable();
        for (id, entry) in &mut self.entries {
            if entry.since <= reply.seq && unknown.binary_search(id).is_err() {
                entry.confirmed = entry.confirmed.max(at);
            }
        }
    }

    /// The time at which [`fence`](Self::fence) is due.
    pub fn fence_at(&self) -> Option<Instant> {
        self.fence
    }

    /// Stops every job whose lease was not confirmed for three quarters of its term: a quarter remains for it to stop
    /// before another worker may start it.
    pub fn fence(&mut self, now: Instant) -> usize {
        if self.fence.is_none_or(|at| at > now) {
            return 0;
        }
        let mut fenced = 0;
        let mut next = None;
        for entry in self.entries.values() {
            let at = entry.fence();
            if at > now {
                next = Some(next.map_or(at, |next: Instant| next.min(at)));
            } else if entry.tell(Stop::Fenced) {
                fenced += 1;
            }
        }
        // With all fenced, a job that is confirmed again is looked at within a second.
        self.fence = next.or_else(|| (!self.is_empty()).then(|| now + Duration::from_secs(1)));
        fenced
    }

    /// Takes a command of the node.
    pub fn command(&mut self, command: &JobCommand) {
        let stop = match command.command() {
            CommandKind::Tobekilled => Stop::Killed,
            CommandKind::Softkill => Stop::SoftKilled,
            CommandKind::CommandUnspecified => return,
        };
        if let Some(entry) = self.entries.get(&command.job_id)
            && entry.attempt == command.attempt
        {
            entry.tell(stop);
        }
    }

    /// Stops every job.
    pub fn stop_all(&mut self) {
        for entry in self.entries.values() {
            entry.tell(Stop::Shutdown);
        }
    }
}

impl Entry {
    fn fence(&self) -> Instant {
        self.confirmed + self.ttl * 3 / 4
    }

    /// Tells the job to stop, unless it was told already: the first reason holds, but for a gentle kill, and for the
    /// loss of the lease, which forbids a result. Gives whether it was news.
    fn tell(&self, stop: Stop) -> bool {
        self.stop.send_if_modified(|told| {
            let news = match told {
                None | Some(Stop::SoftKilled) => *told != Some(stop),
                Some(Stop::Lost) => false,
                Some(_) => stop == Stop::Lost,
            };
            if news {
                *told = Some(stop);
            }
            news
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn lease(job_id: u64, attempt: u32) -> Lease {
        Lease { job_id, attempt, ttl_ms: TTL.as_millis() as u32, heartbeat_ms: 15_000, ..Lease::default() }
    }

    fn take(held: &mut Held, lease: Lease, now: Instant) -> Job {
        match held.insert(lease, now, 0) {
            Taken::New(job) => job,
            _ => panic!("the lease was not taken"),
        }
    }

    fn reply(seq: u64) -> HeartbeatReply {
        HeartbeatReply { seq, ..HeartbeatReply::default() }
    }

    #[test]
    fn a_heartbeat_carries_every_lease_and_its_phase() {
        let (mut held, now) = (Held::default(), Instant::now());
        let first = take(&mut held, lease(1, 1), now);
        take(&mut held, lease(2, 3), now);
        assert!(matches!(held.insert(lease(2, 3), now, 0), Taken::Twice));
        assert!(matches!(held.insert(lease(2, 4), now, 0), Taken::Busy));
        first.set_phase(Phase::Starting);
        let beat = held.heartbeat(now);
        let mut rows: Vec<_> = beat.jobs.iter().zip(&beat.attempts).zip(&beat.phases).collect();
        rows.sort();
        assert_eq!(rows, [((&1, &1), &1), ((&2, &3), &2)]);
        assert_eq!(held.heartbeat_interval(), Some(Duration::from_secs(15)));
    }

    #[test]
    fn fences_three_quarters_after_the_sending_of_the_last_acknowledged_heartbeat() {
        let (mut held, t0) = (Held::default(), Instant::now());
        let job = take(&mut held, lease(1, 1), t0);
        let sent = t0 + Duration::from_secs(15);
        let beat = held.heartbeat(sent);
        held.answered(&reply(beat.seq));
        held.heartbeat(t0 + Duration::from_secs(30));
        assert_eq!(held.fence(t0 + TTL * 3 / 4), 0);
        assert_eq!(held.fence_at(), Some(sent + TTL * 3 / 4));
        assert_eq!(held.fence(sent + TTL * 3 / 4), 1);
        assert_eq!(job.stop(), Some(Stop::Fenced));
        assert_eq!(held.fence(sent + TTL), 0);
    }

    #[test]
    fn an_unknown_job_or_a_younger_lease_is_not_confirmed() {
        let (mut held, t0) = (Held::default(), Instant::now());
        let unknown = take(&mut held, lease(1, 1), t0);
        let beat = held.heartbeat(t0 + Duration::from_secs(20));
        let young = take(&mut held, lease(2, 1), t0);
        held.answered(&HeartbeatReply { unknown: vec![1], lost: vec![2], ..reply(beat.seq) });
        assert_eq!(young.stop(), None);
        assert_eq!(held.fence(t0 + TTL * 3 / 4), 2);
        assert_eq!(unknown.stop(), Some(Stop::Fenced));
    }

    #[test]
    fn a_lost_lease_overrides_other_reasons_and_leaves_the_heartbeat() {
        let (mut held, now) = (Held::default(), Instant::now());
        let job = take(&mut held, lease(1, 2), now);
        let kill = |attempt, command: CommandKind| JobCommand { job_id: 1, attempt, command: command.into() };
        held.command(&kill(1, CommandKind::Tobekilled));
        assert_eq!(job.stop(), None);
        held.command(&kill(2, CommandKind::Softkill));
        assert_eq!(job.stop(), Some(Stop::SoftKilled));
        held.command(&kill(2, CommandKind::Tobekilled));
        assert_eq!(job.stop(), Some(Stop::Killed));
        let beat = held.heartbeat(now);
        held.answered(&HeartbeatReply { lost: vec![1], ..reply(beat.seq) });
        assert_eq!(job.stop(), Some(Stop::Lost));
        held.stop_all();
        assert_eq!(job.stop(), Some(Stop::Lost));
        assert!(held.heartbeat(now).jobs.is_empty());
        assert!(held.remove(1, 1).is_none());
        assert_eq!(held.remove(1, 2).unwrap().stop, Some(Stop::Lost));
        assert_eq!(held.fence_at(), None);
    }
}
