//! The lines between nodes are cut, slowed or reset; `Site::heal` mends them. Clients reach all nodes throughout.

use crate::chaos::kind::FaultKind;
use crate::chaos::links::Weather;
use crate::chaos::site::Site;
use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;
use std::time::Duration;

/// How long a line is bad, s: from less than an election to several, and longer than a lease.
const BAD_S: (f64, f64) = (1.0, 40.0);
/// What a slow line adds, ms.
const DELAY_MS: (u64, u64) = (5, 200);
/// Between two resets, ms.
const RESET_EVERY_MS: (u64, u64) = (20, 2_000);

const CUT: Weather = Weather { cut: true, delay: Duration::ZERO };

pub(super) async fn partition(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let node = site.draw_node(rng);
    let time = site.draw_hold(rng, BAD_S.0, BAD_S.1);
    site.begin(FaultKind::Partition, format!("node {node} alone for {:.1} s", time.as_secs_f64()));
    site.links().others(node).for_each(|other| site.links().set_pair(node, other, CUT));
    site.pass(time).await
}

pub(super) async fn one_way(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let node = site.draw_node(rng);
    let mute = rng.random_bool(0.5);
    let time = site.draw_hold(rng, BAD_S.0, BAD_S.1);
    let what = if mute { "is not heard" } else { "hears nothing" };
    site.begin(FaultKind::PartitionOneWay, format!("node {node} {what} for {:.1} s", time.as_secs_f64()));
    for other in site.links().others(node) {
        let (from, to) = if mute { (node, other) } else { (other, node) };
        site.links().set(from, to, CUT);
    }
    site.pass(time).await
}

pub(super) async fn link(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let (a, b) = site.draw_pair(rng);
    let time = site.draw_hold(rng, BAD_S.0, BAD_S.1);
    site.begin(FaultKind::PartitionLink, format!("nodes {a} and {b} for {:.1} s", time.as_secs_f64()));
    site.links().set_pair(a, b, CUT);
    site.pass(time).await
}

pub(super) async fn slow(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let node = site.draw_node(rng);
    let delay = rng.random_range(DELAY_MS.0..=DELAY_MS.1);
    let time = site.draw_hold(rng, BAD_S.0, BAD_S.1);
    site.begin(FaultKind::SlowLink, format!("node {node} by {delay} ms for {:.1} s", time.as_secs_f64()));
    let slow = Weather { cut: false, delay: Duration::from_millis(delay) };
    site.links().others(node).for_each(|other| site.links().set_pair(node, other, slow));
    site.pass(time).await
}

pub(super) async fn reset(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let every = Duration::from_millis(rng.random_range(RESET_EVERY_MS.0..=RESET_EVERY_MS.1));
    let time = site.draw_hold(rng, BAD_S.0, BAD_S.1 / 2.0);
    let text = format!("a pair about every {} ms for {:.1} s", every.as_millis(), time.as_secs_f64());
    site.begin(FaultKind::ResetLinks, text);
    let end = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < end {
        let (a, b) = site.draw_pair(rng);
        site.links().reset_pair(a, b);
        site.pass(every.mul_f64(rng.random_range(0.5..1.5))).await?;
    }
    Ok(())
}
