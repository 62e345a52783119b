//! `moso task`, `moso tasks`.

use super::output::{Output, Table, fields};
use super::text;
use anyhow::Result;
use clap::Args;
use moso_client::Client;
use moso_proto::JobState;
use moso_proto::v1::{ListRequest, Selector, TaskView};

#[derive(Debug, Args)]
pub struct Task {
    id: u64,
}

impl Task {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        let task = client.task(self.id).await?;
        out.show(&task, show)
    }
}

#[derive(Debug, Args)]
pub struct Tasks {
    /// Task states, separated by commas: ready, running, done, finished, failed, aborted.
    #[arg(long = "state", value_delimiter = ',', value_name = "STATE")]
    states: Vec<String>,
    /// Queue.
    #[arg(long, default_value = "", hide_default_value = true)]
    queue: String,
    /// Owner.
    #[arg(long, default_value = "", hide_default_value = true)]
    owner: String,
    /// Most tasks listed.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

impl Tasks {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        let request = ListRequest {
            selector: Some(Selector {
                states: self.states,
                queue: self.queue,
                owner: self.owner,
                ..Selector::default()
            }),
            limit: self.limit,
            cursor: String::new(),
        };
        let page = client.list_tasks(request).await?;
        out.show(&page.tasks, |tasks| list(tasks))?;
        match page.cursor.is_empty() {
            true => Ok(()),
            false => out.note(format!("… and more; see --limit {}", self.limit)),
        }
    }
}

fn list(tasks: &[TaskView]) -> String {
    let mut table =
        Table::new(["TASK", "NAME", "STATE", "QUEUE", "OWNER", "JOBS", "FINISHED", "FAILED", "RUNNING", "CREATED"]);
    for task in tasks {
        table.row([
            task.task_id.to_string(),
            task.name.clone(),
            task.state.clone(),
            task.queue.clone(),
            task.owner.clone(),
            task.jobs.to_string(),
            count(task, |state| state == JobState::Finished).to_string(),
            count(task, |state| state.is_final() && state != JobState::Finished).to_string(),
            count(task, JobState::is_leased).to_string(),
            text::time(task.created_ms),
        ]);
    }
    table.render()
}

/// The number of the task's jobs whose state satisfies the condition.
pub fn count(task: &TaskView, wanted: impl Fn(JobState) -> bool) -> u32 {
    let counted = task.counts.iter().filter(|count| {
        let state = count.state.parse::<JobState>();
        state.is_ok_and(&wanted)
    });
    counted.map(|count| count.jobs).sum()
}

/// The number of jobs in each state, as `3 running, 5 finished`.
pub fn counts(task: &TaskView) -> String {
    let counts = task.counts.iter().filter(|count| count.jobs > 0);
    let counts = counts.map(|count| format!("{} {}", count.jobs, count.state));
    counts.collect::<Vec<_>>().join(", ")
}

/// All of a task.
pub fn show(task: &TaskView) -> String {
    let last_job = task.first_job_id + u64::from(task.jobs.max(1)) - 1;
    fields([
        ("task", task.task_id.to_string()),
        ("name", task.name.clone()),
        ("state", task.state.clone()),
        ("jobs", format!("{} ({})", task.jobs, counts(task))),
        ("job ids", format!("{} to {last_job}", task.first_job_id)),
        ("queue", task.queue.clone()),
        ("owner", task.owner.clone()),
        ("group", task.group.clone()),
        ("share", task.share.clone()),
        ("label", task.label.clone()),
        ("priority", task.priority.to_string()),
        ("body type", task.body_type.clone()),
        ("created", text::time(task.created_ms)),
        ("ended", text::time(task.ended_ms)),
        ("time", text::between_ms(task.created_ms, task.ended_ms)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use moso_proto::v1::StateCount;

    #[test]
    fn jobs_are_counted_by_what_they_do() {
        let states = [("finished", 5), ("failed", 2), ("closed", 1), ("sent", 3), ("running", 4), ("waiting", 0)];
        let task = TaskView {
            task_id: 9,
            first_job_id: 10,
            jobs: 15,
            counts: states.map(|(state, jobs)| StateCount { state: state.into(), jobs }).to_vec(),
            ..TaskView::default()
        };
        assert_eq!(count(&task, JobState::is_leased), 7);
        assert_eq!(count(&task, JobState::is_final), 8);
        assert_eq!(counts(&task), "5 finished, 2 failed, 1 closed, 3 sent, 4 running");
        assert!(show(&task).contains("10 to 24"));
        assert!(list(&[task]).lines().nth(1).unwrap().contains("15"));
    }
}
