//! The unmodified panda-client 2.2.0 in an environment that the test makes.

use super::{QUEUE, panda_cluster};
use crate::common::{Cluster, Program, Run, counts};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command;

/// The package.
const PACKAGE: &str = "panda-client==2.2.0";
/// Longest run of one program.
const RUN: Duration = Duration::from_secs(240);

/// A Python environment with the client.
pub struct Venv {
    folder: TempDir,
    packages: PathBuf,
}

impl Venv {
    /// Makes it; `None`, and the reason printed, if there is no Python or no package index.
    pub async fn make() -> Option<Venv> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("venv");
        let made = Command::new("python3").args(["-m", "venv"]).arg(&path).stdin(Stdio::null()).output().await;
        if !made.as_ref().is_ok_and(|made| made.status.success()) {
            println!("skipped: no Python environment can be made: {made:?}");
            return None;
        }
        let mut pip = Command::new(path.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]).stdin(Stdio::null());
        let installed = tokio::time::timeout(RUN, pip.kill_on_drop(true).output()).await;
        if !matches!(&installed, Ok(Ok(output)) if output.status.success()) {
            println!("skipped: {PACKAGE} cannot be installed: is a package index reached?");
            return None;
        }
        let mut libraries = std::fs::read_dir(path.join("lib")).unwrap();
        let packages = libraries.next().unwrap().unwrap().path().join("site-packages");
        for name in ["home", "work", "conf"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Some(Venv { folder, packages })
    }

    /// The folder in which the client runs.
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// A program of the client, told where the server is and who asks.
    fn command(&self, address: &str, program: &str) -> Command {
        let venv = self.folder.path().join("venv");
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({"sub": "mock", "name": "Mock Me", "preferred_username": "mock", "exp": 4_102_444_800_u64});
        let token = format!("{}.{}.x", part(json!({"alg": "none"})), part(claims));
        let url = format!("http://{address}/server/panda");
        let mut command = Command::new(venv.join("bin").join(program));
        command.env_clear().current_dir(self.work());
        let path = format!("{}:{}", venv.join("bin").display(), std::env::var("PATH").unwrap_or_default());
        command.env("PATH", path).env("HOME", self.folder.path().join("home"));
        for name in ["PANDA_URL", "PANDA_URL_SSL", "PANDACACHE_URL"] {
            command.env(name, &url);
        }
        command.env("PANDA_BEHIND_REAL_LB", "1").env("PANDA_SYS", &venv).env("COLUMNS", "200");
        command.env("PANDA_CONFIG_ROOT", self.folder.path().join("conf")).env("PANDA_PYTHONPATH", &self.packages);
        command.env("PANDA_PYTHON_EXEC", venv.join("bin/python3")).env("PANDA_AUTH", "oidc");
        command.env("PANDA_AUTH_ID_TOKEN", token).env("PANDA_AUTH_VO", "mock.production");
        command
    }

    /// Runs a program of the client to its end.
    pub async fn run(&self, address: &str, program: &str, args: &[&str]) -> Run {
        let mut command = self.command(address, program);
        command.args(args);
        Program::start(&mut command).end_within(RUN).await
    }

    /// Runs `prun` with these arguments; the number of the task.
    pub async fn prun(&self, address: &str, args: &[&str]) -> u64 {
        let run = self.run(address, "prun", args).await;
        let said = format!("{}{}", run.stdout, run.stderr);
        let id = said.split("new jediTaskID=").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        id.unwrap_or_else(|| panic!("prun: {said}"))
    }

    /// What a piece of Python makes of the client's library: it sets `out`.
    async fn python(&self, address: &str, code: &str) -> Value {
        let code = format!(
            "import json, sys\nfrom pandaclient import Client, panda_api\n{code}\n\
             open('out.json', 'w').write(json.dumps(out, default=str))\n"
        );
        let mut command = self.command(address, "python");
        command.args(["-c", &code]);
        let run = Program::start(&mut command).end_within(RUN).await;
        assert_eq!(run.code, Some(0), "{code}\n{}{}", run.stdout, run.stderr);
        serde_json::from_str(&std::fs::read_to_string(self.work().join("out.json")).unwrap()).unwrap()
    }
}

/// Makes the sandbox of a task.
pub fn script(work: &Path) {
    std::fs::write(work.join("myscript.sh"), "echo in the script\n").unwrap();
}

#[tokio::test]
async fn prun_submits_and_pbook_shows_kills_and_retries() {
    let Some(venv) = Venv::make().await else { return };
    let cluster = panda_cluster().await;
    script(&venv.work());
    let addresses = cluster.nodes.panda_addrs();
    let args = [
        "--exec",
        "echo hello; bash myscript.sh > out.txt",
        "--outDS",
        "user.mock.one",
        "--outputs",
        "out.txt",
        "--noBuild",
        "--site",
        QUEUE,
        "--nJobs",
        "3",
        "--noEmail",
    ];
    let task = venv.prun(&addresses[0], &args).await;
    let view = cluster.task(task).await;
    assert_eq!((view.jobs, view.name.as_str(), view.owner.as_str()), (3, "user.mock.one/", "Mock Me"));
    assert_eq!((view.queue.as_str(), view.label.as_str(), view.body_type.as_str()), (QUEUE, "user", "panda"));
    let id = task.to_string();
    let shown = venv.run(&addresses[1], "pbook", &["show", &id]).await;
    assert!(shown.stdout.contains(&id) && shown.stdout.contains("ready"), "{shown:?}");
    let status = format!("out = Client.getTaskStatus({id})");
    for (command, words, after) in [
        ("kill", "will be killed", "aborted"),
        ("retry", "3 job(s) will be retried", "ready"),
        ("finish", "Done", "aborted"),
    ] {
        let run = venv.run(&addresses[2], "pbook", &[command, &id]).await;
        let said = format!("{}{}", run.stdout, run.stderr);
        assert!(run.code == Some(0) && said.contains(words), "{command}: {said}");
        assert_eq!(venv.python(&addresses[0], &status).await, json!([0, after]), "after {command}");
    }
    assert_eq!(counts(&cluster.task(task).await), [("cancelled", 3)].into());
    // The sandbox is served by every node, also by one that did not take it.
    sandboxes(&venv, &cluster).await;
}

async fn sandboxes(venv: &Venv, cluster: &Cluster) {
    let addresses = cluster.nodes.panda_addrs();
    let code = "open('sources.x.tar.gz', 'wb').write(bytes(range(256)) * 9000)\n\
                import urllib.request\n\
                first = Client.putFile('sources.x.tar.gz')\n\
                again = Client.putFile('sources.x.tar.gz', reuseSandbox=True)\n\
                same = lambda a: urllib.request.urlopen('http://' + a + '/cache/sources.x.tar.gz').read() \
                == bytes(range(256)) * 9000\n";
    let list: Vec<String> = addresses.iter().map(|address| format!("{address:?}")).collect();
    let code = format!("{code}out = [first, again, [same(a) for a in [{}]]]", list.join(", "));
    let out = venv.python(&addresses[0], &code).await;
    assert_eq!(out, json!([[0, "True"], [0, "NewFileName:sources.x.tar.gz"], [true, true, true]]));
}

#[tokio::test]
async fn the_calls_of_the_library_answer_as_pandas_do() {
    let Some(venv) = Venv::make().await else { return };
    let cluster = panda_cluster().await;
    script(&venv.work());
    let addresses = cluster.nodes.panda_addrs();
    let args =
        ["--exec", "true", "--outDS", "user.mock.two", "--noBuild", "--site", QUEUE, "--nJobs", "2", "--noEmail"];
    let task = venv.prun(&addresses[0], &args).await;
    let ids = [task + 1, task + 2];
    let call = async |code: &str| {
        let code = code.replace("TASK", &task.to_string()).replace("JOB", &ids[0].to_string());
        venv.python(&addresses[1], &format!("out = {code}")).await
    };
    assert_eq!(call("Client.hello()").await, json!([0, ""]));
    assert_eq!(call("Client.getPandaIDsWithTaskID(TASK)").await, json!([0, ids]));
    assert_eq!(
        call("[j['jobStatus'] if isinstance(j, dict) else j.jobStatus for j in Client.getJobStatus([JOB])[1]]").await,
        json!(["activated"])
    );
    let info = call("Client.get_task_details_json(TASK)").await;
    assert_eq!((&info[1][1]["status"], &info[1][1]["nFiles"]), (&json!("ready"), &json!(2)), "{info}");
    assert_eq!(call("len(Client.get_job_descriptions(TASK)[1])").await, 2);
    assert_eq!(call("Client.getTaskParamsMap(TASK)[1]['taskName']").await, "user.mock.two/");
    let rows = call("Client.get_tasks_detailed_info_since(filters={'taskName': 'user.mock.two/'})").await;
    assert_eq!(rows[1][0]["jediTaskID"], task);
    assert_eq!(call("Client.pauseTask(TASK)").await, json!([0, [true, 0]]));
    assert_eq!(call("Client.getTaskStatus(TASK)").await, json!([0, "paused"]));
    assert_eq!(call("Client.resumeTask(TASK)").await, json!([0, [true, 0]]));
    assert_eq!(call("Client.getTaskStatus(TASK)").await, json!([0, "ready"]));
    assert_eq!(call("Client.reload_input(TASK)").await, json!([0, [true, 0]]));
    assert_eq!(call("Client.increase_attempt_nr(TASK)").await, json!([0, [true, 0]]));
    assert_eq!(call("Client.retryTask(TASK, newParams={'nFilesPerJob': 1})[1][0]").await, 3);
    assert_eq!(call("Client.set_user_secret('k1', 'v1')[0]").await, 0);
    assert_eq!(call("Client.get_user_secrets()").await, json!([0, [true, {"k1": "v1"}]]));
    assert_eq!(call("Client.setDebugMode(JOB, True, False)[0]").await, 0);
    assert_eq!(call("Client.killJobs([JOB])").await, json!([0, [true]]));
    assert_eq!(cluster.job(ids[0]).await.state, "cancelled");
    assert_eq!(call("Client.killTask(7)").await[1][0], false);
    assert_eq!(call("Client.getUserJobMetadata(TASK)").await, json!([0, []]));
}
