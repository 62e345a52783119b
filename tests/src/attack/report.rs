//! What the attacks did and cost.

use super::bystander::Told;
use super::victim::Used;
use super::{Attack, Seen};
use serde::Serialize;

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Port and name.
    pub port: &'static str,
    /// Attack.
    pub name: &'static str,
    /// What must come of it, and came.
    pub must: &'static str,
    /// Connections made.
    pub connections: u64,
    /// Of these ended by the node.
    pub closed: u64,
    /// Connections on which the node said something.
    pub answered: u64,
    /// Connections that could not be made.
    pub unconnected: u64,
    /// KiB written, or calls.
    pub sent: u64,
    /// CPU time of the node, ms for each second of the attack.
    pub cpu_ms_per_s: u64,
    /// More memory after than before, KiB.
    pub grown_kib: i64,
    /// The slowest heartbeat of the bystander, ms.
    pub heartbeat_ms: u64,
    /// Leases that it lost.
    pub lost: u64,
    /// Times that its stream broke.
    pub broken: u64,
}

impl Row {
    /// Puts a row together.
    pub fn new(attack: &Attack, seen: Seen, used: (Used, Used), told: Told, seconds: f64) -> Row {
        let (before, after) = used;
        Row {
            port: attack.port,
            name: attack.name,
            must: attack.must,
            connections: seen.connections,
            closed: seen.closed,
            answered: seen.answered,
            unconnected: seen.unconnected,
            sent: seen.sent,
            cpu_ms_per_s: (after.cpu_ms.saturating_sub(before.cpu_ms) as f64 / seconds.max(0.001)) as u64,
            grown_kib: after.rss_kib as i64 - before.rss_kib as i64,
            heartbeat_ms: told.slowest.as_millis() as u64,
            lost: told.lost,
            broken: told.broken,
        }
    }

    /// The titles of the columns.
    pub fn titles() -> String {
        format!(
            "{:<6}{:<26}{:>9}{:>9}{:>9}{:>8}{:>13}{:>9}{:>10}{:>8}{:>6}{:>7}  {}",
            "port",
            "attack",
            "connected",
            "closed",
            "answered",
            "failed",
            "sent",
            "cpu ms/s",
            "grown KiB",
            "beat ms",
            "lost",
            "broken",
            "must be"
        )
    }

    /// Its line.
    pub fn line(&self) -> String {
        format!(
            "{:<6}{:<26}{:>9}{:>9}{:>9}{:>8}{:>13}{:>9}{:>10}{:>8}{:>6}{:>7}  {}",
            self.port,
            self.name,
            self.connections,
            self.closed,
            self.answered,
            self.unconnected,
            self.sent,
            self.cpu_ms_per_s,
            self.grown_kib,
            self.heartbeat_ms,
            self.lost,
            self.broken,
            self.must
        )
    }
}
