//! Asks the cluster what became of the jobs, beside the generator's own books.

use crate::run::Run;
use anyhow::{Context, Result, bail};
use moso_client::v1::{ListRequest, Selector, TaskView};
use moso_proto::JobState;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// Tasks of one page.
const PAGE: u32 = 5_000;

/// The cluster's count of the run's jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Tasks known.
    pub tasks: u64,
    /// Jobs in each state.
    pub states: BTreeMap<String, u64>,
    /// Jobs of tasks the cluster does not know.
    pub missing: u64,
}

impl Count {
    /// Jobs in a final state.
    pub fn ended(&self) -> u64 {
        let is_final = |name: &str| name.parse().is_ok_and(JobState::is_final);
        let states = self.states.iter();
        states.filter(|(name, _)| is_final(name)).map(|(_, n)| n).sum()
    }

    /// Jobs in this state.
    pub fn of(&self, state: JobState) -> u64 {
        self.states.get(state.name()).copied().unwrap_or(0)
    }

    fn add(&mut self, task: &TaskView) {
        self.tasks += 1;
        for count in &task.counts {
            *self.states.entry(count.state.clone()).or_default() += u64::from(count.jobs);
        }
    }
}

/// Counts the run's jobs: the tasks of its queues, and one by one those that the lists did not show.
///
/// # Errors
/// When the cluster does not answer.
pub async fn count(run: &Run, queues: &[String]) -> Result<Count> {
    let mut open: HashMap<u64, u32> = run.tasks().into_iter().collect();
    let mut count = Count::default();
    for queue in queues {
        if !open.is_empty() {
            count_queue(run, queue, &mut open, &mut count).await?;
        }
    }
    for (task, jobs) in open {
        match run.client.task(task).await {
            Ok(view) => count.add(&view),
            Err(error) if error.code() == Some(moso_client::Code::NotFound) => {
                tracing::error!(task, "the cluster does not know a task it acknowledged");
                count.missing += u64::from(jobs);
            }
            Err(error) => return Err(error).context(format!("task {task}")),
        }
    }
    Ok(count)
}

async fn count_queue(run: &Run, queue: &str, open: &mut HashMap<u64, u32>, count: &mut Count) -> Result<()> {
    let mut cursor = String::new();
    loop {
        let request = ListRequest {
            selector: Some(Selector { queue: queue.to_owned(), ..Selector::default() }),
            limit: PAGE,
            cursor: cursor.clone(),
        };
        let page = run.client.list_tasks(request).await;
        let page = page.with_context(|| format!("tasks of queue {queue}"))?;
        for task in &page.tasks {
            if open.remove(&task.task_id).is_some() {
                count.add(task);
            }
        }
        if page.cursor.is_empty() {
            return Ok(());
        }
        if page.cursor == cursor {
            bail!("the list of tasks of queue {queue} does not go on");
        }
        cursor = page.cursor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moso_client::v1::StateCount;

    #[test]
    fn final_states_are_ended() {
        let counts = [("finished", 90), ("failed", 5), ("running", 3), ("closed", 2)];
        let task = TaskView {
            counts: counts.iter().map(|(state, jobs)| StateCount { state: (*state).to_owned(), jobs: *jobs }).collect(),
            ..TaskView::default()
        };
        let mut count = Count::default();
        count.add(&task);
        count.add(&task);
        assert_eq!((count.tasks, count.ended()), (2, 194));
        assert_eq!(count.of(JobState::Finished), 180);
        assert_eq!(count.of(JobState::Pending), 0);
    }
}
