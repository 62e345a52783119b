//! PostgreSQL: one table, leased with `FOR UPDATE SKIP LOCKED`. Each step is one statement, which is its transaction.

use super::{LEASE, Leased, Peer, Submitter, Worker};
use crate::args::Peer as Asked;
use crate::report::PeerServer;
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, Statement};

const SCHEMA: &str = "moso_bench";
/// Pause of a worker that found nothing, doubled each time: the server does not wake it.
const IDLE: Duration = Duration::from_millis(2);
const IDLE_DOUBLINGS: u32 = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// `free_at`: when the job may be leased; once it is leased, when the lease runs out. Dead rows are cleared as often as
/// the server looks, as for any table that is a queue.
const MAKE: &str = "
    create schema moso_bench;
    create table moso_bench.jobs (
        id bigint generated always as identity primary key,
        queue int not null,
        attempt int not null default 0,
        free_at timestamptz not null default now(),
        body bytea not null
    ) with (
        autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0
    );
    create index jobs_free on moso_bench.jobs (queue, free_at);";
const SUBMIT: &str = "insert into moso_bench.jobs (queue, body) select $1, unnest($2::bytea[])";
const LEASE_JOBS: &str = "
    update moso_bench.jobs set attempt = attempt + 1, free_at = now() + make_interval(secs => $3)
    where id = any(array(
        select id from moso_bench.jobs where queue = $1 and free_at <= now()
        order by free_at limit $2 for update skip locked))
    returning id, attempt, body";
const FINISH: &str = "
    delete from moso_bench.jobs j using unnest($1::bigint[], $2::int[]) as done (id, attempt)
    where j.id = done.id and j.attempt = done.attempt
    returning j.id";

/// The server.
pub struct Postgres {
    config: Config,
    client: Client,
    about: PeerServer,
}

impl Postgres {
    /// Reaches the server and makes the table.
    ///
    /// # Errors
    /// When the server is not reached or refuses, or the schema exists.
    pub async fn open(asked: &Asked) -> Result<Postgres> {
        let mut config: Config = asked.url.parse().context("--url: postgres://USER:PASSWORD@HOST:PORT/DATABASE")?;
        config.application_name("moso-bench");
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        let client = connect(&config).await?;
        let about = about(&client).await.context("settings of the server")?;
        if asked.replace {
            client.batch_execute("drop schema if exists moso_bench cascade").await.context("drop schema")?;
        }
        match client.batch_execute(MAKE).await {
            Ok(()) => Ok(Postgres { config, client, about }),
            Err(error) if error.code() == Some(&SqlState::DUPLICATE_SCHEMA) => {
                bail!("schema {SCHEMA} exists: another run is going on, or one was killed; --replace drops the schema")
            }
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                Err(anyhow!(error).context("the user must be allowed to create schemas in the database"))
            }
            Err(error) => Err(anyhow!(error).context("table of jobs")),
        }
    }

    async fn line(&self) -> Result<Client> {
        let client = connect(&self.config).await?;
        // The table grows faster than its statistics: a plan made while it was small must not scan it.
        client.batch_execute("set enable_seqscan = off").await.context("set enable_seqscan")?;
        Ok(client)
    }
}

async fn connect(config: &Config) -> Result<Client> {
    match config.connect(NoTls).await {
        Ok((client, connection)) => {
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection");
                }
            });
            Ok(client)
        }
        Err(error) => {
            let advice = advice(error.code());
            Err(anyhow!(error).context(advice))
        }
    }
}

fn advice(code: Option<&SqlState>) -> &'static str {
    match code {
        None => "the server was not reached: is it running at the host and port of --url?",
        Some(code) if *code == SqlState::INVALID_PASSWORD || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "the server refuses the user or password of --url"
        }
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => {
            "the database of --url does not exist: make it with createdb"
        }
        Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => {
            "each submitter and worker has a connection: raise max_connections, or ask for fewer with --submitters and \
             --workers"
        }
        Some(_) => "the server refuses the connection",
    }
}

async fn about(client: &Client) -> Result<PeerServer> {
    let mut about = PeerServer { kind: "postgres".to_owned(), ..PeerServer::default() };
    for name in ["server_version", "fsync", "synchronous_commit", "full_page_writes", "synchronous_standby_names"] {
        let row = client.query_one("select current_setting($1)", &[&name]).await?;
        let value: String = row.try_get(0)?;
        if name == "server_version" {
            about.version = value;
        } else if !value.is_empty() {
            about.settings.insert(name.to_owned(), value);
        }
    }
    Ok(about)
}

impl Peer for Postgres {
    type Submitter = Submissions;
    type Worker = Jobs;

    fn about(&self) -> PeerServer {
        self.about.clone()
    }

    async fn submitter(&self) -> Result<Submissions> {
        let client = self.line().await?;
        let submit = client.prepare(SUBMIT).await.context("prepare")?;
        Ok(Submissions { client, submit })
    }

    async fn worker(&self, _: u32, queue: u32) -> Result<Jobs> {
        let client = self.line().await?;
        let lease = client.prepare(LEASE_JOBS).await.context("prepare")?;
        let finish = client.prepare(FINISH).await.context("prepare")?;
        Ok(Jobs { client, lease, finish, queue: queue as i32, idle: 0 })
    }

    async fn left(&self) -> Result<u64> {
        let row = self.client.query_one("select count(*) from moso_bench.jobs", &[]).await?;
        let count: i64 = row.try_get(0)?;
        Ok(count.unsigned_abs())
    }

    async fn remove(&self) -> Result<()> {
        self.client.batch_execute("drop schema if exists moso_bench cascade").await.context("drop schema")
    }
}

/// A submitter's connection.
pub struct Submissions {
    client: Client,
    submit: Statement,
}

impl Submitter for Submissions {
    async fn submit(&mut self, queue: u32, bodies: &[Bytes]) -> Result<()> {
        let queue = queue as i32;
        let bodies: Vec<&[u8]> = bodies.iter().map(|body| &body[..]).collect();
        let made = self.client.execute(&self.submit, &[&queue, &bodies]).await?;
        if made != bodies.len() as u64 {
            bail!("{} jobs were submitted, {made} acknowledged", bodies.len());
        }
        Ok(())
    }
}

/// A worker's connection.
pub struct Jobs {
    client: Client,
    lease: Statement,
    finish: Statement,
    queue: i32,
    /// Leases in a row that found nothing.
    idle: u32,
}

impl Worker for Jobs {
    type Receipt = (i64, i32);

    async fn lease(&mut self, max: u32) -> Result<Vec<Leased<(i64, i32)>>> {
        let rows = self.client.query(&self.lease, &[&self.queue, &i64::from(max), &LEASE.as_secs_f64()]).await?;
        if rows.is_empty() {
            tokio::time::sleep(IDLE * 2u32.pow(self.idle)).await;
            self.idle = (self.idle + 1).min(IDLE_DOUBLINGS);
            return Ok(Vec::new());
        }
        self.idle = 0;
        let job = |row: &tokio_postgres::Row| -> Result<Leased<(i64, i32)>> {
            let body = Bytes::copy_from_slice(row.try_get(2)?);
            Ok(Leased { body, receipt: (row.try_get(0)?, row.try_get(1)?) })
        };
        rows.iter().map(job).collect()
    }

    async fn finish(&mut self, jobs: Vec<(i64, i32)>) -> Result<Vec<bool>> {
        let (ids, attempts): (Vec<i64>, Vec<i32>) = jobs.into_iter().unzip();
        let rows = self.client.query(&self.finish, &[&ids, &attempts]).await?;
        if rows.len() == ids.len() {
            return Ok(vec![true; ids.len()]);
        }
        let ended: Result<Vec<i64>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        let ended = ended?;
        Ok(ids.iter().map(|id| ended.contains(id)).collect())
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_says_what_to_do() {
        let cases = [
            (None, "is it running"),
            (Some(SqlState::INVALID_PASSWORD), "user or password"),
            (Some(SqlState::INVALID_CATALOG_NAME), "createdb"),
            (Some(SqlState::TOO_MANY_CONNECTIONS), "max_connections"),
            (Some(SqlState::CANNOT_CONNECT_NOW), "refuses"),
        ];
        for (code, text) in cases {
            assert!(advice(code.as_ref()).contains(text), "{code:?}");
        }
    }
}
