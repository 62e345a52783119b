//! The log's commands: their bytes, and shards that apply whatever can be read.

use super::input::{Input, put_piece};
use super::reached::{reached, result};
use super::seeds_of;
use crate::samples;
use bytes::Bytes;
use moso_proto::ShardId;
use moso_queue::command::{Command, EntryBuilder, JobResult, Outcome, Reply, Submit, read_entry};
use moso_queue::machine::MetaRecord;
use moso_queue::{Effects, Machine, check};
use std::collections::BTreeMap;

const SHARD: ShardId = ShardId(1);
/// Entries of a script that are applied.
const ENTRIES_MAX: usize = 64;

/// One command. What was read is written and read as the same.
pub(super) fn command(data: &[u8]) {
    let Some(command) = result(Command::decode(Bytes::copy_from_slice(data))) else { return };
    let again = Command::decode(command.to_bytes().into());
    assert_eq!(again.as_ref(), Ok(&command), "a command comes back as another one");
    reached(data[0]);
}

pub(super) fn command_seeds() -> Vec<Vec<u8>> {
    seeds_of(&["command"])
}

/// One entry. It is written as the same bytes.
pub(super) fn entry(data: &[u8]) {
    let Some((time_ms, commands)) = result(read_entry(Bytes::copy_from_slice(data))) else { return };
    let mut builder = EntryBuilder::default();
    commands.iter().for_each(|command| builder.push(command));
    assert_eq!(builder.commands(), commands.len());
    assert_eq!(builder.finish(time_ms), data, "an entry is written as other bytes");
    // On an empty shard.
    let (mut machine, mut replies) = (Machine::new(SHARD), Vec::new());
    let applied = result(machine.apply(Bytes::copy_from_slice(data), &mut Effects::default(), &mut replies));
    assert!(applied.is_none() || replies.len() == commands.len(), "one reply for each command");
    assert_eq!(check::check(&machine), Ok(()));
}

pub(super) fn entry_seeds() -> Vec<Vec<u8>> {
    seeds_of(&["entry"])
}

/// Two replicas, and what the one's store would hold.
struct Shard {
    machines: [Machine; 2],
    submissions: BTreeMap<[u8; 16], [u8; 16]>,
    bodies: BTreeMap<u64, Bytes>,
}

impl Shard {
    fn apply(&mut self, entry: &Bytes) {
        let mut effects = Effects::default();
        let (mut replies, mut others) = (Vec::new(), Vec::new());
        let [first, second] = &mut self.machines;
        let outcome = first.apply(entry.clone(), &mut effects, &mut replies);
        assert_eq!(second.apply(entry.clone(), &mut Effects::default(), &mut others), outcome);
        assert_eq!(replies, others, "replicas answer differently");
        assert_eq!(first.digest(), second.digest(), "replicas differ");
        assert_eq!(check::check(first), Ok(()));
        for reply in &replies {
            match reply {
                Reply::Refused(refusal) => reached(refusal.code),
                Reply::Results(statuses) => statuses.iter().for_each(|status| reached(format_args!("{status:?}"))),
                Reply::Acted { changed, .. } => reached((*changed).min(2)),
                Reply::Leased(jobs) => reached(jobs.len().min(2)),
                _ => reached("done"),
            }
        }
        for (task, _, record) in &effects.ended_tasks {
            moso_queue::task::EndedTask::decode(*task, record.clone().into()).expect("a record that was just made");
        }
        for (job, _, record) in &effects.ended_jobs {
            moso_queue::job::EndedJob::decode(*job, record.clone().into()).expect("a record that was just made");
        }
        self.bodies.extend(effects.bodies);
        effects.bodies_dropped.iter().for_each(|body| drop(self.bodies.remove(body)));
        self.submissions.extend(effects.submissions);
        if let Some(below) = effects.submissions_below {
            self.submissions = self.submissions.split_off(&below);
        }
    }

    /// Starts a replica from its records, as after a restart.
    fn reload(&mut self) {
        let old = &self.machines[1];
        let record = MetaRecord::decode(old.meta_record().encode().into()).expect("a record that was just made");
        let mut machine = Machine::load(SHARD, record);
        let mut bytes = Vec::new();
        for (id, _) in old.classes().iter() {
            bytes.clear();
            assert!(old.encode_class(id, &mut bytes));
            machine.load_class(id.0, bytes.clone().into()).expect("a stored class");
        }
        for task in old.tasks_from(0) {
            bytes.clear();
            assert!(old.encode_task(task.seq, &mut bytes));
            let body = || self.bodies.get(&task.seq).cloned();
            machine.load_task(task.seq, bytes.clone().into(), body).expect("a stored task");
        }
        for job in old.jobs().from(0) {
            bytes.clear();
            assert!(old.encode_job(job.seq, &mut bytes));
            machine.load_job(job.seq, bytes.clone().into()).expect("a stored job");
        }
        for (submission, record) in &self.submissions {
            machine.load_submission(*submission, *record);
        }
        assert_eq!(check::check(&machine), Ok(()));
        assert_eq!(machine.digest(), old.digest(), "a replica differs after a restart");
        self.machines[1] = machine;
    }
}

/// A script: entries, each with the time that passes, and commands. Whatever can be read leaves the counts equal to a
/// recount, and replicas equal, also the one that is started anew.
pub(super) fn apply(data: &[u8]) {
    let mut input = Input(data);
    let mut shard = Shard {
        machines: [Machine::new(SHARD), Machine::new(SHARD)],
        submissions: BTreeMap::new(),
        bodies: BTreeMap::new(),
    };
    let mut time_ms = 0u64;
    for _ in 0..ENTRIES_MAX {
        if input.is_empty() {
            break;
        }
        let what = input.u8();
        if what.is_multiple_of(8) {
            shard.reload();
        }
        time_ms = match what % 4 {
            // Far ahead, as a leader's clock may be once.
            3 => time_ms.wrapping_add(input.u64()),
            _ => time_ms.saturating_add(u64::from(input.u16())),
        };
        let mut builder = EntryBuilder::default();
        let mut readable = true;
        for _ in 0..=what >> 6 {
            let piece = input.piece();
            readable &= result(Command::decode(Bytes::copy_from_slice(piece))).is_some();
            builder.push(piece);
        }
        // One that cannot be read stops a replica at once: nothing is applied after it.
        if readable {
            shard.apply(&builder.finish(time_ms));
        }
    }
    shard.reload();
}

/// A history: tasks are made, leased, reported, killed and forgotten.
fn history(submits: &[Submit], tail: &[Command]) -> Vec<u8> {
    let mut seed = Vec::new();
    let mut add = |what: u8, passes: u16, command: &Command| {
        seed.push(what);
        seed.extend(passes.to_le_bytes());
        put_piece(&mut seed, &command.to_bytes());
    };
    submits.iter().for_each(|submit| add(1, 5, &Command::Submit(Box::new(submit.clone()))));
    let jobs: Vec<u64> = (1..8).collect();
    let lease =
        |request| Command::Lease { session: 7, worker: "w".into(), ttl_ms: 60_000, request, jobs: jobs.clone() };
    add(1, 60_000, &Command::Wake { jobs: jobs.clone() });
    add(8, 1, &lease(1));
    let results = |seqs: &[u64], outcome| {
        let of = |&seq| JobResult { seq, attempt: 1, outcome, report: None };
        Command::Results { session: 7, results: seqs.iter().map(of).collect() }
    };
    add(1, 9, &results(&[2], Outcome::Finished));
    add(1, 9, &results(&[3, 4], Outcome::Failed));
    add(1, 9, &Command::Expire { jobs: vec![(5, 1), (6, 1)] });
    add(2, 60_000, &lease(2));
    tail.iter().for_each(|command| add(9, 1_000, command));
    seed
}

pub(super) fn apply_seeds() -> Vec<Vec<u8>> {
    let plain = Submit { not_before_ms: 0, expires_at_ms: 0, max_failed: 0, ..samples::submit() };
    let mut free = plain.clone();
    free.submission[15] ^= 1;
    free.jobs.iter_mut().for_each(|job| job.depends_on.clear());
    let mut array = Submit { array: 20, jobs: Vec::new(), ..plain.clone() };
    array.submission[15] ^= 2;
    let bounded = Submit { max_failed: 1, run_dependents: false, ..free.clone() };
    let tail: Vec<Command> = samples::commands().into_iter().map(|(_, command)| command).collect();
    let mut seeds: Vec<Vec<u8>> = [[plain, array.clone()], [free, array.clone()], [bounded, array]]
        .iter()
        .flat_map(|submits| tail.chunks(4).map(|tail| history(submits, tail)).collect::<Vec<_>>())
        .collect();
    seeds.push(history(&[], &tail));
    seeds
}
