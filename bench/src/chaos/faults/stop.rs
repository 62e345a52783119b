//! A node is halted (SIGSTOP), as if its machine had stalled, and goes on.

use crate::chaos::kind::FaultKind;
use crate::chaos::site::Site;
use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;

/// How long it stands still, s.
const HALT_S: (f64, f64) = (1.0, 60.0);

pub(super) async fn stop(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let any = site.draw_node(rng);
    // A leader that stalls is the harder case.
    let node = match rng.random_bool(0.5) {
        true => site.busiest_leader().await.unwrap_or(any),
        false => any,
    };
    let halt = site.draw_hold(rng, HALT_S.0, HALT_S.1);
    site.begin(FaultKind::Stop, format!("node {node} for {:.1} s", halt.as_secs_f64()));
    // One that ended by itself, before or meanwhile, is noted elsewhere.
    if site.cluster.pid(node).is_some() {
        site.cluster.pause(node)?;
    }
    let passed = site.pass(halt).await;
    if site.cluster.pid(node).is_some() {
        site.cluster.resume(node)?;
    }
    passed
}
