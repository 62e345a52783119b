//! The program of a node.
use moso_node::config::Config;
fn main() -> std::process::ExitCode {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::try_from_env("MOSO_LOG").unwrap_or_else(|_| "info".into())).with_ansi(false).init();
    let config = match Config::load() { Ok(c) => c, Err(e) => { eprintln!("{e}"); return 2.into() } };
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().expect("first");
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(config.api_threads).enable_all().build().expect("rt");
    let r = rt.block_on(async move {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signal");
        moso_node::node::run(config, metrics, async move { tokio::select! { _ = term.recv() => {}, _ = tokio::signal::ctrl_c() => {} } }).await
    });
    match r { Ok(()) => 0.into(), Err(e) => { eprintln!("{e}"); 1.into() } }
}
