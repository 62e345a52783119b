//! A client's task: what is kept of it, and how it stands.
//!
//! It is kept as two objects of the meta group: a small one with the moso tasks that its jobs are in (the first, whose number
//! is the task's, and one more for each time that jobs of it run again), and the client's parameters.

use super::limits::TASK_LIFE_MS;
use super::reply::Refusal;
use super::spec::{TaskBody, is_zero};
use super::{Call, Front, generate, time};
use crate::api::jobs::decode_all;
use crate::api::selector::Of;
use crate::request::Fault;
use moso_proto::object::kind;
use moso_proto::v1::{self, JobView, TaskView};
use moso_proto::{Code, TaskId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Jobs in one page that is read.
const PAGE: u32 = 5_000;
/// Jobs looked up by their numbers in one call.
const IDS_STEP: usize = 200;
/// Jobs of a task that are listed.
pub const JOBS_MAX: usize = 100_000;

/// A moso task that holds jobs of a client's task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskPart {
    /// The moso task.
    pub task: u64,
    /// Which jobs, as half-open ranges of positions; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub positions: Vec<(u32, u32)>,
    /// Attempts of these jobs in earlier parts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub earlier: u32,
    /// Jobs by final state once all have ended, so that it is known for longer than the archive reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<PartEnd>,
}

/// How the jobs of a part have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartEnd {
    finished: u32,
    failed: u32,
    time_ms: u64,
}

/// A client's task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientTask {
    /// Its number: the first part's.
    pub id: u64,
    /// Name.
    pub name: String,
    /// Who submitted it.
    pub user: String,
    /// Group.
    pub group: String,
    /// Queue.
    pub site: String,
    /// Label.
    pub label: String,
    /// PanDA's vo.
    pub vo: String,
    /// Priority.
    pub priority: i32,
    /// Jobs.
    pub jobs: u32,
    /// Where they are.
    pub parts: Vec<TaskPart>,
    /// Last command that changes what its end is called: kill, finish, pause; empty: none.
    pub command: String,
    /// Submission, Unix ms.
    pub created_ms: u64,
    /// Last change, Unix ms.
    pub changed_ms: u64,
    /// Its sandbox is here.
    pub here: bool,
}

/// How a task stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// PanDA's state.
    pub status: String,
    /// Jobs that finished.
    pub finished: u32,
    /// Jobs that ended otherwise and do not run again yet.
    pub failed: u32,
    /// End of its last job, Unix ms; 0: it lives.
    pub ended_ms: u64,
}

impl ClientTask {
    fn map(&self) -> Map<String, Value> {
        let Ok(Value::Object(map)) = serde_json::to_value(self) else { unreachable!("a structure is an object") };
        map
    }

    /// The task of this number.
    pub async fn load(front: &Front, id: u64) -> Result<Option<ClientTask>, Fault> {
        let kept = front.object(kind::PANDA_TASK, &id.to_string()).await?;
        Ok(kept.and_then(|kept| serde_json::from_value(kept.map.into()).ok()))
    }

    /// The task that a moso task is a part of.
    pub async fn of_part(front: &Front, task: TaskId) -> Result<Option<ClientTask>, Fault> {
        if let Some(found) = ClientTask::load(front, task.0).await? {
            return Ok(Some(found));
        }
        let holds = |found: &ClientTask| found.parts.iter().any(|part| part.task == task.0);
        Ok(ClientTask::all(front).await?.into_iter().find(holds))
    }

    /// All tasks.
    pub async fn all(front: &Front) -> Result<Vec<ClientTask>, Fault> {
        let all = front.objects(kind::PANDA_TASK).await?;
        Ok(all.into_iter().filter_map(|(_, kept)| serde_json::from_value(kept.map.into()).ok()).collect())
    }

    /// Keeps a new task.
    pub async fn save(&self, front: &Front, params: &generate::Params) -> Result<(), Fault> {
        let name = self.id.to_string();
        front.put(kind::PANDA_PARAMS, &name, params, None, &self.user).await?;
        front.put(kind::PANDA_TASK, &name, &self.map(), Some(0), &self.user).await
    }

    /// Changes the task as it is kept.
    pub async fn change(&self, front: &Front, who: &str, mut change: impl FnMut(&mut ClientTask)) -> Result<(), Fault> {
        let now_ms = front.now_ms();
        let set = |map: &mut Map<String, Value>| {
            if let Ok(mut task) = serde_json::from_value::<ClientTask>(map.clone().into()) {
                change(&mut task);
                task.changed_ms = now_ms;
                *map = task.map();
            }
        };
        front.change(kind::PANDA_TASK, &self.id.to_string(), who, set).await
    }

    /// The client's parameters.
    pub async fn params(&self, front: &Front) -> Result<generate::Params, Fault> {
        Ok(front.object(kind::PANDA_PARAMS, &self.id.to_string()).await?.unwrap_or_default().map)
    }

    /// The body of the jobs of a part.
    pub async fn body(&self, front: &Front, part: u64) -> Result<Option<TaskBody>, Fault> {
        let Some(part) = self.parts.iter().find(|found| found.task == part) else { return Ok(None) };
        Ok(Some(TaskBody {
            params: self.params(front).await?,
            user: self.user.clone(),
            site: self.site.clone(),
            task: Some(self.id),
            positions: part.positions.clone(),
            here: self.here,
            earlier: part.earlier,
        }))
    }

    async fn views(&self, front: &Front) -> Result<Vec<Option<TaskView>>, Fault> {
        let each = self.parts.iter().map(|part| async {
            match front.jobs.task(part.task).await {
                Ok(view) => Ok(Some(view)),
                Err(fault) if fault.code == Code::NotFound => Ok(None),
                Err(fault) => Err(fault),
            }
        });
        futures::future::join_all(each).await.into_iter().collect()
    }

    /// How it stands.
    pub async fn progress(&self, front: &Front) -> Result<Progress, Fault> {
        Ok(self.summary(&self.views(front).await?))
    }

    fn summary(&self, views: &[Option<TaskView>]) -> Progress {
        let ends = self.parts.iter().zip(views).map(|(part, view)| view.as_ref().map(end_of).or(part.ended));
        let finished: u32 = ends.clone().flatten().map(|end| end.finished).sum();
        let last = views.last().and_then(Option::as_ref);
        let live = last.filter(|view| view.ended_ms == 0);
        let all_failed = ends.clone().next_back().flatten().is_some_and(|end| end.failed > 0);
        let status = match (live, self.command.as_str()) {
            (Some(_), "kill") => "aborting",
            (Some(_), "finish") => "finishing",
            (Some(_), "pause") => "paused",
            (Some(view), _) => &view.state,
            (None, "kill") => "aborted",
            (None, _) if finished >= self.jobs => "done",
            (None, _) if finished > 0 => "finished",
            (None, _) if all_failed => "failed",
            (None, _) => "aborted",
        };
        let ended = if live.is_some() { live.map_or(0, unsuccessful) } else { self.jobs.saturating_sub(finished) };
        let ended_ms = match live {
            Some(_) => 0,
            None => ends.flatten().map(|end| end.time_ms).max().unwrap_or(self.changed_ms),
        };
        Progress { status: status.to_owned(), finished, failed: ended, ended_ms }
    }

    /// The row that clients show.
    pub fn row(&self, progress: &Progress, params: Option<generate::Params>) -> Value {
        let percent = |n: u32| (u64::from(n) * 100).checked_div(u64::from(self.jobs)).unwrap_or(0);
        let above = match progress.status.as_str() {
            "aborting" | "finishing" | "paused" => "running",
            status => status,
        };
        json!({
            "jediTaskID": self.id, "reqID": generate::request_id(self.id), "taskName": self.name,
            "status": progress.status, "superStatus": above, "userName": self.user, "prodSourceLabel": self.label,
            "creationDate": time::value(self.created_ms),
            "modificationTime": time::value(self.changed_ms.max(progress.ended_ms)),
            "startTime": time::value(self.created_ms), "endTime": time::value(progress.ended_ms),
            "vo": self.vo, "workingGroup": self.group, "site": self.site, "errorDialog": null,
            "taskPriority": self.priority, "currentPriority": self.priority,
            "nFiles": self.jobs, "nFilesFinished": progress.finished, "nFilesFailed": progress.failed,
            "pctFinished": percent(progress.finished), "pctFailed": percent(progress.failed),
            "jobParamsTemplate": "", "taskParams": params,
        })
    }

    /// Its jobs in this state, all if none is named, by part.
    pub async fn jobs(&self, front: &Front, state: Option<&str>) -> Result<Vec<(usize, JobView)>, Fault> {
        let mut found = Vec::new();
        for (number, part) in self.parts.iter().enumerate() {
            let selector = v1::Selector {
                tasks: vec![part.task],
                states: state.into_iter().map(str::to_owned).collect(),
                ..v1::Selector::default()
            };
            let mut cursor = String::new();
            loop {
                let request = v1::ListRequest { selector: Some(selector.clone()), limit: PAGE, cursor };
                let (items, next) = front.jobs.list(request, Of::Jobs).await?;
                found.extend(decode_all::<JobView>(items)?.into_iter().map(|job| (number, job)));
                if next.is_empty() || found.len() >= JOBS_MAX {
                    break;
                }
                cursor = next;
            }
        }
        Ok(found)
    }

    /// These jobs of it, also those of which there was never a record.
    pub async fn views_of(&self, front: &Front, ids: &[u64]) -> Result<Vec<JobView>, Fault> {
        let mut found = Vec::with_capacity(ids.len());
        for jobs in ids.chunks(IDS_STEP) {
            let selector = v1::Selector { jobs: jobs.to_vec(), ..v1::Selector::default() };
            let request = v1::ListRequest { selector: Some(selector), limit: PAGE, cursor: String::new() };
            found.extend(decode_all::<JobView>(front.jobs.list(request, Of::Jobs).await?.0)?);
        }
        Ok(found)
    }

    /// Positions whose jobs have not finished, as ranges, how many there are, and how many attempts one of them had at most.
    pub async fn unfinished(&self, front: &Front) -> Result<(Vec<(u32, u32)>, u32, u32), Fault> {
        let mut finished = BTreeSet::new();
        let jobs = self.jobs(front, None).await?;
        let before = self.parts.iter().map(|part| part.earlier).max().unwrap_or(0);
        // What the archive does not hold any more had one attempt at least.
        let mut attempts = before.saturating_add(u32::from(jobs.is_empty()));
        for (part, job) in jobs {
            let part = &self.parts[part];
            attempts = attempts.max(part.earlier.saturating_add(job.attempt));
            if job.state != "finished" {
                continue;
            }
            let index = u32::try_from(job.job_id.saturating_sub(part.task + 1)).unwrap_or(u32::MAX);
            let body = TaskBody { positions: part.positions.clone(), ..TaskBody::default() };
            finished.insert(body.position(index));
        }
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        let mut start = 0;
        for at in finished.into_iter().filter(|&at| at < self.jobs).chain([self.jobs]) {
            if start < at {
                ranges.push((start, at));
            }
            start = at + 1;
        }
        let count = ranges.iter().map(|(start, end)| end - start).sum();
        Ok((ranges, count, attempts))
    }

    /// The caller may steer it.
    pub fn may(&self, call: &Call) -> bool {
        call.caller.may_steer(&self.user, &self.group)
    }
}

fn of_state(view: &TaskView, state: &str) -> u32 {
    view.counts.iter().filter(|count| count.state == state).map(|count| count.jobs).sum()
}

fn end_of(view: &TaskView) -> PartEnd {
    PartEnd { finished: of_state(view, "finished"), failed: of_state(view, "failed"), time_ms: view.ended_ms }
}

fn unsuccessful(view: &TaskView) -> u32 {
    ["failed", "cancelled", "closed"].iter().map(|state| of_state(view, state)).sum()
}

impl Front {
    /// Writes down how tasks have ended, and forgets the old ones. Called now and then by the meta group's leader.
    pub async fn sweep_tasks(&self) -> Result<(), Fault> {
        let now_ms = self.now_ms();
        for task in ClientTask::all(self).await? {
            let views = task.views(self).await?;
            let ended = |view: &Option<TaskView>| view.as_ref().is_none_or(|view| view.ended_ms > 0);
            if views.iter().all(ended) && task.changed_ms + TASK_LIFE_MS < now_ms {
                let name = task.id.to_string();
                self.forget(kind::PANDA_TASK, &name).await?;
                self.forget(kind::PANDA_PARAMS, &name).await?;
                continue;
            }
            let ends: Vec<Option<PartEnd>> =
                views.iter().map(|view| view.as_ref().filter(|view| view.ended_ms > 0).map(end_of)).collect();
            let new = task.parts.iter().zip(&ends).any(|(part, end)| part.ended.is_none() && end.is_some());
            if new {
                let changed_ms = task.changed_ms;
                let keep = |kept: &mut ClientTask| {
                    for (part, end) in kept.parts.iter_mut().zip(&ends) {
                        part.ended = part.ended.or(*end);
                    }
                };
                task.change(self, "moso", keep).await?;
                tracing::debug!(task = task.id, changed_ms, "the end of a client's task is written down");
            }
        }
        Ok(())
    }

    /// Deletes the debug commands of jobs that have ended.
    pub async fn sweep_debug(&self) -> Result<(), Fault> {
        for (name, kept) in self.objects(kind::PANDA_DEBUG).await? {
            let job = match name.parse() {
                Ok(id) => self.look(moso_proto::JobId(id)).await?,
                Err(_) => None,
            };
            let old = kept.time_ms + super::limits::DEBUG_LIFE_MS < self.now_ms();
            if job.is_none_or(|job| job.ended_ms > 0) && old {
                self.forget(kind::PANDA_DEBUG, &name).await?;
            }
        }
        Ok(())
    }
}

/// The task, or PanDA's word that there is none.
pub async fn known(front: &Front, call: &Call) -> Result<ClientTask, Refusal> {
    let id = call.args.id("task_id")?;
    let missing = || Refusal { data: 2.into(), ..Refusal::new(format!("jediTaskID={id} is not found")) };
    ClientTask::load(front, id).await?.ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moso_proto::v1::StateCount;

    fn view(state: &str, ended_ms: u64, counts: &[(&str, u32)]) -> Option<TaskView> {
        let count = |(state, jobs): &(&str, u32)| StateCount { state: (*state).into(), jobs: *jobs };
        let counts = counts.iter().map(count).collect();
        Some(TaskView { state: state.into(), ended_ms, counts, ..TaskView::default() })
    }

    fn task(parts: usize, command: &str) -> ClientTask {
        ClientTask {
            jobs: 4,
            parts: vec![TaskPart::default(); parts],
            command: command.into(),
            ..ClientTask::default()
        }
    }

    #[test]
    fn the_parts_of_a_task_make_its_state() {
        let status = |task: &ClientTask, views: &[Option<TaskView>]| task.summary(views).status;
        let some = view("finished", 9, &[("finished", 3), ("failed", 1)]);
        assert_eq!(status(&task(1, ""), std::slice::from_ref(&some)), "finished");
        assert_eq!(status(&task(2, ""), &[some.clone(), view("ready", 0, &[("activated", 1)])]), "ready");
        assert_eq!(status(&task(2, ""), &[some.clone(), view("done", 9, &[("finished", 1)])]), "done");
        assert_eq!(status(&task(1, "kill"), &[view("running", 0, &[("running", 4)])]), "aborting");
        assert_eq!(status(&task(1, "kill"), &[view("aborted", 9, &[("cancelled", 4)])]), "aborted");
        assert_eq!(status(&task(1, ""), &[view("failed", 9, &[("failed", 4)])]), "failed");
        assert_eq!(status(&task(1, "pause"), &[view("ready", 0, &[("throttled", 4)])]), "paused");
        let mut known = task(1, "");
        known.parts[0].ended = Some(PartEnd { finished: 4, failed: 0, time_ms: 9 });
        assert_eq!(status(&known, &[None]), "done");
        assert_eq!(task(1, "").summary(&[some]).failed, 1);
    }
}
