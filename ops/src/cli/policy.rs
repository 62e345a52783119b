//! `moso share`, `moso user`, `moso timeouts`: who gets how much, and for how long.

use super::output::{Output, Table};
use super::{fields, input, object, text};
use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use moso_client::Client;
use moso_proto::JobState;
use moso_proto::object::{self as types, TimeoutAction, TimeoutSince, kind};
use serde_json::json;

#[derive(Debug, Subcommand)]
pub enum Share {
    /// Set a share's target, relative to those of the others.
    Set { name: String, target: f64 },
    /// List shares.
    List,
    /// Remove a share; its jobs count as those of an unknown share.
    Remove { name: String },
}

impl Share {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        match self {
            Share::Set { name, target } => {
                let share = types::Share { target };
                client.put_object(kind::SHARE, &name, &share, None).await?;
            }
            Share::Remove { name } => {
                client.delete_object(kind::SHARE, &name, None).await?;
            }
            Share::List => {}
        }
        let shares = object::list::<types::Share>(client, kind::SHARE).await?;
        let sum: f64 = shares.iter().map(|(_, share)| share.target).sum();
        let part = |share: &types::Share| {
            if sum > 0.0 { share.target / sum * 100.0 } else { 0.0 }
        };
        let rows: Vec<_> = shares
            .iter()
            .map(|(name, share)| json!({ "name": name, "target": share.target, "percent": part(share) }))
            .collect();
        out.show(&rows, |_| {
            let mut table = Table::new(["SHARE", "TARGET", "PERCENT"]);
            for (name, share) in &shares {
                let percent = format!("{:.1}", part(share));
                table.row([name.clone(), share.target.to_string(), percent]);
            }
            table.render()
        })
    }
}

#[derive(Debug, Subcommand)]
pub enum User {
    /// Change a user's fields: max_running (jobs; 0: no bound), banned (may not submit; true or false), locked (may do
    /// nothing), tokens_from_s (Unix s: tokens made before are revoked), calls_per_s and jobs_per_s (at each node; 0: no
    /// bound), max_live (jobs that have not ended; 0: no bound). The user `*` is the default.
    Set {
        name: String,
        #[arg(required = true, value_parser = input::assignment, value_name = "KEY=VALUE")]
        fields: Vec<(String, String)>,
    },
    /// List users that have limits.
    List,
}

impl User {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        if let User::Set { name, fields } = &self {
            object::change(client, kind::USER, name, true, |user: &mut types::User| {
                let unused = [
                    ("locked", json!(false)),
                    ("tokens_from_s", json!(0)),
                    ("calls_per_s", json!(0)),
                    ("jobs_per_s", json!(0)),
                    ("max_live", json!(0)),
                ];
                *user = fields::assign_also(user, &unused, fields)?;
                Ok(())
            })
            .await?;
        }
        let users = object::list::<types::User>(client, kind::USER).await?;
        let rows: Vec<_> = users
            .iter()
            .map(|(name, user)| {
                let mut row = serde_json::to_value(user).unwrap_or_default();
                row["name"] = json!(name);
                row
            })
            .collect();
        out.show(&rows, |_| {
            let mut table = Table::new(["USER", "MAX RUNNING", "MAX LIVE", "CALLS/S", "JOBS/S", "BANNED"]);
            for (name, user) in &users {
                let banned = match (user.locked, user.banned) {
                    (true, _) => "locked",
                    (false, true) => "yes",
                    (false, false) => "",
                };
                let rates = [user.calls_per_s, user.jobs_per_s].map(|rate| text::some(u64::from(rate)));
                let [calls, jobs] = rates;
                table.row([
                    name.clone(),
                    text::some(user.max_running),
                    text::some(user.max_live),
                    calls,
                    jobs,
                    banned.into(),
                ]);
            }
            table.render()
        })
    }
}

/// Since when the time is counted.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Since {
    Change,
    Creation,
}

/// What happens then.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Action {
    Close,
    Fail,
}

#[derive(Debug, Subcommand)]
pub enum Timeouts {
    /// Show the table; the first row that matches holds.
    Show,
    /// Change the row of a state, label and queue, or add one above the others.
    Set {
        /// Job state, as `activated`.
        state: JobState,
        /// Longest time, as 12h; 0s: none.
        #[arg(value_parser = input::duration)]
        limit: std::time::Duration,
        /// For jobs of this label only.
        #[arg(long, default_value = "")]
        label: String,
        /// For jobs of this queue only.
        #[arg(long, default_value = "")]
        queue: String,
        /// Counted from the last change of state, or from the submission.
        #[arg(long, value_enum, default_value_t = Since::Change)]
        since: Since,
        /// Close the job, or fail its attempt. Default: as before, or close.
        #[arg(long, value_enum)]
        action: Option<Action>,
        /// Code recorded with the job. Default: as before, or 2.
        #[arg(long)]
        code: Option<u32>,
    },
}

/// Name of the one object.
const TIMEOUTS: &str = "default";
/// PanDA's kill code for a time-out.
const CODE: u32 = 2;

impl Timeouts {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        let table = match self {
            Timeouts::Show => object::find(client, kind::TIMEOUTS, TIMEOUTS)
                .await?
                .map_or_else(types::Timeouts::default, |(table, _)| table),
            set => {
                object::change(client, kind::TIMEOUTS, TIMEOUTS, true, |table| {
                    set.apply(table);
                    Ok(())
                })
                .await?
            }
        };
        out.show(&table, render)
    }

    /// Changes the row it names, or puts a new one on top.
    fn apply(&self, table: &mut types::Timeouts) {
        let Timeouts::Set { state, limit, label, queue, since, action, code } = self else {
            return;
        };
        let since = match since {
            Since::Change => TimeoutSince::Change,
            Since::Creation => TimeoutSince::Creation,
        };
        let is_same = |row: &&mut types::Timeout| {
            row.state == *state && row.label == *label && row.queue == *queue && row.since == since
        };
        let row = match table.rows.iter_mut().find(is_same) {
            Some(row) => row,
            None => {
                let row = types::Timeout {
                    state: *state,
                    label: label.clone(),
                    queue: queue.clone(),
                    limit_s: 0,
                    since,
                    action: TimeoutAction::Close,
                    code: CODE,
                };
                table.rows.insert(0, row);
                &mut table.rows[0]
            }
        };
        row.limit_s = limit.as_secs();
        match action {
            Some(Action::Close) => row.action = TimeoutAction::Close,
            Some(Action::Fail) => row.action = TimeoutAction::Fail,
            None => {}
        }
        row.code = code.unwrap_or(row.code);
    }
}

fn render(timeouts: &types::Timeouts) -> String {
    let mut table = Table::new(["STATE", "LABEL", "QUEUE", "LIMIT", "SINCE", "ACTION", "CODE"]);
    for row in &timeouts.rows {
        let limit = match row.limit_s {
            0 => "none".to_owned(),
            seconds => text::span_ms(seconds * 1_000),
        };
        table.row([
            row.state.to_string(),
            row.label.clone(),
            row.queue.clone(),
            limit,
            format!("{:?}", row.since).to_lowercase(),
            format!("{:?}", row.action).to_lowercase(),
            row.code.to_string(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn set(label: &str, hours: u64) -> Timeouts {
        Timeouts::Set {
            state: JobState::Activated,
            limit: Duration::from_secs(hours * 3600),
            label: label.into(),
            queue: String::new(),
            since: Since::Change,
            action: None,
            code: None,
        }
    }

    #[test]
    fn a_known_row_changes_and_a_new_one_comes_first() {
        let mut table = types::Timeouts::default();
        let rows = table.rows.len();
        set("user", 1).apply(&mut table);
        assert_eq!(table.rows.len(), rows);
        let row = table.rows.iter().find(|row| row.state == JobState::Activated && row.label == "user").unwrap();
        assert_eq!((row.limit_s, row.code), (3600, 51));
        set("test", 2).apply(&mut table);
        assert_eq!(table.rows.len(), rows + 1);
        assert_eq!((table.rows[0].label.as_str(), table.rows[0].limit_s), ("test", 7200));
        assert!(render(&table).contains("2h"));
    }
}
