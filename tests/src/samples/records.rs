//! Log commands, entries and the records of a shard's state.

use super::{Sample, Value, unknown};
use bytes::Bytes;
use moso_proto::{JobState, ShardId};
use moso_queue::class::{ClassId, ClassKey};
use moso_queue::codec::Get;
use moso_queue::command::{Action, Command, EntryBuilder, JobResult, Outcome, Submit, SubmitJob, Target};
use moso_queue::dependencies::Dependencies;
use moso_queue::job::{EndedJob, Job, Reason, Report};
use moso_queue::machine::MetaRecord;
use moso_queue::task::{EndedTask, RestEnd, RetryPolicy, Task};
use moso_queue::{Effects, Machine, command};

const NOW_MS: u64 = 1_700_000_000_000;

/// A class with every field set.
pub fn class() -> ClassKey {
    ClassKey {
        queue: 3,
        share: 2,
        owner: "ada".into(),
        group: "physics".into(),
        label: "managed".into(),
        cores: 8,
        memory_mib: 16_000,
        disk_mib: 20_000,
        wall_time_s: 86_400,
        resource_type: "MCORE".into(),
        tags: vec!["avx2".into(), "gpu".into()],
    }
}

fn report() -> Report {
    Report {
        exit_code: -9,
        errors: vec![("pilot".into(), 1201, "killed by the batch system".into()), ("exe".into(), -1, "ü".into())],
        output: Bytes::from_static(b"last words\n"),
        cpu_ms: 1_234_567,
        memory_peak_kib: 2_097_152,
        started_ms: NOW_MS + 5_000,
        details: Bytes::new(),
    }
}

/// A submission of three jobs with every field set, two of which wait for others.
pub fn submit() -> Submit {
    let mut submission = *b"\0\0\0\0\0\0sample-one";
    submission[..6].copy_from_slice(&NOW_MS.to_be_bytes()[2..]);
    let job = |body: &'static str, depends_on: &[u32]| SubmitJob {
        body: Bytes::from_static(body.as_bytes()),
        depends_on: depends_on.to_vec(),
        ..SubmitJob::default()
    };
    let other = ClassKey { cores: 1, tags: Vec::new(), ..class() };
    Submit {
        submission,
        content: 0x0123_4567_89ab_cdef,
        name: "reconstruction".into(),
        class: class(),
        priority: -7,
        retry: RetryPolicy {
            max_attempts: 5,
            backoff_initial_ms: 1_000,
            backoff_factor_milli: 1_500,
            backoff_ceiling_ms: 60_000,
        },
        not_before_ms: NOW_MS + 1,
        expires_at_ms: NOW_MS + 86_400_000,
        run_dependents: true,
        max_failed: 2,
        body_type: "command".into(),
        body: Bytes::from_static(b"shared"),
        array: 0,
        jobs: vec![
            job("first", &[]),
            SubmitJob { priority: Some(900), class: Some(Box::new(other)), ..job("second", &[0]) },
            job("", &[0, 1]),
        ],
    }
}

fn array() -> Submit {
    let mut submission = submit().submission;
    submission[15] = b'2';
    Submit { submission, not_before_ms: 0, array: 1_000, jobs: Vec::new(), ..submit() }
}

/// Every command, by name.
pub fn commands() -> Vec<(&'static str, Command)> {
    let result = |seq, outcome, report| JobResult { seq, attempt: 2, outcome, report };
    let act = |action, targets: &[Target]| Command::Act { action, targets: targets.to_vec(), actor: "ops".into() };
    let held = JobState::Throttled;
    vec![
        ("submit-jobs", Command::Submit(Box::new(submit()))),
        ("submit-array", Command::Submit(Box::new(array()))),
        (
            "lease",
            Command::Lease {
                session: 77,
                worker: "node-1/slot-3".into(),
                ttl_ms: 60_000,
                request: 9,
                jobs: vec![6, 7],
            },
        ),
        (
            "results",
            Command::Results {
                session: 77,
                results: vec![
                    result(6, Outcome::Finished, None),
                    result(7, Outcome::Failed, Some(Box::new(report()))),
                    result(8, Outcome::Released, None),
                    result(9, Outcome::Cancelled, None),
                    result(10, Outcome::FailedForGood, None),
                ],
            },
        ),
        ("unheld", Command::Unheld { session: 77, jobs: vec![(6, 1), (8, 3)] }),
        ("expire", Command::Expire { jobs: vec![(6, 1)] }),
        ("phase", Command::Phase { jobs: vec![(6, 1, 1), (7, 1, 2)] }),
        ("wake", Command::Wake { jobs: vec![1, 5] }),
        ("timeout", Command::TimeOut { jobs: vec![(2, held, NOW_MS)], fail: true, code: 102 }),
        ("act-kill", act(Action::Kill(9), &[Target::Job(2), Target::Rest(5)])),
        ("act-hold", act(Action::Hold("maintenance".into()), &[Target::Job(2)])),
        ("act-release", act(Action::Release, &[Target::Job(2)])),
        ("act-retry", act(Action::Retry(3), &[Target::Job(2)])),
        ("act-priority", act(Action::Priority(-100), &[Target::Rest(5)])),
        ("prune", Command::Prune { below_ms: NOW_MS - 3_600_000 }),
    ]
}

fn job() -> Job {
    Job {
        seq: 2,
        task: 1,
        session: 77,
        changed_ms: NOW_MS + 6,
        ready_ms: NOW_MS + 1,
        leased_ms: NOW_MS + 2,
        started_ms: NOW_MS + 3,
        beat_ms: 0,
        class: ClassId(4),
        priority: -7,
        attempt: 2,
        last_attempt: 5,
        unmet: 0,
        ttl_ms: 60_000,
        request: 9,
        state: JobState::Running,
        reason: Reason::None,
        kill: 9,
        phase: 0,
        reserved: false,
    }
}

fn task() -> Task {
    let mut counts = [0; moso_proto::state::STATES];
    counts[JobState::Finished as usize] = 10;
    counts[JobState::Failed as usize] = 1;
    Task {
        seq: 1,
        jobs: 1_000,
        name: "reconstruction".into(),
        class: ClassId(4),
        priority: -7,
        created_ms: NOW_MS,
        ended_ms: 0,
        not_before_ms: NOW_MS + 1,
        expires_at_ms: NOW_MS + 2,
        retry: submit().retry,
        run_dependents: true,
        max_failed: 2,
        body_type: "command".into(),
        submission: submit().submission,
        array: true,
        rest: vec![(20, 500), (501, 1_000)],
        rest_state: JobState::Activated,
        rest_end: None,
        counts,
        deps: None,
    }
}

fn ended_task() -> EndedTask {
    let mut task = task();
    task.rest = Vec::new();
    task.rest_end = Some(RestEnd { state: JobState::Closed, code: 51, time_ms: NOW_MS + 9 });
    task.ended_ms = NOW_MS + 10;
    task.deps = Some(Box::new(dependencies()));
    EndedTask { task, key: class().into() }
}

fn dependencies() -> Dependencies {
    Dependencies::new(vec![(0, 1), (0, 2), (1, 2)])
}

fn shard_record() -> MetaRecord {
    MetaRecord { now_ms: NOW_MS, next_seq: 1_002, ended_jobs: 11, dedup_floor_ms: NOW_MS - 3_600_000 }
}

fn entry() -> Bytes {
    let mut builder = EntryBuilder::default();
    commands().iter().for_each(|(_, command)| builder.push_command(command));
    builder.finish(NOW_MS)
}

fn bytes_of(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    bytes
}

pub(super) fn all() -> Vec<Sample> {
    let commands = commands().into_iter().map(|(name, command)| Sample::new("command", name, command.to_bytes()));
    let mut all: Vec<Sample> = commands.collect();
    all.push(Sample::new("entry", "all", entry()));
    let ended = EndedJob {
        job: job(),
        key: class().into(),
        created_ms: NOW_MS,
        ended_ms: NOW_MS + 8,
        worker: "w".into(),
        report: report(),
    };
    let record = |name, encode: &dyn Fn(&mut Vec<u8>)| Sample::new("record", name, bytes_of(encode));
    all.extend([
        record("job", &|out| job().encode("node-1/slot-3", out)),
        record("task", &|out| task().encode(out)),
        record("class", &|out| class().encode(out)),
        record("dependencies", &|out| dependencies().encode(out)),
        record("shard", &|out| out.extend(shard_record().encode())),
        record("ended_job", &|out| ended.encode(out)),
        record("ended_task", &|out| ended_task().encode(out)),
        record("submission", &|out| *out = submission_record()),
    ]);
    all
}

/// A submission that is remembered: its id, and the record under it.
fn submission_record() -> Vec<u8> {
    let mut machine = Machine::new(ShardId(1));
    let mut effects = Effects::default();
    apply(&mut machine, &Command::Submit(Box::new(submit())), &mut effects);
    let (id, record) = effects.submissions[0];
    [id, record].concat()
}

fn apply(machine: &mut Machine, command: &Command, effects: &mut Effects) -> Vec<command::Reply> {
    let mut builder = EntryBuilder::default();
    builder.push_command(command);
    let mut replies = Vec::new();
    machine.apply(builder.finish(NOW_MS), effects, &mut replies).expect("a command that was just encoded");
    replies
}

type Read = Result<Value, moso_queue::Error>;

pub(super) fn read_command(bytes: &[u8]) -> Read {
    let command = Command::decode(Bytes::copy_from_slice(bytes))?;
    Ok(Value::new(&command, command.to_bytes()))
}

pub(super) fn read_entry(bytes: &[u8]) -> Read {
    let (time_ms, commands) = command::read_entry(Bytes::copy_from_slice(bytes))?;
    let commands: Vec<Command> = commands.into_iter().map(Command::decode).collect::<Result<_, _>>()?;
    let mut builder = EntryBuilder::default();
    commands.iter().for_each(|command| builder.push_command(command));
    Ok(Value::new(&(time_ms, commands), builder.finish(time_ms)))
}

pub(super) fn read_record(what: &str, bytes: &[u8]) -> Result<Value, String> {
    let known = match what {
        "submission" => return read_submission(bytes),
        "job" | "task" | "class" | "dependencies" | "shard" | "ended_job" | "ended_task" => {
            read_known(what, Bytes::copy_from_slice(bytes))
        }
        _ => return Err(unknown(what)),
    };
    known.map_err(|error| error.to_string())
}

fn read_known(what: &str, bytes: Bytes) -> Read {
    Ok(match what {
        "job" => {
            let (job, worker) = Job::decode(2, bytes)?;
            let again = bytes_of(|out| job.encode(&worker, out));
            Value::new(&(job, worker), again)
        }
        "task" => {
            let task = Task::decode(1, bytes)?;
            let again = bytes_of(|out| task.encode(out));
            Value::new(&task, again)
        }
        "class" => {
            let mut get = Get::new(bytes, "class record");
            let class = ClassKey::decode(&mut get)?;
            get.end()?;
            let again = bytes_of(|out| class.encode(out));
            Value::new(&class, again)
        }
        "dependencies" => {
            let dependencies = Dependencies::decode_body(bytes, 3)?;
            let again = bytes_of(|out| dependencies.encode(out));
            Value::new(&dependencies, again)
        }
        "shard" => {
            let record = MetaRecord::decode(bytes)?;
            Value::new(&record, record.encode())
        }
        "ended_job" => {
            let ended = EndedJob::decode(2, bytes)?;
            let again = bytes_of(|out| ended.encode(out));
            Value::new(&ended, again)
        }
        _ => {
            let ended = EndedTask::decode(1, bytes)?;
            let again = bytes_of(|out| ended.encode(out));
            Value::new(&ended, again)
        }
    })
}

/// What the same submission is answered with when it is repeated.
fn read_submission(bytes: &[u8]) -> Result<Value, String> {
    let (id, record) = bytes.split_at_checked(16).ok_or("too short")?;
    let record: [u8; 16] = record.try_into().map_err(|_| "wrong length")?;
    let mut machine = Machine::new(ShardId(1));
    machine.load_submission(id.try_into().map_err(|_| "wrong length")?, record);
    let replies = apply(&mut machine, &Command::Submit(Box::new(submit())), &mut Effects::default());
    Ok(Value::read_only(&replies))
}
