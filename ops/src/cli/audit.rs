//! `moso audit`: who changed or tried what.

use super::output::{Output, Table};
use super::{input, text};
use anyhow::Result;
use clap::Args;
use moso_client::Client;
use moso_client::v1::{AuditEntry, AuditRequest};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Entries asked for at a time.
const PAGE: u32 = 1_000;

#[derive(Debug, Args)]
pub struct Audit {
    /// Only what happened within this time, as 2h.
    #[arg(long, value_parser = input::duration, value_name = "TIME")]
    since: Option<Duration>,
    /// Only what this user did or tried.
    #[arg(long, default_value = "")]
    user: String,
    /// Entries at most.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

impl Audit {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since_ms = self.since.map_or(0, |since| now.saturating_sub(since).as_millis() as u64);
        let mut entries: Vec<AuditEntry> = Vec::new();
        while entries.len() < self.limit {
            let limit = PAGE.min((self.limit - entries.len()) as u32);
            let before = entries.last().map_or(0, |entry| entry.seq);
            let page = client.audit(AuditRequest { since_ms, user: self.user.clone(), before, limit }).await?.entries;
            let last = page.len() < limit as usize;
            entries.extend(page);
            if last {
                break;
            }
        }
        out.show(&entries, |entries| show(entries))
    }
}

fn show(entries: &[AuditEntry]) -> String {
    let mut table = Table::new(["TIME", "WHO", "NODE", "WHAT", "ON", "OUTCOME"]);
    for entry in entries {
        table.row([
            text::time(entry.time_ms),
            entry.actor.clone(),
            entry.node.to_string(),
            entry.action.clone(),
            entry.target.clone(),
            entry.outcome.clone(),
        ]);
    }
    table.render()
}
