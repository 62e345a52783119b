//! `moso submit`.

use super::exit::Usage;
use super::output::Output;
use super::{connect, input, tasks};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use moso_client::{Client, Command, Submission};
use moso_proto::v1::{FailurePolicy, Needs, RetryPolicy, TaskSpec, TaskView};
use moso_proto::{JobState, TaskState};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct Submit {
    /// Queue whose workers run the jobs.
    #[arg(long, short)]
    queue: String,
    /// Run the command so many times.
    #[arg(long, visible_alias = "count", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    array: u32,
    /// -10000 to 10000; higher runs first.
    #[arg(long, short, default_value_t = 1000, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-10_000..=10_000))]
    priority: i32,
    /// Name of the task, for people.
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Owner. Default: $USER.
    #[arg(long)]
    owner: Option<String>,
    /// Group.
    #[arg(long, default_value = "", hide_default_value = true)]
    group: String,
    /// Share that the jobs count for.
    #[arg(long, default_value = "", hide_default_value = true)]
    share: String,
    /// Label (PanDA's prodSourceLabel): managed, user, test, …
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
    /// Cores of each job.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    cores: u32,
    /// Memory of each job, as 2G or 500M.
    #[arg(long, default_value = "0", hide_default_value = true, value_parser = input::mebibytes, value_name = "SIZE")]
    memory: u32,
    /// Scratch space of each job, as 20G.
    #[arg(long, default_value = "0", hide_default_value = true, value_parser = input::mebibytes, value_name = "SIZE")]
    disk: u32,
    /// Longest run time of each job, as 2h.
    #[arg(long, value_parser = input::seconds, value_name = "TIME")]
    wall_time: Option<u32>,
    /// PanDA's resource type, as SCORE or MCORE.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TYPE")]
    resource_type: String,
    /// Tag that the worker must offer; may be given again.
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// Not before this: a wait (10m) or a time in UTC (2030-01-31T12:00:00Z).
    #[arg(long, value_parser = input::moment, value_name = "TIME")]
    not_before: Option<u64>,
    /// Close what does not run by then: a wait or a time, as above.
    #[arg(long, value_parser = input::moment, value_name = "TIME")]
    expires: Option<u64>,
    /// Attempts of each job, the first included.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    max_attempts: Option<u32>,
    /// Wait before the second attempt; doubles with each further one.
    #[arg(long, value_parser = input::duration, value_name = "TIME")]
    retry_wait: Option<Duration>,
    /// Close what is left once more than so many jobs have failed.
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    max_failed: u32,
    /// Variable set for the command, NAME=VALUE; may be given again.
    #[arg(long = "env", value_parser = input::assignment, value_name = "NAME=VALUE")]
    env: Vec<(String, String)>,
    /// Folder to run the command in.
    #[arg(long, value_name = "FOLDER")]
    cwd: Option<String>,
    /// File that is the jobs' body, instead of a command.
    #[arg(long, value_name = "FILE", requires = "body_type", conflicts_with_all = ["argv", "env", "cwd"])]
    body_file: Option<PathBuf>,
    /// What workers are told that the body is.
    #[arg(long, value_name = "TYPE", requires = "body_file")]
    body_type: Option<String>,
    /// Wait until the task has ended; exit with 1 unless all its jobs finished.
    #[arg(long)]
    wait: bool,
    /// Command and arguments; no shell is involved.
    #[arg(last = true, value_name = "COMMAND")]
    argv: Vec<String>,
}

impl Submit {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        let (array, wait) = (self.array, self.wait);
        // Where callers are asked who they are, what they submit is theirs.
        let asked = client.options().tls.is_some();
        let named = self.owner.clone();
        let owner = named.unwrap_or_else(|| if asked { String::new() } else { connect::author() });
        let submission = Submission::new(self.task(owner)?).array(array);
        let reply = client.submit(submission).await?;
        if !wait {
            return out.show(&reply, |reply| reply.task_id.to_string());
        }
        out.note(reply.task_id.to_string())?;
        let task = follow(client, reply.task_id).await?;
        out.show(&task, |task| format!("{}: {}", task.state, tasks::counts(task)))?;
        match task.state == TaskState::Done.name() {
            true => Ok(()),
            false => bail!("not all jobs of task {} finished", task.task_id),
        }
    }

    fn task(self, owner: String) -> Result<TaskSpec> {
        let (body_type, body) = self.body()?;
        let retry = RetryPolicy {
            max_attempts: self.max_attempts.unwrap_or(0),
            backoff_initial_ms: match self.retry_wait {
                Some(wait) => {
                    u32::try_from(wait.as_millis()).map_err(|_| Usage("--retry-wait is at most 49 days".into()))?
                }
                None => 0,
            },
            ..RetryPolicy::default()
        };
        Ok(TaskSpec {
            name: self.name,
            queue: self.queue,
            owner,
            group: self.group,
            share: self.share,
            label: self.label,
            priority: self.priority,
            needs: Some(Needs {
                cores: self.cores,
                memory_mib: self.memory,
                disk_mib: self.disk,
                wall_time_s: self.wall_time.unwrap_or(0),
                resource_type: self.resource_type,
                tags: self.tags,
            }),
            retry: (retry != RetryPolicy::default()).then_some(retry),
            not_before_ms: self.not_before.unwrap_or(0),
            expires_at_ms: self.expires.unwrap_or(0),
            failure_policy: FailurePolicy::CloseDependents.into(),
            max_failed: self.max_failed,
            body_type,
            body,
        })
    }

    fn body(&self) -> Result<(String, Bytes)> {
        if let (Some(file), Some(body_type)) = (&self.body_file, &self.body_type) {
            let body = std::fs::read(file).with_context(|| file.display().to_string())?;
            return Ok((body_type.clone(), body.into()));
        }
        if self.argv.is_empty() {
            return Err(Usage("give a command after --, or --body-file and --body-type".into()).into());
        }
        let command =
            Command { argv: self.argv.clone(), env: self.env.iter().cloned().collect(), cwd: self.cwd.clone() };
        Ok((Command::BODY_TYPE.into(), command.encode()))
    }
}

/// Shows a bar until the task has ended.
async fn follow(client: &Client, id: u64) -> Result<TaskView> {
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} {msg}").expect("the template is well formed");
    let bar = ProgressBar::new(0).with_style(style);
    let mut views = client.watch_task(id);
    let mut last = None;
    while let Some(view) = views.next().await {
        let view = view?;
        bar.set_length(view.jobs.into());
        bar.set_position(tasks::count(&view, JobState::is_final).into());
        bar.set_message(tasks::counts(&view));
        last = Some(view);
    }
    bar.finish_and_clear();
    last.context("the task was not seen")
}
