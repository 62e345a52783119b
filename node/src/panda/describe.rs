//! A job as PanDA's clients see it: all fields of its specification, with what the server knows of it.

use super::fields;
use super::report;
use super::spec::{Body, Spec};
use super::tasks::ClientTask;
use super::{Front, time};
use crate::request::Fault;
use moso_proto::v1::JobView;
use moso_proto::{Code, TaskId};
use serde_json::{Map, Value};

/// Fields of a job that stand in the report of its pilot, and under which name.
const MEASURES: [(&str, &str); 31] = [
    ("pilotID", "pilot_id"),
    ("schedulerID", "scheduler_id"),
    ("batchID", "batch_id"),
    ("modificationHost", "node"),
    ("cpuConsumptionTime", "cpu_consumption_time"),
    ("cpuConsumptionUnit", "cpu_consumption_unit"),
    ("cpuConversion", "cpu_conversion_factor"),
    ("cpu_architecture_level", "cpu_architecture_level"),
    ("pilotTiming", "pilot_timing"),
    ("jobMetrics", "job_metrics"),
    ("jobSubStatus", "job_sub_status"),
    ("actualCoreCount", "core_count"),
    ("nEvents", "n_events"),
    ("nInputFiles", "n_input_files"),
    ("maxRSS", "max_rss"),
    ("maxVMEM", "max_vmem"),
    ("maxSWAP", "max_swap"),
    ("maxPSS", "max_pss"),
    ("avgRSS", "avg_rss"),
    ("avgVMEM", "avg_vmem"),
    ("avgSWAP", "avg_swap"),
    ("avgPSS", "avg_pss"),
    ("totRCHAR", "tot_rchar"),
    ("totWCHAR", "tot_wchar"),
    ("totRBYTES", "tot_rbytes"),
    ("totWBYTES", "tot_wbytes"),
    ("rateRCHAR", "rate_rchar"),
    ("rateWCHAR", "rate_wchar"),
    ("rateRBYTES", "rate_rbytes"),
    ("rateWBYTES", "rate_wbytes"),
    ("diskIO", "disk_io"),
];

/// PanDA's names of the sources of errors.
const SOURCES: [(&str, &str); 7] = [
    ("pilot", "pilot"),
    ("exe", "exe"),
    ("sup", "sup"),
    ("ddm", "ddm"),
    ("brokerage", "brokerage"),
    ("jobDispatcher", "job_dispatcher"),
    ("taskBuffer", "task_buffer"),
];

/// The report of a job's pilot; empty if there is none.
pub fn details(view: &JobView) -> Map<String, Value> {
    serde_json::from_slice(&view.details).unwrap_or_default()
}

/// The row of a job.
pub fn row(view: &JobView, spec: Option<Spec>, debug: Option<(String, String)>) -> Value {
    let spec = spec.unwrap_or_default();
    let mut row: Map<String, Value> = fields::JOB.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
    row.extend(spec.iter().filter(|(name, _)| *name != "Files").map(|(name, value)| (name.clone(), value.clone())));
    let report = details(view);
    for (name, told) in MEASURES {
        if let Some(value) = report.get(told) {
            row.insert(name.to_owned(), value.clone());
        }
    }
    if let Some((_, stdout)) = &debug {
        row.insert("debugOutput".into(), stdout.clone().into());
    }
    known(view, &mut row, debug.map(|(command, _)| command));
    if view.ended_ms > 0 {
        for (name, _) in SOURCES {
            row.insert(format!("{name}ErrorCode"), 0.into());
        }
        // A text, as PanDA has it.
        row.insert("transExitCode".into(), view.exit_code.to_string().into());
    }
    for error in &view.errors {
        let name = SOURCES.iter().find(|(name, told)| error.source == *told || error.source == *name);
        if let Some((name, _)) = name {
            row.insert(format!("{name}ErrorCode"), error.code.into());
            row.insert(format!("{name}ErrorDiag"), error.text.clone().into());
        }
    }
    if let Some(metadata) = report.get("meta_data") {
        let text = metadata.as_str().map_or_else(|| metadata.to_string(), str::to_owned);
        row.insert("metadata".into(), text.into());
    }
    row.insert("Files".into(), files(&spec, &report).into());
    row.into()
}

/// What the server knows.
fn known(view: &JobView, row: &mut Map<String, Value>, debug: Option<String>) {
    let needs = view.needs.clone().unwrap_or_default();
    let changed = [view.ended_ms, view.started_ms, view.leased_ms, view.created_ms].into_iter().find(|&ms| ms > 0);
    let mut set = |name: &str, value: Value| drop(row.insert(name.to_owned(), value));
    let killed = view.ended_ms == 0 && is_to_be_killed(view);
    let command = if killed { Some("tobekilled".to_owned()) } else { debug };
    set("PandaID", view.job_id.into());
    set("jobStatus", view.state.clone().into());
    set("computingSite", view.queue.clone().into());
    set("prodUserName", view.owner.clone().into());
    set("prodSourceLabel", view.label.clone().into());
    set("currentPriority", view.priority.into());
    set("attemptNr", view.attempt.into());
    set("maxAttempt", view.max_attempts.into());
    set("creationTime", time::value(view.created_ms));
    set("modificationTime", time::value(changed.unwrap_or(0)));
    set("stateChangeTime", time::value(changed.unwrap_or(0)));
    set("startTime", time::value(if view.started_ms > 0 { view.started_ms } else { view.leased_ms }));
    set("endTime", time::value(view.ended_ms));
    set("commandToPilot", command.into());
    set("gshare", view.share.clone().into());
    set("coreCount", needs.cores.max(1).into());
    set("minRamCount", needs.memory_mib.into());
    set("maxDiskCount", needs.disk_mib.into());
    if !needs.resource_type.is_empty() {
        set("resource_type", needs.resource_type.into());
    }
    if !view.group.is_empty() {
        set("workingGroup", view.group.clone().into());
    }
    for name in ["maxCpuCount", "relocationFlag"] {
        if row.get(name).is_none_or(Value::is_null) {
            row.insert(name.to_owned(), 0.into());
        }
    }
    if row.get("prodUserID").is_none_or(Value::is_null) {
        row.insert("prodUserID".into(), view.owner.clone().into());
    }
}

/// A kill of the job is under way.
pub fn is_to_be_killed(view: &JobView) -> bool {
    view.ended_ms == 0 && view.reason.starts_with("kill code")
}

/// The files of the specification with what the report says of them, and those that the report alone names.
fn files(spec: &Spec, report: &Map<String, Value>) -> Vec<Value> {
    let mut rows: Vec<Map<String, Value>> = Vec::new();
    let bare = || fields::FILE.iter().map(|name| ((*name).to_owned(), Value::Null)).collect::<Map<_, _>>();
    for file in spec.get("Files").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object) {
        let mut row = bare();
        row.extend(file.clone());
        rows.push(row);
    }
    for (lfn, told) in report::outputs(report) {
        let at = rows.iter().position(|row| row.get("lfn").and_then(Value::as_str) == Some(lfn));
        let at = at.unwrap_or_else(|| {
            let mut row = bare();
            row.insert("lfn".into(), lfn.clone().into());
            row.insert("type".into(), "output".into());
            rows.push(row);
            rows.len() - 1
        });
        let row = &mut rows[at];
        row.insert("status".into(), "ready".into());
        if let Some(sum) = told.get("adler32").and_then(Value::as_str) {
            row.insert("checksum".into(), format!("ad:{sum}").into());
        }
        for (name, key) in [("GUID", "guid"), ("fsize", "fsize"), ("destinationSE", "endpoint")] {
            if let Some(value) = told.get(key) {
                row.insert(name.to_owned(), value.clone());
            }
        }
    }
    rows.into_iter().map(Value::Object).collect()
}

impl Front {
    /// The row of a job; `null` if there is no such job.
    pub async fn describe(&self, id: u64, base: &str) -> Result<Value, Fault> {
        let view = match self.jobs.job(id, true).await {
            Ok(view) => view,
            Err(fault) if fault.code == Code::NotFound => return Ok(Value::Null),
            Err(fault) => return Err(fault),
        };
        let spec = self.spec_of(&view, base).await?;
        let debug = self.debug_of(id).await;
        Ok(row(&view, spec, debug))
    }

    /// The specification of a job: of its body while it lives, later of its task's parameters. That of a job that was
    /// submitted by itself goes with its end.
    async fn spec_of(&self, view: &JobView, base: &str) -> Result<Option<Spec>, Fault> {
        let index = |first: u64| u32::try_from(view.job_id.saturating_sub(first)).unwrap_or(u32::MAX);
        if let Some(body) = Body::read(&view.body) {
            return Ok(Some(body.spec(view.task_id, index(view.task_id + 1), view.attempt, base)));
        }
        let Some(task) = ClientTask::of_part(self, TaskId(view.task_id)).await? else { return Ok(None) };
        let Some(body) = task.body(self, view.task_id).await? else { return Ok(None) };
        Ok(Some(Body::Task(body).spec(view.task_id, index(view.task_id + 1), view.attempt, base)))
    }
}
