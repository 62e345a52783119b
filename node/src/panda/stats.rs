//! Figures of live jobs by queue, and what the cluster's objects say of queues and users.

use super::reply::{Answer, Done, Refusal};
use super::{Front, statics, worker};
use crate::query::{ClassCounts, QueryCall};
use crate::request::Fault;
use crate::router::unpack;
use moso_proto::JobState;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// States that are shown with 0 too.
const SHOWN: [JobState; 8] = [
    JobState::Defined,
    JobState::Assigned,
    JobState::Throttled,
    JobState::Activated,
    JobState::Sent,
    JobState::Starting,
    JobState::Running,
    JobState::Transferring,
];

/// Jobs by state.
type States = BTreeMap<&'static str, u64>;
/// By queue, resource type and label.
type Figures = BTreeMap<String, BTreeMap<String, BTreeMap<String, States>>>;

impl Front {
    /// Live jobs of all shards; each queue is there.
    async fn figures(&self) -> Result<Figures, Fault> {
        let meta = self.meta();
        let mut out: Figures = meta.queues().map(|queue| (queue.name.clone(), BTreeMap::new())).collect();
        let shards = self.router.directory.shards.iter().map(|slot| self.router.query(slot.shard, &QueryCall::Counts));
        for bytes in futures::future::join_all(shards).await {
            let classes: ClassCounts = unpack(&bytes?)?;
            for (queue, resource_type, label, counts) in classes {
                let Some(queue) = meta.queue_by_id(queue) else { continue };
                let kind = if resource_type.is_empty() { "Undefined".to_owned() } else { resource_type };
                let of_kind = out.entry(queue.name.clone()).or_default().entry(kind).or_default();
                let states = of_kind.entry(label).or_default();
                for (state, jobs) in counts {
                    *states.entry(state.name()).or_default() += u64::from(jobs);
                }
            }
        }
        Ok(out)
    }
}

fn sum<'a>(all: impl Iterator<Item = &'a States>) -> States {
    let mut out: States = SHOWN.iter().map(|state| (state.name(), 0)).collect();
    for states in all {
        for (state, jobs) in states {
            *out.entry(state).or_default() += jobs;
        }
    }
    out
}

/// Any of module `statistics`.
pub async fn answer(front: &Front, method: &str) -> Answer {
    let figures = front.figures().await?;
    let by_site = |of: fn(&BTreeMap<String, BTreeMap<String, States>>) -> Value| -> Value {
        figures.iter().map(|(site, kinds)| (site.clone(), of(kinds))).collect::<Map<_, _>>().into()
    };
    Ok(Done::with(match method {
        "active_job_stats_by_site" => by_site(|kinds| json!(sum(kinds.values().flat_map(BTreeMap::values)))),
        "active_job_detailed_stats_by_site" => json!(figures),
        "job_stats_by_site_and_resource_type" => by_site(|kinds| {
            kinds.iter().map(|(kind, labels)| (kind.clone(), json!(sum(labels.values())))).collect::<Map<_, _>>().into()
        }),
        "job_stats_by_cloud" => {
            let all = figures.values().flat_map(|kinds| kinds.values().flat_map(BTreeMap::values));
            json!({ "WORLD": sum(all) })
        }
        other => return Err(Refusal::new(format!("statistics/{other} is not served here"))),
    }))
}

/// `metaconfig/get_site_specs`: the queue data of all queues.
pub fn site_specs(front: &Front) -> Answer {
    let meta = front.meta();
    let data = meta.queues().map(|queue| (queue.name.clone(), statics::queue_data(front, queue).into()));
    Ok(Done::with(data.collect::<Map<String, Value>>()))
}

/// `metaconfig/get_banned_users`.
pub fn banned_users(front: &Front) -> Answer {
    let meta = front.meta();
    let banned = meta.users().filter(|entry| entry.user.banned).map(|entry| (entry.name.clone(), false.into()));
    Ok(Done::with(banned.collect::<Map<String, Value>>()))
}

/// `metaconfig/get_resource_types`.
pub fn resource_types() -> Answer {
    Ok(Done::with(worker::resource_types()))
}
