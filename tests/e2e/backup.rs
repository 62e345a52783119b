//! A cluster is backed up under load and restored into clusters of other sizes; what is not a sound backup is refused.

#![allow(clippy::unwrap_used)]

mod common;

use common::load::{Load, QUEUE, TASK_JOBS};
use common::{
    Cluster, DEADLINE, Program, Run, after, eventually, failure, program, report, result, running, take, task,
};
use futures::StreamExt;
use moso::{LocalCluster, LocalOptions};
use moso_client::proto::object::{Queue, ShardTable, Share, User, kind};
use moso_client::v1::act_request::Action;
use moso_client::v1::{
    JobSpec, JobView, Lease, ListRequest, Object, Outcome, Selector, SubmitReply, TaskSpec, TaskView,
};
use moso_client::{JobOutcome, Submission, Worker};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Queues whose jobs do not move while the backup is made.
const STILL: [&str; 4] = ["wait", "depend", "array", "ended"];
/// The queue whose jobs are leased then.
const LEASED: &str = "leased";
const KINDS: [&str; 5] = [kind::QUEUE, kind::SHARE, kind::USER, kind::TIMEOUTS, kind::SETTING];
/// Jobs of the load that run before the backup, and after it.
const JOBS: u64 = 200;
/// Looked at at once.
const READS: usize = 16;

/// What a cluster held before it was backed up.
struct Before {
    jobs: BTreeMap<u64, JobView>,
    leased: BTreeMap<u64, JobView>,
    tasks: BTreeMap<u64, TaskView>,
    objects: Vec<Vec<Object>>,
    history: Vec<Object>,
    submissions: Vec<(Submission, SubmitReply)>,
    load: Vec<SubmitReply>,
}

fn json(output: &Run) -> serde_json::Value {
    output.json()
}

async fn moso(connect: &str, line: &[&str]) -> Run {
    common::run(Command::new(program("moso")).args(["--connect", connect, "--output", "json"]).args(line)).await
}

async fn restore(backup: &Path, config: &Path) -> Run {
    let mut command = Command::new(program("moso-node"));
    common::run(command.arg("restore").arg("--backup").arg(backup).arg("--config").arg(config)).await
}

#[track_caller]
fn refused(run: &Run, says: &[&str]) {
    assert_ne!(run.code, Some(0), "{run:?}");
    for word in says {
        assert!(run.stderr.contains(word), "nothing of {word:?}: {run:?}");
    }
}

async fn make_objects(cluster: &Cluster) {
    for queue in STILL {
        cluster.queue(queue).await;
    }
    cluster.queue("gone").await;
    cluster.client.delete_object(kind::QUEUE, "gone", None).await.unwrap();
    cluster.short_lease_queue(LEASED).await;
    let paused = Queue { max_running: 1_000, reason: "twice".into(), ..Queue::default() };
    cluster.queue_with("wait", paused).await;
    cluster.client.put_object(kind::SHARE, "Analysis", &Share { target: 2.5 }, None).await.unwrap();
    cluster.client.put_object(kind::USER, "bob", &User { max_running: 77, ..User::default() }, None).await.unwrap();
    cluster.set("archive_days", 9).await;
}

async fn jobs_of(cluster: &Cluster, queue: &str) -> BTreeMap<u64, JobView> {
    let listed = cluster.list(Selector { queue: queue.into(), ..Selector::default() }, 1_000).await;
    let views = listed.iter().map(|job| cluster.client.job_with_body(job.job_id));
    let views: Vec<JobView> = futures::stream::iter(views).buffered(READS).map(Result::unwrap).collect().await;
    views.into_iter().map(|view| (view.job_id, view)).collect()
}

async fn objects(cluster: &Cluster) -> Vec<Vec<Object>> {
    let mut all = Vec::new();
    for kind in KINDS {
        all.push(cluster.client.list_objects(kind).await.unwrap());
    }
    all
}

/// Jobs in every state.
async fn make_jobs(cluster: &Cluster) -> (Vec<(Submission, SubmitReply)>, Vec<Lease>, moso_client::Session) {
    let body = |queue: &str, n: usize| JobSpec { body: format!("{queue} {n}").into(), ..JobSpec::default() };
    let mut submissions = Vec::new();
    let submit = async |submission: Submission| {
        let reply = cluster.client.submit(submission.clone()).await.unwrap();
        (submission, reply)
    };
    for n in 0..12 {
        let spec = TaskSpec { share: "Analysis".into(), owner: "bob".into(), ..task("wait") };
        submissions.push(submit(Submission::new(spec).jobs(vec![body("wait", n), body("wait", n + 100)])).await);
        submissions.push(submit(Submission::new(task(LEASED)).jobs(vec![body(LEASED, n)])).await);
        submissions.push(submit(Submission::new(task("ended")).jobs(vec![body("ended", n)])).await);
        let depending = vec![body("depend", n), after(&[0]), after(&[0, 1])];
        submissions.push(submit(Submission::new(task("depend")).jobs(depending)).await);
    }
    let spec = TaskSpec { body: "of all".into(), ..task("array") };
    submissions.push(submit(Submission::new(spec).array(60)).await);
    let mut session = cluster.session("old worker").await;
    let ended = take(&mut session, "ended", 10).await;
    let outcome = |(n, lease): (usize, &Lease)| match n % 2 {
        0 => moso_client::v1::JobResult { output: "well".into(), ..result(lease, Outcome::Finished) },
        _ => failure(lease, 7, "badly"),
    };
    report(&mut session, ended.iter().enumerate().map(outcome).collect()).await;
    let some = take(&mut session, "array", 7).await;
    report(&mut session, some.iter().map(|lease| result(lease, Outcome::Finished)).collect()).await;
    let cancelled = Selector { queue: "ended".into(), states: vec!["activated".into()], ..Selector::default() };
    cluster.act(cancelled, Action::Kill(Default::default())).await;
    let leases = take(&mut session, LEASED, 12).await;
    session.turn(running(&leases)).await.unwrap();
    (submissions, leases, session)
}

async fn look(cluster: &Cluster, submissions: Vec<(Submission, SubmitReply)>, load: &Load) -> Before {
    let mut jobs = BTreeMap::new();
    for queue in STILL {
        jobs.extend(jobs_of(cluster, queue).await);
    }
    let mut tasks = BTreeMap::new();
    for (_, reply) in &submissions {
        tasks.insert(reply.task_id, cluster.task(reply.task_id).await);
    }
    let states: BTreeSet<&str> = jobs.values().map(|job| job.state.as_str()).collect();
    for state in ["activated", "waiting", "finished", "cancelled"] {
        assert!(states.contains(state), "no job is {state}: {states:?}");
    }
    Before {
        jobs,
        leased: jobs_of(cluster, LEASED).await,
        tasks,
        objects: objects(cluster).await,
        history: cluster.client.object_history(kind::QUEUE, "wait").await.unwrap(),
        submissions,
        load: load.accepted(),
    }
}

/// A new cluster, its folders restored before its first start.
async fn restored(backup: &Path, name: &str, nodes: u32) -> Cluster {
    let options = LocalOptions { nodes, cluster: name.into(), ..LocalOptions::default() };
    let mut local = LocalCluster::prepare(options).unwrap();
    for node in 1..=nodes {
        let run = restore(backup, &local.config(node)).await;
        assert_eq!(run.code, Some(0), "{run:?}");
    }
    local.start_nodes().await.unwrap();
    Cluster::of(local).await
}

/// All that was there is there, and goes on.
async fn check(cluster: &Cluster, before: &Before, name: &str, nodes: u32) {
    let view = cluster.client.cluster().await.unwrap();
    assert_eq!((view.cluster.as_str(), view.nodes.len()), (name, nodes as usize));
    assert_eq!(objects(cluster).await, before.objects);
    assert_eq!(cluster.client.object_history(kind::QUEUE, "wait").await.unwrap(), before.history);
    let known = cluster.client.list_objects(kind::NODE).await.unwrap();
    assert_eq!(known.iter().map(|node| node.id).collect::<Vec<_>>(), (1..=nodes).collect::<Vec<_>>());
    let table = cluster.client.get_object(kind::SHARDS, "table").await.unwrap();
    let table: ShardTable = serde_json::from_str(&table.json).unwrap();
    assert!(table.replicas.iter().all(|of| of.len() == nodes.min(3) as usize), "{table:?}");

    for queue in STILL {
        for (id, job) in jobs_of(cluster, queue).await {
            assert_eq!(Some(&job), before.jobs.get(&id), "job {id} of {queue}");
        }
    }
    let ids = before.jobs.keys().map(|id| cluster.client.job(*id));
    let there: Vec<_> = futures::stream::iter(ids).buffered(READS).collect().await;
    there.into_iter().for_each(|job| drop(job.unwrap()));
    for (id, task) in &before.tasks {
        let leased = task.queue == LEASED;
        assert!(leased || cluster.task(*id).await == *task, "task {id}: {task:?}");
    }
    for (submission, reply) in &before.submissions {
        let again = cluster.client.submit(submission.clone()).await.unwrap();
        assert_eq!((again.repeated, again.task_id, again.jobs), (true, reply.task_id, reply.jobs));
    }
    let next = cluster.client.submit(Submission::new(task("wait")).job("new")).await.unwrap();
    assert!(!before.tasks.contains_key(&next.task_id) && !next.repeated);
    lease_waiting(cluster, before).await;
    lease_leased(cluster, before).await;
    run_to_the_end(cluster, before).await;
}

/// The bodies of jobs that waited.
async fn lease_waiting(cluster: &Cluster, before: &Before) {
    let waiting = before.jobs.values().filter(|job| job.queue == "wait").count();
    let mut session = cluster.session("new worker").await;
    let leases = take(&mut session, "wait", waiting + 1).await;
    let known = leases.iter().filter(|lease| before.jobs.contains_key(&lease.job_id));
    let mut same = 0;
    for lease in known {
        assert_eq!((&lease.body, lease.attempt), (&before.jobs[&lease.job_id].body, 1));
        same += 1;
    }
    assert_eq!(same, waiting);
    report(&mut session, leases.iter().map(|lease| result(lease, Outcome::Finished)).collect()).await;
}

/// Jobs that ran on workers of the old cluster come again when their leases have run out.
async fn lease_leased(cluster: &Cluster, before: &Before) {
    let mut session = cluster.session("new worker").await;
    let leases = take(&mut session, LEASED, before.leased.len()).await;
    let ids: BTreeSet<u64> = leases.iter().map(|lease| lease.job_id).collect();
    assert_eq!(ids, before.leased.keys().copied().collect());
    for lease in &leases {
        assert_eq!((&lease.body, lease.attempt), (&before.leased[&lease.job_id].body, 2));
    }
    report(&mut session, leases.iter().map(|lease| result(lease, Outcome::Finished)).collect()).await;
}

async fn run_to_the_end(cluster: &Cluster, before: &Before) {
    let queues = STILL.iter().chain([&QUEUE]);
    let worker = queues.fold(Worker::new(&cluster.client), |worker, queue| worker.queue(*queue)).slots(50);
    let handle = worker.handle();
    let run = worker.run(|_| async move { JobOutcome::finished().output("done") });
    let worker = tokio::spawn(run);
    let tasks = before.tasks.keys().copied().chain(before.load.iter().map(|reply| reply.task_id));
    let mut ended = futures::stream::iter(tasks.map(|id| cluster.ended_task(id))).buffer_unordered(READS);
    while let Some(task) = ended.next().await {
        assert!(task.queue == "ended" || task.state == "done", "{task:?}");
    }
    // A task that came while the backup was made is there with all its jobs, or not at all.
    let request = ListRequest {
        selector: Some(Selector { queue: QUEUE.into(), ..Selector::default() }),
        limit: 10_000,
        ..ListRequest::default()
    };
    eventually("what else came with the backup ends", async || {
        let all = cluster.client.list_tasks(request.clone()).await.unwrap().tasks;
        assert!(all.len() >= before.load.len() && all.iter().all(|task| task.jobs == TASK_JOBS));
        all.iter().all(|task| task.state == "done").then_some(())
    })
    .await;
    let mut jobs = BTreeMap::new();
    for job in cluster.list(Selector { queue: QUEUE.into(), ..Selector::default() }, 10_000).await {
        assert_eq!((job.state.as_str(), &job.output[..]), ("finished", &b"done"[..]), "job {}", job.job_id);
        assert!(jobs.insert(job.job_id, ()).is_none(), "job {} is listed twice", job.job_id);
    }
    handle.drain();
    tokio::time::timeout(DEADLINE, worker).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_under_load_is_restored_into_smaller_and_larger_ones() {
    let mut cluster = Cluster::start().await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let path = dir.to_str().unwrap().to_owned();
    make_objects(&cluster).await;
    let (submissions, leases, mut session) = make_jobs(&cluster).await;
    let alive = tokio::spawn(async move {
        while session.turn(running(&leases)).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    });
    let load = Load::start(&cluster).await;
    load.progress(JOBS).await;
    let before = look(&cluster, submissions, &load).await;

    let connect = cluster.nodes.addrs().join(",");
    let made = moso(&connect, &["backup", "create", &path]).await;
    // Lines beside the result are for people only.
    let made = json(&made);
    assert_eq!((made["shards"].as_u64(), made["parts"].as_array().map(Vec::len)), (Some(6), Some(7)));
    let live: u64 = made["parts"].as_array().unwrap().iter().map(|part| part["live_jobs"].as_u64().unwrap()).sum();
    assert!(live >= 24 + 12 + 36, "{made}");
    assert_eq!(json(&moso("127.0.0.1:1", &["backup", "verify", &path]).await), made);
    assert_eq!(json(&moso("127.0.0.1:1", &["backup", "show", &path]).await), made);
    refused(&moso(&connect, &["backup", "create", &path]).await, &["is not empty", &path]);

    load.progress(JOBS).await;
    load.settle(&cluster).await;
    alive.abort();
    cluster.nodes.stop().await.unwrap();
    drop(cluster);

    let one = async {
        let mut cluster = restored(&dir, "one", 1).await;
        check(&cluster, &before, "one", 1).await;
        cluster.nodes.restart(1).await.unwrap();
        assert_eq!(objects(&cluster).await, before.objects);
        cluster.nodes.stop().await.unwrap();
    };
    let four = async {
        let mut cluster = restored(&dir, "four", 4).await;
        check(&cluster, &before, "four", 4).await;
        cluster.nodes.check().unwrap();
        cluster.nodes.stop().await.unwrap();
    };
    tokio::join!(one, four);
}

/// A backup of one node, a prepared cluster, and what restoring into it says.
struct Refusals {
    folder: tempfile::TempDir,
    target: LocalCluster,
}

impl Refusals {
    fn dir(&self) -> PathBuf {
        self.folder.path().join("backup")
    }

    fn data(&self) -> PathBuf {
        self.target.folder().join("node-1")
    }

    async fn restore(&self) -> Run {
        restore(&self.dir(), &self.target.config(1)).await
    }

    /// The largest file of a shard.
    fn table(&self, shard: u16) -> PathBuf {
        let files = std::fs::read_dir(self.dir().join(format!("shard-{shard}"))).unwrap();
        let files = files.map(|file| file.unwrap()).filter(|file| file.file_name().to_string_lossy().ends_with(".sst"));
        files.max_by_key(|file| file.metadata().unwrap().len()).unwrap().path()
    }

    /// With a change of the backup that is undone, neither a check nor a restore takes it; what the restore left is refused.
    async fn with(&self, file: &Path, change: impl Fn(&mut Vec<u8>) -> bool, says: &[&str]) {
        let kept = std::fs::read(file).unwrap();
        let mut bytes = kept.clone();
        match change(&mut bytes) {
            true => std::fs::write(file, bytes).unwrap(),
            false => std::fs::remove_file(file).unwrap(),
        }
        let name = file.to_str().unwrap();
        let path = self.dir();
        let verified = moso("127.0.0.1:1", &["backup", "verify", path.to_str().unwrap()]).await;
        refused(&verified, &[name]);
        refused(&self.restore().await, &[&[name], says].concat());
        std::fs::write(file, kept).unwrap();
    }

    /// A start on what an interrupted restore left, and another restore.
    async fn left_behind_is_refused(&self) {
        let mut start = Command::new(program("moso-node"));
        let says = ["a restore into it did not end", self.data().to_str().unwrap()].map(str::to_owned);
        let says = says.each_ref().map(String::as_str);
        refused(&common::run(start.arg("--config").arg(self.target.config(1))).await, &says);
        refused(&self.restore().await, &says);
        std::fs::remove_dir_all(self.data()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_a_sound_backup_or_not_a_new_folder_is_refused() {
    let options = |shards| LocalOptions { nodes: 1, shards, ..LocalOptions::default() };
    let mut source = Cluster::start_with(options(2)).await;
    source.queue("Q").await;
    for _ in 0..8 {
        source.submit_one(task("Q")).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let refusals = Refusals { folder, target: LocalCluster::prepare(options(2)).unwrap() };
    let dir = refusals.dir();
    json(&moso(&source.nodes.addrs()[0], &["backup", "create", dir.to_str().unwrap()]).await);
    source.nodes.stop().await.unwrap();

    let list = dir.join("BACKUP.json");
    let flip = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        true
    };
    for shard in [0, 1] {
        refusals.with(&refusals.table(shard), flip, &["is damaged: wrong checksum"]).await;
        refusals.left_behind_is_refused().await;
        refusals.with(&refusals.table(shard), |_| false, &["is missing"]).await;
        refusals.left_behind_is_refused().await;
        refusals.with(&refusals.table(shard), |bytes| bytes.pop().is_some(), &["less than the"]).await;
        refusals.left_behind_is_refused().await;
    }
    // Without a sound list nothing is begun: the folder stays new.
    refusals.with(&list, |_| false, &["one that was not completed"]).await;
    refusals
        .with(
            &list,
            |bytes| {
                bytes.truncate(100);
                true
            },
            &["damaged"],
        )
        .await;
    let digest = |bytes: &mut Vec<u8>| {
        let text = String::from_utf8(std::mem::take(bytes)).unwrap();
        *bytes = text.replacen("\"live_jobs\": ", "\"live_jobs\": 1", 1).into_bytes();
        true
    };
    refusals.with(&list, digest, &["wrong checksum"]).await;

    let other = LocalCluster::prepare(options(3)).unwrap();
    let run = restore(&dir, &other.config(1)).await;
    refused(&run, &["2 shards", "shards = 3", "never changes"]);
    let text = std::fs::read_to_string(refusals.target.config(1)).unwrap();
    let joins = refusals.folder.path().join("joins.toml");
    std::fs::write(&joins, text.replace("join = false", "join = true")).unwrap();
    refused(&restore(&dir, &joins).await, &["join = true"]);

    std::fs::create_dir_all(refusals.data()).unwrap();
    std::fs::write(refusals.data().join("something"), "else").unwrap();
    let data = refusals.data().to_str().unwrap().to_owned();
    refused(&refusals.restore().await, &["something", &data]);
    std::fs::remove_file(refusals.data().join("something")).unwrap();
    let run = refusals.restore().await;
    assert_eq!(run.code, Some(0), "a sound backup into an empty folder: {run:?}");
    refused(&refusals.restore().await, &["holds node 1 of cluster", &data]);
}

/// Jobs with bodies of so many bytes.
const BODIES: u64 = 96;
const BODY: usize = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_outlives_a_leader_and_one_that_is_given_up_leaves_nothing() {
    // A few seconds for each shard.
    let env = vec![("MOSO_NODE_SNAPSHOT_MIB_PER_S".to_owned(), "1".to_owned())];
    let mut cluster = Cluster::start_with(LocalOptions { env, shards: 2, ..LocalOptions::default() }).await;
    cluster.queue("Q").await;
    let mut noise = 7_u64;
    for _ in 0..BODIES {
        let mut body = Vec::with_capacity(BODY);
        while body.len() < BODY {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            body.extend_from_slice(&(noise >> 16).to_le_bytes()[..4]);
        }
        cluster.submit(task("Q"), vec![JobSpec { body: body.into(), ..JobSpec::default() }]).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let connect = cluster.nodes.addrs().join(",");
    let start = |name: &str| {
        let dir = folder.path().join(name);
        let mut command = Command::new(program("moso"));
        (Program::start(command.args(["--connect", &connect, "backup", "create"]).arg(&dir)), dir)
    };
    let copies = |cluster: &Cluster| {
        let of = |node: u32| cluster.nodes.folder().join(format!("node-{node}")).join("outgoing");
        let count = |node| std::fs::read_dir(of(node)).map_or(0, Iterator::count);
        (1..=3).map(count).sum::<usize>()
    };
    let comes = async |dir: &Path| {
        let first = dir.join("shard-1");
        eventually("a copy of shard 1 comes", async || {
            let files = std::fs::read_dir(&first).ok()?;
            files.flatten().any(|file| file.metadata().is_ok_and(|data| data.len() > 0)).then_some(())
        })
        .await;
    };
    let (given_up, dir) = start("given up");
    comes(&dir).await;
    assert_eq!(copies(&cluster), 1);
    drop(given_up);
    eventually("the copy is removed", async || (copies(&cluster) == 0).then_some(())).await;
    let target = LocalCluster::prepare(LocalOptions { nodes: 1, shards: 2, ..LocalOptions::default() }).unwrap();
    refused(&restore(&dir, &target.config(1)).await, &["BACKUP.json", "not completed"]);

    let (made, dir) = start("made");
    comes(&dir).await;
    let view = cluster.client.cluster().await.unwrap();
    let leader = view.shards.iter().find(|shard| shard.shard == 1).unwrap().leader;
    cluster.nodes.kill(leader).unwrap();
    let run = made.end().await;
    assert_eq!(run.code, Some(0), "{run:?}");
    let verified = moso("127.0.0.1:1", &["backup", "verify", dir.to_str().unwrap()]).await;
    let parts = json(&verified)["parts"].clone();
    let live: u64 = parts.as_array().unwrap().iter().map(|part| part["live_jobs"].as_u64().unwrap()).sum();
    assert_eq!(live, BODIES);
    cluster.nodes.restart(leader).await.unwrap();
    eventually("what the leader left is removed", async || (copies(&cluster) == 0).then_some(())).await;
    cluster.nodes.stop().await.unwrap();
}
