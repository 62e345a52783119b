//! What a verification found: what is wrong, where, and what to do.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What to do about a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The log of all replicas, or the identity, is damaged.
    ReplaceNode,
    /// One replica's state is damaged.
    ReplaceReplica(u16),
    /// Replicas differ, and nobody can tell which is right.
    Compare(u16),
    /// Nothing is lost yet.
    CheckDisk,
    /// The folder cannot be looked at as it is.
    AsSaid,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remedy::ReplaceNode => {
                write!(f, "replace the node: keep this folder, start it with an empty one under a new number")
            }
            Remedy::ReplaceReplica(0) => {
                write!(f, "replace the node: each holds a replica of the meta group, and this one must not run again")
            }
            Remedy::ReplaceReplica(shard) => write!(
                f,
                "replace the replica of shard {shard}: started as it is, the node sets it aside and serves the others"
            ),
            Remedy::Compare(shard) => write!(
                f,
                "do not start these nodes: keep the folders, compare `moso-node dump --shard {shard} --state` of each, \
                 and replace the replica that differs from the others"
            ),
            Remedy::CheckDisk => write!(f, "nothing is lost; the disk or its memory is failing: check both"),
            Remedy::AsSaid => write!(f, "do as the text says, then verify again"),
        }
    }
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Folder, and file, shard or record in it.
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: Remedy,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DAMAGED {}: {}; {}", self.place, self.what, self.remedy)
    }
}

/// Findings, and lines about what is well, printed as they come.
pub struct Report<'a> {
    out: &'a mut dyn Write,
    folder: PathBuf,
    findings: Vec<Finding>,
    failed: io::Result<()>,
}

impl<'a> Report<'a> {
    /// A report that is printed to `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Report { out, folder: PathBuf::new(), findings: Vec::new(), failed: Ok(()) }
    }

    /// What follows is about this folder.
    pub fn about(&mut self, folder: &Path) {
        self.folder = folder.to_owned();
    }

    /// Something worth knowing.
    pub fn note(&mut self, text: impl fmt::Display) {
        let folder = self.folder.display().to_string();
        self.print(format_args!("{folder}: {text}"));
    }

    /// Something wrong at a place in the folder.
    pub fn finding(&mut self, place: impl fmt::Display, what: impl fmt::Display, remedy: Remedy) {
        let place = format!("{}: {place}", self.folder.display());
        let finding = Finding { place, what: what.to_string(), remedy };
        self.print(format_args!("{finding}"));
        self.findings.push(finding);
    }

    /// Prints a line.
    pub fn print(&mut self, line: fmt::Arguments<'_>) {
        if self.failed.is_ok() {
            self.failed = writeln!(self.out, "{line}");
        }
    }

    /// All findings; printing may have failed.
    ///
    /// # Errors
    /// Of printing.
    pub fn end(self) -> io::Result<Vec<Finding>> {
        self.failed.map(|()| self.findings)
    }
}
