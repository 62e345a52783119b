//! The old calls, `/server/panda/…`, which pilots up to 3.11 and the wrapper use: texts in, key-value pairs out.

use super::pilot::Wanted;
use super::reply::{Pairs, Refusal, forbidden, status, status_of, text};
use super::{Call, Front, creds, debug, event, report, v1, worker};
use crate::request::Fault;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use moso_proto::JobId;
use serde_json::Value;

/// Answers an old call.
pub async fn answer(front: &Front, method: &str, mut call: Call) -> Response {
    let accept = call.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let json = accept.contains("application/json");
    if method == "isAlive" {
        return text(StatusCode::OK, "alive=yes");
    }
    call.args = report::renamed(std::mem::take(&mut call.args));
    let posted = call.verb == Method::POST;
    let pairs = match method {
        "getJob" | "updateJob" | "updateWorkerPilotStatus" if !posted => refused("expecting POST"),
        "updateJob" | "updateWorkerPilotStatus" if v1::missing_role(&call, "update_job").is_some() => {
            let mut pairs = Pairs::status(status::NO_PERMISSION);
            pairs.push("errorDialog", "production or pilot role required");
            pairs
        }
        "getJob" => get_job(front, &call, json).await,
        "updateJob" => update_job(front, &call).await,
        "getStatus" => get_status(front, &call).await,
        "updateWorkerPilotStatus" => worker::status_old(&call),
        // Pilots read it as JSON, whatever they say of it.
        "getResourceTypes" => return resource_types().respond(true),
        "setDebugMode" => from(debug::set_mode_old(front, &call).await),
        "get_user_secrets" => from(creds::get_user_secrets(front, &call).await.map(|done| done.data)),
        "getProxy" | "get_access_token" | "getKeyPair" | "getTokenKey" => creds::get_old(&call, method),
        "getEventRanges" | "updateEventRange" | "updateEventRanges" => refused(event::NOT_SERVED),
        _ => return forbidden(method),
    };
    pairs.respond(json)
}

fn refused(message: &str) -> Pairs {
    let mut pairs = Pairs::status(status::FAILED);
    pairs.push("errorDialog", message);
    pairs
}

fn faulty(fault: &Fault) -> Pairs {
    let mut pairs = Pairs::status(status_of(fault));
    pairs.push("errorDialog", fault.message.clone());
    pairs
}

fn from(answer: Result<Value, Refusal>) -> Pairs {
    match answer {
        Ok(data) => {
            let mut pairs = Pairs::status(status::OK);
            pairs.push("data", data);
            pairs
        }
        Err(refusal) => refused(&refusal.message),
    }
}

async fn get_job(front: &Front, call: &Call, json: bool) -> Pairs {
    if call.args.loose_text("site_name").is_empty() {
        return refused("Argument error: missing a required argument: 'siteName'");
    }
    match front.acquire(call, Wanted::read(&call.args)).await {
        Ok(jobs) => jobs.into_iter().next().unwrap_or_else(|| {
            let mut pairs = Pairs::status(status::NO_JOBS);
            if json {
                pairs.push("errorDialog", "no jobs in PanDA");
            }
            pairs
        }),
        Err(fault) => faulty(&fault),
    }
}

async fn update_job(front: &Front, call: &Call) -> Pairs {
    let args = &call.args;
    for (name, old) in [("job_id", "jobId"), ("job_status", "state")] {
        if args.loose_text(name).is_empty() {
            return refused(&format!("Argument error: missing a required argument: '{old}'"));
        }
    }
    if args.loose("job_id").is_none() {
        return refused("Type error: 'jobId' must be of type int");
    }
    match front.update(&call.caller, args).await {
        Ok(command) => {
            let mut pairs = Pairs::status(status::OK);
            pairs.push("command", command);
            pairs
        }
        Err(fault) => faulty(&fault),
    }
}

async fn get_status(front: &Front, call: &Call) -> Pairs {
    let ids = call.args.loose_text("ids");
    let (mut states, mut attempts) = (Vec::new(), Vec::new());
    for id in ids.split(',').take(super::limits::BULK_MAX) {
        let job = match id.trim().parse() {
            Ok(id) => match front.look(JobId(id)).await {
                Ok(job) => job,
                Err(fault) => return faulty(&fault),
            },
            Err(_) => None,
        };
        let (state, attempt) = job.map_or(("notfound".to_owned(), 0), |job| (job.state, job.attempt));
        states.push(state);
        attempts.push(attempt.to_string());
    }
    let mut pairs = Pairs::status(status::OK);
    pairs.push("status", states.join(","));
    pairs.push("attemptNr", attempts.join(","));
    pairs
}

fn resource_types() -> Pairs {
    let mut pairs = Pairs::status(status::OK);
    pairs.push("Returns", 0);
    pairs.push("ResourceTypes", worker::resource_types());
    pairs
}
