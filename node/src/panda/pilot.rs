//! A pilot's calls: jobs, updates, its worker.
//!
//! A pilot has no stream, so it has no session of its own: each request for jobs makes one, and what comes back with an
//! update, job and attempt, is all that any node needs. The leader of the job's shard knows whose lease it is; the attempt is
//! the fence, as for every worker.

use super::args::Args;
use super::caller::clean_name;
use super::keys::{self, Leased};
use super::limits::{ACQUIRE_JOBS_MAX, BULK_MAX, LEADER_TIME};
use super::reply::{Answer, Done, Pairs, Refusal, envelope, status};
use super::spec::{BODY_TYPE, Body};
use super::{Call, Front, report};
use crate::directory::Counters;
use crate::dispatch::{Ask, Cancel, Dispatcher};
use crate::identity::{Principal, Queues};
use crate::request::Fault;
use crate::router::HeartbeatCall;
use moso_proto::v1::{JobView, Lease};
use moso_proto::{Code, JobId, JobState, TaskId};
use moso_queue::command::{JobResult, Outcome, Reply, ResultStatus};
use moso_queue::filter::WorkerOffer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// PanDA's word for "there is nothing".
pub const NO_JOBS: &str = "No jobs in PanDA";
/// The states a pilot may report.
const STATES: [&str; 6] = ["starting", "running", "holding", "transferring", "finished", "failed"];
/// Wait before a shard without leader is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// A pilot's request for jobs.
pub struct Wanted {
    /// Queue.
    pub site: String,
    /// Jobs.
    pub jobs: i64,
    /// What it has.
    pub offer: WorkerOffer,
    /// Only jobs of this task.
    pub task: Option<u64>,
    /// Its name for people.
    pub worker: String,
}

impl Wanted {
    /// By the arguments of the present API, or of the old call under its names.
    pub fn read(args: &Args) -> Self {
        let size = |name: &str| args.loose(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let first =
            |names: [&str; 2]| names.map(|name| args.loose_name(name)).into_iter().find(|text| !text.is_empty());
        let memory = [size("memory"), size("mem")].into_iter().max().unwrap_or(0);
        let label = Some(args.loose_name("prod_source_label")).filter(|label| !label.is_empty());
        let harvester = first(["harvester_id", "scheduler_id"]).unwrap_or_default();
        let worker = args.loose_name("worker_id");
        let mut name = args.loose_name("node");
        if !harvester.is_empty() {
            name = format!("{name} {harvester}");
        }
        if !worker.is_empty() {
            name = format!("{name}/{worker}");
        }
        Wanted {
            site: args.loose_name("site_name"),
            jobs: args.loose("n_jobs").unwrap_or(1).clamp(1, ACQUIRE_JOBS_MAX),
            offer: WorkerOffer {
                memory_mib: memory,
                disk_mib: size("disk_space"),
                remaining_s: size("remaining_time"),
                resource_type: args.loose_name("resource_type").into(),
                label: label.unwrap_or_else(|| "managed".to_owned()).into(),
                owner: clean_name(&args.loose_text("prod_user_id")).unwrap_or_default().into(),
                ..WorkerOffer::default()
            },
            task: args.loose("task_id").and_then(|id| u64::try_from(id).ok()).filter(|&id| id > 0),
            worker: name,
        }
    }
}

impl Front {
    /// Leases jobs for a pilot; empty: there are none.
    pub async fn acquire(&self, call: &Call, wanted: Wanted) -> Result<Vec<Pairs>, Fault> {
        let meta = self.meta();
        let Some(queue) = meta.queue(&wanted.site) else { return Ok(Vec::new()) };
        if !call.caller.may_work(&wanted.site) {
            return Err(Fault::new(Code::Forbidden, "no production/pilot role in VOMS FQANs or non pilot owner"));
        }
        // Most pilots find an empty queue, most of the time.
        if wanted.task.is_none() && !self.dispatcher.has_work(queue.id) {
            return Ok(Vec::new());
        }
        let mut ask = Ask {
            queues: vec![queue.id],
            max: wanted.jobs as usize,
            offer: wanted.offer,
            task: wanted.task.map(TaskId),
            session: rand::random_range(1..=u64::MAX),
            request: 1,
            worker: wanted.worker.as_str().into(),
            wait: Duration::ZERO,
        };
        // One request leases from one shard: more jobs may be in others.
        let mut leases: Vec<Lease> = Vec::new();
        while leases.len() < wanted.jobs as usize {
            ask.max = wanted.jobs as usize - leases.len();
            match lease(self.dispatcher.clone(), ask.clone()).await {
                Ok(more) if more.is_empty() => break,
                Ok(more) => leases.extend(more),
                Err(fault) if leases.is_empty() => return Err(fault),
                Err(_) => break,
            }
            ask.request += 1;
        }
        let endpoint = self.endpoint(&wanted.site);
        let mut jobs = Vec::with_capacity(leases.len());
        for lease in &leases {
            let sent = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
            match (lease.body_type == BODY_TYPE).then(|| Body::read(&lease.body)).flatten() {
                Some(body) => {
                    let spec = body.spec(lease.task_id, lease.index, lease.attempt, &call.base);
                    let (job, attempt) = (lease.job_id, lease.attempt);
                    jobs.push(keys::of(&Leased { job, attempt, sent, spec: &spec, endpoint: &endpoint }));
                }
                None => self.refuse_body(lease).await,
            }
        }
        Ok(jobs)
    }

    /// A job that no pilot can run: submitted for other workers to a queue of pilots. Said once and for all.
    async fn refuse_body(&self, lease: &Lease) {
        let text = format!("a pilot cannot run a job with a body of type {:?}", lease.body_type);
        let report = moso_queue::job::Report {
            errors: vec![("jobDispatcher".into(), 102, text.into())],
            ..moso_queue::job::Report::default()
        };
        let id = JobId(lease.job_id);
        let (outcome, attempt) = (Outcome::FailedForGood, lease.attempt);
        let result = JobResult { seq: id.seq(), attempt, outcome, report: Some(Box::new(report)) };
        if let Some(shard) = id.shard() {
            let _ = self.router.result(shard.0, result).await;
        }
    }

    /// Takes an update; the command for the pilot, `NULL` if there is none.
    pub async fn update(&self, caller: &Principal, args: &Args) -> Result<String, Fault> {
        let state = args.loose_text("job_status");
        let id = JobId(args.loose("job_id").and_then(|id| u64::try_from(id).ok()).unwrap_or(0));
        // Without an attempt it is nobody's: a pilot that was told none says 0.
        let attempt = args.loose("attempt_nr").and_then(|attempt| u32::try_from(attempt).ok()).unwrap_or(0);
        let Some(shard) = id.shard().filter(|shard| self.router.directory.shard(shard.0).is_some()) else {
            return Ok("tobekilled".into());
        };
        if !self.may_report(caller, id).await? {
            return Ok("tobekilled".into());
        }
        if self.meta().debug_command(id.0).is_some() {
            self.keep_debug_output(id.0, args).await;
        }
        match state.as_str() {
            "finished" => self.end(shard.0, id, attempt, Outcome::Finished, args).await,
            "failed" => {
                // What was to be killed ends cancelled, and its pilot is told so once more.
                let killed = self.beat(shard.0, id, attempt, 0).await? == "tobekilled";
                let again = killed || report::may_retry(args) || self.is_of_task(id).await;
                let outcome = if again { Outcome::Failed } else { Outcome::FailedForGood };
                let command = self.end(shard.0, id, attempt, outcome, args).await?;
                Ok(if killed && command == "NULL" { "tobekilled".into() } else { command })
            }
            "starting" => self.beat(shard.0, id, attempt, 1).await,
            // What travels or is held is still the pilot's: it goes on telling.
            _ => self.beat(shard.0, id, attempt, 2).await,
        }
    }

    async fn beat(&self, shard: u16, id: JobId, attempt: u32, phase: u8) -> Result<String, Fault> {
        let deadline = Instant::now() + LEADER_TIME;
        loop {
            let call = HeartbeatCall { session: 0, beats: vec![(id.seq(), attempt, phase)], settled: None };
            match self.router.heartbeat(shard, call).await {
                Some((lost, kill, _)) if lost.is_empty() => {
                    let debug = self.meta().debug_command(id.0).map(str::to_owned);
                    let command = if kill.is_empty() { debug } else { Some("tobekilled".to_owned()) };
                    return Ok(command.unwrap_or_else(|| "NULL".to_owned()));
                }
                // A leader that is new may not have applied the lease yet: only a confirmed read says that it is gone.
                Some(_) => match self.holds(id, attempt).await? {
                    false => return Ok("tobekilled".into()),
                    true if Instant::now() > deadline => return Err(Fault::not_leader(shard)),
                    true => {}
                },
                None if Instant::now() > deadline => return Err(Fault::not_leader(shard)),
                None => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether the job is of a queue whose jobs the caller may take: a pilot of one site does not report another one's.
    async fn may_report(&self, caller: &Principal, id: JobId) -> Result<bool, Fault> {
        if caller.operator || caller.worker == Queues::All {
            return Ok(true);
        }
        let may = self.look(id).await?.is_none_or(|job| caller.may_work(&job.queue));
        if !may {
            self.guard.rejections().count("queue of a job", &caller.user);
        }
        Ok(may)
    }

    /// Whether the attempt is leased, by a confirmed read.
    async fn holds(&self, id: JobId, attempt: u32) -> Result<bool, Fault> {
        Ok(self.look(id).await?.is_some_and(|job| job.attempt == attempt && state_of(&job).is_leased()))
    }

    /// The job, by a confirmed read.
    pub async fn look(&self, id: JobId) -> Result<Option<JobView>, Fault> {
        match self.jobs.job(id.0, false).await {
            Ok(job) => Ok(Some(job)),
            Err(fault) if fault.code == Code::NotFound => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn end(&self, shard: u16, id: JobId, attempt: u32, outcome: Outcome, args: &Args) -> Result<String, Fault> {
        let report = Some(Box::new(report::report(args)));
        let result = JobResult { seq: id.seq(), attempt, outcome, report };
        let deadline = Instant::now() + LEADER_TIME;
        loop {
            match self.router.result(shard, result.clone()).await? {
                Reply::Results(statuses) if statuses == [ResultStatus::Accepted] => {
                    Counters::add(&self.router.directory.counters.accepted, 1);
                    return Ok(self.meta().debug_command(id.0).unwrap_or("NULL").to_owned());
                }
                Reply::Results(_) => Counters::add(&self.router.directory.counters.refused, 1),
                other => {
                    return Err(Fault::new(Code::Internal, format!("a result was answered with {other:?}")));
                }
            }
            // Said before, or not this attempt's to say, or said to a leader that does not know the lease yet.
            let job = self.look(id).await?;
            match job.filter(|job| job.attempt == attempt && attempt > 0) {
                Some(job) if state_of(&job).is_leased() && Instant::now() < deadline => {}
                Some(job) if state_of(&job).is_leased() => return Err(Fault::not_leader(shard)),
                Some(job) if matches!(state_of(&job), JobState::Finished | JobState::Failed | JobState::Cancelled) => {
                    return Ok("alreadydone".into());
                }
                _ => return Ok("tobekilled".into()),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether a client's task made the job: then failures are charged to the task's attempts.
    async fn is_of_task(&self, id: JobId) -> bool {
        let job = self.jobs.job(id.0, true).await.ok();
        job.and_then(|job| Body::read(&job.body)).is_some_and(|body| matches!(body, Body::Task(_)))
    }
}

/// The state by its name; what no program of this version writes counts as closed.
pub fn state_of(job: &JobView) -> JobState {
    job.state.parse().unwrap_or(JobState::Closed)
}

/// Leases in a task of its own: this call's future is dropped when the pilot hangs up, and what was leased is given back.
async fn lease(dispatcher: Arc<Dispatcher>, ask: Ask) -> Result<Vec<Lease>, Fault> {
    let (send, answer) = oneshot::channel();
    tokio::spawn(async move {
        let session = ask.session;
        let leased = dispatcher.lease(&ask, &Cancel::default()).await;
        if let Err(Ok(leased)) = send.send(leased) {
            dispatcher.undelivered(session, &leased.leases).await;
        }
    });
    let gone = || Fault::new(Code::Internal, "the request for jobs was given up");
    Ok(answer.await.map_err(|_| gone())??.leases)
}

/// `pilot/acquire_jobs`.
pub async fn acquire_jobs(front: &Front, call: &Call) -> Answer {
    call.args.text("site_name")?;
    let jobs = front.acquire(call, Wanted::read(&call.args)).await?;
    if jobs.is_empty() {
        return Err(Refusal::new(NO_JOBS));
    }
    let jobs: Vec<Value> = jobs.into_iter().map(Value::from).collect();
    Ok(Done::with(json!({ "StatusCode": status::OK, "jobs": jobs })))
}

/// `pilot/update_job`.
pub async fn update_job(front: &Front, caller: &Principal, args: &Args) -> Answer {
    args.id("job_id")?;
    let state = args.text("job_status")?;
    args.opt_int("attempt_nr")?;
    if !STATES.contains(&state) {
        let data = json!({ "StatusCode": 50 });
        return Err(Refusal {
            data,
            ..Refusal::new(format!("Invalid job status: {}", moso_queue::codec::cut(state, 80)))
        });
    }
    let command = front.update(caller, args).await?;
    Ok(Done::with(json!({ "StatusCode": status::OK, "command": command })))
}

/// `pilot/update_jobs_bulk`: one envelope for each.
pub async fn update_jobs_bulk(front: &Front, call: &Call) -> Answer {
    let list = call.args.list("job_list")?;
    if list.len() > BULK_MAX {
        return Err(Refusal::new(format!("Argument error: 'job_list' has {} items, at most {BULK_MAX}", list.len())));
    }
    let each = list.into_iter().map(|one| async move {
        let answer = match one {
            Value::Object(map) => update_job(front, &call.caller, &Args { map, texts: false }).await,
            _ => Err(Refusal::new("Type error: 'job_list' must be of type list of dict.")),
        };
        let mut value = envelope(answer);
        value.as_object_mut().expect("an envelope is an object").remove("command");
        value
    });
    let answers = futures::future::join_all(each).await;
    Ok(Done::with(answers))
}

/// `pilot/get_job_status`.
pub async fn get_job_status(front: &Front, call: &Call) -> Answer {
    let mut out = Vec::new();
    for id in call.args.ids("job_ids", BULK_MAX)? {
        let job = front.look(JobId(id)).await?;
        let (state, attempt) = job.map_or(("not found".to_owned(), 0), |job| (job.state, job.attempt));
        out.push(json!({ "job_id": id, "status": state, "attempt_number": attempt }));
    }
    Ok(Done::with(out))
}
