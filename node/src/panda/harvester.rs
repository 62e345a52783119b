//! Harvester's calls. Of each Harvester one object is kept: when it was heard of, its highest worker, its figures by queue,
//! and commands for it. Of single workers nothing is kept: each job says which worker has it.

use super::args::Args;
use super::reply::{Answer, Done, Refusal};
use super::{Call, Front, time};
use moso_proto::object::kind;
use serde_json::{Map, Value, json};

/// Workers in one report.
const WORKERS_MAX: usize = 10_000;
/// Commands waiting for one Harvester.
const COMMANDS_MAX: usize = 100;
/// Figures older than this count no more (PanDA: 4 h), ms.
const STATISTICS_LIFE_MS: u64 = 4 * 3_600_000;
/// Queues of which a Harvester's figures are kept, and bytes of one's.
const QUEUES_MAX: usize = 500;
const STATISTICS_BYTES_MAX: usize = 4 << 10;

fn id(args: &Args) -> Result<&str, Refusal> {
    let id = args.text("harvester_id")?;
    let good = |c: char| c.is_ascii_graphic();
    if id.is_empty() || id.len() > 100 || !id.chars().all(good) {
        return Err(Refusal::new("Argument error: 'harvester_id' has 1 to 100 printable characters"));
    }
    Ok(id)
}

fn map_at<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let slot = map.entry(key).or_insert_with(|| json!({}));
    if !slot.is_object() {
        *slot = json!({});
    }
    slot.as_object_mut().expect("just made so")
}

/// `harvester/heartbeat`.
pub async fn heartbeat(front: &Front, call: &Call) -> Answer {
    let id = id(&call.args)?;
    let data = call.args.object("data")?;
    let text =
        |key: &str| moso_queue::codec::cut(data.get(key).and_then(Value::as_str).unwrap_or_default(), 200).to_owned();
    let (version, stamp, started) = (text("sw_version"), text("commit_stamp"), text("startTime"));
    let now_ms = front.now_ms();
    let set = |map: &mut Map<String, Value>| {
        map.insert("heard_ms".into(), now_ms.into());
        map.insert("sw_version".into(), version.clone().into());
        map.insert("commit_stamp".into(), stamp.clone().into());
        map.insert("started".into(), started.clone().into());
    };
    front.change(kind::PANDA_HARVESTER, id, id, set).await?;
    Ok(Done::default())
}

/// `harvester/get_current_worker_id`: the highest it reported.
pub async fn get_current_worker_id(front: &Front, call: &Call) -> Answer {
    let kept = front.object(kind::PANDA_HARVESTER, id(&call.args)?).await?.unwrap_or_default();
    Ok(Done::with(kept.map.get("worker_id").and_then(Value::as_u64).unwrap_or(0)))
}

/// `harvester/update_workers`.
pub async fn update_workers(front: &Front, call: &Call) -> Answer {
    let id = id(&call.args)?;
    let workers = call.args.list("workers")?;
    if workers.len() > WORKERS_MAX {
        return Err(Refusal::new(format!(
            "Argument error: 'workers' has {} items, at most {WORKERS_MAX}",
            workers.len()
        )));
    }
    let number = |worker: &Value| worker.get("workerID").and_then(super::args::whole).filter(|&id| id >= 0);
    let highest = workers.iter().filter_map(number).max().unwrap_or(0);
    let kept = front.object(kind::PANDA_HARVESTER, id).await?.unwrap_or_default();
    if kept.map.get("worker_id").and_then(Value::as_i64).unwrap_or(-1) < highest {
        let raise = |map: &mut Map<String, Value>| {
            let before = map.get("worker_id").and_then(Value::as_i64).unwrap_or(0);
            map.insert("worker_id".into(), before.max(highest).into());
        };
        front.change(kind::PANDA_HARVESTER, id, id, raise).await?;
    }
    Ok(Done::with(workers.iter().map(|worker| number(worker).is_some()).collect::<Vec<_>>()))
}

/// `harvester/report_worker_statistics`.
pub async fn report_worker_statistics(front: &Front, call: &Call) -> Answer {
    let id = id(&call.args)?;
    let queue = call.args.loose_name("panda_queue");
    let text = call.args.text("statistics")?;
    if text.len() > STATISTICS_BYTES_MAX {
        return Err(Refusal::new(format!("Argument error: 'statistics' has at most {STATISTICS_BYTES_MAX} bytes")));
    }
    let figures: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| Refusal::new(format!("Type error: 'statistics' must be JSON of an object: {error}")))?;
    let now_ms = front.now_ms();
    let set = |map: &mut Map<String, Value>| {
        let all = map_at(map, "statistics");
        if all.len() >= QUEUES_MAX && !all.contains_key(&queue) {
            return;
        }
        all.insert(queue.clone(), figures.clone().into());
        map_at(map, "reported_ms").insert(queue.clone(), now_ms.into());
    };
    front.change(kind::PANDA_HARVESTER, id, id, set).await?;
    Ok(Done::says("OK"))
}

/// `harvester/get_worker_statistics`: by queue and Harvester, what was reported of late.
pub async fn get_worker_statistics(front: &Front) -> Answer {
    let all = front.objects(kind::PANDA_HARVESTER).await?;
    let all = all.into_iter().map(|(id, kept)| (id, kept.map));
    Ok(Done::with(statistics(all, front.now_ms().saturating_sub(STATISTICS_LIFE_MS))))
}

/// The figures that were reported since then, by queue and Harvester.
fn statistics(all: impl Iterator<Item = (String, Map<String, Value>)>, since_ms: u64) -> Map<String, Value> {
    let mut out = Map::new();
    for (id, map) in all {
        let reported = |queue: &str| map.get("reported_ms").and_then(|when| when.get(queue)?.as_u64()).unwrap_or(0);
        for (queue, figures) in map.get("statistics").and_then(Value::as_object).into_iter().flatten() {
            if reported(queue) >= since_ms {
                map_at(&mut out, queue).insert(id.clone(), figures.clone());
            }
        }
    }
    out
}

/// `harvester/acquire_commands`: those that ask for no acknowledgement are then done.
pub async fn acquire_commands(front: &Front, call: &Call) -> Answer {
    let id = id(&call.args)?;
    let max = call.args.opt_int("n_commands")?.unwrap_or(1).clamp(0, COMMANDS_MAX as i64) as usize;
    let kept = front.object(kind::PANDA_HARVESTER, id).await?.unwrap_or_default();
    let none = |map: &Map<String, Value>| map.get("commands").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if none(&kept.map) || max == 0 {
        return Ok(Done::with(Vec::<Value>::new()));
    }
    let take = |map: &mut Map<String, Value>| {
        let commands = map.get_mut("commands").and_then(Value::as_array_mut);
        let Some(commands) = commands else { return Vec::new() };
        let taken: Vec<Value> = commands.iter().take(max).cloned().collect();
        let mut place = 0;
        commands.retain(|command| {
            place += 1;
            place > max || command["ack_requested"] == 1
        });
        taken
    };
    Ok(Done::with(front.change(kind::PANDA_HARVESTER, id, id, take).await?))
}

/// `harvester/acknowledge_commands`.
pub async fn acknowledge_commands(front: &Front, call: &Call) -> Answer {
    let ids = call.args.ids("command_ids", COMMANDS_MAX)?;
    let named = |command: &Value| command["command_id"].as_u64().is_some_and(|id| ids.contains(&id));
    for (harvester, kept) in front.objects(kind::PANDA_HARVESTER).await? {
        let commands = kept.map.get("commands").and_then(Value::as_array);
        if commands.is_some_and(|commands| commands.iter().any(named)) {
            let drop_them = |map: &mut Map<String, Value>| {
                if let Some(commands) = map.get_mut("commands").and_then(Value::as_array_mut) {
                    commands.retain(|command| !named(command));
                }
            };
            front.change(kind::PANDA_HARVESTER, &harvester, &harvester, drop_them).await?;
        }
    }
    Ok(Done::default())
}

/// `harvester/add_sweep_command`: every Harvester with figures of the queue is to kill workers there.
pub async fn add_sweep_command(front: &Front, call: &Call) -> Answer {
    let queue = call.args.text("panda_queue")?.to_owned();
    let list = |name: &str| call.args.get(name).cloned().unwrap_or_else(|| json!([]));
    let params = json!({"status": list("status_list"), "computingSite": [queue], "computingElement": list("ce_list"),
               "submissionHost": list("submission_host_list")});
    let mut told = 0;
    for (id, kept) in front.objects(kind::PANDA_HARVESTER).await? {
        if kept.map.get("statistics").is_none_or(|figures| figures.get(&queue).is_none()) {
            continue;
        }
        let command = json!({
            "command_id": rand::random_range(1..i64::from(i32::MAX)), "command": "KILL_WORKERS", "params": params,
            "ack_requested": 0, "creation_date": time::text(front.now_ms()),
        });
        let add = |map: &mut Map<String, Value>| {
            let commands = map.entry("commands").or_insert_with(|| json!([]));
            if let Some(commands) = commands.as_array_mut().filter(|commands| commands.len() < COMMANDS_MAX) {
                commands.push(command.clone());
                return true;
            }
            false
        };
        told += u32::from(front.change(kind::PANDA_HARVESTER, &id, &call.caller.user, add).await?);
    }
    match told {
        0 => Err(Refusal::new(format!("no Harvester has reported figures of {queue}"))),
        _ => Ok(Done::says(format!("{told} Harvesters are told"))),
    }
}

/// `harvester/add_dialogs`: to the node's log.
pub fn add_dialogs(call: &Call) -> Answer {
    let id = id(&call.args)?;
    for dialog in call.args.list("dialogs")?.iter().take(100) {
        let text = dialog.get("diagMessage").and_then(Value::as_str).unwrap_or_default();
        tracing::info!(harvester = id, message = moso_queue::codec::cut(text, 500), "Harvester says");
    }
    Ok(Done::default())
}

/// `harvester/update_service_metrics`: taken and not kept.
pub fn update_service_metrics(call: &Call) -> Answer {
    id(&call.args)?;
    Ok(Done::with(call.args.list("metrics")?.iter().map(|_| true).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_are_old_count_no_more() {
        let kept =
            json!({"statistics": {"A": {"user": 1}, "B": {"user": 2}, "C": {}}, "reported_ms": {"A": 9, "B": 10}});
        let Value::Object(kept) = kept else { unreachable!("it is one") };
        let found = statistics([("h".to_owned(), kept)].into_iter(), 10);
        assert_eq!(Value::from(found), json!({"B": {"h": {"user": 2}}}));
    }
}
