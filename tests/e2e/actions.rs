//! What users and operators do to jobs: kill, hold, release, retry, change the priority; and why a job does not run.

#![allow(clippy::unwrap_used)]

mod common;

use common::{
    Cluster, after, counts, eventually, failure, logged, now_ms, report, result, retry, take, take_one, takes_nothing,
    task,
};
use moso_client::proto::object::{Queue, QueueState};
use moso_client::v1::act_request::Action;
use moso_client::v1::{
    CommandKind, Explanation, Hold, JobSpec, Kill, Outcome, Release, Retry, Selector, SetPriority, TaskSpec,
};

fn job(id: u64) -> Selector {
    Selector { jobs: vec![id], ..Selector::default() }
}

fn of_task(id: u64) -> Selector {
    Selector { tasks: vec![id], ..Selector::default() }
}

const KILL: Action = Action::Kill(Kill { code: 9 });

fn hold() -> Action {
    Action::Hold(Hold { reason: "looks wrong".into() })
}

/// The first gate that is closed, and what is said about it.
#[track_caller]
fn closed_gate(explanation: &Explanation) -> (&str, &str) {
    let gate = explanation.gates.iter().find(|g| !g.passed);
    let gate = gate.unwrap_or_else(|| panic!("no gate is closed: {explanation:?}"));
    (&gate.name, &gate.detail)
}

#[tokio::test]
async fn a_running_job_is_told_to_end() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let mut session = cluster.session("wn1").await;
    // The session sends no heartbeat in this test: whatever it hears is sent to it unasked.
    let id = cluster.submit_one(TaskSpec { label: "user".into(), ..task("Q") }).await;
    let lease = take_one(&mut session, "Q").await;
    let reply = cluster.act(job(id), KILL).await;
    assert_eq!((reply.matched, reply.changed), (1, 1));
    let told = async {
        loop {
            if let Some(command) = session.next().await.unwrap().commands.first() {
                return *command;
            }
        }
    };
    let command = tokio::time::timeout(common::DEADLINE, told).await.expect("a kill is heard");
    assert_eq!((command.job_id, command.attempt, command.command()), (id, 1, CommandKind::Tobekilled));
    let again = cluster.act(job(id), KILL).await;
    assert_eq!((again.changed, again.refused[0].reason.as_str()), (0, "it is so already"));
    report(&mut session, vec![result(&lease, Outcome::Cancelled)]).await;
    let view = cluster.job(id).await;
    assert_eq!((view.state.as_str(), view.attempt), ("cancelled", 1));
    assert!(view.reason.contains("kill code 9"), "{}", view.reason);
    assert!(view.log.iter().any(|row| row.who == "op"), "{:?}", view.log);

    // A production job is ended at once (PanDA's kill code 9), and its worker hears that it has lost it.
    let id = cluster.submit_one(task("Q")).await;
    let lease = take_one(&mut session, "Q").await;
    assert_eq!(cluster.act(job(id), KILL).await.changed, 1);
    assert_eq!(cluster.job(id).await.state, "cancelled");
    let lost = async { while session.next().await.unwrap().heartbeat.is_none_or(|h| h.lost != [id]) {} };
    tokio::time::timeout(common::DEADLINE, lost).await.expect("a loss is heard");
    let late = common::refused(&mut session, result(&lease, Outcome::Finished)).await;
    assert_eq!(late, moso_client::Code::AlreadyEnded);
}

#[tokio::test]
async fn waiting_jobs_tasks_and_the_rest_of_an_array_are_killed() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let mut session = cluster.session("wn1").await;

    let id = cluster.submit_one(task("Q")).await;
    assert_eq!(cluster.act(job(id), KILL).await.changed, 1);
    assert_eq!(cluster.job(id).await.state, "cancelled");
    let again = cluster.act(job(id), KILL).await;
    assert_eq!((again.changed, again.refused.len()), (0, 1), "{again:?}");
    // PanDA's code for jobs to be assigned elsewhere.
    let id = cluster.submit_one(task("Q")).await;
    cluster.act(job(id), Action::Kill(Kill { code: 51 })).await;
    assert_eq!(cluster.job(id).await.state, "closed");
    takes_nothing(&mut session, "Q").await;

    let jobs = vec![JobSpec::default(), after(&[0]), after(&[0])];
    let reply = cluster.submit(task("Q"), jobs).await;
    assert_eq!(cluster.act(of_task(reply.task_id), KILL).await.matched, 3);
    let ended = cluster.ended_task(reply.task_id).await;
    assert_eq!(ended.state, "aborted");
    assert_eq!(counts(&ended).values().sum::<u32>(), 3);

    // Some jobs of an array were leased, one of them has finished.
    let reply = cluster.submit_array(task("Q"), 1_000).await;
    let leases = take(&mut session, "Q", 5).await;
    report(&mut session, vec![result(&leases[0], Outcome::Finished)]).await;
    let killed = cluster.act(of_task(reply.task_id), KILL).await;
    assert_eq!((killed.matched, killed.changed), (999, 999));
    let ended = cluster.ended_task(reply.task_id).await;
    assert_eq!((ended.state.as_str(), counts(&ended)), ("finished", [("finished", 1), ("cancelled", 999)].into()));
    assert_eq!(cluster.job(reply.first_job_id + 999).await.state, "cancelled");
    takes_nothing(&mut session, "Q").await;
}

#[tokio::test]
async fn held_jobs_wait_for_their_release() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let mut session = cluster.session("wn1").await;
    let one = cluster.submit_one(task("Q")).await;
    let array = cluster.submit_array(task("Q"), 30).await;
    for selector in [job(one), of_task(array.task_id)] {
        cluster.act(selector, hold()).await;
    }
    let view = cluster.job(one).await;
    assert_eq!((view.state.as_str(), view.reason.as_str()), ("throttled", "held"));
    assert!(view.log.iter().any(|row| row.who == "op" && row.reason.contains("looks wrong")), "{:?}", view.log);
    assert_eq!(counts(&cluster.task(array.task_id).await), [("throttled", 30)].into());
    takes_nothing(&mut session, "Q").await;
    let again = cluster.act(job(one), hold()).await;
    assert_eq!((again.changed, again.refused[0].reason.as_str()), (0, "it is so already"));

    cluster.act(job(one), Action::Release(Release {})).await;
    let lease = take_one(&mut session, "Q").await;
    assert_eq!(lease.job_id, one);
    let running = cluster.act(job(one), hold()).await;
    assert_eq!((running.changed, running.refused[0].reason.as_str()), (0, "a worker has it"));
    takes_nothing(&mut session, "Q").await;
    cluster.act(of_task(array.task_id), Action::Release(Release {})).await;
    assert_eq!(take(&mut session, "Q", 30).await.len(), 30);
    assert_eq!(logged(&cluster.job(one).await).iter().filter(|s| **s == "throttled").count(), 1);
}

#[tokio::test]
async fn the_priority_decides_the_order() {
    let cluster = Cluster::start().await;
    // Otherwise one request in nine goes by age.
    cluster.set("sloppy_dispatch_percent", 0).await;
    cluster.queue("Q").await;
    let jobs = [5, 700, -300, 9_000, 40, 5].map(|p| JobSpec { priority: Some(p), ..JobSpec::default() });
    let first = cluster.submit(task("Q"), jobs.to_vec()).await.first_job_id;
    let last = first + 2;
    let changed = cluster.act(job(last), Action::Priority(SetPriority { priority: 10_000 })).await;
    assert_eq!(changed.changed, 1);
    cluster.act(job(first + 3), Action::Priority(SetPriority { priority: -10_000 })).await;
    assert_eq!(cluster.job(last).await.priority, 10_000);
    let mut session = cluster.session("wn1").await;
    let mut order = Vec::new();
    for _ in 0..6 {
        order.push(take_one(&mut session, "Q").await.job_id - first);
    }
    assert_eq!(order, [2, 1, 4, 0, 5, 3]);

    // An array whose priority is raised overtakes another one of its shard. Tasks are spread over the shards, so a
    // shard is tried until it holds two.
    let (low, high) = two_arrays_of_a_shard(&cluster).await;
    cluster.act(of_task(low), Action::Priority(SetPriority { priority: 8_000 })).await;
    let mut leases = Vec::new();
    for _ in 0..4 {
        leases.push(take_one(&mut session, "pair").await.task_id);
    }
    assert_eq!(leases, [low, low, high, high]);
}

/// Two arrays of two jobs in one shard, the second one above the first, and nothing else in their queue.
async fn two_arrays_of_a_shard(cluster: &Cluster) -> (u64, u64) {
    cluster.queue("pair").await;
    let spec = |priority| TaskSpec { priority, ..task("pair") };
    let low = cluster.submit_array(spec(100), 2).await.task_id;
    let shard = |id: u64| moso_client::proto::TaskId(id).shard();
    loop {
        let high = cluster.submit_array(spec(5_000), 2).await.task_id;
        if shard(high) == shard(low) {
            return (low, high);
        }
        cluster.act(of_task(high), KILL).await;
    }
}

#[tokio::test]
async fn retry_gives_attempts_and_ends_the_wait() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let mut session = cluster.session("wn1").await;
    let id = cluster.submit_one(TaskSpec { retry: retry(2, 3_600_000), ..task("Q") }).await;
    let lease = take_one(&mut session, "Q").await;
    report(&mut session, vec![failure(&lease, 1, "site down")]).await;
    assert_eq!(cluster.job(id).await.state, "defined");
    takes_nothing(&mut session, "Q").await;
    assert_eq!(cluster.act(job(id), Action::Retry(Retry { attempts: 4 })).await.changed, 1);
    let lease = take_one(&mut session, "Q").await;
    assert_eq!((lease.job_id, lease.attempt), (id, 2));
    assert_eq!(cluster.job(id).await.max_attempts, 6);
    report(&mut session, vec![result(&lease, Outcome::Finished)]).await;
    let ended = cluster.act(job(id), Action::Retry(Retry { attempts: 1 })).await;
    assert_eq!((ended.changed, ended.refused.len()), (0, 1), "{ended:?}");
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let one = cluster.submit_one(task("Q")).await;
    let array = cluster.submit_array(task("Q"), 40).await;
    let owner = Selector { owner: "ann".into(), ..Selector::default() };
    let priority = Action::Priority(SetPriority { priority: 7 });
    for action in [KILL, hold(), priority, Action::Retry(Retry { attempts: 9 })] {
        let reply = cluster.dry_run(owner.clone(), action.clone()).await;
        assert_eq!((reply.matched, reply.changed), (41, 41), "{action:?}");
        let view = cluster.job(one).await;
        assert_eq!((view.state.as_str(), view.priority, view.max_attempts), ("activated", 1_000, 3), "{action:?}");
        assert_eq!(counts(&cluster.task(array.task_id).await), [("activated", 40)].into(), "{action:?}");
    }
    // In earnest it does.
    assert_eq!(cluster.act(owner, KILL).await.changed, 41);
    assert_eq!(cluster.ended_task(array.task_id).await.state, "aborted");
}

#[tokio::test]
async fn it_is_explained_why_a_job_does_not_run() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let mut session = cluster.session("wn1").await;
    let explain = async |id: u64| cluster.client.explain(id).await.unwrap();

    let id = cluster.submit_one(task("Q")).await;
    assert_eq!(closed_gate(&explain(id).await).0, "workers");

    cluster.act(job(id), hold()).await;
    let held = explain(id).await;
    assert_eq!(closed_gate(&held), ("hold", "held"));
    assert!(held.verdict.contains("hold"), "{}", held.verdict);
    cluster.act(job(id), Action::Release(Release {})).await;

    let paused = Queue { state: QueueState::Paused, reason: "power cut".into(), ..Queue::default() };
    cluster.queue_with("Q", paused).await;
    eventually("the pause is explained", async || {
        let explanation = explain(id).await;
        (closed_gate(&explanation).0 == "queue").then_some(())
    })
    .await;
    assert!(explain(id).await.verdict.contains("power cut"));
    takes_nothing(&mut session, "Q").await;
    cluster.queue("Q").await;

    let lease = take_one(&mut session, "Q").await;
    let leased = explain(id).await;
    assert!(leased.gates.iter().all(|g| g.passed), "{:?}", leased.gates);
    assert!(leased.verdict.contains("wn1") && leased.verdict.contains("attempt 1"), "{}", leased.verdict);
    report(&mut session, vec![result(&lease, Outcome::Finished)]).await;
    let ended = explain(id).await;
    assert_eq!((ended.state.as_str(), closed_gate(&ended).0), ("finished", "not ended"));
    assert!(ended.verdict.contains("has ended"), "{}", ended.verdict);

    let reply = cluster.submit(task("Q"), vec![JobSpec::default(), after(&[0])]).await;
    let waiting = explain(reply.first_job_id + 1).await;
    assert_eq!(closed_gate(&waiting).0, "dependencies");
    let later = cluster.submit_one(TaskSpec { not_before_ms: now_ms() + 3_600_000, ..task("Q") }).await;
    assert_eq!(closed_gate(&explain(later).await).0, "time");
}
