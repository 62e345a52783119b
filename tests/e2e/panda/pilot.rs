//! The real pilot, unmodified, from the work tree that `MOSO_PILOT3_DIR` names. It ends every process of its user whose parent
//! is process 1, so it runs in a process namespace of its own.

use super::client::{Venv, script};
use super::http::{get, post};
use super::{QUEUE, panda_cluster, pilots};
use crate::common::{Cluster, Program, eventually};
use futures::FutureExt as _;
use moso_client::proto::object::kind;
use moso_client::v1::JobView;
use serde_json::{Value, json};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// Longest run of one pilot: it takes a minute to end, a failed job two more.
const RUN: Duration = Duration::from_secs(420);
/// Nobody listens there: what a pilot must not reach.
const NOWHERE: &str = "127.0.0.1:9";
/// The checksum and the bytes of the input file.
const INPUT: &str = "some input\n";

fn work_tree() -> Option<PathBuf> {
    let found = std::env::var_os("MOSO_PILOT3_DIR").map(PathBuf::from).filter(|path| path.join("pilot.py").exists());
    if found.is_none() {
        println!("skipped: no pilot; name the work tree of pilot3 with MOSO_PILOT3_DIR");
    }
    found
}

/// A pilot that runs, and its folder.
struct Pilot {
    program: Program,
    folder: TempDir,
}

/// What a pilot is told.
struct Told<'a> {
    address: &'a str,
    queue: &'a str,
    /// Jobs, and requests for jobs that may fail.
    jobs: u32,
    /// With a bearer token instead of a certificate.
    token: bool,
    more: Vec<String>,
}

impl Told<'_> {
    fn of<'a>(address: &'a str, queue: &'a str) -> Told<'a> {
        Told { address, queue, jobs: 1, token: true, more: Vec::new() }
    }
}

/// The pilot's configuration with its outside hosts closed and its heartbeat short.
fn configuration(tree: &Path, folder: &Path, address: &str) -> String {
    let text = std::fs::read_to_string(tree.join("pilot/util/default.cfg")).unwrap();
    let folder = folder.display();
    let values = [
        ("pandaserver", format!("http://{address}")),
        ("iddsserver", format!("http://{address}")),
        ("rtlogging", format!("logstash;http://{NOWHERE}")),
        ("heartbeat", "15".into()),
        ("debug_heartbeat", "15".into()),
        ("update_sleep", "20".into()),
        ("queuedata_url", format!("http://{address}/cache/schedconfig/{{pandaqueue}}.all.json")),
        ("queues_url", format!("{folder}/{{pandaqueue}}.schedconf.json")),
        ("storages_url", format!("{folder}/ddm.json")),
        ("url", format!("http://{NOWHERE}/")),
        ("host", format!("http://{NOWHERE}")),
    ];
    let line = |line: &str| {
        let key = line.split(':').next().unwrap_or_default();
        let found = values.iter().find(|(name, _)| *name == key);
        found.map_or_else(|| line.to_owned(), |(name, value)| format!("{name}: {value}"))
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Where outputs go: a folder that the `mv` of the pilot only speaks of.
fn storage(queue: &str) -> Value {
    let name = format!("{queue}_DATADISK");
    let protocol = json!([{"endpoint": "file://localhost", "path": "/tmp/nowhere/", "flavour": "file", "id": 1}]);
    json!({&name: {
        "name": name, "site": queue, "state": "ACTIVE", "type": "DATADISK", "token": "X", "is_deterministic": true,
        "id": 1, "resource": {}, "rprotocols": {},
        "arprotocols": {"read_lan": protocol, "read_wan": protocol, "write_lan": protocol, "write_wan": protocol},
    }})
}

/// A credential that no server asks for, but without which the pilot does not start.
async fn credential(folder: &Path, token: bool, command: &mut Command) {
    if token {
        // Claims: {"name": "pilot"}.
        std::fs::write(folder.join("panda_token"), "e30.eyJuYW1lIjoicGlsb3QifQ.x").unwrap();
        command.env("PANDA_AUTH_DIR", format!("{}/", folder.display()));
        command.env("PANDA_AUTH_ORIGIN", "mock.pilot").env("PANDA_AUTH_TOKEN", "panda_token");
        return;
    }
    let (key, certificate) = (folder.join("key.pem"), folder.join("cert.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=pilot"]);
    let made = openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output().await.unwrap();
    assert!(made.status.success(), "{made:?}");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    std::fs::write(folder.join("x509up"), read(&certificate) + &read(&key)).unwrap();
    command.env("X509_USER_PROXY", folder.join("x509up"));
}

async fn start(told: Told<'_>, cluster: &Cluster) -> Option<Pilot> {
    let tree = work_tree()?;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let Told { address, queue, jobs, token, more } = told;
    std::fs::create_dir_all(at.join("run/w")).unwrap();
    std::fs::write(at.join("run/input.txt"), INPUT).unwrap();
    std::fs::write(at.join("pilot.cfg"), configuration(&tree, at, address)).unwrap();
    std::fs::write(at.join("ddm.json"), storage(queue).to_string()).unwrap();
    let data = get(&cluster.nodes.panda_addrs()[0], &format!("/cache/schedconfig/{queue}.all.json")).await.json();
    std::fs::write(at.join(format!("{queue}.schedconf.json")), json!({ queue: data }).to_string()).unwrap();
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "python3"]).arg(tree.join("pilot.py"));
    command.args(["--pilot-user", "generic", "-q", queue, "-j", "user", "-i", "PR", "-w", "generic"]);
    command.args(["--url", &format!("http://{host}"), "-p", port]).arg("-a").arg(at.join("run/w"));
    command.args(["--queuedata-url", &format!("http://{address}/cache/schedconfig/{{pandaqueue}}.all.json")]);
    command.arg("--storagedata-url").arg(at.join("ddm.json"));
    let places = [&[address.to_owned()][..], &cluster.nodes.panda_addrs()].concat();
    let places: Vec<String> = places.iter().map(|place| format!("http://{place}")).collect();
    command.args(["--baseurls", &places.join(","), "-b", "-t", "-y", "--use-https", "False"]);
    command.args(["--use-rucio-traces", "False", "--allow-same-user", "False", "--cleanup", "False"]);
    let jobs = jobs.to_string();
    command.args(["-v", &jobs, "-x", &jobs, "-l", "380", "-d"]).args(more);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", at);
    command.env("GTAG", "http://127.0.0.1/batchlog").env("HARVESTER_PILOT_CONFIG", at.join("pilot.cfg"));
    command.env("NO_CVMFS_OK", "1").env("PILOT_NOKILL", "1");
    credential(at, token, &mut command).await;
    command.current_dir(&tree);
    Some(Pilot { program: Program::start(&mut command), folder })
}

impl Pilot {
    /// Waits for its end; what it printed.
    async fn end(self) -> String {
        let run = self.program.end_within(RUN).await;
        drop(self.folder);
        format!("{}{}", run.stdout, run.stderr)
    }
}

/// A queue for one pilot, known to all nodes.
async fn queue(cluster: &Cluster, name: &str) {
    cluster.queue_with(name, pilots()).await;
    for address in cluster.nodes.panda_addrs() {
        let path = format!("/cache/schedconfig/{name}.all.json");
        eventually("every node knows the queue", async || (get(&address, &path).await.code == 200).then_some(())).await;
    }
}

/// Submits a job that runs this command with bash; its number, once every node offers it.
async fn submit(cluster: &Cluster, queue: &str, command: &str, files: &[Value]) -> u64 {
    let address = &cluster.nodes.panda_addrs()[0];
    let quoted: String = form_urlencoded::byte_serialize(command.as_bytes()).collect();
    let outputs = files.iter().filter(|file| file["type"] == "output").map(|file| file["lfn"].as_str().unwrap());
    let outputs: Vec<String> = outputs.map(|lfn| format!("'{lfn}': '{lfn}'")).collect();
    let inputs: Vec<&str> = files.iter().filter(|f| f["type"] == "input").map(|f| f["lfn"].as_str().unwrap()).collect();
    let place = format!("{queue}_DATADISK");
    let mut all = vec![json!({"lfn": "log.tgz", "type": "log", "GUID": "11111111-1111-4111-8111-111111111112",
        "scope": "user.me", "dataset": "user.me.x", "destinationDBlock": "user.me.x", "destinationSE": place})];
    for file in files {
        let mut file = file.clone();
        for (key, value) in [
            ("scope", "user.me"),
            ("dataset", "user.me.x"),
            ("destinationDBlock", "user.me.x"),
            ("destinationSE", &place),
        ] {
            file[key] = value.into();
        }
        all.push(file);
    }
    let job = json!({
        "transformation": format!("http://{address}/trf/user/runGen-00-00-02"), "jobName": "test", "jobDefinitionID": 1,
        "jobParameters": format!("-j \"\" -r . -i \"{}\" -o \"{{{}}}\" -p \"{}\"", inputs.join(","), outputs.join(", "),
            quoted.replace('+', "%20")),
        "computingSite": queue, "prodSourceLabel": "user", "currentPriority": 1000, "maxAttempt": 1, "prodUserName": "me",
        "destinationDBlock": "user.me.x", "Files": all,
    });
    let answer = post(address, "/api/v1/job/submit", &json!({ "jobs": json!([job]).to_string() })).await.json();
    let id = answer["data"][0][0].as_u64().unwrap_or_else(|| panic!("{answer}"));
    for address in cluster.nodes.panda_addrs() {
        let path = "/api/v1/statistics/active_job_stats_by_site";
        eventually("the job is offered", async || {
            (get(&address, path).await.json()["data"][queue]["activated"].as_u64() > Some(0)).then_some(())
        })
        .await;
    }
    // Hints between nodes are up to a tenth of a second old; a pilot that finds nothing sleeps for minutes.
    tokio::time::sleep(Duration::from_millis(500)).await;
    id
}

fn output(lfn: &str) -> Value {
    json!({"lfn": lfn, "type": "output"})
}

/// The job once it runs.
async fn running(cluster: &Cluster, id: u64) -> JobView {
    cluster.job_in(id, "running").await
}

#[track_caller]
fn ended(job: &JobView, state: &str, said: &str) {
    let tail: Vec<&str> = said.lines().rev().filter(|l| l.contains("ERROR") || l.contains("FATAL")).take(20).collect();
    assert_eq!(job.state, state, "{:?}\n{}", job.errors, tail.join("\n"));
}

fn report(job: &JobView) -> Value {
    serde_json::from_slice(&job.details).unwrap_or_default()
}

async fn no_job(cluster: &Cluster) {
    queue(cluster, "P_NONE").await;
    let address = &cluster.nodes.panda_addrs()[0];
    let Some(pilot) = start(Told { token: false, ..Told::of(address, "P_NONE") }, cluster).await else { return };
    let said = pilot.end().await;
    assert!(said.contains("pilot has finished (exit code=0"), "{said}");
    println!("no job: ok");
}

async fn finished(cluster: &Cluster) {
    queue(cluster, "P_DONE").await;
    let id = submit(cluster, "P_DONE", "echo hello; sleep 2; echo done > out.txt", &[output("out.txt")]).await;
    let address = &cluster.nodes.panda_addrs()[1];
    let Some(pilot) = start(Told { token: false, ..Told::of(address, "P_DONE") }, cluster).await else { return };
    let said = pilot.end().await;
    let job = cluster.job(id).await;
    ended(&job, "finished", &said);
    let report = report(&job);
    assert_eq!(report["job_output_report"]["out.txt"]["fsize"], 5, "{report}");
    assert!(report["pilot_id"].as_str().unwrap().contains("|PR|"), "{report}");
    assert_eq!(crate::common::logged(&job), ["defined", "activated", "sent", "running", "finished"]);
    println!("finished: ok");
}

async fn failed(cluster: &Cluster) {
    queue(cluster, "P_FAIL").await;
    let id = submit(cluster, "P_FAIL", "echo going to fail; exit 3", &[]).await;
    let address = &cluster.nodes.panda_addrs()[2];
    let Some(pilot) = start(Told::of(address, "P_FAIL"), cluster).await else { return };
    let said = pilot.end().await;
    let job = cluster.job(id).await;
    ended(&job, "failed", &said);
    assert_eq!((job.exit_code, job.attempt), (3, 1), "{job:?}");
    assert!(job.errors.iter().any(|error| error.source == "pilot" && error.code > 0), "{:?}", job.errors);
    println!("failed: ok");
}

async fn killed(cluster: &Cluster) {
    queue(cluster, "P_KILL").await;
    let id = submit(cluster, "P_KILL", "sleep 300", &[]).await;
    let addresses = cluster.nodes.panda_addrs();
    let Some(pilot) = start(Told::of(&addresses[0], "P_KILL"), cluster).await else { return };
    running(cluster, id).await;
    let killed = post(&addresses[1], "/api/v1/job/kill", &json!({ "job_ids": [id] })).await.json();
    assert_eq!(killed["data"], json!([true]));
    let said = pilot.end().await;
    let job = cluster.job(id).await;
    ended(&job, "cancelled", &said);
    assert!(job.errors.iter().any(|error| error.code == 1144), "{:?}", job.errors);
    println!("killed: ok");
}

async fn debugged(cluster: &Cluster) {
    queue(cluster, "P_DEBUG").await;
    let id = submit(cluster, "P_DEBUG", "echo debug me; sleep 60", &[]).await;
    let addresses = cluster.nodes.panda_addrs();
    let Some(pilot) = start(Told::of(&addresses[0], "P_DEBUG"), cluster).await else { return };
    running(cluster, id).await;
    let asked = json!({"job_id": id, "command": "ls -l"});
    assert_eq!(post(&addresses[2], "/api/v1/job/set_command", &asked).await.json()["success"], true);
    let said = pilot.end().await;
    let job = cluster.job(id).await;
    ended(&job, "finished", &said);
    let jobs = post(&addresses[1], "/api/v1/job/get_description", &json!({ "job_ids": [id] })).await.json();
    let printed = jobs["data"][0]["debugOutput"].as_str().unwrap_or_default();
    let about: Vec<&str> = said.lines().filter(|line| line.contains("ls -l") || line.contains("ls+-l")).collect();
    assert!(printed.contains("pilotlog.txt"), "{printed:?}: {about:#?}");
    assert!(report(&job)["stdout"].as_str().is_some_and(|text| text.contains("total")), "{:?}", report(&job));
    println!("debug command: ok");
}

async fn with_input(cluster: &Cluster) {
    queue(cluster, "P_INPUT").await;
    let file = json!({"lfn": "input.txt", "type": "input", "fsize": INPUT.len(), "checksum": "ad:19dc040f",
        "GUID": "11111111-1111-4111-8111-111111111111"});
    let id = submit(cluster, "P_INPUT", "cat input.txt > copy.txt; cat copy.txt", &[file, output("copy.txt")]).await;
    let address = &cluster.nodes.panda_addrs()[1];
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("below")).unwrap();
    std::fs::write(folder.path().join("input.txt"), INPUT).unwrap();
    let place = folder.path().join("below").display().to_string();
    let told = Told { more: vec!["--input-destination-dir".into(), place], ..Told::of(address, "P_INPUT") };
    let Some(pilot) = start(told, cluster).await else { return };
    let said = pilot.end().await;
    let job = cluster.job(id).await;
    ended(&job, "finished", &said);
    assert_eq!(report(&job)["job_output_report"]["copy.txt"]["fsize"], INPUT.len(), "{:?}", report(&job));
    println!("input file: ok");
}

async fn two_jobs(cluster: &Cluster) {
    queue(cluster, "P_TWO").await;
    let ids = [submit(cluster, "P_TWO", "echo one", &[]).await, submit(cluster, "P_TWO", "echo two", &[]).await];
    let address = &cluster.nodes.panda_addrs()[2];
    let Some(pilot) = start(Told { jobs: 2, ..Told::of(address, "P_TWO") }, cluster).await else { return };
    let said = pilot.end().await;
    for id in ids {
        ended(&cluster.job(id).await, "finished", &said);
    }
    println!("two jobs in one pilot: ok");
}

async fn with_curl(cluster: &Cluster) {
    queue(cluster, "P_CURL").await;
    cluster.client.put_object(kind::PANDA_QUEUE, "P_CURL", &json!({"catchall": "curlgetjob"}), None).await.unwrap();
    let address = &cluster.nodes.panda_addrs()[0];
    eventually("the queue data says curl", async || {
        let data = get(address, "/cache/schedconfig/P_CURL.all.json").await.json();
        (data["catchall"] == "curlgetjob").then_some(())
    })
    .await;
    let id = submit(cluster, "P_CURL", "echo by curl", &[]).await;
    let Some(pilot) = start(Told { token: false, ..Told::of(address, "P_CURL") }, cluster).await else { return };
    let said = pilot.end().await;
    ended(&cluster.job(id).await, "finished", &said);
    println!("curl transport: ok");
}

async fn from_prun(cluster: &Cluster) {
    let Some(venv) = Venv::make().await else { return };
    script(&venv.work());
    queue(cluster, "P_PRUN").await;
    let addresses = cluster.nodes.panda_addrs();
    let args = [
        "--exec",
        "bash myscript.sh > out.txt",
        "--outDS",
        "user.mock.prun",
        "--outputs",
        "out.txt",
        "--noBuild",
        "--site",
        "P_PRUN",
        "--nJobs",
        "1",
        "--noEmail",
    ];
    let task = venv.prun(&addresses[0], &args).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let Some(pilot) = start(Told::of(&addresses[1], "P_PRUN"), cluster).await else { return };
    let said = pilot.end().await;
    ended(&cluster.job(task + 1).await, "finished", &said);
    let status = get(&addresses[2], &format!("/api/v1/task/get_status?task_id={task}")).await.json();
    assert_eq!(status["data"], "done", "{status}");
    println!("prun to done: ok");
}

#[tokio::test]
async fn a_real_pilot_runs_jobs() {
    if work_tree().is_none() {
        return;
    }
    let cluster = panda_cluster().await;
    // Each waits for minutes and works for seconds, so they run at once; all are waited for, whatever one of them says.
    let runs: [Pin<Box<dyn Future<Output = ()> + '_>>; 9] = [
        Box::pin(no_job(&cluster)),
        Box::pin(finished(&cluster)),
        Box::pin(failed(&cluster)),
        Box::pin(killed(&cluster)),
        Box::pin(debugged(&cluster)),
        Box::pin(with_input(&cluster)),
        Box::pin(two_jobs(&cluster)),
        Box::pin(with_curl(&cluster)),
        Box::pin(from_prun(&cluster)),
    ];
    let ends = futures::future::join_all(runs.map(|run| AssertUnwindSafe(run).catch_unwind())).await;
    assert!(ends.iter().all(Result::is_ok), "what went wrong is said above");
}

/// An address that stands for a list of nodes: a connection goes to the first that takes it, as with a load balancer.
async fn balancer(nodes: Vec<String>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let taken = Arc::new(AtomicUsize::new(0));
    let last = taken.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (nodes, last) = (nodes.clone(), last.clone());
            tokio::spawn(async move {
                for (number, node) in nodes.iter().enumerate() {
                    if let Ok(mut to) = TcpStream::connect(node).await {
                        last.store(number, Ordering::Relaxed);
                        let _ = copy_bidirectional(&mut stream, &mut to).await;
                        return;
                    }
                }
            });
        }
    });
    (address, taken)
}

#[tokio::test]
async fn a_real_pilot_outlives_the_node_that_it_talks_to() {
    if work_tree().is_none() {
        return;
    }
    let mut cluster = panda_cluster().await;
    let id = submit(&cluster, QUEUE, "sleep 40; echo done > out.txt", &[output("out.txt")]).await;
    let (address, taken) = balancer(cluster.nodes.panda_addrs()).await;
    let Some(pilot) = start(Told::of(&address, QUEUE), &cluster).await else { return };
    running(&cluster, id).await;
    assert_eq!(taken.load(Ordering::Relaxed), 0);
    cluster.nodes.kill(1).unwrap();
    let said = pilot.end().await;
    let job = cluster.job(id).await;
    ended(&job, "finished", &said);
    assert_eq!((job.attempt, taken.load(Ordering::Relaxed)), (1, 1));
    println!("node killed meanwhile: ok");
}
