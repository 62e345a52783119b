//! What an upkeep took, as JSON and for people.

use super::traffic::Met;
use serde::Serialize;
use std::fmt::Write;

/// Times in s.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    /// Jobs that the cluster holds.
    pub jobs: u32,
    /// Bytes of each job's body.
    pub body_bytes: usize,
    /// Nodes and shards.
    pub nodes: u32,
    /// See `nodes`.
    pub shards: u16,
    /// To submit the jobs.
    pub fill_s: f64,
    /// To restart all nodes, one after the other.
    pub restart_s: f64,
    /// Until a node in the place of one that lost its disk had all its replicas.
    pub replace_s: f64,
    /// To back up.
    pub backup_s: f64,
    /// Bytes of the backup.
    pub backup_bytes: u64,
    /// To restore, by node.
    pub restore_s: Vec<f64>,
    /// From the restored nodes' start until all were ready.
    pub start_s: f64,
    /// Jobs that the restored cluster holds.
    pub restored_jobs: u64,
    /// What users met meanwhile.
    pub phases: Vec<Met>,
}

impl Report {
    /// No request failed, and the restored cluster holds every job.
    pub fn ok(&self) -> bool {
        self.restored_jobs == u64::from(self.jobs) && self.phases.iter().all(|phase| phase.failed == 0)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = format!(
            "restart of all nodes      {:.1} s\n\
             disk lost, node replaced  {:.1} s\n\
             backup                    {:.1} s, {} MiB\n\
             restore                   {} s a node, ready {:.1} s after the start, {} of {} jobs\n\n",
            self.restart_s,
            self.replace_s,
            self.backup_s,
            self.backup_bytes >> 20,
            self.restore_s.iter().map(|s| format!("{s:.1}")).collect::<Vec<_>>().join(" / "),
            self.start_s,
            self.restored_jobs,
            self.jobs
        );
        let head = ["phase", "s", "requests", "failed", "p50 ms", "p99 ms", "max ms"];
        let _ = writeln!(
            out,
            "{:<34}{:>8}{:>10}{:>8}{:>9}{:>9}{:>9}",
            head[0], head[1], head[2], head[3], head[4], head[5], head[6]
        );
        for met in &self.phases {
            let _ = writeln!(
                out,
                "{:<34}{:>8.1}{:>10}{:>8}{:>9.1}{:>9.1}{:>9.1}",
                met.phase, met.seconds, met.requests, met.failed, met.p50_ms, met.p99_ms, met.max_ms
            );
            for failure in &met.failures {
                let _ = writeln!(out, "    {failure}");
            }
        }
        out + if self.ok() { "\nok: no request failed, every job was restored\n" } else { "\nNOT OK\n" }
    }
}
