//! What this machine has to make faults with.

use super::kind::FaultKind;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names the library that fakes the clock.
const FAKETIME_ENV: &str = "MOSO_FAKETIME";
/// Folders in which distributions keep it; `*` stands for one folder.
const FAKETIME_FOLDERS: [&str; 4] =
    ["/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime"];
/// For programs with threads.
const FAKETIME_LIBRARY: &str = "libfaketimeMT.so.1";
const PTRACE_SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// What there is, or why not.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    /// strace can attach to a node.
    pub strace: Result<(), String>,
    /// The library that fakes the clock.
    pub faketime: Result<PathBuf, String>,
    /// A tmpfs can be mounted.
    pub mount: Result<(), String>,
    /// Nodes of the cluster.
    pub nodes: u32,
}

/// A kind that is left out, and why.
pub(super) type Skipped = (FaultKind, String);

impl Tools {
    /// Looks for them. `scratch`: a folder in which a mount may be tried.
    pub fn find(scratch: &Path, nodes: u32) -> Tools {
        Tools { strace: strace(), faketime: faketime(), mount: mount(scratch), nodes }
    }

    /// Why this kind of fault cannot be made here.
    pub fn lacks(&self, kind: FaultKind) -> Option<String> {
        match kind {
            FaultKind::SlowSync | FaultKind::SyncError => self.strace.clone().err(),
            FaultKind::ClockJump => self.faketime.as_ref().err().cloned(),
            FaultKind::DiskFull => self.mount.clone().err(),
            FaultKind::Partition
            | FaultKind::PartitionOneWay
            | FaultKind::PartitionLink
            | FaultKind::SlowLink
            | FaultKind::ResetLinks => (self.nodes < 2).then(|| "one node has no lines to others".to_owned()),
            FaultKind::KillOne
            | FaultKind::KillLeader
            | FaultKind::KillMajority
            | FaultKind::KillAll
            | FaultKind::RollingRestart
            | FaultKind::ReplaceReplica
            | FaultKind::Drain
            | FaultKind::Stop => None,
        }
    }

    /// The kinds to use, and those left out with the reason.
    ///
    /// # Errors
    /// When a kind that was named cannot be made here.
    pub fn choose(&self, named: &[FaultKind]) -> Result<(Vec<FaultKind>, Vec<Skipped>)> {
        let asked = if named.is_empty() { FaultKind::all() } else { named };
        let (mut kinds, mut skipped) = (Vec::new(), Vec::new());
        for &kind in asked {
            match self.lacks(kind) {
                None if !kinds.contains(&kind) => kinds.push(kind),
                None => {}
                Some(reason) if named.is_empty() => skipped.push((kind, reason)),
                Some(reason) => bail!("--kinds names {kind}, which cannot be made here: {reason}"),
            }
        }
        Ok((kinds, skipped))
    }
}

fn strace() -> Result<(), String> {
    let tried = quiet(Command::new("strace").args(["-qq", "-o", "/dev/null", "-e", "trace=none", "true"]));
    tried.map_err(|why| format!("strace is needed (package strace): {why}"))?;
    // Only ancestors may attach; strace is no ancestor of a node. Root may always.
    let scope = std::fs::read_to_string(PTRACE_SCOPE).ok().and_then(|text| text.trim().parse::<u32>().ok());
    match scope.unwrap_or(0) {
        0 => Ok(()),
        1 if may_trace() => Ok(()),
        scope => Err(format!("strace may not attach: {PTRACE_SCOPE} is {scope}; set it to 0, or run as root")),
    }
}

/// Whether this process has CAP_SYS_PTRACE (bit 19), by its effective capabilities.
fn may_trace() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|bits| bits & (1 << 19) != 0)
}

pub(crate) fn faketime() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(FAKETIME_ENV).map(PathBuf::from) {
        let missing = || format!("{FAKETIME_ENV} names {}, which is no file", named.display());
        return if named.is_file() { Ok(named) } else { Err(missing()) };
    }
    let found = FAKETIME_FOLDERS.iter().flat_map(|folder| expand(folder)).map(|folder| folder.join(FAKETIME_LIBRARY));
    found.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        format!("{FAKETIME_LIBRARY} is needed (package libfaketime); {FAKETIME_ENV} names it if it is elsewhere")
    })
}

/// Folders of this name, of which one part may be `*`.
fn expand(folder: &str) -> Vec<PathBuf> {
    let Some((before, after)) = folder.split_once("/*/") else { return vec![folder.into()] };
    let entries = std::fs::read_dir(before).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().join(after)).collect()
}

fn mount(scratch: &Path) -> Result<(), String> {
    let folder = scratch.join("mount");
    let tried = || -> Result<(), String> {
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        super::disk::mount(&folder, 1)?;
        super::disk::unmount(&folder)
    };
    let result = tried();
    let _ = std::fs::remove_dir(&folder);
    result.map_err(|why| format!("a tmpfs must be mounted, which takes root: {why}"))
}

/// Runs a program without output; why it failed.
pub(super) fn quiet(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{name} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name} failed ({}): {}", output.status, said.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Tools {
        let none = || "it is not here".to_owned();
        Tools { strace: Err(none()), faketime: Err(none()), mount: Ok(()), nodes: 3 }
    }

    #[test]
    fn kinds_without_their_tool_are_left_out() {
        let (kinds, skipped) = tools().choose(&[]).unwrap();
        let names: Vec<_> = skipped.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(names, [FaultKind::SlowSync, FaultKind::SyncError, FaultKind::ClockJump]);
        assert_eq!(kinds.len() + skipped.len(), FaultKind::all().len());
        assert!(skipped.iter().all(|(_, reason)| reason == "it is not here"));
    }

    #[test]
    fn a_kind_that_was_named_is_an_error_without_its_tool() {
        let error = tools().choose(&[FaultKind::Stop, FaultKind::ClockJump]).unwrap_err().to_string();
        assert!(error.contains("clock-jump") && error.contains("it is not here"), "{error}");
        let (kinds, skipped) = tools().choose(&[FaultKind::Stop, FaultKind::DiskFull, FaultKind::Stop]).unwrap();
        assert_eq!((kinds, skipped.len()), (vec![FaultKind::Stop, FaultKind::DiskFull], 0));
        let alone = Tools { nodes: 1, ..tools() };
        assert!(alone.choose(&[FaultKind::Partition]).is_err());
    }
}
