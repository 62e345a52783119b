//! Real processes.

use super::*;
use std::future::pending;
use std::path::Path;

fn shell(script: &str) -> Command {
    Command::new(["sh", "-c", script])
}

async fn run_shell(script: &str) -> Ended {
    run(&shell(script), &[], None, pending()).await.unwrap()
}

/// Ends a test that hangs.
async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("the test hangs")
}

/// Waits until the file is there.
async fn appears(file: &Path) {
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn text(ended: &Ended) -> &str {
    std::str::from_utf8(&ended.output).unwrap()
}

/// Waits until no process has the number that the job printed. One that is killed still needs a moment to go, and may
/// then wait for its parent, init, to take notice.
async fn gone(ended: &Ended) {
    let pid: u32 = text(ended).lines().next().unwrap().trim().parse().unwrap();
    let runs = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    within(async {
        while runs() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn exit_code_and_both_outputs_are_kept() {
    let ended = within(run_shell("echo out; echo err >&2; exit 3")).await;
    assert_eq!((ended.cause, ended.exit_code), (Cause::Exited, 3));
    assert_eq!(text(&ended), "out\nerr\n");
    assert_eq!(within(run_shell("exit 0")).await.exit_code, 0);
}

#[tokio::test]
async fn the_end_of_a_long_output_is_kept() {
    let ended = within(run_shell("seq 1 50000; echo last")).await;
    assert_eq!(ended.output.len(), OUTPUT_BYTES_MAX);
    assert!(text(&ended).ends_with("49999\n50000\nlast\n"));
}

#[tokio::test]
async fn variables_and_folder_are_set() {
    let mut command = shell("echo $A $MOSO_JOB_ID; pwd");
    command.env.insert("A".into(), "a".into());
    command.cwd = Some("/".into());
    let env = [("MOSO_JOB_ID", "17".to_owned())];
    let ended = within(run(&command, &env, None, pending())).await.unwrap();
    assert_eq!(text(&ended), "a 17\n/\n");
}

#[tokio::test]
async fn the_wall_time_ends_the_whole_group() {
    // The first process waits for a child that would outlive it.
    let command = shell("sleep 600 & echo $!; wait");
    let limit = Some(Duration::from_millis(300));
    let ended = within(run(&command, &[], limit, pending())).await.unwrap();
    assert_eq!(ended.cause, Cause::WallTime);
    assert_eq!(ended.signal, Some(Signal::SIGTERM));
    assert_eq!(ended.exit_code, 128 + 15);
    gone(&ended).await;
}

#[tokio::test]
async fn a_job_that_ignores_sigterm_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let command = shell(&format!("trap '' TERM; echo $$; touch {}; while :; do sleep 0.05; done", ready.display()));
    let stop = async {
        appears(&ready).await;
        Stop::Fenced
    };
    let ended = within(run(&command, &[], None, stop)).await.unwrap();
    assert_eq!(ended.cause, Cause::Stopped(Stop::Fenced));
    assert_eq!(ended.signal, Some(Signal::SIGKILL));
    gone(&ended).await;
}

#[tokio::test]
async fn a_kill_lets_the_job_end_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let command =
        shell(&format!("trap 'echo saved; exit 0' TERM; touch {}; while :; do sleep 0.01; done", ready.display()));
    let stop = async {
        appears(&ready).await;
        Stop::Killed
    };
    let ended = within(run(&command, &[], None, stop)).await.unwrap();
    assert_eq!(ended.cause, Cause::Stopped(Stop::Killed));
    assert_eq!(ended.exit_code, 0);
    // The shell may also say that its sleep was ended.
    assert!(text(&ended).ends_with("saved\n"));
}

#[tokio::test]
async fn what_a_job_leaves_in_its_group_is_ended() {
    let ended = within(run_shell("sleep 600 & echo $!")).await;
    assert_eq!((ended.cause, ended.exit_code), (Cause::Exited, 0));
    gone(&ended).await;
}

#[tokio::test]
async fn cpu_and_memory_are_measured() {
    let script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 0.2";
    let ended = within(run_shell(script)).await;
    assert!(ended.cpu > Duration::ZERO);
    assert!(ended.memory_peak_kib > 100, "{}", ended.memory_peak_kib);
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_an_error() {
    let command = Command::new(["/nowhere/program"]);
    let error = within(run(&command, &[], None, pending())).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(!Path::new("/nowhere").exists());
}

#[tokio::test]
async fn dropping_the_future_kills_the_group() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let command = shell(&format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600", file.display()));
    tokio::select! {
        _ = run(&command, &[], None, pending()) => panic!("it ended"),
        () = within(appears(&file)) => {}
    }
    let pid = std::fs::read_to_string(&file).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}
