//! One node process.

use super::LocalError;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Bytes of a log shown when its node fails: what fits a screen.
const TAIL_BYTES: u64 = 4 * 1024;
/// How often a process that was asked to end is looked at.
const POLL: Duration = Duration::from_millis(10);

/// A node process, killed and reaped when dropped.
pub(super) struct Process {
    pub node: u32,
    pub log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts the node with its output appended to `log`. It has a process group of its own, so that Ctrl-C reaches it
    /// through us alone.
    pub fn spawn(
        binary: &Path,
        node: u32,
        config: &Path,
        log: PathBuf,
        env: &[(String, String)],
    ) -> Result<Self, LocalError> {
        let open = || File::options().create(true).append(true).open(&log);
        let out = open().map_err(LocalError::io(log.display().to_string()))?;
        let err = open().map_err(LocalError::io(log.display().to_string()))?;
        let child = Command::new(binary)
            .arg("--config")
            .arg(config)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(LocalError::io(format!("cannot start {}", binary.display())))?;
        Ok(Process { node, log, child })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Result<Option<ExitStatus>, LocalError> {
        self.child.try_wait().map_err(LocalError::io(format!("node {}", self.node)))
    }

    /// Fails if it has ended.
    pub fn check(&mut self) -> Result<(), LocalError> {
        match self.status()? {
            None => Ok(()),
            Some(status) => Err(LocalError::Died { node: self.node, status, log: self.log.clone(), tail: self.tail() }),
        }
    }

    /// Sends a signal. Not sent once the process was reaped, so never to another one.
    pub fn signal(&mut self, signal: Signal) -> Result<(), LocalError> {
        if self.status()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_raw(self.child.id() as i32);
        kill(pid, signal)
            .map_err(|errno| LocalError::io(format!("cannot send {signal} to node {}", self.node))(errno.into()))
    }

    /// SIGKILL, and waits for the end: the kernel's business alone, so it takes no time.
    pub fn kill(&mut self) -> Result<(), LocalError> {
        let io = |error| LocalError::io(format!("cannot kill node {}", self.node))(error);
        self.child.kill().map_err(io)?;
        self.child.wait().map_err(io).map(drop)
    }

    /// SIGTERM, then waits for the end for at most `grace`, then SIGKILL. Gives whether it ended by itself and well.
    pub async fn stop(&mut self, grace: Duration) -> Result<bool, LocalError> {
        self.signal(Signal::SIGTERM)?;
        // A paused process takes the signal when it goes on.
        self.signal(Signal::SIGCONT)?;
        let ended = async {
            loop {
                if let Some(status) = self.status()? {
                    return Ok(status.success());
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(grace, ended).await {
            Ok(result) => result,
            Err(_) => self.kill().map(|()| false),
        }
    }

    /// The last lines of the log.
    pub fn tail(&self) -> String {
        tail(&self.log)
    }
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(unreadable: {error})"))
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended and reaped already: both calls return at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
