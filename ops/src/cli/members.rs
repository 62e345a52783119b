//! `moso cluster add-node`, `drain`, `remove-node`, `move`, `rebalance`: which nodes there are, and what lives on them.

use super::output::Output;
use super::{cluster, input, object};
use anyhow::{Result, bail};
use clap::Subcommand;
use moso_client::{Client, Code, Error};
use moso_proto::object::{Node, ShardTable, kind};
use moso_proto::shards::node_of;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often a change is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(500);
/// Times that a change of the table is tried again because another one came first.
const TRIES: u32 = 20;

#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Show nodes, shards and queues.
    Show,
    /// Let a node in. Its own configuration says `join = true` and names some nodes of the cluster. Replicas move to it by
    /// themselves.
    AddNode {
        /// Number, never used before.
        node: u32,
        /// host:port for clients and workers.
        #[arg(long)]
        api: String,
        /// host:port for the other nodes.
        #[arg(long)]
        peer: String,
        /// host:port for pages and metrics.
        #[arg(long)]
        http: String,
        /// What fails as one: a rack, a room.
        #[arg(long, default_value = "")]
        zone: String,
    },
    /// Empty a node, running or lost: its replicas and leaderships go to others.
    Drain {
        node: u32,
        /// It may have replicas again.
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Empty a node and forget it. Its number is never used again.
    RemoveNode {
        node: u32,
        #[command(flatten)]
        wait: Wait,
    },
    /// Move a shard's replica from one node to another. The same node twice: make it anew there, because it is damaged.
    Move {
        shard: u16,
        #[arg(long)]
        from: u32,
        #[arg(long)]
        to: u32,
        #[command(flatten)]
        wait: Wait,
    },
    /// Spread replicas and leaderships evenly, and wait until they are.
    Rebalance {
        #[command(flatten)]
        wait: Wait,
    },
}

/// How long a command waits for what it began.
#[derive(Debug, clap::Args)]
pub struct Wait {
    /// Return at once; the change goes on.
    #[arg(long)]
    no_wait: bool,
    /// Give up waiting after this; the change goes on.
    #[arg(long, default_value = "1h", value_parser = input::duration, value_name = "TIME")]
    timeout: Duration,
}

impl Cluster {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        match self {
            Cluster::Show => cluster::run(client, out).await,
            Cluster::AddNode { node, api, peer, http, zone } => {
                let object = Node { api, peer, http, zone, drain: false };
                client.put_object(kind::NODE, &node.to_string(), &object, Some(0)).await?;
                out.show(&object, |_| format!("node {node} may join; start it with join = true\n"))
            }
            Cluster::Drain { node, undo, wait } => {
                drain(client, node, !undo).await?;
                if !undo {
                    emptied(client, node, &wait).await?;
                }
                out.show(&node, |node| match (undo, wait.no_wait) {
                    (true, _) => format!("node {node} may have replicas again\n"),
                    (false, true) => format!("node {node} is being emptied\n"),
                    (false, false) => format!("node {node} is empty\n"),
                })
            }
            Cluster::RemoveNode { node, wait } => {
                if !drain_if_there(client, node).await? {
                    bail!("there is no node {node}");
                }
                emptied(client, node, &wait).await?;
                match client.delete_object(kind::NODE, &node.to_string(), None).await {
                    // A repeat, after the answer was lost.
                    Err(error) if error.code() == Some(Code::NotFound) => {}
                    other => drop(other?),
                }
                out.show(&node, |node| format!("node {node} is no member any more: stop it\n"))
            }
            Cluster::Move { shard, from, to, wait } => {
                change(client, |table| table.replace(shard, Some(from), Some(to))).await?;
                settled(client, &wait, |table| !table.changing().any(|changing| changing == shard)).await?;
                out.show(&shard, |shard| match wait.no_wait {
                    true => format!("shard {shard} is moving from node {from} to node {to}\n"),
                    false => format!("shard {shard} is on node {to} instead of node {from}\n"),
                })
            }
            Cluster::Rebalance { wait } => rebalance(client, out, &wait).await,
        }
    }
}

async fn drain(client: &Client, node: u32, drain: bool) -> Result<()> {
    let name = node.to_string();
    let Some((object, version)) = object::find::<Node>(client, kind::NODE, &name).await? else {
        return Err(object::missing(kind::NODE, &name));
    };
    client.put_object(kind::NODE, &name, &Node { drain, ..object }, Some(version)).await?;
    Ok(())
}

async fn drain_if_there(client: &Client, node: u32) -> Result<bool> {
    let found = object::find::<Node>(client, kind::NODE, &node.to_string()).await?;
    if found.as_ref().is_some_and(|(object, _)| !object.drain) {
        drain(client, node, true).await?;
    }
    Ok(found.is_some())
}

async fn table(client: &Client) -> Result<(ShardTable, u64)> {
    let object = client.get_object(kind::SHARDS, "table").await?;
    Ok((serde_json::from_str(&object.json)?, object.version))
}

/// Changes the table; tried again if another change came first.
async fn change(client: &Client, make: impl Fn(&mut ShardTable) -> Result<(), String>) -> Result<()> {
    for _ in 0..TRIES {
        let (mut table, version) = table(client).await?;
        make(&mut table).map_err(anyhow::Error::msg)?;
        match client.put_object(kind::SHARDS, "table", &table, Some(version)).await {
            Err(Error::Refused { code: Code::VersionMismatch, .. }) => tokio::time::sleep(POLL).await,
            other => return other.map(drop).map_err(Into::into),
        }
    }
    bail!("the shard table changes all the time: try again later")
}

async fn emptied(client: &Client, node: u32, wait: &Wait) -> Result<()> {
    settled(client, wait, |table| {
        let replicas = |shard: u16| table.wanted(shard).into_iter().chain(table.leaving(shard).iter().copied());
        (1..=table.replicas.len() as u16).all(|shard| replicas(shard).all(|replica| node_of(replica) != node))
    })
    .await
}

/// Waits until the table is as asked.
async fn settled(client: &Client, wait: &Wait, done: impl Fn(&ShardTable) -> bool) -> Result<()> {
    if wait.no_wait {
        return Ok(());
    }
    let start = Instant::now();
    loop {
        let (table, _) = table(client).await?;
        if done(&table) {
            return Ok(());
        }
        if start.elapsed() > wait.timeout {
            bail!("not done yet after {:?}; it goes on. `moso cluster` shows the shards' replicas", wait.timeout);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What the meta leader does by itself, asked for and waited for: replicas differ by one at most.
async fn rebalance(client: &Client, out: &Output, wait: &Wait) -> Result<()> {
    let on = moso_proto::object::Setting { value: 1 };
    client.put_object(kind::SETTING, moso_proto::setting::REBALANCE.name, &on, None).await?;
    let nodes = client.list_objects(kind::NODE).await?;
    let mut able = Vec::new();
    for object in &nodes {
        let node: Node = serde_json::from_str(&object.json)?;
        able.extend((!node.drain).then_some(object.id));
    }
    let up: Vec<u32> = client.cluster().await?.nodes.iter().filter(|node| node.up).map(|node| node.id).collect();
    able.retain(|node| up.contains(node));
    let even = |counts: BTreeMap<u32, usize>| {
        let counts = able.iter().map(|node| counts.get(node).copied().unwrap_or(0));
        counts.clone().max().unwrap_or(0) <= counts.min().unwrap_or(0) + 1
    };
    settled(client, wait, |table| {
        let mut replicas = BTreeMap::new();
        let mut leaders = BTreeMap::new();
        for nodes in &table.replicas {
            nodes.iter().for_each(|node| *replicas.entry(*node).or_default() += 1);
            nodes.iter().take(1).for_each(|node| *leaders.entry(*node).or_default() += 1);
        }
        table.leaving.is_empty() && even(replicas) && even(leaders)
    })
    .await?;
    out.show(&able, |able| format!("{} nodes share the replicas\n", able.len()))
}
