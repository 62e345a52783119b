//! What the real PanDA server answered to probes of both dialects, and what the front answers to the same.

use super::http::{self, Answer};
use super::transcript::folder;
use super::{QUEUE, panda_cluster};
use crate::common::Cluster;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Probes whose answers are of that server's own: how it is set up, and that a job is held until a daemon settles it.
const OTHER: [&str; 12] = [
    "without Accept",
    "no client certificate",
    "no production role",
    "unknown argument",
    "get_job_status",
    "get_status",
    "getStatus",
    "get_description",
    "after archived",
    "isAlive",
    "unknown site",
    "immediately",
];

/// A probe and its answer.
struct Probe {
    title: String,
    verb: String,
    path: String,
    head: String,
    body: String,
    answer: String,
    code: u16,
}

fn probes() -> Option<Vec<Probe>> {
    let text = std::fs::read_to_string(folder()?.join("server.md")).unwrap();
    let read = |part: &str| {
        let (title, rest) = part.split_once('\n')?;
        let inside = rest.split("```").nth(1)?;
        let sent: Vec<&str> = inside.lines().filter_map(|line| line.strip_prefix("> ")).collect();
        let got: Vec<&str> = inside.lines().filter_map(|line| line.strip_prefix("< ")).collect();
        let mut request = sent.first()?.splitn(3, ' ');
        let (verb, path) = (request.next()?.to_owned(), request.next()?.to_owned());
        let head = request.next().unwrap_or_default().to_owned();
        let code = got.first()?.split(' ').nth(1)?.parse().ok()?;
        let body = sent.get(1).copied().unwrap_or_default().to_owned();
        Some(Probe { title: title.to_owned(), verb, path, head, body, answer: (*got.last()?).to_owned(), code })
    };
    Some(text.split("\n### ").skip(1).filter_map(read).collect())
}

struct Replay<'a> {
    cluster: &'a Cluster,
    jobs: BTreeMap<u64, u64>,
    sent: usize,
    compared: usize,
}

impl Replay<'_> {
    /// The body with the numbers of jobs here; that server counts attempts from 0.
    fn here(&self, body: &mut Value) {
        for key in ["job_id", "jobId"] {
            if let Some(id) = body.get(key).and_then(Value::as_u64).and_then(|id| self.jobs.get(&id)) {
                body[key] = (*id).into();
            }
        }
        for key in ["attempt_nr", "attemptNr"] {
            if body.get(key) == Some(&json!(0)) {
                body[key] = 1.into();
            }
        }
        match body {
            Value::Object(map) => {
                if let Some(Value::Array(ids)) = map.get_mut("job_ids") {
                    for id in ids.iter_mut() {
                        *id = id.as_u64().and_then(|id| self.jobs.get(&id)).map_or(id.take(), |id| (*id).into());
                    }
                }
                map.get_mut("job_list").into_iter().for_each(|list| self.here(list));
            }
            Value::Array(list) => list.iter_mut().for_each(|one| self.here(one)),
            _ => {}
        }
    }

    async fn send(&mut self, probe: &Probe, body: &Value) -> Answer {
        let addresses = self.cluster.nodes.panda_addrs();
        let address = &addresses[self.sent % addresses.len()];
        self.sent += 1;
        let form = probe.head.contains("x-www-form-urlencoded");
        match probe.verb.as_str() {
            "GET" => http::get(address, &probe.path).await,
            _ if form && probe.head.contains("Accept: application/json") => {
                http::post_form(address, &probe.path, body).await
            }
            _ if probe.head.contains("gzip") => http::post_gzip(address, &probe.path, body).await,
            // A form without Accept is answered as JSON without Accept is.
            _ => http::post(address, &probe.path, body).await,
        }
    }

    /// As many jobs as were submitted then; the transcript cut what they were.
    async fn submit(&mut self, probe: &Probe) {
        let recorded: Value = serde_json::from_str(&probe.answer).unwrap();
        let job = json!({"computingSite": QUEUE, "prodSourceLabel": "managed", "maxAttempt": 3, "jobDefinitionID": 1,
            "currentPriority": 1000, "maxWalltime": 3600, "minRamCount": 2000, "maxDiskCount": 1000, "prodUserName": "me"});
        let jobs = vec![job; recorded["data"].as_array().unwrap().len()];
        let body = json!({ "jobs": serde_json::to_string(&jobs).unwrap() });
        let answer = http::post(&self.cluster.nodes.panda_addrs()[0], &probe.path, &body).await.json();
        assert_eq!(answer["data"].as_array().unwrap().len(), jobs.len(), "{}: {answer}", probe.title);
    }

    /// Jobs for a pilot: those that come take the places of the recorded ones.
    async fn acquire(&mut self, probe: &Probe) {
        let wanted = ids(&probe.answer);
        let mut body: Value = serde_json::from_str(&probe.body).unwrap();
        for key in ["site_name", "siteName"] {
            if body.get(key).is_some() {
                body[key] = QUEUE.into();
            }
        }
        let mut found = Vec::new();
        for _ in 0..100 {
            let answer = self.send(probe, &body).await;
            let new = ids(&answer.body);
            if wanted.is_empty() {
                assert!(new.is_empty(), "{}: {answer:?}", probe.title);
                self.compare(probe, &answer);
                return;
            }
            if let (false, false) = (new.is_empty(), answer.body.starts_with('{')) {
                let keys =
                    |text: &str| form_urlencoded::parse(text.as_bytes()).map(|p| p.0.into_owned()).collect::<Vec<_>>();
                assert_eq!(keys(&answer.body), keys(&probe.answer), "{}", probe.title);
            }
            found.extend(new);
            if found.len() >= wanted.len() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(found.len(), wanted.len(), "{}", probe.title);
        self.jobs.extend(wanted.into_iter().zip(found));
        self.compared += 1;
    }

    fn compare(&mut self, probe: &Probe, answer: &Answer) {
        assert_eq!(answer.code, probe.code, "{}: {answer:?}", probe.title);
        let recorded: Result<Value, _> = serde_json::from_str(&probe.answer);
        match recorded {
            Ok(recorded) => {
                let mut found = answer.json();
                // For pilots that look for it there.
                found.as_object_mut().unwrap().retain(|key, _| recorded.get(key).is_some());
                assert_eq!(found, recorded, "{}", probe.title);
            }
            Err(_) => assert_eq!(answer.body, probe.answer, "{}", probe.title),
        }
        self.compared += 1;
    }
}

/// The numbers of the jobs in an answer of either dialect.
fn ids(answer: &str) -> Vec<u64> {
    if let Ok(value) = serde_json::from_str::<Value>(answer) {
        let jobs = value["data"]["jobs"].as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        return jobs.iter().filter_map(|job| job["PandaID"].as_u64()).collect();
    }
    let pairs = form_urlencoded::parse(answer.as_bytes());
    pairs.filter(|(key, _)| key == "PandaID").filter_map(|(_, value)| value.parse().ok()).collect()
}

#[tokio::test]
async fn the_front_answers_as_the_real_server_did() {
    let Some(probes) = probes() else { return };
    let cluster = panda_cluster().await;
    let mut replay = Replay { cluster: &cluster, jobs: BTreeMap::new(), sent: 0, compared: 0 };
    for probe in probes.iter().filter(|probe| !OTHER.iter().any(|words| probe.title.contains(words))) {
        let name = probe.path.rsplit('/').next().unwrap();
        match name {
            "submit" => replay.submit(probe).await,
            "acquire_jobs" | "getJob" => replay.acquire(probe).await,
            _ => {
                let mut body: Value = serde_json::from_str(&probe.body).unwrap_or_else(|_| json!({}));
                replay.here(&mut body);
                let answer = replay.send(probe, &body).await;
                replay.compare(probe, &answer);
            }
        }
    }
    println!("server.md: {} answers compared", replay.compared);
    assert!(replay.compared > 30, "{}", replay.compared);
}
