//! Workers: real commands, killed workers, drains, late results.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Cluster, Program, eventually, program, refused, report, result, retry, running, take_one, task};
use moso_client::v1::{Needs, Outcome, Selector, TaskSpec};
use moso_client::{Code, Command, Session, Turn};
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::Duration;

/// How often the sessions of these tests send heartbeats: often enough for the shortest lease on a busy machine.
const BEAT: Duration = Duration::from_secs(2);

/// Starts `moso worker`.
fn worker(cluster: &Cluster, queue: &str, slots: &str) -> Program {
    let connect = cluster.nodes.addrs().join(",");
    let mut command = tokio::process::Command::new(program("moso"));
    command.args(["--output", "json", "--connect", &connect, "worker", "--queue", queue, "--slots", slots]);
    Program::start(&mut command)
}

/// A task whose jobs are a shell's command.
fn shell(queue: &str, script: &str) -> TaskSpec {
    let body = Command::new(["sh", "-c", script]).encode();
    TaskSpec { body_type: Command::BODY_TYPE.into(), body, ..task(queue) }
}

/// A script that says that it runs, and ends when it is told to.
fn waits_in(folder: &Path) -> String {
    let folder = folder.display();
    format!("touch {folder}/began-$MOSO_ATTEMPT; until [ -e {folder}/go ]; do sleep 0.05; done; echo went")
}

/// Sends heartbeats for a lease until `done` ends.
async fn beating<T>(session: &mut Session, lease: &moso_client::v1::Lease, done: impl Future<Output = T>) -> T {
    tokio::pin!(done);
    loop {
        session.turn(running(std::slice::from_ref(lease))).await.unwrap();
        let pause = tokio::time::sleep(BEAT);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                value = &mut done => return value,
                frame = session.next() => drop(frame.unwrap()),
                () = &mut pause => break,
            }
        }
    }
}

#[tokio::test]
async fn commands_run_and_their_ends_are_kept() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let worker = worker(&cluster, "Q", "4");
    let hello = "echo hello from $MOSO_QUEUE attempt $MOSO_ATTEMPT; echo $MOSO_JOB_ID >&2";
    let good = cluster.submit_array(shell("Q", hello), 10).await;
    let bad = cluster.submit_array(TaskSpec { retry: retry(2, 0), ..shell("Q", "echo oops; exit 7") }, 1).await;
    let needs = Some(Needs { wall_time_s: 1, ..Needs::default() });
    let spec = TaskSpec { retry: retry(1, 0), needs, ..shell("Q", "echo begun; exec sleep 600") };
    let long = cluster.submit_array(spec, 1).await;
    let none = TaskSpec {
        body_type: Command::BODY_TYPE.into(),
        body: Command::new(["/nowhere/program"]).encode(),
        retry: retry(1, 0),
        ..task("Q")
    };
    let none = cluster.submit_array(none, 1).await;
    let noise = cluster.submit_array(shell("Q", "yes 0123456789 | head -c 100000; echo end"), 1).await;

    assert_eq!(cluster.ended_task(good.task_id).await.state, "done");
    let view = cluster.job(good.first_job_id + 9).await;
    let output = String::from_utf8(view.output.to_vec()).unwrap();
    assert_eq!(output, format!("hello from Q attempt 1\n{}\n", view.job_id));
    assert!(view.exit_code == 0 && view.started_ms > 0, "{view:?}");

    assert_eq!(cluster.ended_task(bad.task_id).await.state, "failed");
    let view = cluster.job(bad.first_job_id).await;
    assert_eq!((view.attempt, view.exit_code, &view.output[..]), (2, 7, &b"oops\n"[..]));
    assert_eq!((view.errors[0].source.as_str(), view.errors[0].code), ("exe", 7));

    // The pilot's code for a job that ran too long; what it printed is kept.
    assert_eq!(cluster.ended_task(long.task_id).await.state, "failed");
    let view = cluster.job(long.first_job_id).await;
    assert_eq!((view.errors[0].code, &view.output[..]), (1213, &b"begun\n"[..]));
    assert!(view.memory_peak_kib > 0, "{view:?}");

    cluster.ended_task(none.task_id).await;
    let error = &cluster.job(none.first_job_id).await.errors[0];
    assert!(error.code == 1305 && error.text.contains("/nowhere/program"), "{error:?}");

    cluster.ended_task(noise.task_id).await;
    let output = cluster.job(noise.first_job_id).await.output;
    assert!(output.len() == 4_096 && output.ends_with(b"end\n"), "{} bytes", output.len());

    worker.signal(Signal::SIGTERM);
    let ended = worker.end().await;
    let report = ended.json();
    assert_eq!((&report["finished"], &report["failed"]), (&11.into(), &4.into()), "{ended:?}");
}

#[tokio::test]
async fn a_worker_drains_on_sigterm() {
    let cluster = Cluster::start().await;
    cluster.queue("Q").await;
    let folder = tempfile::tempdir().unwrap();
    let worker = worker(&cluster, "Q", "1");
    let running = cluster.submit_array(shell("Q", &waits_in(folder.path())), 1).await;
    eventually("the job runs", async || folder.path().join("began-1").exists().then_some(())).await;
    let waiting = cluster.submit_array(shell("Q", "echo no"), 1).await;
    worker.signal(Signal::SIGTERM);
    std::fs::write(folder.path().join("go"), "").unwrap();
    let ended = worker.end().await;
    assert_eq!(ended.json()["finished"], 1, "{ended:?}");
    let view = cluster.job(running.first_job_id).await;
    assert_eq!((view.state.as_str(), view.attempt, &view.output[..]), ("finished", 1, &b"went\n"[..]));
    assert_eq!(cluster.job(waiting.first_job_id).await.state, "activated");
}

#[tokio::test]
async fn a_kill_ends_the_process() {
    let cluster = Cluster::start().await;
    cluster.short_lease_queue("Q").await;
    let folder = tempfile::tempdir().unwrap();
    let worker = worker(&cluster, "Q", "2");
    let spec = |label: &str| TaskSpec { label: label.into(), ..shell("Q", &waits_in(folder.path())) };
    // One is asked to end (TOBEKILLED), the other has ended at once and its worker has lost it.
    let asked = cluster.submit_array(spec("user"), 1).await.first_job_id;
    let forced = cluster.submit_array(spec("managed"), 1).await.first_job_id;
    for id in [asked, forced] {
        cluster.job_in(id, "running").await;
    }
    let selector = Selector { jobs: vec![asked, forced], ..Selector::default() };
    let kill = moso_client::v1::act_request::Action::Kill(moso_client::v1::Kill { code: 9 });
    assert_eq!(cluster.act(selector, kill).await.changed, 2);
    for id in [asked, forced] {
        cluster.job_in(id, "cancelled").await;
    }
    // Both processes are gone, or the worker would wait for them.
    worker.signal(Signal::SIGTERM);
    let report = worker.end().await.json();
    assert_eq!((&report["cancelled"], &report["lost"]), (&1.into(), &1.into()), "{report}");
}

/// The lease runs out in all of these at the same time, so they share a cluster.
#[tokio::test]
async fn jobs_of_silent_workers_run_again_elsewhere() {
    let cluster = Cluster::start().await;
    for queue in ["killed", "late", "early"] {
        cluster.short_lease_queue(queue).await;
    }
    tokio::join!(
        a_killed_worker(&cluster, "killed"),
        a_late_result_is_refused(&cluster, "late"),
        a_late_success_is_accepted(&cluster, "early"),
    );
}

async fn a_killed_worker(cluster: &Cluster, queue: &str) {
    let folder = tempfile::tempdir().unwrap();
    let first = worker(cluster, queue, "1");
    let reply = cluster.submit_array(shell(queue, &waits_in(folder.path())), 1).await;
    eventually("the job runs", async || folder.path().join("began-1").exists().then_some(())).await;
    let began = cluster.job_in(reply.first_job_id, "running").await;
    first.signal(Signal::SIGKILL);
    assert_eq!(first.end().await.code, None);
    let second = worker(cluster, queue, "1");
    eventually("it runs again", async || folder.path().join("began-2").exists().then_some(())).await;
    // The first process has nobody to tell it, so it ends with the second.
    std::fs::write(folder.path().join("go"), "").unwrap();
    let view = cluster.job_in(reply.first_job_id, "finished").await;
    assert_eq!(view.attempt, 2);
    assert!(view.worker != began.worker && view.session != began.session, "{view:?}");
    assert!(view.log.iter().any(|row| row.reason.contains("lost heartbeat")), "{:?}", view.log);
    second.signal(Signal::SIGTERM);
    assert_eq!(second.end().await.json()["finished"], 1);
}

async fn a_late_result_is_refused(cluster: &Cluster, queue: &str) {
    let (mut silent, mut next) = (cluster.session("silent").await, cluster.session("next").await);
    let id = cluster.submit_one(task(queue)).await;
    let old = take_one(&mut silent, queue).await;
    let new = take_one(&mut next, queue).await;
    assert_eq!((new.job_id, old.attempt, new.attempt), (id, 1, 2));
    for outcome in [Outcome::Finished, Outcome::Failed, Outcome::Released] {
        assert_eq!(refused(&mut silent, result(&old, outcome)).await, Code::StaleAttempt);
    }
    // The silent one has heard of the second attempt.
    assert_eq!(refused(&mut silent, result(&new, Outcome::Finished)).await, Code::ForeignLease);
    let lost = async {
        silent.turn(running(std::slice::from_ref(&old))).await.unwrap();
        while !silent.next().await.unwrap().heartbeat.is_some_and(|h| h.lost.contains(&id)) {}
    };
    let lost = tokio::time::timeout(common::DEADLINE, lost);
    beating(&mut next, &new, lost).await.expect("the silent worker hears that it lost the job");
    // With heartbeats the lease outlives its term.
    let outlived = async {
        eventually("the term is over", async || {
            let job = cluster.job(id).await;
            (common::now_ms() > job.leased_ms + 22_000).then_some(job)
        })
        .await
    };
    let job = beating(&mut next, &new, outlived).await;
    assert_eq!((job.state.as_str(), job.attempt), ("running", 2));
    report(&mut next, vec![result(&new, Outcome::Finished)]).await;
    assert_eq!(cluster.job(id).await.state, "finished");
}

async fn a_late_success_is_accepted(cluster: &Cluster, queue: &str) {
    let mut session = cluster.session("late").await;
    let id = cluster.submit_one(TaskSpec { retry: retry(3, 3_600_000), ..task(queue) }).await;
    let lease = take_one(&mut session, queue).await;
    let view = cluster.job_in(id, "defined").await;
    assert_eq!(view.reason, "waits before its next attempt");
    report(&mut session, vec![result(&lease, Outcome::Finished)]).await;
    let view = cluster.job(id).await;
    assert_eq!((view.state.as_str(), view.attempt), ("finished", 1));
    // Its repeat is recognised.
    report(&mut session, vec![result(&lease, Outcome::Finished)]).await;
    session.turn(Turn::default()).await.unwrap();
}
