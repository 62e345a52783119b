//! Nodes are killed (SIGKILL), stay down for a time, and are started again by `Site::heal`.

use crate::chaos::kind::FaultKind;
use crate::chaos::site::Site;
use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// How long killed nodes are down, s: from less than an election to several.
const DOWN_S: (f64, f64) = (0.1, 15.0);

pub(super) async fn one(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let node = site.draw_node(rng);
    kill(FaultKind::KillOne, site, rng, &[node]).await
}

pub(super) async fn leader(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    // Drawn all the same when nobody leads, so that the seed's later draws do not shift.
    let any = site.draw_node(rng);
    let node = site.busiest_leader().await.unwrap_or(any);
    kill(FaultKind::KillLeader, site, rng, &[node]).await
}

pub(super) async fn majority(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let mut nodes: Vec<u32> = (1..=site.cluster.nodes()).collect();
    nodes.shuffle(rng);
    nodes.truncate(nodes.len() / 2 + 1);
    kill(FaultKind::KillMajority, site, rng, &nodes).await
}

pub(super) async fn all(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let nodes: Vec<u32> = (1..=site.cluster.nodes()).collect();
    kill(FaultKind::KillAll, site, rng, &nodes).await
}

async fn kill(kind: FaultKind, site: &mut Site, rng: &mut StdRng, nodes: &[u32]) -> Result<()> {
    let down = site.draw_hold(rng, DOWN_S.0, DOWN_S.1);
    site.begin(kind, format!("nodes {nodes:?} for {:.1} s", down.as_secs_f64()));
    for &node in nodes {
        // One that ended by itself is noted elsewhere.
        if site.cluster.pid(node).is_some() {
            site.cluster.kill(node)?;
        }
    }
    site.pass(down).await
}
