//! `moso-bench chaos` and `upkeep` in their short forms: real faults, and a checker that must find nothing. That it finds
//! what is wrong is tested beside it.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Program, Run, program};
use std::time::Duration;

/// Half a minute on a quiet machine; all that waits inside has its own bound.
const CHAOS_DEADLINE: Duration = Duration::from_secs(400);

async fn chaos(args: &[&str]) -> Run {
    let mut command = tokio::process::Command::new(program("moso-bench"));
    command.arg("chaos").args(args);
    Program::start(&mut command).end_within(CHAOS_DEADLINE).await
}

#[tokio::test]
async fn nothing_is_lost_or_done_twice_under_faults() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, history) = (path("report.json"), path("history.jsonl"));
    let args = "--nodes 3 --kinds kill-one,stop,partition,kill-all --faults 4 --calm 1s --hold-max 3s --job-max 2s";
    // On a machine that builds beside it a fifth of the usual rate is asked for.
    let args: Vec<&str> = args.split(' ').chain(["--min-rate", "10", "--json", &json, "--history", &history]).collect();
    let run = chaos(&args).await;
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);

    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    for kind in ["kill-one", "stop", "partition", "kill-all"] {
        assert_eq!(report["faults"][kind]["faults"], 1, "{report}");
    }
    let jobs = report["verdict"]["jobs"].as_u64().unwrap();
    let ends = |key: &str| report["verdict"][key].as_u64().unwrap();
    assert!(jobs > 0 && ends("successes") + ends("successes_unseen") >= jobs, "{report}");

    // Every event is there: each submission that was acknowledged is found again as a task.
    let events = std::fs::read_to_string(history).unwrap();
    let events: Vec<serde_json::Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |op: &str| events.iter().filter(|event| event["op"] == op).count();
    assert!(count("submit_ok") > 0 && count("lease_ok") > 0 && count("result_ok") > 0);
    assert!(count("found_job") as u64 >= jobs && count("fault_over") == 4);
}

#[tokio::test]
async fn users_feel_no_upkeep() {
    let mut command = tokio::process::Command::new(program("moso-bench"));
    command.args("upkeep --jobs 5000 --rate 100".split(' '));
    let run = Program::start(&mut command).end_within(CHAOS_DEADLINE).await;
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("5000 of 5000 jobs"), "{}", run.stdout);
}

#[tokio::test]
async fn a_kind_that_cannot_be_made_is_refused_before_anything_starts() {
    let run = chaos(&["--kinds", "partition", "--nodes", "1"]).await;
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("partition") && run.stderr.contains("lines"), "{}", run.stderr);
    let run = chaos(&["--connect", "127.0.0.1:1"]).await;
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("--connect"), "{}", run.stderr);
}

#[tokio::test]
async fn an_idle_run_fails() {
    let args = ["--kinds", "kill-one", "--faults", "1", "--calm", "1s", "--hold-max", "1s", "--job-max", "1s"];
    let args: Vec<&str> = args.into_iter().chain(["--min-rate", "1000000"]).collect();
    let run = chaos(&args).await;
    assert_eq!(run.code, Some(1), "{}\n{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("operations/s in the calm times"), "{}", run.stdout);
}
