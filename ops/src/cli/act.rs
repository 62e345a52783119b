//! `moso kill`, `hold`, `release`, `retry`, `priority`: what may be done to jobs.

use super::exit::Usage;
use super::jobs::Filter;
use super::output::{Output, Table};
use anyhow::{Result, bail};
use clap::Args;
use moso_client::Client;
use moso_proto::v1::act_request::Action;
use moso_proto::v1::{self, ActReply, ActRequest, Selector};

/// Which jobs, and whether in earnest.
#[derive(Debug, Args)]
struct Target {
    #[command(flatten)]
    filter: Filter,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Kill {
    #[command(flatten)]
    target: Target,
    /// Kill code recorded with the jobs.
    #[arg(long, default_value_t = 9)]
    code: u32,
}

#[derive(Debug, Args)]
pub struct Hold {
    #[command(flatten)]
    target: Target,
    /// Why, for people.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Debug, Args)]
pub struct Release {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
pub struct Retry {
    #[command(flatten)]
    target: Target,
    /// Further attempts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,
}

#[derive(Debug, Args)]
pub struct Priority {
    /// -10000 to 10000; higher runs first.
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-10_000..=10_000))]
    priority: i32,
    #[command(flatten)]
    target: Target,
}

impl Kill {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        let kill = v1::Kill { code: self.code };
        self.target.act(Action::Kill(kill), client, out).await
    }
}

impl Hold {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        let hold = v1::Hold { reason: self.reason };
        self.target.act(Action::Hold(hold), client, out).await
    }
}

impl Release {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        let release = Action::Release(v1::Release {});
        self.target.act(release, client, out).await
    }
}

impl Retry {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        let retry = v1::Retry { attempts: self.attempts };
        self.target.act(Action::Retry(retry), client, out).await
    }
}

impl Priority {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        let priority = v1::SetPriority { priority: self.priority };
        self.target.act(Action::Priority(priority), client, out).await
    }
}

impl Target {
    async fn act(self, action: Action, client: &Client, out: &Output) -> Result<()> {
        let selector = self.filter.selector();
        if selector == Selector::default() {
            let help = "say which jobs: --job, --task, --queue, --state, --owner, --group, --share or --label";
            return Err(Usage(help.into()).into());
        }
        let reply = client
            .act(ActRequest {
                selector: Some(selector),
                action: Some(action),
                dry_run: self.dry_run,
                actor: String::new(),
            })
            .await?;
        out.show(&reply, |reply| show(reply, self.dry_run))?;
        if reply.changed == 0 && !reply.refused.is_empty() {
            bail!("no job was changed");
        }
        Ok(())
    }
}

fn show(reply: &ActReply, dry_run: bool) -> String {
    let changed = if dry_run { "would change" } else { "changed" };
    let mut text = format!("{} jobs match, {} {changed}\n", reply.matched, reply.changed);
    if !reply.refused.is_empty() {
        let mut table = Table::new(["JOBS", "EXAMPLE", "NOT CHANGED BECAUSE"]);
        for refusal in &reply.refused {
            table.row([refusal.jobs.to_string(), refusal.example.to_string(), refusal.reason.clone()]);
        }
        text += &table.render();
    }
    text
}
