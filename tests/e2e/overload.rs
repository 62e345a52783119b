//! `moso-bench overload` and the attacks in their short forms.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Program, Run, program};
use std::time::Duration;

/// Each takes a minute on a quiet machine.
const LONG: Duration = Duration::from_secs(330);

async fn run(name: &str, args: &[&str]) -> Run {
    let mut command = tokio::process::Command::new(program(name));
    command.args(args);
    Program::start(&mut command).end_within(LONG).await
}

#[tokio::test]
async fn running_jobs_survive_an_overload_and_memory_stays_within_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("report.json");
    let args = "overload --connections 500 --seconds 5 --calibrate 2s --held 300 --workers 6 --recover 60s --json";
    let args: Vec<&str> = args.split(' ').chain([json.to_str().unwrap()]).collect();
    let run = run("moso-bench", &args).await;
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(report["leases_lost"], 0, "{report}");
    assert!(report["offered_per_s"].as_f64().unwrap() > 0.0 && report["carried_per_s"].as_f64().unwrap() > 0.0);
    assert!(report["results"]["count"].as_u64().unwrap() >= 300, "{report}");
}

#[tokio::test]
async fn no_attack_on_any_port_harms_a_running_job() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("table.json");
    let run = run("attack", &["--seconds", "0.4", "--json", json.to_str().unwrap()]).await;
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    let table: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let rows = table.as_array().unwrap();
    let connected = |row: &&serde_json::Value| row["connections"].as_u64().unwrap() > 0;
    assert!(rows.len() > 75 && rows.iter().filter(connected).count() == rows.len(), "{}", run.stdout);
}
