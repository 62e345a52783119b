//! `moso queue`.

use super::exit::Usage;
use super::output::{Output, Table, fields};
use super::{fields as object_fields, input, object, text};
use anyhow::Result;
use clap::Subcommand;
use moso_client::Client;
use moso_proto::object::{Queue as Object, QueueState, kind::QUEUE};
use serde::Serialize;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum Queue {
    /// Make a queue.
    Create {
        name: String,
        /// Fields, as for `set`.
        #[arg(value_parser = input::assignment, value_name = "KEY=VALUE")]
        fields: Vec<(String, String)>,
    },
    /// List queues with what is in them.
    List,
    /// Show a queue's fields.
    Show { name: String },
    /// Change fields: state, reason, until_ms, lease_ttl_ms, heartbeat_ms, max_running, max_memory_mib,
    /// max_wall_time_s, tags. Lengths of time may be written as 10m or 2h.
    Set {
        name: String,
        #[arg(required = true, value_parser = input::assignment, value_name = "KEY=VALUE")]
        fields: Vec<(String, String)>,
    },
    /// Give no more jobs to workers. Submissions are taken, running jobs go on.
    Pause {
        name: String,
        /// Resume by itself after this.
        #[arg(long = "for", value_parser = input::duration, value_name = "TIME")]
        time: Option<Duration>,
        /// Why, for people.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Take submissions and give jobs again.
    Resume { name: String },
    /// Take no more submissions; give what is there.
    Drain {
        name: String,
        /// Why, for people.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// A line of the list.
#[derive(Serialize)]
struct Row {
    name: String,
    #[serde(flatten)]
    queue: Object,
    ready: u64,
    leased: u64,
    waiting_workers: u64,
}

impl Queue {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        let (name, queue) = match self {
            Queue::List => return list(client, out).await,
            Queue::Show { name } => {
                let found = object::find(client, QUEUE, &name).await?;
                let (queue, _) = found.ok_or_else(|| object::missing(QUEUE, &name))?;
                (name, queue)
            }
            Queue::Create { name, fields } => {
                if name.is_empty() {
                    return Err(Usage("a queue needs a name".into()).into());
                }
                let queue = object_fields::assign(&Object::default(), &fields)?;
                client.put_object(QUEUE, &name, &queue, Some(0)).await?;
                (name, queue)
            }
            Queue::Set { name, fields } => {
                let queue = object::change(client, QUEUE, &name, false, |queue: &mut Object| {
                    *queue = object_fields::assign(queue, &fields)?;
                    Ok(())
                })
                .await?;
                (name, queue)
            }
            Queue::Pause { name, time, reason } => {
                let until = time.map_or(0, |t| text::now_ms().saturating_add(t.as_millis() as u64));
                let queue = set_state(client, &name, QueueState::Paused, until, &reason).await?;
                (name, queue)
            }
            Queue::Resume { name } => {
                let queue = set_state(client, &name, QueueState::Online, 0, "").await?;
                (name, queue)
            }
            Queue::Drain { name, reason } => {
                let queue = set_state(client, &name, QueueState::Brokeroff, 0, &reason).await?;
                (name, queue)
            }
        };
        out.show(&queue, |queue| show(&name, queue))
    }
}

async fn set_state(client: &Client, name: &str, state: QueueState, until_ms: u64, reason: &str) -> Result<Object> {
    object::change(client, QUEUE, name, false, |queue: &mut Object| {
        queue.state = state;
        queue.until_ms = until_ms;
        queue.reason = reason.to_owned();
        Ok(())
    })
    .await
}

async fn list(client: &Client, out: &Output) -> Result<()> {
    let queues = object::list::<Object>(client, QUEUE).await?;
    let counts = client.cluster().await?.queues;
    let row = |(name, queue)| {
        let count = counts.iter().find(|count| count.queue == name);
        let count = count.cloned().unwrap_or_default();
        Row { name, queue, ready: count.ready, leased: count.leased, waiting_workers: count.waiting_workers }
    };
    let rows: Vec<Row> = queues.into_iter().map(row).collect();
    out.show(&rows, |rows| {
        let mut table = Table::new(["QUEUE", "STATE", "READY", "LEASED", "WAITING WORKERS", "REASON"]);
        for row in rows {
            table.row([
                row.name.clone(),
                state(row.queue.state),
                row.ready.to_string(),
                row.leased.to_string(),
                row.waiting_workers.to_string(),
                row.queue.reason.clone(),
            ]);
        }
        table.render()
    })
}

fn show(name: &str, queue: &Object) -> String {
    fields([
        ("queue", name.to_owned()),
        ("state", state(queue.state)),
        ("until", text::time(queue.until_ms)),
        ("reason", queue.reason.clone()),
        ("lease", text::span_ms(queue.lease_ttl_ms.into())),
        ("heartbeat", text::span_ms(queue.heartbeat_ms.into())),
        ("max running", text::some(queue.max_running)),
        ("max memory (MiB)", text::some(queue.max_memory_mib.into())),
        ("max wall time", text::span_ms(u64::from(queue.max_wall_time_s) * 1_000)),
        ("tags", queue.tags.join(", ")),
    ])
}

fn state(state: QueueState) -> String {
    format!("{state:?}").to_lowercase()
}
