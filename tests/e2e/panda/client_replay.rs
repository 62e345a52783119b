//! The recorded requests of panda-client 2.2.0 and 2.0.2, and of the pilot that ran one of their jobs, sent again; each answer
//! is held against the recorded one. The recorded server made tasks of one job and acted on no command but kill and retry,
//! so of the last task, which the client finishes, this cluster's answers are given here.

use super::http::{self, Answer};
use super::replay::{Replay, loose, same};
use super::transcript::{Exchange, read};
use super::{QUEUE, panda_cluster};
use crate::common::eventually;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Keys of a job for a pilot that are the other server's: where it is, how it names jobs and places.
const FREE: [&str; 7] = [
    "transformation",
    "jobName",
    "logGUID",
    "cmtConfig",
    "ddmEndPointOut",
    "fileDestinationSE",
    "destinationDBlockToken",
];
/// Fields of a job's row that must be as recorded.
const ROW: [&str; 21] = [
    "PandaID",
    "jobDefinitionID",
    "prodSourceLabel",
    "prodUserID",
    "prodUserName",
    "currentPriority",
    "jobStatus",
    "computingSite",
    "jobParameters",
    "taskID",
    "jediTaskID",
    "VO",
    "processingType",
    "coreCount",
    "resource_type",
    "commandToPilot",
    "pilotErrorDiag",
    "exeErrorDiag",
    "workingGroup",
    "eventService",
    "metadata",
];
/// The last task: it has two jobs here.
const LAST: u64 = 45_000_004;

struct Client<'a> {
    replay: Replay<'a>,
    /// What was uploaded, by name.
    files: BTreeMap<String, Vec<u8>>,
    /// Checksum that the client asked about before it uploaded.
    checksum: u32,
}

/// Who the recorded client was.
fn token() -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.x", part(json!({"alg": "none"})), part(json!({"sub": "mock", "name": "Mock Me"})))
}

fn name_of(exchange: &Exchange) -> &str {
    exchange.path.split('?').next().unwrap().rsplit('/').next().unwrap()
}

/// What a transcript has of a row: its end may be cut.
fn row_of(answer: &str) -> Value {
    let cuts = std::iter::once(answer.len()).chain(answer.rmatch_indices(", \"").map(|(at, _)| at));
    let whole = |end: usize| ["", "}]}", "}]}]}"].map(|rest| format!("{}{rest}", &answer[..end]));
    let parsed = cuts.flat_map(whole).find_map(|text| serde_json::from_str::<Value>(&text).ok());
    parsed.expect("a part of it is JSON")["data"][0].clone()
}

impl Client<'_> {
    async fn send(&mut self, exchange: &Exchange) -> Answer {
        let body = self.replay.body(exchange);
        let answer = self.replay.send(exchange, &body).await;
        assert_eq!(answer.code, exchange.code, "{}: {answer:?}", exchange.title);
        self.replay.compared += 1;
        answer
    }

    /// The very same answer, with the numbers that tasks and jobs have here.
    async fn exact(&mut self, exchange: &Exchange) {
        let recorded: Value = serde_json::from_str(&self.replay.here(&exchange.answer)).unwrap();
        let found = self.send(exchange).await.json();
        assert_eq!(found, recorded, "{}", exchange.title);
    }

    /// This cluster's own answer.
    async fn own(&mut self, exchange: &Exchange, expected: Value) {
        let found = self.send(exchange).await.json();
        assert_eq!(found, expected, "{}", exchange.title);
    }

    /// As [`Client::exact`], once what was asked for has been done.
    async fn settles(&mut self, exchange: &Exchange) {
        let recorded: Value = serde_json::from_str(&self.replay.here(&exchange.answer)).unwrap();
        let replay = &mut self.replay;
        eventually(&exchange.title, async || {
            let found = replay.send(exchange, &json!({})).await;
            (found.code == exchange.code && found.json() == recorded).then_some(())
        })
        .await;
        self.replay.compared += 1;
    }

    async fn upload(&mut self, exchange: &Exchange) {
        let file = exchange.body.as_ref().unwrap()["file"].clone();
        let (name, size) = (file["filename"].as_str().unwrap(), file["bytes"].as_u64().unwrap() as usize);
        // As the end of a gzip: the checksum that the client told before, and a size.
        let mut bytes = vec![b'z'; size - 8];
        bytes.extend(self.checksum.to_le_bytes());
        bytes.extend((size as u32).to_le_bytes());
        let answer = http::upload(&self.replay.next(), &exchange.path, name, &bytes, &self.replay.token).await;
        let recorded: Value = serde_json::from_str(&exchange.answer).unwrap();
        assert_eq!((answer.code, answer.json()), (exchange.code, recorded), "{}", exchange.title);
        self.files.insert(name.to_owned(), bytes);
        self.replay.compared += 1;
    }

    async fn submit(&mut self, exchange: &Exchange) {
        let recorded: Value = serde_json::from_str(&exchange.answer).unwrap();
        let found = self.send(exchange).await.json();
        let id = &found["data"];
        assert!(id.is_u64(), "{}: {found}", exchange.title);
        let expected = json!({"success": true, "message": format!("succeeded. new jediTaskID={id}"), "data": id});
        assert_eq!(found, expected, "{}", exchange.title);
        self.replay.jobs.insert(recorded["data"].to_string(), id.to_string());
    }

    async fn job_ids(&mut self, exchange: &Exchange) {
        let recorded: Value = serde_json::from_str(&exchange.answer).unwrap();
        let task: u64 = self.replay.here(&exchange.path).rsplit('=').next().unwrap().parse().unwrap();
        let found = self.send(exchange).await.json();
        let jobs = if exchange.path.ends_with(&LAST.to_string()) { 2 } else { 1 };
        let expected: Vec<u64> = (task + 1..=task + jobs).collect();
        assert_eq!(found, json!({"success": true, "message": "", "data": expected}), "{}", exchange.title);
        self.replay.jobs.insert(recorded["data"][0].to_string(), expected[0].to_string());
    }

    /// Rows of a task.
    async fn tasks(&mut self, exchange: &Exchange) {
        let recorded: Value = serde_json::from_str(&self.replay.here(&exchange.answer)).unwrap();
        let found = self.send(exchange).await.json();
        assert_eq!((&found["success"], &found["message"]), (&json!(true), &json!("")), "{}", exchange.title);
        let (found, recorded) = match recorded["data"].is_array() {
            true => {
                assert_eq!(found["data"].as_array().map(Vec::len), Some(1), "{}", exchange.title);
                (&found["data"][0], &recorded["data"][0])
            }
            false => (&found["data"], &recorded["data"]),
        };
        let task = recorded["jediTaskID"].to_string();
        let last = self.replay.jobs.get(&LAST.to_string()) == Some(&task);
        for (key, value) in recorded.as_object().unwrap() {
            let mine = &found[key];
            match key.as_str() {
                "creationDate" | "modificationTime" => {
                    let time =
                        mine["__datetime__"].as_str().unwrap_or_else(|| panic!("{}: {key} {mine}", exchange.title));
                    assert_eq!(time.len(), value.as_str().unwrap().len(), "{}: {key} {time}", exchange.title);
                }
                "reqID" => assert_eq!(mine.as_u64(), found["jediTaskID"].as_u64().map(|id| id % 10_000_000)),
                "nFiles" if last => assert_eq!(mine, 2, "{}", exchange.title),
                "status" if last => assert_eq!(mine, "finishing", "{}", exchange.title),
                "superStatus" if last => assert_eq!(mine, "running", "{}", exchange.title),
                "taskParams" => {
                    // By what a task was split stays as it is.
                    let mut value = value.clone();
                    value.as_object_mut().unwrap().remove("nFilesPerJob");
                    assert_eq!(*mine, value, "{}: {key}", exchange.title);
                }
                _ => assert_eq!(mine, value, "{}: {key}", exchange.title),
            }
        }
    }

    /// Rows of jobs: those fields that say what the job is and how it stands; no other field is missing.
    async fn rows(&mut self, exchange: &Exchange) {
        let recorded = row_of(&self.replay.here(&exchange.answer));
        let found = self.send(exchange).await.json();
        assert_eq!(found["data"].as_array().map(Vec::len), Some(1), "{}: {found}", exchange.title);
        let found = &found["data"][0];
        for (key, value) in recorded.as_object().unwrap() {
            let mine = found.get(key).unwrap_or_else(|| panic!("{}: {key} is missing", exchange.title));
            if ROW.contains(&key.as_str()) {
                assert_eq!(loose(mine), loose(value), "{}: {key}", exchange.title);
            }
        }
        for (mine, file) in
            found["Files"].as_array().unwrap().iter().zip(recorded["Files"].as_array().into_iter().flatten())
        {
            for key in ["lfn", "type", "dataset", "destinationDBlock", "scope"] {
                if let Some(value) = file.get(key) {
                    assert_eq!(mine[key], *value, "{}: {key}", exchange.title);
                }
            }
            let keys = |value: &Value| value.as_object().unwrap().clone();
            let missing: Map<String, Value> =
                keys(file).into_iter().filter(|(key, _)| mine.get(key).is_none()).collect();
            assert!(missing.is_empty(), "{}: {missing:?}", exchange.title);
        }
    }

    /// What is served by name.
    async fn file(&mut self, exchange: &Exchange) {
        let answer = self.send(exchange).await;
        match self.files.get(name_of(exchange)) {
            Some(bytes) => assert_eq!(answer.body, String::from_utf8_lossy(bytes), "{}", exchange.title),
            None => assert_eq!(answer.body.lines().next(), exchange.answer.lines().next(), "{}", exchange.title),
        }
    }

    /// The tasks of the clients before are killed: the pilot then had a server of its own.
    async fn kill_others(&mut self) {
        for task in [LAST - 3, LAST - 2] {
            let id: u64 = self.replay.here(&task.to_string()).parse().unwrap();
            let killed = http::post(&self.replay.next(), "/api/v1/task/kill", &json!({"task_id": id})).await.json();
            assert_eq!(killed["success"], true, "{killed}");
        }
    }

    /// Two pilots take the jobs of the last task, so that what its client asks of them has a meaning.
    async fn take_last(&mut self) {
        let wanted = json!({"site_name": QUEUE, "prod_source_label": "user", "n_jobs": 2,
            "task_id": self.replay.here(&LAST.to_string()).parse::<u64>().unwrap()});
        let mut taken = 0;
        for _ in 0..200 {
            let answer = http::post(&self.replay.next(), "/api/v1/pilot/acquire_jobs", &wanted).await.json();
            for job in answer["data"]["jobs"].as_array().into_iter().flatten() {
                let update = json!({"job_id": job["PandaID"], "job_status": "running", "attempt_nr": 1});
                http::post(&self.replay.next(), "/api/v1/pilot/update_job", &update).await;
                taken += 1;
            }
            if taken == 2 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("{taken} of 2 jobs came");
    }

    async fn step(&mut self, exchange: &Exchange) {
        let last = exchange.body.as_ref().is_some_and(|body| body["task_id"] == LAST);
        match name_of(exchange) {
            "validate_cache_file" => {
                self.checksum = exchange.body.as_ref().unwrap()["checksum"].as_u64().unwrap() as u32;
                self.exact(exchange).await;
            }
            "upload_cache_file" => self.upload(exchange).await,
            "submit" => self.submit(exchange).await,
            "get_job_ids" => self.job_ids(exchange).await,
            "get_tasks_detailed_info_since" | "get_detailed_info" => self.tasks(exchange).await,
            "get_description" | "get_description_incl_archive" | "get_job_descriptions" => self.rows(exchange).await,
            "get_status" => self.settles(exchange).await,
            "getJob" => {
                self.kill_others().await;
                self.replay.acquire(exchange).await;
            }
            "updateJob" => self.replay.other(exchange).await,
            "finish" => {
                if exchange.body.as_ref().unwrap().get("soft").is_some() {
                    self.take_last().await;
                }
                self.exact(exchange).await;
            }
            "retry" if last => {
                let found = self.send(exchange).await.json();
                let message = found["message"].as_str().unwrap().to_owned();
                let words = ["command=retry was registered. ", " job(s) will be retried"];
                assert!(message.starts_with(words[0]) && message.ends_with(words[1]), "{message}");
                same(&exchange.title, "", &found, &json!({"success": true, "data": 3}));
            }
            "get_user_secrets" => {
                let recorded: Value = serde_json::from_str(&exchange.answer).unwrap();
                let mut found = self.send(exchange).await.json();
                // JSON in a text: Python writes it with blanks.
                let inside = |value: &Value| serde_json::from_str::<Value>(value["data"].as_str().unwrap()).unwrap();
                assert_eq!(inside(&found), inside(&recorded), "{}", exchange.title);
                found["data"] = recorded["data"].clone();
                assert_eq!(found, recorded, "{}", exchange.title);
            }
            "upload_file_recovery_request" => {
                let words = "file_server/upload_file_recovery_request is not served here";
                self.own(exchange, json!({"success": false, "message": words, "data": null})).await;
            }
            // None of its jobs has finished.
            "get_metadata_for_analysis_jobs" => {
                self.own(exchange, json!({"success": true, "message": "", "data": []})).await;
            }
            _ if !exchange.path.starts_with("/api/") => self.file(exchange).await,
            _ => self.exact(exchange).await,
        }
    }
}

#[tokio::test]
async fn the_recorded_client_and_its_pilot() {
    let Some(exchanges) = read("client.md", "## HTTP exchanges") else { return };
    let cluster = panda_cluster().await;
    let mut replay = Replay::new(&cluster);
    (replay.token, replay.free) = (token(), &FREE);
    let mut client = Client { replay, files: BTreeMap::new(), checksum: 0 };
    for exchange in &exchanges {
        client.step(exchange).await;
    }
    println!("client.md: {} answers compared", client.replay.compared);
    assert_eq!(client.replay.compared, exchanges.len(), "none is left out");
    assert_eq!(exchanges.len(), 62);
}
