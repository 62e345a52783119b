//! `moso-bench` checks its own books: each job submitted, run and ended once. It fails if they do not balance.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Program, Run, program};
use std::path::PathBuf;
use std::time::Duration;

/// A replay takes a minute on a slow machine.
const REPLAY_DEADLINE: Duration = Duration::from_secs(240);

async fn replay(args: &[&str]) -> Run {
    let mut command = tokio::process::Command::new(program("moso-bench"));
    command.args(["replay", "--nodes", "3"]).args(args);
    Program::start(&mut command).end_within(REPLAY_DEADLINE).await
}

/// The trace of a real grid, if it is here: named by `MOSO_TRACE`, or in the folder beside the repository.
fn trace() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/traces/LCG-2005.swf.gz");
    let path = std::env::var_os("MOSO_TRACE").map_or_else(|| beside.into(), PathBuf::from);
    path.exists().then_some(path)
}

#[tokio::test]
async fn a_trace_of_a_real_grid() {
    let Some(trace) = trace() else {
        println!("skipped: no trace; name one in the Standard Workload Format with MOSO_TRACE");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("report.json");
    let args =
        ["--jobs", "5000", "--speedup", "50000", "--trace", trace.to_str().unwrap(), "--json", json.to_str().unwrap()];
    let run = replay(&args).await;
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert!(report.is_object(), "{report}");
}

#[tokio::test]
async fn the_built_in_workload_while_nodes_are_killed() {
    let run = replay(&["--jobs", "6000", "--speedup", "50000", "--kill-every", "5s"]).await;
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
}
