//! What the nodes use, and what they say of themselves.

use anyhow::{Context, Result};
use moso::LocalCluster;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for a page.
const PAGE: Duration = Duration::from_secs(20);

/// A node's memory.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Memory {
    /// Node.
    pub node: u32,
    /// Most resident memory, MiB.
    pub peak_mib: u64,
    /// What its configuration allows, with the jobs that it keeps in memory, MiB.
    pub limit_mib: u64,
}

/// Figures of a node's page of metrics, by name and labels.
#[derive(Clone, Debug, Default)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Asks a node.
    pub async fn read(address: &str) -> Result<Metrics> {
        let ask = async {
            let mut stream = TcpStream::connect(address).await?;
            let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut page = String::new();
            stream.read_to_string(&mut page).await?;
            anyhow::Ok(page)
        };
        let page = tokio::time::timeout(PAGE, ask).await.with_context(|| format!("no page from {address}"))??;
        let figure = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Ok(Metrics(page.lines().filter(|line| !line.starts_with('#')).filter_map(figure).collect()))
    }

    /// A figure; 0: there is none.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    /// The figures of a name with labels, by the first label's value.
    pub fn labelled(&self, name: &str) -> BTreeMap<String, f64> {
        let value = |key: &String| key.strip_prefix(name)?.strip_prefix('{')?.split('"').nth(1).map(str::to_owned);
        self.0.iter().filter_map(|(key, figure)| Some((value(key)?, *figure))).collect()
    }
}

/// A figure of a process, kB, as Linux tells it.
pub fn status_kib(pid: u32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Each node's most memory so far against what its configuration allows.
///
/// # Errors
/// When a node does not answer.
pub async fn memory(cluster: &LocalCluster) -> Result<Vec<Memory>> {
    let mut all = Vec::new();
    for (address, node) in cluster.http_addrs().iter().zip(1..) {
        let metrics = Metrics::read(address).await?;
        let pid = cluster.pid(node).with_context(|| format!("node {node} has ended"))?;
        let limit = metrics.get("moso_memory_limit_bytes") + metrics.get("moso_job_bytes");
        let mib = |bytes: f64| (bytes / f64::from(1 << 20)) as u64;
        all.push(Memory { node, peak_mib: status_kib(pid, "VmHWM:") >> 10, limit_mib: mib(limit) });
    }
    Ok(all)
}

/// What all nodes refused, by reason.
///
/// # Errors
/// When a node does not answer.
pub async fn refused(cluster: &LocalCluster) -> Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for address in cluster.http_addrs() {
        for (reason, count) in Metrics::read(&address).await?.labelled("moso_refused_total") {
            *all.entry(reason).or_default() += count as u64;
        }
    }
    Ok(all)
}
