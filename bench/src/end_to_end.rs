//! The commands from end to end, against the node of `fake.rs`.

use crate::args::{Cli, Command, Common};
use crate::fake::{Faults, State, start};
use clap::Parser;
use std::sync::{Arc, Mutex};

fn parse(args: &str) -> (Common, Command) {
    // Its counters are never old.
    let words = ["moso-bench", "--settle", "20ms"].into_iter();
    let words = words.chain(args.split_whitespace());
    let cli = Cli::try_parse_from(words).expect("a valid command line");
    (cli.common, cli.command)
}

async fn lifecycle(args: &str, faults: Faults) -> (crate::report::Report, Arc<Mutex<State>>) {
    let (common, Command::Lifecycle(asked)) = parse(args) else {
        panic!("{args}");
    };
    let (target, state) = start(faults).await;
    let outcome = crate::lifecycle::command(&common, &asked, &target).await;
    (outcome.expect("the fake answers").report, state)
}

const SMALL: &str = "lifecycle --jobs 3001 --batch 20 --body 100 --queues 3 --submitters 4 --workers 5 --warmup 100";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lifecycle_ends_every_job_once() {
    for order in ["", " --phases"] {
        let (report, _) = lifecycle(&format!("{SMALL}{order}"), Faults::default()).await;
        assert!(report.ok, "{}", report.text());
        assert_eq!(report.states, [("finished".to_owned(), 3_001)].into());
        assert_eq!(report.phases.drain_per_s.is_some(), !order.is_empty());
        assert_eq!(report.latency_ms.len(), 4);
        assert!(report.server.cpu_us_per_job.is_some_and(|cpu| cpu > 0.0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_streams_undecided_results_and_second_leases_lose_nothing() {
    let faults = Faults { break_after: 20, release_each: 50, retry_each: 30, forget_each: 0 };
    let (report, state) = lifecycle(SMALL, faults).await;
    assert!(report.ok, "{}", report.text());
    let state = state.lock().expect("no panic");
    assert!(state.leases > 3_101, "{} leases", state.leases);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_never_acknowledged_is_a_lost_job() {
    let faults = Faults { forget_each: 1_000, ..Faults::default() };
    let args = SMALL.replace("--warmup 100", "--warmup 0 --patience 1s");
    let (report, _) = lifecycle(&args, faults).await;
    assert!(!report.ok);
    assert_eq!((report.lost, report.doubled), (3, 0), "{}", report.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latency_times_every_submission() {
    let args = "latency --rate 500 --seconds 1 --warmup 0 --submitters 8 --workers 4 --queues 2";
    let (common, Command::Latency(asked)) = parse(args) else {
        panic!("{args}");
    };
    let (target, _) = start(Faults::default()).await;
    let outcome = crate::latency::command(&common, &asked, &target).await;
    let report = outcome.expect("the fake answers").report;
    assert!(report.ok, "{}", report.text());
    assert_eq!((report.jobs, report.latency_ms.len()), (500, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_holds_all_jobs_and_counts_heartbeats() {
    for flood in ["", " --flood"] {
        let args =
            format!("running --jobs 2000 --heartbeat 1s --seconds 2 --workers 3 --queues 2 --through 500{flood}");
        let (common, Command::Running(asked)) = parse(&args) else {
            panic!("{args}");
        };
        let (target, state) = start(Faults::default()).await;
        let outcome = crate::running::command(&common, &asked, &target).await;
        let report = outcome.expect("the fake answers").report;
        assert!(report.ok, "{}", report.text());
        assert!(report.peak_running >= 2_000);
        assert!(report.server.heartbeats_per_s.is_some_and(|rate| rate > 0.0));
        assert!(report.server.through_per_s.is_some());
        let state = state.lock().expect("no panic");
        assert!(state.heartbeats >= 2_000, "{}", state.heartbeats);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_ends_every_job_at_its_site() {
    let args = "replay --jobs 1500 --speedup 500000 --amplify 3 --workers 4 --submitters 8 --seed 5";
    let (common, Command::Replay(asked)) = parse(args) else {
        panic!("{args}");
    };
    let workload = Arc::new(crate::replay::workload(&common, &asked).expect("drawn"));
    let faults = Faults { break_after: 40, retry_each: 100, release_each: 200, ..Faults::default() };
    let (target, _) = start(faults).await;
    let outcome = crate::replay::command(&common, &asked, &target, workload.clone()).await;
    let outcome = outcome.expect("the fake answers");
    let report = outcome.report;
    assert!(report.ok, "{}", report.text());
    let failed = workload.records.iter().filter(|r| r.failed).count() as u64 * 3;
    assert_eq!(report.states["failed"], failed);
    let per_site: Vec<u64> = report.sites.iter().map(|(_, done, failed)| done + failed).collect();
    let expected: Vec<u64> = workload.per_site().iter().map(|n| n * 3).collect();
    assert_eq!(per_site.iter().sum::<u64>(), 4_500);
    assert_eq!(per_site, expected);
    assert!(outcome.seen.samples.last().is_some_and(|s| s.ended == 4_500));
}

#[tokio::test]
async fn a_foreign_cluster_cannot_be_killed() {
    let (common, Command::Replay(asked)) = parse("replay --jobs 10 --kill-every 1s") else {
        panic!("a replay");
    };
    let workload = Arc::new(crate::replay::workload(&common, &asked).expect("drawn"));
    let (target, _) = start(Faults::default()).await;
    let outcome = crate::replay::command(&common, &asked, &target, workload).await;
    let error = outcome.err().expect("refused").to_string();
    assert!(error.contains("--kill-every"), "{error}");
}
