//! The command line: each command once, JSON, exit codes, and what errors tell the user to do.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Cluster, Run, program, run};
use serde_json::Value;

/// Exit codes that scripts rely on.
const REFUSED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);
const UNREACHABLE: Option<i32> = Some(3);
const NOT_FOUND: Option<i32> = Some(4);

/// `moso` against one cluster.
struct Moso {
    connect: String,
}

impl Moso {
    async fn run(&self, line: &str) -> Run {
        let mut command = tokio::process::Command::new(program("moso"));
        run(command.args(["--connect", &self.connect]).args(line.split_whitespace()).env("USER", "ann")).await
    }

    /// Runs it for people and for programs, and gives the JSON.
    async fn both(&self, line: &str) -> Value {
        let text = self.run(line).await;
        assert!(text.code == Some(0) && !text.stdout.is_empty(), "moso {line}: {text:?}");
        self.json(line).await
    }

    async fn json(&self, line: &str) -> Value {
        self.run(&format!("--output json {line}")).await.json()
    }

    #[track_caller]
    fn fails(&self, line: &str, code: Option<i32>, says: &str) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        async move {
            let run = self.run(line).await;
            assert_eq!(run.code, code, "{at}: moso {line}: {run:?}");
            assert!(run.stderr.contains(says), "{at}: moso {line} says nothing of {says:?}: {run:?}");
            assert!(run.stdout.is_empty(), "{at}: errors go to stderr: {run:?}");
        }
    }
}

#[tokio::test]
async fn every_command_works_for_people_and_programs() {
    let cluster = Cluster::start().await;
    let moso = Moso { connect: cluster.nodes.addrs().join(",") };
    objects(&moso).await;
    let task = jobs(&moso).await;
    actions(&moso, task).await;
    for shell in ["bash", "zsh", "fish"] {
        let script = moso.run(&format!("completion {shell}")).await;
        assert!(script.code == Some(0) && script.stdout.contains("moso"), "{shell}");
    }
}

async fn objects(moso: &Moso) {
    assert_eq!(moso.json("queue create Q max_running=50 lease_ttl_ms=2m").await["lease_ttl_ms"], 120_000);
    assert_eq!(moso.both("queue show Q").await["max_running"], 50);
    assert_eq!(moso.both("queue set Q max_memory_mib=4000").await["max_memory_mib"], 4_000);
    assert_eq!(moso.both("queue pause Q --for 10m --reason power").await["state"], "paused");
    assert_eq!(moso.both("queue drain Q").await["state"], "brokeroff");
    assert_eq!(moso.both("queue resume Q").await["state"], "online");
    assert_eq!(moso.both("queue list").await[0]["name"], "Q");
    moso.both("share set atlas 3").await;
    moso.both("share set cms 1").await;
    let shares = moso.both("share list").await;
    let atlas = shares.as_array().unwrap().iter().find(|s| s["name"] == "atlas").unwrap();
    assert_eq!(atlas["target"], 3.0);
    moso.run("share remove cms").await.code.filter(|c| *c == 0).unwrap();
    moso.both("user set eve banned=true max_running=7").await;
    assert_eq!(moso.both("user list").await[0]["max_running"], 7);
    moso.both("timeouts show").await;
    let table = moso.both("timeouts set activated 5h --queue Q --action fail --code 7").await;
    assert_eq!((&table["rows"][0]["limit_s"], &table["rows"][0]["queue"]), (&18_000.into(), &"Q".into()));
    assert_eq!(moso.both("settings set archive_days 4").await["value"], 4);
    assert_eq!(moso.both("settings get archive_days").await["value"], 4);
    assert!(moso.both("settings list").await.as_array().unwrap().len() >= 6);
    assert_eq!(moso.both("settings history archive_days").await.as_array().unwrap().len(), 2);
    let view = moso.both("cluster").await;
    assert_eq!(view["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(view["shards"].as_array().unwrap().len(), 7, "six and the meta group");
}

/// Submits, and gives the task.
async fn jobs(moso: &Moso) -> u64 {
    let line = "submit --queue Q --array 20 --name mc --group atlas --share atlas --label user --cores 2 --memory 2G \
                --disk 5G --wall-time 2h --priority -5 --max-attempts 4 --retry-wait 1m --expires 7d --max-failed 3 \
                --env SEED=7 --cwd /tmp -- echo hello";
    let reply = moso.json(line).await;
    let task = reply["task_id"].as_u64().unwrap();
    let first = reply["first_job_id"].as_u64().unwrap();
    let view = moso.both(&format!("task {task}")).await;
    assert_eq!((&view["name"], &view["jobs"], &view["priority"]), (&"mc".into(), &20.into(), &(-5).into()));
    assert_eq!(moso.both("tasks --queue Q --state ready --owner ann").await[0]["task_id"], task);
    let job = moso.both(&format!("job {first} --body")).await;
    assert_eq!((&job["needs"]["memory_mib"], &job["max_attempts"]), (&2_048.into(), &4.into()));
    assert!(job.to_string().contains("SEED"), "{job}");
    let listed = moso.both(&format!("jobs --task {task} --limit 7")).await;
    assert_eq!(listed.as_array().unwrap().len(), 7);
    let counted = moso.both("jobs --queue Q --count").await;
    assert_eq!((&counted[0]["state"], &counted[0]["jobs"]), (&"activated".into(), &20.into()));
    let why = moso.both(&format!("explain {first}")).await;
    assert!(why["verdict"].as_str().unwrap().contains("workers"), "{why}");
    task
}

async fn actions(moso: &Moso, task: u64) {
    let changed = async |line: &str| {
        let reply = moso.json(line).await;
        (reply["matched"].as_u64().unwrap(), reply["changed"].as_u64().unwrap())
    };
    assert_eq!(changed(&format!("kill --task {task} --dry-run")).await, (20, 20));
    assert_eq!(changed(&format!("hold --task {task} --reason later")).await, (20, 20));
    assert_eq!(changed(&format!("release --task {task}")).await, (20, 20));
    assert_eq!(changed(&format!("priority 77 --task {task}")).await, (20, 20));
    assert_eq!(changed(&format!("retry --task {task} --attempts 2")).await, (20, 20));
    assert_eq!(changed("kill --owner ann --state activated").await, (20, 20));
    let again = moso.run(&format!("kill --task {task}")).await;
    assert_eq!(again.code, REFUSED, "nothing was changed: {again:?}");
    assert_eq!(moso.json(&format!("task {task}")).await["state"], "aborted");
}

#[tokio::test]
async fn waiting_for_a_task_tells_how_it_ended() {
    let cluster = Cluster::start().await;
    let moso = Moso { connect: cluster.nodes.addrs().join(",") };
    moso.json("queue create Q").await;
    let mut worker = tokio::process::Command::new(program("moso"));
    worker.args(["--connect", &moso.connect, "worker", "--queue", "Q", "--slots", "4"]);
    let worker = common::Program::start(&mut worker);
    let good = moso.run("submit --queue Q --array 3 --wait -- true").await;
    assert!(good.code == Some(0) && good.stdout.contains("3 finished"), "{good:?}");
    let bad = moso.run("submit --queue Q --max-attempts 1 --wait -- false").await;
    assert!(bad.code == REFUSED && bad.stdout.contains("1 failed"), "{bad:?}");
    worker.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(worker.end().await.code, Some(0));
}

#[tokio::test]
async fn errors_have_codes_and_say_what_to_do() {
    let cluster = Cluster::start().await;
    let moso = Moso { connect: cluster.nodes.addrs().join(",") };
    moso.json("queue create Q").await;

    moso.fails("submit --queue none -- true", NOT_FOUND, "moso queue").await;
    moso.fails("submit --queue Q", USAGE, "after --").await;
    moso.fails("submit --queue Q --priority 99999 -- true", USAGE, "10000").await;
    moso.fails("submit --queue Q --array 0 -- true", USAGE, "array").await;
    moso.fails("submit --queue Q --share none -- true", NOT_FOUND, "share").await;
    moso.fails("submit --queue Q --expires 2001-01-01T00:00:00Z -- true", REFUSED, "expires_at_ms").await;
    moso.fails("job 17", NOT_FOUND, "17").await;
    moso.fails("job 1099511628800", NOT_FOUND, "1099511628800").await;
    moso.fails("job x", USAGE, "invalid").await;
    moso.fails("task 1099511628800", NOT_FOUND, "1099511628800").await;
    moso.fails("explain 1099511628800", NOT_FOUND, "1099511628800").await;
    moso.fails("jobs --state ready", USAGE, "activated").await;
    moso.fails("kill", USAGE, "--task").await;
    moso.fails("queue show none", NOT_FOUND, "none").await;
    moso.fails("queue create Q", REFUSED, "Q").await;
    moso.fails("queue set Q lease_ttl_ms=1", REFUSED, "lease_ttl_ms").await;
    moso.fails("queue set Q no_such=1", USAGE, "no_such").await;
    moso.fails("settings set archive_days 99999", USAGE, "3650").await;
    moso.fails("settings get no_such", USAGE, "archive_days").await;
    moso.fails("worker --queue none", NOT_FOUND, "none").await;
    moso.fails("no-such-command", USAGE, "--help").await;

    moso.json("user set ann banned=true").await;
    common::eventually("the ban is known", async || {
        let run = moso.run("submit --queue Q -- true").await;
        (run.code == REFUSED && run.stderr.contains("may not submit")).then_some(())
    })
    .await;

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = Moso { connect: nobody.to_string() };
    away.fails("cluster", UNREACHABLE, "moso up").await;
    Moso { connect: "nonsense".into() }.fails("cluster", USAGE, "nonsense").await;
    for command in ["", "queue", "submit", "worker", "kill", "up", "timeouts"] {
        let help = moso.run(&format!("{command} --help")).await;
        assert!(help.code == Some(0) && help.stdout.contains("Usage"), "{command}: {help:?}");
    }
}
