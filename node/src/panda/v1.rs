//! The calls of `/api/v1`: which there are, with which verb, and who may call them.

use super::reply::{Answer, Done, Refusal, forbidden, respond};
use super::{Call, Front, creds, debug, event, files, harvester, job_calls, pilot, stats, task_calls, worker};
use crate::identity::Queues;
use axum::http::Method;
use axum::response::Response;
use serde_json::{Map, Value};

/// Verb of a call.
#[derive(Clone, Copy, PartialEq)]
enum Verb {
    Get,
    Post,
    Any,
}
use Verb::{Any, Get, Post};

/// Names of the calls of each module, by verb; what is not here is forbidden.
const CALLS: [(&str, Verb, &str); 24] = [
    ("pilot", Get, "get_job_status"),
    (
        "pilot",
        Post,
        "acquire_jobs update_job update_jobs_bulk update_worker_status update_worker_node update_worker_node_gpu",
    ),
    ("job", Get, "get_status generate_offline_execution_script get_metadata_for_analysis_jobs"),
    ("job", Any, "get_description get_description_incl_archive"),
    ("job", Post, "kill reassign set_command set_debug_mode submit"),
    (
        "task",
        Get,
        "get_status get_details get_tasks_modified_since get_tasks_detailed_info_since get_datasets_and_files get_job_ids \
         get_task_parameters get_detailed_info get_parent_detailed_info get_job_descriptions get_jumbo_job_datasets",
    ),
    (
        "task",
        Post,
        "submit kill finish retry reload_input pause resume reactivate increase_attempts release reassign \
         kill_unfinished_jobs avalanche reassign_global_share enable_jumbo_jobs enable_job_cloning disable_job_cloning \
         change_attribute change_modification_time change_priority change_split_rule",
    ),
    ("harvester", Get, "get_current_worker_id get_worker_statistics"),
    (
        "harvester",
        Post,
        "update_workers update_service_metrics add_dialogs heartbeat report_worker_statistics acquire_commands \
         acknowledge_commands add_sweep_command add_target_slots",
    ),
    ("creds", Get, "get_user_secrets get_key_pair get_proxy get_access_token get_token_key"),
    ("creds", Post, "set_user_secrets"),
    ("event", Get, "get_available_event_range_count get_event_range_statuses"),
    ("event", Post, "acquire_event_ranges update_single_event_range update_event_ranges"),
    ("file_server", Get, "download_jedi_log"),
    (
        "file_server",
        Post,
        "validate_cache_file touch_cache_file delete_cache_file register_cache_file update_jedi_log upload_hpo_checkpoint \
         delete_hpo_checkpoint upload_file_recovery_request upload_workflow_request upload_event_picking_request",
    ),
    ("metaconfig", Get, "get_banned_users get_site_specs get_resource_types"),
    (
        "statistics",
        Get,
        "job_stats_by_cloud production_job_stats_by_cloud_and_processing_type active_job_stats_by_site \
         active_job_detailed_stats_by_site job_stats_by_site_and_resource_type job_stats_by_site_share_and_resource_type",
    ),
    ("system", Get, "is_alive get_attributes get_voms_attributes get_user_attributes"),
    ("async_process", Get, "get_result"),
    ("async_process", Post, "submit_grep_request submit_sleep_echo_request"),
    ("data_carousel", Post, "change_staging_destination change_staging_source force_to_staging retire_unused"),
    ("idds", Post, "relay_idds_command execute_idds_workflow_command"),
    ("workflow", Post, "submit_workflow_raw_request submit_workflow"),
    ("workflow", Get, "get_workflow_details"),
];

/// Calls for which the role of production, or of a pilot, is needed (PanDA's P). That of a task's owner is asked by the call
/// itself.
const PILOTS: [&str; 7] = [
    "update_job",
    "update_jobs_bulk",
    "update_worker_status",
    "update_worker_node",
    "update_worker_node_gpu",
    "acquire_event_ranges",
    "update_event_ranges",
];

/// Calls of those who take jobs of all queues, as a Harvester does.
const HARVESTERS: [&str; 3] = ["acquire_commands", "acknowledge_commands", "upload_jedi_log"];

/// Calls that only an operator may make.
const OPERATORS: [&str; 3] = ["add_sweep_command", "add_target_slots", "register_cache_file"];

/// The call takes a file instead of arguments.
pub fn is_upload(method: &str) -> bool {
    matches!(method, "upload_cache_file" | "upload_jedi_log")
}

/// The answer to a call with another verb than its own.
pub fn wrong_verb(wanted: &str, found: &Method) -> Refusal {
    Refusal::new(format!("expecting {wanted}, received {found}"))
}

/// Answers a call.
pub async fn answer(front: &Front, module: &str, method: &str, call: &Call) -> Response {
    let known = |(of, _, names): &&(&str, Verb, &str)| *of == module && names.split_whitespace().any(|n| n == method);
    let Some((_, verb, _)) = CALLS.iter().find(known) else { return forbidden(method) };
    let refused = match verb {
        Get if call.verb != Method::GET => Some(wrong_verb("GET", &call.verb)),
        Post if call.verb != Method::POST => Some(wrong_verb("POST", &call.verb)),
        _ => missing_role(call, method),
    };
    if let Some(refusal) = refused {
        return respond(Err(refusal));
    }
    respond(match module {
        "pilot" => pilot_call(front, method, call).await,
        "job" => job_call(front, method, call).await,
        "task" => task_call(front, method, call).await,
        "harvester" => harvester_call(front, method, call).await,
        "creds" => creds_call(front, method, call).await,
        "event" => event::answer(),
        "file_server" => file_call(front, method, call).await,
        "metaconfig" => match method {
            "get_site_specs" => stats::site_specs(front),
            "get_banned_users" => stats::banned_users(front),
            _ => stats::resource_types(),
        },
        "statistics" => stats::answer(front, method).await,
        "system" => system_call(method, call),
        _ => not_served(module, method),
    })
}

/// Why a caller may not make this call, if he may not.
pub fn missing_role(call: &Call, method: &str) -> Option<Refusal> {
    let caller = &call.caller;
    let worker = caller.operator || caller.worker != Queues::None;
    if PILOTS.contains(&method) && !worker {
        return Some(Refusal::new("production or pilot role required"));
    }
    let of_all = caller.operator || caller.worker == Queues::All;
    if HARVESTERS.contains(&method) && !of_all || OPERATORS.contains(&method) && !caller.operator {
        return Some(Refusal::new("production role required"));
    }
    None
}

fn not_served(module: &str, method: &str) -> Answer {
    Err(Refusal::new(format!("{module}/{method} is not served here")))
}

async fn pilot_call(front: &Front, method: &str, call: &Call) -> Answer {
    match method {
        "acquire_jobs" => pilot::acquire_jobs(front, call).await,
        "update_job" => pilot::update_job(front, &call.caller, &call.args).await,
        "update_jobs_bulk" => pilot::update_jobs_bulk(front, call).await,
        "get_job_status" => pilot::get_job_status(front, call).await,
        "update_worker_status" => worker::update_status(call),
        _ => worker::update_node(call),
    }
}

async fn job_call(front: &Front, method: &str, call: &Call) -> Answer {
    match method {
        "submit" => job_calls::submit(front, call).await,
        "get_description" | "get_description_incl_archive" => job_calls::get_description(front, call).await,
        "get_status" => job_calls::get_status(front, call).await,
        "kill" => job_calls::kill(front, call).await,
        "reassign" => job_calls::reassign(front, call).await,
        "set_command" => debug::set_command(front, call).await,
        "set_debug_mode" => debug::set_mode(front, call).await,
        "get_metadata_for_analysis_jobs" => task_calls::get_metadata(front, call).await,
        _ => not_served("job", method),
    }
}

async fn task_call(front: &Front, method: &str, call: &Call) -> Answer {
    match method {
        "submit" => task_calls::submit(front, call).await,
        "kill" => task_calls::kill(front, call).await,
        "finish" => task_calls::finish(front, call).await,
        "retry" | "reactivate" => task_calls::retry(front, call).await,
        "pause" => task_calls::pause(front, call).await,
        "resume" | "release" => task_calls::resume(front, call).await,
        "reload_input" => task_calls::reload_input(front, call).await,
        "increase_attempts" => task_calls::increase_attempts(front, call).await,
        "change_priority" => task_calls::change_priority(front, call).await,
        "kill_unfinished_jobs" => task_calls::kill_jobs(front, call, 50).await,
        "get_status" => task_calls::get_status(front, call).await,
        "get_details" => task_calls::get_details(front, call).await,
        "get_detailed_info" => task_calls::get_detailed_info(front, call).await,
        "get_task_parameters" => task_calls::get_task_parameters(front, call).await,
        "get_job_ids" => task_calls::get_job_ids(front, call).await,
        "get_job_descriptions" => task_calls::get_job_descriptions(front, call).await,
        "get_datasets_and_files" => task_calls::get_datasets_and_files(front, call).await,
        "get_tasks_modified_since" | "get_tasks_detailed_info_since" => task_calls::list_since(front, call).await,
        _ => not_served("task", method),
    }
}

async fn harvester_call(front: &Front, method: &str, call: &Call) -> Answer {
    match method {
        "heartbeat" => harvester::heartbeat(front, call).await,
        "get_current_worker_id" => harvester::get_current_worker_id(front, call).await,
        "get_worker_statistics" => harvester::get_worker_statistics(front).await,
        "update_workers" => harvester::update_workers(front, call).await,
        "report_worker_statistics" => harvester::report_worker_statistics(front, call).await,
        "acquire_commands" => harvester::acquire_commands(front, call).await,
        "acknowledge_commands" => harvester::acknowledge_commands(front, call).await,
        "add_sweep_command" => harvester::add_sweep_command(front, call).await,
        "add_dialogs" => harvester::add_dialogs(call),
        "update_service_metrics" => harvester::update_service_metrics(call),
        _ => not_served("harvester", method),
    }
}

async fn creds_call(front: &Front, method: &str, call: &Call) -> Answer {
    match method {
        "set_user_secrets" => creds::set_user_secrets(front, call).await,
        "get_user_secrets" => creds::get_user_secrets(front, call).await,
        _ => creds::get(call, method),
    }
}

async fn file_call(front: &Front, method: &str, call: &Call) -> Answer {
    match method {
        "validate_cache_file" => files::validate(front, call).await,
        "touch_cache_file" => files::touch(front, call).await,
        "delete_cache_file" => files::delete(front, call).await,
        _ => not_served("file_server", method),
    }
}

fn system_call(method: &str, call: &Call) -> Answer {
    if method == "is_alive" {
        return Ok(Done::default());
    }
    let hidden = |name: &str| matches!(name, "authorization" | "cookie" | "proxy-authorization");
    let headers = call.headers.iter().filter(|(name, _)| !hidden(name.as_str()));
    let text = |value: &axum::http::HeaderValue| Value::from(String::from_utf8_lossy(value.as_bytes()).into_owned());
    let environment: Map<String, Value> = headers.map(|(name, value)| (name.to_string(), text(value))).collect();
    Ok(Done::with(serde_json::json!({ "user": &*call.caller.user, "environment": environment })))
}
