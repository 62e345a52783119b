//! The disk of one node runs full, and later has room again. The node may end itself, and is then started again.

use crate::chaos::kind::FaultKind;
use crate::chaos::site::Site;
use anyhow::{Context, Result};
use rand::rngs::StdRng;
use std::time::Duration;

/// How long it is full, s.
const FULL_S: (f64, f64) = (3.0, 30.0);
/// A node that ends because of it has ended this long after there is room again.
const END_AFTER: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);
/// What the node gives back is taken after this.
const FILL_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn full(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let time = site.draw_hold(rng, FULL_S.0, FULL_S.1);
    let node = site.disk.as_ref().context("no small disk is mounted")?.node;
    site.begin(FaultKind::DiskFull, format!("node {node} for {:.1} s", time.as_secs_f64()));
    let end = tokio::time::Instant::now() + time;
    let mut ended = false;
    while tokio::time::Instant::now() < end {
        let disk = site.disk.as_ref().context("no small disk is mounted")?;
        // Memory is filled: some hundred milliseconds.
        tokio::task::block_in_place(|| disk.fill()).context("the small disk cannot be filled")?;
        ended |= site.cluster.take_ended(node)?.is_some();
        tokio::time::sleep(FILL_EVERY).await;
    }
    site.disk.as_ref().context("no small disk is mounted")?.empty().context("the ballast cannot be removed")?;
    // A write that failed at last may still end it.
    let end = tokio::time::Instant::now() + END_AFTER;
    while !ended && tokio::time::Instant::now() < end {
        tokio::time::sleep(LOOK).await;
        ended |= site.cluster.take_ended(node)?.is_some();
    }
    println!("           node {node} {}", if ended { "ended itself" } else { "ran on" });
    Ok(())
}
