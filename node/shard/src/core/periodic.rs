//! What a leader does by the clock: probes its quorum, expires leases, wakes jobs, walks over them for time-outs.

use super::{Core, PROBE, RESULT_ROOM};
use crate::limits::{SWEEP_JOBS_MIN, SWEEP_PARTS};
use crate::timeouts::TimedOut;
use moso_queue::command::Command;
use moso_queue::limits::{COMMAND_JOBS_MAX, DEDUP_WINDOW_MS};

impl<T> Core<T> {
    /// Periodic work, to be called every tick or so. `now_ms` is monotonic, `wall_ms` Unix time.
    ///
    /// The shard's time never goes back, so it is ahead after a wall clock was. Then it goes on at half speed until the
    /// wall clock has caught up: would it stand still, so would every job that waits for a time.
    pub fn maintain(&mut self, now_ms: u64, wall_ms: u64) {
        let last = self.probe_ms;
        let stalled = self.quorum.turn(now_ms);
        if self.leading.is_none() {
            self.probe_ms = now_ms;
            return;
        }
        if stalled && let Some(leading) = &mut self.leading {
            leading.leases.stalled(&mut self.machine, now_ms.saturating_sub(last));
        }
        self.time_ms = (self.time_ms + now_ms.saturating_sub(last) / 2).max(wall_ms).max(self.machine.now_ms());
        self.probe_ms = now_ms;
        self.quorum.set_transferring(self.replica.is_transferring());
        let context = self.next_context | PROBE;
        if self.replica.read_index(context).is_ok() {
            self.next_context += 2;
            self.quorum.sent(context, now_ms);
        }
        self.expire(now_ms);
        self.wake(self.time_ms);
        self.each_second(now_ms, wall_ms);
    }

    fn internal(&mut self, command: &Command) {
        self.gather(command, None);
    }

    fn expire(&mut self, now_ms: u64) {
        if !self.quorum.valid(now_ms) || self.room(RESULT_ROOM).is_err() {
            return;
        }
        let leading = self.leading.as_mut().expect("checked by the caller");
        let expired = leading.leases.expired(&self.machine, now_ms, self.policy.expiry);
        for &(seq, _) in &expired {
            if let Some(job) = self.machine.jobs_volatile().get_mut(seq) {
                job.reserved = true;
            }
        }
        for jobs in expired.chunks(COMMAND_JOBS_MAX) {
            self.internal(&Command::Expire { jobs: jobs.to_vec() });
        }
    }

    fn wake(&mut self, time_ms: u64) {
        let Some(leading) = &mut self.leading else {
            return;
        };
        // The command carries this time or a later one, so what is due now is due when it is applied.
        let jobs = leading.due(time_ms, COMMAND_JOBS_MAX);
        if !jobs.is_empty() {
            self.internal(&Command::Wake { jobs });
        }
    }

    fn each_second(&mut self, now_ms: u64, wall_ms: u64) {
        let leading = self.leading.as_mut().expect("checked by the caller");
        if now_ms < leading.second_ms + 1_000 {
            return;
        }
        leading.second_ms = now_ms;
        leading.index.tidy();
        leading.rebuild_if_stale(&self.machine);
        let phases = std::mem::take(&mut leading.phases);
        let prune = now_ms >= leading.pruned_ms + 60_000;
        if prune {
            leading.pruned_ms = now_ms;
        }
        for jobs in phases.chunks(COMMAND_JOBS_MAX) {
            self.internal(&Command::Phase { jobs: jobs.to_vec() });
        }
        if prune {
            self.internal(&Command::Prune { below_ms: wall_ms.saturating_sub(DEDUP_WINDOW_MS) });
        }
        self.take_back_unheld();
        self.sweep(self.time_ms);
    }

    /// Takes leases back that never reached their workers.
    fn take_back_unheld(&mut self) {
        if self.room(RESULT_ROOM).is_err() {
            return;
        }
        let leading = self.leading.as_mut().expect("checked by the caller");
        for (session, leases) in leading.settlements.take_unheld(&self.machine) {
            for &(seq, _) in &leases {
                if let Some(job) = self.machine.jobs_volatile().get_mut(seq) {
                    job.reserved = true;
                }
            }
            for jobs in leases.chunks(COMMAND_JOBS_MAX) {
                self.internal(&Command::Unheld { session, jobs: jobs.to_vec() });
            }
        }
    }

    /// Looks at a part of the jobs for time-outs.
    fn sweep(&mut self, time_ms: u64) {
        let leading = self.leading.as_mut().expect("checked by the caller");
        let part = (self.machine.jobs().len() / SWEEP_PARTS).max(SWEEP_JOBS_MIN);
        let mut late: Vec<TimedOut> = Vec::new();
        let mut seen = 0;
        let mut last = 0;
        for job in self.machine.jobs().from(leading.sweep_from).take(part) {
            seen += 1;
            last = job.seq;
            late.extend(self.policy.timeouts.check(&self.machine, job, time_ms));
        }
        leading.sweep_from = if seen < part { 0 } else { last + 1 };
        late.sort_by_key(|l| (l.fail, l.code, l.seq));
        for group in late.chunk_by(|a, b| (a.fail, a.code) == (b.fail, b.code)) {
            for jobs in group.chunks(COMMAND_JOBS_MAX) {
                let jobs_meant = jobs.iter().map(|l| (l.seq, l.state, l.changed_ms)).collect();
                self.internal(&Command::TimeOut { jobs: jobs_meant, fail: group[0].fail, code: group[0].code });
            }
        }
    }
}
