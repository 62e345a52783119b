//! The words of the golden scripts, and how results are printed.
//!
//! Times are counted from the script's start: `10s`, `1500ms`, `2m`, `1h`. Jobs and tasks go by their sequence number.
//! Where a script does not say session, attempt, state or time, the job's own are taken.

use crate::scripts::START_MS;
use moso_proto::JobState;
use moso_queue::command::{self, Action, JobResult, Outcome, Submit, SubmitJob, Target};
use moso_queue::job::Report;
use moso_queue::task::RetryPolicy;
use moso_queue::{ClassKey, Machine};
use std::collections::BTreeMap;
use std::error::Error;
use std::str::FromStr;

/// A length of time, ms.
#[derive(Clone, Copy, Default)]
pub struct Span(u64);

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(format!("{text:?} is no time: 10s, 500ms, 2m, 1h")),
        };
        Ok(Span(number.parse::<u64>().map_err(|e| e.to_string())? * unit))
    }
}

/// A time, Unix ms.
#[derive(Clone, Copy)]
pub struct Time(pub u64);

impl FromStr for Time {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<Span>().map(|span| Time(START_MS + span.0))
    }
}

/// A list: `1,2,3`.
#[derive(Clone, Default)]
pub struct List(Vec<String>);

impl FromStr for List {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(List(text.split(',').map(str::to_owned).collect()))
    }
}

/// A line of a script.
#[derive(goldenscript::Command)]
pub enum Command {
    /// Sets the clock for what follows: at 10s
    At { time: Time },
    /// Prints all tables.
    Show,
    /// Makes so many submissions of one job, which is killed at once.
    Flood { count: u64 },
    /// submit jobs=3 depends="1<0,2<1" (job 1 waits for job 0, ...); submit array=10 attempts=5
    Submit(#[arg(key, many, optional)] BTreeMap<String, String>),
    /// lease 2 3 session=7 ttl=60s worker=w7
    Lease {
        jobs: Vec<u64>,
        #[arg(key, optional)]
        session: Option<u64>,
        #[arg(key, optional)]
        ttl: Option<Span>,
        #[arg(key, optional)]
        worker: Option<String>,
        #[arg(key, optional)]
        request: Option<u32>,
    },
    /// unheld 2 3 session=7 attempt=1
    Unheld {
        jobs: Vec<u64>,
        #[arg(key, optional)]
        session: Option<u64>,
        #[arg(key, optional)]
        attempt: Option<u32>,
    },
    /// result finished 2 3; also failed, released, cancelled, failed_for_good
    Result {
        outcome: String,
        jobs: Vec<u64>,
        #[arg(key, optional)]
        attempt: Option<u32>,
        #[arg(key, optional)]
        session: Option<u64>,
        #[arg(key, optional)]
        exit: i32,
        #[arg(key, optional)]
        error: Option<String>,
    },
    /// expire 2 attempt=1
    Expire {
        jobs: Vec<u64>,
        #[arg(key, optional)]
        attempt: Option<u32>,
    },
    /// phase running 2; also starting
    Phase {
        phase: String,
        jobs: Vec<u64>,
        #[arg(key, optional)]
        attempt: Option<u32>,
    },
    /// wake 1 2: jobs, or tasks by their own number
    Wake { jobs: Vec<u64> },
    /// timeout 2 code=51; timeout 2 fail=true code=102 state=sent since=5s
    Timeout {
        jobs: Vec<u64>,
        #[arg(key)]
        code: u8,
        #[arg(key, optional)]
        fail: bool,
        #[arg(key, optional)]
        state: Option<JobState>,
        #[arg(key, optional)]
        since: Option<Time>,
    },
    /// act kill 2 3 code=9; act hold rest=1; act release 2; act retry 2 attempts=2; act priority 2 to=7
    Act {
        action: String,
        #[arg(optional)]
        jobs: Vec<u64>,
        #[arg(key, optional)]
        rest: Option<u64>,
        #[arg(key, optional)]
        code: u8,
        #[arg(key, optional)]
        attempts: u32,
        #[arg(key, optional)]
        to: i32,
        #[arg(key, optional)]
        reason: String,
        #[arg(key, optional)]
        actor: Option<String>,
    },
    /// prune below=10s
    Prune {
        #[arg(key)]
        below: Time,
    },
}

/// A submission id that was picked at this time.
pub fn submission(picked_ms: u64, number: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[..6].copy_from_slice(&picked_ms.to_be_bytes()[2..]);
    id[8..].copy_from_slice(&number.to_be_bytes());
    id
}

/// Fields of a line, taken one by one.
struct Fields(BTreeMap<String, String>);

impl Fields {
    fn take<T: FromStr<Err: std::fmt::Display>>(&mut self, name: &str, default: T) -> Result<T, String> {
        match self.0.remove(name) {
            Some(text) => text.parse().map_err(|error| format!("{name}={text}: {error}")),
            None => Ok(default),
        }
    }

    fn end(self) -> Result<(), String> {
        match self.0.into_keys().next() {
            Some(name) => Err(format!("submit has no field {name}")),
            None => Ok(()),
        }
    }
}

impl Command {
    /// The replicated command that a line stands for. `number` is the submission's, if it names none.
    pub fn build(&self, machine: &Machine, now_ms: u64, number: u64) -> Result<command::Command, Box<dyn Error>> {
        Ok(match self {
            Command::Submit(fields) => {
                command::Command::Submit(Box::new(submit(Fields(fields.clone()), now_ms, number)?))
            }
            Command::Lease { jobs, session, ttl, worker, request } => {
                let session = session.unwrap_or(7);
                command::Command::Lease {
                    session,
                    worker: worker.clone().unwrap_or_else(|| format!("w{session}")).into(),
                    ttl_ms: ttl.map_or(60_000, |span| span.0 as u32),
                    request: request.unwrap_or(1),
                    jobs: jobs.clone(),
                }
            }
            Command::Result { .. } => self.results(machine)?,
            Command::Unheld { jobs, session, attempt } => {
                let jobs = jobs.iter().map(|&seq| (seq, attempt_of(machine, seq, *attempt))).collect();
                command::Command::Unheld { session: session.unwrap_or(7), jobs }
            }
            Command::Expire { jobs, attempt } => {
                let jobs = jobs.iter().map(|&seq| (seq, attempt_of(machine, seq, *attempt))).collect();
                command::Command::Expire { jobs }
            }
            Command::Phase { phase, jobs, attempt } => {
                let phase = match phase.as_str() {
                    "starting" => 1,
                    "running" => 2,
                    other => return Err(format!("no phase {other}").into()),
                };
                let jobs = jobs.iter().map(|&seq| (seq, attempt_of(machine, seq, *attempt), phase)).collect();
                command::Command::Phase { jobs }
            }
            Command::Wake { jobs } => command::Command::Wake { jobs: jobs.clone() },
            Command::Timeout { jobs, code, fail, state, since } => {
                let meant = |&seq: &u64| {
                    let job = machine.job(seq);
                    let state = state.or(job.map(|j| j.state)).unwrap_or(JobState::Activated);
                    (seq, state, since.map(|t| t.0).or(job.map(|j| j.changed_ms)).unwrap_or(0))
                };
                command::Command::TimeOut { jobs: jobs.iter().map(meant).collect(), fail: *fail, code: *code }
            }
            Command::Act { .. } => self.act()?,
            Command::Prune { below } => command::Command::Prune { below_ms: below.0 },
            Command::At { .. } | Command::Show | Command::Flood { .. } => {
                return Err("not a command of the machine".into());
            }
        })
    }

    fn results(&self, machine: &Machine) -> Result<command::Command, Box<dyn Error>> {
        let Command::Result { outcome, jobs, attempt, session, exit, error } = self else { unreachable!() };
        let outcome = match outcome.as_str() {
            "finished" => Outcome::Finished,
            "failed" => Outcome::Failed,
            "released" => Outcome::Released,
            "cancelled" => Outcome::Cancelled,
            "failed_for_good" => Outcome::FailedForGood,
            other => return Err(format!("no outcome {other}").into()),
        };
        let held_by = jobs.first().and_then(|&seq| machine.job(seq)).map_or(7, |job| job.session);
        let report = Report {
            exit_code: *exit,
            errors: error.iter().map(|text| ("exe".into(), *exit, text.as_str().into())).collect(),
            ..Report::default()
        };
        let report = (report != Report::default()).then(|| Box::new(report));
        let results = jobs.iter().map(|&seq| JobResult {
            seq,
            attempt: attempt_of(machine, seq, *attempt),
            outcome,
            report: report.clone(),
        });
        Ok(command::Command::Results { session: session.unwrap_or(held_by), results: results.collect() })
    }

    fn act(&self) -> Result<command::Command, Box<dyn Error>> {
        let Command::Act { action, jobs, rest, code, attempts, to, reason, actor } = self else { unreachable!() };
        let action = match action.as_str() {
            "kill" => Action::Kill(*code),
            "hold" => Action::Hold(reason.as_str().into()),
            "release" => Action::Release,
            "retry" => Action::Retry(*attempts),
            "priority" => Action::Priority(*to),
            other => return Err(format!("no action {other}").into()),
        };
        let targets = jobs.iter().map(|&seq| Target::Job(seq)).chain(rest.map(Target::Rest)).collect();
        Ok(command::Command::Act { action, targets, actor: actor.as_deref().unwrap_or("ann").into() })
    }
}

fn attempt_of(machine: &Machine, seq: u64, said: Option<u32>) -> u32 {
    said.or(machine.job(seq).map(|job| job.attempt)).unwrap_or(1)
}

fn submit(mut fields: Fields, now_ms: u64, number: u64) -> Result<Submit, Box<dyn Error>> {
    let base = RetryPolicy::default();
    let mut submit = Submit {
        submission: submission(fields.take("picked", Time(now_ms))?.0, fields.take("id", number)?),
        content: fields.take("content", 0)?,
        name: fields.take("name", String::new())?.into(),
        class: ClassKey {
            queue: fields.take("queue", 1)?,
            owner: fields.take("owner", "ann".to_owned())?.into(),
            label: fields.take("label", "managed".to_owned())?.into(),
            cores: 1,
            ..ClassKey::default()
        },
        priority: fields.take("priority", 0)?,
        retry: RetryPolicy {
            max_attempts: fields.take("attempts", base.max_attempts)?,
            backoff_initial_ms: fields.take("backoff", Span(0))?.0 as u32,
            backoff_factor_milli: fields.take("factor", base.backoff_factor_milli)?,
            backoff_ceiling_ms: fields.take("ceiling", Span(3_600_000))?.0 as u32,
        },
        not_before_ms: fields.take("not_before", Time(0))?.0,
        expires_at_ms: fields.take("expires", Time(0))?.0,
        run_dependents: fields.take("run_dependents", false)?,
        max_failed: fields.take("max_failed", 0)?,
        array: fields.take("array", 0)?,
        jobs: vec![SubmitJob::default(); fields.take("jobs", 0)?],
        ..Submit::default()
    };
    for edge in fields.take("depends", List::default())?.0 {
        let (child, parent) = edge.split_once('<').ok_or("depends=child<parent,...")?;
        let child = submit.jobs.get_mut(child.parse::<usize>()?).ok_or("no such job")?;
        child.depends_on.push(parent.parse()?);
    }
    for (job, priority) in submit.jobs.iter_mut().zip(fields.take("priorities", List::default())?.0) {
        job.priority = Some(priority.parse()?);
    }
    for (job, cores) in submit.jobs.iter_mut().zip(fields.take("cores", List::default())?.0) {
        job.class = Some(Box::new(ClassKey { cores: cores.parse()?, ..submit.class.clone() }));
    }
    fields.end()?;
    Ok(submit)
}
