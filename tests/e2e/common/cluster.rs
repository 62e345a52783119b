//! Three nodes and a client.

use super::{DEADLINE, eventually};
use moso::{LocalCluster, LocalOptions};
use moso_client::proto::object::{Queue, Setting, kind};
use moso_client::v1::act_request::Action;
use moso_client::v1::{ActReply, ActRequest, JobSpec, JobView, ListRequest, Selector, SubmitReply, TaskSpec, TaskView};
use moso_client::{Client, ClientOptions, Session, SessionOptions, Submission};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Lines of each node's log that a failed test shows.
const LOG_LINES: usize = 25;

/// A cluster of three processes with a client.
pub struct Cluster {
    /// The processes.
    pub nodes: LocalCluster,
    /// A client of it.
    pub client: Client,
}

impl Cluster {
    /// Starts it, and waits until every shard has a leader.
    pub async fn start() -> Self {
        Self::start_with(LocalOptions::default()).await
    }

    /// As [`Cluster::start`], not as by default.
    pub async fn start_with(options: LocalOptions) -> Self {
        Self::of(LocalCluster::start(options).await.unwrap()).await
    }

    /// A cluster that runs.
    pub async fn of(nodes: LocalCluster) -> Self {
        let client = Self::connect(&nodes).await;
        Cluster { nodes, client }
    }

    async fn connect(nodes: &LocalCluster) -> Client {
        // Longer than a leader change takes on a busy machine.
        let options = ClientOptions {
            retry_budget: DEADLINE,
            call_deadline: Duration::from_secs(5),
            author: "test".into(),
            ..ClientOptions::default()
        };
        Client::connect_with(nodes.addrs(), nodes.client_options(options)).await.unwrap()
    }

    /// Makes a queue.
    pub async fn queue(&self, name: &str) {
        self.queue_with(name, Queue::default()).await;
    }

    /// Makes or changes a queue, and waits until all nodes know it.
    pub async fn queue_with(&self, name: &str, queue: Queue) {
        self.client.put_object(kind::QUEUE, name, &queue, None).await.unwrap();
    }

    /// A queue with the shortest lease.
    pub async fn short_lease_queue(&self, name: &str) {
        let queue = Queue { lease_ttl_ms: 15_000, heartbeat_ms: 5_000, ..Queue::default() };
        self.queue_with(name, queue).await;
    }

    /// Changes a setting.
    pub async fn set(&self, setting: &str, value: u64) {
        self.client.put_object(kind::SETTING, setting, &Setting { value }, None).await.unwrap();
    }

    /// Submits jobs of their own.
    pub async fn submit(&self, task: TaskSpec, jobs: Vec<JobSpec>) -> SubmitReply {
        self.client.submit(Submission::new(task).jobs(jobs)).await.unwrap()
    }

    /// Submits one job and gives its id.
    pub async fn submit_one(&self, task: TaskSpec) -> u64 {
        self.submit(task, vec![JobSpec::default()]).await.first_job_id
    }

    /// Submits an array.
    pub async fn submit_array(&self, task: TaskSpec, jobs: u32) -> SubmitReply {
        self.client.submit(Submission::new(task).array(jobs)).await.unwrap()
    }

    /// A worker session.
    pub async fn session(&self, worker: &str) -> Session {
        let options = SessionOptions { worker: worker.into(), node: None };
        self.client.session(options).await.unwrap()
    }

    /// The job.
    pub async fn job(&self, id: u64) -> JobView {
        self.client.job(id).await.unwrap()
    }

    /// The task.
    pub async fn task(&self, id: u64) -> TaskView {
        self.client.task(id).await.unwrap()
    }

    /// The job, once it is in this state.
    pub async fn job_in(&self, id: u64, state: &str) -> JobView {
        let mut last = String::new();
        let found = tokio::time::timeout(DEADLINE, async {
            loop {
                let job = self.job(id).await;
                if job.state == state {
                    return job;
                }
                last = format!("{}: {}", job.state, job.reason);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        match found.await {
            Ok(job) => job,
            Err(_) => panic!("job {id} did not become {state}; it is {last}"),
        }
    }

    /// The task, once all its jobs have ended.
    pub async fn ended_task(&self, id: u64) -> TaskView {
        eventually(&format!("task {id} ends"), async || Some(self.task(id).await).filter(|t| t.ended_ms > 0)).await
    }

    /// Acts on jobs.
    pub async fn act(&self, selector: Selector, action: Action) -> ActReply {
        self.try_act(selector, action, false).await
    }

    /// Says what an action would do.
    pub async fn dry_run(&self, selector: Selector, action: Action) -> ActReply {
        self.try_act(selector, action, true).await
    }

    async fn try_act(&self, selector: Selector, action: Action, dry_run: bool) -> ActReply {
        let request = ActRequest { selector: Some(selector), action: Some(action), dry_run, actor: "op".into() };
        self.client.act(request).await.unwrap()
    }

    /// All jobs that the selector matches, read in pages of `page`.
    pub async fn list(&self, selector: Selector, page: u32) -> Vec<JobView> {
        let mut jobs = Vec::new();
        let mut cursor = String::new();
        loop {
            let request = ListRequest { selector: Some(selector.clone()), limit: page, cursor };
            let list = self.client.list_jobs(request).await.unwrap();
            assert!(list.jobs.len() <= page as usize, "{} jobs on a page of {page}", list.jobs.len());
            jobs.extend(list.jobs);
            if list.cursor.is_empty() {
                return jobs;
            }
            cursor = list.cursor;
        }
    }

    /// Kills a node and starts it again on its data.
    pub async fn kill_and_restart(&mut self, node: u32) {
        self.nodes.kill(node).unwrap();
        self.nodes.restart(node).await.unwrap();
    }

    /// A number of a node's `/metrics`; 0: it says none.
    pub async fn metric(&self, node: u32, name: &str) -> f64 {
        let address = &self.nodes.http_addrs()[node as usize - 1];
        let text = http_get(address, "/metrics").await.unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    }

    /// Bytes that a node has written.
    pub async fn written(&self, node: u32) -> u64 {
        self.metric(node, "moso_written_bytes").await as u64
    }

    /// The node that leads most shards.
    pub async fn busiest_leader(&self) -> u32 {
        let view = self.client.cluster().await.unwrap();
        let leaders = |node: u32| view.shards.iter().filter(|s| s.leader == node).count();
        view.nodes.iter().map(|n| n.id).max_by_key(|&node| leaders(node)).expect("the cluster has nodes")
    }
}

async fn http_get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for node in 1..=self.nodes.nodes() {
            let log = std::fs::read_to_string(self.nodes.log(node)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- end of the log of node {node}");
            lines[lines.len().saturating_sub(LOG_LINES)..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}
