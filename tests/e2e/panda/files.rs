//! Files of jobs and of uploads: names of a later attempt, what comes too slowly, what is too old.

use super::http::{self, raw};
use super::{QUEUE, panda_cluster, panda_cluster_with};
use crate::common::eventually;
use moso::LocalOptions;
use serde_json::{Value, json};

/// The job that a pilot gets.
async fn acquired(address: &str) -> Value {
    let wanted = json!({"site_name": QUEUE, "prod_source_label": "user"});
    eventually("a job comes", async || {
        let answer = http::post(address, "/api/v1/pilot/acquire_jobs", &wanted).await.json();
        answer["data"]["jobs"].get(0).cloned()
    })
    .await
}

async fn update(address: &str, job: &Value, more: Value) {
    let mut body = json!({"job_id": job["PandaID"], "attempt_nr": job["attemptNr"]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = http::post(address, "/api/v1/pilot/update_job", &body).await.json();
    assert_eq!(answer["data"]["command"], "NULL", "{answer}");
}

#[tokio::test]
async fn a_second_attempt_has_files_of_its_own() {
    let cluster = panda_cluster().await;
    let addresses = cluster.nodes.panda_addrs();
    let parameters = json!({"taskName": "user.me.x/", "site": QUEUE, "noInput": true, "nEvents": 1, "nEventsPerJob": 1,
        "prodSourceLabel": "user", "maxFailure": 2, "log": {"dataset": "user.me.x.log/", "value": "user.me.${SN}.log.tgz"},
        "jobParameters": [{"type": "template", "param_type": "output", "value": "user.me._${SN/P}.out", "hidden": true,
            "dataset": "user.me.x_out/"}, {"type": "constant", "value": "-o \"{'out': 'user.me._${SN/P}.out'}\""}]});
    let submit = json!({"task_parameters": parameters});
    let task = http::post(&addresses[0], "/api/v1/task/submit", &submit).await.json()["data"].clone();
    let first = acquired(&addresses[1]).await;
    assert_eq!(first["outFiles"], "user.me._000001.out,user.me.000001.log.tgz", "{first}");
    update(&addresses[2], &first, json!({"job_status": "failed", "pilot_error_code": 1305})).await;
    let second = acquired(&addresses[0]).await;
    assert_eq!((&second["PandaID"], &second["attemptNr"]), (&first["PandaID"], &json!(2)), "{second}");
    assert_eq!(second["outFiles"], "user.me._000001.out.2,user.me.000001.log.tgz.2", "{second}");
    assert_eq!(second["logFile"], "user.me.000001.log.tgz.2");
    assert_eq!(second["jobPars"], "-o \"{'out': 'user.me._000001.out.2'}\"");
    assert_ne!(second["logGUID"], first["logGUID"]);
    let report = json!({"user.me._000001.out.2": {"guid": "G", "fsize": 7, "adler32": "0a0b0c0d"}}).to_string();
    update(&addresses[1], &second, json!({"job_status": "finished", "job_output_report": report})).await;
    let path = format!("/api/v1/job/get_description?job_ids={}", second["PandaID"]);
    let row = http::get(&addresses[2], &path).await.json()["data"][0].clone();
    let files: Vec<_> =
        row["Files"].as_array().unwrap().iter().map(|f| (f["lfn"].clone(), f["GUID"].clone())).collect();
    assert_eq!(files[0], (json!("user.me._000001.out.2"), json!("G")), "{row}");
    assert_eq!((files.len(), &row["jobStatus"]), (2, &json!("finished")), "no file stands there twice: {row}");
    let status = http::get(&addresses[0], &format!("/api/v1/task/get_status?task_id={task}")).await.json();
    assert_eq!(status["data"], "done", "{status}");
}

#[tokio::test]
async fn what_comes_too_slowly_or_is_too_old_goes() {
    let env = [("MOSO_NODE_PANDA_BODY_S", "1"), ("MOSO_NODE_PANDA_UPLOAD_S", "15")];
    let env = env.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let cluster = panda_cluster_with(LocalOptions { env, ..LocalOptions::default() }).await;
    let addresses = cluster.nodes.panda_addrs();
    let head = "POST /api/v1/pilot/update_job HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\n";
    let cut = raw(&addresses[0], head, b"{").await.expect("an answer, not a closed line");
    assert_eq!((cut.code, cut.body.as_str()), (408, "ERROR : the body took more than 1s"));
    let held = || {
        let folders = (1..=3).map(|node| cluster.nodes.data(node).join("sandboxes"));
        folders.map(|folder| std::fs::read_dir(folder).unwrap().count()).collect::<Vec<_>>()
    };
    let uploaded = http::upload(&addresses[1], "/api/v1/file_server/upload_cache_file", "jobO.x.tgz", b"old", "").await;
    assert_eq!(uploaded.json(), json!({"success": true, "message": "", "data": null}));
    assert!(held().iter().sum::<usize>() >= 2, "a majority holds it: {:?}", held());
    eventually("the upload is forgotten", async || {
        let found = http::get(&addresses[2], "/cache/jobO.x.tgz").await;
        (found.code == 404).then_some(())
    })
    .await;
    eventually("no disk holds it any more", async || (held() == [0, 0, 0]).then_some(())).await;
    // The name is free again.
    let again = http::upload(&addresses[0], "/api/v1/file_server/upload_cache_file", "jobO.x.tgz", b"new", "").await;
    assert_eq!(again.json()["success"], true, "{again:?}");
}
