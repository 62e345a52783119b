//! The calls of module `job`.

use super::limits::BULK_MAX;
use super::reply::{Answer, Done, Refusal};
use super::spec::{self, BODY_TYPE, Body, Spec};
use super::{Call, Front, describe};
use crate::request::Fault;
use moso_proto::JobId;
use moso_proto::object::kind;
use moso_proto::v1;
use moso_queue::limits::{ATTEMPTS_MAX, SUBMISSION_JOBS_MAX};
use serde_json::{Value, json};

/// Kill code of a kill that names none: PanDA's for a job that was aborted. It asks the pilot, whatever the job is.
pub const ABORTED: u32 = 3;

/// What jobs of one submission have in common.
#[derive(Clone, PartialEq)]
struct Common {
    queue: String,
    owner: String,
    group: String,
    label: String,
    attempts: u32,
}

impl Common {
    fn of(call: &Call, spec: &Spec) -> Result<Common, Refusal> {
        let label = Some(spec::text(spec, "prodSourceLabel")).filter(|label| !label.is_empty());
        let named = ["prodUserName", "prodUserID"].iter().find_map(|name| spec.get(*name));
        Ok(Common {
            queue: spec::text(spec, "computingSite"),
            owner: call.owner(named)?,
            group: spec::text(spec, "workingGroup"),
            label: label.unwrap_or_else(|| "user".to_owned()),
            attempts: spec::count(spec, "maxAttempt").clamp(1, ATTEMPTS_MAX),
        })
    }

    fn task(&self, name: String) -> v1::TaskSpec {
        v1::TaskSpec {
            name,
            queue: self.queue.clone(),
            owner: self.owner.clone(),
            group: self.group.clone(),
            label: self.label.clone(),
            priority: 1_000,
            retry: Some(v1::RetryPolicy { max_attempts: self.attempts, ..v1::RetryPolicy::default() }),
            body_type: BODY_TYPE.into(),
            ..v1::TaskSpec::default()
        }
    }
}

/// The job, with what a pilot is told of it and its client left out.
fn job((common, spec): (&Common, &Spec)) -> v1::JobSpec {
    let cores = spec::count(spec, "coreCount").max(1);
    let memory = spec::count(spec, "minRamCount");
    let kind = Some(spec::text(spec, "resource_type")).filter(|kind| !kind.is_empty());
    let kind = kind.unwrap_or_else(|| spec::resource_type(cores, memory).to_owned());
    let mut told = spec.clone();
    for (name, value) in [("prodUserID", &common.owner), ("prodUserName", &common.owner), ("resource_type", &kind)] {
        told.entry(name).or_insert_with(|| value.clone().into());
    }
    let max = i64::from(moso_queue::limits::PRIORITY_MAX);
    let priority = spec.get("currentPriority").map(|_| spec::number(spec, "currentPriority").clamp(-max, max) as i32);
    v1::JobSpec {
        body: Body::Job(told).write().into(),
        priority,
        needs: Some(v1::Needs {
            cores,
            memory_mib: memory,
            disk_mib: spec::count(spec, "maxDiskCount"),
            wall_time_s: spec::count(spec, "maxWalltime"),
            resource_type: kind,
            tags: Vec::new(),
        }),
        depends_on: Vec::new(),
    }
}

/// The specifications of a submission: a JSON text of lists, or of objects.
fn specs(call: &Call) -> Result<Vec<Spec>, Refusal> {
    let list: Vec<Value> = match call.args.get("jobs") {
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|error| Refusal::new(format!("Type error: 'jobs' must be JSON of a list: {error}")))?,
        _ => call.args.list("jobs")?,
    };
    if list.is_empty() || list.len() > SUBMISSION_JOBS_MAX {
        return Err(Refusal::new(format!("a call submits 1 to {SUBMISSION_JOBS_MAX} jobs, not {}", list.len())));
    }
    let read = |(at, job): (usize, &Value)| {
        let spec = match job {
            Value::Array(list) => spec::from_list(list),
            Value::Object(map) => Some(map.clone()),
            _ => None,
        };
        spec.ok_or_else(|| Refusal::new(format!("job {at} is no specification: a list of its fields and its files")))
    };
    list.iter().enumerate().map(read).collect()
}

/// `job/submit`: jobs of the same queue, owner, group, label and attempts that follow each other make one task of moso.
pub async fn submit(front: &Front, call: &Call) -> Answer {
    let specs = specs(call)?;
    let common: Vec<Common> = specs.iter().map(|spec| Common::of(call, spec)).collect::<Result<_, _>>()?;
    for one in &common {
        if !call.caller.may_submit(&one.owner, &one.group) {
            return Err(Refusal::new(format!("{} may not submit for the group {:?}", one.owner, one.group)));
        }
    }
    let queues: std::collections::BTreeSet<&str> = common.iter().map(|one| one.queue.as_str()).collect();
    let named: Vec<_> = queues.into_iter().map(|queue| (kind::QUEUE, queue)).collect();
    // All are looked at before the first is submitted.
    front.router.meta_with(&named).await?;
    let mut out = Vec::with_capacity(specs.len());
    let mut start = 0;
    while start < specs.len() {
        let end = start + common[start..].iter().take_while(|one| **one == common[start]).count();
        let name = spec::text(&specs[start], "jobName");
        let task = common[start].task(moso_queue::codec::cut(&name, 256).to_owned());
        let request = v1::SubmitRequest {
            submission_id: front.submission_id().to_vec().into(),
            task: Some(task),
            jobs: common[start..end].iter().zip(&specs[start..end]).map(job).collect(),
            array: 0,
        };
        match front.jobs.submit_request(&call.caller, request).await {
            Ok(reply) => out.extend(specs[start..end].iter().zip(reply.first_job_id..).map(submitted)),
            Err(fault) if start == 0 => return Err(fault.into()),
            // What stands before is submitted: the client is told which.
            Err(fault) => {
                tracing::warn!(fault = %fault.message, "a part of a submission of jobs was refused");
                out.extend((start..specs.len()).map(|_| Value::Null));
                return Ok(Done { message: fault.message, data: out.into() });
            }
        }
        start = end;
    }
    Ok(Done::with(out))
}

fn submitted((spec, id): (&Spec, u64)) -> Value {
    let set = if spec.contains_key("jobsetID") { spec::number(spec, "jobsetID") } else { -1 };
    json!([id, spec::number(spec, "jobDefinitionID"), { "jobsetID": set }])
}

/// `job/get_description` and `get_description_incl_archive`.
pub async fn get_description(front: &Front, call: &Call) -> Answer {
    let ids = call.args.ids("job_ids", BULK_MAX)?;
    let rows = futures::future::join_all(ids.into_iter().map(|id| front.describe(id, &call.base))).await;
    Ok(Done::with(rows.into_iter().collect::<Result<Vec<_>, Fault>>()?))
}

/// `job/get_status`.
pub async fn get_status(front: &Front, call: &Call) -> Answer {
    let mut rows = Vec::new();
    for id in call.args.ids("job_ids", BULK_MAX)? {
        rows.push(match front.look(JobId(id)).await? {
            Some(view) => {
                let command = describe::is_to_be_killed(&view).then_some("tobekilled");
                json!({ "status": view.state, "command": command })
            }
            None => json!({ "status": "not found", "command": null }),
        });
    }
    Ok(Done::with(rows))
}

/// `job/kill`: whether each is, or was before, to be killed.
pub async fn kill(front: &Front, call: &Call) -> Answer {
    let ids = call.args.ids("job_ids", BULK_MAX)?;
    let code = call.args.loose("code").and_then(|code| u32::try_from(code).ok()).unwrap_or(ABORTED);
    if code > 255 {
        return Err(Refusal::new(format!("there is no kill code {code}")));
    }
    let mut out = Vec::with_capacity(ids.len());
    for id in ids {
        out.push(kill_one(front, call, id, code).await?);
    }
    Ok(Done::with(out))
}

/// Kills a job that the caller may steer; whether there is one.
pub async fn kill_one(front: &Front, call: &Call, id: u64, code: u32) -> Result<bool, Fault> {
    let Some(view) = front.look(JobId(id)).await? else { return Ok(false) };
    if !call.caller.may_steer(&view.owner, &view.group) {
        return Ok(false);
    }
    let request = v1::ActRequest {
        selector: Some(v1::Selector { jobs: vec![id], ..v1::Selector::default() }),
        action: Some(v1::act_request::Action::Kill(v1::Kill { code })),
        dry_run: false,
        actor: moso_queue::codec::cut(&call.caller.user, 256).to_owned(),
    };
    front.jobs.act_request(&call.caller, request).await?;
    Ok(true)
}

/// `job/reassign`: PanDA's kill with code 51.
pub async fn reassign(front: &Front, call: &Call) -> Answer {
    for id in call.args.ids("job_ids", BULK_MAX)? {
        kill_one(front, call, id, 51).await?;
    }
    Ok(Done::default())
}
