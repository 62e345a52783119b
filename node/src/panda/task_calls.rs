//! The calls of module `task`.

use super::limits::TASK_BYTES_MAX;
use super::reply::{Answer, Done, Refusal};
use super::spec::{self, BODY_TYPE, Body, TaskBody};
use super::tasks::{ClientTask, JOBS_MAX, TaskPart, known};
use super::{Call, Front, describe, generate, time};
use crate::identity::Principal;
use crate::request::Fault;
use moso_proto::v1;
use moso_queue::meta::QueueEntry;
use serde_json::{Map, Value, json};

/// PanDA's code: another state than the command is for.
const WRONG_STATE: i64 = 4;
/// PanDA's code: the caller may not.
const NO_PERMISSION: i64 = 3;
/// PanDA's code: taken with new parameters.
const WITH_PARAMETERS: i64 = 3;
/// Rows of a list of tasks.
const ROWS_MAX: i64 = 2_000;
/// Parameters by which a task was split into jobs: they stay as they are.
const SPLIT: [&str; 9] = [
    "nFilesPerJob",
    "nFiles",
    "nMaxFilesPerJob",
    "nEvents",
    "nEventsPerJob",
    "nJobs",
    "pfnList",
    "jobParameters",
    "noInput",
];

fn refused(code: i64, message: impl Into<String>) -> Refusal {
    Refusal { data: code.into(), ..Refusal::new(message) }
}

/// A queue's name given as a text or a list.
fn named(params: &generate::Params, key: &str) -> Vec<String> {
    match params.get(key) {
        Some(Value::String(text)) => {
            text.split(',').map(|name| name.trim().to_owned()).filter(|s| !s.is_empty()).collect()
        }
        Some(Value::Array(list)) => list.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

/// The queue of a task: the one that it names, else any that takes it.
fn choose_queue(front: &Front, params: &generate::Params) -> Result<String, Refusal> {
    let meta = front.meta();
    let wanted = [named(params, "site"), named(params, "includedSite")].concat();
    let now_ms = front.now_ms();
    if !wanted.is_empty() {
        let found = wanted.iter().find(|name| meta.queue(name).is_some_and(|queue| queue.takes_jobs(now_ms)));
        return found.cloned().ok_or_else(|| Refusal::new(format!("no queue {} takes jobs", wanted.join(", "))));
    }
    let excluded = named(params, "excludedSite");
    let (memory, wall) = (generate::memory_mib(params), spec::count(params, "walltime"));
    let over = |have: u32, need: u32| have > 0 && need > have;
    let fits = |queue: &&QueueEntry| {
        queue.takes_jobs(now_ms)
            && !excluded.contains(&queue.name)
            && !over(queue.queue.max_memory_mib, memory)
            && !over(queue.queue.max_wall_time_s, wall)
    };
    let waiting: std::collections::BTreeMap<u32, usize> =
        front.router.directory.waiting.waiting().into_iter().collect();
    let most = meta.queues().filter(fits).max_by_key(|queue| waiting.get(&queue.id).copied().unwrap_or(0));
    most.map(|queue| queue.name.clone()).ok_or_else(|| Refusal::new("no queue takes the task: name one with site"))
}

/// Submits jobs of a task as an array.
async fn submit_part(
    front: &Front,
    who: &Principal,
    name: &str,
    group: &str,
    body: &TaskBody,
    jobs: u32,
) -> Result<v1::SubmitReply, Refusal> {
    let params = &body.params;
    let once = params.get("disableAutoRetry").is_some_and(|value| *value != false && *value != 0);
    let failures = if once { 1 } else { spec::count(params, "maxFailure").max(1) };
    let spec = v1::TaskSpec {
        name: moso_queue::codec::cut(name, 256).to_owned(),
        queue: body.site.clone(),
        owner: body.user.clone(),
        group: group.to_owned(),
        label: generate::label(params),
        priority: generate::priority(params),
        needs: Some(v1::Needs {
            cores: generate::cores(params),
            memory_mib: generate::memory_mib(params),
            wall_time_s: spec::count(params, "walltime"),
            resource_type: spec::resource_type(generate::cores(params), generate::memory_mib(params)).into(),
            ..v1::Needs::default()
        }),
        retry: Some(v1::RetryPolicy {
            max_attempts: if params.contains_key("maxFailure") || once { failures.min(100) } else { 3 },
            ..v1::RetryPolicy::default()
        }),
        body_type: BODY_TYPE.into(),
        body: Body::Task(body.clone()).write().into(),
        ..v1::TaskSpec::default()
    };
    let submission_id = front.submission_id().to_vec().into();
    let request = v1::SubmitRequest { submission_id, task: Some(spec), jobs: Vec::new(), array: jobs };
    Ok(front.jobs.submit_request(who, request).await?)
}

/// `task/submit`.
pub async fn submit(front: &Front, call: &Call) -> Answer {
    let parsed;
    let params = match call.args.get("task_parameters") {
        Some(Value::String(text)) => {
            parsed = serde_json::from_str::<Map<String, Value>>(text).map_err(|error| {
                Refusal::new(format!("Type error: 'task_parameters' must be of type dict: {error}"))
            })?;
            &parsed
        }
        _ => call.args.object("task_parameters")?,
    };
    if serde_json::to_vec(params).is_ok_and(|bytes| bytes.len() > TASK_BYTES_MAX) {
        return Err(Refusal::new(format!("the task parameters have at most {TASK_BYTES_MAX} bytes")));
    }
    let name = spec::text(params, "taskName");
    if name.is_empty() {
        return Err(Refusal::new("the task parameters lack taskName"));
    }
    let user = call.owner(params.get("userName").or_else(|| params.get("prodUserName")))?;
    let group = spec::text(params, "workingGroup");
    if !call.caller.may_submit(&user, &group) {
        return Err(refused(NO_PERMISSION, format!("{user} may not submit for the group {group:?}")));
    }
    let unique = params.get("uniqueTaskName").is_some_and(|value| *value == true);
    if unique && let Some(id) = live_of_name(front, &name, &user).await? {
        return Err(Refusal::new(format!("the task {name} is known as jediTaskID={id} and has not ended")));
    }
    let jobs = generate::jobs(params)?;
    let given = spec::text(params, "sourceURL");
    let host = |url: &str| url.split("://").nth(1).unwrap_or_default().trim_end_matches('/').to_owned();
    let site = choose_queue(front, params)?;
    let here = host(&given) == host(&call.base);
    let body = TaskBody { params: params.clone(), user, site, here, ..TaskBody::default() };
    let reply = submit_part(front, &call.caller, &name, &group, &body, jobs).await?;
    let now_ms = front.now_ms();
    let task = ClientTask {
        id: reply.task_id,
        name,
        group,
        label: generate::label(params),
        vo: spec::text(params, "vo"),
        priority: generate::priority(params),
        jobs,
        parts: vec![TaskPart { task: reply.task_id, ..TaskPart::default() }],
        created_ms: now_ms,
        changed_ms: now_ms,
        user: body.user,
        site: body.site,
        here,
        ..ClientTask::default()
    };
    task.save(front, params).await?;
    Ok(Done { message: format!("succeeded. new jediTaskID={}", task.id), data: task.id.into() })
}

/// A task of this name and user that has not ended.
async fn live_of_name(front: &Front, name: &str, user: &str) -> Result<Option<u64>, Fault> {
    for task in ClientTask::all(front).await? {
        if task.name == name && task.user == user && task.progress(front).await?.ended_ms == 0 {
            return Ok(Some(task.id));
        }
    }
    Ok(None)
}

/// Acts on jobs of a task's parts; how many changed.
async fn act(
    front: &Front,
    call: &Call,
    task: &ClientTask,
    states: &[&str],
    action: v1::act_request::Action,
) -> Result<u64, Fault> {
    let selector = v1::Selector {
        tasks: task.parts.iter().map(|part| part.task).collect(),
        states: states.iter().map(|state| (*state).to_owned()).collect(),
        ..v1::Selector::default()
    };
    let actor = moso_queue::codec::cut(&call.caller.user, 256).to_owned();
    let request = v1::ActRequest { selector: Some(selector), action: Some(action), dry_run: false, actor };
    Ok(front.jobs.act_request(&call.caller, request).await?.changed)
}

/// States in which no worker has the job.
const NOT_LEASED: [&str; 6] = ["pending", "defined", "assigned", "waiting", "throttled", "activated"];

/// The task, if the caller may steer it.
async fn steered(front: &Front, call: &Call) -> Result<ClientTask, Refusal> {
    let task = known(front, call).await?;
    if task.may(call) {
        return Ok(task);
    }
    Err(refused(NO_PERMISSION, "Permission denied: not the task owner or no production role"))
}

fn registered(command: &str) -> Done {
    Done { message: format!("command={command} was registered. will be executed within 5 min"), data: 0.into() }
}

async fn live(front: &Front, task: &ClientTask) -> Result<(), Refusal> {
    let progress = task.progress(front).await?;
    if progress.ended_ms == 0 {
        return Ok(());
    }
    Err(refused(WRONG_STATE, format!("command rejected: the task is {} already", progress.status)))
}

async fn note(front: &Front, call: &Call, task: &ClientTask, command: &str) -> Result<(), Fault> {
    task.change(front, &call.caller.user, |task| task.command = command.to_owned()).await
}

/// `task/kill`: what runs is told with its pilot's next update.
pub async fn kill(front: &Front, call: &Call) -> Answer {
    let task = steered(front, call).await?;
    live(front, &task).await?;
    note(front, call, &task, "kill").await?;
    act(front, call, &task, &[], v1::act_request::Action::Kill(v1::Kill { code: 50 })).await?;
    Ok(registered("kill"))
}

/// `task/finish`: what does not run yet is closed; with `soft` what runs goes on.
pub async fn finish(front: &Front, call: &Call) -> Answer {
    let soft = call.args.flag("soft")?;
    let task = steered(front, call).await?;
    live(front, &task).await?;
    note(front, call, &task, "finish").await?;
    let states: &[&str] = if soft { &NOT_LEASED } else { &[] };
    act(front, call, &task, states, v1::act_request::Action::Kill(v1::Kill { code: 55 })).await?;
    Ok(Done { message: "command=finish was registered".into(), data: 0.into() })
}

/// `task/pause`.
pub async fn pause(front: &Front, call: &Call) -> Answer {
    let task = steered(front, call).await?;
    live(front, &task).await?;
    let reason = "task paused".to_owned();
    act(front, call, &task, &NOT_LEASED, v1::act_request::Action::Hold(v1::Hold { reason })).await?;
    note(front, call, &task, "pause").await?;
    Ok(registered("pause"))
}

/// `task/resume` and `task/release`.
pub async fn resume(front: &Front, call: &Call) -> Answer {
    let task = steered(front, call).await?;
    live(front, &task).await?;
    act(front, call, &task, &["throttled", "defined"], v1::act_request::Action::Release(v1::Release {})).await?;
    note(front, call, &task, "").await?;
    Ok(registered("resume"))
}

/// `task/increase_attempts`.
pub async fn increase_attempts(front: &Front, call: &Call) -> Answer {
    let more = call.args.opt_int("increase")?.unwrap_or(3).clamp(1, 1_000) as u32;
    let task = steered(front, call).await?;
    live(front, &task).await?;
    act(front, call, &task, &[], v1::act_request::Action::Retry(v1::Retry { attempts: more })).await?;
    Ok(registered("increase"))
}

/// `task/change_priority`.
pub async fn change_priority(front: &Front, call: &Call) -> Answer {
    let priority = call.args.int("priority")?;
    let priority = i32::try_from(priority).map_err(|_| Refusal::new("Type error: 'priority' is out of range"))?;
    let task = steered(front, call).await?;
    act(front, call, &task, &[], v1::act_request::Action::Priority(v1::SetPriority { priority })).await?;
    task.change(front, &call.caller.user, |task| task.priority = priority).await?;
    Ok(registered("priority"))
}

/// `task/kill_unfinished_jobs`, and `task/reassign`: they run again from the beginning.
pub async fn kill_jobs(front: &Front, call: &Call, code: u32) -> Answer {
    let task = steered(front, call).await?;
    live(front, &task).await?;
    act(front, call, &task, &[], v1::act_request::Action::Kill(v1::Kill { code })).await?;
    Ok(registered("kill"))
}

/// `task/reload_input`: the files of a task are those that its parameters name.
pub async fn reload_input(front: &Front, call: &Call) -> Answer {
    let task = steered(front, call).await?;
    live(front, &task).await?;
    Ok(Done { message: "command=incexec was registered".into(), data: 0.into() })
}

/// `task/retry` and `task/reactivate`: jobs that did not finish run again.
pub async fn retry(front: &Front, call: &Call) -> Answer {
    let new = match call.args.get("new_parameters") {
        None => Map::new(),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|error| Refusal::new(format!("Type error: 'new_parameters' must be of type dict: {error}")))?,
        Some(_) => call.args.object("new_parameters")?.clone(),
    };
    let task = steered(front, call).await?;
    let code = if new.is_empty() { 0 } else { WITH_PARAMETERS };
    let said = |jobs: u64| Done {
        message: format!("command=retry was registered. {jobs} job(s) will be retried"),
        data: code.into(),
    };
    if task.progress(front).await?.ended_ms == 0 {
        let more = v1::act_request::Action::Retry(v1::Retry { attempts: 3 });
        let changed = act(front, call, &task, &[], more).await?;
        return Ok(said(changed));
    }
    let (positions, count, earlier) = task.unfinished(front).await?;
    if count == 0 {
        return Err(refused(WRONG_STATE, "command rejected: all jobs of the task have finished"));
    }
    let mut params = task.params(front).await?;
    params.extend(new.into_iter().filter(|(key, _)| !SPLIT.contains(&key.as_str())));
    let site = if params.contains_key("site") { choose_queue(front, &params)? } else { task.site.clone() };
    let (user, here) = (task.user.clone(), task.here);
    let body = TaskBody { params, user, site, task: Some(task.id), positions, here, earlier };
    // The task stays its owner's, whoever may steer it.
    let trusted = Principal::anyone();
    let reply = submit_part(front, &trusted, &task.name, &task.group, &body, count).await?;
    let part = TaskPart { task: reply.task_id, positions: body.positions, earlier, ended: None };
    let add = |task: &mut ClientTask| {
        task.command.clear();
        task.parts.push(part.clone());
    };
    task.change(front, &call.caller.user, add).await?;
    Ok(said(count.into()))
}

/// `task/get_status`.
pub async fn get_status(front: &Front, call: &Call) -> Answer {
    let task = known(front, call).await?;
    Ok(Done::with(task.progress(front).await?.status))
}

/// `task/get_detailed_info`.
pub async fn get_detailed_info(front: &Front, call: &Call) -> Answer {
    let task = known(front, call).await?;
    Ok(Done::with(task.row(&task.progress(front).await?, Some(task.params(front).await?))))
}

/// `task/get_details`.
pub async fn get_details(front: &Front, call: &Call) -> Answer {
    let with_params = call.args.flag("include_parameters")?;
    let task = known(front, call).await?;
    let progress = task.progress(front).await?;
    let params = if with_params { Some(task.params(front).await?) } else { None };
    let mut row = task.row(&progress, params);
    row["PandaID"] = job_ids(&task).into();
    row["mergePandaID"] = json!([]);
    row["statistics"] = format!("finished:{},failed:{}", progress.finished, progress.failed).into();
    for name in ["inDS", "outDS"] {
        row[name] = "".into();
    }
    Ok(Done::with(row))
}

/// `task/get_task_parameters`.
pub async fn get_task_parameters(front: &Front, call: &Call) -> Answer {
    let task = known(front, call).await?;
    Ok(Done::with(task.params(front).await?))
}

/// The numbers of a task's jobs, at most [`JOBS_MAX`].
fn job_ids(task: &ClientTask) -> Vec<u64> {
    let of = |part: &TaskPart| {
        let ranges: u64 = part.positions.iter().map(|&(start, end)| u64::from(end.saturating_sub(start))).sum();
        let jobs = if part.positions.is_empty() { u64::from(task.jobs) } else { ranges };
        part.task + 1..part.task + 1 + jobs
    };
    task.parts.iter().flat_map(of).take(JOBS_MAX).collect()
}

/// `task/get_job_ids`.
pub async fn get_job_ids(front: &Front, call: &Call) -> Answer {
    Ok(Done::with(job_ids(&known(front, call).await?)))
}

/// `task/get_job_descriptions`: of the first jobs.
pub async fn get_job_descriptions(front: &Front, call: &Call) -> Answer {
    let unsuccessful = call.args.flag("unsuccessful_only")?;
    let task = known(front, call).await?;
    let params = task.params(front).await?;
    let ids: Vec<u64> = job_ids(&task).into_iter().take(super::limits::BULK_MAX).collect();
    let mut rows = Vec::new();
    for view in task.views_of(front, &ids).await? {
        let Some(part) = task.parts.iter().find(|part| part.task == view.task_id) else { continue };
        if unsuccessful && !matches!(view.state.as_str(), "failed" | "cancelled" | "closed") {
            continue;
        }
        let body = TaskBody {
            params: params.clone(),
            user: task.user.clone(),
            site: task.site.clone(),
            positions: part.positions.clone(),
            here: task.here,
            task: Some(task.id),
            earlier: part.earlier,
        };
        let index = u32::try_from(view.job_id.saturating_sub(part.task + 1)).unwrap_or(u32::MAX);
        let spec = Body::Task(body).spec(task.id, index, view.attempt, &call.base);
        rows.push(describe::row(&view, Some(spec), None));
    }
    Ok(Done::with(rows))
}

/// `task/get_datasets_and_files`: of the files that the parameters name.
pub async fn get_datasets_and_files(front: &Front, call: &Call) -> Answer {
    let task = known(front, call).await?;
    let body = TaskBody { params: task.params(front).await?, ..TaskBody::default() };
    let mut files = Vec::new();
    for position in 0..task.jobs.min(super::limits::BULK_MAX as u32) {
        let job = generate::job(&body, task.id, position, &call.base);
        files.extend(
            spec::files(&job, &["input"]).map(|file| json!({"lfn": file.get("lfn"), "dataset": file.get("dataset")})),
        );
    }
    let dataset = files.first().map(|file| file["dataset"].clone());
    let list = dataset.map(|name| json!({"dataset": {"name": name, "id": 1}, "files": files}));
    Ok(Done::with(list.into_iter().collect::<Vec<_>>()))
}

/// `task/get_tasks_detailed_info_since`, and `task/get_tasks_modified_since`.
pub async fn list_since(front: &Front, call: &Call) -> Answer {
    let args = &call.args;
    let since = args.get("since").and_then(time::read).unwrap_or(0);
    let max = args.opt_int("n_tasks")?.unwrap_or(500).clamp(0, ROWS_MAX) as usize;
    let filters: Map<String, Value> = match args.get("filters") {
        None => Map::new(),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|error| Refusal::new(format!("Type error: 'filters' must be JSON of an object: {error}")))?,
        Some(_) => args.object("filters")?.clone(),
    };
    if let Some(id) = filters.get("jediTaskID").and_then(super::args::whole) {
        let task = ClientTask::load(front, id.unsigned_abs()).await?;
        let Some(task) = task else { return Ok(Done::with(Vec::<Value>::new())) };
        let row = task.row(&task.progress(front).await?, Some(task.params(front).await?));
        return Ok(Done::with(vec![row]));
    }
    let user =
        filters.get("userName").and_then(Value::as_str).map_or_else(|| call.caller.user.to_string(), str::to_owned);
    let mut tasks = ClientTask::all(front).await?;
    tasks.retain(|task| (user.is_empty() || task.user == user) && task.changed_ms >= since);
    tasks.sort_by_key(|task| std::cmp::Reverse(task.created_ms));
    let mut rows = Vec::new();
    for task in tasks {
        let row = task.row(&task.progress(front).await?, None);
        let same = |(key, wanted): (&String, &Value)| {
            key == "userName" || row.get(key).is_some_and(|value| text(value) == text(wanted))
        };
        if filters.iter().all(same) {
            rows.push(row);
        }
        if rows.len() >= max {
            break;
        }
    }
    Ok(Done::with(rows))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `job/get_metadata_for_analysis_jobs`: of jobs that finished.
pub async fn get_metadata(front: &Front, call: &Call) -> Answer {
    let task = known(front, call).await?;
    let mut rows = Vec::new();
    for (_, view) in task.jobs(front, Some("finished")).await?.into_iter().take(super::limits::BULK_MAX) {
        let view = front.jobs.job(view.job_id, false).await?;
        let report = describe::details(&view);
        let get = |name: &str| report.get(name).cloned().unwrap_or_default();
        rows.push(json!({"PandaID": view.job_id, "jobMetrics": get("job_metrics"), "metaData": get("meta_data")}));
    }
    Ok(Done::with(rows))
}
