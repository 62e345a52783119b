//! How jobs and tasks are shown: from the live tables, from the archive, and the status log put together from both.

use bytes::Bytes;
use moso_proto::{JobState, ShardId, v1};
use moso_queue::class::ClassKey;
use moso_queue::codec::{Get, Put};
use moso_queue::effect::Change;
use moso_queue::job::{EndedJob, Job, Reason, Report};
use moso_queue::meta::MetaView;
use moso_queue::task::{EndedTask, Task};
use moso_queue::{Error, Machine};

/// A status-log row as it is stored.
pub fn encode_change(change: &Change) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.put_u64(change.time_ms);
    out.put_u32(change.attempt);
    out.put_u8(change.state as u8);
    out.put_u8(change.reason as u8);
    out.put_str(&change.who);
    out.put_str(&change.text);
    out
}

/// Reads a stored row.
pub fn decode_change(seq: u64, bytes: Bytes) -> Result<Change, Error> {
    let mut get = Get::new(bytes, "status-log row");
    let (time_ms, attempt) = (get.u64()?, get.u32()?);
    let state = JobState::from_number(get.u8()?).ok_or_else(|| get.damaged())?;
    let reason = Reason::from_number(get.u8()?).ok_or_else(|| get.damaged())?;
    let (who, text) = (get.str()?, get.str()?);
    get.end()?;
    Ok(Change { seq, time_ms, state, attempt, who, reason, text })
}

fn queue_name(meta: &MetaView, id: u32) -> String {
    meta.queue_by_id(id).map_or_else(|| format!("deleted queue {id}"), |q| q.name.clone())
}

fn share_name(meta: &MetaView, id: u32) -> String {
    meta.share_by_id(id).map_or_else(|| format!("deleted share {id}"), |s| s.name.clone())
}

fn needs(class: &ClassKey) -> v1::Needs {
    v1::Needs {
        cores: class.cores,
        memory_mib: class.memory_mib,
        disk_mib: class.disk_mib,
        wall_time_s: class.wall_time_s,
        resource_type: class.resource_type.to_string(),
        tags: class.tags.iter().map(|t| t.to_string()).collect(),
    }
}

fn reason_text(job: &Job) -> String {
    match (job.reason, job.kill) {
        (reason, 0) => reason.text().to_owned(),
        (Reason::None, code) => format!("kill code {code} under way"),
        (reason, code) => format!("{}, kill code {code}", reason.text()),
    }
}

fn base(shard: ShardId, job: &Job, class: &ClassKey, meta: &MetaView) -> v1::JobView {
    v1::JobView {
        job_id: shard.id(job.seq),
        task_id: shard.id(job.task),
        state: job.state.name().into(),
        reason: reason_text(job),
        attempt: job.attempt,
        max_attempts: job.last_attempt,
        queue: queue_name(meta, class.queue),
        owner: class.owner.to_string(),
        group: class.group.to_string(),
        share: share_name(meta, class.share),
        label: class.label.to_string(),
        priority: job.priority,
        needs: Some(needs(class)),
        ready_ms: if job.state == JobState::Waiting { 0 } else { job.ready_ms },
        leased_ms: job.leased_ms,
        started_ms: job.started_ms,
        session: job.session,
        ..v1::JobView::default()
    }
}

/// A live job.
pub fn live_job(machine: &Machine, job: &Job, meta: &MetaView) -> v1::JobView {
    let shard = machine.shard();
    let class = &machine.classes().get(job.class).key;
    let mut view = base(shard, job, class, meta);
    // The worker's word that it runs may not be in the log yet.
    let said = if job.phase == 2 { JobState::Running } else { JobState::Starting };
    if job.phase > 0 && job.state.is_leased() && said > job.state {
        view.state = said.name().into();
    }
    if job.state.is_leased() {
        view.worker = machine.worker(job.session).to_owned();
    }
    if let Some(task) = machine.task(job.task) {
        view.created_ms = task.created_ms;
        view.body_type = task.body_type.to_string();
        if let (Some(deps), Some(position)) = (&task.deps, task.position(job.seq)) {
            view.depends_on = deps.parents(position).map(|p| shard.id(task.first() + u64::from(p))).collect();
        }
    }
    view
}

/// An array's job that has no record of its own yet, or never got one.
pub fn unmade_job(shard: ShardId, task: &Task, class: &ClassKey, seq: u64, meta: &MetaView) -> v1::JobView {
    let (state, reason, ended) = match task.rest_end.filter(|_| task.rest.is_empty()) {
        Some(end) => (end.state, format!("kill code {}", end.code), end.time_ms),
        None => (task.rest_state, String::new(), 0),
    };
    v1::JobView {
        job_id: shard.id(seq),
        task_id: shard.id(task.seq),
        state: state.name().into(),
        reason,
        max_attempts: task.retry.max_attempts,
        queue: queue_name(meta, class.queue),
        owner: class.owner.to_string(),
        group: class.group.to_string(),
        share: share_name(meta, class.share),
        label: class.label.to_string(),
        priority: task.priority,
        needs: Some(needs(class)),
        created_ms: task.created_ms,
        ready_ms: task.created_ms.max(task.not_before_ms),
        ended_ms: ended,
        body_type: task.body_type.to_string(),
        ..v1::JobView::default()
    }
}

/// An ended job.
pub fn ended_job(shard: ShardId, ended: &EndedJob, meta: &MetaView) -> v1::JobView {
    let mut view = base(shard, &ended.job, &ended.key, meta);
    view.created_ms = ended.created_ms;
    view.ended_ms = ended.ended_ms;
    view.worker = ended.worker.to_string();
    let Report { exit_code, errors, output, cpu_ms, memory_peak_kib, started_ms, details } = &ended.report;
    view.exit_code = *exit_code;
    view.errors = errors
        .iter()
        .map(|(source, code, text)| v1::ErrorPair { source: source.to_string(), code: *code, text: text.to_string() })
        .collect();
    view.output = output.clone();
    view.details = details.clone();
    view.cpu_ms = *cpu_ms;
    view.memory_peak_kib = *memory_peak_kib;
    if view.started_ms == 0 {
        view.started_ms = *started_ms;
    }
    view
}

fn task_view(shard: ShardId, task: &Task, class: &ClassKey, meta: &MetaView) -> v1::TaskView {
    let counts = JobState::ALL
        .iter()
        .filter(|&&state| task.counts[state as usize] > 0)
        .map(|&state| v1::StateCount { state: state.name().into(), jobs: task.counts[state as usize] })
        .collect();
    v1::TaskView {
        task_id: shard.id(task.seq),
        name: task.name.to_string(),
        state: task.state().name().into(),
        queue: queue_name(meta, class.queue),
        owner: class.owner.to_string(),
        group: class.group.to_string(),
        share: share_name(meta, class.share),
        label: class.label.to_string(),
        priority: task.priority,
        created_ms: task.created_ms,
        ended_ms: task.ended_ms,
        first_job_id: shard.id(task.first()),
        jobs: task.jobs,
        counts,
        body_type: task.body_type.to_string(),
    }
}

/// A live task.
pub fn live_task(machine: &Machine, task: &Task, meta: &MetaView) -> v1::TaskView {
    task_view(machine.shard(), task, &machine.classes().get(task.class).key, meta)
}

/// An ended task.
pub fn ended_task(shard: ShardId, ended: &EndedTask, meta: &MetaView) -> v1::TaskView {
    task_view(shard, &ended.task, &ended.key, meta)
}

/// The job's status log: stored rows, and those that its record stands for.
pub fn status_log(view: &v1::JobView, stored: &[Change]) -> Vec<v1::StatusChange> {
    let mut rows: Vec<v1::StatusChange> = stored
        .iter()
        .map(|c| v1::StatusChange {
            time_ms: c.time_ms,
            state: c.state.name().into(),
            attempt: c.attempt,
            who: c.who.to_string(),
            reason: [c.reason.text(), &c.text].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(": "),
        })
        .collect();
    let mut row = |time_ms: u64, state: &str, attempt: u32, who: &str, reason: &str| {
        let known = rows.iter().any(|r| r.state == state && r.attempt == attempt && r.time_ms == time_ms);
        if time_ms > 0 && !known {
            rows.push(v1::StatusChange {
                time_ms,
                state: state.into(),
                attempt,
                who: who.into(),
                reason: reason.into(),
            });
        }
    };
    row(view.created_ms, "defined", 0, &view.owner, "");
    let before = view.attempt.saturating_sub(u32::from(view.leased_ms >= view.ready_ms && view.leased_ms > 0));
    if view.leased_ms > 0 || view.state == "activated" {
        row(view.ready_ms, "activated", before, "moso", "");
    }
    if view.leased_ms >= view.ready_ms {
        row(view.leased_ms, "sent", view.attempt, &view.worker, "");
        // Said by the worker, whose clock may be another one.
        let latest = if view.ended_ms > 0 { view.ended_ms } else { u64::MAX };
        let started = if view.started_ms > 0 { view.started_ms.max(view.leased_ms).min(latest) } else { 0 };
        row(started, "running", view.attempt, &view.worker, "");
    }
    if view.ended_ms > 0 {
        let who = if view.state == "finished" || view.state == "failed" { view.worker.as_str() } else { "moso" };
        row(view.ended_ms, &view.state, view.attempt, who, &view.reason);
    }
    rows.sort_by_key(|r| (r.time_ms, r.attempt, rank(&r.state)));
    rows
}

fn rank(state: &str) -> u8 {
    state.parse::<JobState>().map_or(0, |s| s as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_row_comes_back() {
        let change = Change {
            seq: 7,
            time_ms: 123,
            state: JobState::Throttled,
            attempt: 2,
            who: "ann".into(),
            reason: Reason::Held,
            text: "looks wrong".into(),
        };
        assert_eq!(decode_change(7, encode_change(&change).into()), Ok(change));
        assert!(decode_change(7, Bytes::from_static(b"short")).is_err());
    }

    #[test]
    fn the_log_of_a_plain_job_is_put_together_from_its_record() {
        let view = v1::JobView {
            state: "finished".into(),
            attempt: 1,
            owner: "ann".into(),
            worker: "w1".into(),
            created_ms: 10,
            ready_ms: 10,
            leased_ms: 20,
            started_ms: 21,
            ended_ms: 30,
            ..Default::default()
        };
        let states: Vec<(u64, String)> = status_log(&view, &[]).into_iter().map(|r| (r.time_ms, r.state)).collect();
        let expected = [(10, "defined"), (10, "activated"), (20, "sent"), (21, "running"), (30, "finished")];
        // The activation of attempt 1 belongs to attempt 0, as nothing was leased before it.
        assert_eq!(states, expected.map(|(t, s)| (t, s.to_owned())));
    }
}
