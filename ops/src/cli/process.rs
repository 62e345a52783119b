//! Runs a job's command as a process group: its output, its use of the machine, its end.

use bytes::Bytes;
use moso_client::limits::OUTPUT_BYTES_MAX;
use moso_client::{Command, Stop};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

/// Between SIGTERM and SIGKILL, for a job to write down what it has.
const GRACE: Duration = Duration::from_secs(10);
/// The same, when the job may already run elsewhere.
const GRACE_FENCED: Duration = Duration::from_secs(2);
/// How often the memory peak is read. The kernel keeps the peak itself; only the last moments of a job are missed.
const SAMPLE: Duration = Duration::from_millis(500);
/// Output that is still in the pipe after the end of the group is read for at most this long.
const DRAIN: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(86_400);

/// Why a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// By itself.
    Exited,
    /// It ran longer than it may.
    WallTime,
    /// It was told to.
    Stopped(Stop),
}

/// A process that has ended, and all of its group with it.
#[derive(Debug)]
pub struct Ended {
    pub cause: Cause,
    /// As a shell gives it: 128 and the signal for a process that was killed.
    pub exit_code: i32,
    /// The signal that killed it.
    pub signal: Option<Signal>,
    /// The end of what it printed to either output.
    pub output: Bytes,
    /// User and system time, with that of children it has waited for.
    pub cpu: Duration,
    /// Of the first process of the group.
    pub memory_peak_kib: u64,
}

/// A process group, killed and reaped when dropped.
struct Group {
    child: Child,
    pid: Pid,
}

impl Group {
    /// How the first process ended, if it has. It is not reaped, so its number is not used again.
    fn ended(&self) -> io::Result<Option<(i32, Option<Signal>)>> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.pid), flags)? {
            WaitStatus::Exited(_, code) => Ok(Some((code, None))),
            WaitStatus::Signaled(_, signal, _) => Ok(Some((128 + signal as i32, Some(signal)))),
            _ => Ok(None),
        }
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match killpg(self.pid, signal) {
            // Everything of it has ended.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Largest resident memory so far, in KiB; 0 once the process has ended.
    fn memory_peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// CPU time used, readable until the process is reaped.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The name in brackets may hold anything; the state follows it, the times are 11 to 14 fields further.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let times = fields.split_whitespace().skip(11).take(4);
        let ticks: u64 = times.filter_map(|time| time.parse::<u64>().ok()).sum();
        let per_second = match sysconf(SysconfVar::CLK_TCK) {
            Ok(Some(ticks)) if ticks > 0 => ticks as u64,
            _ => 100,
        };
        Duration::from_millis(ticks * 1_000 / per_second)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// The last bytes that were printed.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 4 * OUTPUT_BYTES_MAX {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let start = self.bytes.len().saturating_sub(OUTPUT_BYTES_MAX);
        self.bytes.drain(..start);
    }

    fn take(mut self) -> Bytes {
        self.cut();
        self.bytes.into()
    }
}

/// Runs the command with these variables until it ends, its wall time is over or `stop` says so; then SIGTERM, and
/// after a grace SIGKILL, go to the whole group. What is left of the group is killed when this returns or is
/// dropped.
///
/// # Errors
/// When the program cannot be started.
pub async fn run(
    command: &Command,
    env: &[(&str, String)],
    wall_time: Option<Duration>,
    stop: impl Future<Output = Stop>,
) -> io::Result<Ended> {
    // Before the start, so that no end is missed.
    let mut exits = signal(SignalKind::child())?;
    let (group, mut printed) = spawn(command, env)?;
    let started = Instant::now();
    let wall_time_at = wall_time.map_or(started + IDLE, |time| started + time);
    let mut cause = Cause::Exited;
    let mut kill_at = None;
    let mut tail = Tail::default();
    let mut is_open = true;
    let mut buffer = vec![0; 16 * 1024];
    let mut memory_peak_kib = group.memory_peak_kib();
    let mut sample = tokio::time::interval(SAMPLE);
    tokio::pin!(stop);
    let (exit_code, signal) = loop {
        if let Some(ended) = group.ended()? {
            break ended;
        }
        tokio::select! {
            _ = exits.recv() => {}
            _ = sample.tick() => memory_peak_kib = memory_peak_kib.max(group.memory_peak_kib()),
            read = printed.read(&mut buffer), if is_open => match read {
                Ok(0) | Err(_) => is_open = false,
                Ok(count) => tail.push(&buffer[..count]),
            },
            why = &mut stop, if kill_at.is_none() => {
                cause = Cause::Stopped(why);
                kill_at = Some(Instant::now() + grace(why));
                group.signal(Signal::SIGTERM)?;
            }
            () = sleep_until(wall_time_at), if wall_time.is_some() && kill_at.is_none() => {
                cause = Cause::WallTime;
                kill_at = Some(Instant::now() + GRACE);
                group.signal(Signal::SIGTERM)?;
            }
            () = sleep_until(kill_at.unwrap_or(started + IDLE)), if kill_at.is_some() => {
                kill_at = Some(Instant::now() + IDLE);
                group.signal(Signal::SIGKILL)?;
            }
        }
    };
    let cpu = group.cpu();
    // Ends what the first process has left in its group.
    drop(group);
    let rest = async {
        while let Ok(count @ 1..) = printed.read(&mut buffer).await {
            tail.push(&buffer[..count]);
        }
    };
    // A process that has left the group may keep the pipe open.
    let _ = tokio::time::timeout(DRAIN, rest).await;
    Ok(Ended { cause, exit_code, signal, output: tail.take(), cpu, memory_peak_kib })
}

fn grace(stop: Stop) -> Duration {
    match stop {
        Stop::Lost | Stop::Fenced => GRACE_FENCED,
        Stop::Killed | Stop::SoftKilled | Stop::Shutdown => GRACE,
    }
}

/// Starts the command with both outputs in one pipe.
fn spawn(command: &Command, env: &[(&str, String)]) -> io::Result<(Group, pipe::Receiver)> {
    let (printed, output) = io::pipe()?;
    let printed = pipe::Receiver::from_owned_fd(OwnedFd::from(printed))?;
    let (program, args) = command
        .argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the command names no program"))?;
    let mut process = std::process::Command::new(program);
    process
        .args(args)
        .envs(&command.env)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0);
    if let Some(folder) = &command.cwd {
        process.current_dir(folder);
    }
    let child = process.spawn()?;
    let pid = Pid::from_raw(child.id() as i32);
    Ok((Group { child, pid }, printed))
}

#[cfg(test)]
mod tests;
