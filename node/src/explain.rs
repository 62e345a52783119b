//! Why is my job not running? Each gate between a job and a worker, with its verdict, in the order in which dispatch
//! applies them.

use crate::router::Router;
use moso_proto::object::QueueState;
use moso_proto::v1::{Explanation, Gate, JobView};

/// Goes through the gates.
pub fn explain(job: &JobView, router: &Router, now_ms: u64) -> Explanation {
    let mut gates = Vec::new();
    let mut gate = |name: &str, passed: bool, detail: String| {
        gates.push(Gate { name: name.into(), passed, detail });
    };
    let meta = router.directory.meta.load();
    let usage = router.directory.usage.load();
    let state = job.state.as_str();
    let ended = job.ended_ms > 0;
    let leased = matches!(state, "sent" | "starting" | "running");
    gate("not ended", !ended, if ended { format!("it is {state}: {}", job.reason) } else { String::new() });
    gate("dependencies", state != "waiting", format!("it depends on {} jobs", job.depends_on.len()));
    gate("hold", state != "throttled", if state == "throttled" { job.reason.clone() } else { String::new() });
    let due = job.ready_ms <= now_ms || state != "defined";
    gate(
        "time",
        due,
        if due { String::new() } else { format!("{} for {} s more", job.reason, (job.ready_ms - now_ms) / 1000) },
    );
    match meta.queue(&job.queue) {
        None => gate("queue", false, format!("{} does not exist any more", job.queue)),
        Some(queue) => {
            let now = queue.state_at(now_ms);
            let gives = queue.gives_leases(now_ms);
            gate("queue", gives, format!("{} is {}{}", queue.name, name_of(now), because(&queue.queue.reason)));
            let running = usage.queue_leased.get(&queue.id).copied().unwrap_or(0);
            let cap = queue.queue.max_running;
            gate("queue cap", cap == 0 || running < cap, format!("{running} jobs run, the cap is {}", cap_text(cap)));
            let needs = job.needs.clone().unwrap_or_default();
            let over = queue.queue.max_memory_mib > 0 && needs.memory_mib > queue.queue.max_memory_mib;
            gate("memory", !over, format!("it needs {} MiB", needs.memory_mib));
            let late = queue.queue.max_wall_time_s > 0 && needs.wall_time_s > queue.queue.max_wall_time_s;
            gate("wall time", !late, format!("it needs {} s", needs.wall_time_s));
            let missing: Vec<&String> = needs.tags.iter().filter(|t| !queue.queue.tags.contains(t)).collect();
            let tags_known = !queue.queue.tags.is_empty();
            gate("tags", !tags_known || missing.is_empty(), format!("needs {:?}", needs.tags));
            let waiting = router.directory.waiting.waiting().iter().find(|(q, _)| *q == queue.id).map_or(0, |w| w.1);
            gate("workers", leased || waiting > 0, format!("{waiting} requests wait at this node for this queue"));
        }
    }
    let user = meta.user(&job.owner);
    let running = usage.user_leased.get(&job.owner).copied().unwrap_or(0);
    let below = user.max_running == 0 || running < user.max_running;
    gate(
        "user cap",
        leased || below,
        format!("{} has {running} running, the cap is {}", job.owner, cap_text(user.max_running)),
    );
    let verdict = match gates.iter().find(|g| !g.passed) {
        _ if ended => format!("the job has ended: {state}"),
        _ if leased => format!("worker {} has it, attempt {}", job.worker, job.attempt),
        Some(gate) => format!("stopped at the gate \"{}\": {}", gate.name, gate.detail),
        None => "it is next in line for a worker that fits".to_owned(),
    };
    Explanation { job_id: job.job_id, state: job.state.clone(), gates, verdict }
}

fn cap_text(cap: u64) -> String {
    if cap == 0 { "not set".into() } else { cap.to_string() }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

fn name_of(state: QueueState) -> &'static str {
    match state {
        QueueState::Online => "online",
        QueueState::Offline => "offline",
        QueueState::Brokeroff => "brokeroff (draining)",
        QueueState::Paused => "paused",
        QueueState::Test => "test",
        QueueState::Standby => "standby",
    }
}
