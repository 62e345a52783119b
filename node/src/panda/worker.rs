//! What pilots say of their workers. A worker is known by what it runs: its name stands with each job. That it started or
//! ended is counted; of its machine nothing is kept.

use super::Call;
use super::reply::{Answer, Done, Pairs, status};
use serde_json::{Value, json};

/// PanDA's resource types; memory in MB per core.
pub fn resource_types() -> Value {
    let kind = |name: &str, cores: (u32, Option<u32>), memory: (Option<u32>, Option<u32>)| {
        json!({
            "resource_name": name, "mincore": cores.0, "maxcore": cores.1,
            "minrampercore": memory.0, "maxrampercore": memory.1,
        })
    };
    let (one, many) = ((1, Some(1)), (2, None));
    let (low, high) = ((None, Some(2_000)), (Some(2_001), None));
    json!([
        kind("SCORE", one, low),
        kind("MCORE", many, low),
        kind("SCORE_HIMEM", one, high),
        kind("MCORE_HIMEM", many, high),
    ])
}

fn count(status: &str) {
    let status = match status {
        "started" => "started",
        "finished" => "finished",
        _ => "other",
    };
    metrics::counter!("moso_panda_worker_reports_total", "status" => status).increment(1);
}

/// `updateWorkerPilotStatus`.
pub fn status_old(call: &Call) -> Pairs {
    for name in ["worker_id", "harvester_id", "status"] {
        if call.args.loose_text(name).is_empty() {
            let mut pairs = Pairs::status(status::FAILED);
            pairs.push("errorDialog", format!("Argument error: missing a required argument: '{name}'"));
            return pairs;
        }
    }
    count(&call.args.loose_text("status"));
    Pairs::status(status::OK)
}

/// `pilot/update_worker_status`.
pub fn update_status(call: &Call) -> Answer {
    // Pilots send the number as a text.
    call.args.text("harvester_id")?;
    call.args.get("worker_id").map_or_else(|| call.args.text("worker_id").map(drop), |_| Ok(()))?;
    count(call.args.text("status")?);
    Ok(Done::default())
}

/// `pilot/update_worker_node` and `update_worker_node_gpu`.
pub fn update_node(call: &Call) -> Answer {
    call.args.text("site")?;
    call.args.text("host_name")?;
    metrics::counter!("moso_panda_worker_reports_total", "status" => "node").increment(1);
    Ok(Done::says("Inserted new worker node."))
}
