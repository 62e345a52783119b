//! moso-bench: load, measurements and replays of traces against a moso cluster. It talks to the cluster only through
//! `moso-client`, and checks by its own books and by the cluster's that every job ended exactly once.

mod args;
mod books;
mod chaos;
mod check;
mod cluster;
#[cfg(test)]
mod end_to_end;
mod failover;
#[cfg(test)]
mod fake;
mod flow;
mod growth;
mod histogram;
mod holder;
mod latency;
mod lifecycle;
mod load;
mod mark;
mod meter;
mod monitor;
mod outcome;
mod overload;
mod panda;
mod peer;
mod picture;
mod replay;
mod report;
mod roll_call;
mod run;
mod running;
mod scale;
mod soak;
mod station;
mod upkeep;

use anyhow::{Context, Result};
use args::{Cli, Command, Common};
use clap::Parser;
use cluster::Target;
use moso_bench::{swf, workload};
use outcome::Outcome;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What is logged unless asked otherwise. The client of RabbitMQ calls a question for a queue that is not there an error.
const QUIET: &str = "warn,lapin=off";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(QUIET));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match execute(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("moso-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether every asked job ended exactly once.
fn execute(cli: &Cli) -> Result<bool> {
    match &cli.command {
        Command::Scale(asked) => scale::command(&cli.common, asked),
        _ => execute_on_cluster(cli),
    }
}

/// The commands that need a cluster.
fn execute_on_cluster(cli: &Cli) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cli.common.threads.max(1))
        .enable_all()
        .build()
        .context("tokio")?;
    if let Command::Peer(asked) = &cli.command {
        return runtime.block_on(peer::command(&cli.common, asked));
    }
    if let Command::Growth(asked) = &cli.command {
        return runtime.block_on(until_told(growth::command(&cli.common, asked)));
    }
    if let Command::Upkeep(asked) = &cli.command {
        return runtime.block_on(until_told(upkeep::command(&cli.common, asked)));
    }
    if let Command::Soak(asked) = &cli.command {
        return runtime.block_on(until_told(soak::command(&cli.common, asked)));
    }
    if let Command::Panda(asked) = &cli.command {
        return runtime.block_on(until_told(panda::command(&cli.common, asked)));
    }
    if let Command::Chaos(asked) = &cli.command {
        return runtime.block_on(chaos::command(&cli.common, asked));
    }
    if let Command::Overload(asked) = &cli.command {
        return runtime.block_on(until_told(overload::command(&cli.common, asked)));
    }
    runtime.block_on(async {
        let prepared = Prepared::new(cli)?;
        let target = Target::open(&cli.common).await?;
        let title = prepared.title(cli);
        println!("{title} on {}", target.describe());
        let done = async {
            let mut outcome = prepared.execute(cli, &target).await?;
            outcome.report.nodes = Some(target.nodes().await?);
            publish(&cli.common, &outcome, &title)?;
            Ok(outcome.report.ok)
        };
        let ok = tokio::select! {
            ok = done => ok,
            why = told_to_end() => Err(why),
        };
        let closed = target.close(cli.common.keep && ok.is_ok()).await;
        let ok = ok?;
        closed.map(|()| ok)
    })
}

/// Runs a command until it is done, or is told to end: then what it started ends with it.
async fn until_told(command: impl Future<Output = Result<bool>>) -> Result<bool> {
    tokio::select! {
        done = command => done,
        why = told_to_end() => Err(why),
    }
}

/// Waits for Ctrl-C or SIGTERM.
async fn told_to_end() -> anyhow::Error {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(error) => return error.into(),
        }
        anyhow::anyhow!("told to end")
    };
    tokio::select! {
        signal = tokio::signal::ctrl_c() => signal.err().map_or(anyhow::anyhow!("interrupted"), Into::into),
        why = terminated => why,
    }
}

/// A command with what it needs before a cluster is started.
enum Prepared {
    Ready,
    Replay(Arc<workload::Workload>),
}

impl Prepared {
    fn new(cli: &Cli) -> Result<Prepared> {
        Ok(match &cli.command {
            Command::Replay(asked) => Prepared::Replay(Arc::new(replay::workload(&cli.common, asked)?)),
            _ => Prepared::Ready,
        })
    }

    async fn execute(&self, cli: &Cli, target: &Target) -> Result<Outcome> {
        let common = &cli.common;
        match (&cli.command, self) {
            (Command::Lifecycle(asked), _) => lifecycle::command(common, asked, target).await,
            (Command::Running(asked), _) => running::command(common, asked, target).await,
            (Command::Latency(asked), _) => latency::command(common, asked, target).await,
            (Command::Replay(asked), Prepared::Replay(workload)) => {
                replay::command(common, asked, target, workload.clone()).await
            }
            (Command::Replay(_), Prepared::Ready) => {
                unreachable!("a replay is prepared with its workload")
            }
            (Command::Scale(_), _) => unreachable!("it needs no cluster"),
            (
                Command::Peer(_)
                | Command::Chaos(_)
                | Command::Growth(_)
                | Command::Upkeep(_)
                | Command::Soak(_)
                | Command::Overload(_)
                | Command::Panda(_),
                _,
            ) => unreachable!("it runs by itself"),
        }
    }

    /// What was asked, in one line.
    fn title(&self, cli: &Cli) -> String {
        match (&cli.command, self) {
            (Command::Lifecycle(a), _) => format!("lifecycle: {}", a.describe()),
            (Command::Running(a), _) => {
                let beats = if a.flood { "as fast as answered".to_owned() } else { format!("every {:?}", a.heartbeat) };
                format!(
                    "running: {} jobs held for {} s by {} workers, heartbeats {beats}, {} jobs passing through",
                    a.jobs, a.seconds, a.workers, a.through
                )
            }
            (Command::Latency(a), _) => format!(
                "latency: {} submissions/s of {} jobs of {} bytes for {} s, {} workers waiting",
                a.rate, a.batch, a.body, a.seconds, a.workers
            ),
            (Command::Replay(a), Prepared::Replay(workload)) => format!(
                "replay: {}, {} records at {} sites over {:.1} days, {}-fold, {} times faster (about {:.0} s)",
                workload.name,
                workload.records.len(),
                workload.sites.len(),
                f64::from(workload.span_s()) / 86_400.0,
                a.amplify,
                a.speedup,
                f64::from(workload.span_s()) / a.speedup
            ),
            (Command::Replay(_), Prepared::Ready) => "replay".to_owned(),
            (Command::Scale(_), _) => "scale".to_owned(),
            (Command::Peer(a), _) => format!("peer: {}", a.load.describe()),
            (Command::Chaos(_), _) => "chaos".to_owned(),
            (Command::Growth(_), _) => "growth".to_owned(),
            (Command::Upkeep(_), _) => "upkeep".to_owned(),
            (Command::Soak(_), _) => "soak".to_owned(),
            (Command::Overload(_), _) => "overload".to_owned(),
            (Command::Panda(_), _) => "panda".to_owned(),
        }
    }
}

/// Prints the report and writes the files asked for.
fn publish<C>(common: &Common, outcome: &Outcome<C>, title: &str) -> Result<()> {
    print!("{}", outcome.report.text());
    if let Some(path) = &common.json {
        let json = serde_json::to_string_pretty(&outcome.report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if let Some(path) = &common.svg {
        picture::write(path, title, &outcome.seen.samples)?;
    }
    if let Some(path) = &common.hdr {
        let file = std::fs::File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
        outcome.run.latencies.write_text(std::io::BufWriter::new(file))?;
    }
    Ok(())
}
