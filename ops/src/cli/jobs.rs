//! `moso job`, `moso jobs`, `moso explain`.

use super::output::{Output, Table, fields};
use super::text;
use anyhow::Result;
use bytes::Bytes;
use clap::{ArgAction, Args};
use moso_client::Client;
use moso_proto::JobState;
use moso_proto::v1::{Explanation, JobView, ListRequest, Needs, Selector};
use serde_json::{Value, json};

/// Jobs or tasks in one page of a list: what a node gives at most.
const PAGE: u32 = 10_000;

#[derive(Debug, Args)]
pub struct Job {
    id: u64,
    /// Print the body as well.
    #[arg(long)]
    body: bool,
}

impl Job {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        let job = match self.body {
            true => client.job_with_body(self.id).await?,
            false => client.job(self.id).await?,
        };
        out.show(&to_json(&job), |_| show(&job))
    }
}

/// Which jobs are meant. All that is given must match.
#[derive(Clone, Debug, Default, Args)]
pub struct Filter {
    /// Job ids, separated by commas.
    #[arg(long = "job", value_delimiter = ',', value_name = "ID")]
    pub jobs: Vec<u64>,
    /// Task ids, separated by commas.
    #[arg(long = "task", value_delimiter = ',', value_name = "ID")]
    pub tasks: Vec<u64>,
    /// Job states, separated by commas.
    #[arg(long = "state", value_delimiter = ',', value_name = "STATE")]
    pub states: Vec<JobState>,
    /// Queue.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub queue: String,
    /// Owner.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub owner: String,
    /// Group.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub group: String,
    /// Share.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub share: String,
    /// Label.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub label: String,
}

impl Filter {
    pub fn selector(&self) -> Selector {
        Selector {
            jobs: self.jobs.clone(),
            tasks: self.tasks.clone(),
            queue: self.queue.clone(),
            states: self.states.iter().map(JobState::to_string).collect(),
            owner: self.owner.clone(),
            group: self.group.clone(),
            share: self.share.clone(),
            label: self.label.clone(),
        }
    }
}

#[derive(Debug, Args)]
pub struct Jobs {
    #[command(flatten)]
    filter: Filter,
    /// Most jobs listed.
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Count the matching jobs by state instead of listing them; the limit still holds.
    #[arg(long, action = ArgAction::SetTrue)]
    count: bool,
}

impl Jobs {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        let (jobs, more) = self.read(client).await?;
        if self.count {
            return count(&jobs, more, out);
        }
        let rows: Vec<_> = jobs.iter().map(to_json).collect();
        out.show(&rows, |_| {
            let mut table =
                Table::new(["JOB", "TASK", "STATE", "QUEUE", "OWNER", "PRIO", "TRY", "SINCE", "WORKER", "REASON"]);
            for job in &jobs {
                table.row([
                    job.job_id.to_string(),
                    job.task_id.to_string(),
                    job.state.clone(),
                    job.queue.clone(),
                    job.owner.clone(),
                    job.priority.to_string(),
                    format!("{}/{}", job.attempt, job.max_attempts),
                    text::time(last_change(job)),
                    job.worker.clone(),
                    reason(job),
                ]);
            }
            table.render()
        })?;
        match more {
            true => out.note(format!("… and more; see --limit {}", self.limit)),
            false => Ok(()),
        }
    }

    /// Reads pages until the limit; gives whether there are more.
    async fn read(&self, client: &Client) -> Result<(Vec<JobView>, bool)> {
        let mut jobs = Vec::new();
        let mut cursor = String::new();
        loop {
            let request = ListRequest {
                selector: Some(self.filter.selector()),
                limit: (self.limit - jobs.len() as u32).min(PAGE),
                cursor,
            };
            let page = client.list_jobs(request).await?;
            jobs.extend(page.jobs);
            jobs.truncate(self.limit as usize);
            cursor = page.cursor;
            if cursor.is_empty() || jobs.len() >= self.limit as usize {
                return Ok((jobs, !cursor.is_empty()));
            }
        }
    }
}

fn count(jobs: &[JobView], more: bool, out: &Output) -> Result<()> {
    let mut counts: Vec<(JobState, usize)> = JobState::ALL.map(|state| (state, 0)).to_vec();
    for job in jobs {
        if let Some((_, count)) = counts.iter_mut().find(|(state, _)| state.name() == job.state) {
            *count += 1;
        }
    }
    counts.retain(|(_, count)| *count > 0);
    let rows: Vec<_> = counts.iter().map(|(state, jobs)| json!({ "state": state, "jobs": jobs })).collect();
    out.show(&rows, |_| {
        let mut table = Table::new(["STATE", "JOBS"]);
        for (state, jobs) in &counts {
            table.row([state.to_string(), jobs.to_string()]);
        }
        table.render()
    })?;
    match more {
        true => out.note("… and more; see --limit"),
        false => Ok(()),
    }
}

#[derive(Debug, Args)]
pub struct Explain {
    /// Job id.
    id: u64,
}

impl Explain {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        let explanation = client.explain(self.id).await?;
        out.show(&explanation, explain)
    }
}

fn explain(explanation: &Explanation) -> String {
    let mut table = Table::new(["GATE", "", "DETAIL"]);
    for gate in &explanation.gates {
        let passed = if gate.passed { "pass" } else { "STOP" };
        table.row([gate.name.clone(), passed.into(), gate.detail.clone()]);
    }
    format!("job {} is {}: {}\n\n{}", explanation.job_id, explanation.state, explanation.verdict, table.render())
}

/// The job's JSON, with output and body as text: bytes would be lists of numbers.
fn to_json(job: &JobView) -> Value {
    let lossy = |bytes: &Bytes| Value::from(String::from_utf8_lossy(bytes));
    let bare = JobView { output: Bytes::new(), body: Bytes::new(), details: Bytes::new(), ..job.clone() };
    let mut value = json!(bare);
    value["output"] = lossy(&job.output);
    value["body"] = lossy(&job.body);
    value["details"] = serde_json::from_slice(&job.details).unwrap_or_default();
    value
}

fn last_change(job: &JobView) -> u64 {
    let times = [job.ended_ms, job.started_ms, job.leased_ms, job.created_ms];
    times.into_iter().find(|ms| *ms > 0).unwrap_or(0)
}

fn reason(job: &JobView) -> String {
    match job.errors.first() {
        Some(error) if job.reason.is_empty() => error.text.clone(),
        _ => job.reason.clone(),
    }
}

fn show(job: &JobView) -> String {
    let mut shown = fields([
        ("job", job.job_id.to_string()),
        ("task", job.task_id.to_string()),
        ("state", job.state.clone()),
        ("reason", job.reason.clone()),
        ("attempt", format!("{} of {}", job.attempt, job.max_attempts)),
        ("queue", job.queue.clone()),
        ("owner", job.owner.clone()),
        ("group", job.group.clone()),
        ("share", job.share.clone()),
        ("label", job.label.clone()),
        ("priority", job.priority.to_string()),
        ("needs", needs(job.needs.as_ref())),
        ("depends on", list(&job.depends_on)),
        ("created", text::time(job.created_ms)),
        ("ready", text::time(job.ready_ms)),
        ("leased", text::time(job.leased_ms)),
        ("started", text::time(job.started_ms)),
        ("ended", text::time(job.ended_ms)),
        ("ran for", ran_for(job)),
        ("CPU time", text::span_ms(job.cpu_ms)),
        ("memory peak", memory(job.memory_peak_kib)),
        ("worker", job.worker.clone()),
        ("exit code", exit_code(job)),
    ]);
    for error in &job.errors {
        shown += &format!("error      {} {}: {}\n", error.source, error.code, error.text);
    }
    if !job.log.is_empty() {
        let mut table = Table::new(["TIME", "STATE", "TRY", "BY", "REASON"]);
        for change in &job.log {
            table.row([
                text::time(change.time_ms),
                change.state.clone(),
                change.attempt.to_string(),
                change.who.clone(),
                change.reason.clone(),
            ]);
        }
        shown += &format!("\n{}", table.render());
    }
    let details = pretty(&job.details);
    for (name, bytes) in [("report", &details), ("output", &job.output), ("body", &job.body)] {
        if !bytes.is_empty() {
            shown += &format!("\n{name}:\n{}", String::from_utf8_lossy(bytes));
        }
    }
    shown
}

/// A JSON object with a line for each field; anything else as it is.
fn pretty(details: &Bytes) -> Bytes {
    let value: Result<Value, _> = serde_json::from_slice(details);
    value.and_then(|value| serde_json::to_vec_pretty(&value)).map_or_else(|_| details.clone(), Bytes::from)
}

fn ran_for(job: &JobView) -> String {
    let is_running = job.ended_ms > 0 || job.state == JobState::Running.name();
    match is_running {
        true => text::between_ms(job.started_ms, job.ended_ms),
        false => String::new(),
    }
}

fn exit_code(job: &JobView) -> String {
    match job.state.parse::<JobState>() {
        Ok(JobState::Finished | JobState::Failed) => job.exit_code.to_string(),
        _ => String::new(),
    }
}

fn memory(kib: u64) -> String {
    match kib {
        0 => String::new(),
        kib => text::bytes(kib.saturating_mul(1024)),
    }
}

fn list(ids: &[u64]) -> String {
    let ids: Vec<_> = ids.iter().map(u64::to_string).collect();
    ids.join(", ")
}

fn needs(needs: Option<&Needs>) -> String {
    let Some(needs) = needs else {
        return String::new();
    };
    let number = |value: u32, unit: &str| (value > 0).then(|| format!("{value} {unit}"));
    let wall_time = text::span_ms(u64::from(needs.wall_time_s) * 1_000);
    [
        number(needs.cores, "cores"),
        number(needs.memory_mib, "MiB memory"),
        number(needs.disk_mib, "MiB disk"),
        (!wall_time.is_empty()).then_some(wall_time),
        (!needs.resource_type.is_empty()).then(|| needs.resource_type.clone()),
        (!needs.tags.is_empty()).then(|| format!("tags {}", needs.tags.join(" "))),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use moso_proto::v1::{ErrorPair, StatusChange};

    fn job() -> JobView {
        JobView {
            job_id: 7,
            state: "failed".into(),
            attempt: 3,
            max_attempts: 3,
            exit_code: 2,
            started_ms: 1_000,
            ended_ms: 61_000,
            needs: Some(Needs { cores: 8, tags: vec!["gpu".into()], ..Needs::default() }),
            errors: vec![ErrorPair { source: "exe".into(), code: 2, text: "exit code 2".into() }],
            output: Bytes::from_static(b"no such file\xff\n"),
            log: vec![StatusChange { state: "failed".into(), who: "worker".into(), ..StatusChange::default() }],
            ..JobView::default()
        }
    }

    #[test]
    fn a_job_is_shown_with_its_error_log_and_output() {
        let shown = show(&job());
        for part in ["3 of 3", "8 cores, tags gpu", "1m", "exe 2: exit code 2", "worker", "no such file"] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        assert!(!shown.contains("depends on"));
        assert_eq!(reason(&job()), "exit code 2");
    }

    #[test]
    fn output_is_text_in_json() {
        let value = to_json(&job());
        assert_eq!(value["output"], "no such file\u{fffd}\n");
        assert_eq!(value["job_id"], 7);
    }
}
