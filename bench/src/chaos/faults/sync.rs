//! What a node's disk answers to a sync is changed by strace: late, or not at all.

use crate::chaos::kind::FaultKind;
use crate::chaos::site::Site;
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng;
use rand::rngs::StdRng;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// How long syncs are slow, s, and by how much, ms.
const SLOW_S: (f64, f64) = (2.0, 20.0);
const SLOW_MS: (f64, f64) = (50.0, 1_000.0);
/// A node with a failing disk must have ended after this, if it tried to sync.
const END_MAX: Duration = Duration::from_secs(20);
/// How long it stays down, s.
const DOWN_S: (f64, f64) = (0.1, 10.0);
const LOOK: Duration = Duration::from_millis(50);
/// strace has let go of all threads after this.
const LET_GO_MAX: Duration = Duration::from_secs(5);

pub(super) async fn slow(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let node = site.draw_node(rng);
    let delay_ms = (SLOW_MS.0 * (SLOW_MS.1 / SLOW_MS.0).powf(rng.random_range(0.0..=1.0))) as u64;
    let time = site.draw_hold(rng, SLOW_S.0, SLOW_S.1);
    let text = format!("node {node} by {delay_ms} ms for {:.1} s", time.as_secs_f64());
    site.begin(FaultKind::SlowSync, text);
    let tracer = Tracer::attach(site, node, &format!("delay_enter={}", delay_ms * 1_000))?;
    let passed = site.pass(time).await;
    tracer.let_go().await;
    passed
}

pub(super) async fn error(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let node = site.draw_node(rng);
    let down = site.draw_hold(rng, DOWN_S.0, DOWN_S.1);
    site.begin(FaultKind::SyncError, format!("node {node}, down for {:.1} s", down.as_secs_f64()));
    let tracer = Tracer::attach(site, node, "error=EIO")?;
    let started = Instant::now();
    let ended = loop {
        // Not by `pass`: it must end, so its end is no problem.
        if let Some(status) = site.cluster.take_ended(node)? {
            break Some(status);
        }
        if started.elapsed() > END_MAX {
            break None;
        }
        tokio::time::sleep(LOOK).await;
    };
    let failed = tracer.injected();
    tracer.let_go().await;
    match ended {
        Some(status) if status.success() => site.problem(format!("node {node} ended well although a sync failed")),
        Some(_) => {}
        None if failed == 0 => println!("           node {node} did not sync within {END_MAX:?}: nothing is shown"),
        None => site.problem(format!("node {node} still runs {END_MAX:?} after the first of {failed} failed syncs")),
    }
    site.pass(down).await
}

/// strace on a node; killed when dropped, which lets the node go on.
struct Tracer {
    child: Child,
    log: PathBuf,
}

impl Tracer {
    /// Changes each sync of the node from now on.
    fn attach(site: &Site, node: u32, change: &str) -> Result<Tracer> {
        let pid = site.cluster.pid(node).with_context(|| format!("node {node} does not run"))?;
        let log = site.cluster.folder().join(format!("strace-{node}.log"));
        let child = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", &format!("inject=fsync,fdatasync:{change}")])
            .args(["-p", &pid.to_string()])
            .arg("-o")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("strace cannot be started")?;
        Ok(Tracer { child, log })
    }

    /// Syncs that were changed.
    fn injected(&self) -> usize {
        std::fs::read_to_string(&self.log).map_or(0, |text| text.matches("(INJECTED)").count())
    }

    /// Ends strace, and waits until it has let go of the node.
    async fn let_go(mut self) {
        if let Some(pid) = self.child.id() {
            // It may have ended with the node.
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
        }
        if tokio::time::timeout(LET_GO_MAX, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
        let _ = std::fs::remove_file(&self.log);
    }
}
