//! Watching a task until it has ended.

use crate::client::{Client, jobs};
use crate::error::Result;
use crate::query::shard_of_task;
use crate::retry::{Failure, Tries};
use futures::stream::{BoxStream, StreamExt, unfold};
use moso_proto::TaskState;
use moso_proto::v1::{TaskRequest, TaskView};
use tonic::Streaming;

/// A watch between two views.
struct Watch {
    client: Client,
    task: u64,
    views: Option<(String, Streaming<TaskView>)>,
    ended: bool,
}

impl Client {
    /// The task's view now and after each change (at most ten a second), until it has ended. A broken stream is opened
    /// again at another node, so a view may come twice.
    ///
    /// The stream ends with an error as of [`task`](Self::task), or when no node has answered for the retry budget.
    pub fn watch_task(&self, id: u64) -> BoxStream<'static, Result<TaskView>> {
        let watch = Watch { client: self.clone(), task: id, views: None, ended: false };
        unfold(watch, |mut watch| async move {
            if watch.ended {
                return None;
            }
            let view = watch.next().await;
            watch.ended = view.as_ref().map_or(true, |view| has_ended(&view.state));
            Some((view, watch))
        })
        .boxed()
    }
}

impl Watch {
    async fn next(&mut self) -> Result<TaskView> {
        let client = self.client.clone();
        let mut tries = Tries::new(&client, shard_of_task(self.task));
        loop {
            let (node, failure) = match self.views.as_mut() {
                None => match self.open(&mut tries).await {
                    Ok(()) => continue,
                    Err(failed) => failed,
                },
                Some((node, views)) => match views.message().await {
                    Ok(Some(view)) => return Ok(view),
                    Ok(None) => (node.clone(), Failure::Transport("it closed the watch".into())),
                    Err(status) => (node.clone(), Failure::of(&status, node)),
                },
            };
            self.views = None;
            tries.after(failure, &node).await?;
        }
    }

    async fn open(&mut self, tries: &mut Tries<'_>) -> std::result::Result<(), (String, Failure)> {
        let node = tries.node();
        let address = node.address.to_string();
        let request = TaskRequest { task_id: self.task };
        let deadline = self.client.options().call_deadline;
        match tokio::time::timeout(deadline, jobs(&node).watch_task(request)).await {
            Ok(Ok(response)) => {
                self.client.pool().mark_up(&address);
                self.views = Some((address, response.into_inner()));
                Ok(())
            }
            Ok(Err(status)) => {
                let failure = Failure::of(&status, &address);
                Err((address, failure))
            }
            Err(_) => Err((address, Failure::Transport(format!("no answer within {deadline:?}")))),
        }
    }
}

fn has_ended(state: &str) -> bool {
    use TaskState::{Aborted, Done, Failed, Finished};
    [Done, Finished, Failed, Aborted].iter().any(|s| s.name() == state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_with_the_task() {
        for state in [TaskState::Ready, TaskState::Running] {
            assert!(!has_ended(state.name()));
        }
        for state in [TaskState::Done, TaskState::Finished, TaskState::Failed, TaskState::Aborted] {
            assert!(state.is_final() && has_ended(state.name()));
        }
    }
}
