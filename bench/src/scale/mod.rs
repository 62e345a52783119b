//! `scale`: how a cluster of any size behaves, computed from what single steps cost. A closed-form model gives what each
//! resource does and which one binds; a simulation of the same cluster gives queues, latencies and a failure. Nothing is
//! started, and but for `--calibrate` no clock is read: the same arguments give the same output.

mod calibrate;
mod cluster;
mod costs;
mod event;
mod model;
mod picture;
mod simulation;
mod table;

use crate::args::{Common, Scale};
use anyhow::{Context, Result, ensure};
use cluster::{Cluster, Load, Machine};
use costs::Costs;
use event::{Ns, s};
use model::{Estimate, Model};
use serde::Serialize;
use simulation::{Drive, Plan, Simulated};

/// Sizes that are computed if none are given.
const NODES: [u32; 3] = [10, 100, 1_000];
/// See [`NODES`].
const SHARDS: [u16; 2] = [64, 4_095];
/// About the events of one simulated run: a few seconds of one core.
const EVENTS: f64 = 2e6;
/// About the events of a batch's life, and of a node's upkeep in a second.
const EVENTS_PER_BATCH: f64 = 50.0;
/// See [`EVENTS_PER_BATCH`].
const EVENTS_PER_NODE_S: f64 = 700.0;
/// Longest virtual time measured, s.
const MEASURE_MAX_S: f64 = 2.0;
/// Calls under way at each shard's leader at the highest rate, unless --in-flight says otherwise.
const IN_FLIGHT_PER_SHARD: f64 = 16.0;
/// When the node fails, and how long the run goes on, s: elections take two to four.
const FAIL_AT_S: f64 = 0.5;
/// See [`FAIL_AT_S`].
const FAIL_RUN_S: f64 = 5.5;

/// Everything that was computed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Name of the command.
    pub command: &'static str,
    /// Seed of the simulations.
    pub seed: u64,
    /// What was asked of each cluster.
    pub load: Load,
    /// Jobs a second that were asked for.
    pub rate: f64,
    /// Unit costs.
    pub costs: Costs,
    /// Which of them nothing has measured.
    pub assumed: Vec<&'static str>,
    /// One for each size.
    pub cases: Vec<Case>,
}

/// A cluster size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Case {
    /// Cluster.
    pub cluster: Cluster,
    /// Why it does not run, though the model computes it.
    pub obstacles: Vec<String>,
    /// At the rate asked for.
    pub asked: Estimate,
    /// At the highest rate; `None`: it cannot even bear its own upkeep.
    pub highest: Option<Estimate>,
    /// The highest rate at which hints are sent as soon as they are due, jobs a second.
    pub prompt_jobs_per_s: Option<f64>,
    /// The highest rate with one node down, jobs a second.
    pub one_down_jobs_per_s: Option<f64>,
    /// Simulated at half of the highest rate.
    pub half: Option<Simulated>,
    /// Simulated with as many batches under way as it takes.
    pub full: Option<Simulated>,
    /// Simulated at half of the highest rate or less, with a node that fails.
    pub failure: Option<Simulated>,
}

/// Runs the command. Whether every simulated batch ended once.
///
/// # Errors
/// When the costs cannot be read or a file cannot be written.
pub fn command(common: &Common, asked: &Scale) -> Result<bool> {
    if asked.calibrate {
        print!("{}", calibrate::text()?);
        return Ok(true);
    }
    let report = compute(common, asked)?;
    print!("{}", table::text(&report));
    if let Some(path) = &common.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if let Some(path) = &common.svg {
        picture::write(path, &report)?;
    }
    Ok(report.cases.iter().all(Case::conserved))
}

fn compute(common: &Common, asked: &Scale) -> Result<Report> {
    let costs = asked.costs.as_deref().map_or_else(|| Ok(Costs::default()), Costs::read)?;
    let load = load(asked);
    ensure!(load.workers >= 1.0, "--workers {}: at least one worker holds the jobs", load.workers);
    let rate = asked.rate.unwrap_or(asked.jobs_per_day / 86_400.0);
    let nodes = if common.nodes.is_empty() { NODES.as_slice() } else { &common.nodes };
    let shards = if common.shards.is_empty() { SHARDS.as_slice() } else { &common.shards };
    let mut cases = Vec::new();
    for &nodes in nodes {
        for &shards in shards {
            let cluster = Cluster {
                nodes: nodes as usize,
                shards: shards.into(),
                replicas: asked.replicas as usize,
                machine: machine(asked),
                spread_reactors: asked.spread_reactors,
            };
            let in_flight = asked.in_flight.map_or(load.in_flight, |all| f64::from(all) / f64::from(shards));
            let load = Load { in_flight, ..load.clone() };
            cases.push(Case::compute(cluster, &load, &costs, rate, common.seed, asked));
        }
    }
    Ok(Report { command: "scale", seed: common.seed, load, rate, costs, assumed: Costs::assumed().collect(), cases })
}

fn load(asked: &Scale) -> Load {
    Load {
        batch: asked.batch.into(),
        body_bytes: asked.body as f64,
        running: asked.running,
        queued: asked.queued,
        heartbeat_s: asked.heartbeat.as_secs_f64().max(0.001),
        workers: asked.workers,
        queues: asked.queues,
        users: asked.users,
        idle_workers: asked.idle_workers,
        in_flight: IN_FLIGHT_PER_SHARD,
        hint_receivers: f64::from(asked.hint_receivers),
        hint_spacing_s: asked.hint_spacing.as_secs_f64(),
    }
}

fn machine(asked: &Scale) -> Machine {
    Machine {
        cores: asked.cores as usize,
        memory_bytes: asked.memory_gb * 1e9,
        disk_bytes_per_s: asked.disk_mb * 1e6,
        line_bytes_per_s: asked.line_gbit * 1e9 / 8.0,
        latency_us: asked.latency_us,
        shared: asked.one_machine,
    }
}

impl Case {
    fn compute(cluster: Cluster, load: &Load, costs: &Costs, rate: f64, seed: u64, asked: &Scale) -> Case {
        let model = Model::new(&cluster, load, costs);
        let max = model.max_rate();
        let one_down = Model::new(&cluster, load, costs).one_down().max_rate();
        let simulated = max.filter(|_| !asked.no_simulation);
        let plan = |drive, warmup, measure, fail_at| Plan {
            cluster: &cluster,
            load,
            costs,
            drive,
            seed,
            warmup,
            measure,
            fail_at,
        };
        // Hints have gone round several times before anything is measured.
        let hint_s = |rate| 1.0 / model.at(rate).upkeep.hints_per_s.max(1.0);
        let warmup = |rate| s((6.0 * hint_s(rate)).clamp(0.1, 1.5));
        let half = simulated.map(|max| {
            let rate = max / 2.0;
            simulation::run(&plan(Drive::Open(rate), warmup(rate), measured(&cluster, rate / load.batch), None))
        });
        let full = simulated.map(|max| {
            let batches_per_s = max / load.batch;
            // At the leaders, and waiting for a hint to tell of them.
            let hinted = 3.0 * batches_per_s * hint_s(max) * cluster.elsewhere();
            // Three entries of a shard are under way.
            let led = load.in_flight.max(6.0 * model.at(max).commands_per_entry) * cluster.shards as f64;
            let in_flight = asked.in_flight.map_or(led + hinted, f64::from);
            simulation::run(&plan(
                Drive::Closed(in_flight as usize),
                warmup(max).max(s(2.0 * in_flight / batches_per_s)),
                measured(&cluster, batches_per_s).max(s(3.0 * hint_s(max))),
                None,
            ))
        });
        let fails = simulated.filter(|_| cluster.copies() > 2);
        let failure = fails.map(|max| {
            let ring = cluster.ring(simulation::NODES_MAX);
            let part = ring.shards as f64 / cluster.shards as f64;
            let events_per_s = (2.0 * EVENTS / FAIL_RUN_S - ring.nodes as f64 * EVENTS_PER_NODE_S).max(50_000.0);
            let rate = (max / 2.0).min(events_per_s / EVENTS_PER_BATCH * load.batch / part);
            simulation::run(&plan(Drive::Open(rate), 0, s(FAIL_RUN_S), Some(s(FAIL_AT_S))))
        });
        Case {
            obstacles: model.obstacles(),
            asked: model.at(rate),
            highest: max.map(|max| model.at(max)),
            prompt_jobs_per_s: model.prompt_rate(),
            one_down_jobs_per_s: one_down,
            half,
            full,
            failure,
            cluster,
        }
    }

    /// Every batch of every run ended once.
    fn conserved(&self) -> bool {
        [&self.half, &self.full, &self.failure].into_iter().flatten().all(|run| run.ended_once == run.submitted)
    }
}

/// Virtual time that the events allow.
fn measured(cluster: &Cluster, batches_per_s: f64) -> Ns {
    let ring = cluster.ring(simulation::NODES_MAX);
    let part = ring.shards as f64 / cluster.shards as f64;
    let per_s = batches_per_s * part * EVENTS_PER_BATCH + ring.nodes as f64 * EVENTS_PER_NODE_S;
    s((EVENTS / per_s).min(MEASURE_MAX_S))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn computed(args: &[&str]) -> Report {
        let args = ["moso-bench", "scale"].iter().chain(args);
        let cli = Cli::try_parse_from(args).expect("the arguments are good");
        let Command::Scale(asked) = &cli.command else { panic!("scale was asked for") };
        compute(&cli.common, asked).expect("it can be computed")
    }

    #[test]
    fn one_seed_gives_one_output() {
        let args = ["--nodes", "3,10", "--shards", "6", "--running", "100000", "--seed"];
        let of = |seed| {
            let report = computed(&args.iter().copied().chain([seed]).collect::<Vec<_>>());
            assert!(report.cases.iter().all(Case::conserved));
            (serde_json::to_string(&report).expect("plain values"), table::text(&report), picture::draw(&report).ok())
        };
        let first = of("3");
        assert!(first.2.is_some());
        assert_eq!(first, of("3"));
        assert_ne!(first.0, of("4").0);
    }

    #[test]
    fn a_wrong_costs_file_ends_the_command() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("costs.json");
        for (text, told) in [(r#"{"cal_us": 1}"#, "cal_us"), (r#"{"call_us": -2}"#, "call_us = -2")] {
            std::fs::write(&path, text).expect("it can be written");
            let cli = Cli::try_parse_from(["moso-bench", "scale", "--costs", path.to_str().expect("plain")]);
            let cli = cli.expect("the arguments are good");
            let Command::Scale(asked) = &cli.command else { panic!("scale was asked for") };
            let error = command(&cli.common, asked).expect_err(text);
            let error = format!("{error:#}");
            assert!(error.contains(told) && error.contains("costs.json"), "{error}");
        }
    }

    #[test]
    fn the_model_alone_simulates_nothing() {
        let report = computed(&["--no-simulation"]);
        assert_eq!(report.cases.len(), NODES.len() * SHARDS.len());
        assert!(report.cases.iter().all(|case| case.half.is_none() && case.failure.is_none()));
        assert!(table::text(&report).contains("busiest reactor"));
    }
}
