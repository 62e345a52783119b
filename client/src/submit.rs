//! Submissions: one task and its jobs, under an id that makes repeats harmless.

use crate::client::{Client, jobs};
use crate::error::{Error, Result};
use crate::limits::SUBMISSION_SHARED_BYTES_MAX;
use bytes::Bytes;
use moso_proto::id::shard_of_submission;
use moso_proto::v1::{JobSpec, Needs, SubmitReply, SubmitRequest, TaskSpec};
use moso_proto::{Code, MESSAGE_BYTES_MAX};
use rand::RngCore;
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::{Request, Response};

/// One task and its jobs, ready to be submitted. The id is made with it: submitting it again, by this process or (with
/// [`with_id`](Self::with_id)) by another, makes no second task while the cluster remembers the id.
#[derive(Clone, Debug)]
pub struct Submission {
    id: [u8; 16],
    task: TaskSpec,
    jobs: Vec<JobSpec>,
    array: u32,
}

impl Submission {
    /// A task without jobs yet: add some with [`jobs`](Self::jobs), [`job`](Self::job) or [`array`](Self::array).
    pub fn new(task: TaskSpec) -> Self {
        Submission { id: new_id(), task, jobs: Vec::new(), array: 0 }
    }

    /// Adds jobs with bodies of their own. Their ids will be consecutive in this order.
    pub fn jobs(mut self, jobs: Vec<JobSpec>) -> Self {
        self.jobs.extend(jobs);
        self
    }

    /// Adds a job with a body of its own.
    pub fn job(mut self, body: impl Into<Bytes>) -> Self {
        self.jobs.push(JobSpec { body: body.into(), ..JobSpec::default() });
        self
    }

    /// Makes so many jobs that share the task's body, instead of jobs of their own.
    pub fn array(mut self, jobs: u32) -> Self {
        self.array = jobs;
        self
    }

    /// Takes an id kept from before: 6 bytes Unix time in ms, big endian, then 10 random bytes.
    pub fn with_id(mut self, id: [u8; 16]) -> Self {
        self.id = id;
        self
    }

    /// The id: keep it to repeat the submission after a restart.
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// About the bytes of the request; no less than a tenth less.
    fn bytes(&self) -> usize {
        const EACH: usize = 64;
        let tags = |needs: &Option<Needs>| {
            needs.as_ref().map_or(0, |n| n.resource_type.len() + n.tags.iter().map(|tag| tag.len() + 4).sum::<usize>())
        };
        let job = |job: &JobSpec| job.body.len() + tags(&job.needs) + 5 * job.depends_on.len() + EACH;
        let task = &self.task;
        let texts = [&task.name, &task.queue, &task.owner, &task.group, &task.share, &task.label, &task.body_type];
        let texts: usize = texts.into_iter().map(String::len).sum();
        self.jobs.iter().map(job).sum::<usize>() + texts + tags(&task.needs) + task.body.len() + 4 * EACH
    }

    fn into_request(self) -> Result<SubmitRequest> {
        if self.jobs.is_empty() == (self.array == 0) {
            return Err(Error::invalid("a submission has either jobs of its own or an array of at least one job"));
        }
        let bytes: usize = self.jobs.iter().map(|job| job.body.len()).sum();
        if bytes + self.task.body.len() > MESSAGE_BYTES_MAX {
            return Err(Error::Refused {
                code: Code::TooLarge,
                message: format!("the bodies are {bytes} bytes; a submission takes less than {MESSAGE_BYTES_MAX}"),
            });
        }
        Ok(SubmitRequest {
            submission_id: Bytes::copy_from_slice(&self.id),
            task: Some(self.task),
            jobs: self.jobs,
            array: self.array,
        })
    }
}

impl Client {
    /// Submits a task with its jobs: all of them are recorded on a majority when this returns, or none.
    ///
    /// # Errors
    /// See [`Error`]. After [`Error::Unavailable`] and [`Error::Unreachable`] it is not known whether the task exists;
    /// submitting a clone of the same submission is safe and gives the first task's id.
    pub async fn submit(&self, submission: Submission) -> Result<SubmitReply> {
        let id = submission.id;
        let bytes = submission.bytes();
        let request = submission.into_request()?;
        let shards = self.pool().shards();
        let shard = (shards > 0).then(|| shard_of_submission(&id, shards).0);
        if bytes > SUBMISSION_SHARED_BYTES_MAX {
            return self.call(shard, request, |node, call| async move { jobs(&node).submit(call).await }).await;
        }
        let deadline = self.options().call_deadline;
        let submit = |node, call: Request<SubmitRequest>| async move {
            let asked = (call.into_inner(), bytes);
            self.submissions().submit(&node, asked, deadline).await.map(Response::new)
        };
        self.call(shard, request, submit).await
    }
}

/// 6 bytes Unix time in ms, big endian, then 10 random ones.
fn new_id() -> [u8; 16] {
    // A clock before 1970 gives an id that the cluster refuses as too old: the caller sees it at once.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut id = [0; 16];
    id[..6].copy_from_slice(&(now.as_millis() as u64).to_be_bytes()[2..]);
    rand::rng().fill_bytes(&mut id[6..]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_time_then_random() {
        let (a, b) = (new_id(), new_id());
        assert_ne!(a[6..], b[6..]);
        let ms = |id: &[u8; 16]| {
            let mut bytes = [0; 8];
            bytes[2..].copy_from_slice(&id[..6]);
            u64::from_be_bytes(bytes)
        };
        assert!(ms(&a) <= ms(&b));
        assert!(ms(&a) > 1_600_000_000_000);
    }

    #[test]
    fn either_jobs_or_an_array() {
        let task = TaskSpec::default;
        assert!(Submission::new(task()).into_request().is_err());
        assert!(Submission::new(task()).job("x").array(2).into_request().is_err());
        let submission = Submission::new(task()).job("x").job("y");
        let id = submission.id();
        let request = submission.into_request().unwrap();
        assert_eq!((request.jobs.len(), request.array), (2, 0));
        assert_eq!(request.submission_id[..], id);
        assert_eq!(Submission::new(task()).array(5).into_request().unwrap().array, 5);
    }

    #[test]
    fn too_large_is_refused_before_it_is_sent() {
        let body = Bytes::from(vec![0; MESSAGE_BYTES_MAX / 2 + 1]);
        let result = Submission::new(TaskSpec::default()).job(body.clone()).job(body).into_request();
        assert_eq!(result.unwrap_err().code(), Some(Code::TooLarge));
    }
}
