//! Calls of a Harvester whose recorded answers were the other server's own, its proxies, commands and figures: each is held
//! against what this cluster must say.

use super::QUEUE;
use super::http::{self, Answer};
use super::replay::{Replay, same};
use super::transcript::Exchange;
use serde_json::{Value, json};

/// Replays one of these calls; whether it was one.
pub async fn compare(replay: &mut Replay<'_>, exchange: &Exchange) -> bool {
    let path = exchange.path.split('?').next().unwrap();
    match path.rsplit('/').next().unwrap() {
        // No proxy, token or key is held: PanDA's words for that.
        "get_key_pair" => refused(replay, exchange, "Failed for 'nobody' since pub is missing on NODE").await,
        "get_proxy" => refused(replay, exchange, "'proxy' not found for nobody").await,
        "get_token_key" => refused(replay, exchange, "Token key is missing for 'pilot_server").await,
        "acquire_commands" => commands(replay, exchange).await,
        "acknowledge_commands" => acknowledge(replay, exchange).await,
        "active_job_stats_by_site" | "active_job_detailed_stats_by_site" => figures(replay, exchange).await,
        "get_worker_statistics" => worker_figures(replay, exchange).await,
        "upload_jedi_log" => log(replay, exchange).await,
        _ => return false,
    }
    replay.compared += 1;
    true
}

async fn refused(replay: &mut Replay<'_>, exchange: &Exchange, words: &str) {
    let answer = replay.send(exchange, &json!({})).await;
    let message = words.replace("NODE", &replay.last);
    assert_eq!(answer.code, exchange.code, "{}", exchange.title);
    assert_eq!(answer.json(), json!({"success": false, "message": message, "data": null}), "{}", exchange.title);
}

/// There are none; then an operator gives one, which comes once.
async fn commands(replay: &mut Replay<'_>, exchange: &Exchange) {
    let body = replay.body(exchange);
    let none = json!({"success": true, "message": "", "data": []});
    assert_eq!(replay.send(exchange, &body).await.json(), none, "{}", exchange.title);
    let sweep =
        json!({"panda_queue": QUEUE, "status_list": ["submitted"], "ce_list": ["ce1"], "submission_host_list": []});
    let given = http::post(&replay.next(), "/api/v1/harvester/add_sweep_command", &sweep).await.json();
    assert_eq!(given["success"], true, "{given}");
    let found = replay.send(exchange, &body).await.json();
    let recorded: Value = serde_json::from_str(&exchange.answer).unwrap();
    let (mine, theirs) = (&found["data"][0], &recorded["data"][0]);
    let mut keys = [mine, theirs].map(|one| one.as_object().unwrap().keys().cloned().collect::<Vec<_>>());
    keys.iter_mut().for_each(|keys| keys.sort());
    assert_eq!(keys[0], keys[1], "{}", exchange.title);
    assert_eq!(found["data"].as_array().unwrap().len(), 1);
    let id = mine["command_id"].as_u64().unwrap();
    let date = mine["creation_date"].as_str().unwrap();
    assert_eq!(date.len(), theirs["creation_date"].as_str().unwrap().len(), "{date}");
    let params = json!({"status": ["submitted"], "computingSite": [QUEUE], "computingElement": ["ce1"],
        "submissionHost": []});
    let expected = json!({"command_id": id, "command": "KILL_WORKERS", "params": params, "ack_requested": 0,
        "creation_date": date});
    assert_eq!(found, json!({"success": true, "message": "", "data": [expected]}), "{}", exchange.title);
    assert_eq!(replay.send(exchange, &body).await.json(), none, "it comes once");
    replay.command = Some(id);
}

async fn acknowledge(replay: &mut Replay<'_>, exchange: &Exchange) {
    let body = json!({"command_ids": [replay.command.expect("a command came before")]});
    let answer = replay.send(exchange, &body).await.json();
    assert_eq!(answer, serde_json::from_str::<Value>(&exchange.answer).unwrap(), "{}", exchange.title);
}

/// The counts of this cluster: of a job that waits, and of none once it was killed.
async fn figures(replay: &mut Replay<'_>, exchange: &Exchange) {
    let job = json!([{"computingSite": QUEUE, "prodSourceLabel": "other", "maxAttempt": 1, "jobDefinitionID": 1}]);
    let body = json!({"jobs": job.to_string()});
    let submitted = http::post(&replay.next(), "/api/v1/job/submit", &body).await.json();
    let id = &submitted["data"][0][0];
    let detailed = exchange.path.contains("detailed");
    let states = |activated: u64| {
        json!({"defined": 0, "assigned": 0, "throttled": 0, "activated": activated, "sent": 0, "starting": 0,
            "running": 0, "transferring": 0})
    };
    let expected = |activated: u64| match (detailed, activated) {
        (false, _) => json!({QUEUE: states(activated)}),
        (true, 0) => json!({QUEUE: {}}),
        (true, _) => json!({QUEUE: {"SCORE": {"other": {"activated": activated}}}}),
    };
    let check = |answer: Answer, activated: u64| {
        let found = answer.json();
        same(&exchange.title, "", &found["data"], &expected(activated));
        assert_eq!((&found["success"], &found["message"]), (&json!(true), &json!("")), "{}", exchange.title);
        // The recorded server had a queue of another name; of its states none is missing.
        let recorded: Value = serde_json::from_str(&exchange.answer).unwrap();
        for state in recorded["data"]["MOCK_IDLE"].as_object().unwrap().keys() {
            assert!(found["data"][QUEUE][state].is_u64(), "{}: {state} in {found}", exchange.title);
        }
    };
    check(replay.send(exchange, &json!({})).await, 1);
    let killed = http::post(&replay.next(), "/api/v1/job/kill", &json!({"job_ids": [id]})).await.json();
    assert_eq!(killed["data"], json!([true]), "{killed}");
    check(replay.send(exchange, &json!({})).await, 0);
}

/// What this Harvester reported before.
async fn worker_figures(replay: &mut Replay<'_>, exchange: &Exchange) {
    let answer = replay.send(exchange, &json!({})).await.json();
    let figures = json!({"user": {"SCORE": {"running": 0, "submitted": 0, "to_submit": 0}}});
    let expected = json!({"success": true, "message": "", "data": {QUEUE: {"mockharvester": figures}}});
    assert_eq!(answer, expected, "{}", exchange.title);
}

/// Every node serves the log that one of them took; a later one of the name takes its place.
async fn log(replay: &mut Replay<'_>, exchange: &Exchange) {
    let file = exchange.body.as_ref().unwrap()["file"].clone();
    let (name, bytes) = (file["filename"].as_str().unwrap(), file["bytes"].as_u64().unwrap() as usize);
    for text in ["x", "y"] {
        let (address, content) = (replay.next(), text.repeat(bytes));
        let answer = http::upload(&address, &exchange.path, name, content.as_bytes(), "").await;
        let url = format!("http://{address}/cache/jedilog/{name}");
        let expected = json!({"success": true, "message": url, "data": url});
        assert_eq!((answer.code, answer.json()), (exchange.code, expected), "{}", exchange.title);
        for address in replay.cluster.nodes.panda_addrs() {
            let found = http::get(&address, &format!("/cache/jedilog/{name}")).await;
            assert_eq!(found, Answer { code: 200, body: content.clone() }, "{}", exchange.title);
        }
    }
}
