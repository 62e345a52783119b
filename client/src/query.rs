//! Questions about jobs and tasks, and what may be done to them.

use crate::client::{Client, jobs};
use crate::error::Result;
use moso_proto::v1::{
    ActReply, ActRequest, Explanation, JobList, JobRequest, JobView, ListRequest, TaskList, TaskRequest, TaskView,
};
use moso_proto::{JobId, TaskId};

fn shard_of_job(id: u64) -> Option<u16> {
    JobId(id).shard().map(|shard| shard.0)
}

pub(crate) fn shard_of_task(id: u64) -> Option<u16> {
    TaskId(id).shard().map(|shard| shard.0)
}

impl Client {
    /// A job with its log, without its body.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) with [`Code::NotFound`](crate::Code::NotFound) when there is none.
    pub async fn job(&self, id: u64) -> Result<JobView> {
        self.get_job(JobRequest { job_id: id, body: false }).await
    }

    /// A job with its log and its body.
    ///
    /// # Errors
    /// As [`job`](Self::job).
    pub async fn job_with_body(&self, id: u64) -> Result<JobView> {
        self.get_job(JobRequest { job_id: id, body: true }).await
    }

    async fn get_job(&self, request: JobRequest) -> Result<JobView> {
        let shard = shard_of_job(request.job_id);
        self.call(shard, request, |node, call| async move { jobs(&node).get_job(call).await }).await
    }

    /// A task with the number of its jobs in each state.
    ///
    /// # Errors
    /// As [`job`](Self::job).
    pub async fn task(&self, id: u64) -> Result<TaskView> {
        let request = TaskRequest { task_id: id };
        self.call(shard_of_task(id), request, |node, call| async move { jobs(&node).get_task(call).await }).await
    }

    /// One page of the jobs that a selector matches; `cursor` of the reply asks for the next, empty: there is none.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    pub async fn list_jobs(&self, request: ListRequest) -> Result<JobList> {
        self.call(None, request, |node, call| async move { jobs(&node).list_jobs(call).await }).await
    }

    /// One page of the tasks that a selector matches, as [`list_jobs`](Self::list_jobs).
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    pub async fn list_tasks(&self, request: ListRequest) -> Result<TaskList> {
        self.call(None, request, |node, call| async move { jobs(&node).list_tasks(call).await }).await
    }

    /// Kills, holds, releases, retries or re-prioritises the jobs that a selector matches. An empty `actor` becomes the
    /// client's author.
    ///
    /// # Errors
    /// See [`Error`](crate::Error). Jobs that could not be changed are no error: the reply counts them.
    pub async fn act(&self, mut request: ActRequest) -> Result<ActReply> {
        if request.actor.is_empty() {
            request.actor.clone_from(&self.options().author);
        }
        self.call(None, request, |node, call| async move { jobs(&node).act(call).await }).await
    }

    /// Each gate between a job and a worker, with its verdict: why the job does not run.
    ///
    /// # Errors
    /// As [`job`](Self::job).
    pub async fn explain(&self, id: u64) -> Result<Explanation> {
        let request = JobRequest { job_id: id, body: false };
        self.call(shard_of_job(id), request, |node, call| async move { jobs(&node).explain(call).await }).await
    }
}
