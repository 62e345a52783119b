//! A lease request as it goes between nodes.

use moso_queue::filter::WorkerOffer;
use serde::{Deserialize, Serialize};

/// A request passed to a shard's leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseAsk {
    /// Queue.
    pub queue: u32,
    /// Most jobs.
    pub max: u32,
    /// By age alone.
    pub by_age: bool,
    /// Task, if only its jobs are wanted.
    pub task: Option<u64>,
    /// Session.
    pub session: u64,
    /// Number of its request, counted round.
    pub request: u32,
    /// Worker's name.
    pub worker: String,
    /// What the worker has.
    pub offer: Offer,
}

/// [`WorkerOffer`] as it goes between nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Offer {
    numbers: [u32; 4],
    resource_type: String,
    tags: Vec<String>,
    label: String,
    owner: String,
}

impl From<&WorkerOffer> for Offer {
    fn from(offer: &WorkerOffer) -> Self {
        Offer {
            numbers: [offer.cores, offer.memory_mib, offer.disk_mib, offer.remaining_s],
            resource_type: offer.resource_type.to_string(),
            tags: offer.tags.iter().map(|t| t.to_string()).collect(),
            label: offer.label.to_string(),
            owner: offer.owner.to_string(),
        }
    }
}

impl From<Offer> for WorkerOffer {
    fn from(offer: Offer) -> Self {
        let [cores, memory_mib, disk_mib, remaining_s] = offer.numbers;
        WorkerOffer {
            cores,
            memory_mib,
            disk_mib,
            remaining_s,
            resource_type: offer.resource_type.into(),
            tags: offer.tags.into_iter().map(Into::into).collect(),
            label: offer.label.into(),
            owner: offer.owner.into(),
        }
    }
}
