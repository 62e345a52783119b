//! The core of a shard with one replica, driven by hand: what its leader does with commands, leases and time.

use super::cluster::{Disk, Reader, SHARD};
use crate::core::{Answer, Beaten, Core, CoreOutput, LeaseTo, Policy, Shed};
use crate::leases::ExpiryPolicy;
use crate::limits::{BATCH_BYTES_MAX, ENTRY_BYTES_TARGET, INDEX_REBUILD_STALE_MIN, LEASE_LOOK_MS, PHASES_MAX};
use crate::timeouts::TimeoutTable;
use crate::{Append, ConfState, Message, MessageType, Position, Replica, ReplicaConfig, Role};
use bytes::Bytes;
use moso_proto::object::Timeouts;
use moso_proto::{JobState, ShardId};
use moso_queue::command::{Action, Command, JobResult, Outcome, Reply, ResultStatus, Submit, SubmitJob, Target};
use moso_queue::limits::LEASE_JOBS_MAX;
use moso_queue::ready::{Popped, Wanted};
use moso_queue::{ClassKey, Machine};
use std::collections::VecDeque;
use std::sync::Arc;

const QUEUE: u32 = 3;
const TTL_MS: u32 = 1_000;

fn lease_to(session: u64, request: u32) -> LeaseTo<'static> {
    LeaseTo { session, worker: "w", ttl_ms: TTL_MS, request }
}

/// A shard whose only voting replica, or first of three, is here.
struct One {
    core: Core<u32>,
    reader: Reader,
    now: u64,
    wall: u64,
    /// Appends not yet on disk.
    writes: VecDeque<Append>,
    writes_at_once: bool,
    answers: Vec<(u32, Answer)>,
    reads: Vec<u64>,
    submissions: u8,
}

impl One {
    fn new() -> One {
        let mut one = One::among(&[1]);
        one.core.replica().campaign().unwrap();
        one.turn();
        assert!(one.core.serves());
        one.tick();
        one
    }

    fn among(voters: &[u64]) -> One {
        let reader = Reader::default();
        *reader.disk.lock().unwrap() = Disk::new(voters);
        let durable = reader.disk.lock().unwrap().durable();
        let replica = Replica::open(ReplicaConfig::new(SHARD, 1), durable, Box::new(reader.clone())).unwrap();
        let policy = Policy {
            expiry: ExpiryPolicy { grace_ms: 0, breaker_percent: 100 },
            timeouts: Arc::new(TimeoutTable::new(&Timeouts { rows: Vec::new() }, |_| None)),
        };
        let machine = Machine::new(ShardId(SHARD));
        One {
            core: Core::new(replica, machine, Position::default(), policy, 2_000),
            reader,
            now: 1_000_000,
            wall: 1_800_000_000_000,
            writes: VecDeque::new(),
            writes_at_once: true,
            answers: Vec::new(),
            reads: Vec::new(),
            submissions: 0,
        }
    }

    /// Turns until nothing is left to do.
    fn turn(&mut self) {
        loop {
            self.core.flush(self.wall);
            let mut out = CoreOutput::default();
            self.core.turn(self.now, &mut out).unwrap();
            self.core.written();
            self.writes.extend(out.appends);
            self.answers.extend(out.answers);
            self.reads.extend(out.reads);
            if !self.writes_at_once || self.writes.is_empty() {
                return;
            }
            self.write();
        }
    }

    fn write(&mut self) {
        while let Some(append) = self.writes.pop_front() {
            self.reader.disk.lock().unwrap().write(&append);
            self.core.replica().persisted(append.number);
        }
    }

    fn tick(&mut self) {
        self.now += 100;
        self.wall += 100;
        self.core.replica().tick();
        self.core.maintain(self.now, self.wall);
        self.turn();
    }

    fn ticks(&mut self, ms: u64) {
        (0..ms / 100).for_each(|_| self.tick());
    }

    fn command(&mut self, command: &Command) -> Reply {
        self.core.command(&command.to_bytes(), 0).unwrap();
        self.turn();
        match self.answers.pop() {
            Some((0, Answer::Reply(reply))) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn submission(&mut self, jobs: usize, array: u32, body: usize) -> Command {
        self.submissions += 1;
        let mut submission = [self.submissions; 16];
        submission[..6].copy_from_slice(&self.wall.to_be_bytes()[2..]);
        let job = SubmitJob { body: Bytes::from(vec![0; body]), ..SubmitJob::default() };
        let class = ClassKey { queue: QUEUE, cores: 1, ..ClassKey::default() };
        let jobs = vec![job; jobs];
        Command::Submit(Box::new(Submit { submission, class, jobs, array, ..Submit::default() }))
    }

    /// Submits, and returns the first job's number.
    fn submit(&mut self, jobs: usize, array: u32) -> u64 {
        let command = self.submission(jobs, array, 0);
        match self.command(&command) {
            Reply::Submitted { task, repeated: false, .. } => task + 1,
            other => panic!("{other:?}"),
        }
    }

    fn pop(&self, max: usize) -> Vec<Popped> {
        let mut popped = Vec::new();
        let wanted = Wanted { fits: &|_| true, rank: &|_| 0, by_age: false, max };
        self.core.index().unwrap().pop(QUEUE, &wanted, &mut popped);
        popped
    }

    /// Pops and leases for a session; returns jobs and attempts.
    fn lease(&mut self, session: u64, max: usize) -> Vec<(u64, u32)> {
        self.lease_for(session, max, TTL_MS)
    }

    fn lease_for(&mut self, session: u64, max: usize, ttl_ms: u32) -> Vec<(u64, u32)> {
        self.lease_to(LeaseTo { ttl_ms, ..lease_to(session, 1) }, max)
    }

    fn lease_to(&mut self, to: LeaseTo<'_>, max: usize) -> Vec<(u64, u32)> {
        let popped = self.pop(max);
        if self.core.lease(&popped, &to, 1).unwrap().is_some() {
            return Vec::new();
        }
        self.turn();
        match self.answers.pop() {
            Some((1, Answer::Reply(Reply::Leased(leases)))) => leases,
            other => panic!("{other:?}"),
        }
    }

    fn result(&mut self, session: u64, (seq, attempt): (u64, u32), outcome: Outcome) -> ResultStatus {
        let results = vec![JobResult { seq, attempt, outcome, report: None }];
        match self.command(&Command::Results { session, results }) {
            Reply::Results(statuses) => statuses[0],
            other => panic!("{other:?}"),
        }
    }

    fn ready(&self) -> u64 {
        self.core.index().unwrap().summary(QUEUE).ready
    }

    fn state(&self, seq: u64) -> Option<JobState> {
        self.core.machine().job(seq).map(|job| job.state)
    }
}

#[test]
fn nothing_is_answered_before_it_is_on_disk() {
    let mut one = One::new();
    one.writes_at_once = false;
    let command = one.submission(3, 0, 0);
    one.core.command(&command.to_bytes(), 7).unwrap();
    one.turn();
    assert!(one.answers.is_empty() && one.ready() == 0);
    one.write();
    one.turn();
    assert!(matches!(one.answers[..], [(7, Answer::Reply(Reply::Submitted { jobs: 3, repeated: false, .. }))]));
    assert_eq!(one.ready(), 3);
}

#[test]
fn a_lease_is_kept_by_heartbeats_and_ended_by_its_result() {
    let mut one = One::new();
    let seq = one.submit(1, 0);
    assert_eq!(one.lease(5, 10), [(seq, 1)]);
    for _ in 0..30 {
        one.ticks(300);
        assert_eq!(one.core.heartbeat(5, &[(seq, 1, 2)], None, one.now), Some(Beaten::default()));
    }
    assert_eq!(one.state(seq), Some(JobState::Running));
    let lost = Some(Beaten { lost: vec![seq], ..Beaten::default() });
    assert_eq!(one.core.heartbeat(6, &[(seq, 1, 2)], None, one.now), lost, "another's session");
    assert_eq!(one.core.heartbeat(5, &[(seq, 2, 2)], None, one.now), lost, "another attempt");
    assert_eq!(one.result(5, (seq, 1), Outcome::Finished), ResultStatus::Accepted);
    assert_eq!(one.core.heartbeat(5, &[(seq, 1, 2)], None, one.now), lost);
    assert_eq!(one.lease(5, 10), []);
}

#[test]
fn a_silent_lease_goes_to_another_worker_with_a_new_attempt() {
    let mut one = One::new();
    let seq = one.submit(1, 0);
    assert_eq!(one.lease(5, 1), [(seq, 1)]);
    one.ticks(u64::from(TTL_MS) - 100);
    assert_eq!(one.state(seq), Some(JobState::Sent));
    one.ticks(1_000);
    assert_eq!(one.state(seq), Some(JobState::Activated));
    assert_eq!(one.lease(6, 1), [(seq, 2)]);
    let late = one.result(5, (seq, 1), Outcome::Finished);
    assert!(matches!(late, ResultStatus::Refused(_)), "{late:?}");
    assert_eq!(one.result(6, (seq, 2), Outcome::Finished), ResultStatus::Accepted);
}

#[test]
fn no_heartbeat_is_taken_once_the_expiry_is_proposed_or_the_leader_is_not_sure() {
    let mut one = One::new();
    let seq = one.submit(1, 0);
    one.lease(5, 1);
    // The disk stands still: the expiry is proposed and not applied.
    one.writes_at_once = false;
    one.ticks(2 * u64::from(TTL_MS));
    assert_eq!(one.state(seq), Some(JobState::Sent));
    let lost = Some(Beaten { lost: vec![seq], ..Beaten::default() });
    assert_eq!(one.core.heartbeat(5, &[(seq, 1, 1)], None, one.now), lost);
    one.now += 10_000;
    assert_eq!(one.core.heartbeat(5, &[(seq, 1, 1)], None, one.now), None, "after a stall nobody is sure to lead");
}

#[test]
fn a_lease_that_never_reached_its_worker_is_taken_back_and_no_other() {
    let mut one = One::new();
    let (first, settled) = (one.submit(4, 0), Some(Beaten { settled: true, ..Beaten::default() }));
    let ttl_ms = 600_000;
    let lease = |one: &mut One, session, request| one.lease_to(LeaseTo { ttl_ms, ..lease_to(session, request) }, 1);
    assert_eq!(lease(&mut one, 5, u32::MAX), [(first, 1)]);
    assert_eq!(lease(&mut one, 5, 0), [(first + 1, 1)], "lost, and counted round");
    assert_eq!(lease(&mut one, 5, 1), [(first + 2, 1)], "its answer is on the way");
    assert_eq!(lease(&mut one, 6, 1), [(first + 3, 1)]);
    let held = [(first, 1, 2)];
    assert_eq!(one.core.heartbeat(5, &held, None, one.now), Some(Beaten::default()));
    one.ticks(2_000);
    assert_eq!(one.state(first + 1), Some(JobState::Sent), "the list may have been partial");
    assert_eq!(one.core.heartbeat(5, &held, Some(0), one.now), settled);
    one.ticks(1_100);
    let states: Vec<_> = (0..4).map(|at| one.state(first + at)).collect();
    let kept = Some(JobState::Sent);
    assert_eq!(states, [Some(JobState::Running), Some(JobState::Activated), kept, kept]);
    // The next lease is not charged for it, and the word that comes late does it no harm.
    let last_attempt = |seq| one.core.machine().job(seq).map(|job| job.last_attempt);
    assert_eq!(last_attempt(first + 1), last_attempt(first).map(|last| last + 1));
    assert_eq!(lease(&mut one, 5, 2), [(first + 1, 2)]);
    assert_eq!(one.core.heartbeat(5, &held, Some(0), one.now), settled);
    one.ticks(1_100);
    assert_eq!(one.state(first + 1), kept);
}

#[test]
fn a_stall_of_the_leader_silences_nobody() {
    let mut one = One::new();
    let seq = one.submit(1, 0);
    one.lease(5, 1);
    one.ticks(500);
    one.now += 60_000;
    one.ticks(300);
    assert_eq!(one.state(seq), Some(JobState::Sent));
    one.ticks(2_000);
    assert_eq!(one.state(seq), Some(JobState::Activated));
}

#[test]
fn a_long_lease_is_forgotten_soon_after_its_job_has_ended_and_kept_otherwise() {
    const DAY_MS: u32 = 86_400_000;
    let mut one = One::new();
    let first = one.submit(1_001, 0);
    let leases: Vec<_> = (0..2).flat_map(|_| one.lease_for(5, LEASE_JOBS_MAX, DAY_MS)).collect();
    assert_eq!(leases.len(), 1_001);
    let results =
        leases[1..].iter().map(|&(seq, attempt)| JobResult { seq, attempt, outcome: Outcome::Finished, report: None });
    let results: Vec<_> = results.collect();
    one.command(&Command::Results { session: 5, results });
    let filed = |one: &One| one.core.memory_bytes() - one.core.machine().memory_bytes();
    let before = filed(&one);
    one.ticks(LEASE_LOOK_MS + 1_000);
    assert!(filed(&one) + 1_000 * 16 <= before, "{} after {before}", filed(&one));
    assert_eq!(one.state(first), Some(JobState::Sent), "a day has not passed");
}

#[test]
fn a_phase_that_finds_no_room_is_told_again() {
    let mut one = One::new();
    let count = PHASES_MAX + 1;
    one.submit(0, count as u32);
    let mut leases = Vec::new();
    while leases.len() < count {
        let more = one.lease_for(5, LEASE_JOBS_MAX, 600_000);
        assert!(!more.is_empty(), "the array runs dry at {}", leases.len());
        leases.extend(more);
    }
    let beats: Vec<_> = leases.iter().map(|&(seq, attempt)| (seq, attempt, 2)).collect();
    for _ in 0..2 {
        assert_eq!(one.core.heartbeat(5, &beats, None, one.now), Some(Beaten::default()));
        one.ticks(1_100);
    }
    let running = leases.iter().filter(|(seq, _)| one.state(*seq) == Some(JobState::Running)).count();
    assert_eq!(running, count);
}

#[test]
fn submissions_are_shed_before_leases_and_results_last() {
    let mut one = One::new();
    let seq = one.submit(2, 0);
    assert_eq!(one.lease(5, 1), [(seq, 1)]);
    one.writes_at_once = false;
    let results = vec![JobResult { seq, attempt: 1, outcome: Outcome::Finished, report: None }];
    let result = Command::Results { session: 5, results }.to_bytes();
    // Nothing is flushed: what is gathered stays.
    let large = one.submission(4, 0, 1 << 20).to_bytes();
    let mut gathered = 0;
    while one.core.command(&large, 9).is_ok() {
        gathered += large.len();
    }
    assert!((BATCH_BYTES_MAX..2 * BATCH_BYTES_MAX).contains(&gathered));
    assert_eq!(one.core.command(&large, 9), Err((Shed::Busy, 9)));
    assert_eq!(one.core.lease_room(), Ok(()));
    assert_eq!(one.core.command(&result, 9), Ok(()));

    // Commands that are no submissions fill it further.
    let text: Box<str> = "x".repeat(1 << 20).into();
    let act = Command::Act { action: Action::Hold(text), targets: Vec::new(), actor: "op".into() }.to_bytes();
    while one.core.lease_room().is_ok() {
        one.core.command(&act, 9).unwrap();
    }
    let popped = one.pop(1);
    assert_eq!((popped.len(), one.ready()), (1, 0));
    assert_eq!(one.core.lease(&popped, &lease_to(6, 1), 9), Err((Shed::Busy, 9)));
    assert_eq!(one.ready(), 1, "a job whose lease is shed goes back");
    assert_eq!(one.core.command(&result, 9), Ok(()));
    while one.core.command(&act, 9).is_ok() {}
    assert_eq!(one.core.command(&result, 9), Err((Shed::Busy, 9)));
}

#[test]
fn commands_above_the_target_make_several_entries_and_keep_their_order() {
    let mut one = One::new();
    one.writes_at_once = false;
    let commands: Vec<_> = (0..20).map(|_| one.submission(1, 0, 50_000).to_bytes()).collect();
    for (at, command) in commands.iter().enumerate() {
        one.core.command(command, at as u32).unwrap();
    }
    let large = one.submission(4, 0, 2 * ENTRY_BYTES_TARGET).to_bytes();
    one.core.command(&large, 20).unwrap();
    one.writes_at_once = true;
    one.turn();
    let order: Vec<u32> = one.answers.iter().map(|(at, _)| *at).collect();
    assert!(order.iter().copied().eq(0..21), "{order:?}");
    let sizes: Vec<usize> = one.reader.disk.lock().unwrap().entries.values().map(|e| e.data.len()).collect();
    assert!(sizes.iter().filter(|&&size| size > ENTRY_BYTES_TARGET / 2).count() >= 5, "{sizes:?}");
    assert!(sizes.iter().all(|&size| size <= ENTRY_BYTES_TARGET || size > large.len()), "{sizes:?}");
}

#[test]
fn jobs_taken_from_the_index_and_given_back_are_leased_by_another() {
    let mut one = One::new();
    one.submit(0, 5_000);
    let popped = one.pop(LEASE_JOBS_MAX);
    assert_eq!(popped.len(), LEASE_JOBS_MAX);
    one.core.put_back(&popped);
    let mut leased = Vec::new();
    loop {
        let more = one.lease(5, LEASE_JOBS_MAX);
        if more.is_empty() {
            break;
        }
        leased.extend(more.into_iter().map(|(seq, _)| seq));
    }
    leased.sort_unstable();
    leased.dedup();
    assert_eq!(leased.len(), 5_000);
}

#[test]
fn a_job_taken_twice_is_leased_once() {
    let mut one = One::new();
    let seq = one.submit(1, 0);
    let popped = one.pop(1);
    assert_eq!(one.core.lease(&popped, &lease_to(5, 1), 1), Ok(None));
    assert_eq!(one.core.lease(&popped, &lease_to(6, 1), 2), Ok(Some(2)), "it is reserved");
    one.turn();
    assert_eq!(one.answers.pop(), Some((1, Answer::Reply(Reply::Leased(vec![(seq, 1)])))));
}

#[test]
fn jobs_of_an_array_are_not_leased_under_an_earlier_priority() {
    let mut one = One::new();
    let first = one.submit(0, 10);
    let before = one.pop(10);
    let targets = vec![Target::Rest(first - 1)];
    one.command(&Command::Act { action: Action::Priority(-5), targets, actor: "op".into() });
    assert_eq!(one.core.lease(&before, &lease_to(5, 1), 1), Ok(Some(1)));
    let now = one.pop(20);
    assert!(now.len() == 10 && now.iter().all(|popped| popped.priority == -5), "{now:?}");
}

#[test]
fn an_index_of_stale_entries_is_built_anew() {
    let mut one = One::new();
    let live = 500;
    let killed = INDEX_REBUILD_STALE_MIN + 500;
    let first = one.submit(killed as usize, 0);
    one.submit(live, 0);
    let before = Arc::downgrade(one.core.index().unwrap());
    let targets = (first..first + killed).map(Target::Job).collect();
    one.command(&Command::Act { action: Action::Kill(9), targets, actor: "op".into() });
    assert_eq!(one.ready(), killed + live as u64);
    one.ticks(1_100);
    assert!(before.upgrade().is_none());
    assert_eq!(one.ready(), live as u64);
    assert_eq!(one.lease(5, LEASE_JOBS_MAX).len(), live);
}

#[test]
fn reads_are_served_by_a_leader_alone() {
    let mut one = One::new();
    let context = one.core.read().unwrap();
    one.turn();
    assert_eq!(one.reads, [context]);

    let mut follower = One::among(&[1, 2, 3]);
    assert_eq!(follower.core.read(), None);
    assert_eq!(follower.core.heartbeat(5, &[(1, 1, 1)], None, follower.now), None);
    let command = follower.submission(1, 0, 0).to_bytes();
    assert_eq!(follower.core.command(&command, 3), Err((Shed::NotLeader, 3)));
}

/// The first of three replicas leads; the others are played.
fn leader_of_three() -> One {
    let mut one = One::among(&[1, 2, 3]);
    one.core.replica().campaign().unwrap();
    one.turn();
    for kind in [MessageType::MsgRequestPreVoteResponse, MessageType::MsgRequestVoteResponse] {
        // A pre-vote is asked for under the term to come.
        let term = one.core.replica().term() + u64::from(kind == MessageType::MsgRequestPreVoteResponse);
        let mut vote = Message { from: 2, to: 1, term, ..Message::default() };
        vote.set_msg_type(kind);
        one.core.replica().step(vote).unwrap();
        one.turn();
    }
    acknowledge(&mut one);
    assert!(one.core.serves());
    one
}

/// Replica 2 has all that the leader has.
fn acknowledge(one: &mut One) {
    let (term, index) = (one.core.replica().term(), one.core.replica().last_index());
    let mut message = Message { from: 2, to: 1, term, index, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppendResponse);
    one.core.replica().step(message).unwrap();
    one.turn();
}

#[test]
fn a_leader_waits_for_a_majority_and_says_unknown_when_it_loses_the_leadership() {
    let mut one = leader_of_three();
    let command = one.submission(2, 0, 0).to_bytes();
    one.core.command(&command, 1).unwrap();
    one.turn();
    assert!(one.answers.is_empty(), "its own disk is no majority");
    acknowledge(&mut one);
    assert!(matches!(one.answers.pop(), Some((1, Answer::Reply(Reply::Submitted { .. })))));

    // One lease is proposed, one command gathered, one read asked for; then a newer leader speaks.
    let index = one.core.index().unwrap().clone();
    let popped = one.pop(1);
    assert_eq!(one.core.lease(&popped, &lease_to(5, 1), 2), Ok(None));
    one.turn();
    let gathered = one.submission(1, 0, 0).to_bytes();
    one.core.command(&gathered, 3).unwrap();
    assert!(one.core.read().is_some());
    let term = one.core.replica().term() + 1;
    let mut heartbeat = Message { from: 3, to: 1, term, ..Message::default() };
    heartbeat.set_msg_type(MessageType::MsgHeartbeat);
    one.core.replica().step(heartbeat).unwrap();
    let mut out = CoreOutput::default();
    one.core.turn(one.now, &mut out).unwrap();
    assert!(matches!(out.role, Some(Role::Follower { leader: Some(3), .. })));
    let mut told: Vec<u32> = out.answers.iter().map(|(owed, _)| *owed).collect();
    told.sort_unstable();
    assert_eq!(told, [2, 3]);
    assert!(out.answers.iter().all(|(_, answer)| *answer == Answer::Unknown));
    assert!(out.reads.is_empty() && !one.core.serves());
    let mut popped = Vec::new();
    let wanted = Wanted { fits: &|_| true, rank: &|_| 0, by_age: false, max: 10 };
    index.pop(QUEUE, &wanted, &mut popped);
    assert!(popped.is_empty(), "the index of a lost leadership gives nothing");
    assert_eq!(one.core.replica_ref().conf_state(), ConfState { voters: vec![1, 2, 3], ..ConfState::default() });
}

/// Raft takes a snapshot up in one turn and tells of it in the next output: between the two its copy must stay.
#[test]
fn a_copy_that_is_being_taken_up_is_neither_replaced_nor_removed() {
    let mut one = One::among(&[1, 2, 3]);
    let machine = || Machine::new(ShardId(SHARD));
    let (at, later) = (Position { term: 1, index: 9 }, Position { term: 1, index: 12 });
    assert!(one.core.prepare(machine(), at));
    let members = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    let mut message = Message { from: 2, to: 1, term: 1, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    message.set_snapshot(crate::snapshots::snapshot(at, members));
    one.core.replica().step(message).unwrap();
    assert!(!one.core.prepare(machine(), later));
    assert!(!one.core.unprepare());
    let mut out = CoreOutput::default();
    one.core.turn(one.now, &mut out).unwrap();
    assert_eq!(out.restored, Some(at));
    assert!(one.core.prepare(machine(), later));
    assert!(one.core.unprepare());
}
