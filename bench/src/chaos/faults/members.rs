//! What an operator does to a cluster's members while it works: not a fault, but nothing may be lost by it either.

use crate::chaos::kind::FaultKind;
use crate::chaos::site::Site;
use anyhow::{Result, anyhow};
use moso_client::proto::object::{Node, ShardTable, kind};
use moso_client::{Client, ClientOptions, Code, Error};
use rand::Rng;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

/// A change must be done after this.
const DONE_MAX: Duration = Duration::from_secs(120);
/// How long a node stays without leaderships, s.
const DRAINED_S: (f64, f64) = (2.0, 15.0);
const LOOK: Duration = Duration::from_millis(200);

async fn client(site: &Site) -> Result<Client> {
    let options = ClientOptions { retry_budget: DONE_MAX, author: "chaos".into(), ..ClientOptions::default() };
    Ok(Client::connect_with(site.cluster.addrs(), options).await?)
}

async fn table(client: &Client) -> Result<(ShardTable, u64)> {
    let object = client.get_object(kind::SHARDS, "table").await?;
    Ok((serde_json::from_str(&object.json)?, object.version))
}

/// A shard's replica is destroyed where it is, and a new one takes its place, from a copy.
pub(super) async fn replace(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let node = site.draw_node(rng);
    let client = client(site).await?;
    let (known, _) = table(&client).await?;
    let shard = rng.random_range(1..=known.replicas.len() as u16);
    site.begin(FaultKind::ReplaceReplica, format!("shard {shard} on node {node}"));
    let started = Instant::now();
    let mut asked = false;
    while started.elapsed() < DONE_MAX {
        let (mut table, version) = table(&client).await?;
        if asked && !table.changing().any(|changing| changing == shard) {
            return Ok(());
        }
        if !asked && table.replace(shard, Some(node), Some(node)).is_ok() {
            asked = match client.put_object(kind::SHARDS, "table", &table, Some(version)).await {
                Ok(_) => true,
                // A change of another one came first, or this one's answer was lost.
                Err(Error::Refused { code: Code::VersionMismatch, .. }) => false,
                Err(error) => return Err(error.into()),
            };
        }
        site.pass(LOOK).await?;
    }
    site.problem(format!("shard {shard} has no new replica on node {node} after {DONE_MAX:?}"));
    Ok(())
}

/// A node is drained, and taken back: its leaderships go and come.
pub(super) async fn drain(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let node = site.draw_node(rng);
    let hold = site.draw_hold(rng, DRAINED_S.0, DRAINED_S.1);
    let client = client(site).await?;
    site.begin(FaultKind::Drain, format!("node {node} for {:.1} s", hold.as_secs_f64()));
    set_drain(&client, node, true).await?;
    let passed = site.pass(hold).await;
    set_drain(&client, node, false).await?;
    passed
}

async fn set_drain(client: &Client, node: u32, drain: bool) -> Result<()> {
    for _ in 0..20 {
        let object = client.get_object(kind::NODE, &node.to_string()).await?;
        let known: Node = serde_json::from_str(&object.json)?;
        let put =
            client.put_object(kind::NODE, &node.to_string(), &Node { drain, ..known }, Some(object.version)).await;
        match put {
            Err(Error::Refused { code: Code::VersionMismatch, .. }) => {}
            other => return other.map(drop).map_err(Into::into),
        }
    }
    Err(anyhow!("node {node} is changed by somebody else all the time"))
}
