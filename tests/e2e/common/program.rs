//! The programs that users start.

use super::DEADLINE;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// A program of this build, beside the folder of the test programs.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test.ancestors().nth(2).expect("test programs are in target/release/deps");
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: build it with `cargo build --release --bins`", path.display());
    path
}

/// How a program ended.
#[derive(Debug)]
pub struct Run {
    /// Exit code; `None`: it was killed by a signal.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said besides.
    pub stderr: String,
}

impl Run {
    /// Its output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// A running program, killed when dropped.
pub struct Program(Child);

impl Program {
    /// Starts it. Variables of the caller's environment that moso reads are taken away.
    pub fn start(command: &mut Command) -> Program {
        let child = command
            .env_remove("MOSO_CONNECT")
            .env_remove("MOSO_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        Program(child.unwrap())
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.0.id().expect("it was not waited for") as i32
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for its end.
    pub async fn end(self) -> Run {
        self.end_within(DEADLINE).await
    }

    /// Waits for its end, at most so long.
    pub async fn end_within(self, deadline: std::time::Duration) -> Run {
        let output = tokio::time::timeout(deadline, self.0.wait_with_output()).await;
        let output = output.expect("the program ends in time").unwrap();
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text is printed"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a program to its end.
pub async fn run(command: &mut Command) -> Run {
    Program::start(command).end().await
}
