//! The end of a run: everything has healed, the queue drains, the replicas catch up, and what is there is read.

use super::history::{History, SubmissionId, What};
use super::site::Site;
use anyhow::{Context, Result, bail};
use moso_client::Client;
use moso_client::v1::{ListRequest, Selector};
use std::time::{Duration, Instant};

/// How often the cluster is asked whether all jobs have ended.
const LOOK: Duration = Duration::from_millis(250);
/// Rows of one page.
const PAGE: u32 = 5_000;

/// Waits until no job is live on any shard and no replica is behind, for at most `bound`. Gives how long it took.
///
/// # Errors
/// What is left when the time is over.
pub(super) async fn drain(site: &mut Site, bound: Duration) -> Result<Result<Duration, String>> {
    let started = Instant::now();
    loop {
        let why = match left(site).await {
            Ok(0) => return Ok(Ok(started.elapsed())),
            Ok(live) => format!("{live} jobs have not ended"),
            Err(why) => why,
        };
        if started.elapsed() > bound {
            return Ok(Err(why));
        }
        site.pass(LOOK).await?;
    }
}

/// Live jobs, as all nodes see them; or why that is not known.
async fn left(site: &Site) -> Result<u64, String> {
    site.is_live().await?;
    let mut live = 0;
    for node in 1..=site.cluster.nodes() {
        let view = site.cluster.view(node).await.ok_or_else(|| format!("node {node} does not answer"))?;
        if let Some(shard) = view.shards.iter().find(|shard| shard.lag > 0) {
            return Err(format!("a replica of shard {} is {} entries behind", shard.shard, shard.lag));
        }
        live = live.max(view.shards.iter().map(|shard| shard.live).sum());
    }
    Ok(live)
}

/// Records every task and job of the queue.
///
/// # Errors
/// When the cluster does not answer, or its lists do not end.
pub(super) async fn read(client: &Client, queue: &str, history: &History) -> Result<()> {
    let selector = || Some(Selector { queue: queue.to_owned(), ..Selector::default() });
    let mut cursor = String::new();
    loop {
        let request = ListRequest { selector: selector(), limit: PAGE, cursor: cursor.clone() };
        let page = client.list_tasks(request).await.context("list of tasks")?;
        for task in page.tasks {
            let submission = task.name.parse::<SubmissionId>().ok();
            let finished = task.counts.iter().filter(|count| count.state == "finished").map(|count| count.jobs).sum();
            history.add(What::FoundTask {
                task: task.task_id,
                submission,
                first_job: task.first_job_id,
                jobs: task.jobs,
                finished,
            });
        }
        if !goes_on(&mut cursor, page.cursor)? {
            break;
        }
    }
    let mut cursor = String::new();
    loop {
        let request = ListRequest { selector: selector(), limit: PAGE, cursor: cursor.clone() };
        let page = client.list_jobs(request).await.context("list of jobs")?;
        for job in page.jobs {
            history.add(What::FoundJob {
                job: job.job_id,
                task: job.task_id,
                state: job.state,
                attempt: job.attempt,
                session: job.session,
            });
        }
        if !goes_on(&mut cursor, page.cursor)? {
            return Ok(());
        }
    }
}

fn goes_on(cursor: &mut String, next: String) -> Result<bool> {
    if !next.is_empty() && next == *cursor {
        bail!("a list does not go on after {next:?}");
    }
    *cursor = next;
    Ok(!cursor.is_empty())
}
