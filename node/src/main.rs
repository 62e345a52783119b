//! `moso-node`: one node of a moso cluster.

use clap::Parser;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use moso_node::backup::command;
use moso_node::config::{Cli, Config};
use moso_node::error::Error;
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Upper bounds of the stages' histograms, s: 10 µs to 10 s.
const BUCKETS: [f64; 16] = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0];
/// How often recorded times are moved into the histograms: until then each takes memory.
const METRICS_UPKEEP: Duration = Duration::from_secs(2);
/// The configuration is wrong.
const EXIT_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MOSO_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let mut args = std::env::args_os().peekable();
    let program = args.next().unwrap_or_default();
    if args.next_if(|arg| arg == command::NAME).is_some() {
        return ended(command::run(std::iter::once(program).chain(args)));
    }
    let cli = Cli::parse();
    if let Some(offline) = &cli.offline {
        return offline.run();
    }
    let config = match Config::load(&cli) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("moso-node: {error}");
            return EXIT_CONFIG.into();
        }
    };
    ended(start(config).inspect_err(|error| tracing::error!(%error, "the node ends")))
}

fn ended(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("moso-node: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Each connection, table and file of the log is a descriptor: as many as the system allows. Where that is too few, what
/// needs one says so.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, hard, "the limit of open files stays as it is");
    }
}

fn start(config: Config) -> Result<(), Error> {
    raise_descriptor_limit();
    let metrics = metrics()?;
    let runtime =
        runtime(config.api_threads).map_err(|source| Error::Io { what: "starting the threads".into(), source })?;
    runtime.block_on(async move {
        let upkeep = metrics.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(METRICS_UPKEEP).await;
                upkeep.run_upkeep();
            }
        });
        let mut terminate = signal(SignalKind::terminate())
            .map_err(|source| Error::Io { what: "listening for signals".into(), source })?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        moso_node::node::run(config, metrics, stop).await
    })
}

/// One thread takes tasks in the order in which they were woken, so that answers which are ready together leave in fewer
/// writes. Several threads steal from each other instead.
fn runtime(threads: usize) -> std::io::Result<Runtime> {
    match threads {
        1 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread().worker_threads(threads).thread_name("api").enable_all().build(),
    }
}

fn metrics() -> Result<PrometheusHandle, Error> {
    let failed =
        |error: String| Error::Io { what: "starting the metrics".into(), source: std::io::Error::other(error) };
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)
        .map_err(|e| failed(e.to_string()))?
        .install_recorder()
        .map_err(|e| failed(e.to_string()))
}
