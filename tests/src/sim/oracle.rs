//! What a shard must be: a machine of its own to which every committed entry is applied once, command by command, and
//! an independent record of attempts, leases, ends and submissions against which each command is checked.

use super::env::Env;
use super::members_log::MembersLog;
use super::rules;
use super::trace::{Note, command_line, command_name};
use super::watch::{Check, Leaderships, Violation};
use crate::ensure_that;
use bytes::Bytes;
use moso_proto::{JobState, ShardId};
use moso_queue::command::{Command, EntryBuilder, JobResult, Outcome, Reply, ResultStatus};
use moso_queue::job::EndedJob;
use moso_queue::{Effects, Machine};
use moso_shard::{Entry, EntryType, FOUNDING, Position};
use std::collections::{BTreeMap, BTreeSet};

/// Digests are kept for every so many entries: each costs a walk over all jobs.
const DIGEST_EVERY: u64 = 8;
/// Part of the lease time, in percent, within which an acknowledged heartbeat forbids expiry.
const KEPT_PERCENT: u64 = 90;

/// What is known of a job.
#[derive(Clone, Debug)]
struct Known {
    state: JobState,
    attempt: u32,
    session: u64,
    ttl_ms: u32,
}

/// A lease's last sign of life that the leader acknowledged, in the waking time of the leader of that term.
#[derive(Clone, Copy, Debug)]
struct Alive {
    term: u64,
    attempt: u32,
    awake_ms: u64,
}

/// What a shard must be.
pub struct Oracle {
    shard: u16,
    machine: Machine,
    /// Term and content of each committed entry, from index 1: the founding, which is no entry.
    log: Vec<(u64, Bytes)>,
    digests: BTreeMap<u64, u64>,
    /// The group's members.
    pub members: MembersLog,
    jobs: BTreeMap<u64, Known>,
    alive: BTreeMap<u64, Alive>,
    /// Leases taken back because their worker was never given them: job and attempt.
    unheld: BTreeSet<(u64, u32)>,
    /// Archive records.
    ended: BTreeMap<u64, (JobState, u32, Vec<u8>)>,
    submissions: BTreeMap<[u8; 16], (u64, u32)>,
    /// Submissions that clients made: whatever is committed must be one of them.
    invoked: BTreeMap<[u8; 16], Vec<u64>>,
    /// Index of the newest entry that a client was told about.
    pub answered: u64,
}

impl Oracle {
    /// An empty shard.
    pub fn new(shard: u16) -> Oracle {
        Oracle {
            shard,
            machine: Machine::new(ShardId(shard)),
            log: vec![(FOUNDING.term, Bytes::new())],
            digests: BTreeMap::new(),
            members: MembersLog::default(),
            jobs: BTreeMap::new(),
            alive: BTreeMap::new(),
            unheld: BTreeSet::new(),
            ended: BTreeMap::new(),
            submissions: BTreeMap::new(),
            invoked: BTreeMap::new(),
            answered: 0,
        }
    }

    /// The state after the newest committed entry seen.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Index of the newest committed entry seen.
    pub fn committed(&self) -> u64 {
        self.log.len() as u64
    }

    /// Index and term of the newest committed entries.
    pub fn newest_committed(&self, max: usize) -> impl Iterator<Item = (u64, u64)> {
        let newest = self.log.iter().enumerate().rev().take(max);
        newest.map(|(at, entry)| (at as u64 + 1, entry.0))
    }

    /// The digest after this index, if it was kept.
    pub fn digest(&self, index: u64) -> Option<u64> {
        self.digests.get(&index).copied()
    }

    /// The term of a committed entry.
    pub fn term(&self, index: u64) -> Option<u64> {
        self.log.get((index as usize).checked_sub(1)?).map(|entry| entry.0)
    }

    /// I8: a replica has this digest at this position; all that come there have the same.
    pub fn agree(&mut self, at: Position, digest: u64) -> Check {
        let known = *self.digests.entry(at.index).or_insert(digest);
        ensure_that!(
            "I8 equal digests",
            known == digest,
            "shard {} at {at:?}: {digest:x} instead of {known:x}",
            self.shard
        );
        Ok(())
    }

    /// How a job ended: state, attempt, archive record.
    pub fn ended(&self, seq: u64) -> Option<&(JobState, u32, Vec<u8>)> {
        self.ended.get(&seq)
    }

    /// All archive records.
    pub fn all_ended(&self) -> &BTreeMap<u64, (JobState, u32, Vec<u8>)> {
        &self.ended
    }

    /// Task and jobs of a committed submission.
    pub fn submission(&self, id: &[u8; 16]) -> Option<(u64, u32)> {
        self.submissions.get(id).copied()
    }

    /// A client makes a submission with this content.
    pub fn invoke(&mut self, id: [u8; 16], content: u64) {
        self.invoked.entry(id).or_default().push(content);
    }

    /// Whether the session holds the job under this attempt, as far as is committed.
    pub fn holds(&self, session: u64, seq: u64, attempt: u32) -> bool {
        self.machine
            .job(seq)
            .is_some_and(|job| job.state.is_leased() && job.session == session && job.attempt == attempt)
    }

    /// I6: a lease that its worker holds, held until it ended, or comes to hold was never taken back as one that the
    /// worker was not given.
    pub fn check_given(&self, seq: u64, attempt: u32) -> Check {
        ensure_that!(
            "I6 a lease given is not taken back as lost",
            !self.unheld.contains(&(seq, attempt)),
            "shard {}: job {seq} attempt {attempt}",
            self.shard
        );
        Ok(())
    }

    /// A leader of this term acknowledged a heartbeat of the job.
    pub fn heard(&mut self, seq: u64, attempt: u32, term: u64, awake_ms: u64) {
        let alive = Alive { term, attempt, awake_ms };
        self.alive.insert(seq, alive);
    }

    /// A replica has applied `entry`: the first to do so tells what it does, all others must agree with it.
    pub fn observe(&mut self, env: &mut Env, leaders: &Leaderships<'_>, entry: Entry) -> Check {
        let (index, term) = (entry.index, entry.term);
        if let Some(before) = self.log.get(index as usize - 1) {
            ensure_that!(
                "I12 log matching",
                (before.0, &before.1) == (term, &entry.data),
                "shard {}: entry {index} was committed in term {} and again, with other content, in term {term}",
                self.shard,
                before.0
            );
            return Ok(());
        }
        ensure_that!(
            "I12 log matching",
            index == self.committed() + 1,
            "shard {}: entry {index} was applied after {}",
            self.shard,
            self.committed()
        );
        self.log.push((term, entry.data.clone()));
        if entry.get_entry_type() != EntryType::EntryNormal {
            env.cover.count("members: changes committed");
            self.members.changed(index);
        } else if !entry.data.is_empty() {
            let position = Position { term, index };
            self.apply(env, leaders, position, entry.data)?;
        }
        if index.is_multiple_of(DIGEST_EVERY) {
            self.digests.insert(index, self.machine.digest());
        }
        Ok(())
    }

    fn apply(&mut self, env: &mut Env, leaders: &Leaderships<'_>, position: Position, entry: Bytes) -> Check {
        let Ok((time_ms, commands)) = moso_queue::command::read_entry(entry) else {
            return Violation::new("entry readable", format!("{position:?}"));
        };
        let before_ms = self.machine.now_ms();
        ensure_that!(
            "time never goes back",
            time_ms >= before_ms,
            "shard {}: {time_ms} after {before_ms} at {position:?}",
            self.shard
        );
        env.cover.count("entries committed");
        for bytes in commands {
            let mut builder = EntryBuilder::default();
            builder.push(&bytes);
            let (mut effects, mut replies) = (Effects::default(), Vec::new());
            let applied = self.machine.apply(builder.finish(time_ms), &mut effects, &mut replies);
            let (Ok(()), Ok(command), Some(reply)) = (applied, Command::decode(bytes), replies.pop()) else {
                return Violation::new("command readable", format!("{position:?}"));
            };
            env.cover.count(command_name(&command));
            env.note(Note::Committed {
                shard: self.shard,
                index: position.index,
                term: position.term,
                command: command_line(&command),
                reply: format!("{reply:?}"),
            });
            self.check(env, leaders, position, &command, &reply, &effects).map_err(|violation| Violation {
                detail: format!(
                    "shard {} at {position:?}, {}: {}",
                    self.shard,
                    command_line(&command),
                    violation.detail
                ),
                ..violation
            })?;
        }
        Ok(())
    }

    fn check(
        &mut self,
        env: &mut Env,
        leaders: &Leaderships<'_>,
        position: Position,
        command: &Command,
        reply: &Reply,
        effects: &Effects,
    ) -> Check {
        match (command, reply) {
            (Command::Submit(submit), Reply::Submitted { task, jobs, repeated }) => {
                self.check_submitted(submit.submission, submit.content, (*task, *jobs), *repeated)?;
            }
            (Command::Lease { session, ttl_ms, .. }, Reply::Leased(leased)) => {
                self.check_leased(*session, *ttl_ms, leased)?;
                let serving = leaders.serving(self.shard, position.term);
                if let Some(serving) = serving {
                    let awake_ms = leaders.awake_ms(serving.node, env.now_ms);
                    for &(seq, attempt) in leased {
                        self.heard(seq, attempt, position.term, awake_ms);
                    }
                }
            }
            (Command::Results { session, results }, Reply::Results(statuses)) => {
                ensure_that!("one status per result", results.len() == statuses.len(), "{reply:?}");
                for (result, status) in results.iter().zip(statuses) {
                    self.check_result(env, command, (*session, result), *status, effects)?;
                }
            }
            (Command::Expire { jobs }, _) => {
                for &(seq, attempt) in jobs {
                    self.check_expired(env, leaders, position.term, seq, attempt)?;
                }
            }
            (Command::Unheld { session, jobs }, _) => {
                for lease in jobs {
                    let known = self.jobs.get(&lease.0);
                    if known.is_some_and(|k| k.state.is_leased() && (k.attempt, k.session) == (lease.1, *session)) {
                        env.cover.count("leases taken back, never given");
                        self.unheld.insert(*lease);
                    }
                }
            }
            (Command::Act { .. }, Reply::Acted { .. })
            | (
                Command::Phase { .. } | Command::Wake { .. } | Command::TimeOut { .. } | Command::Prune { .. },
                Reply::Done,
            )
            | (_, Reply::Refused(_)) => {}
            _ => return Violation::new("reply fits command", format!("{reply:?}")),
        }
        self.check_ends(env, command, effects)?;
        self.check_jobs(env, command, effects)
    }

    /// I2: what is committed was submitted, and a submission makes one task.
    fn check_submitted(&mut self, id: [u8; 16], content: u64, task: (u64, u32), repeated: bool) -> Check {
        let invoked = self.invoked.get(&id);
        ensure_that!(
            "I2 no phantom",
            invoked.is_some_and(|contents| contents.contains(&content)),
            "nobody submitted {id:02x?}"
        );
        let known = *self.submissions.entry(id).or_insert(task);
        ensure_that!("I2 one task per submission", known == task, "it made task {} and then {}", known.0, task.0);
        ensure_that!(
            "I2 one task per submission",
            repeated || self.machine.task(task.0).is_some(),
            "task {} is said to be new, but does not live",
            task.0
        );
        Ok(())
    }

    /// I5, I6: an attempt is one more than the last, and the job had no lease.
    fn check_leased(&mut self, session: u64, ttl_ms: u32, leased: &[(u64, u32)]) -> Check {
        for &(seq, attempt) in leased {
            let known = self.jobs.get(&seq);
            let (last, state) = known.map_or((0, None), |k| (k.attempt, Some(k.state)));
            ensure_that!("I5 attempts rise by one", attempt == last + 1, "job {seq}: attempt {attempt} after {last}");
            ensure_that!(
                "I6 one lease per job",
                state.is_none_or(|state| state == JobState::Activated),
                "job {seq} was {state:?}"
            );
            let known = self.jobs.entry(seq).or_insert(Known { state: JobState::Activated, attempt, session, ttl_ms });
            (known.attempt, known.session, known.ttl_ms) = (attempt, session, ttl_ms);
        }
        Ok(())
    }

    /// I4: an accepted result carries the current attempt and comes from the session that was given it.
    fn check_result(
        &mut self,
        env: &mut Env,
        command: &Command,
        (session, result): (u64, &JobResult),
        status: ResultStatus,
        effects: &Effects,
    ) -> Check {
        let ResultStatus::Accepted = status else {
            env.cover.count("results refused");
            return Ok(());
        };
        let Some(known) = self.jobs.get(&result.seq) else {
            return Violation::new("I4 current attempt", format!("{result:?}: no such job"));
        };
        ensure_that!(
            "I4 current attempt",
            known.attempt == result.attempt && known.session == session,
            "{result:?} of session {session:x} was accepted, but the job is {known:?}"
        );
        ensure_that!("I3 ended once", !known.state.is_final(), "{result:?} was accepted, but the job has ended");
        if !known.state.is_leased() {
            env.cover.count("results accepted late");
        }
        let finished = result.outcome == Outcome::Finished;
        let mut ends = effects.ended_jobs.iter();
        let end = ends.find(|(seq, _, _)| *seq == result.seq);
        ensure_that!("accepted success ends the job", !finished || end.is_some(), "{result:?}");
        if let Some((_, _, record)) = end {
            // A second result in the same command meets an ended job.
            let job = EndedJob::decode(result.seq, record.clone().into());
            let state = job.map_or(JobState::Finished, |job| job.job.state);
            self.step(env, command, result.seq, Some(known.state), state)?;
            if let Some(known) = self.jobs.get_mut(&result.seq) {
                known.state = state;
            }
        }
        Ok(())
    }

    /// I9: no lease ends while its leader could hear the worker and did so within nine tenths of the lease time; a new
    /// leader grants a full term.
    fn check_expired(&mut self, env: &mut Env, leaders: &Leaderships<'_>, term: u64, seq: u64, attempt: u32) -> Check {
        let Some(known) = self.jobs.get(&seq) else {
            return Ok(());
        };
        if !known.state.is_leased() || known.attempt != attempt {
            env.cover.count("expiries without effect");
            return Ok(());
        }
        env.cover.count("leases expired");
        self.check_silent(env, leaders, term, (seq, attempt), "I9 no early expiry")
    }

    /// A heartbeat's answer calls a lease lost only if it is, or if its time is over.
    pub fn check_lost(
        &self,
        env: &Env,
        leaders: &Leaderships<'_>,
        term: u64,
        session: u64,
        (seq, attempt): (u64, u32),
    ) -> Check {
        if !self.holds(session, seq, attempt) {
            return Ok(());
        }
        let invariant = "a lease called lost is lost";
        self.check_silent(env, leaders, term, (seq, attempt), invariant)
    }

    /// The leader of this term was awake for nine tenths of the lease time since it began, gave the lease, or
    /// acknowledged a heartbeat of it.
    fn check_silent(
        &self,
        env: &Env,
        leaders: &Leaderships<'_>,
        term: u64,
        (seq, attempt): (u64, u32),
        invariant: &'static str,
    ) -> Check {
        let Some(serving) = leaders.serving(self.shard, term) else {
            return Violation::new(invariant, format!("nobody served in term {term}"));
        };
        let ttl_ms = self.jobs.get(&seq).map_or(0, |known| known.ttl_ms);
        let alive = self.alive.get(&seq);
        let alive = alive.filter(|alive| (alive.attempt, alive.term) == (attempt, term));
        let since_ms = alive.map_or(serving.awake_ms, |alive| alive.awake_ms);
        let silent_ms = leaders.awake_ms(serving.node, env.now_ms).saturating_sub(since_ms.max(serving.awake_ms));
        ensure_that!(
            invariant,
            silent_ms >= u64::from(ttl_ms) * KEPT_PERCENT / 100,
            "job {seq} attempt {attempt}: its leader could hear it for {silent_ms} ms of its {ttl_ms} ms; {alive:?} {serving:?}"
        );
        Ok(())
    }

    /// I3: a job ends once, and its archive record says how.
    fn check_ends(&mut self, env: &mut Env, command: &Command, effects: &Effects) -> Check {
        for (seq, _, record) in &effects.ended_jobs {
            let Ok(job) = EndedJob::decode(*seq, record.clone().into()) else {
                return Violation::new("archive readable", format!("job {seq}"));
            };
            let end = (job.job.state, job.job.attempt, record.clone());
            let state = end.0;
            ensure_that!(
                "I3 ended once",
                self.ended.insert(*seq, end).is_none() && state.is_final(),
                "job {seq} ended again, as {state}"
            );
            let attempt = self.jobs.get(seq).map_or(0, |known| known.attempt);
            ensure_that!(
                "I5 attempts rise by one",
                job.job.attempt == attempt,
                "job {seq} ended with attempt {}, the last was {attempt}",
                job.job.attempt
            );
            let before = self.jobs.get(seq).map(|known| known.state);
            // Results have told their own ends already.
            if before.is_none_or(|before| !before.is_final()) {
                self.step(env, command, *seq, before, state)?;
            }
            self.alive.remove(seq);
            let known = self.jobs.entry(*seq).or_insert(Known { state, attempt, session: 0, ttl_ms: 0 });
            known.state = state;
        }
        Ok(())
    }

    /// Every change of state is one that the command may make, and nothing but a lease changes attempt and session.
    fn check_jobs(&mut self, env: &mut Env, command: &Command, effects: &Effects) -> Check {
        let touched: BTreeSet<u64> = effects.jobs.iter().copied().collect();
        for seq in touched {
            let Some(job) = self.machine.job(seq) else {
                ensure_that!("I1 no job lost", self.ended.contains_key(&seq), "job {seq} is gone without a record");
                continue;
            };
            let (state, attempt, session) = (job.state, job.attempt, job.session);
            let before = self.jobs.get(&seq).cloned();
            if let Some(before) = &before {
                ensure_that!(
                    "I5 attempts rise by one",
                    (before.attempt, before.session) == (attempt, session),
                    "job {seq} was {before:?} and is {job:?}"
                );
                ensure_that!("I3 ended once", !before.state.is_final(), "job {seq} lives again");
            }
            let ttl_ms = job.ttl_ms;
            let from = before.map(|known| known.state);
            if from != Some(state) {
                self.step(env, command, seq, from, state)?;
            }
            let known = Known { state, attempt, session, ttl_ms };
            self.jobs.insert(seq, known);
        }
        Ok(())
    }

    fn step(&self, env: &mut Env, command: &Command, seq: u64, from: Option<JobState>, to: JobState) -> Check {
        env.cover.transition(from, to);
        ensure_that!("transition allowed", rules::allowed(command, from, to), "job {seq}: {from:?} to {to}");
        Ok(())
    }
}
