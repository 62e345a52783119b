//! What is malformed gets PanDA's status and a message; no node goes down.

use super::http::{self, gzip, raw, request};
use super::{QUEUE, panda_cluster};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const JSON: &str = "Content-Type: application/json";
/// Bytes of a body that are taken at most.
const BODY_BYTES_MAX: usize = 16 << 20;

/// A call, and what its answer must hold.
type Case = (&'static str, &'static str, Value, bool, &'static str);

fn cases() -> Vec<Case> {
    let update = json!({"job_id": 1, "job_status": "running", "attempt_nr": 1});
    let with = |key: &str, value: Value| {
        let mut body = update.clone();
        body[key] = value;
        body
    };
    vec![
        ("POST", "pilot/update_job", json!({"job_id": 1}), false, "missing a required argument: 'job_status'"),
        ("POST", "pilot/update_job", json!({}), false, "missing a required argument: 'job_id'"),
        ("POST", "pilot/update_job", with("job_id", json!("1")), false, "'job_id' must be of type int, got str."),
        ("POST", "pilot/update_job", with("job_id", json!(-1)), false, "'job_id' must be of type int"),
        ("POST", "pilot/update_job", with("job_id", json!(1e300)), false, "'job_id' must be of type int"),
        ("POST", "pilot/update_job", with("job_status", json!("bogus")), false, "Invalid job status: bogus"),
        ("POST", "pilot/update_job", with("job_status", json!([])), false, "must be of type str, got list."),
        ("POST", "pilot/update_job", with("attempt_nr", json!({})), false, "must be of type int, got dict."),
        ("POST", "pilot/update_job", with("nonsense", json!(1)), true, ""),
        ("POST", "pilot/update_jobs_bulk", json!({"job_list": 7}), false, "'job_list' must be of type list, got int."),
        ("POST", "pilot/acquire_jobs", json!({}), false, "missing a required argument: 'site_name'"),
        ("POST", "pilot/acquire_jobs", json!({"site_name": "NONE"}), false, "No jobs in PanDA"),
        ("GET", "pilot/acquire_jobs?site_name=X", json!({}), false, "expecting POST, received GET"),
        ("POST", "pilot/get_job_status", json!({}), false, "expecting GET, received POST"),
        ("GET", "pilot/get_job_status?job_ids=x", json!({}), false, "must be of type list of int"),
        ("POST", "job/submit", json!({"jobs": "[[]]"}), false, "no specification"),
        ("POST", "job/submit", json!({"jobs": "{"}), false, "'jobs' must be JSON"),
        ("POST", "job/submit", json!({"jobs": []}), false, "1 to 10000 jobs"),
        ("POST", "job/submit", json!({"jobs": [{"computingSite": "NONE"}]}), false, "NONE"),
        ("POST", "job/kill", json!({"job_ids": [1], "code": 1000}), false, "kill code"),
        ("POST", "job/set_command", json!({"job_id": 1, "command": "ls -l"}), false, "not known"),
        ("POST", "job/set_command", json!({"job_id": 1, "command": "a\nb"}), false, "one line"),
        ("POST", "task/submit", json!({"task_parameters": []}), false, "must be of type dict, got list."),
        ("POST", "task/submit", json!({"task_parameters": {}}), false, "taskName"),
        ("POST", "task/kill", json!({"task_id": 7}), false, "not found"),
        ("POST", "task/retry", json!({"task_id": 7, "new_parameters": "x"}), false, "'new_parameters' must be"),
        ("GET", "task/get_status", json!({}), false, "missing a required argument: 'task_id'"),
        ("GET", "task/get_tasks_detailed_info_since?filters=%7B", json!({}), false, "'filters' must be JSON"),
        ("POST", "creds/set_user_secrets", json!({"key": "k", "value": "v"}), false, "bearer token"),
        ("GET", "creds/get_proxy?dn=x", json!({}), false, "'proxy' not found for x"),
        ("GET", "creds/get_key_pair?public_key_name=p", json!({}), false, "required argument: 'private_key_name'"),
        ("GET", "creds/get_token_key", json!({}), false, "missing a required argument: 'client_name'"),
        ("GET", "creds/get_access_token?client_name=c", json!({}), false, "'token' not found for c"),
        ("POST", "event/acquire_event_ranges", json!({}), false, "event service"),
        ("POST", "file_server/upload_cache_file", json!({}), false, "missing a required argument: 'file'"),
        ("POST", "file_server/validate_cache_file", json!({"file_size": "x"}), false, "must be of type int"),
        ("POST", "harvester/heartbeat", json!({"harvester_id": "a b", "data": {}}), false, "harvester_id"),
        (
            "POST",
            "harvester/report_worker_statistics",
            json!({"harvester_id": "h", "panda_queue": "q", "statistics": "x"}),
            false,
            "must be JSON",
        ),
        ("POST", "harvester/add_target_slots", json!({}), false, "not served"),
    ]
}

#[tokio::test]
async fn malformed_calls_get_pandas_words() {
    let mut cluster = panda_cluster().await;
    let address = cluster.nodes.panda_addrs()[0].clone();
    for (verb, call, body, success, words) in cases() {
        let path = format!("/api/v1/{call}");
        let body = if verb == "GET" { String::new() } else { body.to_string() };
        let answer = request(&address, verb, &path, &[JSON], body.as_bytes()).await;
        assert_eq!(answer.code, 200, "{call}: {answer:?}");
        let value = answer.json();
        assert_eq!(value["success"], success, "{call} {body}: {value}");
        assert!(value["message"].as_str().unwrap().contains(words), "{call} {body}: {value}");
    }
    for path in ["/api/v1/pilot/no_such", "/api/v1/no_such/is_alive", "/server/panda/noSuchMethod"] {
        let answer = http::post(&address, path, &json!({})).await;
        let method = path.rsplit('/').next().unwrap();
        assert_eq!((answer.code, answer.body), (403, format!("ERROR : method {method} is forbidden")), "{path}");
    }
    for path in ["/", "/cache/none", "/cache/../../etc/passwd", "/cache/schedconfig/NONE.all.json", "/trf/user/none"] {
        assert_eq!(http::get(&address, path).await.code, 404, "{path}");
    }
    old_calls(&address).await;
    cluster.nodes.check().unwrap();
}

async fn old_calls(address: &str) {
    let update = |id: Value, attempt: Value| json!({"jobId": id, "state": "running", "attemptNr": attempt});
    for (call, body, key, value) in [
        ("getJob", json!({}), "StatusCode", "30"),
        ("getJob", json!({"siteName": QUEUE}), "StatusCode", "20"),
        ("updateJob", json!({}), "StatusCode", "30"),
        ("updateJob", json!({"jobId": "x", "state": "running"}), "StatusCode", "30"),
        ("updateJob", update(json!(987_654_321), json!(0)), "command", "tobekilled"),
        ("updateJob", update(json!(u64::MAX), json!(1)), "StatusCode", "30"),
        ("updateJob", update(json!(i64::MAX), json!(1)), "command", "tobekilled"),
        ("updateJob", update(json!(-5), json!("x")), "command", "tobekilled"),
        ("getStatus", json!({"ids": "1,x,987654321"}), "status", "notfound,notfound,notfound"),
        ("updateWorkerPilotStatus", json!({}), "StatusCode", "30"),
        ("getEventRanges", json!({}), "StatusCode", "30"),
        ("getProxy", json!({"role": "production"}), "StatusCode", "90"),
        ("getTokenKey", json!({"client_name": "c"}), "errorDialog", "Token key is missing for 'c"),
        ("getKeyPair", json!({"publicKeyName": "p", "privateKeyName": "q"}), "StatusCode", "80"),
    ] {
        let answer = http::post_gzip(address, &format!("/server/panda/{call}"), &body).await;
        assert_eq!(answer.pair(key).as_deref(), Some(value), "{call} {body}: {answer:?}");
    }
}

#[tokio::test]
async fn bodies_that_are_none_or_too_large_are_refused() {
    let mut cluster = panda_cluster().await;
    let address = cluster.nodes.panda_addrs()[1].clone();
    let path = "/api/v1/pilot/update_job";
    for (body, code) in [
        (b"{".to_vec(), 400),
        (b"[1]".to_vec(), 400),
        (vec![0xff; 100], 400),
        (vec![0x1f, 0x8b, 8, 0, 1, 2, 3], 400),
        (gzip(b"{}")[..12].to_vec(), 400),
        ("[".repeat(1_000_000).into_bytes(), 400),
        (gzip(&vec![b' '; BODY_BYTES_MAX + 1]), 413),
    ] {
        let answer = request(&address, "POST", path, &[JSON], &body).await;
        assert_eq!(answer.code, code, "{answer:?}");
        assert!(answer.body.starts_with("ERROR : "), "{answer:?}");
    }
    let told =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40);
    assert_eq!(raw(&address, &told, b"").await.unwrap().code, 413, "refused before it is sent");
    let long = format!("GET /api/v1/system/is_alive HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(200 << 10));
    let answer = raw(&address, &long, b"").await;
    assert!(answer.as_ref().is_none_or(|a| a.code == 431 || a.code == 400), "{answer:?}");
    let noise = raw(&address, "\u{16}\u{3}\u{1} this is no HTTP\r\n\r\n", b"").await;
    assert!(noise.is_none_or(|a| a.code == 400));
    too_large_upload(&address).await;
    // An open connection that says nothing more does not keep others from being served.
    let mut idle = TcpStream::connect(&address).await.unwrap();
    idle.write_all(b"POST /api/v1/pilot/update_job HTTP/1.1\r\nContent-Length: 10\r\n\r\n{").await.unwrap();
    assert_eq!(http::get(&address, "/api/v1/system/is_alive").await.json()["success"], true);
    drop(idle);
    cluster.nodes.check().unwrap();
}

/// A sandbox without anything to build has at most 10 MB.
async fn too_large_upload(address: &str) {
    let head = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"jobO.x.tar.gz\"\r\n\r\n";
    let body = [head.as_bytes(), &vec![7; (10 << 20) + 1], b"\r\n--b--\r\n"].concat();
    let lines = ["Content-Type: multipart/form-data; boundary=b"];
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /api/v1/file_server/upload_cache_file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}\r\nContent-Length: {}\r\n\r\n",
        lines[0],
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    // The server answers before all has come, and may hang up.
    let _ = stream.write_all(&body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("Exceeded size limit") || answer.is_empty(), "{answer}");
}
