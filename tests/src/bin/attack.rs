//! Attacks every port of a node, one attack after the other, and says what the node did and what it cost.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use moso_tests::attack::bystander::Bystander;
use moso_tests::attack::report::Row;
use moso_tests::attack::victim::{Prey, QUEUE, Victim};
use moso_tests::attack::{ALL, Attack};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Jobs of the bystander.
const JOBS: usize = 50;

/// Attacks each port of a node of a local cluster of three that is started for it, beside a worker with running jobs; and
/// then of one with certificates. Exit code 1: something else came of an attack than must, a node ended or panicked, memory
/// passed its limit, a lease was lost, or the node did not answer any more.
#[derive(Parser)]
struct Options {
    /// Attacks of this port only: api, peer, http, panda, tls (all ports of a cluster with certificates), who (callers there).
    #[arg(long)]
    port: Vec<String>,
    /// Attacks of this name only.
    #[arg(long)]
    only: Vec<String>,
    /// Time for each, s.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Write the table as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print the names, and end.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attack: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let wanted = |names: &[String], name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    let attacks: Vec<&Attack> =
        ALL.iter().filter(|attack| wanted(&options.port, attack.port) && wanted(&options.only, attack.name)).collect();
    if attacks.is_empty() {
        bail!("there is no such attack: see --list");
    }
    if options.list {
        attacks.iter().for_each(|attack| println!("{} {}: {}", attack.port, attack.name, attack.must));
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(all(options, &attacks))
}

async fn all(options: &Options, attacks: &[&Attack]) -> Result<()> {
    println!("{}", Row::titles());
    let mut rows = Vec::new();
    for secure in [false, true] {
        let attacks: Vec<_> = attacks.iter().copied().filter(|attack| attack.secure == secure).collect();
        if !attacks.is_empty() {
            on_cluster(options, secure, &attacks, &mut rows).await?;
        }
    }
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, json + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}

/// Makes these attacks on a new cluster.
async fn on_cluster(options: &Options, secure: bool, attacks: &[&Attack], rows: &mut Vec<Row>) -> Result<()> {
    let (mut victim, prey) = Victim::start(secure).await?;
    let bystander = Bystander::start(&prey.client, QUEUE, JOBS, &prey.api).await?;
    prey.point_at(bystander.jobs.clone());
    let prey = Arc::new(prey);
    for attack in attacks {
        let row = one(options, attack, &mut victim, &prey, &bystander).await;
        let row = row.with_context(|| format!("{} {}", attack.port, attack.name))?;
        println!("{}", row.line());
        rows.push(row);
    }
    bystander.finish().await?;
    let peak_kib = victim.used()?.peak_kib;
    let limit_kib = limit_bytes(&prey).await? >> 10;
    println!("memory at most {} MiB, limit {} MiB", peak_kib >> 10, limit_kib >> 10);
    victim.no_panic()?;
    victim.cluster.stop().await.context("local cluster")?;
    ensure!(peak_kib <= limit_kib, "the node took {} MiB, its limit is {} MiB", peak_kib >> 10, limit_kib >> 10);
    Ok(())
}

async fn one(
    options: &Options,
    attack: &Attack,
    victim: &mut Victim,
    prey: &Arc<Prey>,
    bystander: &Bystander,
) -> Result<Row> {
    bystander.told();
    let (before, began) = (victim.used()?, Instant::now());
    let seen = attack.run(prey.clone(), began + Duration::from_secs_f64(options.seconds)).await?;
    let (seconds, after) = (began.elapsed().as_secs_f64(), victim.used()?);
    prey.answers().await?;
    victim.no_panic()?;
    let told = bystander.told();
    ensure!(told.lost == 0, "the bystander lost {} leases", told.lost);
    Ok(Row::new(attack, seen, (before, after), told, seconds))
}

/// What the node says its memory is bounded by.
async fn limit_bytes(prey: &Prey) -> Result<u64> {
    let page = prey.page("/metrics").await?;
    let figure = |name: &str| page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    let limit = figure("moso_memory_limit_bytes ").context("the node says no limit")?;
    Ok((limit + figure("moso_job_bytes ").unwrap_or(0.0)) as u64)
}
