//! Every node in turn is told to end (SIGTERM), and started again when it has ended.

use crate::chaos::kind::FaultKind;
use crate::chaos::site::Site;
use anyhow::Result;
use std::time::{Duration, Instant};

/// A node must be ready again after this, before the next one's turn.
const READY_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

pub(super) async fn restart(site: &mut Site) -> Result<()> {
    let nodes = site.cluster.nodes();
    site.begin(FaultKind::RollingRestart, format!("nodes 1 to {nodes}"));
    for node in 1..=nodes {
        if site.cluster.pid(node).is_some() && !site.cluster.stop_node(node).await? {
            let tail = site.cluster.log_tail(node);
            site.problem(format!("node {node} did not end well on SIGTERM; the end of its log:\n{tail}"));
        }
        site.cluster.start_node(node)?;
        let started = Instant::now();
        while !site.cluster.is_ready(node).await {
            if started.elapsed() > READY_MAX {
                site.problem(format!("node {node} is not ready {READY_MAX:?} after its restart"));
                break;
            }
            site.pass(LOOK).await?;
        }
    }
    Ok(())
}
