//! The jobs of a client's task: how many there are, and what each is, by the task's parameters.
//!
//! Taken are tasks without input (`nEvents`, `nEventsPerJob`, `nJobs`), and tasks whose input files are named in the
//! parameters (`pfnList`, or `files` of an input) and are split by count (`nFilesPerJob`, `nFiles`). A job is a pure function
//! of the parameters and its position, so nothing is stored of it before it runs.

use super::reply::Refusal;
use super::spec::{self, Spec, TaskBody};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// Where the wrapper of user jobs is served.
pub const WRAPPER: &str = "/trf/user/runGen-00-00-02";
/// The parameters of a task.
pub type Params = Map<String, Value>;

fn items(params: &Params) -> impl Iterator<Item = &Params> {
    params.get("jobParameters").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

fn positive(params: &Params, name: &str) -> Option<u64> {
    u64::try_from(spec::number(params, name)).ok().filter(|&number| number > 0)
}

/// The input files that the parameters name, in order.
fn inputs(params: &Params) -> Vec<&Value> {
    let listed = params.get("pfnList").and_then(Value::as_array);
    let of_item = || items(params).filter(|item| is_input(item)).find_map(|item| item.get("files")?.as_array());
    let mut files: Vec<&Value> = listed.or_else(of_item).into_iter().flatten().collect();
    if let Some(max) = positive(params, "nFiles") {
        files.truncate(usize::try_from(max).unwrap_or(usize::MAX));
    }
    files
}

fn is_input(item: &Params) -> bool {
    spec::text(item, "param_type") == "input"
}

fn files_per_job(params: &Params) -> u64 {
    ["nFilesPerJob", "nMaxFilesPerJob"].iter().find_map(|name| positive(params, name)).unwrap_or(1)
}

/// How many jobs the task has.
///
/// # Errors
/// A refusal that names what is missing.
pub fn jobs(params: &Params) -> Result<u32, Refusal> {
    let wanted = items(params).find(|item| is_input(item));
    let files = inputs(params);
    let no_input = params.get("noInput").is_some_and(|value| value == true || value == "True");
    let count = if !files.is_empty() {
        (files.len() as u64).div_ceil(files_per_job(params))
    } else if let (Some(item), false) = (wanted, no_input) {
        return Err(Refusal::new(format!(
            "the files of the input dataset {} are not known here: name them in the task (pfnList, or files of the input)",
            spec::text(item, "dataset")
        )));
    } else {
        let events = positive(params, "nEvents");
        let by_events = events.map(|n| n.div_ceil(positive(params, "nEventsPerJob").unwrap_or(1)));
        positive(params, "nJobs").or(by_events).unwrap_or(1)
    };
    let max = moso_queue::limits::ARRAY_JOBS_MAX;
    u32::try_from(count)
        .ok()
        .filter(|&count| count <= max)
        .ok_or_else(|| Refusal::new(format!("the task makes {count} jobs, at most {max} are allowed")))
}

/// What is put in the place of the names in a template.
struct Names<'a> {
    task: String,
    serial: String,
    source: String,
    inputs: String,
    first_event: u64,
    events: u64,
    position: u32,
    params: &'a Params,
}

impl Names<'_> {
    fn fill(&self, template: &str, offset: i64) -> String {
        if !template.contains('$') {
            return template.to_owned();
        }
        let number = (i64::from(self.position) + 1).saturating_add(offset).to_string();
        let first = self.first_event.to_string();
        let events = self.events.to_string();
        let mut out = template.to_owned();
        for (name, value) in [
            ("$JEDITASKID", &self.task),
            ("${TASKID}", &self.task),
            ("${SN}", &self.serial),
            ("${SN/P}", &self.serial),
            ("${SURL}", &self.source),
            ("${IN}", &self.inputs),
            ("${IN/T}", &self.inputs),
            ("${IN/F}", &self.inputs),
            ("${SEQNUMBER}", &number),
            ("${RNDMSEED}", &number),
            ("${SKIPEVENTS}", &first),
            ("${FIRSTEVENT}", &first),
            ("${MAXEVENTS}", &events),
        ] {
            if out.contains(name) {
                out = out.replace(name, value);
            }
        }
        out
    }

    /// The arguments of the wrapper.
    fn arguments(&self) -> String {
        let mut out = String::new();
        for item in items(self.params) {
            if item.get("hidden").is_some_and(|hidden| hidden == true) {
                continue;
            }
            out += &self.fill(&spec::text(item, "value"), spec::number(item, "offset"));
            if item.get("padding").is_none_or(|padding| padding != false) {
                out.push(' ');
            }
        }
        out.trim_end().to_owned()
    }

    fn output(&self, item: &Params, kind: &str) -> Value {
        let dataset = self.fill(&spec::text(item, "dataset"), 0);
        let lfn = self.fill(&spec::text(item, "value"), 0);
        let mut file = json!({
            "lfn": lfn, "type": kind, "dataset": dataset, "destinationDBlock": dataset, "scope": scope(&dataset),
        });
        if kind == "log" {
            file["GUID"] = guid(&format!("{}.{}", self.task, self.serial)).into();
        }
        let place = ["destination", "destinationSE"].iter().find_map(|key| item.get(*key).and_then(Value::as_str));
        if let Some(place) = place.or_else(|| self.params.get("destination").and_then(Value::as_str)) {
            file["destinationSE"] = place.into();
        }
        file
    }
}

/// The scope of a dataset: `user.NAME` and `group.NAME`, else the first part of its name.
fn scope(dataset: &str) -> String {
    let (head, _) = dataset.split_once(':').unwrap_or((dataset, ""));
    let mut parts = head.split('.');
    match (parts.next(), parts.next()) {
        (Some(first @ ("user" | "group")), Some(second)) => format!("{first}.{second}"),
        (first, _) => first.unwrap_or_default().trim_end_matches('/').to_owned(),
    }
}

/// An identifier that is the same whenever the same job is made.
pub fn guid(seed: &str) -> String {
    let hash = Sha256::digest(seed.as_bytes());
    let hex: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A file of the input, of its name or of its fields.
fn input(file: &Value, dataset: &str) -> Value {
    let mut map = match file {
        Value::Object(map) => map.clone(),
        other => Map::from_iter([("lfn".to_owned(), other.clone())]),
    };
    map.insert("type".into(), "input".into());
    map.entry("dataset").or_insert_with(|| dataset.into());
    map.entry("scope").or_insert_with(|| scope(dataset).into());
    map.into()
}

/// The job at `position` of the client's task `task`, for a pilot that reaches this node at `base`.
pub fn job(body: &TaskBody, task: u64, position: u32, base: &str) -> Spec {
    let params = &body.params;
    let all = inputs(params);
    let per_job = usize::try_from(files_per_job(params)).unwrap_or(usize::MAX);
    let start = (position as usize).saturating_mul(per_job).min(all.len());
    let own = &all[start..start.saturating_add(per_job).min(all.len())];
    let given = spec::text(params, "sourceURL");
    let events = positive(params, "nEventsPerJob").unwrap_or(0);
    let names = Names {
        task: task.to_string(),
        serial: format!("{:06}", u64::from(position) + 1),
        source: if body.here || given.is_empty() { base.to_owned() } else { given },
        inputs: own.iter().map(|file| name_of(file)).collect::<Vec<_>>().join(","),
        first_event: events.saturating_mul(position.into()),
        events,
        position,
        params,
    };
    let mut made = Spec::new();
    let mut put = |key: &str, value: Value| drop(made.insert(key.to_owned(), value));
    let given = Some(spec::text(params, "transPath")).filter(|path| !path.is_empty());
    put("transformation", given.unwrap_or_else(|| format!("{base}{WRAPPER}")).into());
    put("jobParameters", names.arguments().into());
    put("jobName", format!("{}.{}", spec::text(params, "taskName").trim_end_matches('/'), names.serial).into());
    put("jobDefinitionID", (u64::from(position) + 1).into());
    put("jediTaskID", task.into());
    put("taskID", task.into());
    put("reqID", request_id(task).into());
    put("prodUserID", body.user.clone().into());
    put("prodUserName", body.user.clone().into());
    put("computingSite", body.site.clone().into());
    put("prodSourceLabel", label(params).into());
    put("currentPriority", priority(params).into());
    put("coreCount", cores(params).into());
    put("minRamCount", memory_mib(params).into());
    put("maxWalltime", spec::count(params, "walltime").into());
    put("resource_type", spec::resource_type(cores(params), memory_mib(params)).into());
    for (key, name) in SAME {
        let value = spec::text(params, name);
        if !value.is_empty() {
            put(key, value.into());
        }
    }
    put("Files", files(&names, own).into());
    made
}

/// Fields of a job that are the task's parameters as they are.
const SAME: [(&str, &str); 7] = [
    ("VO", "vo"),
    ("processingType", "processingType"),
    ("workingGroup", "workingGroup"),
    ("cmtConfig", "architecture"),
    ("AtlasRelease", "transUses"),
    ("homepackage", "transHome"),
    ("container_name", "container_name"),
];

/// A job's files: its part of the input, if a pilot is to fetch it, its outputs and its log.
fn files(names: &Names<'_>, own: &[&Value]) -> Vec<Value> {
    let params = names.params;
    let mut files = Vec::new();
    // Files given by their full names are read by the payload itself.
    if !params.contains_key("pfnList") {
        let dataset = items(params).find(|item| is_input(item)).map(|item| spec::text(item, "dataset"));
        files.extend(own.iter().map(|file| input(file, dataset.as_deref().unwrap_or_default())));
    }
    let outputs = items(params).filter(|item| spec::text(item, "param_type") == "output");
    files.extend(outputs.map(|item| names.output(item, "output")));
    files.extend(params.get("log").and_then(Value::as_object).map(|log| names.output(log, "log")));
    files
}

/// The name of an input file.
fn name_of(file: &Value) -> String {
    file.as_object().map_or_else(|| file.as_str().unwrap_or_default().to_owned(), |file| spec::text(file, "lfn"))
}

/// Cores of each job.
pub fn cores(params: &Params) -> u32 {
    spec::count(params, "coreCount").max(1)
}

/// Memory of each job, MiB; 0: not stated.
pub fn memory_mib(params: &Params) -> u32 {
    let per_core = spec::text(params, "ramUnit").starts_with("MBPerCore");
    let count = ["ramCount", "memory"].iter().map(|name| spec::count(params, name)).find(|&count| count > 0);
    count.unwrap_or(0).saturating_mul(if per_core { cores(params) } else { 1 })
}

/// PanDA's label.
pub fn label(params: &Params) -> String {
    Some(spec::text(params, "prodSourceLabel")).filter(|label| !label.is_empty()).unwrap_or_else(|| "user".to_owned())
}

/// Priority.
pub fn priority(params: &Params) -> i32 {
    let given = ["taskPriority", "currentPriority"].iter().find(|name| params.contains_key(**name));
    let max = i64::from(moso_queue::limits::PRIORITY_MAX);
    given.map_or(1_000, |name| spec::number(params, name).clamp(-max, max) as i32)
}

/// PanDA's number of the request that a task belongs to: below ten million, or clients take it for a task's.
pub fn request_id(task: u64) -> u64 {
    task % 10_000_000
}

#[cfg(test)]
mod tests;
