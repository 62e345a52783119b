//! Costs that need no cluster to be measured: what a node does with hints, on data of the same shape and with the same
//! library (`node/src/hints.rs`, `node/src/dispatch.rs`, `node/src/directory.rs`).

use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

/// Shards and queues of a large cluster: more than the caches hold.
const SHARDS: usize = 4_095;
/// See [`SHARDS`].
const QUEUES: u32 = 170;
/// Users of a node's use of resources.
const USERS: u32 = 1_400;
/// The median of so many turns counts.
const TURNS: usize = 15;

/// As `QueueHint` of a node.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct QueueHint {
    queue: u32,
    ready: u64,
    top_priority: i32,
}

/// As `ShardHint`, its figures as numbers.
#[derive(Serialize, Deserialize)]
struct ShardHint {
    status: [u64; 11],
    queues: Vec<QueueHint>,
}

/// As `Usage`.
#[derive(Default, Serialize, Deserialize)]
struct Usage {
    queue_leased: BTreeMap<u32, u64>,
    user_leased: BTreeMap<String, u64>,
}

/// The measured costs as a costs file.
///
/// # Errors
/// When the data cannot be encoded.
pub fn text() -> Result<String> {
    let hints: Vec<ShardHint> = (0..SHARDS as u64).map(shard).collect();
    let entries = (SHARDS * QUEUES as usize) as f64;
    let bytes = postcard::to_stdvec(&hints)?;
    let written = median_us(|| postcard::to_stdvec(black_box(&hints)).map(|bytes| bytes.len()).unwrap_or(0));
    let read = median_us(|| postcard::from_bytes::<Vec<ShardHint>>(black_box(&bytes)).map(|h| h.len()).unwrap_or(0));
    let scanned = median_us(|| scan(black_box(&hints), QUEUES / 2));
    let usages: Vec<Usage> = (0..16).map(|_| usage()).collect();
    let summed = median_us(|| sum(black_box(&usages)));
    let usage_entries = (usages.len() * (QUEUES + USERS) as usize) as f64;
    let costs = BTreeMap::from([
        // A hint is written once and read by every other node.
        ("hint_entry_us", read.max(written) / entries),
        ("scan_entry_us", scanned / entries),
        ("usage_entry_us", summed / usage_entries),
        ("wire_hint_entry_bytes", bytes.len() as f64 / entries),
    ]);
    let rounded: BTreeMap<_, _> = costs.into_iter().map(|(name, cost)| (name, (cost * 1e5).round() / 1e5)).collect();
    Ok(serde_json::to_string_pretty(&rounded)? + "\n")
}

fn shard(number: u64) -> ShardHint {
    let queue = |queue| QueueHint { queue, ready: number % 300, top_priority: 1_000 };
    ShardHint { status: [number + 1_000_000; 11], queues: (0..QUEUES).map(queue).collect() }
}

fn usage() -> Usage {
    Usage {
        queue_leased: (0..QUEUES).map(|queue| (queue, 60_000)).collect(),
        user_leased: (0..USERS).map(|user| (format!("user-of-a-group-{user}"), 7_000)).collect(),
    }
}

/// Shards with work of a queue, gathered as a lease request does.
fn scan(hints: &[ShardHint], queue: u32) -> usize {
    let mut found = Vec::new();
    for shard in hints {
        for hint in shard.queues.iter().filter(|hint| hint.queue == queue) {
            found.push((shard.status[0], hint.ready, hint.top_priority));
        }
    }
    black_box(&found).len()
}

/// All nodes' use of resources.
fn sum(usages: &[Usage]) -> usize {
    let mut sum = Usage::default();
    for usage in usages {
        for (&queue, leased) in &usage.queue_leased {
            *sum.queue_leased.entry(queue).or_default() += leased;
        }
        for (user, leased) in &usage.user_leased {
            *sum.user_leased.entry(user.clone()).or_default() += leased;
        }
    }
    sum.queue_leased.len() + sum.user_leased.len()
}

fn median_us(mut work: impl FnMut() -> usize) -> f64 {
    let mut times: Vec<f64> = (0..TURNS)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[TURNS / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::costs::Costs;

    #[test]
    fn what_is_measured_is_a_costs_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("costs.json");
        std::fs::write(&path, text().expect("it can be measured")).expect("it can be written");
        let costs = Costs::read(&path).expect("it is one");
        assert!(costs.scan_entry_us > 0.0 && costs.usage_entry_us > costs.scan_entry_us);
        assert_eq!((scan(&[shard(1), shard(300)], 3), sum(&[usage(), usage()])), (2, (QUEUES + USERS) as usize));
    }
}
