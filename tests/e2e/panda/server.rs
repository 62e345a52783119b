//! What the real PanDA server answered to probes of both dialects, and what the front answers to the same.

use super::http::{self, Answer};
use super::transcript::folder;
use super::{QUEUE, panda_cluster, pilots, raw};
use crate::common::{Cluster, eventually};
use moso::LocalOptions;
use moso_client::proto::grant::Grants;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Fields of the row of an archived job that must be as recorded, once that server's numbers are put in their places.
const ROW: [&str; 28] = [
    "PandaID",
    "prodSourceLabel",
    "currentPriority",
    "maxAttempt",
    "jobStatus",
    "computingSite",
    "minRamCount",
    "maxDiskCount",
    "coreCount",
    "modificationHost",
    "transExitCode",
    "pilotErrorCode",
    "pilotErrorDiag",
    "exeErrorCode",
    "exeErrorDiag",
    "supErrorCode",
    "supErrorDiag",
    "ddmErrorCode",
    "ddmErrorDiag",
    "brokerageErrorCode",
    "brokerageErrorDiag",
    "jobDispatcherErrorCode",
    "jobDispatcherErrorDiag",
    "taskBufferErrorCode",
    "taskBufferErrorDiag",
    "commandToPilot",
    "metadata",
    "Files",
];

/// A probe and its answer.
#[derive(Clone)]
struct Probe {
    title: String,
    verb: String,
    path: String,
    head: String,
    body: String,
    answer: String,
    code: u16,
    /// State of each job afterwards.
    states: Vec<(u64, String)>,
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
        let after = rest.split("DB rows after").nth(1).and_then(|after| after.split("```").nth(1)).unwrap_or_default();
        let (title, answer, states) = (title.to_owned(), (*got.last()?).to_owned(), states(after));
        Some(Probe { title, verb, path, head, body, answer, code, states })
    };
    Some(text.split("\n### ").skip(1).filter_map(read).collect())
}

/// Jobs and their states in lines of that server's tables.
fn states(lines: &str) -> Vec<(u64, String)> {
    let row = |line: &str| {
        let mut cells = line.split(" | ").skip(1);
        Some((cells.next()?.parse().ok()?, cells.next()?.to_owned()))
    };
    lines.lines().filter_map(row).collect()
}

/// How that server settled jobs once its daemon came by.
fn settled() -> BTreeMap<u64, String> {
    let text = std::fs::read_to_string(folder().unwrap().join("server.md")).unwrap();
    let (_, after) = text.split_once("## C. After the adder daemon").unwrap();
    states(after.split("```").nth(1).unwrap()).into_iter().collect()
}

struct Replay<'a> {
    cluster: &'a Cluster,
    jobs: BTreeMap<u64, u64>,
    /// Jobs whose pilots have said their last word.
    ended: BTreeSet<u64>,
    settled: BTreeMap<u64, String>,
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
        if let Some(ids) = body.get("ids").and_then(Value::as_str) {
            let here = |id: &str| self.jobs.get(&id.parse().unwrap()).map_or(id.to_owned(), u64::to_string);
            body["ids"] = ids.split(',').map(here).collect::<Vec<_>>().join(",").into();
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
        let path = self.jobs.iter().fold(probe.path.clone(), |path, (recorded, here)| {
            path.replace(&format!("job_ids={recorded}"), &format!("job_ids={here}"))
        });
        match probe.verb.as_str() {
            "GET" if probe.head.is_empty() => http::request(address, "GET", &path, &[], b"").await,
            "GET" => http::get(address, &path).await,
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
        self.compared += 1;
    }

    /// Jobs for a pilot: those that come take the places of the recorded ones.
    async fn acquire(&mut self, probe: &Probe) {
        let wanted = ids(&probe.answer);
        let mut body: Value = serde_json::from_str(&probe.body).unwrap();
        for key in ["site_name", "siteName"] {
            if body.get(key).is_some_and(|site| site != "NO_SUCH") {
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

    /// Where this answer is another than that server's, and documented in `node/PANDA.md`.
    fn own(&self, title: &str) -> Option<String> {
        let job = |recorded: u64| self.jobs[&recorded];
        let done = |data: Value| json!({"success": true, "message": "", "data": data}).to_string();
        let taken = done(json!({"StatusCode": 0, "command": "NULL"}));
        Some(match title {
            // JSON always.
            title if title.starts_with("is_alive without Accept") => done(Value::Null),
            // What newer programs say and this one does not know is ignored.
            "update_job unknown argument" => taken,
            // On a port where nobody is asked who he is everybody may: where he is asked, see below.
            "no client certificate" | "no production role: update_job" => taken,
            title if title.starts_with("no ") => {
                json!({"success": false, "message": "No jobs in PanDA", "data": null}).to_string()
            }
            // A job is settled with its pilot's last word, not held until a daemon comes; attempts count from 1.
            "pilot/get_job_status" => done(json!([
                {"job_id": job(303), "status": "finished", "attempt_number": 1},
                {"job_id": job(304), "status": "sent", "attempt_number": 1},
                {"job_id": 987_654_321, "status": "not found", "attempt_number": 0},
            ])),
            "job/get_status" => {
                done(json!([{"command": null, "status": "finished"}, {"command": null, "status": "sent"}]))
            }
            // Each of the jobs is answered, as JSON to who asks for it.
            "getStatus" => json!({"StatusCode": 0, "status": "finished,notfound", "attemptNr": "1,0"}).to_string(),
            "getStatus plain" => "StatusCode=0&status=finished%2Cnotfound&attemptNr=1%2C0".to_owned(),
            // A job is known for as long as the archive holds it.
            "legacy updateJob finished after archived" => {
                json!({"StatusCode": 0, "command": "alreadydone"}).to_string()
            }
            _ => return None,
        })
    }

    /// The row of a job that has ended.
    fn describe(&mut self, probe: &Probe, answer: &Answer) {
        let (found, recorded) = (answer.json(), serde_json::from_str::<Value>(&probe.answer).unwrap());
        let (row, mut wanted) = (&found["data"][0], recorded["data"][0].clone());
        wanted["PandaID"] = self.jobs[&303].into();
        wanted["computingSite"] = QUEUE.into();
        for (key, value) in wanted.as_object().unwrap() {
            let mine = row.get(key).unwrap_or_else(|| panic!("{}: {key} is missing", probe.title));
            if ROW.contains(&key.as_str()) {
                assert_eq!(mine, value, "{}: {key}", probe.title);
            }
        }
        for key in ["creationTime", "modificationTime", "stateChangeTime", "startTime", "endTime"] {
            assert!(row[key]["__datetime__"].is_string(), "{}: {key} {}", probe.title, row[key]);
        }
        // Attempts count from 1, and the specification of a job that was submitted by itself goes with its end.
        assert_eq!((&row["attemptNr"], &row["transformation"]), (&json!(1), &Value::Null), "{}", probe.title);
        self.compared += 1;
    }

    /// How the jobs stand: that server holds what has ended until its daemon comes.
    async fn look(&mut self, probe: &Probe) {
        let last = ["\"finished\"", "\"failed\""].iter().any(|word| probe.body.contains(word));
        for (id, state) in &probe.states {
            let Some(here) = self.jobs.get(id) else { continue };
            if last && state == "holding" {
                self.ended.insert(*id);
            }
            let expected = match state.as_str() {
                "holding" if self.ended.contains(id) => &self.settled[id],
                "holding" => "running",
                state => state,
            };
            let job = self.cluster.job_in(*here, expected).await;
            assert_eq!(job.attempt, 1, "{}: {job:?}", probe.title);
        }
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
    let (jobs, ended) = (BTreeMap::new(), BTreeSet::new());
    let mut replay = Replay { cluster: &cluster, jobs, ended, settled: settled(), sent: 0, compared: 0 };
    for probe in &probes {
        let name = probe.path.split('?').next().unwrap().rsplit('/').next().unwrap();
        let mut body: Value = serde_json::from_str(&probe.body).unwrap_or_else(|_| json!({}));
        replay.here(&mut body);
        match (name, replay.own(&probe.title)) {
            ("submit", _) => replay.submit(probe).await,
            (_, Some(own)) => {
                if body.get("site_name").is_some() {
                    body["site_name"] = QUEUE.into();
                }
                let answer = replay.send(probe, &body).await;
                let same = Probe { answer: own, ..probe.clone() };
                replay.compare(&same, &answer);
            }
            ("acquire_jobs" | "getJob", _) => replay.acquire(probe).await,
            (name, _) => {
                let answer = replay.send(probe, &body).await;
                match name {
                    "get_description" => replay.describe(probe, &answer),
                    _ => replay.compare(probe, &answer),
                }
            }
        }
        replay.look(probe).await;
    }
    println!("server.md: {} answers compared", replay.compared);
    assert_eq!(replay.compared, probes.len(), "none is left out");
    assert_eq!(probes.len(), 60);
}

/// Where it is asked who calls, strangers and users without the role are refused in that server's words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_calls_is_asked_as_the_real_server_does() {
    let Some(probes) = probes() else { return };
    let cluster = Cluster::start_with(LocalOptions { secure: true, ..LocalOptions::default() }).await;
    cluster.queue_with(QUEUE, pilots()).await;
    let credentials = cluster.nodes.credentials().unwrap();
    let ca = credentials.ca.clone();
    let grants = Grants { user: "anna".into(), groups: Vec::new(), roles: vec!["submitter".parse().unwrap()] };
    let anna = credentials.authority().unwrap().token(grants, Duration::from_secs(3600)).unwrap();
    let mut compared = 0;
    for probe in probes.iter().filter(|probe| probe.title.starts_with("no ")) {
        let known = probe.title.starts_with("no production role").then_some(anna.as_str());
        let mut body: Value = serde_json::from_str(&probe.body).unwrap();
        if body.get("site_name").is_some() {
            body["site_name"] = QUEUE.into();
        }
        let mut wanted: Value = serde_json::from_str(&probe.answer).unwrap();
        if known.is_none() {
            // That server knows certificates alone; this one says what else will do.
            let more = "say who you are: give a token or a user's certificate";
            wanted["message"] = format!("{}: {more}", wanted["message"].as_str().unwrap()).into();
        }
        for address in cluster.nodes.panda_addrs() {
            let found = eventually("the node serves PanDA's programs and knows the queue", async || {
                let text = raw::post(&ca, &address, &probe.path, &body.to_string(), known).await;
                let found: Value = serde_json::from_str(&text).ok()?;
                (found["message"] != "No jobs in PanDA").then_some(found)
            });
            assert_eq!(found.await, wanted, "{}", probe.title);
        }
        compared += 1;
    }
    assert_eq!(compared, 4);
    let address = &cluster.nodes.panda_addrs()[0];
    let text = raw::post(&ca, address, "/api/v1/pilot/update_job", "{}", Some("a.b.c")).await;
    assert!(text.starts_with("ERROR : Token authentication failed. "), "{text}");
}
