//! What is fetched by name: queue data, the wrapper of user jobs.

use super::Front;
use super::reply::text;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use moso_proto::object::QueueState;
use moso_queue::meta::QueueEntry;
use serde_json::{Map, Value, json};

/// The wrapper of user jobs, a Python program of moso's own.
const RUN_GEN: &str = include_str!("run_gen.py");
/// Names under which it is asked for.
const RUN_GEN_NAMES: [&str; 2] = ["runGen-00-00-02", "runGen-00-00-01"];
/// Seconds below which a pilot with so little time left takes no further job; minutes in PanDA's words.
const TIME_FLOOR_MIN: u32 = 60;

/// Work directory of a job, MB, if the operator does not say otherwise: a pilot takes 0 for no room at all, and its own
/// default is this.
const WORK_DIR_MB: u32 = 14_336;

/// The queue data that pilots and Harvester read: of the queue, with the operator's object over it.
pub fn queue_data(front: &Front, queue: &QueueEntry) -> Map<String, Value> {
    let now = queue.state_at(front.now_ms());
    let status = match now {
        QueueState::Online | QueueState::Standby => "online",
        QueueState::Test => "test",
        QueueState::Brokeroff => "brokeroff",
        QueueState::Offline | QueueState::Paused => "offline",
    };
    let name = &queue.name;
    let storage = format!("{name}_DATADISK");
    let data = json!({
        "name": name, "nickname": name, "siteid": name, "site": name, "panda_site": name, "panda_resource": name,
        "atlas_site": name, "gocname": name, "resource_type": "GRID", "type": "unified", "state": "ACTIVE",
        "status": status, "vo_name": "", "cloud": "WORLD", "container_type": "", "catchall": "", "copytool": "mv",
        "copytools": {"mv": {"setup": ""}},
        "acopytools": {"pr": ["mv"], "pw": ["mv"], "pl": ["mv"], "default": ["mv"],
                       "read_lan": ["mv"], "write_lan": ["mv"]},
        "astorages": {"pr": [storage], "pw": [storage], "pl": [storage], "read_lan": [storage], "write_lan": [storage]},
        "corecount": 1, "maxrss": queue.queue.max_memory_mib, "minrss": 0, "maxtime": queue.queue.max_wall_time_s,
        "mintime": 0, "maxwdir": WORK_DIR_MB, "maxinputsize": 0, "timefloor": TIME_FLOOR_MIN, "appdir": "", "wntmpdir": "",
        "pilot_version": "current", "capability": "ucore", "workflow": "pull_ups", "harvester": "", "is_cvmfs": false,
        "direct_access_lan": false, "direct_access_wan": false, "allow_lan": true, "allow_wan": false, "use_newmover": "True",
    });
    let Value::Object(mut data) = data else { unreachable!("made so") };
    if let Some(own) = front.meta().queue_data(name) {
        data.extend(own.clone());
    }
    data
}

/// `GET /cache/schedconfig/QUEUE.all.json`, or of another ending.
pub fn schedconfig(front: &Front, file: &str) -> Response {
    let queue = file.split_once(".all.").or_else(|| file.split_once(".pilot.")).or_else(|| file.rsplit_once('.'));
    let meta = front.meta();
    match queue.and_then(|(queue, _)| meta.queue(queue)) {
        Some(queue) => {
            let body = Value::Object(queue_data(front, queue)).to_string();
            ([(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        None => text(StatusCode::NOT_FOUND, "ERROR : there is no such queue"),
    }
}

/// `GET /trf/user/NAME`.
pub fn wrapper(name: &str) -> Response {
    if RUN_GEN_NAMES.contains(&name) {
        return text(StatusCode::OK, RUN_GEN);
    }
    text(StatusCode::NOT_FOUND, "ERROR : there is no such transformation")
}

impl Front {
    /// Where outputs of a queue's jobs go if nothing else is said: the operator's word for its storage.
    pub fn endpoint(&self, queue: &str) -> String {
        let meta = self.meta();
        let storages = meta.queue_data(queue).and_then(|data| data.get("astorages"));
        let named = ["pw", "write_lan"].iter().find_map(|use_| storages?.get(*use_)?.get(0)?.as_str());
        named.unwrap_or_default().to_owned()
    }
}
