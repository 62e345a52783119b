//! `moso up`: a cluster on this machine, in the foreground.

use super::connect::LocalAddress;
use super::output::Output;
use anyhow::{Context, Result};
use clap::Args;
use moso::{LocalCluster, LocalOptions};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often the nodes are looked at.
const WATCH: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct Up {
    /// Nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    nodes: u32,
    /// Shards; fixed once the cluster is made.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=4095))]
    shards: u16,
    /// Folder for data and logs, kept and used again. Default: a temporary one, removed in the end.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// No certificates, in plain text, and nobody is asked who he is.
    #[arg(long)]
    insecure: bool,
}

impl Up {
    pub async fn run(self, out: &Output) -> Result<()> {
        // Before the nodes start, so that no Ctrl-C leaves them behind.
        let mut ends = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect::<std::io::Result<Vec<_>>>()?;
        let options = LocalOptions {
            nodes: self.nodes,
            shards: self.shards,
            data: self.data,
            secure: !self.insecure,
            ..LocalOptions::default()
        };
        let start = LocalCluster::start(options);
        let mut cluster = tokio::select! {
            cluster = start => cluster?,
            () = any(&mut ends) => return Ok(()),
        };
        let path = LocalAddress::path()?;
        let credentials = cluster.credentials();
        let local = LocalAddress {
            pid: std::process::id(),
            addresses: cluster.addrs(),
            ca: credentials.map(|credentials| credentials.ca.clone()),
            token: credentials.map(|credentials| credentials.token.clone()),
        };
        local.write(&path)?;
        let result = watch(&mut cluster, &mut ends, out).await;
        // Another `moso up` may have written its own meanwhile.
        if LocalAddress::read(&path).is_ok_and(|found| found == local) {
            std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
        cluster.stop().await?;
        result
    }
}

/// Waits until somebody ends it, or a node fails.
async fn watch(cluster: &mut LocalCluster, ends: &mut [Signal], out: &Output) -> Result<()> {
    announce(cluster, out)?;
    loop {
        tokio::select! {
            () = any(ends) => return out.note("stopping"),
            () = tokio::time::sleep(WATCH) => cluster.check()?,
        }
    }
}

async fn any(signals: &mut [Signal]) {
    let received = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures::future::select_all(received).await;
}

fn announce(cluster: &LocalCluster, out: &Output) -> Result<()> {
    let (api, http, panda) = (cluster.addrs(), cluster.http_addrs(), cluster.panda_addrs());
    let folder = cluster.folder().display().to_string();
    let scheme = if cluster.credentials().is_some() { "https" } else { "http" };
    let ca = cluster.credentials().map(|credentials| &credentials.folder);
    let value = json!({ "addresses": api, "http": http, "panda": panda, "folder": folder, "ca": ca });
    out.show(&value, |_| {
        let mut text = format!("{} nodes run; data and logs in {folder}\n", api.len());
        for (node, ((api, http), panda)) in api.iter().zip(&http).zip(&panda).enumerate() {
            text += &format!("node {}  gRPC {api}  {scheme}://{http}/  PanDA {scheme}://{panda}/\n", node + 1);
        }
        if let Some(ca) = ca {
            text += &format!("certificates and tokens: {}; `moso token create --ca-dir` makes more\n", ca.display());
        }
        text + "\nIn another terminal: `moso queue create Q`, `moso worker --queue Q`, `moso submit --queue Q --wait -- echo hello`.\nCtrl-C stops the cluster.\n"
    })
}
