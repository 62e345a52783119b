//! The life of jobs and tasks, from submission to archive, on three processes.

#![allow(clippy::unwrap_used)]

mod common;

use common::{
    Cluster, after, counts, eventually, failure, logged, now_ms, report, result, retry, running, take, take_one,
    takes_nothing, task,
};
use futures::StreamExt;
use moso_client::v1::{FailurePolicy, JobResult, JobSpec, ListRequest, Needs, Outcome, Selector, TaskSpec};
use std::collections::BTreeSet;

/// All that can be said of a job comes back.
#[tokio::test]
async fn a_job_runs_and_its_record_is_complete() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let needs = Needs { cores: 4, memory_mib: 2_000, wall_time_s: 600, tags: vec!["gpu".into()], ..Needs::default() };
    let spec = TaskSpec {
        name: "simulation".into(),
        group: "atlas".into(),
        label: "user".into(),
        needs: Some(needs.clone()),
        ..task("Q")
    };
    let job = JobSpec { body: "events 1 to 100".into(), priority: Some(17), ..JobSpec::default() };
    let reply = cluster.submit(spec, vec![job]).await;
    assert_eq!((reply.jobs, reply.repeated), (1, false));

    let id = reply.first_job_id;
    let view = cluster.client.job_with_body(id).await.unwrap();
    assert_eq!((view.state.as_str(), view.attempt, view.max_attempts, view.priority), ("activated", 0, 3, 17));
    assert_eq!((view.owner.as_str(), view.group.as_str(), view.label.as_str()), ("ann", "atlas", "user"));
    assert_eq!((view.queue.as_str(), view.share.as_str(), &view.body[..]), ("Q", "Undefined", &b"events 1 to 100"[..]));
    assert_eq!((view.needs, view.task_id, view.body_type.as_str()), (Some(needs), reply.task_id, "test"));
    assert_eq!(cluster.task(reply.task_id).await.state, "ready");

    let mut session = cluster.session("wn1").await;
    takes_nothing(&mut session, "Q").await;
    let mut offer = moso_client::v1::LeaseRequest { queues: vec!["Q".into()], max_jobs: 1, ..Default::default() };
    (offer.wait_ms, offer.tags) = (20_000, vec!["gpu".into()]);
    session.turn(moso_client::Turn { lease: Some(offer), ..Default::default() }).await.unwrap();
    let lease = loop {
        if let Some(reply) = session.next().await.unwrap().lease {
            break reply.leases[0].clone();
        }
    };
    assert_eq!((lease.job_id, lease.attempt, lease.index, lease.task_id), (id, 1, 0, reply.task_id));
    assert_eq!((&lease.body[..], lease.body_type.as_str()), (&b"events 1 to 100"[..], "test"));
    assert_eq!((lease.queue.as_str(), lease.wall_time_s, lease.ttl_ms, lease.heartbeat_ms), ("Q", 600, 60_000, 15_000));

    session.turn(running(std::slice::from_ref(&lease))).await.unwrap();
    let view = cluster.job_in(id, "running").await;
    assert_eq!((view.worker.as_str(), view.session), ("wn1", session.number()));
    let done = JobResult {
        output: "100 events".into(),
        started_ms: now_ms(),
        cpu_ms: 1_234,
        memory_peak_kib: 5_678,
        ..result(&lease, Outcome::Finished)
    };
    report(&mut session, vec![done]).await;

    let view = cluster.job(id).await;
    assert_eq!((view.state.as_str(), view.attempt, view.worker.as_str()), ("finished", 1, "wn1"));
    assert_eq!((&view.output[..], view.exit_code), (&b"100 events"[..], 0));
    assert_eq!((view.cpu_ms, view.memory_peak_kib), (1_234, 5_678));
    assert!(view.created_ms <= view.leased_ms && view.leased_ms <= view.ended_ms && view.started_ms > 0);
    assert_eq!(logged(&view), ["defined", "activated", "sent", "running", "finished"]);
    let task = cluster.task(reply.task_id).await;
    assert_eq!((task.state.as_str(), task.name.as_str(), task.jobs), ("done", "simulation", 1));
    assert_eq!(counts(&task), [("finished", 1)].into());
}

#[tokio::test]
async fn each_job_of_an_array_is_leased_once() {
    const JOBS: u32 = 700;
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let reply = cluster.submit_array(TaskSpec { body: "same for all".into(), ..task("Q") }, JOBS).await;
    assert_eq!(reply.jobs, JOBS);
    assert_eq!(counts(&cluster.task(reply.task_id).await), [("activated", JOBS)].into());
    let unmade = cluster.job(reply.first_job_id + 400).await;
    assert_eq!((unmade.state.as_str(), unmade.attempt), ("activated", 0));

    let mut seen = BTreeSet::new();
    let mut sessions = [cluster.session("wn1").await, cluster.session("wn2").await];
    for round in 0..7 {
        let session = &mut sessions[round % 2];
        let leases = take(session, "Q", 100).await;
        for lease in &leases {
            assert_eq!(lease.job_id, reply.first_job_id + u64::from(lease.index));
            assert_eq!((lease.attempt, &lease.body[..]), (1, &b"same for all"[..]));
            assert!(seen.insert(lease.index), "{} was leased twice", lease.index);
        }
        report(session, leases.iter().map(|lease| result(lease, Outcome::Finished)).collect()).await;
    }
    takes_nothing(&mut sessions[0], "Q").await;
    let task = cluster.ended_task(reply.task_id).await;
    assert_eq!((task.state.as_str(), counts(&task)), ("done", [("finished", JOBS)].into()));
}

#[tokio::test]
async fn failures_are_repeated_and_releases_are_free() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let mut session = cluster.session("wn1").await;

    // Two attempts with a wait between them.
    let id = cluster.submit_one(TaskSpec { retry: retry(2, 600), ..task("Q") }).await;
    let first = take_one(&mut session, "Q").await;
    report(&mut session, vec![failure(&first, 65, "segmentation violation")]).await;
    let view = cluster.job(id).await;
    assert_eq!((view.state.as_str(), view.reason.as_str()), ("defined", "waits before its next attempt"));
    let second = take_one(&mut session, "Q").await;
    assert_eq!((second.job_id, second.attempt), (id, 2));
    let view = cluster.job(id).await;
    let failed_ms = view.log.iter().find(|row| row.state == "failed").unwrap().time_ms;
    assert!(view.leased_ms >= failed_ms + 540, "leased {} ms after the failure", view.leased_ms - failed_ms);
    report(&mut session, vec![failure(&second, 66, "again")]).await;
    let view = cluster.job(id).await;
    assert_eq!((view.state.as_str(), view.attempt, view.exit_code), ("failed", 2, 66));
    assert_eq!(
        (view.errors[0].source.as_str(), view.errors[0].code, view.errors[0].text.as_str()),
        ("exe", 66, "again")
    );
    let states = ["defined", "activated", "sent", "failed", "activated", "sent", "failed"];
    assert_eq!(logged(&view), states);
    assert!(view.log[3].reason.contains("segmentation violation"), "{:?}", view.log[3]);

    // A failure that no repeat can mend.
    let id = cluster.submit_one(TaskSpec { retry: retry(5, 0), ..task("Q") }).await;
    let lease = take_one(&mut session, "Q").await;
    report(&mut session, vec![JobResult { no_retry: true, ..failure(&lease, 1, "no input") }]).await;
    assert_eq!(cluster.job(id).await.state, "failed");

    // Given back: another attempt although only one was allowed.
    let id = cluster.submit_one(TaskSpec { retry: retry(1, 0), ..task("Q") }).await;
    let lease = take_one(&mut session, "Q").await;
    report(&mut session, vec![result(&lease, Outcome::Released)]).await;
    let mut other = cluster.session("wn2").await;
    let lease = take_one(&mut other, "Q").await;
    assert_eq!((lease.job_id, lease.attempt), (id, 2));
    report(&mut other, vec![result(&lease, Outcome::Finished)]).await;
    assert_eq!(cluster.job(id).await.state, "finished");
}

#[tokio::test]
async fn dependents_follow_their_parents() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let mut session = cluster.session("wn1").await;
    let diamond = || vec![JobSpec::default(), after(&[0]), after(&[0]), after(&[1, 2])];

    // All is well: one layer after the other.
    let reply = cluster.submit(task("Q"), diamond()).await;
    for layer in [1, 2, 1] {
        let leases = take(&mut session, "Q", layer).await;
        takes_nothing(&mut session, "Q").await;
        report(&mut session, leases.iter().map(|lease| result(lease, Outcome::Finished)).collect()).await;
    }
    assert_eq!(cluster.ended_task(reply.task_id).await.state, "done");
    let last = cluster.job(reply.first_job_id + 3).await;
    assert_eq!(last.state, "finished");

    // A failure closes what depends on it.
    let reply = cluster.submit(TaskSpec { retry: retry(1, 0), ..task("Q") }, diamond()).await;
    let waiting = cluster.job(reply.first_job_id + 3).await;
    assert_eq!(waiting.state, "waiting");
    assert_eq!(waiting.depends_on, [reply.first_job_id + 1, reply.first_job_id + 2]);
    let lease = take_one(&mut session, "Q").await;
    report(&mut session, vec![failure(&lease, 1, "bad")]).await;
    let ended = cluster.ended_task(reply.task_id).await;
    assert_eq!((ended.state.as_str(), counts(&ended)), ("failed", [("failed", 1), ("closed", 3)].into()));
    let closed = cluster.job(reply.first_job_id + 3).await;
    assert_eq!(closed.reason, "a job it depends on did not finish");

    // Or does not, if so wished.
    let policy = FailurePolicy::RunDependents.into();
    let reply = cluster.submit(TaskSpec { retry: retry(1, 0), failure_policy: policy, ..task("Q") }, diamond()).await;
    let lease = take_one(&mut session, "Q").await;
    report(&mut session, vec![failure(&lease, 1, "bad")]).await;
    for layer in [2, 1] {
        let leases = take(&mut session, "Q", layer).await;
        report(&mut session, leases.iter().map(|lease| result(lease, Outcome::Finished)).collect()).await;
    }
    let ended = cluster.ended_task(reply.task_id).await;
    assert_eq!((ended.state.as_str(), counts(&ended)), ("finished", [("failed", 1), ("finished", 3)].into()));
}

#[tokio::test]
async fn times_and_bounds_of_a_task_hold() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let mut session = cluster.session("wn1").await;

    // Not before its time, neither a job of its own nor an array.
    let not_before_ms = now_ms() + 3_000;
    let one = cluster.submit_one(TaskSpec { not_before_ms, ..task("Q") }).await;
    let array = cluster.submit_array(TaskSpec { not_before_ms, ..task("Q") }, 2).await;
    let view = cluster.job(one).await;
    assert_eq!((view.state.as_str(), view.reason.as_str()), ("defined", "not before its start time"));
    let leases = take(&mut session, "Q", 3).await;
    for lease in &leases {
        let leased_ms = cluster.job(lease.job_id).await.leased_ms;
        assert!(leased_ms >= not_before_ms, "leased {} ms too early", not_before_ms - leased_ms);
    }
    report(&mut session, leases.iter().map(|lease| result(lease, Outcome::Finished)).collect()).await;
    assert_eq!(cluster.ended_task(array.task_id).await.state, "done");

    // Nobody took it in time.
    let expires_at_ms = now_ms() + 2_500;
    cluster.queue("nobody").await;
    let one = cluster.submit_one(TaskSpec { expires_at_ms, ..task("nobody") }).await;
    let array = cluster.submit_array(TaskSpec { expires_at_ms, ..task("nobody") }, 50).await;
    let view = cluster.job_in(one, "closed").await;
    assert_eq!(view.reason, "expired before it ran");
    assert!(view.ended_ms >= expires_at_ms);
    let ended = cluster.ended_task(array.task_id).await;
    assert_eq!((ended.state.as_str(), counts(&ended)), ("aborted", [("closed", 50)].into()));

    // Two failures are borne, the third ends the rest; what runs may finish.
    let spec = TaskSpec { max_failed: 2, retry: retry(1, 0), ..task("Q") };
    let reply = cluster.submit_array(spec, 20).await;
    let leases = take(&mut session, "Q", 4).await;
    report(&mut session, leases[..3].iter().map(|lease| failure(lease, 1, "bad")).collect()).await;
    let view = cluster.task(reply.task_id).await;
    assert_eq!(counts(&view), [("sent", 1), ("failed", 3), ("closed", 16)].into());
    report(&mut session, vec![result(&leases[3], Outcome::Finished)]).await;
    let ended = cluster.ended_task(reply.task_id).await;
    assert_eq!((ended.state.as_str(), counts(&ended)["finished"]), ("finished", 1));
}

#[tokio::test]
async fn a_watched_task_is_seen_to_its_end() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let reply = cluster.submit(task("Q"), vec![JobSpec::default(); 3]).await;
    let mut views = cluster.client.watch_task(reply.task_id);
    assert_eq!(views.next().await.unwrap().unwrap().state, "ready");
    let mut session = cluster.session("wn1").await;
    for lease in take(&mut session, "Q", 3).await {
        report(&mut session, vec![result(&lease, Outcome::Finished)]).await;
    }
    let mut finished = 0;
    let mut last = None;
    while let Some(view) = tokio::time::timeout(common::DEADLINE, views.next()).await.unwrap() {
        let view = view.unwrap();
        let now = counts(&view).get("finished").copied().unwrap_or(0);
        assert!(now >= finished, "{now} finished after {finished}");
        finished = now;
        last = Some(view);
    }
    let last = last.unwrap();
    assert_eq!((last.state.as_str(), finished), ("done", 3));
}

#[tokio::test]
async fn lists_are_complete_page_by_page() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    cluster.queue("other").await;
    let of = |owner: &str, label: &str| TaskSpec { owner: owner.into(), label: label.into(), ..task("Q") };
    let mut ann = BTreeSet::new();
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let reply = cluster.submit(of("ann", "user"), vec![JobSpec::default(); 5]).await;
        ann.extend(reply.first_job_id..reply.first_job_id + 5);
        tasks.push(reply.task_id);
        let reply = cluster.submit_array(of("ann", "managed"), 5).await;
        ann.extend(reply.first_job_id..reply.first_job_id + 5);
    }
    cluster.submit_array(of("bob", "user"), 11).await;
    cluster.submit_array(TaskSpec { owner: "bob".into(), ..task("other") }, 4).await;
    let mut session = cluster.session("wn1").await;
    let leases = take(&mut session, "Q", 20).await;
    report(&mut session, leases[..15].iter().map(|lease| result(lease, Outcome::Finished)).collect()).await;

    // Live and ended jobs, with pages that end anywhere.
    let ids = |jobs: Vec<moso_client::v1::JobView>| {
        let ids: Vec<u64> = jobs.iter().map(|j| j.job_id).collect();
        let set: BTreeSet<u64> = ids.iter().copied().collect();
        assert_eq!(set.len(), ids.len(), "a job came twice");
        set
    };
    let owner = |owner: &str| Selector { owner: owner.into(), ..Selector::default() };
    for page in [1, 7, 10_000] {
        assert_eq!(ids(cluster.list(owner("ann"), page).await), ann, "pages of {page}");
    }
    assert_eq!(ids(cluster.list(owner("bob"), 7).await).len(), 15);
    assert!(cluster.list(owner("eve"), 7).await.is_empty());
    let states = |state: &str| Selector { queue: "Q".into(), states: vec![state.into()], ..Selector::default() };
    let finished: BTreeSet<u64> = leases[..15].iter().map(|l| l.job_id).collect();
    let sent: BTreeSet<u64> = leases[15..].iter().map(|l| l.job_id).collect();
    assert_eq!(ids(cluster.list(states("finished"), 4).await), finished);
    assert_eq!(ids(cluster.list(states("sent"), 4).await), sent);
    assert_eq!(ids(cluster.list(states("activated"), 4).await).len(), 71 - 20);
    let selector = Selector { owner: "bob".into(), label: "user".into(), ..Selector::default() };
    assert_eq!(cluster.list(selector, 100).await.len(), 11);
    let selector = Selector { tasks: tasks[..2].to_vec(), ..Selector::default() };
    assert_eq!(ids(cluster.list(selector, 3).await).len(), 10);
    let some = Vec::from_iter(finished.iter().copied().take(3));
    let selector = Selector { jobs: some.clone(), ..Selector::default() };
    assert_eq!(ids(cluster.list(selector, 2).await), BTreeSet::from_iter(some));

    let mut seen = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let request = ListRequest { selector: Some(owner("ann")), limit: 5, cursor };
        let page = cluster.client.list_tasks(request).await.unwrap();
        page.tasks.iter().for_each(|t| assert!(seen.insert(t.task_id), "task {} came twice", t.task_id));
        cursor = page.cursor;
        if cursor.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 12);
    assert!(tasks.iter().all(|id| seen.contains(id)));
    eventually("the view of the cluster counts them", async || {
        let view = cluster.client.cluster().await.unwrap();
        let queue = view.queues.iter().find(|q| q.queue == "Q")?.clone();
        ((queue.ready, queue.leased) == (51, 5)).then_some(())
    })
    .await;
}
