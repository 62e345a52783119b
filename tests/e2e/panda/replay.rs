//! The recorded requests of real pilots and of a real Harvester, sent again; each answer is held against the recorded one.

use super::http::{self, Answer};
use super::transcript::{Exchange, read};
use super::{QUEUE, harvester, panda_cluster};
use crate::common::{Cluster, eventually};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Keys of a job for a pilot that stand for what another server had: its clock, its counts, its defaults.
const OTHER: [&str; 12] = [
    "PandaID",
    "nSent",
    "cloud",
    "destinationSE",
    "sourceSite",
    "taskID",
    "reqID",
    "nucleus",
    "maxWalltime",
    "dispatchDBlockTokenForOut",
    "destinationDBlockToken",
    "prodUserID",
];

pub struct Replay<'a> {
    /// Where to.
    pub cluster: &'a Cluster,
    /// Recorded numbers of jobs and tasks, and those that they have here.
    pub jobs: BTreeMap<String, String>,
    /// Jobs here that took the place of another recorded one.
    swapped: BTreeSet<String>,
    /// Further keys of a job for a pilot that are the other server's.
    pub free: &'static [&'static str],
    /// Who calls the present API; empty: nobody says.
    pub token: String,
    /// The node that got the last request.
    pub last: String,
    /// A command that a Harvester got.
    pub command: Option<u64>,
    sent: usize,
    /// Answers that were held against the recorded ones.
    pub compared: usize,
}

impl<'a> Replay<'a> {
    /// Nothing is sent yet.
    pub fn new(cluster: &'a Cluster) -> Self {
        Replay {
            cluster,
            jobs: BTreeMap::new(),
            swapped: BTreeSet::new(),
            free: &[],
            token: String::new(),
            last: String::new(),
            command: None,
            sent: 0,
            compared: 0,
        }
    }

    /// The node for the next request: any must do.
    pub fn next(&mut self) -> String {
        let addresses = self.cluster.nodes.panda_addrs();
        self.last = addresses[self.sent % addresses.len()].clone();
        self.sent += 1;
        self.last.clone()
    }

    /// Sends it to the next node.
    pub async fn send(&mut self, exchange: &Exchange, body: &Value) -> Answer {
        let address = &self.next();
        let path = self.here(&exchange.path);
        if !self.token.is_empty() && path.starts_with("/api/v1/") {
            let authorization = format!("Authorization: Bearer {}", self.token);
            let lines = ["Content-Type: application/json", "Accept: application/json", &authorization];
            let body = if exchange.verb == "GET" { String::new() } else { body.to_string() };
            return http::request(address, &exchange.verb, &path, &lines, body.as_bytes()).await;
        }
        match exchange.verb.as_str() {
            "GET" => http::get(address, &path).await,
            _ if exchange.form => http::post_form(address, &path, body).await,
            _ if exchange.gzip => http::post_gzip(address, &path, body).await,
            _ => http::post(address, &path, body).await,
        }
    }

    /// The text with the numbers that jobs have here.
    pub fn here(&self, text: &str) -> String {
        self.jobs.iter().fold(text.to_owned(), |text, (recorded, here)| text.replace(recorded, here))
    }

    pub fn body(&self, exchange: &Exchange) -> Value {
        let body = exchange.body.clone().unwrap_or_else(|| json!({}));
        serde_json::from_str(&self.here(&body.to_string())).unwrap()
    }

    /// A submission. Where the transcript cut it, the job is made of what its pilot got.
    async fn submit(&mut self, exchange: &Exchange, later: &[Exchange]) {
        let recorded: Value = serde_json::from_str(&exchange.answer).unwrap();
        let id = recorded["data"][0][0].to_string();
        let mut body = self.body(exchange);
        if exchange.cut {
            let gets = later.iter().filter(|e| e.path.ends_with("/getJob") || e.path.ends_with("/acquire_jobs"));
            let got = gets.map(job_of).find(|job| job.get("PandaID").is_some_and(|got| text(got) == id));
            let Some(got) = got else { return };
            body = json!({ "jobs": json!([specification(&got)]).to_string() });
        }
        let answer = self.send(exchange, &body).await.json();
        assert_eq!(answer["success"], true, "{}: {answer}", exchange.title);
        assert_eq!(answer["data"][0][1], recorded["data"][0][1], "{}", exchange.title);
        self.jobs.insert(id, answer["data"][0][0].to_string());
        self.compared += 1;
    }

    /// A request for a job: hints between nodes take a moment.
    pub async fn acquire(&mut self, exchange: &Exchange) {
        let body = self.body(exchange);
        let recorded = job_of(exchange);
        let wanted = self.here(&text(recorded.get("PandaID").unwrap_or(&Value::Null)));
        let mut tries = 0;
        let found = loop {
            let answer = self.send(exchange, &body).await;
            let found = job_in(&answer.body);
            if recorded.is_empty() || !found.is_empty() || tries == 100 {
                let code = |body: &str| Answer { code: 200, body: body.to_owned() }.pair("StatusCode");
                if recorded.is_empty() && exchange.path.contains("/server/panda/") {
                    assert_eq!(code(&answer.body), code(&exchange.answer), "{}: {answer:?}", exchange.title);
                } else if recorded.is_empty() {
                    self.compared += 1;
                    let recorded: Value = serde_json::from_str(&exchange.answer).unwrap();
                    same(&exchange.title, "", &answer.json(), &recorded);
                    return;
                }
                break found;
            }
            tries += 1;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        };
        assert_eq!(found.is_empty(), recorded.is_empty(), "{}: {found:?}", exchange.title);
        let got = found.get("PandaID").map(text).unwrap_or_default();
        if got != wanted && self.jobs.values().any(|id| *id == got) {
            // Of jobs of one priority in different shards either may come first: the recorded ones change their places.
            for id in self.jobs.values_mut() {
                *id = if *id == got {
                    wanted.clone()
                } else if *id == wanted {
                    got.clone()
                } else {
                    id.clone()
                };
            }
            self.swapped.extend([got.clone(), wanted.clone()]);
        }
        if self.swapped.contains(&got) {
            self.compared += 1;
            return;
        }
        let free = |key: &str| OTHER.contains(&key) || self.free.contains(&key);
        for (key, value) in recorded.iter().filter(|(key, _)| !free(key)) {
            let here = found.get(key).unwrap_or_else(|| panic!("{}: {key} is missing", exchange.title));
            assert_eq!(loose(here), self.here(&loose(value)), "{}: {key}", exchange.title);
        }
        if !recorded.is_empty() {
            assert_eq!(text(&found["PandaID"]), wanted, "{}", exchange.title);
        }
        self.compared += 1;
    }

    /// A request for several jobs: they may come with several answers.
    async fn acquire_some(&mut self, exchange: &Exchange) {
        let recorded: Value = serde_json::from_str(&exchange.answer).unwrap();
        let ids = |answer: &Value| -> Vec<String> {
            answer["data"]["jobs"].as_array().into_iter().flatten().map(|job| text(&job["PandaID"])).collect()
        };
        let mut wanted: Vec<String> = ids(&recorded).iter().map(|id| self.here(id)).collect();
        let mut found = Vec::new();
        let body = self.body(exchange);
        for _ in 0..100 {
            let answer = self.send(exchange, &body).await.json();
            found.extend(ids(&answer));
            if wanted.is_empty() {
                same(&exchange.title, "", &answer, &recorded);
            }
            if found.len() >= wanted.len() {
                break;
            }
            assert!(
                answer["success"] == true || answer["message"] == "No jobs in PanDA",
                "{}: {answer}",
                exchange.title
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        wanted.sort();
        found.sort();
        assert_eq!(found, wanted, "{}", exchange.title);
        self.compared += 1;
    }

    /// Any other call: the same status, and the same value in each field that is of the call.
    pub async fn other(&mut self, exchange: &Exchange) {
        let answer = self.send(exchange, &self.body(exchange)).await;
        assert_eq!(answer.code, exchange.code, "{}: {answer:?}", exchange.title);
        if exchange.path.contains("/server/panda/") && !exchange.answer.starts_with('{') {
            let recorded = Answer { code: 200, body: exchange.answer.clone() };
            for key in ["StatusCode", "command"] {
                assert_eq!(answer.pair(key), recorded.pair(key), "{}: {key} in {answer:?}", exchange.title);
            }
            self.compared += 1;
            return;
        }
        self.compared += 1;
        if !exchange.answer.starts_with('{') {
            assert_eq!(answer.body, exchange.answer, "{}", exchange.title);
            return;
        }
        let (found, recorded): (Value, Value) =
            (answer.json(), serde_json::from_str(&self.here(&exchange.answer)).unwrap());
        same(&exchange.title, "", &found, &recorded);
    }

    /// A description of jobs: the transcript cuts them, so the fields that tell how a job stands are compared.
    pub async fn describe(&mut self, exchange: &Exchange) {
        let wanted = |name: &str| {
            let (_, rest) = exchange.answer.split_once(&format!("\"{name}\": "))?;
            rest.split(&[',', '}'][..]).next().map(|value| value.trim_matches('"').to_owned())
        };
        let state = wanted("jobStatus");
        if !state.as_deref().is_some_and(|s| matches!(s, "running" | "finished" | "failed" | "cancelled")) {
            return;
        }
        let body = self.body(exchange);
        let answer = self.send(exchange, &body).await.json();
        let job = &answer["data"][0];
        for name in
            ["jobStatus", "attemptNr", "pilotErrorCode", "transExitCode", "computingSite", "prodSourceLabel", "pilotID"]
        {
            let Some(recorded) = wanted(name).filter(|value| value != "null") else { continue };
            // A pilot's updates are not kept while the job runs.
            if name == "pilotID" && state.as_deref() == Some("running") {
                continue;
            }
            if recorded == "0" && job[name].is_null() {
                continue;
            }
            assert_eq!(text(&job[name]), recorded, "{}: {name} of {job}", exchange.title);
        }
        self.compared += 1;
    }
}

/// A value as a text.
pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A value as pilots read it: what is not there has many names.
pub fn loose(value: &Value) -> String {
    let text = text(value);
    if matches!(text.as_str(), "NULL" | "None" | "null" | "NULL,NULL") { String::new() } else { text }
}

/// The job in an answer of either dialect; empty if there is none.
fn job_in(body: &str) -> Map<String, Value> {
    if body.starts_with('{') {
        let value: Value = serde_json::from_str(body).unwrap();
        let job = if value.get("PandaID").is_some() { &value } else { &value["data"]["jobs"][0] };
        return job.as_object().cloned().unwrap_or_default();
    }
    let pairs = form_urlencoded::parse(body.as_bytes());
    let map: Map<String, Value> = pairs.map(|(key, value)| (key.into_owned(), value.into_owned().into())).collect();
    if map.contains_key("PandaID") { map } else { Map::new() }
}

fn job_of(exchange: &Exchange) -> Map<String, Value> {
    job_in(&exchange.answer)
}

/// The specification of the job that a pilot got.
fn specification(got: &Map<String, Value>) -> Value {
    let list = |key: &str| -> Vec<String> {
        let text = got.get(key).map(text).unwrap_or_default();
        if text.is_empty() { Vec::new() } else { text.split(',').map(str::to_owned).collect() }
    };
    let at = |key: &str, place: usize| list(key).get(place).cloned().unwrap_or_default();
    let log = got.get("logFile").map(text).unwrap_or_default();
    let mut files: Vec<Value> = Vec::new();
    for (place, lfn) in list("inFiles").into_iter().enumerate() {
        files.push(json!({"lfn": lfn, "type": "input", "scope": at("scopeIn", place), "fsize": at("fsize", place),
            "checksum": at("checksum", place), "GUID": at("GUID", place), "dataset": at("realDatasetsIn", place),
            "destinationSE": at("ddmEndPointIn", place), "dispatchDBlock": at("dispatchDblock", place),
            "dispatchDBlockToken": at("dispatchDBlockToken", place), "prodDBlock": at("prodDBlocks", place),
            "prodDBlockToken": at("prodDBlockToken", place)}));
    }
    for (place, lfn) in list("outFiles").into_iter().enumerate() {
        let is_log = lfn == log;
        let scope = if is_log { got.get("scopeLog").map(text).unwrap_or_default() } else { at("scopeOut", place) };
        let guid = if is_log { got.get("logGUID").map(text).unwrap_or_default() } else { String::new() };
        files.push(json!({"lfn": lfn, "type": if is_log { "log" } else { "output" }, "scope": scope, "GUID": guid,
            "dataset": at("realDatasets", place), "destinationDBlock": at("destinationDblock", place),
            "destinationSE": at("fileDestinationSE", place)}));
    }
    let mut spec = json!({"Files": files, "computingSite": QUEUE, "maxAttempt": 1, "VO": "mock"});
    for (name, key) in [
        ("AtlasRelease", "swRelease"),
        ("homepackage", "homepackage"),
        ("transformation", "transformation"),
        ("jobName", "jobName"),
        ("jobDefinitionID", "jobDefinitionID"),
        ("prodSourceLabel", "prodSourceLabel"),
        ("jobParameters", "jobPars"),
        ("prodUserID", "prodUserID"),
        ("cmtConfig", "cmtConfig"),
        ("processingType", "processingType"),
        ("transferType", "transferType"),
        ("currentPriority", "currentPriority"),
        ("coreCount", "coreCount"),
        ("resource_type", "resource_type"),
    ] {
        if let Some(value) = got.get(key).filter(|value| **value != "NULL") {
            spec[name] = value.clone();
        }
    }
    // A number that came as a text goes back as a number, as its client sent it.
    spec["jobDefinitionID"] = text(&spec["jobDefinitionID"]).parse::<i64>().map_or(Value::Null, Value::from);
    spec
}

/// Fields whose values are another server's.
const FREE: [&str; 1] = ["creation_date"];

/// What the recorded answer has is there, with its value, or at least its type where the value is another server's.
#[track_caller]
pub fn same(title: &str, at: &str, found: &Value, recorded: &Value) {
    match (found, recorded) {
        (Value::Object(found), Value::Object(recorded)) => {
            for (key, value) in recorded {
                let here = found.get(key).unwrap_or_else(|| panic!("{title}: {at}.{key} is missing in {found:?}"));
                if FREE.contains(&key.as_str()) {
                    continue;
                }
                same(title, &format!("{at}.{key}"), here, value);
            }
        }
        (Value::Array(found), Value::Array(recorded)) => {
            assert_eq!(found.len(), recorded.len(), "{title}: {at}");
            for (here, value) in found.iter().zip(recorded) {
                same(title, &format!("{at}[]"), here, value);
            }
        }
        _ => assert_eq!(found, recorded, "{title}: {at}"),
    }
}

async fn replay(file: &str, from: &str) -> Option<usize> {
    let exchanges = read(file, from)?;
    let cluster = panda_cluster().await;
    let mut replay = Replay::new(&cluster);
    for (at, exchange) in exchanges.iter().enumerate() {
        // Sent while the recorded server was down: nothing was taken then.
        if exchange.code == 503 || harvester::compare(&mut replay, exchange).await {
            continue;
        }
        match exchange.path.rsplit('/').next().unwrap() {
            "submit" => replay.submit(exchange, &exchanges[at..]).await,
            "acquire_jobs" if exchange.body.as_ref().is_some_and(|body| body.get("n_jobs").is_some()) => {
                replay.acquire_some(exchange).await;
            }
            "getJob" | "acquire_jobs" => replay.acquire(exchange).await,
            "get_description" => replay.describe(exchange).await,
            "set_command" => {
                replay.other(exchange).await;
                seen_everywhere(&replay, exchange).await;
            }
            _ => replay.other(exchange).await,
        }
    }
    println!("{file}: {} requests sent, {} answers compared", replay.sent, replay.compared);
    Some(replay.compared)
}

/// A command for a pilot reaches the other nodes a moment later.
async fn seen_everywhere(replay: &Replay<'_>, exchange: &Exchange) {
    let body = replay.body(exchange);
    for address in replay.cluster.nodes.panda_addrs() {
        let update = json!({"jobId": body["job_id"].to_string(), "state": "running", "attemptNr": 1});
        let command = body["command"].as_str().unwrap();
        eventually("every node knows the command", async || {
            let answer = http::post(&address, "/server/panda/updateJob", &update).await;
            (answer.pair("command").as_deref() == Some(command)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_real_pilot_in_the_old_dialect() {
    // The two jobs whose final updates were lost in an outage, and what came of them.
    let compared = replay("pilot.md", "## HTTP exchanges").await;
    assert!(compared.is_none_or(|count| count > 60), "{compared:?}");
}

#[tokio::test]
async fn a_heartbeat_that_comes_after_the_final_update() {
    let compared = replay("pilot.md", "## Appendix 2").await;
    assert!(compared.is_none_or(|count| count >= 6), "{compared:?}");
}

#[tokio::test]
async fn a_real_harvester_and_a_pilot_in_the_new_dialect() {
    // Each of the 47: none is left out.
    let compared = replay("harvester.md", "## HTTP exchanges").await;
    assert!(compared.is_none_or(|count| count == 47), "{compared:?}");
}
